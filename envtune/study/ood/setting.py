"""What every harness works with: a checkpoint, the server that answers for it, options, a row.

    >>> Checkpoint.of("stage 4", "runs/x/stage4_alignment/policy")
    >>> Checkpoint.of("hosted", {"url": "http://host:8000/v1", "model": "m", "folder": "tokenizer"})

Each harness has an environment of its own, `.venv-<make target>` in the workspace, because their
pins exclude each other and ours. ENVTUNE_OOD names another folder that holds these environments.
"""

import importlib.metadata
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from envtune.common import paths
from envtune.study.notebook import refuse_unknown

NOT_RUN = "not run"


@dataclass(frozen=True)
class Endpoint:
    """A server with OpenAI's API, and the name of a model there."""

    url: str  # base URL, ends in /v1
    model: str


@dataclass(frozen=True)
class Checkpoint:
    """A column of the table: a folder that is served here, or a server that runs already."""

    name: str
    folder: str = ""  # weights and tokenizer; of a running server only the tokenizer, for BFCL
    endpoint: Endpoint | None = None

    @classmethod
    def of(cls, name: str, where: str | Mapping[str, str]) -> "Checkpoint":
        """From a folder, or {"url", "model", "folder"}. ValueError for anything else."""
        if not name or name != Path(name).name or name.startswith("."):
            raise ValueError(
                f"a checkpoint's name is also a folder's, like 'stage 4'; got {name!r}"
            )
        given = {"folder": where} if isinstance(where, str) else dict(where)
        folder = str(Path(given["folder"]).expanduser().resolve()) if given.get("folder") else ""
        if set(given) - {"url", "model", "folder"} or ("url" in given) != ("model" in given):
            raise ValueError(
                f"{name}: a checkpoint is a folder, or a mapping with url, model and, for BFCL, "
                f"the tokenizer's folder; got {where!r}"
            )
        if folder and not (Path(folder) / "config.json").exists():
            raise ValueError(f"{name}: {given['folder']} is no folder of a model (no config.json)")
        if not given:
            raise ValueError(f"{name}: neither folder nor url")
        return cls(name, folder, Endpoint(given["url"], given["model"]) if "url" in given else None)


@dataclass(frozen=True)
class Options:
    """How the harnesses are run; what is not here stays as each harness has it."""

    limit: int | None = None  # questions of each task; None: all
    user: Endpoint | None = None  # plays the user in tau2-bench and ACEBench multi_turn
    tasks: Sequence[str] = ()  # only these; (): all of the harness
    threads: int = 8  # conversations at once
    bfcl_model: str = "Qwen/Qwen3-4B-Instruct-2507-FC"  # BFCL's name of the prompt format to use
    embedding_model: str = ""  # folder of all-MiniLM-L6-v2 for memory_vector; "": from its hub
    acebench_data: str = ""  # a clone of ACEBench/ACEBench; "": from ModelScope
    tau2_split: str = "test"  # 40 retail, 20 airline, 40 telecom tasks; base: 114, 50, 114
    tau2_trials: int = 1
    server: str = ""  # Python of an environment with vLLM; "": .venv-vllm, else transformers serve
    serve_arguments: Sequence[str] = ()  # further ones of vLLM's server

    def __post_init__(self) -> None:
        if (self.limit is not None and self.limit < 1) or self.threads < 1 or self.tau2_trials < 1:
            raise ValueError(
                "limit, threads and tau2_trials are at least 1, got "
                f"{self.limit}, {self.threads}, {self.tau2_trials}"
            )

    @classmethod
    def of(cls, limit: int | None, user: Endpoint | None, given: Mapping[str, Any]) -> "Options":
        """With further fields by name. ValueError for a name that there is not."""
        further = [name for name in cls.__dataclass_fields__ if name not in ("limit", "user")]
        refuse_unknown("options", given, further)
        return cls(limit=limit, user=user, **given)


@dataclass(frozen=True)
class Job:
    """One harness and one checkpoint; `folder` keeps all that the harness writes."""

    harness: "Harness"
    checkpoint: Checkpoint
    options: Options
    folder: Path
    endpoint: Endpoint | None = None  # None: nothing is served, results are only read

    def program(self, name: str) -> str:
        return str(self.harness.environment / "bin" / name)

    def execute(self, command: Sequence[str], task: str, **environment: str) -> int:
        """Run a command of the harness to its end; its output is appended to <task>.log.

        Returns its exit code.
        """
        log = self.folder / f"{task}.log"
        variables = {"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1", **environment}
        with open(log, "ab") as out:
            process = subprocess.Popen(
                list(command),
                cwd=self.folder,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,  # no harness may wait for an answer
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait()
            finally:
                end_group(process)


class Score(NamedTuple):
    """What a task's result files say."""

    percent: float
    n: int
    note: str = ""  # what a reader of the number must know


@dataclass(frozen=True)
class Harness:
    """One benchmark: where it lives, how a task is played, how its files are read."""

    name: str
    tasks: Mapping[str, int]  # the number of questions, here and in the paper
    target: str  # of make; the environment is .venv-<target>
    package: str
    refusal: Callable[[Job, str], str]  # why a task cannot be played now; "" if it can
    play: Callable[[Job, str], None]  # goes on where an earlier call was stopped
    read: Callable[[Job, str], Score | None]
    simulates_user: Sequence[str] = ()  # tasks in which a model plays the user

    @property
    def environment(self) -> Path:
        return Path(os.environ.get("ENVTUNE_OOD", paths.ROOT)) / f".venv-{self.target}"

    @property
    def version(self) -> str:
        """The installed package and its version; "" without the environment."""
        for site in self.environment.glob("lib/python*/site-packages"):
            for found in importlib.metadata.distributions(name=self.package, path=[str(site)]):
                return f"{self.package} {found.version}"
        return ""


def key() -> str:
    """What checkpoints' and users' servers are given as their key: ENVTUNE_OOD_KEY."""
    return os.environ.get("ENVTUNE_OOD_KEY", "EMPTY")


def end_group(process: subprocess.Popen) -> None:
    """End a process that was started in a session of its own, with all that it started."""
    for deadly, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, deadly)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue


def row(job: Job, task: str, score: Score | None, why: str = "") -> dict[str, Any]:
    """A line of the results. A task without a result has no score, never 0."""
    user = job.options.user
    plays = bool(task in job.harness.simulates_user and user and score)
    return {
        "harness": job.harness.name,
        "task": task,
        "checkpoint": job.checkpoint.name,
        "score": score.percent if score else None,
        "n": score.n if score else 0,
        "user_simulator": f"{user.model} at {user.url}" if plays and user else "",
        "state": "ran" if score else NOT_RUN,
        "why": score.note if score else why,
        "versions": job.harness.version,
    }
