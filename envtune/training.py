"""A stage is one run of TRL's GRPOTrainer; a curriculum is the stages in order, each from the checkpoint of the last.

    >>> run = train_curriculum(presets.CPU_TINY, run_dir=paths.run_dir("try"), seed=0)
    >>> run.checkpoints["stage4_alignment"], pd.read_json(run.folder / "metrics.jsonl", lines=True)

What TRL does: sampling groups, advantages, the clipped loss, the KL term to the reference, the optimiser. What is done here:
the settings of the paper, the rollouts (rollout.py), validation with BFCL's own verdict, metrics.jsonl, and the hand-over.
The KL reference of a stage is the policy at its start: TRL loads it from the folder the stage started from, and with LoRA the
adapters are merged before the hand-over, so that the base model is that policy.

A killed run goes on with the same call: finished stages are skipped, an unfinished one resumes at its last checkpoint.
"""
import gzip
import json
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from envtune import bfcl, progress, rollout, splits, tiny
from envtune.episode import EpisodeRecord
from envtune.hints import Corruption
from envtune.presets import Preset
from envtune.stages import STAGES, Stage, stage_tasks

Echo = Callable[[dict], None]
"""Told every line of metrics.jsonl as it is written."""

_LOGGED = {"loss": "loss", "reward": "reward", "reward_std": "reward_std", "kl": "kl", "entropy": "entropy",
           "grad_norm": "grad_norm", "frac_reward_zero_std": "share_of_groups_without_signal",
           "learning_rate": "learning_rate", "completions/mean_length": "sampled_tokens_per_episode"}
"""TRL's names -> ours, for what TRL computes; the rest of a line comes from rollout.metrics."""


@dataclass(frozen=True)
class Run:
    """A run folder and the checkpoint that each stage left."""
    folder: Path
    start: Path
    """The policy before stage 1."""
    checkpoints: dict[str, Path]


def write_json(path: Path, data) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(data, indent=1))
    unfinished.replace(path)


def versions() -> dict[str, str]:
    """What a result depends on besides config and seed."""
    found = {"python": sys.version.split()[0], "cuda": torch.version.cuda or "none", "cores": str(torch.get_num_threads())}
    for package in ("bfcl-eval", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "vllm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def practice_tasks(stage: Stage, preset: Preset) -> tuple[str, ...]:
    """The tasks a stage trains on under a preset. The split is that of seed 0 in every run; a run's seed is its own."""
    tasks = stage_tasks(stage, splits.load_splits())
    if preset.max_scenarios is None:
        return tasks
    practised = set(practice_scenarios(preset))
    return tuple(t for t in tasks if t in practised)


def practice_order(tasks: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` task ids: pass after pass over `tasks`, each pass shuffled anew.

    A stage's whole order is one epoch to TRL, because its own shuffling starts over when a run resumes between epochs.
    """
    draw, order = random.Random(f"order {seed}"), []
    while len(order) < count:
        order += draw.sample(tasks, len(tasks))
    return order[:count]


def practice_scenarios(preset: Preset) -> tuple[str, ...]:
    """Training tasks of the preset's few scenarios (all four variants); they are chosen within stage 1's tasks so that every
    stage has some of them."""
    everything = splits.load_splits()
    chosen = splits.shortest_scenarios(everything.stage1, preset.max_scenarios)
    indices = {bfcl.load_task(t).scenario for t in chosen}
    return tuple(t for t in everything.train if bfcl.load_task(t).scenario in indices)


def validation_tasks(preset: Preset) -> tuple[str, ...]:
    """Validation tasks under a preset: held-out ones, or, for the tiny instrument, its practice tasks (it knows no others)."""
    if preset.model == "tiny":
        return practice_scenarios(preset)[:preset.validation_tasks]
    held_out = splits.load_splits().validation
    return held_out[::max(1, len(held_out) // preset.validation_tasks)][:preset.validation_tasks]


def starting_model(preset: Preset, seed: int) -> Path | str:
    """The policy before stage 1: a hub id or folder as it is, or the tiny instrument, built if need be."""
    if preset.model != "tiny":
        return preset.model
    return tiny.build(practice_scenarios(preset), seed, preset.max_result_chars)


def _whole_rows(lines: Iterable[str]) -> Iterator[dict]:
    """JSON lines up to a torn end, which is what a kill in the middle of a write leaves."""
    try:
        for line in lines:
            yield json.loads(line)
    except (EOFError, json.JSONDecodeError):
        return


class MetricsLog(TrainerCallback):
    """metrics.jsonl and episodes.jsonl.gz of a run: one line a training step, one a validation, one an episode."""

    def __init__(self, folder: Path, stage: Stage, steps: int, echo: Echo):
        self.folder, self.stage, self.steps, self.echo = folder, stage.name, steps, echo
        self.records: dict[str, list[EpisodeRecord]] = {"train": [], "eval": []}
        self.last = time.monotonic()

    def on_records(self, mode: str, records: list[EpisodeRecord]) -> None:
        """Called by the rollout after every batch."""
        self.records[mode] += records

    def forget_after(self, step: int) -> None:
        """Drop this stage's lines past a checkpoint, so that a resumed run leaves no step twice."""
        for name, opener in (("metrics.jsonl", open), ("episodes.jsonl.gz", gzip.open)):
            path = self.folder / name
            if path.exists():
                unfinished = path.with_name(path.name + ".new")
                with opener(path, "rt") as lines, opener(unfinished, "wt") as out:
                    for row in _whole_rows(lines):
                        if row["stage"] != self.stage or row["step"] <= step:
                            out.write(json.dumps(row) + "\n")
                unfinished.replace(path)

    def write(self, step: int, kind: str, values: dict) -> None:
        """Append one metrics line and the episodes behind it."""
        mode = "train" if kind == "train" else "eval"
        records, self.records[mode] = self.records[mode], []
        now = time.monotonic()
        line = {"stage": self.stage, "step": step, "kind": kind, "seconds": round(now - self.last, 3), **values,
                **(rollout.metrics(records) if records else {}), "episodes": len(records)}
        self.last = now
        with gzip.open(self.folder / "episodes.jsonl.gz", "at") as out:
            for record in records:
                out.write(json.dumps({"stage": self.stage, "step": step, "kind": kind, **record.to_dict()}) + "\n")
        with open(self.folder / "metrics.jsonl", "a") as out:
            out.write(json.dumps(line) + "\n")
        self.echo(line)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.write(state.global_step, "train", {ours: logs[trl] for trl, ours in _LOGGED.items() if trl in logs})
            progress.report(state.global_step, self.steps)
        elif "eval_reward" in logs:
            by_split = _accuracy_by_split(self.records["eval"])
            self.write(state.global_step, "validation", {"accuracy": logs["eval_reward"], **by_split})


def _accuracy_by_split(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    verdicts: dict[str, list[bool]] = {}
    for record in records:
        verdicts.setdefault(bfcl.load_task(record.task_id).split, []).append(bfcl.official_valid(record))
    return {f"accuracy_{split}": sum(v) / len(v) for split, v in verdicts.items()}


def grpo_config(stage: Stage, preset: Preset, steps: int, out: Path, seed: int) -> GRPOConfig:
    """The paper's optimisation as TRL settings (PAPER: optimisation; TRL's defaults differ in nearly all of them)."""
    prompts = preset.prompts_per_step or stage.prompts_per_step
    batch = prompts * preset.generations
    if batch % preset.device_batch:
        raise ValueError(f"{prompts} prompts x {preset.generations} generations = {batch} rollouts a step do not divide into "
                         f"batches of {preset.device_batch}; set device_batch to a divisor")
    return GRPOConfig(
        output_dir=str(out), seed=seed, max_steps=steps, logging_steps=1, report_to="none", disable_tqdm=True,
        save_steps=preset.save_every, save_total_limit=2, save_strategy="steps" if preset.save_every <= steps else "no",
        eval_strategy="steps", eval_steps=min(preset.validate_every, steps), eval_on_start=True,
        per_device_train_batch_size=preset.device_batch, gradient_accumulation_steps=batch // preset.device_batch,
        per_device_eval_batch_size=max(preset.device_batch, 8), num_generations=preset.generations, num_generations_eval=1,
        max_completion_length=preset.message_tokens, temperature=preset.temperature, top_p=1.0, top_k=0,
        learning_rate=preset.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=preset.warmup_steps, max_grad_norm=preset.max_grad_norm,
        beta=preset.beta, epsilon=preset.epsilon, epsilon_high=preset.epsilon_high, delta=preset.delta,
        loss_type="grpo", scale_rewards="group", entropy_coef=preset.entropy_coef, num_iterations=1,
        bf16=preset.bf16, use_cpu=not torch.cuda.is_available(), gradient_checkpointing=preset.gradient_checkpointing,
        use_vllm=preset.use_vllm, vllm_mode="colocate", vllm_max_model_length=preset.context_tokens,
        vllm_importance_sampling_mode="token_mask",
        dataloader_pin_memory=torch.cuda.is_available(), shuffle_dataset=False, save_only_model=False)


def _trainer(stage: Stage, preset: Preset, steps: int, start: Path | str, out: Path, seed: int, log: MetricsLog) -> GRPOTrainer:
    config = grpo_config(stage, preset, steps, out, seed)
    rollouts = steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16 if preset.bf16 else torch.float32)
    play = rollout.TRLRollout(
        chat=rollout.Chat(tokenizer), reward=stage.reward, hint_rate_at=stage.hint_rate_at,
        corruption=Corruption(stage.corruption, stage.corruption_rate), rules=stage.rules,
        compact=preset.compact, max_result_chars=preset.max_result_chars,
        max_observation_chars=preset.max_observation_chars, training_limits=preset.training_limits,
        budget_tokens=preset.completion_tokens or stage.completion_tokens, message_tokens=preset.message_tokens,
        seed=seed, on_records=log.on_records)
    lora = None
    if preset.lora_rank:
        from peft import LoraConfig
        lora = LoraConfig(r=preset.lora_rank, lora_alpha=2 * preset.lora_rank, target_modules="all-linear",
                          task_type="CAUSAL_LM")

    def rows(task_ids) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"prompt": rollout.prompt_row(t)} for t in task_ids])
    # the tests pin the part of TRL's experimental interface that is used here
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, reward_funcs=rollout.episode_reward, args=config, peft_config=lora,
        train_dataset=rows(practice_order(practice_tasks(stage, preset), rollouts // preset.generations, seed)),
        eval_dataset=rows(validation_tasks(preset)),
        rollout_func=play, callbacks=[log])
    trainer.remove_callback(PrinterCallback)  # its dicts would bury the progress bar; metrics.jsonl has the numbers
    return trainer


def _hand_over(trainer: GRPOTrainer, tokenizer, folder: Path) -> None:
    """Save the policy with adapters merged, whole or not at all: the next stage starts, and measures its KL, from here."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):  # a PEFT model, as the preset's lora_rank asked for
        model = model.merge_and_unload()
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)


def _register(run_dir: Path, stage: Stage, preset: Preset, steps: int, start: Path | str, seed: int) -> None:
    """Write the stage into the run's config.json. ValueError when the folder holds other settings: results never mix."""
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / "config.json"
    settings = {k: v for k, v in asdict(preset).items() if k != "stage_steps"}  # a stage's own steps stand with the stage
    entry = {**asdict(stage), "steps": steps, "start": str(start), "practice": practice_tasks(stage, preset)}
    new = json.loads(json.dumps({"preset": settings, "seed": seed, "stages": {stage.name: entry}}))
    old = json.loads(file.read_text()) if file.exists() else new
    for what in ("preset", "seed"):
        if old[what] != new[what]:
            raise ValueError(f"{run_dir} holds a run with another {what}; choose another run_name, or delete the folder")
    if old["stages"].get(stage.name, new["stages"][stage.name]) != new["stages"][stage.name]:
        raise ValueError(f"{run_dir} holds {stage.name} with other settings (see {file.name}); choose another run_name, or "
                         "delete the folder")
    write_json(file, {**new, "stages": old["stages"] | new["stages"]})
    write_json(run_dir / "versions.json", versions())


def train_stage(stage: Stage, preset: Preset, steps: int, start: Path | str, run_dir: Path, seed: int,
                echo: Echo = lambda line: None) -> Path:
    """Train one stage from the policy in `start` and return the folder of the policy it ends with.

    A stage that had ended is not run again. `echo` is told every metrics line. ValueError when `run_dir` holds a run of other
    settings.
    """
    _register(run_dir, stage, preset, steps, start, seed)
    out = run_dir / stage.name
    policy = out / "policy"
    if policy.exists():
        return policy
    out.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    log = MetricsLog(run_dir, stage, steps, echo)
    checkpoint = get_last_checkpoint(str(out))
    log.forget_after(int(checkpoint.rsplit("-", 1)[1]) if checkpoint else -1)
    trainer = _trainer(stage, preset, steps, start, out, seed, log)
    trainer.args.eval_on_start = checkpoint is None  # a resumed run has that line already
    trainer.train(resume_from_checkpoint=checkpoint)
    _hand_over(trainer, trainer.processing_class, policy)
    for used in out.glob("checkpoint-*"):
        shutil.rmtree(used)
    return policy


def last_policy(run_dir: Path, stage: Stage, preset: Preset, seed: int) -> Path | str:
    """Where a stage run on its own starts: the nearest earlier stage of the run that ended, else the preset's model."""
    names = [s.name for s in STAGES]  # by name: a stage whose settings were changed still has its place in the curriculum
    earlier = STAGES[:names.index(stage.name)] if stage.name in names else ()
    ended = [run_dir / s.name / "policy" for s in earlier if (run_dir / s.name / "policy").exists()]
    return ended[-1] if ended else starting_model(preset, seed)


def train_curriculum(preset: Preset, run_dir: Path, seed: int = 0, stages: Sequence[Stage] = STAGES, start: Path | None = None,
                     echo: Echo = lambda line: None, share: tuple[float, float] = (0.0, 1.0)) -> Run:
    """Run the stages in order, each from the policy of the one before, and return where the policies lie.

    A stage of the four takes its steps from `preset.stage_steps` (0 leaves it out), any other stage the last of them.
    `start` is the policy to begin with (default: the preset's model); `share` is the part of a larger progress bar.
    """
    first = start or starting_model(preset, seed)
    counts = dict(zip((s.name for s in STAGES), preset.stage_steps, strict=True))
    planned = [(stage, counts.get(stage.name, preset.stage_steps[-1])) for stage in stages]
    total = sum(steps for _, steps in planned)
    policy, checkpoints, done = first, {}, 0
    for stage, steps in planned:
        if steps:
            begin, end = (share[0] + (share[1] - share[0]) * n / total for n in (done, done + steps))
            with progress.phase(stage.name, begin, end):
                policy = train_stage(stage, preset, steps, policy, run_dir, seed, echo)
            checkpoints[stage.name] = policy
            done += steps
    return Run(run_dir, Path(first), checkpoints)
