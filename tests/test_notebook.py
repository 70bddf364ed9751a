"""Wrong parameters are refused before a run and inside it; a failing notebook is kept."""

import gzip
import json

import nbformat
import papermill
import pytest
from papermill import PapermillExecutionError

from envtune import replay
from envtune.__main__ import main
from envtune.common import files, paths, progress
from envtune.study import figures, kit, notebook, watch

NAMES = sorted(p.stem for p in paths.NOTEBOOKS.glob("*.ipynb"))


def write(path, cells):
    book = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    for source in cells:
        book.cells.append(
            nbformat.v4.new_code_cell(
                source, metadata={"tags": ["parameters"]} if not book.cells else {}
            )
        )
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_source_notebook_is_clean_and_opens_its_run_first(name):
    book = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert not any(c["outputs"] or c["execution_count"] for c in code), (
        f"notebooks/{name}.ipynb holds outputs, as Jupyter saves them: `make strip` removes them"
    )
    assert "run_name" in notebook.declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb")
    assert "notebook.open_run(run_name)" in "".join(code[1]["source"])
    longest = max(code, key=lambda c: len(c["source"]))
    assert len(longest["source"]) <= 28, f"{name}: a long cell belongs in the package"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "90_experiment"])
def test_a_notebook_opens_with_its_question_and_ends_with_what_to_try_next(name):
    book = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in book["cells"]]
    opening, (_, ending), last = cells[0][1], cells[-2], cells[-1]
    for part in ("**Question.**", "**What it shows.**", "**Cost.**"):
        assert part in opening, part
    assert ending.startswith("## What to try next") and last[0] == "code"


@pytest.mark.parametrize(
    "given, part",
    [
        ({"sed": 1}, "has no parameter sed"),
        ({"seed": "x"}, "of type int"),
        ({"seed": True}, "of type int"),
        ({"run_name": 3}, "of type str"),
        ({"seed": None}, "of type int"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(given, part):
    with pytest.raises(ValueError, match=part):
        notebook.run(paths.NOTEBOOKS / "01_data_splits.ipynb", given)


def test_columns_of_another_type_than_a_mapping_are_refused():
    with pytest.raises(ValueError, match="checkpoints is of type dict"):
        notebook.run(paths.NOTEBOOKS / "11_ood.ipynb", {"checkpoints": ["mine"]})


def test_the_command_prints_one_sentence_for_a_wrong_parameter(capsys):
    assert main(["run", str(paths.NOTEBOOKS / "01_data_splits.ipynb"), "-p", "sed", "1"]) == 1
    assert capsys.readouterr().err.startswith(
        "envtune: 01_data_splits.ipynb has no parameter sed; it takes seed, run_name"
    )
    assert main(["run", str(paths.NOTEBOOKS / "01_data_splits.ipynb"), "-p", "seed", "[3, 5"]) == 1
    assert capsys.readouterr().err.startswith(
        "envtune: the value of seed is no YAML: while parsing"
    )
    assert main(["run", "nowhere.ipynb"]) == 1


MINE = [
    'run_name: str = "mine"  # folder\nsteps: int = None  # [steps]; None: all\nextra: float = 1',
    "from envtune.study import notebook\nrun_dir = notebook.open_run(run_name)",
    "print(run_dir.name, steps, extra)",
]


@pytest.mark.parametrize(
    "head, given, part",
    [
        ("", {"sed": 1}, "no parameter sed"),
        ("", {"steps": "x"}, "int"),
        ("# Parameters\n", {"sed": 1}, "no parameter sed"),  # papermill's own first line
    ],
)
def test_papermill_alone_cannot_smuggle_in_a_wrong_parameter(tmp_path, head, given, part):
    import papermill

    book = write(tmp_path / "mine.ipynb", [head + MINE[0], *MINE[1:]])
    with pytest.raises(papermill.PapermillExecutionError, match=part):
        papermill.execute_notebook(
            book, tmp_path / "out.ipynb", given, kernel_name="python3", progress_bar=False
        )


def test_a_parameters_cell_that_begins_as_papermills_does_is_not_taken_for_an_injected_one():
    own, injected, values = (
        "# Parameters\nsteps: int = 5  # [steps]",
        "# Parameters\nsteps = 7\n",
        {},
    )
    notebook.check_injected(["", "import os", own], values)
    values["steps"] = 7
    notebook.check_injected(["", own, injected], values)
    notebook.check_injected(["", own, injected, own, injected], values)  # run twice
    notebook.check_injected(["", injected], values)  # the injected cell alone
    with pytest.raises(ValueError, match="steps is of type int"):
        notebook.check_injected(["", own, injected], {"steps": "x"})


def test_a_renamed_copy_with_one_more_parameter_runs(tmp_path):
    book = write(tmp_path / "another_name.ipynb", MINE)
    ran = notebook.run(book, {"extra": 2, "steps": None}).read_text()
    assert "mine None 2" in ran
    assert "mine 5 1" in notebook.run(book, {"steps": 5}).read_text()


@pytest.mark.parametrize("text, part", [("# A page", "not a notebook"), (None, "no cell tagged")])
def test_a_file_that_is_no_notebook_is_refused_in_one_sentence(tmp_path, text, part):
    page = tmp_path / ("page.md" if text else "page.ipynb")
    page.write_text(text) if text else nbformat.write(nbformat.v4.new_notebook(), page)
    with pytest.raises(ValueError, match=part):
        notebook.run(page)
    damaged = tmp_path / "damaged.ipynb"
    damaged.write_text('{"cells": [')
    with pytest.raises(ValueError, match="not a readable notebook"):
        notebook.run(damaged)
    with pytest.raises(ValueError, match="literals only"):
        notebook.run(write(tmp_path / "computed.ipynb", ["steps: int = 2 * 3"]))


def test_a_list_parameter_refuses_unknown_names_in_one_sentence():
    notebook.refuse_unknown("cases", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="cases are any of a, b; got 'c'"):
        notebook.refuse_unknown("cases", ["a", "c"], ["a", "b"])


def cell_error(name, value):
    return PapermillExecutionError(1, 2, "x", name, value, ["seen: Address already in use"])


@pytest.mark.parametrize(
    "error, again",
    [
        (RuntimeError("Kernel died before replying to kernel_info"), True),
        (OSError(98, "Address already in use"), True),
        (cell_error("OSError", "Address already in use"), True),
        (cell_error("RuntimeError", "the server did not start:\nzmq.error.ZMQError: x"), True),
        (cell_error("ValueError", "no"), False),
        (RuntimeError("Kernel died"), False),
    ],
)
def test_only_what_lost_a_race_for_a_port_is_tried_again(tmp_path, monkeypatch, error, again):
    book, starts = write(tmp_path / "late.ipynb", ['run_name: str = "late"  # folder']), []
    execute = papermill.execute_notebook

    def lose(*arguments, **settings):
        starts.append(1)
        if len(starts) <= lost:
            raise error
        return execute(*arguments, **settings)

    monkeypatch.setattr(papermill, "execute_notebook", lose)
    lost = notebook.TRIES
    with pytest.raises((type(error), notebook.NotebookFailed)):
        notebook.run(book)
    assert len(starts) == (notebook.TRIES if again else 1)
    if again:
        lost, starts[:] = 1, []
        assert notebook.run(book).exists() and len(starts) == 2


def test_a_failing_cell_is_named_and_the_copy_is_kept(tmp_path):
    book = write(
        tmp_path / "broken.ipynb",
        ['run_name: str = "broken"  # folder', "print('so far')", "1 / 0"],
    )
    with pytest.raises(notebook.NotebookFailed, match="ZeroDivisionError"):
        notebook.run(book)
    assert "so far" in (paths.runs() / "broken" / "broken.unfinished.ipynb").read_text()


def test_a_notebook_that_ran_to_its_end_is_kept_when_its_rerun_fails(tmp_path):
    book = write(
        tmp_path / "kept.ipynb",
        ['run_name: str = "kept"  # folder\nx: int = 1  # divisor', "print('quotient', 6 / x)"],
    )
    good, unfinished = (
        paths.runs() / "kept" / "kept.ipynb",
        paths.runs() / "kept" / "kept.unfinished.ipynb",
    )
    assert notebook.run(book) == good and not unfinished.exists()
    whole = good.read_text()
    with pytest.raises(
        notebook.NotebookFailed, match="ZeroDivisionError.*\n.*kept.unfinished.ipynb"
    ):
        notebook.run(book, {"x": 0})
    assert good.read_text() == whole and "ZeroDivisionError" in unfinished.read_text()
    notebook.run(book, {"x": 2})
    assert "quotient 3.0" in good.read_text() and not unfinished.exists()


def test_progress_of_the_kernel_reaches_the_runner(tmp_path, capfd):
    book = write(
        tmp_path / "slow.ipynb",
        [
            'run_name: str = "slow"  # folder',
            "import time\nfrom envtune.common import progress\n"
            "with progress.phase('half of it', 0.0, 0.5):\n    progress.report(1, 2)\n"
            "    time.sleep(2.5)",
        ],
    )
    assert notebook.run(book) == paths.runs() / "slow" / "slow.ipynb"
    shown = capfd.readouterr().err
    assert "left" in shown and "100%" in shown and "slow done" in shown and "\r" not in shown


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_run_name_is_a_plain_folder_name(name):
    with pytest.raises(ValueError, match="plain folder name"):
        paths.run_dir(name)


NUMBERS = {
    "reward": 0.5,
    "format_reward": 0.6,
    "tool_call_reward": 0.7,
    "progress": 0.1,
    "entropy": 0.3,
    "kl": 0.01,
    "grad_norm": 0.2,
    "steps_per_episode": 4.0,
    "share_with_call": 0.9,
    "seconds": 1.0,
}


def stage_lines(stage, first, last, planned):
    """What a row callback is told of a stage that trains from step `first` to `last`."""
    begin = (
        {"kind": "resumed", "step": first - 1, "steps": planned}
        if first > 1
        else {"kind": "validation", "step": 0, "accuracy": 0.2, "progress": 0.1, "episodes": 4}
    )
    steps = [{"step": i, "kind": "train", "episodes": 4, **NUMBERS} for i in range(first, last + 1)]
    end = [
        {"kind": "validation", "step": last, "accuracy": 0.2, "progress": 0.1, "episodes": 4},
        {"kind": "finished", "step": last, "steps": planned},
    ]
    return [{"stage": stage, **line} for line in (begin, *steps, *end)]


@pytest.fixture(params=["notebook", "headless", "script"])
def cell(request, monkeypatch, tmp_path):
    """What a cell shows, as (place, content), places numbered as they appear; and who reads it."""
    import IPython.display

    shown, reader = [], request.param

    class Handle:
        def __init__(self, content):
            self.place = len({place for place, _ in shown})
            self.update(content)

        def update(self, content):
            shown.append((self.place, content))

    monkeypatch.setattr(IPython.display, "display", lambda what, display_id=None: Handle(what))
    monkeypatch.setattr(progress, "in_kernel", lambda: reader != "script")
    monkeypatch.delenv(progress.FILE, raising=False)
    if reader == "headless":
        monkeypatch.setenv(progress.FILE, str(tmp_path / "progress.json"))
    return reader, shown


def write_run(folder, lines, episodes):
    """What grpo.train_stage leaves in a run folder, line by line, as `on_row` is called."""
    stage = {"reward": "progress", "reward_scale": 1.0}
    files.write_json(folder / "config.json", {"stages": {"s": stage, "t": stage}})
    for line in lines:
        if line["kind"] in ("train", "validation"):
            with gzip.open(folder / "episodes.jsonl.gz", "at") as out:
                tags = {name: line[name] for name in ("stage", "step", "kind")}
                out.write(json.dumps(tags | episodes.to_dict()) + "\n")
            with open(folder / "metrics.jsonl", "a") as out:
                out.write(json.dumps(line) + "\n")
        yield line


def test_training_is_watched_in_three_places_and_headless_in_plain_lines(
    cell, tmp_path, monkeypatch, capfd
):
    reader, shown = cell
    drawn, real = [], figures.training_curves

    def draw(data, source):
        drawn.append((data["kind"].iloc[-1], data["at"].iloc[-1]))
        return real(data, source) if len(drawn) == 1 else kit.plt.figure()

    monkeypatch.setattr(figures, "training_curves", draw)
    lines = [*stage_lines("s", 1, 3, 4), *stage_lines("t", 1, 12, 12)]  # s was ended by its rule
    on_row = watch.live(tmp_path, "made up, for a test", total=16)
    hostile = "<think>x</think><answer><script>alert(1)</script></answer>"
    for line in write_run(tmp_path, lines, replay("synthetic_base_203", [hostile])):
        on_row(line)
    # the first step, the ends of both stages, the beginning of the second
    assert drawn == [("train", 1), ("validation", 3), ("validation", 3), ("validation", 15)]
    assert (tmp_path / "live.png").stat().st_size > 1_000
    out = capfd.readouterr()
    if reader == "notebook":
        assert not out.out and {place for place, _ in shown} == {0, 1, 2}
        status, pictures, samples = (
            [what for place, what in shown if place == number] for number in range(3)
        )
        assert len(pictures) == len(drawn) and len(samples) == 1  # one stays for a minute
        assert "step 15 of 15, finished" in status[-1].data
        assert " left" in status[5].data and "reward 0.5" in status[5].data
        assert "accuracy 0.2" in status[-1].data and "sampled" in status[-1].data
        assert "synthetic_base_203, reward 0.00, 0 of" in samples[0].data
        assert "<script>" not in samples[0].data and "&lt;script&gt;" in samples[0].data
    else:
        assert len(shown) == (reader == "headless")  # the last picture alone
        assert "\r" not in out.out + out.err
        assert [line for line in out.out.splitlines() if "reward" in line] == [
            f"{stage}, step {step}: reward 0.5, progress 0.1, entropy 0.3, KL 0.01, "
            "gradient norm 0.2"
            for stage, step in (("s", 1), ("t", 1), ("t", 5), ("t", 6), ("t", 10), ("t", 11))
        ]
        assert "t, step 12: validation of 4 tasks, sampled: accuracy 0.2, progress 0.1" in out.out
        assert out.out.endswith("t: finished at step 12 of 12\n")


def counts(lines, total):
    """What a counter says after the last of these lines: done, planned, over."""
    count = watch.counter(total)
    found = [count(line) for line in lines][-1]
    return found.done, found.planned, found.over


def test_a_resumed_stage_goes_on_where_it_stood_and_says_so_once(capsys):
    lines = stage_lines("s", 4, 10, 10)
    assert counts(lines, 10) == (10, 10, True)
    on_row = watch.step_bar(10)
    assert [on_row(line) for line in lines][-1]
    assert capsys.readouterr().out.count("s: resumed at step 3 of 10\n") == 1


def test_a_finished_run_is_counted_as_done():
    finished = [{"stage": stage, "kind": "finished", "step": 5, "steps": 5} for stage in "st"]
    assert counts(finished, 10) == (10, 10, True)
    # ended by its rule
    assert counts([{"stage": "s", "kind": "finished", "step": 4, "steps": 10}], 10) == (4, 4, True)


def test_an_interrupted_stage_is_counted_where_it_stood_and_told_how_it_goes_on(cell):
    reader, shown = cell
    stopped = {"stage": "s", "kind": "stopped", "step": 3, "steps": 10}
    lines = [*stage_lines("s", 1, 3, 10)[:-2], stopped]
    assert counts(lines, 10) == (3, 10, False)
    on_row = watch.step_bar(10)
    for line in lines:
        on_row(line)
    assert reader != "notebook" or "run the cell again to go on" in shown[-1][1].data


def test_the_time_left_is_that_of_the_steps_made_in_this_call(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    count = watch.counter(10)
    assert count({"stage": "s", "kind": "resumed", "step": 4, "steps": 10}).seconds_left is None
    for step in (5, 6):
        clock[0] += 3.0
        found = count({"stage": "s", "kind": "train", "step": step, "seconds": 3.0})
    assert found.seconds_left == 12.0


def test_an_interrupted_command_ends_with_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(notebook, "run", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["run", str(paths.NOTEBOOKS / "01_data_splits.ipynb")]) == 130
    assert (
        capsys.readouterr().err
        == "envtune: interrupted; the same command goes on where this one stood\n"
    )


def test_texts_with_a_hash_and_generic_types_are_declared():
    source = 'colour: str = "#fff"  # a colour\nxs: list[int] = [1]\nsteps: int | None = None\n'
    declared = notebook._parameters(source)
    assert declared["colour"].default == "#fff" and declared["xs"].type == "list"
    notebook.refuse_wrong({"steps": 3}, declared, "this notebook")
    with pytest.raises(ValueError, match="xs is of type list"):
        notebook.refuse_wrong({"xs": "oops"}, declared, "this notebook")
