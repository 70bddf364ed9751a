"""The sweeps of notebooks 12 to 16 and 19: cases times seeds of notebook 90, their cost, the run.

>>> points = choices({"beta 0": {"beta": 0.0}, "beta 0.1": {"beta": 0.1}}, seeds=[0, 1, 2])
>>> summary, curves = run("kl_sweep", points, fixed, workers=None, ray=None)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from envtune.common import paths
from envtune.policy import agent
from envtune.study import sweeps
from envtune.train import cost
from envtune.train.presets import Preset
from envtune.train.stages import STAGES, evaluation_tasks

BOOK = paths.NOTEBOOKS / "90_experiment.ipynb"
MEASURED = paths.DATA / "reference_runs" / "cpu_tiny_seed0.parquet"


def choices(changes: Mapping[str, dict], seeds: Sequence[int]) -> list[dict]:
    """One choice for each case and seed; `changes` are the parameters of notebook 90 by case.

    Seed by seed, so that a sweep that was stopped has compared all cases with its first seeds.
    """
    return [
        {"case": case, **changed, "seed": seed}
        for seed in seeds
        for case, changed in changes.items()
    ]


def split_steps(total: int, weights: Sequence[int]) -> list[int]:
    """`total` steps over stages in proportion to `weights`, such as the preset's stage_steps.

    Every stage has one step at least, as far as they go round.

    >>> split_steps(32, [1, 1, 1]), split_steps(22, [8, 12, 14, 10]), split_steps(3, [1, 9, 9])
    ([10, 11, 11], [4, 6, 7, 5], [1, 1, 1])
    """
    done = [total * sum(weights[:i]) // sum(weights) for i in range(len(weights) + 1)]
    steps = [after - before for before, after in zip(done, done[1:], strict=False)]
    while 0 in steps and max(steps) > 1:
        steps[steps.index(max(steps))] -= 1
        steps[steps.index(0)] += 1
    return steps


def _hours(measured: pd.DataFrame, setup: Preset, run: dict) -> float:
    """Hours of one run: steps and validations by train/cost.py, and the evaluation at its end."""
    steps = dict.fromkeys((stage.name for stage in STAGES), 0)
    for name, count in zip(run["stages"], run["stage_steps"], strict=True):
        steps[name if name in steps else STAGES[-1].name] += count  # the baselines resemble stage 4
    preset = replace(setup, stage_steps=tuple(steps.values()), validate_every=run["validate_every"])
    table = cost.cost(measured, preset)
    checks = measured[measured["kind"] == "validation"]
    hours_per_episode = sum(checks["seconds"]) / sum(checks["episodes"]) / 3600
    training = table.loc[(table["stage"] != "all") & (table["steps"] > 0), "hours"].sum()
    return training + len(evaluation_tasks(setup, run["test_tasks"])) * hours_per_episode


def price(setup: Preset, points: Sequence[dict], fixed: dict) -> str:
    """What a sweep costs, in a sentence: runs, optimiser steps, and hours where they are known."""
    runs = [{**fixed, **point} for point in points]
    steps = sum(sum(run["stage_steps"]) for run in runs)
    said = f"{len(runs)} runs, {steps} optimiser steps in all"
    if setup.model not in agent.FOLDERS:
        return (
            f"{said}. The hours are not known for {setup.model}: train a few steps and ask "
            "`python -m envtune cost` (docs/sweeps.md)."
        )
    hours = sum(_hours(pd.read_parquet(MEASURED), setup, run) for run in runs)
    return (
        f"{said}, about {hours:.1f} device-hours with evaluation, from the step times of a "
        "committed run; the device is one core of a small x86-64 machine."
    )


def run(
    name: str, points: Sequence[dict], fixed: dict, workers: int | None, ray: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run the sweep with a progress bar. Returns its summary, a row per run, and its curves."""
    summary = sweeps.sweep(BOOK, name, points, fixed, workers, ray)
    return summary, pd.read_parquet(paths.runs() / name / "curves.parquet")
