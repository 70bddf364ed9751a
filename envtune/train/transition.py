"""When a stage ends: validation accuracy has plateaued *and* the gradient norm is stable (PAPER: the four stages).

    >>> decide(Transition(), validations=[(0, 0.10), (10, 0.30), (20, 0.31)], norms=[0.4] * 20, step=20, max_steps=100).why
    'min_steps: 20 of at least 30 steps'

The paper gives the two conditions without numbers; the numbers are this project's, and are fields. The decision is a pure function
of the stage's metrics, so a resumed run decides as an uninterrupted one. It is taken after every validation:

- plateau: the best of the last `plateau_window` validations exceeds the best of all earlier ones of the stage by less than
  `min_gain`. There must be an earlier one.
- stable: over the last `norm_window` optimiser steps the gradient norm's standard deviation is at most `norm_spread` times its
  mean, and none is above `norm_ceiling`.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Transition:
    """The rule's numbers."""

    plateau_window: int = 3
    """Last validations compared with all before them [validations]."""
    min_gain: float = 0.01
    """A rise of validation accuracy below this counts as none [0..1]."""
    norm_window: int = 10
    """Last optimiser steps whose gradient norm is looked at [steps]."""
    norm_spread: float = 0.5
    """Standard deviation of the gradient norm over its mean, at most."""
    norm_ceiling: float = 1.0
    """Largest gradient norm within the window, before clipping."""
    min_steps: int = 30
    """No stage ends earlier by the rule [steps]. The most is the preset's `stage_steps`."""

    def __post_init__(self):
        wrong = [
            name
            for name in ("plateau_window", "norm_window", "norm_spread", "norm_ceiling")
            if getattr(self, name) <= 0
        ]
        wrong += [name for name in ("min_gain", "min_steps") if getattr(self, name) < 0]
        if wrong:
            raise ValueError(
                "a transition rule has windows, spread and ceiling above 0, min_gain and min_steps at least 0; got "
                + ", ".join(f"{name}={getattr(self, name)!r}" for name in wrong)
            )


@dataclass(frozen=True)
class Decision:
    """Whether the stage ends here, why, and the numbers it was decided on."""

    move_on: bool
    why: str
    """Begins with one of fixed_length, min_steps, not_plateaued, not_stable, plateau_and_stable, max_steps."""
    evidence: dict = field(default_factory=dict)


def _plateau(accuracies: Sequence[float], rule: Transition) -> dict:
    earlier, last = accuracies[: -rule.plateau_window], accuracies[-rule.plateau_window :]
    if not earlier:
        return {"plateaued": False, "validations": len(accuracies)}
    gain = max(last) - max(earlier)
    return {
        "plateaued": gain < rule.min_gain,
        "validations": len(accuracies),
        "best_before": max(earlier),
        "best_of_last": max(last),
        "gain": gain,
    }


def _stability(norms: Sequence[float], rule: Transition) -> dict:
    last = norms[-rule.norm_window :]
    if len(last) < rule.norm_window or not all(map(math.isfinite, last)):
        return {"stable": False, "norms": len(last)}
    mean = statistics.fmean(last)
    spread = statistics.pstdev(last) / mean if mean else 0.0
    return {
        "stable": spread <= rule.norm_spread and max(last) <= rule.norm_ceiling,
        "norms": len(last),
        "norm_mean": mean,
        "norm_spread": spread,
        "norm_max": max(last),
    }


def decide(
    rule: Transition | None,
    validations: Sequence[tuple[int, float]],
    norms: Sequence[float],
    step: int,
    max_steps: int,
) -> Decision:
    """Judge a stage after `step` optimiser steps. `validations`: (step, accuracy) of this stage, in order; `norms`: the gradient norm
    of every step so far. Without a rule the stage has a fixed length: it ends at `max_steps`."""
    if rule is None:
        return Decision(step >= max_steps, f"fixed_length: {step} of {max_steps} steps")
    evidence = _plateau([accuracy for _, accuracy in validations], rule) | _stability(norms, rule)
    if step >= max_steps:
        return Decision(True, f"max_steps: {step} of {max_steps} steps", evidence)
    if step < rule.min_steps:
        return Decision(False, f"min_steps: {step} of at least {rule.min_steps} steps", evidence)
    if not evidence["plateaued"]:
        gain = (
            f"gain {evidence['gain']:.3f}, plateau below {rule.min_gain}"
            if "gain" in evidence
            else "too few validations"
        )
        return Decision(False, f"not_plateaued: {gain}", evidence)
    norm = (
        f"gradient norm spread {evidence['norm_spread']:.2f} (at most {rule.norm_spread}), largest {evidence['norm_max']:.2f} "
        f"(at most {rule.norm_ceiling})"
        if "norm_mean" in evidence
        else "too few finite gradient norms"
    )
    if not evidence["stable"]:
        return Decision(False, f"not_stable: {norm}", evidence)
    return Decision(
        True,
        f"plateau_and_stable: gain {evidence['gain']:.3f} below {rule.min_gain}; {norm}",
        evidence,
    )
