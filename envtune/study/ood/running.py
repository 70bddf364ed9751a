"""Runs harnesses on checkpoints, one row for each task and checkpoint, and goes on after a kill.

    >>> rows = run({"stage 4": "runs/x/stage4_alignment/policy"}, ["BFCL V4"], options, folder)

A checkpoint is served only if a task of it is left to be played.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from envtune.common import progress
from envtune.common.files import atomic, fingerprint, read_json, write_json
from envtune.study.notebook import refuse_unknown
from envtune.study.ood import acebench, bfcl_v4, serving, tau2
from envtune.study.ood.setting import Checkpoint, Job, Options, row
from envtune.train.errors import JobFailed

HARNESSES = {found.name: found for found in (bfcl_v4.HARNESS, tau2.HARNESS, acebench.HARNESS)}
"""In the order of the paper's Table 2."""
RESULTS = "rows.csv"
MAY_CHANGE = ("tasks", "threads", "embedding_model", "acebench_data", "server", "serve_arguments")
"""Options under which an interrupted run may go on."""


def _reopen(job: Job) -> None:
    """Create the job's folder. ValueError when it has results of other settings."""
    job.folder.mkdir(parents=True, exist_ok=True)
    kept = {name: v for name, v in asdict(job.options).items() if name not in MAY_CHANGE}
    now: dict[str, Any] = {"checkpoint": asdict(job.checkpoint), "options": kept}
    if job.checkpoint.folder and not job.checkpoint.endpoint:
        now["weights"] = fingerprint(Path(job.checkpoint.folder))
    before = read_json(job.folder / "settings.json")
    if before is not None and {**now, **before} != now:
        raise ValueError(
            f"{job.folder} has results of another checkpoint or of other settings ({before}); "
            "choose another run_name, or delete the folder"
        )
    write_json(job.folder / "settings.json", now)


def _refusal(job: Job, task: str) -> str:
    if job.options.tasks and task not in job.options.tasks:
        return "not chosen"
    if not job.harness.version:
        return f"make {job.harness.target}"
    return job.harness.refusal(job, task)


def wanted(job: Job, task: str) -> int:
    """The number of results that a finished task has; 0 where it is not known."""
    options, total = job.options, job.harness.tasks[task]
    if job.harness.name == tau2.HARNESS.name:
        total = (total if options.tau2_split == "test" else 0) * options.tau2_trials
        return min(total, (options.limit or total) * options.tau2_trials)
    return min(total, options.limit or total)


def _finished(job: Job, task: str) -> bool:
    score = job.harness.read(job, task)
    return score is not None and 0 < wanted(job, task) <= score.n


def last_error(log: Path) -> str:
    """The last line of a log that names an error, or the last one, shortened."""
    if not log.exists():
        return "it was not started"
    text = log.read_bytes()[-100_000:].decode(errors="replace")
    said = [line.strip() for line in re.split(r"[\r\n]+", text) if re.search(r"\w", line)]
    errors = [line for line in said if re.search(r"\w*(Error|Exception|failed)\b", line)]
    return (errors or said or ["it wrote nothing"])[-1][:300]


def _row(job: Job, task: str) -> dict:
    """What the files say now; why not, where they say nothing."""
    score, whole = job.harness.read(job, task), wanted(job, task)
    if score and score.n < whole:
        partly = f"{score.n} of {whole} so far: run again to go on"
        score = score._replace(note="; ".join(filter(None, (partly, score.note))))
    why = "" if score else _refusal(job, task) or last_error(job.folder / f"{task}.log")
    return row(job, task, score, why)


def run(
    checkpoints: Mapping[str, str | Mapping[str, str]],
    harnesses: Sequence[str],
    options: Options,
    folder: Path,
) -> pd.DataFrame:
    """Play what is left, and return one row per harness, task and checkpoint; also in rows.csv.

    checkpoints: what `Checkpoint.of` takes, by name, in the order of the columns.

    ValueError for a harness or checkpoint that does not exist, or a folder of other settings.
    """
    refuse_unknown("harnesses", harnesses, HARNESSES)
    refuse_unknown("tasks", options.tasks, [task for h in HARNESSES.values() for task in h.tasks])
    chosen = [harness for name, harness in HARNESSES.items() if name in harnesses]
    columns = [Checkpoint.of(name, where) for name, where in checkpoints.items()]
    rows: list[dict] = []
    with progress.bar(len(columns) * len(chosen), "out of distribution", "harness") as bar:
        for checkpoint in columns:
            where = folder / checkpoint.name
            jobs = [Job(h, checkpoint, options, where / h.target) for h in chosen]
            for job in jobs:
                _reopen(job)
            todo = [(j, t) for j in jobs for t in j.harness.tasks if not _refusal(j, t)]
            todo = [(job, task) for job, task in todo if not _finished(job, task)]
            failed = _play(todo, checkpoint, options, where) if todo else ""
            for job in jobs:
                for task in job.harness.tasks:
                    found = _row(job, task)
                    if failed and (job, task) in todo and found["score"] is None:
                        found["why"] = failed
                    rows.append(found)
                bar.update()
    table = pd.DataFrame(rows)
    with atomic(folder / RESULTS) as unfinished:
        table.to_csv(unfinished, index=False)
    return table


def unplayed(harnesses: Sequence[str]) -> pd.DataFrame:
    """The rows without a checkpoint: nothing ran, and what is needed first."""
    refuse_unknown("harnesses", harnesses, HARNESSES)
    rows = []
    for harness in (found for name, found in HARNESSES.items() if name in harnesses):
        job = Job(harness, Checkpoint("no checkpoint"), Options(), Path())
        why = "give checkpoints" if harness.version else f"make {harness.target}"
        rows += [row(job, task, None, why) for task in harness.tasks]
    return pd.DataFrame(rows)


def _play(todo: list[tuple[Job, str]], checkpoint: Checkpoint, options: Options, where: Path):
    """Serve the checkpoint and play the tasks; returns why nothing could be served, or ""."""
    try:
        with serving.served(checkpoint, options, where / "server.log") as endpoint:
            for job, task in todo:
                print(f"{checkpoint.name}: {job.harness.name}, {task}", flush=True)
                job.harness.play(replace(job, endpoint=endpoint), task)
    except (JobFailed, ImportError) as error:
        return str(error)
    return ""
