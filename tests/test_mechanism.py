"""Habits seen in episodes are those that the script was given."""

import gzip
import json

import pandas as pd
import pytest

from envtune.env.episode import TRAINING, Episode
from envtune.policy.agent.script import COMPETENT, Habits, Script
from envtune.study import mechanism
from envtune.study.source_runs import SourceRuns

TASKS = [f"synthetic_{v}_{n}" for v in ("base", "miss_param", "miss_func") for n in range(12)]


def shares(habits, hint_rate=0.0):
    """Share of every habit over episodes that the script plays."""
    found = {}
    for number, task in enumerate(TASKS):
        episode, script = Episode(task, TRAINING, hint_rate), Script(habits, number)
        while not episode.done:
            episode.step(script.message(episode).text)
        for habit, showed in mechanism.habits_of(episode.record):
            found.setdefault(habit, []).append(showed)
    return {habit: sum(seen) / len(seen) for habit, seen in found.items()}


def test_without_habits_nothing_is_seen_but_asking():
    seen = shares(COMPETENT)
    assert seen["asks"] == 1.0
    assert [seen[h] for h in ("breaks_format", "skips", "tired", "careless")] == [0.0] * 4
    assert "gives_up" not in seen and "recovers" not in seen  # no call failed


@pytest.mark.parametrize(
    "dials, habit, low, high",
    [
        ({"ask": 0.0}, "asks", 0.0, 0.0),
        ({"tired": 1.0}, "tired", 1.0, 1.0),
        ({"broken": 0.5}, "breaks_format", 0.3, 0.7),
        ({"skip": 1.0}, "skips", 0.4, 1.0),
        # a second prerequisite that was skipped too fails the same call again
        ({"skip": 1.0, "recover": 1.0}, "recovers", 0.6, 1.0),
        ({"skip": 1.0, "recover": 0.0, "give_up": 1.0}, "recovers", 0.0, 0.05),
        ({"skip": 1.0, "recover": 0.0, "give_up": 1.0}, "gives_up", 0.9, 1.0),
        ({"early": 1.0}, "careless", 0.6, 1.0),
    ],
)
def test_a_habit_of_the_script_is_seen(dials, habit, low, high):
    assert low <= shares(Habits(**dials))[habit] <= high


def test_hinted_errors_are_counted_apart():
    seen = shares(Habits(skip=1.0, recover=0.0, follow=1.0), hint_rate=1.0)
    assert seen["recovers_hinted"] > 0.6 and "asks" in seen


def test_a_run_is_counted_step_by_step_and_added_up(tmp_path):
    lines = []
    for step in (1, 2):
        episode, script = Episode(TASKS[0]), Script(COMPETENT, 0)
        while not episode.done:
            episode.step(script.message(episode).text)
        lines.append({"stage": "s", "step": step, "kind": "train", **episode.record.to_dict()})
    with gzip.open(tmp_path / "episodes.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    counts = mechanism.habits_of_run(tmp_path)
    assert set(counts["step"]) == {1, 2} and list(counts.columns) == list(mechanism.COLUMNS)
    table = mechanism.rates(counts, ["stage"]).set_index("habit")
    assert table.loc["breaks_format", "share"] == 0.0
    assert table.loc["breaks_format", "n"] == 2 * len(episode.record.steps)


def test_a_sweep_of_ones_own_without_a_finished_run_leaves_the_committed_counts(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path))
    name = SourceRuns().augmentation
    committed = mechanism.of_sweep(name), mechanism.evaluations(name)
    (tmp_path / name).mkdir(parents=True)
    summary = pd.DataFrame({"run": ["x"], "state": ["failed"], "case": ["a"], "seed": [0]})
    for state in ("failed", "done"):  # done, and its folder was deleted since
        summary.assign(state=state).to_parquet(tmp_path / name / "summary.parquet")
        assert mechanism.of_sweep(name).equals(committed[0])
        assert mechanism.evaluations(name).equals(committed[1])
    (tmp_path / "x").mkdir()
    line = "task_id,valid,errors,recovered,failure\nsynthetic_base_200,True,0,0,\n"
    (tmp_path / "x" / "evaluation.csv").write_text(line)
    assert len(mechanism.evaluations(name)) == 1
    assert mechanism.evaluations(name, own_runs_first=False).equals(committed[1])


def test_what_the_last_policies_did_is_given_by_case():
    rows = [  # case, seed, valid, errors, recovered, failure
        ("a", 0, True, 0, 0, ""),
        ("a", 0, False, 4, 1, "length"),
        ("a", 1, True, 4, 3, ""),
        ("a", 1, True, 0, 0, ""),
        ("b", 0, False, 2, 0, "wrong state"),
    ]
    columns = ["case", "seed", "valid", "errors", "recovered", "failure"]
    table = mechanism.at_the_end(pd.DataFrame(rows, columns=columns))
    assert table.loc["a"].to_dict() == {
        "tasks solved": "75% (50% to 100%)",
        "tasks with a failed call": "50% (50% to 50%)",
        "tasks lost to a limit of steps or tokens": "25% (0% to 50%)",
        "failed calls put right": "50% (25% to 75%)",
    }
    assert table.loc["b", "tasks with a failed call"] == "100% (100% to 100%)"
    spotless = pd.DataFrame([("c", 0, True, 0, 0, "")], columns=columns)
    assert mechanism.at_the_end(spotless).loc["c", "failed calls put right"] == "none"
