"""A sweep: one notebook executed for every point of a grid, each run a process and a run folder of its own.

    $ python -m envtune sweep notebooks/90_experiment.ipynb --name kl --grid beta '[0.0, 0.1]' --grid seed '[0, 1]' -p preset cpu-tiny
    >>> table = sweep(paths.NOTEBOOKS / "90_experiment.ipynb", "kl", grid({"beta": [0.0, 0.1], "seed": [0, 1, 2]}))

Parameters are checked before anything starts. As many runs at once as there are devices, each with one GPU to itself (or a share of the
cores); on Ray by parameter. A finished run is not repeated; one that was killed, or whose driver was, goes on from its last checkpoint; one
that failed keeps its notebook with the error and stops no other. Run folders are runs/<name>.<point>; runs/<name>/ holds summary.parquet (a
row a run), curves.parquet (their metrics) and provenance.json.
"""

import ctypes
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import Queue

import pandas as pd

from envtune.common import paths, progress
from envtune.common.files import atomic, read_lines, write_json
from envtune.study import notebook

PORT_RACE = re.compile(
    r"Address already in use|ZMQError|Kernel died before replying|Kernel didn't respond"
)
"""How the error of a start reads that lost the race for a port (papermill#511): such a start is tried again."""
TRIES = 3


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    """Its run folder, runs/<name>."""
    parameters: dict
    """All parameters it is given, run_name included."""
    axes: dict
    """Those in which the points differ."""

    @property
    def folder(self) -> Path:
        return paths.runs() / self.name


def grid(axes: dict[str, Sequence]) -> list[dict]:
    """Every combination of the values, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _slug(axes: dict, case: str | None = None) -> str:
    named = (
        axes if case is None else {name: value for name, value in axes.items() if name == "seed"}
    )
    parts = ([] if case is None else [str(case)]) + [
        f"{name}-{value}" for name, value in named.items()
    ]
    text = "_".join(re.sub(r"[^A-Za-z0-9.+_-]+", "-", part).strip("-") for part in parts)
    return (
        text
        if len(text) <= 80
        else f"{text[:70]}-{sha256(json.dumps(axes).encode()).hexdigest()[:8]}"
    )


def plan(book: Path, name: str, choices: Sequence[dict], fixed: dict | None = None) -> list[Point]:
    """The sweep's points. ValueError for a parameter that the notebook lacks, a wrong type, no point, or the same point twice.

    A choice may hold `case`, a word for what it does: with the seed it names the run, and the tables have it as a column; the notebook is
    not given it.
    """
    fixed = fixed or {}
    if not choices:
        raise ValueError(f"the sweep {name!r} has no point; give at least one list of values")
    declared = notebook.declared_parameters(book)
    if "run_name" in fixed or any("run_name" in choice for choice in choices):
        raise ValueError("run_name is set by the sweep, one for each point; leave it out")
    points = []
    for choice in choices:
        given = {key: value for key, value in choice.items() if key != "case" or "case" in declared}
        point = f"{name}.{_slug(choice, choice['case'] if given != choice else None)}"
        parameters = {**fixed, **given, "run_name": point}
        notebook.refuse_wrong(parameters, declared, book.name)
        points.append(Point(point, parameters, choice))
    if len({point.name for point in points}) < len(points):
        raise ValueError(f"the sweep {name!r} holds a point twice")
    return points


def _state(point: Point) -> dict:
    file = point.folder / "sweep_state.json"
    return json.loads(file.read_text()) if file.exists() else {"state": "waiting"}


def _note(point: Point, **state) -> dict:
    write_json(point.folder / "sweep_state.json", {"parameters": point.parameters, **state})
    return state


def _die_with_the_driver() -> None:
    """In the child, before it starts: end with this process (Linux), so that a killed sweep leaves no run behind that nobody watches."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def finished(point: Point) -> bool:
    """Whether the point ran to its end with these parameters."""
    state = _state(point)
    return state["state"] == "done" and state["parameters"] == point.parameters


def _error_in(log: str, code: int) -> str:
    """What ended a run, of all that it printed: our own report to its end, or the last line of a traceback. A kernel also prints of a port
    that it can do without (its heartbeat's), so what stands before is no reason."""
    lines = log.splitlines()
    told = max(
        (number for number, line in enumerate(lines) if line.startswith("envtune: ")),
        default=len(lines) - 1,
    )
    return "\n".join(lines[max(0, told) :]).removeprefix("envtune: ") or f"exit code {code}"


def execute(
    book: Path, point: Point, device: str | None = None, threads: int | None = None
) -> dict:
    """Run one point in a process of its own and return its state: done, or failed with the error. Never raises for a failing run."""
    point.folder.mkdir(parents=True, exist_ok=True)
    if finished(point):
        return _state(point)
    with open(point.folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return {
                "state": "failed",
                "error": f"another process is running {point.name}",
                "seconds": 0,
            }
        began, log = time.time(), point.folder / "sweep.log"
        environment = {
            **os.environ,
            **({"CUDA_VISIBLE_DEVICES": device} if device is not None else {}),
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }
        command = [sys.executable, "-m", "envtune", "run", str(book)]
        for name, value in point.parameters.items():
            command += ["-p", name, json.dumps(value)]
        for attempt in range(1, TRIES + 1):
            _note(point, state="running", since=began, attempt=attempt)
            with open(log, "w") as out:
                code = subprocess.run(
                    command,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=paths.ROOT,
                    preexec_fn=_die_with_the_driver,
                    pass_fds=(lock.fileno(),),
                ).returncode
            if code == 0:
                return _note(point, state="done", seconds=round(time.time() - began, 1))
            error = _error_in(log.read_text(errors="replace"), code)
            if not PORT_RACE.search(error):
                break
        return _note(
            point, state="failed", error=error.split("\n")[0], seconds=round(time.time() - began, 1)
        )


def run_states(points: Sequence[Point]) -> pd.DataFrame:
    """Where every run stands: run, state, stage, step (counted over its stages), of, progress, minutes, error."""
    rows = []
    for point in points:
        state, steps = _state(point), []
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
                "of": sum(point.parameters.get("stage_steps", [])),
                "progress": last.get("progress", float("nan")),
                "minutes": round(spent / 60, 2),
                "error": state.get("error", ""),
            }
        )
    return pd.DataFrame(rows)


def _shares(states: pd.DataFrame) -> pd.Series:
    """How much of each run is done [0..1]; of a running one that says how many steps it takes, by its steps."""
    running = (states["step"] / states["of"].where(states["of"] > 0)).fillna(0).clip(upper=1)
    return running.where(
        states["state"] == "running", states["state"].isin(["done", "failed"]).astype(float)
    )


def time_left(states: pd.DataFrame, workers: int) -> str:
    """An estimate from the runs that are done and those that are a tenth on their way."""
    shares = _shares(states)
    known = (states["state"] == "done") | ((states["state"] == "running") & (shares >= 0.1))
    if not (shares < 1).any():
        return "done"
    if not known.any():
        return "time unknown"
    return f"about {(1 - shares).sum() * (states['minutes'] / shares)[known].mean() / workers:.0f} min left"


def results(points: Sequence[Point]) -> pd.DataFrame:
    """A row a run: the axes, the state, and what the notebook left in result.json; several rows where it left a list."""
    rows = []
    for point in points:
        state, file = _state(point), point.folder / "result.json"
        result = json.loads(file.read_text()) if state["state"] == "done" and file.exists() else {}
        common = {
            "run": point.name,
            **_flat(point.axes),
            "state": state["state"],
            "error": state.get("error", ""),
        }
        rows += [{**common, **one} for one in (result if isinstance(result, list) else [result])]
    return pd.DataFrame(rows)


def _flat(axes: dict) -> dict:
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in axes.items()
    }


CURVES = (
    "stage",
    "step",
    "kind",
    "reward",
    "progress",
    "accuracy",
    "entropy",
    "kl",
    "grad_norm",
    "format_reward",
    "recovery_rate",
    "episodes",
    "seconds",
    *(f"accuracy_{split}" for split in ("base", "miss_func", "miss_param", "long_context")),
)
"""The columns of metrics.jsonl that curves.parquet keeps."""


def curves(points: Sequence[Point]) -> pd.DataFrame:
    """Training and validation lines of all finished runs, with run and axes; `at` is the step counted over a run's stages."""
    parts = []
    for point in points:
        if finished(point) and (point.folder / "metrics.jsonl").exists():
            data = pd.DataFrame(
                row
                for row in read_lines(point.folder / "metrics.jsonl")
                if row["kind"] in ("train", "validation")
            )
            ends = data.groupby("stage", sort=False)["step"].max()
            data = data[[name for name in CURVES if name in data]].assign(
                at=data["step"] + data["stage"].map(ends.cumsum() - ends)
            )
            parts.append(data.assign(run=point.name, **_flat(point.axes)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run"])


def provenance(book: Path, points: Sequence[Point]) -> dict:
    """What the finished runs were made with: notebook, each run's parameters and seconds, and the versions and device of the first."""
    done = [point for point in points if finished(point)]
    made = next(
        (file for point in done for file in sorted(point.folder.rglob("versions.json"))), None
    )  # a run may hold runs
    return {
        "notebook": book.name,
        "versions": json.loads(made.read_text()) if made else {},
        "cores_of_the_machine": os.cpu_count(),
        "runs": [
            {"run": p.name, "seconds": _state(p).get("seconds"), "parameters": p.parameters}
            for p in done
        ],
    }


def _devices() -> list[str | None]:
    """One entry for every run that may go on at once: GPUs, or one for the CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [d for d in named.split(",") if d] or [None]
    try:
        import torch

        return [str(i) for i in range(torch.cuda.device_count())] or [None]
    except ImportError:
        return [None]


def _locally(
    book: Path, points: Sequence[Point], workers: int | None, watch: Callable[[], None]
) -> None:
    devices = _devices()
    workers = workers or len(devices)
    free: Queue = Queue()
    for i in range(workers):
        free.put(devices[i % len(devices)])
    threads = max(1, (os.cpu_count() or 1) // workers) if devices == [None] else None

    def one(point: Point) -> dict:
        device = free.get()
        try:
            return execute(book, point, device, threads)
        finally:
            free.put(device)

    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(one, point) for point in points]
        try:
            while not all(future.done() for future in running):
                watch()
                time.sleep(0.5)
        except BaseException:  # interrupted: start nothing more, the runs end with this process
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for future in running:
            future.result()


def _on_ray(
    book: Path, points: Sequence[Point], address: str, retries: int, watch: Callable[[], None]
) -> None:
    """As tasks of a Ray cluster: "local" starts one here. A GPU is reserved for each; a task whose worker dies is started again and goes on
    from its checkpoint. Workers see the same folders (one machine, or a shared disk)."""
    import ray

    ray.init(
        address=None if address == "local" else address,
        ignore_reinit_error=True,
        log_to_driver=False,
        include_dashboard=False,
    )
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_gpus=gpus, num_cpus=1, max_retries=retries)(execute)
    waiting = [task.remote(book, point) for point in points]
    try:
        while waiting:
            watch()
            ready, waiting = ray.wait(waiting, timeout=0.5)
            for reference in ready:
                try:
                    ray.get(reference)
                except (
                    ray.exceptions.RayError
                ) as error:  # died more often than it may: one run is lost, not the sweep
                    print(f"a run was given up by Ray: {type(error).__name__}", file=sys.stderr)
    finally:
        ray.shutdown()


def sweep(
    book: Path,
    name: str,
    choices: Sequence[dict],
    fixed: dict | None = None,
    workers: int | None = None,
    ray: str = "",
    retries: int = 3,
    show: Callable[[pd.DataFrame, str], None] | None = None,
    every_seconds: float = 10.0,
) -> pd.DataFrame:
    """Run every point and return the summary, also written to runs/<name>/summary.parquet.

    `workers`: runs at once (default: as many as devices); `ray`: "local", or the address of a cluster. `show` is given the table of
    states and the time left every few seconds.
    """
    points = plan(book, name, choices, fixed)
    home = paths.run_dir(name)
    last = 0.0

    def watch() -> None:
        nonlocal last
        if show and time.monotonic() - last >= every_seconds:
            states = run_states(points)
            show(states, time_left(states, workers or len(_devices())))
            last = time.monotonic()

    if ray:
        _on_ray(book, points, ray, retries, watch)
    else:
        _locally(book, points, workers, watch)
    if show:
        show(run_states(points), "done")
    result = results(points)
    for name, data in (("summary", result), ("curves", curves(points))):
        with atomic(home / f"{name}.parquet") as unfinished:
            data.to_parquet(unfinished, index=False)
    (home / "provenance.json").write_text(json.dumps(provenance(book, points), indent=1) + "\n")
    return result


def printer() -> Callable[[pd.DataFrame, str], None]:
    """A `show` for a terminal: the table again whenever a state changed, else a line with counts and the time left."""
    before: list[str] = []

    def show(states: pd.DataFrame, left: str) -> None:
        nonlocal before
        if states["state"].tolist() != before:
            print(states.to_string(index=False, max_colwidth=60), flush=True)
            before = states["state"].tolist()
        running = states[states["state"] == "running"]
        running = ", ".join(
            f"{row.run.split('.', 1)[1]} {row.stage} {row.step}" for row in running.itertuples()
        )
        print(f"{states['state'].value_counts().to_dict()}; {left}; {running}", flush=True)

    return show


def displayer() -> Callable[[pd.DataFrame, str], None]:
    """A `show` for a notebook: one table that is kept up to date; without a reader, only the last, and a share for `envtune run`'s bar."""
    from IPython.display import display

    handle = None

    def show(states: pd.DataFrame, left: str) -> None:
        nonlocal handle
        if "ENVTUNE_PROGRESS" in os.environ and left != "done":
            progress.report(
                100 * _shares(states).mean(),
                100,
                f"{(states['state'] == 'done').sum()} of {len(states)} runs done, {left}",
            )
            return
        styled = states.style.hide(axis="index").format(precision=2).set_caption(left)
        handle = handle or display(styled, display_id=True)
        handle.update(styled)

    return show
