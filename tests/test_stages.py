from dataclasses import replace

import pytest

from envtune.train.stages import STAGES

GRADUAL = replace(STAGES[3], hint_rate=1.0, hint_schedule="linear")


@pytest.mark.parametrize(
    "schedule, shares",
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("step", [1, 1, 0, 0, 0]),
        ("cosine", [1, 0.8536, 0.5, 0.1464, 0]),
    ],
)
def test_hints_are_withdrawn_by_their_schedule(schedule, shares):
    stage = replace(GRADUAL, hint_schedule=schedule)
    assert [stage.hint_rate_at(done) for done in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        shares, abs=1e-4
    )


def test_a_schedule_may_end_above_zero_or_rise():
    rising = replace(GRADUAL, hint_rate=0.2, hint_rate_end=0.8)
    assert [rising.hint_rate_at(done) for done in (0.5, 1)] == pytest.approx([0.5, 0.8])


def test_the_papers_stage_four_withdraws_at_once():
    assert [STAGES[3].hint_rate_at(done) for done in (0, 0.5, 1)] == [0, 0, 0]
    assert [STAGES[2].hint_rate_at(done) for done in (0, 1)] == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"hint_schedule": "sudden"},
        {"hint_rate_end": 2.0},
        {"corruption": "evil"},
        {"corruption_rate": -1.0},
    ],
)
def test_an_invalid_stage_is_refused(changes):
    with pytest.raises(ValueError):
        replace(GRADUAL, **changes)
