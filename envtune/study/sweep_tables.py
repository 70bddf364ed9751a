"""The runs of a sweep as tables, read from their folders: states, results, curves, provenance.

>>> run_states(points)       # run, state, stage, step, of, progress, minutes, error
>>> results(points)          # a row per run: axes, state, error, what its notebook measured
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from envtune.common import paths
from envtune.common.files import load_metrics, read_json, read_lines, write_json


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str  # its run folder, runs/<name>
    parameters: dict  # all that the notebook is given, run_name included
    axes: dict  # those in which the points differ

    @property
    def folder(self) -> Path:
        return paths.runs() / self.name

    @property
    def state(self) -> dict:
        """What was noted last: state (waiting, running, done or failed), parameters, seconds."""
        return read_json(self.folder / "sweep_state.json", {"state": "waiting"})

    def note(self, **state) -> dict:
        """Keep a state, with the parameters that it belongs to, and return it."""
        write_json(self.folder / "sweep_state.json", {"parameters": self.parameters, **state})
        return state

    @property
    def finished(self) -> bool:
        """Whether the point ran to its end with these parameters."""
        state = self.state
        return state["state"] == "done" and state["parameters"] == self.parameters


def run_states(points: Sequence[Point]) -> pd.DataFrame:
    """Columns run, state, stage, step (over all stages), of, progress, minutes and error."""
    rows = []
    for point in points:
        state, steps = point.state, []
        metrics = point.folder / "metrics.jsonl"
        if metrics.exists():
            steps = [row for row in read_lines(metrics) if row["kind"] == "train"]
        last = steps[-1] if steps else {}
        spent = state.get("seconds", time.time() - state["since"] if "since" in state else 0)
        rows.append(
            {
                "run": point.name,
                "state": state["state"],
                "stage": last.get("stage", ""),
                "step": len(steps),
                "of": sum(point.parameters.get("stage_steps") or []),
                "progress": last.get("progress", float("nan")),
                "minutes": round(spent / 60, 2),
                "error": state.get("error", ""),
            }
        )
    return pd.DataFrame(rows)


def results(points: Sequence[Point]) -> pd.DataFrame:
    """One row per run: axes, state, and the notebook's result.json; several if that is a list."""
    rows = []
    for point in points:
        state, file = point.state, point.folder / "result.json"
        result = json.loads(file.read_text()) if state["state"] == "done" and file.exists() else {}
        ended = {"state": state["state"], "error": state.get("error", "")}
        common = {"run": point.name, **_flat(point.axes), **ended}
        rows += [{**common, **one} for one in (result if isinstance(result, list) else [result])]
    return pd.DataFrame(rows)


def _flat(axes: dict) -> dict:
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in axes.items()
    }


CURVES = (
    *"stage step kind reward reward_std progress accuracy entropy kl grad_norm".split(),
    *"format_reward recovery_rate share_of_groups_without_signal episodes seconds".split(),
    *(f"accuracy_{split}" for split in ("base", "miss_func", "miss_param", "long_context")),
)
"""The columns of metrics.jsonl that curves.parquet keeps."""


def curves(points: Sequence[Point]) -> pd.DataFrame:
    """Metrics of all finished runs, with run, axes and `at`, the step over a run's stages."""
    parts = []
    for point in points:
        if point.finished and (point.folder / "metrics.jsonl").exists():
            data = load_metrics(point.folder, kinds=("train", "validation"))
            columns = [name for name in (*CURVES, "at") if name in data]
            parts.append(data[columns].assign(run=point.name, **_flat(point.axes)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run"])


def provenance(book: Path, points: Sequence[Point]) -> dict:
    """Notebook, parameters and seconds of the finished runs; versions and device of the first."""
    done = [point for point in points if point.finished]
    # a run folder may contain the folders of other runs
    made = [file for point in done for file in sorted(point.folder.rglob("versions.json"))]
    runs = [
        {"run": p.name, "seconds": p.state.get("seconds"), "parameters": p.parameters} for p in done
    ]
    return {
        "notebook": book.name,
        "versions": read_json(made[0]) if made else {},
        "cores_of_the_machine": os.cpu_count(),
        "runs": runs,
    }
