"""Keep the study's results: what its sweeps in runs/ gave, in data/reference_runs.

    $ make ablations && python benchmarks/keep_study.py && python -m envtune claims --write
    $ python benchmarks/keep_study.py --restore     # on another machine, before `make ablations`

A finished sweep is kept as its tables. Of an unfinished one the finished runs are kept, without
weights and episodes, in unfinished/NAME.tar.gz: restored into runs/, they are not repeated. Both
come with the verdict on every test task, and those of 12 and 13 with what notebook 18 counts in
the episodes.
"""

import argparse
import gzip
import shutil
import tarfile
from pathlib import Path

import pandas as pd

from envtune.common import paths
from envtune.common.files import atomic, read_json
from envtune.study import mechanism
from envtune.study.source_runs import SourceRuns

RUNS = SourceRuns()
SWEEPS = (*RUNS.ablations, RUNS.baselines, RUNS.collapse)
WITH_HABITS = (RUNS.curriculum, RUNS.augmentation, f"{RUNS.augmentation}_deaf")
KEPT = paths.DATA / "reference_runs"
OF_A_RUN = ("result.json", "evaluation.csv", "metrics.jsonl", "habits.parquet", "sweep_state.json")
"""With every versions.json, all that a sweep's tables are made from. The state comes last: without
it, a run that was restored in part is not taken for a finished one."""


def keep(name: str) -> str:
    """Keep one sweep, as far as it is; returns what was done as a sentence."""
    home, unfinished = paths.runs() / name, KEPT / "unfinished" / f"{name}.tar.gz"
    restore(name)  # what another machine made is kept too
    done = [folder for folder in sorted(paths.runs().glob(f"{name}.*")) if _is_done(folder)]
    if (home / "summary.parquet").exists():
        summary = pd.read_parquet(home / "summary.parquet")
        known = set(summary["run"])
        if set(summary["state"]) == {"done"} and known >= {folder.name for folder in done}:
            (KEPT / name).mkdir(parents=True, exist_ok=True)
            for file in ("summary.parquet", "curves.parquet", "provenance.json"):
                shutil.copy(home / file, KEPT / name / file)
            if name in WITH_HABITS:
                mechanism.of_sweep(name).to_parquet(KEPT / name / "habits.parquet", index=False)
            judged = all((paths.runs() / run / "evaluation.csv").exists() for run in known)
            if judged:
                played = mechanism.evaluations(name)
                played.to_parquet(KEPT / name / "evaluation.parquet", index=False)
            unfinished.unlink(missing_ok=True)
            left_out = "" if judged else ", no verdicts by task"
            return f"{name}: finished, {len(summary)} rows{left_out}"
    if not done:
        return f"{name}: no finished run in {paths.runs().name}/"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic(unfinished) as file,
        open(file, "wb") as out,
        gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for folder in done:
            if name in WITH_HABITS:
                mechanism.habits_of_run(folder)
            versions = [file.relative_to(folder) for file in sorted(folder.rglob("versions.json"))]
            for part in (*versions, *map(Path, OF_A_RUN)):
                if (folder / part).exists():
                    archive.add(folder / part, f"{folder.name}/{part}", filter=_of_nobody)
    return f"{name}: unfinished, {len(done)} finished runs kept"


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Equal runs make equal archives."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _is_done(folder: Path) -> bool:
    return read_json(folder / "sweep_state.json", {"state": "waiting"})["state"] == "done"


def restore(name: str) -> str:
    """Put the finished runs of an unfinished sweep into runs/; what is there stays as it is."""
    archive = KEPT / "unfinished" / f"{name}.tar.gz"
    if not archive.exists():
        return f"{name}: nothing kept of an unfinished sweep"
    there = {folder.name for folder in paths.runs().glob(f"{name}.*")}
    with tarfile.open(archive) as kept:
        members = [m for m in kept.getmembers() if m.name.split("/")[0] not in there]
        kept.extractall(paths.runs(), members, filter="data")
    return f"{name}: {len({m.name.split('/')[0] for m in members})} finished runs restored"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restore", action="store_true", help="the other way, into runs/")
    chosen = parser.parse_args()
    for sweep in SWEEPS:
        print((restore if chosen.restore else keep)(sweep))
