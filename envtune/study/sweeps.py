"""A sweep: one notebook executed for every point of a grid, each with its process and run folder.

    $ python -m envtune sweep notebooks/90_experiment.ipynb --name kl --grid beta '[0.0, 0.1]' \\
        --grid seed '[0, 1]' -p preset cpu-tiny
    >>> book = paths.NOTEBOOKS / "90_experiment.ipynb"
    >>> table = sweep(book, "kl", grid({"beta": [0.0, 0.1], "seed": [0, 1, 2]}))

Parameters are checked before anything starts. As many runs at once as there are devices, each with
one GPU (or a share of the cores) to itself; `ray` uses Ray. A finished run is not repeated; a
killed one resumes at its last checkpoint; a failed one keeps its notebook with the error and stops
no other. Run folders are runs/<name>.<point>; runs/<name>/ has summary.parquet (results of the
runs), curves.parquet (their metrics) and provenance.json.
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
from hashlib import sha256
from pathlib import Path
from queue import Queue

import pandas as pd
from tqdm import tqdm

from envtune.common import paths, progress
from envtune.common.files import atomic, write_json
from envtune.study import notebook
from envtune.study.sweep_tables import Point, curves, provenance, results, run_states

REFRESH_SECONDS = 5.0
"""How often the progress bar is updated."""


def grid(axes: dict[str, Sequence]) -> list[dict]:
    """Every combination of the values, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _slug(axes: dict, case: str | None = None) -> str:
    parts = [f"{name}-{value}" for name, value in axes.items() if case is None or name == "seed"]
    if case is not None:
        parts.insert(0, str(case))
    text = "_".join(re.sub(r"[^A-Za-z0-9.+_-]+", "-", part).strip("-") for part in parts)
    digest = sha256(json.dumps(axes).encode()).hexdigest()[:8]
    return text if len(text) <= 80 else f"{text[:70]}-{digest}"


def plan(book: Path, name: str, choices: Sequence[dict], fixed: dict | None = None) -> list[Point]:
    """The sweep's points. ValueError for unknown parameters, wrong types and equal points.

    A choice may have `case`, a word for what it does: with the seed it names the run, and the
    tables have it as a column; the notebook does not get it.
    """
    fixed = fixed or {}
    if not choices:
        raise ValueError(f"the sweep {name!r} has no point; give at least one list of values")
    declared = notebook.declared_parameters(book)
    if "run_name" in fixed or any("run_name" in choice for choice in choices):
        raise ValueError("run_name is set by the sweep, one for each point; leave it out")
    points = []
    for choice in choices:
        if not isinstance(choice, dict):
            raise ValueError(f"a point is a mapping of parameters to values, got {choice!r:.100}")
        given = {key: value for key, value in choice.items() if key != "case" or "case" in declared}
        point = f"{name}.{_slug(choice, choice['case'] if given != choice else None)}"
        parameters = {**fixed, **given, "run_name": point}
        notebook.refuse_wrong(parameters, declared, book.name)
        points.append(Point(point, parameters, choice))
    if len({point.name for point in points}) < len(points):
        raise ValueError(f"the sweep {name!r} holds a point twice")
    return points


def _die_with_the_driver() -> None:
    """Runs in the child before its program: it gets SIGTERM when this process dies, however."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _error_in(log: str, code: int) -> str:
    """What ended a run, from its output: the command's own message, else a traceback's last line.

    Earlier lines are ignored: a kernel also complains about a port that it does not need.
    """
    _, own, message = f"\n{log}".rpartition("\nenvtune: ")
    text = message if own else log.splitlines()[-1] if log else ""
    return text.rstrip("\n") or f"exit code {code}"


def execute(
    book: Path, point: Point, device: str | None = None, threads: int | None = None
) -> dict:
    """Run one point in its own process and return its state: done, or failed with the error."""
    point.folder.mkdir(parents=True, exist_ok=True)
    if point.finished:
        return point.state
    with open(point.folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            error = f"another process is running {point.name}"
            return {"state": "failed", "error": error, "seconds": 0}
        began, log = time.time(), point.folder / "sweep.log"
        environment = dict(os.environ)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        command = [sys.executable, "-m", "envtune", "run", str(book)]
        for name, value in point.parameters.items():
            command += ["-p", name, json.dumps(value)]
        point.note(state="running", since=began)
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
        seconds = round(time.time() - began, 1)
        if code == 0:
            return point.note(state="done", since=began, seconds=seconds)
        error = _error_in(log.read_text(errors="replace"), code)
        ended = {"error": error.split("\n")[0], "since": began, "seconds": seconds}
        return point.note(state="failed", **ended)


def _share(run: dict) -> float:
    """How much of a run is done [0..1]; of a running one by its steps, if their number is known."""
    if run["state"] == "running":
        return min(1.0, run["step"] / run["of"]) if run["of"] else 0.0
    return float(run["state"] in ("done", "failed"))


def _bar(points: Sequence[Point]) -> Callable[[], None]:
    """A progress bar over the runs, with a line for each that ends; each call updates it.

    A run that failed or was killed in an earlier sweep waits until it is tried again. Silent in a
    kernel of `envtune run`, which draws a bar itself from the share reported to it.
    """
    reported = {point.name for point in points if point.finished}
    # `since` makes a state differ from the one before, also when a run fails twice in the same way
    before = {point.name: point.state for point in points if point.name not in reported}
    bar = tqdm(
        total=len(points),
        initial=len(reported),
        bar_format="{percentage:3.0f}%|{bar:30}| {elapsed} elapsed, {remaining} left{postfix}",
        ncols=110,
        smoothing=0,
        disable="ENVTUNE_PROGRESS" in os.environ,
    )

    def update() -> None:
        # read first: a run that begins in between waits until the next update
        untried = {p.name for p in points if p.name in before and p.state == before[p.name]}
        states, running = run_states(points).to_dict("records"), []
        for run in states:
            name = run["run"]
            run["state"] = "waiting" if name in untried else run["state"]
            if run["state"] == "running":
                running.append(f"{name.split('.', 1)[1]} {run['stage']} {run['step']}")
            elif run["state"] in ("done", "failed"):
                if name not in reported and not bar.disable:
                    bar.write(f"{name}: {run['state']} in {run['minutes']:.1f} min {run['error']}")
                reported.add(name)
        text, done = f"{len(reported)} of {len(points)} runs done", sum(map(_share, states))
        bar.set_postfix_str("; ".join([text, *running]), refresh=False)
        bar.update(done - bar.n)
        progress.report(done / len(points), 1, text)
        if len(reported) == len(points):
            bar.close()

    return update


def _devices() -> list[str | None]:
    """One entry for every run that may run at once: each GPU, or None for the CPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [d for d in named.split(",") if d not in ("", "-1")] or [None]
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
    """Run the points as tasks of a Ray cluster; "local" starts one here.

    A GPU is reserved for each. A task whose worker dies is started again and resumes at its
    checkpoint. Workers must see the same folders (one machine, or a shared disk).
    """
    # ray is an install of its own (make test-ray), which the type check does not ask for
    import ray  # pyright: ignore[reportMissingImports]
    from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]

    where = None if address == "local" else address
    ray.init(where, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
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
                except RayError as error:  # too many retries: the others go on
                    print(f"a run was given up by Ray: {type(error).__name__}", file=sys.stderr)
    finally:
        ray.shutdown()


def sweep(
    book: Path,
    name: str,
    choices: Sequence[dict],
    fixed: dict | None = None,
    workers: int | None = None,
    ray: str | None = None,
    retries: int = 3,
    quiet: bool = False,
) -> pd.DataFrame:
    """Run every point and return the results, also written to runs/<name>/summary.parquet.

    workers: runs at once (default: as many as devices).
    ray: "local", or the address of a cluster; None: without Ray.
    quiet: no progress bar.
    """
    points = plan(book, name, choices, fixed)
    home, update, last = paths.run_dir(name), None if quiet else _bar(points), 0.0

    def watch() -> None:
        nonlocal last
        if update and time.monotonic() - last >= REFRESH_SECONDS:
            update()
            last = time.monotonic()

    if ray:
        _on_ray(book, points, ray, retries, watch)
    else:
        _locally(book, points, workers, watch)
    if update:
        update()
    result = results(points)
    for name, data in (("summary", result), ("curves", curves(points))):
        with atomic(home / f"{name}.parquet") as unfinished:
            data.to_parquet(unfinished, index=False)
    write_json(home / "provenance.json", provenance(book, points))
    return result
