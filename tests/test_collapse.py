"""The collapse guard on synthetic histories, on the paper's Fig. 6, and on healthy runs of the
agent."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envtune.common import paths
from envtune.train.collapse import KINDS, Guard, alarms, appeared

GUARD = Guard(window=4)
HEALTHY = {
    "reward": 0.5,
    "grad_norm": 0.3,
    "entropy": 0.5,
    "share_of_groups_without_signal": 0.2,
    "kl": 0.1,
    "format_reward": 0.9,
}


def history(steps=16, turn=8, validations=(), n=100, **after):
    """Metrics lines that are healthy and become `after` from step `turn` on."""
    rows = []
    for step in range(1, steps + 1):
        rows.append({"kind": "train", "step": step, **HEALTHY, **(after if step > turn else {})})
        rows += [
            {"kind": "validation", "step": step, "accuracy": accuracy, "episodes": n}
            for at, accuracy in validations
            if at == step
        ]
    return rows


def kinds(rows, guard=GUARD):
    return [alarm.kind for alarm in alarms(rows, guard)]


@pytest.mark.parametrize(
    "kind, after",
    [
        ("gradient_explosion", {"grad_norm": 2.0, "reward": 0.1}),
        ("entropy_collapse", {"entropy": 0.01}),
        ("no_signal", {"share_of_groups_without_signal": 1.0, "reward": 0.0}),
        ("kl_blowup", {"kl": 3.0}),
        ("kl_blowup", {"kl": float("nan")}),
        ("format_regression", {"format_reward": 0.4}),
    ],
)
def test_each_sign_gives_its_alarm_and_no_other(kind, after):
    assert kinds(history(**after)) == [kind]
    [alarm] = alarms(history(**after), GUARD)
    assert alarm.step == 16 and alarm.why


def test_a_healthy_history_and_small_movements_give_none():
    assert kinds(history()) == []
    assert (
        kinds(
            history(
                grad_norm=0.5,
                reward=0.45,
                entropy=0.2,
                kl=0.4,
                format_reward=0.75,
                share_of_groups_without_signal=0.7,
            )
        )
        == []
    )


def test_an_exploding_gradient_alone_is_no_collapse_and_validation_counts_before_the_reward():
    assert kinds(history(grad_norm=2.0)) == []
    assert kinds(history(grad_norm=2.0, validations=[(4, 0.4), (16, 0.2)])) == [
        "gradient_explosion"
    ]
    assert (
        kinds(history(grad_norm=2.0, validations=[(4, 0.4), (16, 0.2)], n=20)) == []
    )  # 8 and 4 of 20 differ by chance
    assert kinds(history(grad_norm=2.0, reward=0.1, validations=[(4, 0.4), (16, 0.4)])) == []
    assert kinds(history(grad_norm=2.0, reward=0.1, validations=[(4, 0.4)])) == [
        "gradient_explosion"
    ]  # no validation in the window


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_told_at_once(norm):
    assert kinds([{"kind": "train", "step": 1, **HEALTHY, "grad_norm": norm}]) == [
        "gradient_explosion"
    ]


def test_a_solved_stage_without_variance_is_no_collapse():
    assert kinds(history(share_of_groups_without_signal=1.0, reward=1.0)) == []
    solved = history(share_of_groups_without_signal=1.0, reward=1.0)
    assert [a.kind for a in alarms(solved, GUARD, reward_max=2.0)] == [
        "no_signal"
    ]  # half of stage 1's largest reward


def test_a_run_without_a_reference_has_no_kl_and_an_empty_or_silenced_one_no_alarm():
    rows = [{k: v for k, v in row.items() if k != "kl"} for row in history(entropy=0.001)]
    assert kinds(rows) == ["entropy_collapse"]
    assert kinds([]) == [] == kinds(rows, replace(GUARD, action="off"))


def test_the_papers_single_stage_collapse_is_found_as_it_happens_and_not_before():
    """Digitised Fig. 6: accuracy peaks near step 68 and falls to a quarter by step 91 while the
    gradient norm rises tenfold."""
    curve = pd.read_csv(paths.DATA / "paper" / "fig6_single_stage.csv").pivot_table(
        index="step", columns="series", values="value"
    )
    rows, first = [], None
    for step, point in curve.iterrows():
        rows += [
            {
                "kind": "train",
                "step": step,
                "grad_norm": point["grad_norm"],
                "reward": point["accuracy"],
            },
            {"kind": "validation", "step": step, "accuracy": point["accuracy"], "episodes": 100},
        ]
        first = first or next(iter(alarms(rows, Guard())), None)
    assert first.kind == "gradient_explosion" and 70 < first.step <= 82
    assert curve["accuracy"].idxmax() < first.step


HEALTHY_RUNS = sorted((paths.DATA / "reference_runs").glob("cpu_tiny_seed*.parquet"))


@pytest.mark.parametrize("file", HEALTHY_RUNS, ids=lambda file: file.stem)
def test_healthy_runs_give_no_alarm(file):
    data = pd.read_parquet(file)
    for stage, part in data.groupby("stage", sort=False):
        rows = [{k: v for k, v in row.items() if v == v} for row in part.to_dict("records")]
        for end in range(1, len(rows) + 1):
            assert (
                alarms(rows[:end], Guard(), reward_max=2.0 if stage == "stage1_syntax" else 1.0)
                == []
            )


@given(
    st.lists(
        st.fixed_dictionaries({name: st.floats(0, 3) | st.just(float("nan")) for name in HEALTHY}),
        max_size=25,
    ),
    st.integers(2, 6),
)
def test_any_history_can_be_read(values, window):
    rows = [{"kind": "train", "step": i, **row} for i, row in enumerate(values, 1)]
    kinds = [alarm.kind for alarm in alarms(rows, Guard(window=window))]
    assert kinds == [kind for kind in KINDS if kind in kinds]  # each at most once


@pytest.mark.parametrize(
    "changes",
    [
        {"action": "pray"},
        {"window": 1},
        {"gradient_factor": 1.0},
        {"learning_rate_factor": 0.0},
        {"max_rollbacks": -1},
    ],
)
def test_a_guard_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError):
        replace(GUARD, **changes)


def test_an_alarm_is_told_once_also_when_a_validation_brings_it():
    high = {"grad_norm": 2.0}  # the gradient alone is no alarm
    rows = history(steps=18, validations=[(4, 0.9), (14, 0.3)], **high)
    told = [
        (alarm.kind, alarm.step)
        for end, row in enumerate(rows, 1)
        if row["kind"] == "train"
        for alarm in appeared(alarms(rows[:end], GUARD), rows[:end], GUARD)
    ]
    assert told == [("gradient_explosion", 15)]
    assert [alarm.step for alarm in alarms(rows, GUARD)] == []  # it is over
