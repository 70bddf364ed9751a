"""The collapse guard: five signs that a run is breaking (paper Fig. 6).

    >>> row = {"kind": "train", "reward": 0.5, "reward_std": 0.1}
    >>> rows = [{**row, "step": i, "grad_norm": 0.3 if i < 15 else 9.0} for i in range(20)]
    >>> [alarm.kind for alarm in alarms(rows, Guard())]
    []

(the gradient exploded, but the reward did not fall: no alarm yet). Alarms are a pure function of a
stage's metrics rows, so a resumed run gives the same ones. Levels are means over the last `window`
optimiser steps, compared with an earlier level of the same stage, never with another stage's: each
has its own reward and reference. control.py then warns or stops, grpo.py rolls back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

ACTIONS = ("off", "warn", "stop", "rollback")
KINDS = ("gradient_explosion", "entropy_collapse", "no_signal", "kl_blowup", "format_regression")


@dataclass(frozen=True)
class Guard:
    """What counts as a collapse, and what to do then."""

    action: str = "warn"  # one of ACTIONS; rollback: to a good checkpoint, smaller learning rate
    window: int = 8  # steps that a level is a mean over; no alarm before two windows
    # gradient explosion: the gradient norm is this multiple of the stage's calmest window, ...
    gradient_factor: float = 2.0
    # ... and validation accuracy (training reward, if the window has no validation) fell from its
    # best by this share and by so many standard errors; else chance gives alarms when tasks are few
    accuracy_drop: float = 0.25
    accuracy_errors: float = 2.0
    # entropy collapse: entropy is below this share of the first window's, or this floor [nats]
    entropy_share: float = 0.1
    entropy_floor: float = 0.005
    # no signal: this share of groups has equal rewards, and the mean reward is below this share of
    # its maximum (else the stage is solved)
    silent_share: float = 0.95
    solved_share: float = 0.95
    kl_ceiling: float = 1.0  # KL blow-up: KL to the stage's start above this [nats per token]
    format_drop: float = 0.3  # format regression: by so much below the stage's best window [0..1]
    learning_rate_factor: float = 0.5  # what a rollback multiplies the learning rate with
    max_rollbacks: int = 3  # after so many in one stage the next alarm stops the run

    def __post_init__(self):
        if self.action not in ACTIONS:
            actions = ", ".join(ACTIONS)
            raise ValueError(f"the guard's action is one of {actions}, got {self.action!r}")
        window, gradient, rollbacks = self.window, self.gradient_factor, self.max_rollbacks
        rate = self.learning_rate_factor
        if window < 2 or gradient <= 1 or not 0 < rate <= 1 or rollbacks < 0:
            raise ValueError(
                "a guard needs window >= 2, gradient_factor > 1, learning_rate_factor in (0, 1] "
                f"and max_rollbacks >= 0; got {window}, {gradient}, {rate}, {rollbacks}"
            )


@dataclass(frozen=True)
class Alarm:
    """One sign, at the step whose metrics showed it."""

    kind: str  # one of KINDS
    step: int
    why: str


def _means(values: Sequence[float], window: int) -> list[float]:
    """Mean of every full window, in order."""
    return [fmean(values[i - window : i]) for i in range(window, len(values) + 1)]


def _column(rows: Sequence[Mapping], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _explosion(train: Sequence[Mapping], validation: Sequence[Mapping], guard: Guard) -> str | None:
    norms = _column(train, "grad_norm")
    if norms and not math.isfinite(norms[-1]):
        return f"the gradient norm is {norms[-1]}"
    if len(norms) < 2 * guard.window:
        return None
    levels = _means(norms, guard.window)
    now, calm = levels[-1], min(levels[: -guard.window])  # windows that do not overlap the last one
    if now < guard.gradient_factor * calm:
        return None
    recent = [row for row in validation if row["step"] >= train[-guard.window]["step"]]
    if recent and len(validation) > len(recent):
        top = max(validation, key=lambda row: row["accuracy"])
        what, best = "validation accuracy", top["accuracy"]
        level = fmean(row["accuracy"] for row in recent)
        tasks = top["episodes"], sum(row["episodes"] for row in recent)
        share = (best * tasks[0] + level * tasks[1]) / sum(tasks)
        standard_error = math.sqrt(share * (1 - share) * (1 / tasks[0] + 1 / tasks[1]))
        if best - level < guard.accuracy_errors * standard_error:
            return None
    else:
        rewards = _means(_column(train, "reward"), guard.window)
        if not rewards:
            return None
        what, best, level = "training reward", max(rewards), rewards[-1]
    if best <= 0 or level > (1 - guard.accuracy_drop) * best:
        return None
    return (
        f"the gradient norm rose from {calm:.3g} to {now:.3g} while {what} fell from {best:.3f} to "
        f"{level:.3f}"
    )


def _entropy(train: Sequence[Mapping], guard: Guard) -> str | None:
    levels = _means(_column(train, "entropy"), guard.window)
    floor = max(guard.entropy_floor, guard.entropy_share * levels[0]) if levels else 0.0
    if not levels or not levels[-1] < floor:
        return None
    return f"entropy fell from {levels[0]:.3g} to {levels[-1]:.3g} nats a token"


def _silence(train: Sequence[Mapping], guard: Guard, reward_max: float) -> str | None:
    silent = _column(train, "share_of_groups_without_signal")[-guard.window :]
    if not silent or fmean(silent) < guard.silent_share:
        return None
    reward = fmean(_column(train, "reward")[-guard.window :])
    if reward >= guard.solved_share * reward_max:
        return None
    return (
        f"{fmean(silent):.0%} of groups have equal rewards, at a mean reward of {reward:.3f}: "
        "nothing to learn from"
    )


def _kl(train: Sequence[Mapping], guard: Guard) -> str | None:
    kl = _column(train, "kl")[-guard.window :]  # not logged where beta is 0
    if not kl or fmean(kl) <= guard.kl_ceiling:
        return None
    return f"the KL to the stage's start is {fmean(kl):.3g} nats a token"


def _format(train: Sequence[Mapping], guard: Guard) -> str | None:
    levels = _means(_column(train, "format_reward"), guard.window)
    if not levels or levels[-1] > max(levels) - guard.format_drop:
        return None
    return f"the format reward fell from {max(levels):.2f} to {levels[-1]:.2f}"


def alarms(rows: Sequence[Mapping], guard: Guard, reward_max: float = 1.0) -> list[Alarm]:
    """The signs in the last of a stage's metrics rows, in the order of KINDS.

    None before two windows of training, except for a gradient norm that is not finite.
    `reward_max` is the largest reward of the stage.
    """
    train = [row for row in rows if row["kind"] == "train"]
    validation = [row for row in rows if row["kind"] == "validation"]
    if guard.action == "off" or not train:
        return []
    why = {"gradient_explosion": _explosion(train, validation, guard)}
    if len(train) >= 2 * guard.window:
        why |= {
            "entropy_collapse": _entropy(train, guard),
            "no_signal": _silence(train, guard, reward_max),
            "kl_blowup": _kl(train, guard),
            "format_regression": _format(train, guard),
        }
    step = train[-1]["step"]
    return [Alarm(kind, step, sentence) for kind in KINDS if (sentence := why.get(kind))]


def _before(rows: Sequence[Mapping], guard: Guard, reward_max: float) -> set[str]:
    """The signs at the training step before the last. Without a validation in between, at which
    nobody looked: it may be what shows a sign."""
    steps = [number for number, row in enumerate(rows) if row["kind"] == "train"][-2:-1]
    return {alarm.kind for end in steps for alarm in alarms(rows[: end + 1], guard, reward_max)}


def appeared(
    found: Sequence[Alarm], rows: Sequence[Mapping], guard: Guard, reward_max: float = 1.0
) -> list[Alarm]:
    """Those of `found`, the `alarms` of these rows, that are new: each is told once."""
    before = _before(rows, guard, reward_max) if found else ()
    return [alarm for alarm in found if alarm.kind not in before]


def seen(rows: Sequence[Mapping], guard: Guard, reward_max: float = 1.0) -> set[str]:
    """The signs that were there at any training step of a stage."""
    ends = [number for number, row in enumerate(rows, 1) if row["kind"] == "train"]
    return {alarm.kind for end in ends for alarm in alarms(rows[:end], guard, reward_max)}
