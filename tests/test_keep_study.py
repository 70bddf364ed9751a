"""Results of sweeps are kept in data/reference_runs, and finished runs of unfinished ones go on."""

import json

import pandas as pd
import pytest

from benchmarks import keep_study
from envtune.study import mechanism
from envtune.study.sweep_tables import Point

NAME = "ablation_augmentation"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(keep_study, "KEPT", tmp_path / "kept")
    return tmp_path / "runs"


def a_run(runs, case, state):
    point = Point(f"{NAME}.{case}", {"case": case}, {"case": case})
    (point.folder / "inner").mkdir(parents=True)
    point.note(state=state, seconds=1.0)
    (point.folder / "result.json").write_text(json.dumps({"accuracy": 0.5}))
    (point.folder / "metrics.jsonl").write_text("{}\n")
    (point.folder / "evaluation.csv").write_text("task_id,valid\nsynthetic_base_200,True\n")
    (point.folder / "episodes.jsonl.gz").write_bytes(b"")
    (point.folder / "weights").write_text("large")
    (point.folder / "inner" / "versions.json").write_text("{}")
    return point


def test_finished_runs_of_an_unfinished_sweep_are_restored_elsewhere(runs, monkeypatch):
    done, half = a_run(runs, "with", "done"), a_run(runs, "without", "running")
    assert keep_study.keep(NAME) == f"{NAME}: unfinished, 1 finished runs kept"
    monkeypatch.setenv("ENVTUNE_RUNS", str(runs.parent / "elsewhere"))
    assert not done.finished
    assert keep_study.restore(NAME) == f"{NAME}: 1 finished runs restored"
    assert done.finished and not half.folder.exists()
    assert {file.name for file in done.folder.rglob("*") if file.is_file()} == {
        *keep_study.OF_A_RUN,
        "versions.json",
    }
    assert len(mechanism.habits_of_run(done.folder)) == 0  # no episodes came along


def test_restoring_leaves_what_is_there(runs):
    done = a_run(runs, "with", "done")
    keep_study.keep(NAME)
    done.note(state="running")
    assert keep_study.restore(NAME) == f"{NAME}: 0 finished runs restored"
    assert done.state["state"] == "running"


def test_what_another_machine_kept_stays_kept(runs, monkeypatch):
    a_run(runs, "with", "done")
    keep_study.keep(NAME)
    archive = keep_study.KEPT / "unfinished" / f"{NAME}.tar.gz"
    once = archive.read_bytes()
    keep_study.keep(NAME)
    assert archive.read_bytes() == once  # nothing new, nothing to commit
    monkeypatch.setenv("ENVTUNE_RUNS", str(runs.parent / "elsewhere"))
    a_run(runs.parent / "elsewhere", "without", "done")
    assert keep_study.keep(NAME) == f"{NAME}: unfinished, 2 finished runs kept"


def test_a_finished_sweep_is_kept_as_tables(runs, monkeypatch):
    done, _ = a_run(runs, "with", "done"), a_run(runs, "without", "failed")
    keep_study.keep(NAME)
    archive = keep_study.KEPT / "unfinished" / f"{NAME}.tar.gz"
    home = runs / NAME
    home.mkdir()
    for file in ("curves.parquet", "provenance.json"):
        (home / file).write_text("{}")
    summary = pd.DataFrame({"run": [done.name, "other"], "state": ["done", "failed"]})
    summary.to_parquet(home / "summary.parquet")
    assert "unfinished" in keep_study.keep(NAME) and archive.exists()
    summary = summary.assign(case="with", seed=0).loc[[0]]
    summary.to_parquet(home / "summary.parquet")
    (done.folder / "metrics.jsonl").write_text(
        json.dumps({"kind": "train", "stage": "s", "step": 1}) + "\n"
    )
    assert keep_study.keep(NAME) == f"{NAME}: finished, 1 rows"
    assert {file.name for file in (keep_study.KEPT / NAME).iterdir()} == {
        "summary.parquet",
        "curves.parquet",
        "provenance.json",
        "habits.parquet",
        "evaluation.parquet",
    }
    monkeypatch.setattr(mechanism.paths, "DATA", runs.parent)
    (runs.parent / "kept").rename(runs.parent / "reference_runs")
    monkeypatch.setenv("ENVTUNE_RUNS", str(runs.parent / "elsewhere"))
    assert mechanism.evaluations(NAME)[["valid", "case", "seed"]].values.tolist() == [
        [True, "with", 0]
    ]
    assert not archive.exists()


def test_nothing_to_keep_is_said(runs):
    assert keep_study.keep(NAME) == f"{NAME}: no finished run in runs/"
    assert "nothing kept" in keep_study.restore(NAME)
