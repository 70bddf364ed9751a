"""Keep the study's results: the tables of its sweeps, from runs/ into data/reference_runs.

    $ make ablations && python benchmarks/keep_study.py && python -m envtune claims --write

A sweep in which a run is missing or failed is named and left as it was. Episodes are not kept, but
what notebook 18 counts in them is.
"""

import shutil

import pandas as pd

from envtune.common import paths
from envtune.study import mechanism
from envtune.study.source_runs import SourceRuns

RUNS = SourceRuns()
WITH_HABITS = (RUNS.curriculum, RUNS.augmentation, f"{RUNS.augmentation}_deaf")


def keep(name: str) -> str:
    """Copy one sweep's tables; returns what was done as a sentence."""
    home, kept = paths.runs() / name, paths.DATA / "reference_runs" / name
    if not (home / "summary.parquet").exists():
        return f"{name}: no finished sweep in {paths.runs().name}/"
    summary = pd.read_parquet(home / "summary.parquet")
    if open_ := summary.loc[summary["state"] != "done", "run"].tolist():
        return f"{name}: left as it was, these runs are not done: {', '.join(open_)}"
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("summary.parquet", "curves.parquet", "provenance.json"):
        shutil.copy(home / file, kept / file)
    if name in WITH_HABITS:
        mechanism.of_sweep(name).to_parquet(kept / "habits.parquet", index=False)
    return f"{name}: {len(summary)} rows"


if __name__ == "__main__":
    for sweep in (*RUNS.ablations, RUNS.baselines, RUNS.collapse):
        print(keep(sweep))
