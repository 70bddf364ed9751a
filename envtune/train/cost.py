"""The time that a whole run takes, estimated from a few of its steps on this machine.

    $ python -m envtune run notebooks/90_experiment.ipynb -p preset gpu-80gb -p stage_steps '[4]' \\
        -p run_name try
    $ python -m envtune cost runs/try

Steps with another number of episodes than the preset's are scaled by it. Loading the model and the
evaluation at the end are not counted.
"""

import math
from pathlib import Path

import pandas as pd

from envtune.common import files
from envtune.train import presets
from envtune.train.presets import Preset
from envtune.train.stages import STAGES


def read_run(run: Path, preset: str = "") -> tuple[pd.DataFrame, Preset]:
    """Metrics of a run folder or a parquet file, and the preset: the one named, else the run's own.

    ValueError without a preset.
    """
    metrics = pd.read_parquet(run) if run.suffix == ".parquet" else files.load_metrics(run)
    if not preset:
        config = files.read_json(run / "config.json") if run.is_dir() else None
        if not config:
            raise ValueError(
                f"{run} does not say its preset; give --preset, one of {', '.join(presets.PRESETS)}"
            )
        preset = config["preset"]["name"]
    return metrics, presets.get(preset)


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
