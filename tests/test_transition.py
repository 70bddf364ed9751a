"""The transition rule, by numbers: each condition alone does not end a stage, both do, and the
limits hold."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtune.train.transition import Transition, decide

RULE = Transition(
    plateau_window=2, min_gain=0.02, norm_window=4, norm_spread=0.5, norm_ceiling=1.0, min_steps=10
)
FLAT = [(0, 0.10), (5, 0.30), (10, 0.30), (15, 0.31)]
RISING = [(0, 0.10), (5, 0.20), (10, 0.25), (15, 0.32)]
CALM, WILD = [0.3] * 15, [0.3] * 13 + [0.9, 0.1]


@pytest.mark.parametrize(
    "validations, norms, step, why, move_on",
    [
        (FLAT, CALM, 15, "plateau_and_stable", True),
        (RISING, CALM, 15, "not_plateaued", False),
        (FLAT, WILD, 15, "not_stable", False),
        (FLAT, [0.3] * 14 + [1.01], 15, "not_stable", False),
        (FLAT, [float("nan")] * 15, 15, "not_stable", False),
        (FLAT[:3], CALM[:9], 9, "min_steps", False),
        (FLAT[:2], CALM, 15, "not_plateaued: too few validations", False),
        (FLAT, [0.3] * 3, 15, "not_stable: too few", False),
        (RISING, WILD, 100, "max_steps", True),
    ],
)
def test_both_conditions_and_the_limits(validations, norms, step, why, move_on):
    decision = decide(RULE, validations, norms, step, max_steps=100)
    assert decision.move_on is move_on and decision.why.startswith(why)


def test_the_gain_is_best_of_the_window_over_best_before_and_the_evidence_says_so():
    decision = decide(RULE, [(0, 0.5), (5, 0.1), (10, 0.515), (15, 0.2)], CALM, 15, 100)
    assert decision.move_on and decision.evidence == {
        "plateaued": True,
        "validations": 4,
        "best_before": 0.5,
        "best_of_last": 0.515,
        "gain": pytest.approx(0.015),
        "stable": True,
        "norms": 4,
        "norm_mean": pytest.approx(0.3),
        "norm_spread": pytest.approx(0.0),
        "norm_max": 0.3,
    }
    exactly = decide(RULE, [(0, 0.5), (5, 0.1), (10, 0.52), (15, 0.2)], CALM, 15, 100)
    assert not exactly.move_on  # a gain of min_gain is a gain


def test_a_fixed_length_looks_at_nothing_but_the_step():
    assert [decide(None, FLAT, CALM, step, 20).move_on for step in (15, 19, 20)] == [
        False,
        False,
        True,
    ]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.lists(st.floats(0, 5), max_size=30),
    st.integers(1, 60),
)
def test_no_stage_ends_early_or_goes_on_past_its_end(accuracies, norms, step):
    decision = decide(RULE, list(enumerate(accuracies)), norms, step, max_steps=50)
    assert not decision.move_on or step >= RULE.min_steps
    assert decision.move_on or step < 50


@pytest.mark.parametrize(
    "changes",
    [
        {"plateau_window": 0},
        {"norm_window": 0},
        {"norm_spread": 0.0},
        {"norm_ceiling": -1.0},
        {"min_gain": -0.1},
        {"min_steps": -1},
    ],
)
def test_a_rule_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(RULE, **changes)
