"""A stage in processes of its own: several GPUs, or vLLM; its lines are streamed back.

    $ python -m envtune train job.json                                     # one process
    $ accelerate launch --config_file envtune/train/accelerate/zero3.yaml --num_processes 8 \\
        -m envtune train job.json

A job is a stage, a preset, a start, a seed and a run folder as JSON, so an ablation made with
`replace` can be one too. grpo.train_stage writes the job and runs the command itself; in a notebook
it looks the same as training there.

vLLM keeps its memory and its distributed state as long as its process lives, so every stage with
it, and every attempt after a rollback, gets a new process.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from envtune import bfcl, hints
from envtune.common import paths, progress
from envtune.common.files import write_json
from envtune.train import errors, metrics
from envtune.train.collapse import Guard
from envtune.train.errors import Interrupted, JobFailed
from envtune.train.presets import Preset
from envtune.train.stages import Stage, training_tasks
from envtune.train.transition import Transition

CONFIGS = Path(__file__).parent / "accelerate"
INSIDE = "ENVTUNE_INSIDE_JOB"
PARENT = "ENVTUNE_JOB_OF_A_PARENT"
"""Set in the environment of a job that ends when the process that launched it ends."""
LINE = "envtune-metrics: "
"""How a metrics row begins in the output of a launched job."""
ERROR = "envtune-error: "
"""How the error that ended a launched job begins in its output: its type and message as JSON."""
RAISED = {
    error.__name__: error
    for error in (ValueError, Interrupted, errors.Collapsed, errors.CannotWrite, errors.RolledBack)
}
"""Errors that are raised by a launched job as they would be without one."""


def needed(preset: Preset) -> bool:
    """Whether a stage of the preset runs in processes of its own."""
    return preset.processes > 1 or preset.use_vllm


def inside() -> bool:
    """Whether this process runs a job: it trains, and launches nothing."""
    return INSIDE in os.environ


@dataclass(frozen=True)
class Job:
    """The arguments of grpo.train_stage: what is trained, from where, into which run folder."""

    stage: Stage
    preset: Preset
    steps: int
    start: Path | str
    run_dir: Path
    seed: int

    @property
    def out(self) -> Path:
        """The stage's folder."""
        return self.run_dir / self.stage.name


def write_job(file: Path, job: Job) -> None:
    """Write a job file, which `read_job` reads.

    ValueError when the stage's reward or a task is of this process alone: a job cannot carry it.
    """
    stage = job.stage
    if own := sorted(bfcl.OWN_TASKS.keys() & set(training_tasks(stage, job.preset))):
        raise ValueError(
            f"{stage.name} trains on tasks that other processes cannot see ({', '.join(own)}); "
            "train on them with one process and without vLLM"
        )
    if not isinstance(stage.reward, str):
        raise ValueError(
            f"{stage.name} is rewarded by {stage.reward.name}, a function that other processes "
            "cannot see. Write it into a module beside the notebook, say my_rewards.py, with the "
            f"line `NAME = Reward({stage.reward.name}, maximum={stage.reward.maximum})`, and give "
            'the stage reward="my_rewards:NAME"'
        )
    own = hints.added_folders() if stage.shows_hints else {}
    taught = {hint.class_name for hint in hints.load_hints()} if own else set()
    if unseen := sorted(taught & bfcl.OWN_CLASSES.keys()):
        raise ValueError(
            f"{stage.name} has hints for classes that other processes cannot see "
            f"({', '.join(unseen)}); train with one process and without vLLM, or add the hints "
            "within `with hints.added(folder):` alone where they are needed"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    folders = [str(folder) for folder in own]
    where = {"start": str(job.start), "run_dir": str(job.run_dir), "own_hints": folders}
    write_json(file, asdict(job) | where)


def read_job(file: Path) -> Job:
    """The job of a file; its hint folders are added to this process. ValueError when it is none."""
    try:
        job = json.loads(file.read_text())
        folders = job.pop("own_hints", [])
        stage, preset = job["stage"], job["preset"]
        tuples = {name: tuple(preset[name]) for name in ("stage_steps", "report_to")}
        job["stage"] = Stage(**stage | {"transition": Transition(**stage["transition"])})
        job["preset"] = Preset(**preset | tuples | {"guard": Guard(**preset["guard"])})
        read = Job(**job | {"run_dir": Path(job["run_dir"])})
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no training job ({type(error).__name__}: {error}); "
            "envtune.train.launch.write_job writes one"
        ) from None
    for folder in reversed(folders):  # the one added last is tried first
        hints.add_folder(folder)
    return read


def command(preset: Preset, job: Path) -> list[str]:
    """The command of a job: `accelerate launch`, or PyTorch's own on a CPU, where accelerate needs
    MPI; plain Python for one process.

    On several machines run it on each, with accelerate's --machine_rank, --main_process_ip and
    --num_machines added.
    """
    if preset.processes == 1:
        return [sys.executable, "-m", "envtune", "train", str(job)]
    if preset.parallel == "cpu":
        launcher = ["torch.distributed.run", "--nproc_per_node", str(preset.processes)]
    else:
        config = str(CONFIGS / f"{preset.parallel}.yaml")
        launcher = ["accelerate.commands.launch", "--config_file", config]
        launcher += ["--num_processes", str(preset.processes)]
    return [sys.executable, "-m", *launcher, "-m", "envtune", "train", str(job)]


def say(kind: str, values: Any) -> None:
    """In a job, tell the process that launched it a row (kind LINE) or an error (ERROR).

    One write a line: processes share the pipe, and print() may write the line end apart.
    """
    sys.stdout.write(kind + json.dumps(values) + "\n")
    sys.stdout.flush()


def tell(error: BaseException) -> None:
    """In a job, tell the process that launched it which error ends it."""
    if PARENT in os.environ and type(error).__name__ in RAISED:
        say(ERROR, {"type": type(error).__name__, "message": str(error)})


class Ended(NamedTuple):
    """How a job ended."""

    code: int
    interrupted: bool
    error: BaseException | None  # what it told, one of RAISED
    last: str  # its last lines


def run_job(
    command: list[str],
    on_row: Callable[[Any], object],
    environment: dict[str, str],
    stop: signal.Signals = signal.SIGINT,
    out: TextIO | None = None,
) -> Ended:
    """Run a command to its end; rows go to `on_row`, other lines are printed (to `out`).

    stop: sent at an interrupt, so that the command can save what it has; a second interrupt ends it
        at once. Nothing of it lives on, also if this process is killed.
    """
    kept = {name: value for name, value in os.environ.items() if name != progress.FILE}
    process = subprocess.Popen(
        command,
        cwd=paths.ROOT,
        stdin=subprocess.PIPE,  # closed when this process ends, see end_with_parent
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={
            **kept,
            **environment,
            PARENT: "1",
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # for "module:name"
        },
        start_new_session=True,  # a terminal's Ctrl-C reaches it through this process alone
    )
    # read by a thread: an interrupt in the middle of a read would lose a part of a line
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for line in process.stdout or ():
                lines.put(line)
        finally:
            lines.put(None)

    def clear_up() -> None:
        process.wait()
        # what it left would hold the pipe open; a launcher's workers are sessions of their own,
        # which end when their standard input closes
        close_input()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def close_input() -> None:
        with contextlib.suppress(OSError):
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]  # a pipe

    for work in (read, clear_up):
        threading.Thread(target=work, daemon=True).start()
    last: list[str] = []
    error, interrupted = None, False
    try:
        while True:
            try:
                while (line := lines.get()) is not None:
                    # a progress bar that is not at its end may stand before it in the line
                    line, row, values = line.partition(LINE)
                    line, failed, told = line.partition(ERROR)
                    if line:
                        print(line, end="", flush=True, file=out or sys.stdout)
                        last = [*last, line][-15:]
                    if row:
                        on_row(json.loads(values))
                    if failed:
                        found = json.loads(told)
                        error = error or RAISED[found["type"]](found["message"])
                return Ended(process.wait(), interrupted, error, "".join(last))
            except KeyboardInterrupt:
                if interrupted:
                    return Ended(-1, True, None, "")
                interrupted = True
                process.send_signal(stop)
    finally:
        for deadly in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, deadly)
            close_input()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=40)  # torch's launcher gives its workers 30 seconds


def begin() -> None:
    """What a process that runs a job does first."""
    if PARENT in os.environ:
        end_with_parent()
    os.environ[INSIDE] = "1"


def end_with_parent() -> None:
    """End this process when the one that launched it ends: its standard input closes then."""

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held when the interpreter ends
        os.killpg(0, signal.SIGTERM)
        time.sleep(5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def launch_stage(job: Job, on_row: Callable[[Any], object]) -> Path:
    """grpo.train_stage in processes of its own; all output but metrics rows is printed."""
    start = Path(job.start).resolve() if Path(job.start).is_dir() else job.start
    job = replace(job, run_dir=job.run_dir.resolve(), start=start)  # it runs in another folder
    stage, preset, steps = job.stage, job.preset, job.steps
    file = job.run_dir / f"{stage.name}.job.json"
    write_job(file, job)

    def row(values: dict) -> None:
        on_row(values)
        if values["kind"] == "train":
            progress.report(values["step"], steps, metrics.in_words(values, steps))

    several = preset.processes > 1
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if several else {}
    how = (environment, signal.SIGTERM if several else signal.SIGINT)
    while True:
        ended = run_job(command(preset, file), row, *how)
        if ended.code == 0 and not ended.interrupted:
            return job.out / "policy"
        if ended.code == 0:
            raise Interrupted(f"{stage.name} has just ended; the same call or command goes on")
        if ended.interrupted and not isinstance(ended.error, Interrupted):
            on_row({"stage": stage.name, "step": 0, "kind": "stopped", "steps": steps})
            raise Interrupted(
                f"{stage.name} was interrupted in processes of its own; the same call or command "
                "goes on from its last checkpoint"
            )
        if ended.error is None:
            raise JobFailed(
                f"{stage.name} on {preset.processes} process(es) ended with exit code "
                f"{ended.code}:\n{ended.last}"
            )
        if not isinstance(ended.error, errors.RolledBack):
            raise ended.error
