"""Notebooks as functions: parameters that must exist, a run folder each, one progress bar in the terminal.

    $ python -m envtune run notebooks/00_quickstart.ipynb -p seed 1 -p run_name second

papermill only warns of a misspelt parameter and then runs with the default, so unknown names and wrong types are refused
twice: before a run starts (here), and inside the notebook (`check_parameters`), for who calls papermill directly.
"""
import ast
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from envtune.common import paths, progress


class NotebookFailed(RuntimeError):
    """A cell raised; the message names the cell, the error and the saved notebook."""


def declared_parameters(notebook: Path) -> dict:
    """Names and defaults of the cell tagged `parameters`, all literals. ValueError when there is no such cell."""
    cells = json.loads(notebook.read_text())["cells"]
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ValueError(f"{notebook} has no cell tagged `parameters`")
    declared = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared[node.target.id] = ast.literal_eval(node.value)
    return declared


def _fits(value, default) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return default is None or isinstance(value, type(default))


def refuse_wrong(given: dict, declared: dict, notebook: str) -> None:
    """ValueError for a parameter that the notebook does not declare, or of another type than its default."""
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ValueError(f"{notebook} has no parameter {', '.join(unknown)}; it takes {', '.join(declared)}")
    for name, value in given.items():
        if not _fits(value, declared[name]):
            raise ValueError(f"{notebook}: parameter {name} is of type {type(declared[name]).__name__} "
                             f"(default {declared[name]!r}), got {value!r}")


def check_parameters(name: str) -> None:
    """Called by notebook `name` after its parameters cell: refuses what papermill injected but the notebook lacks."""
    from IPython import get_ipython
    shell = get_ipython()
    given = {}
    for cell in shell.user_ns.get("In", []):
        if cell.startswith("# Parameters\n"):  # the header that papermill gives to the cell it injects
            for node in ast.parse(cell).body:
                given |= {target.id: shell.user_ns[target.id] for target in node.targets} if isinstance(node, ast.Assign) else {}
    refuse_wrong(given, declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb"), name)


def step_bar(total: int) -> Callable[[dict], bool]:
    """An `echo` for training: a progress bar over the `total` optimiser steps of all its stages, with the latest numbers. It stands where
    a resumed or finished stage stands, and returns whether all stages are finished."""
    bar, steps, planned = None, {}, total

    def echo(line: dict) -> bool:
        nonlocal bar, planned
        kind, stage = line["kind"], line.get("stage")
        if kind == "resumed":
            print(f"{stage}: resumed at step {line['step']} of {line['steps']}")
        if kind in ("train", "resumed", "finished"):
            steps[stage] = line["step"]
            if kind == "finished":
                planned -= line["steps"] - line["step"]  # its rule ended it
            done = sum(steps.values())
            if bar is None:
                bar = progress.bar(total, "training", "step", initial=done - (kind == "train"))
            if kind == "train":
                bar.set_postfix_str(f"{stage} reward {line['reward']:.2f} progress {line['progress']:.2f}", refresh=False)
            bar.total = planned
            bar.update(done - bar.n)
        over = kind == "finished" and sum(steps.values()) >= planned
        if bar is not None and (over or kind == "stopped"):
            bar.close()
        return over
    return echo


def live(run_dir: Path, source: str, total: int, every: int = 5) -> Callable[[dict], None]:
    """An `echo` for training: the progress bar, and the run's dynamics, redrawn at the first step, every few more, at validations and at
    a stage's end, in the cell's output and in run_dir/live.png. Without a reader (`envtune run`) the cell keeps one picture, the last."""
    from IPython.display import Image, display

    from envtune import figures
    from envtune.common import files
    bar, picture, headless = step_bar(total), run_dir / "live.png", "ENVTUNE_PROGRESS" in os.environ
    handle, begun = None, False

    def echo(line: dict) -> None:
        nonlocal handle, begun
        over, kind = bar(line), line["kind"]
        first, begun = not begun, begun or kind in ("train", "resumed", "finished")
        if not begun or not (first or kind in ("validation", "alarm", "finished") or kind == "train" and line["step"] % every == 0):
            return
        fig = figures.stage_dynamics(files.load_metrics(run_dir), source)
        fig.savefig(picture, dpi=90)
        figures.plt.close(fig)
        if headless and over:
            display(Image(picture))
        elif not headless and handle is None:
            handle = display(Image(picture), display_id=True)
        elif not headless:
            handle.update(Image(picture))
    return echo


def _draw(file: Path, stopped: threading.Event, name: str) -> None:
    """Show the share that the kernel reports, with the time left, until told to stop."""
    interval = 1.0 if sys.stderr.isatty() else 20.0
    with tqdm(total=100, bar_format="{percentage:3.0f}%|{bar:30}| {elapsed} elapsed, {remaining} left  {desc}",
              mininterval=interval, ncols=110, desc=name) as bar:
        ended = False
        while not ended:
            ended = stopped.wait(0.5)
            if file.exists():
                state = json.loads(file.read_text())
                bar.set_description_str(state["text"], refresh=False)
                bar.update(max(0.0, 100 * state["share"] - bar.n))


def run(notebook: Path, parameters: dict | None = None) -> Path:
    """Execute a notebook with papermill and return the executed copy, runs/<run_name>/<name>.ipynb.

    While it runs, and when a cell raises, the copy is <name>.unfinished.ipynb: one that ran to its end is replaced by such a one alone.
    ValueError for wrong parameters, before anything starts; NotebookFailed when a cell raises.
    """
    import papermill
    parameters = parameters or {}
    declared = declared_parameters(notebook)
    refuse_wrong(parameters, declared, notebook.name)
    run_name = parameters.get("run_name", declared.get("run_name", notebook.stem))
    out = paths.run_dir(run_name) / notebook.name
    unfinished = out.with_suffix(".unfinished.ipynb")
    with tempfile.TemporaryDirectory() as folder:
        file, stopped = Path(folder) / "progress.json", threading.Event()
        os.environ["ENVTUNE_PROGRESS"] = str(file)
        drawer = threading.Thread(target=_draw, args=(file, stopped, notebook.stem))
        drawer.start()
        try:
            papermill.execute_notebook(notebook, unfinished, parameters, cwd=notebook.parent, progress_bar=False, kernel_name="python3",
                                       extra_arguments=["--IPKernelApp.log_level=40"])  # its warnings would cut up the bar
            unfinished.replace(out)
            file.write_text(json.dumps({"share": 1.0, "text": f"{notebook.stem} done"}))
        except papermill.PapermillExecutionError as error:
            raise NotebookFailed(f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                                 f"the executed notebook up to there: {unfinished}") from None
        finally:
            stopped.set()
            drawer.join()
            del os.environ["ENVTUNE_PROGRESS"]
    return out
