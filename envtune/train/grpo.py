"""A stage is one run of TRL's GRPOTrainer; a curriculum is the stages in order.

    >>> run = train_curriculum(presets.CPU_TINY, run_dir=paths.run_dir("try"), seed=0)
    >>> run.checkpoints["stage4_alignment"], pd.read_json(run.folder / "metrics.jsonl", lines=True)

TRL does the sampling of groups, the advantages, the clipped loss, the KL term to the reference and
the optimiser. This module adds the settings of the paper, the rollouts (rollout.py), the end of a
stage (transition.py), the collapse guard (collapse.py) and the hand-over. The KL reference of a
stage is the policy at its start: TRL loads it from the folder the stage started from, and with
LoRA the adapters are merged before the hand-over, so that the base model is that policy.

The same call resumes a killed run: finished stages are skipped, an unfinished one resumes at its
last complete checkpoint. With more steps a finished stage goes on from the checkpoint of its last
step.
"""

import gc
import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]  # no __all__

from envtune.common import progress
from envtune.common.files import read_json, write_json
from envtune.env import rewards
from envtune.hints import Corruption
from envtune.policy import agent, rollout, sampler, smollm2, vllm_engine
from envtune.train import collapse, colocated, launch, runconfig, transition
from envtune.train.errors import Collapsed, Interrupted, RolledBack
from envtune.train.interrupt import Interrupts, random_states, set_random_states
from envtune.train.packing import PackedGRPOTrainer
from envtune.train.presets import Preset
from envtune.train.runlog import (
    MetricsLog,
    OnRow,
    checkpoint_step,
    full_disk_explained,
    last_complete_step,
    last_good_checkpoint,
    mark_complete,
)
from envtune.train.stages import STAGES, Stage, training_order, training_tasks, validation_tasks


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


def grpo_config(stage: Stage, preset: Preset, steps: int, out: Path, seed: int) -> GRPOConfig:
    """The paper's optimisation as TRL settings; nearly all differ from TRL's defaults."""
    prompts = preset.prompts_per_step or stage.prompts_per_step
    batch, at_once = prompts * preset.generations, preset.device_batch * preset.processes
    if batch % at_once:
        raise ValueError(
            f"{prompts} prompts x {preset.generations} generations = {batch} rollouts per step do "
            f"not divide into batches of {preset.device_batch} on {preset.processes} device(s); "
            "set device_batch to a divisor"
        )
    vllm = {
        "vllm_mode": preset.vllm_mode,
        "vllm_max_model_length": preset.context_tokens,
        "vllm_gpu_memory_utilization": preset.vllm_gpu_share,
        "vllm_enable_sleep_mode": preset.vllm_sleep,
        "vllm_server_base_url": preset.vllm_server or None,
        "vllm_importance_sampling_mode": "token_mask",
    }
    return GRPOConfig(
        output_dir=str(out),
        run_name=f"{out.parent.name}/{out.name}",
        seed=seed,
        max_steps=steps,
        logging_steps=1,
        report_to=list(preset.report_to) or "none",
        disable_tqdm=True,
        save_steps=preset.save_every,
        save_strategy="steps",  # and after the last step
        save_total_limit=preset.checkpoints_kept,
        eval_strategy="steps",
        eval_steps=preset.validate_every,
        eval_on_start=True,
        per_device_train_batch_size=preset.device_batch,
        gradient_accumulation_steps=batch // at_once,
        # all validation tasks in one rollout
        per_device_eval_batch_size=max(
            preset.device_batch, math.ceil(preset.validation_tasks / preset.processes)
        ),
        num_generations=preset.generations,
        num_generations_eval=1,
        max_completion_length=preset.message_tokens,
        temperature=preset.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=preset.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=preset.warmup_steps,
        max_grad_norm=preset.max_grad_norm,
        beta=preset.beta,
        epsilon=preset.epsilon,
        epsilon_high=preset.epsilon_high,
        delta=preset.delta,
        loss_type="grpo",
        scale_rewards=preset.scale_rewards,
        entropy_coef=preset.entropy_coef,
        num_iterations=1,
        bf16=preset.bf16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=preset.gradient_checkpointing,
        ddp_find_unused_parameters=False,  # every adapter is used in every step
        use_vllm=preset.use_vllm,
        **(vllm if preset.use_vllm else {}),
        dataloader_pin_memory=torch.cuda.is_available(),
        shuffle_dataset=False,
        save_only_model=False,
    )


class StageControl(TrainerCallback):
    """Applies the collapse guard after a step and the transition rule after a validation.

    It also marks checkpoints as complete. Must be registered after MetricsLog.
    """

    def __init__(self, log: MetricsLog, stage: Stage, preset: Preset, steps: int, attempt: int):
        self.log, self.guard, self.steps, self.attempt = log, preset.guard, steps, attempt
        self.rule = None if preset.fixed_length else stage.transition
        self.reward_max = rewards.reward_of(stage.reward).maximum * stage.reward_scale
        self.learning_rate = preset.learning_rate * preset.guard.learning_rate_factor**attempt
        self.alarm: collapse.Alarm | None = None  # what ended the training early

    def on_train_begin(self, args, state, control, optimizer, lr_scheduler, **_):
        if not self.attempt:
            return
        # a checkpoint brings back the learning rate of the attempt that wrote it
        schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)
        schedule.base_lrs = [self.learning_rate] * len(schedule.base_lrs)
        for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=False):
            group["initial_lr"] = self.learning_rate
            group["lr"] = self.learning_rate * factor(schedule.last_epoch)

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self._guard(control)
        elif "eval_reward" in logs and state.global_step > 0:
            self._transition(state.global_step, control)

    def _guard(self, control) -> None:
        rows = self.log.rows
        found = collapse.alarms(rows, self.guard, self.reward_max)
        before = collapse.alarms(rows[:-1], self.guard, self.reward_max) if found else []
        for alarm in found:
            if alarm.kind not in {earlier.kind for earlier in before}:  # reported once
                values = {"alarm": alarm.kind, "why": alarm.why, "action": self.guard.action}
                self.log.write(alarm.step, "alarm", values)
                warnings.warn(
                    f"collapse guard, {self.log.stage}, step {alarm.step}: {alarm.kind}: "
                    f"{alarm.why}",
                    stacklevel=2,
                )
        if found and self.guard.action in ("stop", "rollback"):
            self.alarm = found[0]
            control.should_training_stop = True
            control.should_save = control.should_evaluate = False

    def _transition(self, step: int, control) -> None:
        validations = [
            (row["step"], row["accuracy"]) for row in self.log.rows if row["kind"] == "validation"
        ]
        norms = [row["grad_norm"] for row in self.log.rows if row["kind"] == "train"]
        decision = transition.decide(self.rule, validations, norms, step, self.steps)
        values = {"move_on": decision.move_on, "why": decision.why, **decision.evidence}
        self.log.write(step, "decision", values)
        if decision.move_on:
            control.should_training_stop = control.should_save = True

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()  # all processes write into a checkpoint
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.attempt)


def float32_masters(preset: Preset) -> bool:
    """Whether weights are kept in float32 and computed with in bf16 (autocast).

    All weights are trained then: in pure bf16 a step of 1e-6 is lost in rounding for 98% of them.
    DeepSpeed keeps float32 masters itself, and accelerate makes them for FSDP.
    """
    spread = preset.processes > 1 and preset.parallel in ("zero3", "fsdp")
    return preset.bf16 and not preset.lora_rank and not spread


def adapters(preset: Preset):
    """The LoRA adapters of a preset, or None for full fine-tuning."""
    if not preset.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=preset.lora_rank,
        lora_alpha=2 * preset.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def adapters_in_float32(model) -> None:
    """Undo TRL's cast of adapters on 4-bit weights to bf16, where small steps round to nothing."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


class StageTrainer(PackedGRPOTrainer):
    """TRL's trainer. Validations only play episodes, and do not affect training's random state."""

    play: rollout.TRLRollout

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Play the episodes of a validation, without the forward passes of a loss."""
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        with torch.no_grad():
            played = self.play([row["prompt"] for row in inputs], self)
        for name in ("reward", *rollout.REPORTED):
            values = played["episode_reward" if name == "reward" else name]
            here = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
            everywhere: Any = self.accelerator.gather(here)
            self._metrics["eval"][name].append(everywhere.mean().item())
        return None, None, None

    def evaluate(self, *args, **kwargs):
        states = random_states()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            set_random_states(states)

    def _issue_warnings_after_load(self, load_result):
        # tied weights are saved once, under their other name
        tied = self.model.all_tied_weights_keys  # pyright: ignore[reportOptionalMemberAccess]
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)


def _trainer(
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    out: Path,
    seed: int,
    log: MetricsLog,
    callbacks: list[TrainerCallback],
) -> StageTrainer:
    config = grpo_config(stage, preset, steps, out, seed)
    prompts = preset.prompts_per_step or stage.prompts_per_step
    bf16 = preset.bf16 and not float32_masters(preset)
    model, tokenizer = sampler.load_policy(start, bf16, preset.four_bit)
    play = rollout.TRLRollout(
        chat=rollout.Chat(tokenizer, sampler.end_ids(model.generation_config, tokenizer)),
        reward=rewards.reward_of(stage.reward),
        reward_scale=stage.reward_scale,
        hint_rate_at=stage.hint_rate_at,
        episode={
            "rules": stage.rules,
            "corruption": Corruption(stage.corruption, stage.corruption_rate),
            **preset.episode,
        },
        training_limits=preset.training_limits,
        budget_tokens=preset.completion_tokens or stage.completion_tokens,
        message_tokens=preset.message_tokens,
        temperature=preset.temperature,
        batch=preset.rollout_batch,
        seed=seed,
        on_records=log.on_records,
    )

    def rows(task_ids) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"prompt": rollout.prompt_row(t)} for t in task_ids])

    # the tests pin the part of TRL's experimental interface that is used here
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
    with colocated.engine_settings(**vllm_engine.settings(preset.bf16, seed)):
        trainer = StageTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=rollout.episode_reward,
            args=config,
            peft_config=adapters(preset),
            train_dataset=rows(
                training_order(training_tasks(stage, preset), steps * prompts, seed)
            ),
            eval_dataset=rows(validation_tasks(preset)),
            rollout_func=play,
            callbacks=callbacks,
        )
    trainer.play = play
    if preset.four_bit:
        adapters_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # it would print every row between the progress bars
    return trainer


def hand_over(trainer, tokenizer, start: Path | str, preset: Preset, folder: Path) -> None:
    """Save the policy atomically, with adapters merged into the weights that it started from.

    The next stage starts here, and its KL is measured to here. The adapters are kept beside it.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    if PartialState().is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    PartialState().wait_for_everyone()
    trainer.save_model(str(unfinished))  # gathers weights that are spread over processes
    if PartialState().is_main_process:
        if preset.lora_rank:
            from peft import PeftModel

            kept = folder.with_name("adapters")
            shutil.rmtree(kept, ignore_errors=True)
            unfinished.rename(kept)
            # not the 4-bit weights: merging into those would round the adapters away
            base, _ = sampler.load_policy(start, preset.bf16)
            PeftModel.from_pretrained(base, kept).merge_and_unload().save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)
    PartialState().wait_for_everyone()


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


def _attempt(
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    out: Path,
    seed: int,
    log: MetricsLog,
    rollbacks: list[dict],
) -> collapse.Alarm | None:
    """Train from the last good checkpoint to the stage's end and hand over.

    Returns the alarm instead if one ended the training.
    """
    set_seed(seed)
    main = PartialState().is_main_process
    [checkpoint] = broadcast_object_list([last_good_checkpoint(out, rollbacks) if main else None])
    step = checkpoint_step(checkpoint) if checkpoint else 0
    log.resume(step if checkpoint or rollbacks else -1)
    if step:
        log.notify("resumed", step)
    written = {row["rollback"] for row in log.rows if row["kind"] == "rollback"}
    for number, rolled in enumerate(rollbacks, 1):
        if number not in written:  # a new one, or its row came after the checkpoint
            log.write(rolled["to_step"], "rollback", {"rollback": number, **rolled})
    control, interrupts = StageControl(log, stage, preset, steps, len(rollbacks)), Interrupts()
    # a stage that its rule had ended, and that was killed before the hand-over, has no step left
    ended = any(
        row["kind"] == "decision" and row["step"] == step and row["why"].startswith("plateau")
        for row in log.rows
    )
    last, callbacks = step if ended else steps, [log, control, interrupts]
    trainer = _trainer(stage, preset, last, start, out, seed, log, callbacks)
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
        hand_over(trainer, trainer.processing_class, start, preset, out / "policy")
    return control.alarm


def _roll_back(
    alarm: collapse.Alarm, out: Path, preset: Preset, rollbacks: list[dict]
) -> list[dict]:
    """Add a rollback to the last checkpoint before the alarm's window, or to the stage's start.

    An alarm within two windows of the last rollback means that it did not go back far enough: then
    it goes back one window further.
    """
    latest, window = alarm.step - preset.guard.window, preset.guard.window
    if rollbacks and alarm.step - rollbacks[-1]["to_step"] <= 2 * window:
        latest = min(latest, rollbacks[-1]["to_step"] - window)
    steps = map(checkpoint_step, out.glob("checkpoint-*"))
    to_step = max((step for step in steps if step <= latest), default=0)
    rate = preset.learning_rate * preset.guard.learning_rate_factor ** (len(rollbacks) + 1)
    new = {"at_step": alarm.step, "to_step": to_step, "alarm": alarm.kind, "why": alarm.why}
    rollbacks = [*rollbacks, {**new, "learning_rate": rate}]
    if PartialState().is_main_process:
        write_json(out / "rollbacks.json", rollbacks)
    PartialState().wait_for_everyone()
    return rollbacks


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
    on_row: called with every metrics row, see runlog.OnRow.

    A stage with vLLM runs in a process of its own, one with several processes under `accelerate
    launch`. ValueError for settings that cannot work, or if `run_dir` has results of other
    settings; Collapsed if the guard stops the stage; Interrupted (a KeyboardInterrupt) with the
    step to resume from; CannotWrite on a full disk; JobFailed for what fails in a process of its
    own.
    """
    _refuse(stage, preset, steps, seed)
    if launch.needed(preset) and not launch.inside():
        return launch.launch_stage(stage, preset, steps, start, run_dir, seed, on_row)
    out = run_dir / stage.name
    policy, start = out / "policy", runconfig.start_of(run_dir, stage, start)
    grpo_config(
        stage, preset, steps, out, seed
    )  # TRL checks its settings before anything is written
    with full_disk_explained(run_dir if run_dir.exists() else run_dir.parent):
        if PartialState().is_main_process:
            runconfig.register(run_dir, stage, preset, steps, start, seed)
            out.mkdir(parents=True, exist_ok=True)
        PartialState().wait_for_everyone()
        log = MetricsLog(run_dir, stage.name, steps, on_row)
        if not policy.exists():
            try:
                _train(stage, preset, steps, start, out, seed, log)
            except BaseException as error:
                log.notify("stopped", log.step())
                if not isinstance(error, KeyboardInterrupt):
                    raise
                where, what = "before a step was done", "starts it again"
                if saved := last_complete_step(out):
                    where, what = f"at step {saved} of {steps} and is saved there", "goes on"
                message = f"{stage.name} was interrupted {where}: the same call or command {what}"
                raise Interrupted(message) from None
        if PartialState().is_main_process:
            runconfig.note_best(run_dir)
        log.notify("finished", log.step())
    return policy


def _train(
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    out: Path,
    seed: int,
    log: MetricsLog,
) -> None:
    """Train a stage, with rollbacks, to its end, and remove all checkpoints but the last."""
    rollbacks = read_json(out / "rollbacks.json", [])
    while alarm := _attempt(stage, preset, steps, start, out, seed, log, rollbacks):
        gc.collect()  # the ended trainer's model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if preset.guard.action == "stop" or len(rollbacks) == preset.guard.max_rollbacks:
            tried = f", after {len(rollbacks)} rollbacks" if rollbacks else ""
            raise Collapsed(
                f"{stage.name} was stopped at step {alarm.step} by the collapse guard: "
                f"{alarm.kind}: {alarm.why}{tried}. Its checkpoints are in {out}; start "
                "another run from one of them with other settings (a smaller learning rate, a "
                "larger beta)"
            )
        rollbacks = _roll_back(alarm, out, preset, rollbacks)
        if preset.use_vllm:  # its engine keeps its memory as long as the process lives
            raise RolledBack(
                f"{stage.name} was rolled back to step {rollbacks[-1]['to_step']}; the same "
                "command goes on from there in a new process"
            )
    if PartialState().is_main_process:
        for used in out.glob("checkpoint-*"):
            if used.name != f"checkpoint-{log.step()}":
                shutil.rmtree(used)


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
