"""The folders of the workspace. ENVTUNE_RUNS and ENVTUNE_FIGURES move runs and figures."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"


def runs() -> Path:
    """The folder with one folder per run. Read at call time, so that tests and jobs can move it."""
    return Path(os.environ.get("ENVTUNE_RUNS", ROOT / "runs"))


def figures() -> Path:
    """The folder of published figures."""
    return Path(os.environ.get("ENVTUNE_FIGURES", ROOT / "figures"))


def run_dir(name: str) -> Path:
    """`runs/<name>`, created. ValueError when the name is not a plain folder name."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"a run name is a plain folder name such as 'quickstart', got {name!r}")
    path = runs() / name
    path.mkdir(parents=True, exist_ok=True)
    return path
