"""Wrong parameters are refused before a run and inside it; a failing notebook is kept."""

import json

import nbformat
import pytest

from envtune.__main__ import main
from envtune.common import paths
from envtune.study import notebook, watch

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


def test_the_command_prints_one_sentence_for_a_wrong_parameter(capsys):
    assert main(["run", str(paths.NOTEBOOKS / "01_data_splits.ipynb"), "-p", "sed", "1"]) == 1
    assert capsys.readouterr().err.startswith(
        "envtune: 01_data_splits.ipynb has no parameter sed; it takes seed, run_name"
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


def test_a_kernel_that_lost_the_race_for_a_port_is_started_again(tmp_path, monkeypatch):
    import papermill

    book = write(tmp_path / "late.ipynb", ['run_name: str = "late"  # folder'])
    starts, execute = [], papermill.execute_notebook

    def lose_once(*arguments, **settings):
        starts.append(1)
        if len(starts) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return execute(*arguments, **settings)

    monkeypatch.setattr(papermill, "execute_notebook", lose_once)
    assert notebook.run(book).exists() and len(starts) == 2
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        notebook.run(book)


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
    assert "left" in shown and "100%" in shown and "slow done" in shown


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_run_name_is_a_plain_folder_name(name):
    with pytest.raises(ValueError, match="plain folder name"):
        paths.run_dir(name)


NUMBERS = {
    "reward": 0.5,
    "format_reward": 0.6,
    "tool_call_reward": 0.7,
    "progress": 0.1,
    "grad_norm": 0.2,
    "steps_per_episode": 4.0,
    "share_with_call": 0.9,
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


@pytest.mark.parametrize("headless", [True, False])
def test_the_live_plot_is_refreshed_for_a_reader_and_static_without_one(
    tmp_path, monkeypatch, headless
):
    import IPython.display

    from envtune.study import figures

    shown, drawn = [], []

    class Handle:
        def update(self, image):
            shown.append("update")

    def display(image, display_id=None):
        shown.append("display")
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    real = figures.stage_dynamics

    def draw(data, source):
        drawn.append((data["kind"].iloc[-1], data["at"].iloc[-1]))
        return real(data, source) if len(drawn) == 1 else figures.kit.plt.figure()

    monkeypatch.setattr(figures, "stage_dynamics", draw)
    monkeypatch.setenv(
        "ENVTUNE_PROGRESS", str(tmp_path / "progress.json")
    ) if headless else monkeypatch.delenv("ENVTUNE_PROGRESS", raising=False)
    on_row = watch.live(tmp_path, "made up, for a test", total=8, every=2)
    for line in [
        *stage_lines("s", 1, 3, 4),
        *stage_lines("t", 1, 4, 4),
    ]:  # the first stage was ended by its rule
        if line["kind"] in ("train", "validation"):
            with open(tmp_path / "metrics.jsonl", "a") as out:
                out.write(json.dumps(line) + "\n")
        on_row(line)
    assert drawn[0] == ("train", 1) and drawn[-1] == ("validation", 7)
    assert shown == (["display"] if headless else ["display"] + ["update"] * (len(drawn) - 1))
    assert (tmp_path / "live.png").stat().st_size > 1_000


def bars(monkeypatch, lines, total):
    """The bars that a step_bar shows for these lines: (initial, n, total, closed) each."""
    from envtune.common import progress

    made, real = [], progress.bar
    monkeypatch.delenv("ENVTUNE_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "bar", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    on_row = watch.step_bar(total)
    over = [on_row(line) for line in lines]
    return [(bar.initial, bar.n, bar.total, bar.disable) for bar in made], over[-1]


def test_the_bar_of_a_resumed_stage_goes_on_where_it_stood_and_says_so_once(monkeypatch, capsys):
    assert bars(monkeypatch, stage_lines("s", 4, 10, 10), 10) == ([(3, 10, 10, True)], True)
    assert capsys.readouterr().out == "s: resumed at step 3 of 10\n"


def test_the_bar_of_a_finished_run_is_full_and_closed(monkeypatch):
    finished = [{"stage": stage, "kind": "finished", "step": 5, "steps": 5} for stage in "st"]
    assert bars(monkeypatch, finished, 10) == ([(5, 10, 10, True)], True)
    assert bars(monkeypatch, [{"stage": "s", "kind": "finished", "step": 4, "steps": 10}], 10) == (
        [(4, 4, 4, True)],
        True,
    )  # ended by its rule


def test_the_bar_of_an_interrupted_stage_is_closed_where_it_stood(monkeypatch):
    lines = [
        *stage_lines("s", 1, 3, 10)[:-2],
        {"stage": "s", "kind": "stopped", "step": 3, "steps": 10},
    ]
    assert bars(monkeypatch, lines, 10) == ([(0, 3, 10, True)], False)


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
