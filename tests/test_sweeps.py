"""Sweeps over a small notebook: real processes that end, fail, are killed, and are watched."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest

from envtune.__main__ import main
from envtune.common import paths
from envtune.study import sweep_tables, sweeps

SOURCE = """import json, os, time
from envtune.common import paths
folder = paths.run_dir(run_name)
count = folder / "starts"
starts = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(starts))
if x == 13:
    raise RuntimeError("thirteen is refused")
if x == 98 and starts == 1:
    raise RuntimeError("ZMQError: Address already in use")
row = {"stage": "s", "step": 3, "kind": "train", "progress": x / 100}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
time.sleep(seconds)
device = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
result = {"square": x * x, "device": device, "starts": starts}
(folder / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    made = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    made.cells = [
        nbformat.v4.new_code_cell(
            'x: int = 1  # a number\nlabel: str = ""  # text\nseconds: float = 0.0  # how long it '
            'takes\nrun_name: str = "square"  # folder',
            metadata={"tags": ["parameters"]},
        ),
        nbformat.v4.new_code_cell(SOURCE),
    ]
    nbformat.write(made, tmp_path / "square.ipynb")
    return tmp_path / "square.ipynb"


def test_a_grid_is_every_combination():
    assert sweeps.grid({"a": [1, 2], "b": ["x"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    "choices, fixed, part",
    [
        ([{"y": 1}], {}, "has no parameter y"),
        ([{"x": 1}], {"z": 2}, "has no parameter z"),
        ([{"x": "one"}], {}, "of type int"),
        ([], {}, "no point"),
        ([{"x": 1}, {"x": 1}], {}, "a point twice"),
        ([{"x": 1}], {"run_name": "mine"}, "set by the sweep"),
    ],
)
def test_wrong_points_are_refused_before_anything_starts(book, choices, fixed, part):
    with pytest.raises(ValueError, match=part):
        sweeps.sweep(book, "s", choices, fixed)
    assert not list(paths.runs().glob("s*"))


def test_points_have_folders_that_tell_them_apart(book):
    points = sweeps.plan(
        book,
        "s",
        [{"x": 1, "label": "a b/c"}, {"x": 2, "label": "y" * 200}, {"x": 2, "label": "y" * 199}],
    )
    names = [p.name for p in points]
    assert (
        names[0] == "s.x-1_label-a-b-c"
        and len(set(names)) == 3
        and all(len(n) < 100 for n in names)
    )


@pytest.mark.slow
def test_a_sweep_runs_each_point_keeps_a_failure_and_repeats_nothing(book):
    choices = sweeps.grid({"x": [3, 13, 98]})
    result = sweeps.sweep(book, "s", choices, workers=2).set_index("x")
    assert result["state"].to_dict() == {3: "done", 13: "failed", 98: "done"}
    assert result["square"].dropna().to_dict() == {3: 9, 98: 98 * 98}
    assert (
        "thirteen is refused" in result.loc[13, "error"] and result.loc[98, "starts"] == 2
    )  # a lost race for a port is tried again
    assert (
        "thirteen is refused" in (paths.runs() / "s.x-13" / "square.unfinished.ipynb").read_text()
    )
    assert pd.read_parquet(paths.runs() / "s" / "summary.parquet")["run"].tolist() == [
        "s.x-3",
        "s.x-13",
        "s.x-98",
    ]
    made = json.loads((paths.runs() / "s" / "provenance.json").read_text())
    assert (
        made["notebook"] == "square.ipynb"
        and [r["parameters"]["x"] for r in made["runs"]] == [3, 98]
        and made["runs"][0]["seconds"] > 0
    )
    states = sweep_tables.run_states(sweeps.plan(book, "s", choices))
    assert states["state"].tolist() == ["done", "failed", "done"]
    assert states["step"].tolist() == [1, 0, 1] and (states["minutes"] > 0).all()
    again = sweeps.sweep(book, "s", choices, workers=2).set_index("x")
    assert (
        again.loc[3, "starts"] == 1 and (paths.runs() / "s.x-13" / "starts").read_text() == "2"
    )  # done runs stay, failed ones are tried anew


@pytest.mark.slow
def test_a_point_with_other_parameters_than_the_finished_run_is_run_again(book):
    assert sweeps.sweep(book, "s", [{"x": 2}]).loc[0, "starts"] == 1
    assert sweeps.sweep(book, "s", [{"x": 2}], {"seconds": 0.1}).loc[0, "starts"] == 2


@pytest.mark.slow
def test_a_case_names_the_run_and_its_row_and_the_notebook_is_not_given_it(book):
    result = sweeps.sweep(book, "s", [{"case": "with, a comma", "x": 2, "label": "long"}])
    assert result.loc[0, ["run", "case", "x", "square"]].tolist() == [
        "s.with-a-comma",
        "with, a comma",
        2,
        4,
    ]
    assert pd.read_parquet(paths.runs() / "s" / "curves.parquet")["case"].unique() == [
        "with, a comma"
    ]


def test_a_case_may_be_a_number(book):
    assert [
        p.name
        for p in sweeps.plan(book, "s", [{"case": 1, "x": 1, "label": "a"}, {"case": 2, "x": 1}])
    ] == ["s.1", "s.2"]


@pytest.mark.slow
def test_a_run_that_compares_several_things_leaves_a_row_for_each(book):
    [point] = sweeps.plan(book, "s", [{"x": 1}])
    point.folder.mkdir()
    (point.folder / "sweep_state.json").write_text(
        json.dumps({"state": "done", "parameters": point.parameters})
    )
    (point.folder / "result.json").write_text(
        '[{"case": "a", "accuracy": 0.5}, {"case": "b", "accuracy": 0.25}]'
    )
    (point.folder / "part").mkdir()
    (point.folder / "part" / "versions.json").write_text('{"torch": "2"}')
    assert sweep_tables.provenance(book, [point])["versions"] == {
        "torch": "2"
    }  # of the runs within it
    assert sweep_tables.results([point])[["run", "x", "case", "accuracy"]].values.tolist() == [
        ["s.x-1", 1, "a", 0.5],
        ["s.x-1", 1, "b", 0.25],
    ]


@pytest.mark.parametrize(
    "log",
    [
        "noise\nenvtune: a.ipynb, cell 2: OSError: Address in use\nthe executed notebook: x",
        "Exception in thread Heartbeat:\nzmq.error.ZMQError: Address already in use\nenvtune: "
        "a.ipynb, cell 2: ValueError: no\nthe executed notebook: x",
        "Traceback:\n  ...\nRuntimeError: Kernel died",
        "  3%|# |\renvtune: a.ipynb, cell 2: OSError: no",
        "",
    ],
)
def test_a_failed_run_names_what_ended_it(book, monkeypatch, log):
    def started(command, stdout, **more):
        stdout.write(log)
        stdout.flush()
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.setattr(subprocess, "run", started)
    result = sweeps.execute(book, sweeps.plan(book, "s", [{"x": 1}])[0])
    assert result["state"] == "failed"
    assert result["error"] == (
        next(
            (line for line in log.splitlines() if line.startswith("envtune: ")),
            log.splitlines()[-1] if log else "exit code 2",
        ).removeprefix("envtune: ")
    )


def test_a_running_run_counts_by_its_steps():
    runs = [
        ("waiting", 0, 10),
        ("running", 2, 10),
        ("running", 3, 0),
        ("done", 9, 0),
        ("failed", 1, 9),
    ]
    states = [dict(zip(("state", "step", "of"), run, strict=True)) for run in runs]
    assert [sweeps._share(state) for state in states] == [0, 0.2, 0, 1, 1]


@pytest.mark.slow
def test_the_bar_names_each_run_that_ends(book, capsys):
    sweeps.sweep(book, "s", [{"x": 13}])
    printed = capsys.readouterr()
    assert "s.x-13: failed in" in printed.out and "thirteen is refused" in printed.out
    assert "100%" in printed.err and "1 of 1 runs done" in printed.err


def test_a_run_that_failed_before_waits_in_the_bar_until_it_is_tried_again(
    book, monkeypatch, capsys
):
    points, told = sweeps.plan(book, "s", sweeps.grid({"x": [1, 2, 3, 4]})), []
    monkeypatch.delenv("ENVTUNE_PROGRESS", raising=False)
    monkeypatch.setattr(
        sweeps.progress, "report", lambda share, total, text: told.append((share, text))
    )
    for point in points:
        point.folder.mkdir()
    failed = {"state": "failed", "error": "last week's", "seconds": 60.0}
    points[0].note(**failed, since=1.0)
    points[1].note(state="running", since=1.0)  # its driver was killed
    points[2].note(state="done", since=1.0, seconds=60.0)
    update = sweeps._bar(points)
    update()
    assert told == [(0.25, "1 of 4 runs done")] and "failed" not in capsys.readouterr().out
    points[0].note(**failed, since=2.0)  # it fails again, in the same way
    update()
    assert told[-1] == (0.5, "2 of 4 runs done")
    assert "s.x-1: failed in 1.0 min last week's" in capsys.readouterr().out


@pytest.mark.slow
def test_each_run_has_a_device_to_itself(book, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    result = sweeps.sweep(book, "s", sweeps.grid({"x": [1, 2]}), {"seconds": 1.5})
    assert sorted(result["device"]) == ["4", "7"]


@pytest.mark.slow
def test_a_killed_driver_leaves_no_run_behind_and_the_same_command_goes_on(book):
    words = f"sweep {book} --name s --grid x [1,2] --workers 2 -p seconds".split()
    command = [sys.executable, "-m", "envtune", *words, "600.0"]
    driver = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    folders = [paths.runs() / f"s.x-{x}" for x in (1, 2)]
    for _ in range(1200):
        if all((f / "metrics.jsonl").exists() for f in folders):
            break
        time.sleep(0.1)
    runs = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(runs) >= 2 and not psutil.wait_procs(runs, timeout=60)[1]  # they end with it
    assert not any((f / "result.json").exists() for f in folders)
    assert main([*words, "0.0"]) == 0
    assert [json.loads((f / "result.json").read_text())["starts"] for f in folders] == [2, 2]


def test_the_command_lists_runs_without_starting_them_and_refuses_in_one_sentence(book, capsys):
    assert (
        main(["sweep", str(book), "--name", "s", "--grid", "x", "[1, 2]", "--dry-run", "--json"])
        == 0
    )
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == [
        "waiting",
        "waiting",
    ] and not list(paths.runs().glob("s.*"))
    assert (
        main(["sweep", str(book), "--name", "s", "--grid", "y", "[1]"]) == 1
        and "has no parameter y" in capsys.readouterr().err
    )
    assert (
        main(["sweep", str(book), "--name", "s", "--grid", "x", "1"]) == 1
        and "x has no list" in capsys.readouterr().err
    )
    assert main(["sweep", str(book), "--name", "s"]) == 1 and "--grid" in capsys.readouterr().err
    (book.parent / "points.yaml").write_text("x: [1, 2]")
    words = ["sweep", str(book), "--name", "s", "--points", str(book.parent / "points.yaml")]
    assert main(words) == 1 and "expected a list, got {'x'" in capsys.readouterr().err


@pytest.mark.parametrize("named, devices", [("0,2", ["0", "2"]), ("", [None]), ("-1", [None])])
def test_devices_are_those_that_cuda_is_shown(monkeypatch, named, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert sweeps._devices() == devices


@pytest.mark.slow
def test_points_come_from_a_file_too(book, tmp_path, capsys):
    (tmp_path / "points.yaml").write_text("- {x: 2}\n- {x: 3, label: three}\n")
    assert (
        main(
            ["sweep", str(book), "--name", "s", "--points", str(tmp_path / "points.yaml"), "--json"]
        )
        == 0
    )
    assert [row["square"] for row in json.loads(capsys.readouterr().out)] == [4, 9]


@pytest.mark.slow
def test_on_ray_a_run_whose_worker_dies_is_started_again(book):
    pytest.importorskip("ray", reason="needs Ray: make test-ray")
    import threading

    killed = []

    def kill_the_worker_of_the_first_run():
        for _ in range(1200):
            if (paths.runs() / "s.x-1" / "metrics.jsonl").exists():
                run = next(
                    p
                    for p in psutil.process_iter(["cmdline"])
                    if '"s.x-1"' in (p.info["cmdline"] or ())
                )
                killed.append(run.parent())
                run.parent().kill()
                return
            time.sleep(0.1)

    threading.Thread(target=kill_the_worker_of_the_first_run, daemon=True).start()
    result = sweeps.sweep(
        book, "s", sweeps.grid({"x": [1, 2, 13]}), {"seconds": 4.0}, ray="local"
    ).set_index("x")
    assert killed and result["state"].to_dict() == {1: "done", 2: "done", 13: "failed"}
    assert result.loc[1, "starts"] == 2
