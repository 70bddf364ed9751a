"""One group of rollouts as TRL trains on it, to be carried through the loss by hand (notebook 05).

>>> trainer, batch, records = draw(STAGES[1], CPU_TINY, agent.FOLDER, run_dir / "by_hand")
>>> batch["advantages"], trainer.compute_loss(trainer.model, batch)
"""

from dataclasses import replace
from pathlib import Path

from transformers import set_seed

from envtune.record import EpisodeRecord
from envtune.train import trl_rollout, trl_trainer
from envtune.train.launch import Job
from envtune.train.presets import Preset
from envtune.train.runlog import MetricsLog
from envtune.train.stages import Stage, training_tasks


def draw(
    stage: Stage, setup: Preset, start: Path | str, folder: Path, seed: int = 0
) -> tuple[trl_trainer.StageTrainer, dict, list[EpisodeRecord]]:
    """A stage's trainer before its first step, the first group whose rewards differ, its episodes.

    The group is the batch that TRL makes of it: token ids and masks (B, P) and (B, C), advantages
    (B,), log-probabilities of the reference (B, C).
    """
    setup = replace(setup, prompts_per_step=1, device_batch=setup.generations)
    log = MetricsLog(folder, stage.name, 1, lambda line: None)
    set_seed(seed)
    trainer = trl_trainer.stage_trainer(Job(stage, setup, 1, start, folder, seed), log, [])
    trainer.model.train()  # pyright: ignore[reportOptionalMemberAccess]
    trainer.current_gradient_accumulation_steps = 1  # what TRL sets when it trains
    for task in training_tasks(stage, setup):
        # a dict each: TRL writes an episode's reward into it
        prompts = [{"prompt": trl_rollout.prompt_row(task)} for _ in range(setup.generations)]
        batch = trainer._generate_and_score_completions(prompts)
        records, log.records["train"] = [record for record, _ in log.records["train"]], []
        if batch["advantages"].abs().max() > 0.1:  # of equal rewards they are rounding errors
            return trainer, batch, records
    raise ValueError(f"no group of {stage.name} has rewards that differ with seed {seed}")
