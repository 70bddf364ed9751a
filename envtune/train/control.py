"""What acts on a stage while it trains: the transition rule, the collapse guard, checkpoints."""

import warnings

from transformers import TrainerCallback

from envtune.env import rewards
from envtune.train import collapse, transition
from envtune.train.presets import Preset
from envtune.train.runlog import MetricsLog, mark_saved
from envtune.train.stages import Stage


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
        found = collapse.alarms(self.log.rows, self.guard, self.reward_max)
        for alarm in collapse.appeared(found, self.log.rows, self.guard, self.reward_max):
            values = {"alarm": alarm.kind, "why": alarm.why, "action": self.guard.action}
            self.log.write(alarm.step, "alarm", values)
            warnings.warn(
                f"collapse guard, {self.log.stage}, step {alarm.step}: {alarm.kind}: {alarm.why}",
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
        mark_saved(args, state, self.attempt)
