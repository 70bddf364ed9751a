"""A stage is one run of TRL's GRPOTrainer; a curriculum is the stages in order.

    >>> run = train_curriculum(presets.CPU_TINY, run_dir=paths.run_dir("try"), seed=0)
    >>> run.checkpoints["stage4_alignment"], pd.read_json(run.folder / "metrics.jsonl", lines=True)

TRL does the sampling of groups, the advantages, the clipped loss, the KL term to the reference and
the optimiser. The project adds the settings of the paper and the hand-over (trl_trainer.py), the
rollouts (trl_rollout.py), the end of a stage and the collapse guard (control.py). The KL reference
of a stage is the policy at its start: TRL loads it from the folder the stage started from, and with
LoRA the adapters are merged before the hand-over, so that the base model is that policy.

The same call resumes a killed run: finished stages are skipped, an unfinished one resumes at its
last complete checkpoint. With more steps a finished stage goes on from the checkpoint of its last
step.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from envtune.common import progress
from envtune.common.files import read_json, write_json
from envtune.policy import agent, sampler, smollm2
from envtune.train import collapse, launch, runconfig, trl_trainer
from envtune.train.control import StageControl
from envtune.train.errors import Collapsed, Interrupted, RolledBack
from envtune.train.interrupt import Interrupts
from envtune.train.launch import Job
from envtune.train.metrics import OnRow
from envtune.train.presets import Preset
from envtune.train.runlog import (
    MetricsLog,
    checkpoint_step,
    full_disk_explained,
    last_complete_step,
    last_good_checkpoint,
)
from envtune.train.stages import STAGES, Stage


@dataclass(frozen=True)
class Run:
    """A run folder and the checkpoint that each stage left."""

    folder: Path
    start: Path  # the policy before stage 1
    checkpoints: dict[str, Path]


def starting_model(preset: Preset) -> Path | str:
    """The policy before stage 1: a hub id or folder, the embedded agent, or SmolLM2 unpacked."""
    if preset.model in agent.FOLDERS:
        return agent.FOLDERS[preset.model]
    return smollm2.unpacked() if preset.model == "smollm2" else preset.model


def last_policy(run_dir: Path, stage: Stage, preset: Preset) -> Path | str:
    """Where a stage starts: at the last finished one before it, else at the preset's model."""
    names = [s.name for s in STAGES]  # by name: a changed stage keeps its place in the curriculum
    earlier = STAGES[: names.index(stage.name)] if stage.name in names else ()
    ended = [run_dir / s.name / "policy" for s in earlier if (run_dir / s.name / "policy").exists()]
    return ended[-1] if ended else starting_model(preset)


def train_curriculum(
    preset: Preset,
    run_dir: Path,
    seed: int = 0,
    stages: Sequence[Stage] = STAGES,
    start: Path | None = None,
    on_row: OnRow = lambda line: None,
    share: tuple[float, float] = (0.0, 1.0),
) -> Run:
    """Train the stages in the order given, each from the policy of the one before.

    A stage of the four has its steps from `preset.stage_steps` (0 leaves it out), any other stage
    the last of them. ValueError if two have the same name.

    start: the policy to begin with (default: the preset's model).
    share: the part that this is of a larger progress bar [0..1].
    """
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(
            "every stage of a curriculum needs a name of its own, got "
            f"{', '.join(names)}; rename one with replace()"
        )
    first = start or starting_model(preset)
    counts = dict(zip((s.name for s in STAGES), preset.stage_steps, strict=True))
    planned = [(stage, counts.get(stage.name, preset.stage_steps[-1])) for stage in stages]
    total = sum(steps for _, steps in planned)
    policy, checkpoints, done = first, {}, 0
    for stage, steps in planned:
        if steps:
            width = (share[1] - share[0]) / total
            begin, end = share[0] + width * done, share[0] + width * (done + steps)
            with progress.phase(stage.name, begin, end):
                policy = train_stage(stage, preset, steps, policy, run_dir, seed, on_row)
            checkpoints[stage.name] = policy
            done += steps
    return Run(run_dir, Path(first), checkpoints)


def train_stage(
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    run_dir: Path,
    seed: int,
    on_row: OnRow = lambda line: None,
) -> Path:
    """Train one stage from the policy in `start` and return the folder of the policy it ends with.

    steps: the stage's length, or its maximum where the preset lets the transition rule decide. A
        finished stage is not trained again; it goes on if `steps` is more than it had.
    on_row: called with every metrics row, see metrics.OnRow.

    A stage with vLLM runs in a process of its own, one with several processes under `accelerate
    launch`. ValueError for settings that cannot work, or if `run_dir` has results of other
    settings; Collapsed if the guard stops the stage; Interrupted (a KeyboardInterrupt) with the
    step to resume from; CannotWrite on a full disk; JobFailed for what fails in a process of its
    own.
    """
    _refuse(stage, preset, steps, seed)
    job = Job(stage, preset, steps, start, run_dir, seed)
    if launch.needed(preset) and not launch.inside():
        return launch.launch_stage(job, on_row)
    job = replace(job, start=runconfig.start_of(run_dir, stage, start))
    # TRL checks its settings before anything is written
    trl_trainer.grpo_config(stage, preset, steps, job.out, seed)
    with full_disk_explained(job.out):
        if PartialState().is_main_process:
            runconfig.register(run_dir, stage, preset, steps, job.start, seed)
            job.out.mkdir(parents=True, exist_ok=True)
        PartialState().wait_for_everyone()
        log = MetricsLog(run_dir, stage.name, steps, on_row)
        if not (job.out / "policy").exists():
            try:
                _train(job, log)
            except BaseException as error:
                log.notify("stopped", log.step())
                if isinstance(error, KeyboardInterrupt):
                    raise Interrupted(_where_it_goes_on(job)) from None
                raise
        if PartialState().is_main_process:
            runconfig.note_best(run_dir)
        log.notify("finished", log.step())
    return job.out / "policy"


def _refuse(stage: Stage, preset: Preset, steps: int, seed: int) -> None:
    """ValueError for what cannot be trained, before anything is written."""
    if steps < 1 or seed < 0:
        raise ValueError(
            f"{stage.name} needs steps of at least 1 and a seed of at least 0, got {steps} and "
            f"{seed}"
        )
    for name in ("save_every", "validate_every", "validation_tasks"):
        if (value := getattr(preset, name)) < 1:
            raise ValueError(f"preset {preset.name!r}: {name} is at least 1, got {value}")


def _where_it_goes_on(job: Job) -> str:
    """What an interrupted stage is told with."""
    where, what = "before a step was done", "starts it again"
    if saved := last_complete_step(job.out):
        where, what = f"at step {saved} of {job.steps} and is saved there", "goes on"
    return f"{job.stage.name} was interrupted {where}: the same call or command {what}"


def _train(job: Job, log: MetricsLog) -> None:
    """Train a stage, with rollbacks, to its end, and remove all checkpoints but the last."""
    guard, rollbacks = job.preset.guard, read_json(job.out / "rollbacks.json", [])
    while True:
        alarm = _attempt(job, log, rollbacks)
        sampler.free_gpu()  # the ended trainer's
        if not alarm:
            break
        if guard.action == "stop" or len(rollbacks) == guard.max_rollbacks:
            tried = f", after {len(rollbacks)} rollbacks" if rollbacks else ""
            raise Collapsed(
                f"{job.stage.name} was stopped at step {alarm.step} by the collapse guard: "
                f"{alarm.kind}: {alarm.why}{tried}. Its checkpoints are in {job.out}; start "
                "another run from one of them with other settings (a smaller learning rate, a "
                "larger beta)"
            )
        rollbacks = _roll_back(alarm, job, rollbacks)
        if job.preset.use_vllm:  # its engine keeps its memory as long as the process lives
            raise RolledBack(
                f"{job.stage.name} was rolled back to step {rollbacks[-1]['to_step']}; the same "
                "command goes on from there in a new process"
            )
    if PartialState().is_main_process:
        for used in job.out.glob("checkpoint-*"):
            if used.name != f"checkpoint-{log.step()}":
                shutil.rmtree(used)


def _attempt(job: Job, log: MetricsLog, rollbacks: list[dict]) -> collapse.Alarm | None:
    """Train from the last good checkpoint to the stage's end and hand over.

    Returns the alarm instead if one ended the training.
    """
    set_seed(job.seed)
    main = PartialState().is_main_process
    found = last_good_checkpoint(job.out, rollbacks) if main else None
    [checkpoint] = broadcast_object_list([found])
    step = checkpoint_step(checkpoint) if checkpoint else 0
    log.resume(step if checkpoint or rollbacks else -1)
    if step:
        log.notify("resumed", step)
    written = {row["rollback"] for row in log.rows if row["kind"] == "rollback"}
    for number, rolled in enumerate(rollbacks, 1):
        if number not in written:  # a new one, or its row came after the checkpoint
            log.write(rolled["to_step"], "rollback", {"rollback": number, **rolled})
    interrupts = Interrupts()
    control = StageControl(log, job.stage, job.preset, job.steps, len(rollbacks))
    # a stage that its rule had ended, and that was killed before the hand-over, has no step left
    ended = any(
        row["kind"] == "decision" and row["step"] == step and row["why"].startswith("plateau")
        for row in log.rows
    )
    left = replace(job, steps=step) if ended else job
    trainer = trl_trainer.stage_trainer(left, log, [log, control, interrupts])
    trainer.args.learning_rate = control.learning_rate
    # a resumed run has that row already
    trainer.args.eval_on_start = not any(row["kind"] == "validation" for row in log.rows)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        interrupts.save(trainer)
        raise
    finally:
        interrupts.off()
    if control.alarm is None:
        policy = job.out / "policy"
        trl_trainer.hand_over(trainer, trainer.processing_class, job.start, job.preset, policy)
    return control.alarm


def _roll_back(alarm: collapse.Alarm, job: Job, rollbacks: list[dict]) -> list[dict]:
    """Add a rollback to the last checkpoint before the alarm's window, or to the stage's start.

    An alarm within two windows of the last rollback means that it did not go back far enough: then
    it goes back one window further.
    """
    guard, window = job.preset.guard, job.preset.guard.window
    latest = alarm.step - window
    if rollbacks and alarm.step - rollbacks[-1]["to_step"] <= 2 * window:
        latest = min(latest, rollbacks[-1]["to_step"] - window)
    steps = map(checkpoint_step, job.out.glob("checkpoint-*"))
    to_step = max((step for step in steps if step <= latest), default=0)
    rate = job.preset.learning_rate * guard.learning_rate_factor ** (len(rollbacks) + 1)
    new = {"at_step": alarm.step, "to_step": to_step, "alarm": alarm.kind, "why": alarm.why}
    rollbacks = [*rollbacks, {**new, "learning_rate": rate}]
    if PartialState().is_main_process:
        write_json(job.out / "rollbacks.json", rollbacks)
    PartialState().wait_for_everyone()
    return rollbacks
