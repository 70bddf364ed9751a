"""Progress of a notebook shown in a terminal: the kernel writes it, `envtune run` draws it.

    with progress.phase("stage 1", start=0.2, end=0.4):   # shares of the whole run [0..1]
        progress.report(3, 20)                            # 3 of 20 steps of the phase

ENVTUNE_PROGRESS in the environment names the file; without it, all of this does nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from envtune.common.files import write_json

FILE = "ENVTUNE_PROGRESS"
_phase = {"name": "", "start": 0.0, "end": 1.0}


@contextlib.contextmanager
def phase(name: str, start: float, end: float) -> Iterator[None]:
    """Name the current phase and its share of the whole run."""
    before = dict(_phase)
    _phase.update(name=name, start=start, end=end)
    report(0, 1)
    try:
        yield
    finally:
        report(1, 1)
        _phase.update(before)


def in_kernel() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def in_notebook() -> bool:
    """Whether somebody reads the notebook while its cells run; not under `envtune run`."""
    return in_kernel() and FILE not in os.environ


def bar(total: int, description: str, unit: str, quiet: bool = False, initial: int = 0) -> tqdm:
    """A progress bar for a notebook or a terminal; silent under `envtune run`, which draws its own.

    Plain tqdm, because tqdm.auto freezes under papermill. It redraws every two seconds only,
    because papermill keeps every redraw as a line.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        mininterval=2,
        ncols=110,
        file=sys.stdout if in_notebook() else None,  # a notebook shows stderr on red
        disable=quiet or FILE in os.environ,
    )


def report(done: float, total: float, text: str = "") -> None:
    """Report how far the current phase is; `text` replaces its name and the count."""
    target = os.environ.get(FILE)
    if not target:
        return
    share = _phase["start"] + (_phase["end"] - _phase["start"]) * done / max(1, total)
    text = text or (f"{_phase['name']} {done}/{total}" if total > 1 else _phase["name"])
    # written for every task of an evaluation and of no use after the run
    write_json(Path(target), {"share": share, "text": text}, durable=False)
