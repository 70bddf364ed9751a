"""The collapse guard: five signs that a run is breaking, found while it trains (PAPER: failure signatures; Fig. 6).

    >>> rows = [{"kind": "train", "step": i, "reward": 0.5, "grad_norm": 0.3 if i < 15 else 9.0, "reward_std": 0.1} for i in range(20)]
    >>> [alarm.kind for alarm in alarms(rows[:15], Guard())], [alarm.kind for alarm in alarms(rows, Guard())]
    ([], [])

(the gradient exploded, but the reward did not fall: no alarm yet). Alarms are a pure function of a stage's metrics lines, so a
resumed run gives the same ones. Every level is a mean over the last `window` optimiser steps, compared with an earlier
level of the same stage: a stage starts with its own reward and reference, so nothing is compared across stages.
What happens then (warn, stop, roll back) is done by grpo.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

ACTIONS = ("off", "warn", "stop", "rollback")
KINDS = ("gradient_explosion", "entropy_collapse", "no_signal", "kl_blowup", "format_regression")


@dataclass(frozen=True)
class Guard:
    """What counts as a collapse, and what to do then."""

    action: str = "warn"
    """off, warn, stop, or rollback: go on from the last good checkpoint with a smaller learning rate."""
    window: int = 8
    """Steps that a level is averaged over [steps]; no alarm is given before two windows."""
    gradient_factor: float = 2.0
    """Explosion: the gradient norm is at this multiple of the stage's calmest window ..."""
    accuracy_drop: float = 0.25
    """... and validation accuracy (the training reward where the window holds no validation) fell by this share of its best,"""
    accuracy_errors: float = 2.0
    """by at least so many standard errors, so that few validation tasks give no alarm by chance."""
    entropy_share: float = 0.1
    """Entropy collapse: the entropy of sampled tokens is below this share of the stage's first window."""
    entropy_floor: float = 0.005
    """... or below this, whatever it was [nats a token]."""
    silent_share: float = 0.95
    """No signal: this share of groups has equal rewards, and the stage is not solved."""
    solved_share: float = 0.95
    """A mean reward of this share of its maximum is a solved stage: equal rewards are then no alarm [0..1]."""
    kl_ceiling: float = 1.0
    """KL blow-up: the KL to the stage's start is above this [nats a token]."""
    format_drop: float = 0.3
    """Format regression: the format reward fell by this much from the stage's best window [0..1]."""
    learning_rate_factor: float = 0.5
    """What a rollback does to the learning rate."""
    max_rollbacks: int = 3
    """After so many in one stage the next alarm stops the run."""

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise ValueError(
                f"the guard's action is one of {', '.join(ACTIONS)}, got {self.action!r}"
            )
        if (
            self.window < 2
            or self.gradient_factor <= 1
            or not 0 < self.learning_rate_factor <= 1
            or self.max_rollbacks < 0
        ):
            raise ValueError(
                "a guard needs window >= 2, gradient_factor > 1, learning_rate_factor in (0, 1] and max_rollbacks >= 0; "
                f"got {self.window}, {self.gradient_factor}, {self.learning_rate_factor}, {self.max_rollbacks}"
            )


@dataclass(frozen=True)
class Alarm:
    """One sign, at the step whose metrics showed it."""

    kind: str
    """One of KINDS."""
    step: int
    why: str


def _means(values: Sequence[float], window: int) -> list[float]:
    """Mean of every full window, in order."""
    return [fmean(values[i - window : i]) for i in range(window, len(values) + 1)]


def _column(rows: Sequence[dict], name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _explosion(train: Sequence[dict], validation: Sequence[dict], guard: Guard) -> str | None:
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
        what, best, level = (
            "validation accuracy",
            top["accuracy"],
            fmean(row["accuracy"] for row in recent),
        )
        tasks = top["episodes"], sum(row["episodes"] for row in recent)
        share = (best * tasks[0] + level * tasks[1]) / sum(tasks)
        if best - level < guard.accuracy_errors * math.sqrt(
            share * (1 - share) * (1 / tasks[0] + 1 / tasks[1])
        ):
            return None
    else:
        rewards = _means(_column(train, "reward"), guard.window)
        if not rewards:
            return None
        what, best, level = "training reward", max(rewards), rewards[-1]
    if best <= 0 or level > (1 - guard.accuracy_drop) * best:
        return None
    return f"the gradient norm rose from {calm:.3g} to {now:.3g} while {what} fell from {best:.3f} to {level:.3f}"


def _entropy(train: Sequence[dict], guard: Guard) -> str | None:
    levels = _means(_column(train, "entropy"), guard.window)
    floor = max(guard.entropy_floor, guard.entropy_share * levels[0]) if levels else 0.0
    return (
        f"entropy fell from {levels[0]:.3g} to {levels[-1]:.3g} nats a token"
        if levels and levels[-1] < floor
        else None
    )


def _silence(train: Sequence[dict], guard: Guard, reward_max: float) -> str | None:
    silent, rewards = (
        _column(train, "share_of_groups_without_signal")[-guard.window :],
        _column(train, "reward")[-guard.window :],
    )
    if (
        not silent
        or fmean(silent) < guard.silent_share
        or fmean(rewards) >= guard.solved_share * reward_max
    ):
        return None
    return f"{fmean(silent):.0%} of groups have equal rewards, at a mean reward of {fmean(rewards):.3f}: nothing to learn from"


def _kl(train: Sequence[dict], guard: Guard) -> str | None:
    kl = _column(train, "kl")[-guard.window :]  # not logged where beta is 0
    return (
        f"the KL to the stage's start is {fmean(kl):.3g} nats a token"
        if kl and not fmean(kl) <= guard.kl_ceiling
        else None
    )


def _format(train: Sequence[dict], guard: Guard) -> str | None:
    levels = _means(_column(train, "format_reward"), guard.window)
    if not levels or levels[-1] > max(levels) - guard.format_drop:
        return None
    return f"the format reward fell from {max(levels):.2f} to {levels[-1]:.2f}"


def alarms(rows: Sequence[dict], guard: Guard, reward_max: float = 1.0) -> list[Alarm]:
    """The signs that the last of a stage's metrics lines shows, in the order of KINDS; none before two windows of training, except for
    a gradient that is no number. `reward_max` is the largest reward of the stage."""
    train = [row for row in rows if row["kind"] == "train"]
    if guard.action == "off" or not train:
        return []
    why = {
        "gradient_explosion": _explosion(
            train, [row for row in rows if row["kind"] == "validation"], guard
        )
    }
    if len(train) >= 2 * guard.window:
        why |= {
            "entropy_collapse": _entropy(train, guard),
            "no_signal": _silence(train, guard, reward_max),
            "kl_blowup": _kl(train, guard),
            "format_regression": _format(train, guard),
        }
    return [Alarm(kind, train[-1]["step"], why[kind]) for kind in KINDS if why.get(kind)]
