"""Parameters are refused before a run and inside it; the runner keeps what a failing notebook made."""
import json

import nbformat
import pytest

from envtune import notebook, paths
from envtune.__main__ import main

NAMES = sorted(p.stem for p in paths.NOTEBOOKS.glob("*.ipynb"))


def write(path, cells):
    book = nbformat.v4.new_notebook()
    for source in cells:
        book.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]} if not book.cells else {}))
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_source_notebook_has_no_outputs_literal_parameters_and_checks_them(name):
    cells = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
    declared = notebook.declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb")
    assert "run_name" in declared
    assert any(f'check_parameters("{name}")' in "".join(c["source"]) for c in cells)
    assert max(len("".join(c["source"]).splitlines()) for c in cells if c["cell_type"] == "code") <= 28


@pytest.mark.parametrize("given, part", [({"sed": 1}, "has no parameter sed"), ({"seed": "x"}, "of type int"), ({"seed": True}, "of type int"),
                                         ({"run_name": 3}, "of type str")])
def test_wrong_parameters_are_refused_before_anything_starts(given, part):
    with pytest.raises(ValueError, match=part):
        notebook.run(paths.NOTEBOOKS / "01_data_splits.ipynb", given)


def test_the_command_prints_one_sentence_for_a_wrong_parameter(capsys):
    assert main(["run", str(paths.NOTEBOOKS / "01_data_splits.ipynb"), "-p", "sed", "1"]) == 1
    assert capsys.readouterr().err.startswith("envtune: 01_data_splits.ipynb has no parameter sed; it takes seed, run_name")
    assert main(["run", "nowhere.ipynb"]) == 1


def test_papermill_alone_cannot_smuggle_in_an_unknown_parameter(tmp_path):
    import papermill
    with pytest.raises(papermill.PapermillExecutionError, match="has no parameter sed"):
        papermill.execute_notebook(paths.NOTEBOOKS / "01_data_splits.ipynb", tmp_path / "out.ipynb", {"sed": 1},
                                   cwd=paths.NOTEBOOKS, progress_bar=False)


def test_a_failing_cell_is_named_and_the_copy_is_kept(tmp_path):
    book = write(tmp_path / "broken.ipynb", ['run_name: str = "broken"  # folder', "print('so far')", "1 / 0"])
    with pytest.raises(notebook.NotebookFailed, match="ZeroDivisionError"):
        notebook.run(book)
    assert "so far" in (paths.runs() / "broken" / "broken.ipynb").read_text()


def test_progress_of_the_kernel_reaches_the_runner(tmp_path, capfd):
    book = write(tmp_path / "slow.ipynb", ['run_name: str = "slow"  # folder', "import time\nfrom envtune import progress\n"
                 "with progress.phase('half of it', 0.0, 0.5):\n    progress.report(1, 2)\n    time.sleep(2.5)"])
    assert notebook.run(book) == paths.runs() / "slow" / "slow.ipynb"
    shown = capfd.readouterr().err
    assert "left" in shown and "100%" in shown and "slow done" in shown


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_run_name_is_a_plain_folder_name(name):
    with pytest.raises(ValueError, match="plain folder name"):
        paths.run_dir(name)


@pytest.mark.parametrize("headless", [True, False])
def test_the_live_plot_is_refreshed_for_a_reader_and_static_without_one(tmp_path, monkeypatch, headless):
    import IPython.display
    shown = []

    class Handle:
        def update(self, image):
            shown.append("update")

    def display(image, display_id=None):
        shown.append("display")
        return Handle()
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setenv("ENVTUNE_PROGRESS", str(tmp_path / "progress.json")) if headless else monkeypatch.delenv("ENVTUNE_PROGRESS", raising=False)
    echo = notebook.live(tmp_path, "made up, for a test", total=6, every=2)
    numbers = {"reward": 0.5, "format_reward": 0.6, "tool_call_reward": 0.7, "progress": 0.1, "grad_norm": 0.2, "steps_per_episode": 4.0, "share_with_call": 0.9}
    lines = [{"stage": "s", "step": 0, "kind": "validation", "accuracy": 0.2, "progress": 0.1, "episodes": 4}]
    lines += [{"stage": "s", "step": i, "kind": "train", "episodes": 4, **numbers} for i in range(1, 7)]
    for line in lines:
        with open(tmp_path / "metrics.jsonl", "a") as out:
            out.write(json.dumps(line) + "\n")
        echo(line)
    assert shown == (["display"] if headless else ["display", "update", "update"])
    assert (tmp_path / "live.png").stat().st_size > 10_000
