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
from pathlib import Path

from tqdm import tqdm

from envtune.common import paths


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
        raise ValueError(
            f"{notebook} has no parameter {', '.join(unknown)}; it takes {', '.join(declared)}"
        )
    for name, value in given.items():
        if not _fits(value, declared[name]):
            raise ValueError(
                f"{notebook}: parameter {name} is of type {type(declared[name]).__name__} "
                f"(default {declared[name]!r}), got {value!r}"
            )


def check_parameters(name: str) -> None:
    """Called by notebook `name` after its parameters cell: refuses what papermill injected but the notebook lacks."""
    from IPython import get_ipython

    shell = get_ipython()
    given = {}
    for cell in shell.user_ns.get("In", []):
        if cell.startswith(
            "# Parameters\n"
        ):  # the header that papermill gives to the cell it injects
            for node in ast.parse(cell).body:
                given |= (
                    {target.id: shell.user_ns[target.id] for target in node.targets}
                    if isinstance(node, ast.Assign)
                    else {}
                )
    refuse_wrong(given, declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb"), name)


def _draw(file: Path, stopped: threading.Event, name: str) -> None:
    """Show the share that the kernel reports, with the time left, until told to stop."""
    interval = 1.0 if sys.stderr.isatty() else 20.0
    with tqdm(
        total=100,
        bar_format="{percentage:3.0f}%|{bar:30}| {elapsed} elapsed, {remaining} left  {desc}",
        mininterval=interval,
        ncols=110,
        desc=name,
    ) as bar:
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
            papermill.execute_notebook(
                notebook,
                unfinished,
                parameters,
                cwd=notebook.parent,
                progress_bar=False,
                kernel_name="python3",
                extra_arguments=["--IPKernelApp.log_level=40"],
            )  # its warnings would cut up the bar
            unfinished.replace(out)
            file.write_text(json.dumps({"share": 1.0, "text": f"{notebook.stem} done"}))
        except papermill.PapermillExecutionError as error:
            raise NotebookFailed(
                f"{notebook.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                f"the executed notebook up to there: {unfinished}"
            ) from None
        finally:
            stopped.set()
            drawer.join()
            del os.environ["ENVTUNE_PROGRESS"]
    return out
