"""Training on several GPUs: the same stage through `accelerate launch`, its lines streamed back.

    $ python -m envtune train job.json                                     # one process
    $ accelerate launch --config_file envtune/train/accelerate/zero3.yaml --num_processes 8 \\
        -m envtune train job.json

A job is a stage, a preset, a start, a seed and a run folder as JSON, so an ablation made with
`replace` can be one too. grpo.train_stage writes the job and runs the second command itself if the
preset has more than one process; in a notebook it looks the same as training in one process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envtune.common import paths
from envtune.common.files import write_json
from envtune.train.collapse import Guard
from envtune.train.errors import Interrupted, JobFailed
from envtune.train.presets import Preset
from envtune.train.stages import Stage
from envtune.train.transition import Transition

CONFIGS = Path(__file__).parent / "accelerate"
INSIDE = "ENVTUNE_INSIDE_JOB"
LINE = "envtune-metrics: "
"""How a metrics row begins in the output of a launched job."""


def inside() -> bool:
    """Whether this process runs a job: it trains, and launches nothing."""
    return INSIDE in os.environ


def write_job(
    file: Path,
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    run_dir: Path,
    seed: int,
) -> None:
    """Write a job file; `read_job` gives the same arguments back.

    ValueError when the stage's reward is a function of this process, which a job cannot carry.
    """
    if not isinstance(stage.reward, str):
        raise ValueError(
            f"{stage.name} is rewarded by {stage.reward.name}, a function that other processes "
            "cannot see. Write it into a module beside the notebook, say my_rewards.py, with the "
            f"line `NAME = Reward({stage.reward.name}, maximum={stage.reward.maximum})`, and give "
            'the stage reward="my_rewards:NAME"'
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    job = {"stage": asdict(stage), "preset": asdict(preset), "steps": steps}
    write_json(file, job | {"start": str(start), "run_dir": str(run_dir), "seed": seed})


def read_job(file: Path) -> dict:
    """The arguments of grpo.train_stage. ValueError when the file is not a job."""
    try:
        job = json.loads(file.read_text())
        stage, preset = job["stage"], job["preset"]
        tuples = {name: tuple(preset[name]) for name in ("stage_steps", "report_to")}
        return {
            "stage": Stage(**{**stage, "transition": Transition(**stage["transition"])}),
            "preset": Preset(**{**preset, **tuples, "guard": Guard(**preset["guard"])}),
            "steps": job["steps"],
            "start": job["start"],
            "run_dir": Path(job["run_dir"]),
            "seed": job["seed"],
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no training job ({type(error).__name__}: {error}); "
            "envtune.train.launch.write_job writes one"
        ) from None


def command(preset: Preset, job: Path) -> list[str]:
    """The `accelerate launch` command of a job; PyTorch's own on a CPU, where accelerate needs MPI.

    On several machines run it on each, with accelerate's --machine_rank, --main_process_ip and
    --num_machines added.
    """
    if preset.parallel == "cpu":
        launcher = ["torch.distributed.run", "--nproc_per_node", str(preset.processes)]
    else:
        config = str(CONFIGS / f"{preset.parallel}.yaml")
        launcher = ["accelerate.commands.launch", "--config_file", config]
        launcher += ["--num_processes", str(preset.processes)]
    return [sys.executable, "-m", *launcher, "-m", "envtune", "train", str(job)]


def launch_stage(
    stage: Stage,
    preset: Preset,
    steps: int,
    start: Path | str,
    run_dir: Path,
    seed: int,
    on_row: Callable[[Any], None],
) -> Path:
    """grpo.train_stage in `preset.processes` processes; all output but metrics rows is printed."""
    job = run_dir / f"{stage.name}.job.json"
    write_job(job, stage, preset, steps, start, run_dir, seed)
    last: list[str] = []
    process = subprocess.Popen(
        command(preset, job),
        cwd=paths.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # for "module:name"
        },
    )
    try:
        for line in process.stdout:  # pyright: ignore[reportOptionalIterable]  # it is a pipe
            if line.startswith(LINE):
                on_row(json.loads(line.removeprefix(LINE)))
            else:
                print(line, end="", flush=True)
                last = [*last, line][-15:]
    except KeyboardInterrupt:
        on_row({"stage": stage.name, "step": 0, "kind": "stopped", "steps": steps})
        raise Interrupted(
            f"{stage.name} was interrupted on {preset.processes} processes; the same call or "
            "command goes on from its last checkpoint"
        ) from None
    finally:
        if process.poll() is None:  # interrupted: the processes must not go on training
            process.terminate()
        process.wait()
    if process.returncode:
        raise JobFailed(
            f"{stage.name} on {preset.processes} processes ended with exit code "
            f"{process.returncode}:\n{''.join(last)}"
        )
    return run_dir / stage.name / "policy"
