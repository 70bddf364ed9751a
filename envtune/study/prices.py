"""What a notebook's training costs with every preset, as a table for its opening.

>>> table(["stage2_hints"], runs=4, steps=3)      # preset, model, optimiser steps, time, known from
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from envtune.policy import agent
from envtune.study.case_sweep import MEASURED
from envtune.train import cost
from envtune.train.presets import PRESETS, Preset
from envtune.train.stages import STAGES

BASIS = "measured, 1 CPU core"
"""Of a small x86-64 machine; the steps of data/reference_runs, scaled to the preset's size."""


def table(stages: Sequence[str] = (), runs: int = 1, steps: int | None = None) -> pd.DataFrame:
    """Steps and time of `runs` runs of these stages (none: all four), a row for each preset.

    steps: of each stage; None: the preset's. An evaluation at the end is not counted. GPU presets
    are estimated by arithmetic, and nothing of that was measured.
    """
    names = list(stages) or [stage.name for stage in STAGES]
    rows = []
    for preset in PRESETS.values():
        counts = preset.stage_steps if steps is None else (steps,) * len(STAGES)
        found, basis = _found(replace(preset, stage_steps=counts))
        planned = sum(n for n, stage in zip(counts, STAGES, strict=True) if stage.name in names)
        hours = runs * found.loc[found["stage"].isin(names), "hours"].sum() if len(found) else None
        rows.append((preset.name, preset.model, runs * planned, _said(hours), basis))
    columns = ["preset", "model", "optimiser steps", "time", "known from"]
    return pd.DataFrame(rows, columns=columns).set_index("preset")


def _found(preset: Preset) -> tuple[pd.DataFrame, str]:
    """Hours by stage, empty where they are not known; and how they are known."""
    if preset.model in agent.FOLDERS:
        return cost.cost(pd.read_parquet(MEASURED), preset), BASIS
    try:
        gpu = f"{preset.processes} x {preset.gpu_gib:.0f} GiB"
        return cost.estimate(preset), f"ESTIMATE, never run: {gpu}"
    except ValueError:
        return pd.DataFrame(), "not known"


def _said(hours: float | None) -> str:
    """Hours as text, in the unit that reads best."""
    if hours is None:
        return "?"
    if hours < 2 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h"
