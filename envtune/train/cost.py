"""The time that a whole run takes, from a few of its steps on this machine, or by arithmetic.

    $ python -m envtune run notebooks/90_experiment.ipynb -p preset gpu-80gb -p stage_steps '[4]' \\
        -p run_name try
    $ python -m envtune cost runs/try
    $ python -m envtune cost --estimate gpu-80gb        # before anything was run on such a GPU

Steps with another number of episodes than the preset's are scaled by it. Loading the model and the
evaluation at the end are not counted.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from envtune.common import files
from envtune.train import presets, runconfig, sizes
from envtune.train.presets import Preset
from envtune.train.stages import STAGES


@dataclass(frozen=True)
class Gpu:
    name: str
    bytes_per_second: float  # memory bandwidth
    flops: float  # dense bf16 operations per second


GPUS = {
    24.0: Gpu("RTX 4090", 1.008e12, 165e12),
    80.0: Gpu("A100 80 GB SXM", 2.039e12, 312e12),
}
"""The GPU that a preset of so many GiB is estimated for; numbers of NVIDIA's data sheets. The rest
is assumed:"""
EPISODE_SHARE = 0.4  # length of a mean episode after its opening, of the longest one's
WRITTEN_SHARE = 0.5  # of that what the policy wrote; the rest is tool results and users
WAVE_SHARE = 0.5  # rows that still write in a mean decode step, as a wave waits for its longest
BANDWIDTH_USED = 0.6  # of the memory bandwidth while decoding
FLOPS_USED = 0.35  # of the operations in forward and backward passes
DECODE_SECONDS = {True: 0.005, False: 0.05}  # a decode step besides its reads, with vLLM or without


def read_run(run: Path, preset: str = "") -> tuple[pd.DataFrame, Preset]:
    """Metrics of a run folder or a parquet file, and the preset: the one named, else the run's own.

    ValueError without a preset.
    """
    metrics = pd.read_parquet(run) if run.suffix == ".parquet" else files.load_metrics(run)
    found = presets.get(preset) if preset else runconfig.preset_of(run) if run.is_dir() else None
    if found is None:
        raise ValueError(
            f"{run} does not say its preset; give --preset, one of {', '.join(presets.PRESETS)}"
        )
    return metrics, found


def cost(metrics: pd.DataFrame, preset: Preset) -> pd.DataFrame:
    """One row per stage and `all`: steps, seconds_a_step, validations, hours and more.

    tokens_per_second is that of generation, device_hours are hours times processes: the device of
    a process is its GPU, or the CPU. measured is False where the metrics lack the stage, which then
    gets the mean of the others. ValueError without a training step.
    """
    train, validated = metrics[metrics["kind"] == "train"], metrics[metrics["kind"] == "validation"]
    if not len(train):
        raise ValueError("these metrics hold no training step; train a few steps first")
    rows = []
    for stage, steps in zip(STAGES, preset.stage_steps, strict=True):
        own = train[train["stage"] == stage.name]
        own, measured = (own, True) if len(own) else (train, False)
        checks = validated[validated["stage"] == stage.name] if measured else validated
        number = 1 + math.ceil(steps / preset.validate_every)
        prompts = preset.prompts_per_step or stage.prompts_per_step
        a_step = own["seconds"].sum() / own["episodes"].sum() * prompts * preset.generations
        a_check = 0.0
        if len(checks):
            a_check = checks["seconds"].sum() / checks["episodes"].sum() * preset.validation_tasks
        seconds = a_step * steps + a_check * number
        rows.append(
            {
                "stage": stage.name,
                "steps": steps,
                "seconds_a_step": a_step,
                "validations": number,
                "tokens_per_second": own["sampled_tokens"].sum() / own["generation_seconds"].sum(),
                "hours": seconds / 3600,
                "device_hours": seconds / 3600 * preset.processes,
                "measured": measured,
            }
        )
    table = pd.DataFrame(rows)
    whole = {
        "stage": "all",
        **table[["steps", "validations", "hours", "device_hours"]].sum(),
        "measured": bool(table["measured"].all()),
        "seconds_a_step": (table["seconds_a_step"] * table["steps"]).sum() / table["steps"].sum(),
        "tokens_per_second": train["sampled_tokens"].sum() / train["generation_seconds"].sum(),
    }
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True).astype(
        {"steps": int, "validations": int}
    )


def _generation(
    preset: Preset, shape: sizes.Shape, gpu: Gpu, prompts: int, group: int, completion: int
) -> float:
    """Seconds in which one GPU plays its part of `group` episodes of each of `prompts` tasks."""
    longest, most = sizes.longest_tokens(preset)
    opening, played = longest - most, EPISODE_SHARE * completion
    episodes = prompts * group / preset.processes
    fit = sizes.episodes_held(preset, shape) * longest / (opening + completion)
    at_once = min(episodes, fit if sizes.colocated(preset) else preset.rollout_batch or episodes)
    decoded_at_once = max(1.0, at_once * WAVE_SHARE)
    steps = episodes * WRITTEN_SHARE * played / decoded_at_once
    context = (opening + played) * shape.cache_values_per_token * 2
    weights = shape.parameters * (0.53 if preset.four_bit else 2)
    reads = (weights + decoded_at_once * context) / gpu.bytes_per_second / BANDWIDTH_USED
    # an opening is read once for its group
    read = prompts / preset.processes * opening + episodes * (1 - WRITTEN_SHARE) * played
    prefill = 2 * shape.parameters * read / gpu.flops / FLOPS_USED
    return steps * (reads + DECODE_SECONDS[preset.use_vllm]) + prefill


def _training(preset: Preset, shape: sizes.Shape, gpu: Gpu, prompts: int, completion: int) -> float:
    """Seconds of a step's forward and backward passes on one GPU."""
    longest, most = sizes.longest_tokens(preset)
    tokens = longest - most + EPISODE_SHARE * completion
    attention = 2 * tokens**2 * shape.hidden * shape.layers  # causal: half of the pairs
    forward = 2 * shape.parameters * tokens + attention
    # the loss and its backward pass, which with LoRA makes no gradients of weights; blocks computed
    # anew; the reference's pass; with vLLM one for the importance weights
    passes = 1 + (1 if preset.lora_rank else 2) + preset.gradient_checkpointing
    passes += bool(preset.beta) + preset.use_vllm
    episodes = prompts * preset.generations / preset.processes
    return episodes * passes * forward / gpu.flops / FLOPS_USED


def estimate(preset: Preset) -> pd.DataFrame:
    """One row per stage and `all`, as `cost` gives, by arithmetic: nothing of it is measured.

    ValueError where the preset's GPU or its model's shape is not known.
    """
    gpu, shape = GPUS.get(preset.gpu_gib), sizes.shape_of(preset.model)
    if gpu is None or shape is None or not preset.bf16:
        raise ValueError(
            f"preset {preset.name!r} is not estimated, only bf16 ones for GPUs of "
            f"{' or '.join(f'{gib:.0f}' for gib in GPUS)} GiB whose model is known; train a few "
            "steps and give the run"
        )
    rows = []
    for stage, steps in zip(STAGES, preset.stage_steps, strict=True):
        prompts = preset.prompts_per_step or stage.prompts_per_step
        completion = preset.completion_tokens or stage.completion_tokens
        number = 1 + math.ceil(steps / preset.validate_every)
        played = _generation(preset, shape, gpu, prompts, preset.generations, completion)
        trained = _training(preset, shape, gpu, prompts, completion)
        checked = _generation(preset, shape, gpu, preset.validation_tasks, 1, completion)
        hours = ((played + trained) * steps + checked * number) / 3600
        rows.append(
            {
                "stage": stage.name,
                "steps": steps,
                "generation_seconds": played,
                "training_seconds": trained,
                "validations": number,
                "validation_seconds": checked,
                "hours": hours,
                "device_hours": hours * preset.processes,
            }
        )
    table = pd.DataFrame(rows)
    whole = {"stage": "all", **table[["steps", "validations", "hours", "device_hours"]].sum()}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True).astype(
        {"steps": int, "validations": int}
    )
