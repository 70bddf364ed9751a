"""Notebooks as functions: parameters that must exist, a run folder each, one progress bar.

    $ python -m envtune run notebooks/00_quickstart.ipynb -p seed 1 -p run_name second

papermill only warns of a misspelt parameter and then runs with the default. Unknown names and
wrong types are therefore refused twice: before a run starts (`run`), and inside the notebook
(`open_run`), for those who call papermill directly. What is declared is read from the notebook
itself, so a copy under another name, or with more parameters, works the same.
"""

import ast
import json
import math
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from envtune.common import files, paths

INJECTED = "# Parameters\n"  # how papermill begins the cell that it injects
# and what it does not write there: `seed: int = 0`, by which a cell of one's own declares
DECLARATION = re.compile(r"^\w+ *:", re.MULTILINE)
PORT_RACE = re.compile(
    r"Address already in use|ZMQError|Kernel died before replying|Kernel didn't respond"
)
"""Errors of a kernel that lost a race for a port (papermill#511): the run is tried again."""
TRIES = 3
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}


class NotebookFailed(RuntimeError):
    """A cell raised; the message names the cell, the error and the saved notebook."""


class Parameter(NamedTuple):
    """`steps: int = None` in the cell tagged `parameters`: type "int", default None."""

    type: str
    default: object


def _parameters(source: str) -> dict[str, Parameter]:
    """What a parameters cell declares; papermill's own reading stumbles over a "#" in a text."""
    try:
        return {
            node.target.id: Parameter(
                ast.unparse(node.annotation).partition("[")[0].partition(" |")[0],
                ast.literal_eval(node.value),
            )
            for node in ast.parse(source).body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        }
    except (ValueError, SyntaxError):
        raise ValueError(f"a parameters cell holds literals only, got:\n{source}") from None


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters of a notebook. ValueError for a file that is none or declares none."""
    if notebook.suffix != ".ipynb":
        raise ValueError(f"{notebook} is not a notebook; give a file that ends in .ipynb")
    try:
        cells = json.loads(notebook.read_text())["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{notebook} is not a readable notebook: {error!r}") from None
    if not tagged:
        raise ValueError(f"{notebook} has no cell tagged `parameters`")
    return _parameters("".join(tagged[0]["source"]))


def _fits(value, parameter: Parameter) -> bool:
    if value is None:
        return parameter.default is None
    if isinstance(value, bool):  # for Python a bool is also an int
        return parameter.type not in TYPES or parameter.type == "bool"
    return isinstance(value, TYPES.get(parameter.type, object))


def refuse_wrong(given: dict, declared: dict[str, Parameter], notebook: str) -> None:
    """ValueError for a parameter that the notebook lacks, or of another type than declared."""
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ValueError(
            f"{notebook} has no parameter {', '.join(unknown)}; it takes {', '.join(declared)}"
        )
    for name, value in given.items():
        if not _fits(value, declared[name]):
            raise ValueError(
                f"{notebook}: parameter {name} is of type {declared[name].type} "
                f"(default {declared[name].default!r}), got {value!r}"
            )


def check_injected(cells: list[str], values: dict) -> None:
    """Refuse what papermill injected but the cell before it does not declare.

    `cells` are the sources that ran so far, `values` the variables. Nothing injected: no check.
    Papermill's tag is not seen from inside, and the user's own cell may have the same first line.
    """
    places = [
        i
        for i, cell in enumerate(cells)
        if cell.startswith(INJECTED) and not DECLARATION.search(cell)
    ]
    if places:
        declared = _parameters(cells[places[0] - 1])
        if not declared:
            return  # the injected cell was run by itself
        injected = ast.parse(cells[places[-1]]).body
        targets = [t for node in injected if isinstance(node, ast.Assign) for t in node.targets]
        given = {t.id: values[t.id] for t in targets if isinstance(t, ast.Name)}
        refuse_wrong(given, declared, "this notebook")


def open_run(run_name: str) -> Path:
    """To be called first in a notebook: check its parameters, create and return the run folder.

    The training libraries' own warnings are silenced: they say nothing about a run.
    """
    from IPython import get_ipython

    shell = get_ipython()
    check_injected(shell.user_ns.get("In", []), shell.user_ns)
    warnings.filterwarnings("ignore", module="trl|transformers|torch")
    return paths.run_dir(run_name)


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """ValueError in one sentence for a name in a list parameter that is none of the known."""
    if unknown := [name for name in given if name not in set(known)]:
        raise ValueError(
            f"{what} are any of {', '.join(known)}; got {', '.join(map(repr, unknown))}"
        )


def label(setup, seed: int) -> str:
    """What a figure of a run is labelled with: its preset's model and its seed."""
    return f"{setup.model}, seed {seed}"


def show(figure, file: Path, width: int = 900) -> None:
    """Save a figure as file.png and file.pdf, close it, and show the picture in the cell."""
    from IPython.display import Image, display
    from matplotlib import pyplot as plt

    picture, _ = files.save_figure(figure, file)
    plt.close(figure)
    display(Image(picture, width=width, alt=file.name.replace("_", " ")))


def _draw(file: Path, stopped: threading.Event, name: str) -> None:
    """Show what the kernel reports, with the time left, until told to stop.

    A bar in a terminal; elsewhere a plain line, when there is news and at most every 20 seconds.
    """
    terminal = sys.stderr.isatty()
    with (
        open(os.devnull, "w") as nowhere,
        tqdm(
            total=100,
            bar_format="{percentage:3.0f}%|{bar:30}| {elapsed} elapsed, {remaining} left  {desc}",
            ncols=110 if terminal else 200,
            desc=name,
            file=sys.stderr if terminal else nowhere,
        ) as bar,
    ):
        ended, said, said_at = False, "", -math.inf
        while not ended:
            ended = stopped.wait(0.5)
            if file.exists():
                state = json.loads(file.read_text())
                bar.set_description_str(state["text"], refresh=False)
                bar.update(max(0.0, 100 * state["share"] - bar.n))
            now, text = time.monotonic(), bar.desc
            if not terminal and text != said and (ended or now - said_at > 20):
                print(bar, file=sys.stderr, flush=True)
                said, said_at = text, now


def _execute(notebook: Path, out: Path, parameters: dict) -> None:
    """papermill's execution, begun again when a kernel, or a server in a cell, lost its port."""
    import papermill

    for attempt in range(1, TRIES + 1):
        try:
            papermill.execute_notebook(
                notebook,
                out,
                parameters,
                cwd=notebook.parent,
                progress_bar=False,
                kernel_name="python3",
                extra_arguments=["--IPKernelApp.log_level=40"],  # warnings would cut up the bar
            )
            return
        except Exception as error:
            # a cell's error has the whole traceback as its text, which may name a port in passing
            cell = isinstance(error, papermill.PapermillExecutionError)
            text = f"{error.ename}: {error.evalue}" if cell else f"{type(error).__name__}: {error}"
            if attempt == TRIES or not PORT_RACE.search(text):
                raise


def run(notebook: Path, parameters: dict | None = None) -> Path:
    """Execute a notebook with papermill and return the executed copy, runs/<run_name>/<name>.ipynb.

    While it runs, and when a cell raises, the copy is <name>.unfinished.ipynb; a copy that ran to
    its end is replaced only by another such copy. ValueError for wrong parameters, before anything
    starts; NotebookFailed when a cell raises.
    """
    import papermill

    parameters = parameters or {}
    declared = declared_parameters(notebook)
    refuse_wrong(parameters, declared, notebook.name)
    own = declared["run_name"].default if "run_name" in declared else notebook.stem
    run_name = parameters.get("run_name", own)
    out = paths.run_dir(run_name) / notebook.name
    unfinished = out.with_suffix(".unfinished.ipynb")
    with tempfile.TemporaryDirectory() as folder:
        file, stopped = Path(folder) / "progress.json", threading.Event()
        os.environ["ENVTUNE_PROGRESS"] = str(file)
        drawer = threading.Thread(target=_draw, args=(file, stopped, notebook.stem))
        drawer.start()
        try:
            _execute(notebook, unfinished, parameters)
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
