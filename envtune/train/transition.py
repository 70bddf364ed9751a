"""When a stage ends: validation accuracy is on a plateau *and* the gradient norm is stable.

    >>> validations = [(0, 0.10), (10, 0.30), (20, 0.31)]
    >>> decide(Transition(), validations, norms=[0.4] * 20, step=20, max_steps=100).why
    'min_steps: 20 of at least 30 steps'

The paper gives the two conditions without numbers (section 3.1); the numbers are this
project's, as fields. The decision is a pure function of the stage's metrics, so a resumed run
decides as an uninterrupted one. It is taken after every validation:

- plateau: the best of the last `plateau_window` validations exceeds the best of all earlier ones of
  the stage by less than `min_gain`. There must be an earlier one.
- stable: over the last `norm_window` optimiser steps the gradient norm's standard deviation is at
  most `norm_spread` times its mean, and none is above `norm_ceiling`.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Transition:
    """The rule's numbers."""

    plateau_window: int = 3  # last validations, compared with all before them
    min_gain: float = 0.01  # a smaller rise of validation accuracy counts as none [0..1]
    norm_window: int = 10  # last optimiser steps whose gradient norm is judged
    norm_spread: float = 0.5  # largest standard deviation of the gradient norm over its mean
    norm_ceiling: float = 1.0  # largest gradient norm within the window, before clipping
    min_steps: int = 30  # the rule ends no stage earlier; the maximum is the preset's `stage_steps`

    def __post_init__(self):
        values = asdict(self)
        may_be_zero = ("min_gain", "min_steps")
        wrong = [
            f"{name}={value!r}"
            for name, value in values.items()
            if value < 0 or (value == 0 and name not in may_be_zero)
        ]
        if wrong:
            raise ValueError(
                "a transition rule has windows, spread and ceiling above 0, min_gain and min_steps "
                f"at least 0; got {', '.join(wrong)}"
            )


@dataclass(frozen=True)
class Decision:
    """Whether the stage ends here, why, and the numbers it was decided on.

    `why` begins with fixed_length, min_steps, not_plateaued, not_stable, plateau_and_stable or
    max_steps.
    """

    move_on: bool
    why: str
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
    """Whether a stage ends after `step` optimiser steps.

    rule: None gives the stage a fixed length, `max_steps`.
    validations: (step, accuracy) of this stage, in order.
    norms: the gradient norm of every step so far.
    """
    if rule is None:
        return Decision(step >= max_steps, f"fixed_length: {step} of {max_steps} steps")
    evidence = _plateau([accuracy for _, accuracy in validations], rule) | _stability(norms, rule)
    if step >= max_steps:
        return Decision(True, f"max_steps: {step} of {max_steps} steps", evidence)
    if step < rule.min_steps:
        return Decision(False, f"min_steps: {step} of at least {rule.min_steps} steps", evidence)
    if not evidence["plateaued"]:
        gain = "too few validations"
        if "gain" in evidence:
            gain = f"gain {evidence['gain']:.3f}, plateau below {rule.min_gain}"
        return Decision(False, f"not_plateaued: {gain}", evidence)
    norm = "too few finite gradient norms"
    if "norm_mean" in evidence:
        norm = (
            f"gradient norm spread {evidence['norm_spread']:.2f} (at most {rule.norm_spread}), "
            f"largest {evidence['norm_max']:.2f} (at most {rule.norm_ceiling})"
        )
    if not evidence["stable"]:
        return Decision(False, f"not_stable: {norm}", evidence)
    gain = f"gain {evidence['gain']:.3f} below {rule.min_gain}"
    return Decision(True, f"plateau_and_stable: {gain}; {norm}", evidence)
