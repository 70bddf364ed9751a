"""A run folder: what it was made with, what happened in it, and where it can go on from. Nothing here is lost on a kill.

    runs/<name>/config.json  versions.json  best.json  metrics.jsonl  episodes.jsonl.gz  <stage>/checkpoint-<step>/  <stage>/policy/

metrics.jsonl has a line for every optimiser step (kind "train"), validation, transition decision, alarm of the collapse guard and
rollback. A line is appended whole; a kill can tear only the last one, and whoever resumes cuts the file back to the checkpoint. Json
files and policies are written beside their place and renamed. A checkpoint counts only once it is sealed: its last file lists the
others with their sizes.
"""

import contextlib
import errno
import gzip
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import TrainerCallback

from envtune import bfcl
from envtune.common import progress
from envtune.common.files import atomic, read_lines, write_json
from envtune.policy import rollout
from envtune.record import EpisodeRecord
from envtune.train.errors import CannotWrite

OnRow = Callable[[dict], None]
"""Told every line of metrics.jsonl as it is written, and three kinds that are not: "resumed" with the step that a stage goes on from,
"finished" with its last step, also where it had finished before, and "stopped" by an interrupt or an error."""

COMPLETE_MARKER = "envtune_seal.json"
_LOGGED = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "frac_reward_zero_std": "share_of_groups_without_signal",
    "learning_rate": "learning_rate",
    "completions/mean_length": "sampled_tokens_per_episode",
}
"""TRL's names -> ours, for what TRL computes; the rest of a line comes from rollout.metrics."""


def versions() -> dict[str, str]:
    """What a result depends on besides config and seed."""
    found = {
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda or "none",
        "cores": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    for package in (
        "bfcl-eval",
        "torch",
        "transformers",
        "trl",
        "peft",
        "datasets",
        "accelerate",
        "bitsandbytes",
        "deepspeed",
        "vllm",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def mark_complete(checkpoint: Path, attempt: int) -> None:
    """Mark a checkpoint as whole; the last thing that is written into it. `attempt`: how many rollbacks of the stage came before it."""
    sizes = {
        str(f.relative_to(checkpoint)): f.stat().st_size
        for f in sorted(checkpoint.rglob("*"))
        if f.is_file() and f.name != COMPLETE_MARKER
    }
    write_json(checkpoint / COMPLETE_MARKER, {"attempt": attempt, "files": sizes})


def _broken(checkpoint: Path, rollbacks: Sequence[dict]) -> str | None:
    """Why a checkpoint cannot be resumed from, or None."""
    try:
        sealed = json.loads((checkpoint / COMPLETE_MARKER).read_text())
    except FileNotFoundError:
        return "it was not written to its end"
    except json.JSONDecodeError:
        return f"its {COMPLETE_MARKER} is damaged"
    for name, size in sealed["files"].items():
        file = checkpoint / name
        if not file.exists() or file.stat().st_size != size:
            return f"{name} has {file.stat().st_size if file.exists() else 0} bytes, {size} were written"
    step = int(checkpoint.name.rsplit("-", 1)[1])
    if any(step > rolled["to_step"] for rolled in rollbacks[sealed["attempt"] :]):
        return "the run was rolled back behind it"
    return None


def last_good_checkpoint(folder: Path, rollbacks: Sequence[dict] = ()) -> Path | None:
    """The latest checkpoint of a stage that is whole and was not rolled back; the others are removed, each with a warning."""
    for checkpoint in sorted(
        folder.glob("checkpoint-*"), key=lambda c: -int(c.name.rsplit("-", 1)[1])
    ):
        why = _broken(checkpoint, rollbacks)
        if why is None:
            return checkpoint
        warnings.warn(f"{checkpoint} is left out and removed: {why}", stacklevel=2)
        shutil.rmtree(checkpoint)
    return None


def last_complete_step(folder: Path) -> int:
    """The step of a stage's last sealed checkpoint, 0 without one."""
    return max(
        (
            int(marker.parent.name.rsplit("-", 1)[1])
            for marker in folder.glob(f"checkpoint-*/{COMPLETE_MARKER}")
        ),
        default=0,
    )


def _accuracy(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Accuracy by BFCL's own verdict, over all tasks and a split."""
    verdicts: dict[str, list[bool]] = {"accuracy": []}
    for record in records:
        for name in ("accuracy", f"accuracy_{bfcl.load_task(record.task_id).split}"):
            verdicts.setdefault(name, []).append(bfcl.official_valid(record))
    return {name: sum(v) / len(v) for name, v in verdicts.items()}


class MetricsLog(TrainerCallback):
    """metrics.jsonl and episodes.jsonl.gz of a run: one line a training step, one a validation, one an episode.

    With several processes the episodes of all are gathered, the first process writes, and all hold the same lines.
    """

    def __init__(self, folder: Path, stage: str, steps: int, on_row: OnRow):
        self.folder, self.stage, self.steps, self.on_row = folder, stage, steps, on_row
        self.rows: list[dict] = []
        """The stage's lines up to now."""
        self.records: dict[str, list[EpisodeRecord]] = {"train": [], "eval": []}
        self.timings: dict[str, float] = {}
        self.last = time.monotonic()

    def on_records(
        self, mode: str, records: list[EpisodeRecord], timings: dict[str, float]
    ) -> None:
        """Called by the rollout after every batch."""
        self.records[mode] += records
        self.timings = timings

    def resume(self, step: int) -> None:
        """Drop this stage's lines past a checkpoint, so that a run that goes on from there leaves no step twice, and remember the
        others. What is dropped of metrics.jsonl is kept in discarded.jsonl."""
        if PartialState().is_main_process:
            for name in ("metrics.jsonl", "episodes.jsonl.gz"):
                if (self.folder / name).exists():
                    self._cut(self.folder / name, step)
        PartialState().wait_for_everyone()
        self._read()

    def _read(self) -> None:
        metrics = self.folder / "metrics.jsonl"
        self.rows = (
            [row for row in read_lines(metrics) if row["stage"] == self.stage]
            if metrics.exists()
            else []
        )

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

    def tell(self, kind: str, step: int) -> None:
        """Tell the reader what is no line of the file."""
        if PartialState().is_main_process:
            self.on_row({"stage": self.stage, "step": step, "kind": kind, "steps": self.steps})

    def write(
        self, step: int, kind: str, values: dict, records: Sequence[EpisodeRecord] = ()
    ) -> dict:
        """Append one metrics line and the episodes behind it, and return the line."""
        line = {
            "stage": self.stage,
            "step": step,
            "kind": kind,
            **values,
            **({**rollout.metrics(records), "episodes": len(records)} if records else {}),
        }
        [line] = broadcast_object_list([line])  # what the first process logged holds for all
        self.rows.append(line)
        if PartialState().is_main_process:
            if records:
                with gzip.open(self.folder / "episodes.jsonl.gz", "at") as out:
                    out.writelines(
                        json.dumps({"stage": self.stage, "step": step, "kind": kind, **r.to_dict()})
                        + "\n"
                        for r in records
                    )
            with open(self.folder / "metrics.jsonl", "a") as out:
                out.write(json.dumps(line) + "\n")
            began = time.monotonic()
            self.on_row(line)
            self.last += time.monotonic() - began  # what a reader draws is no part of a step
        return line

    def _episodes(self, mode: str) -> list[EpisodeRecord]:
        records, self.records[mode] = gather_object(self.records[mode]), []
        return records

    def _seconds(self) -> float:
        now, before = time.monotonic(), self.last
        self.last = now
        return round(now - before, 3)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            values = {ours: logs[trl] for trl, ours in _LOGGED.items() if trl in logs}
            self.write(
                state.global_step,
                "train",
                {"seconds": self._seconds(), **values, **self.timings},
                self._episodes("train"),
            )
            progress.report(state.global_step, self.steps)
        elif "eval_reward" in logs:
            # several processes even out their batches with copies of a task
            records = list({record.task_id: record for record in self._episodes("eval")}.values())
            self.write(
                state.global_step,
                "validation",
                {"seconds": self._seconds(), **_accuracy(records)},
                records,
            )


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn a failed write, by whichever library, into CannotWrite with what to do. Other errors pass."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        text = str(error)
        # safetensors and torch give the errno of a failed write as text, or only say that the write failed
        signs = (
            "PytorchStreamWriter failed",
            "unexpected pos",
            *(f"os error {number}" for number in _FULL),
        )
        full = getattr(error, "errno", None) in _FULL or any(sign in text for sign in signs)
        if not full:
            raise
        free = shutil.disk_usage(folder).free / 2**20
        steps = [last_complete_step(stage) for stage in (folder, *folder.glob("*/"))]
        raise CannotWrite(
            f"{folder} cannot be written to ({free:,.0f} MiB free): {error}. Free some space and run the same command: "
            f"it goes on at step {max(steps, default=0)}, nothing before it is lost"
        ) from error
