"""What notebook 90_experiment does with its parameters, and the row of numbers that it leaves for a sweep.

    >>> [stage.hint_rate for stage in stages_of(["stage2_hints"], hint_rate=0.5)]
    [0.5]
"""
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from envtune.evaluation import summary
from envtune.presets import Preset
from envtune.stages import BY_NAME, STAGES, Stage

LAST = 5
"""Training steps that an end value is the mean of [steps]."""
ENDS = ("reward", "progress", "entropy", "kl", "grad_norm", "recovery_rate", "format_reward")
"""Of what an end value is kept."""


def stages_of(names: Sequence[str], reward: str = "", reward_scale: float = 1.0, hint_rate: float = -1.0, hint_schedule: str = "",
              corruption: str = "none", corruption_rate: float = 0.0) -> list[Stage]:
    """The named stages with these changes. Stage 1 keeps its reward: it has no progress to replace. ValueError for an unknown name."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown or not names:
        raise ValueError(f"stages are any of {', '.join(BY_NAME)}, at least one; got {list(names)!r}")
    chosen = []
    for stage in (BY_NAME[name] for name in names):
        own = stage.reward if stage.reward == "stage1" else reward or stage.reward
        chosen.append(replace(stage, reward=own, reward_scale=reward_scale, hint_rate=stage.hint_rate if hint_rate < 0 else hint_rate,
                              hint_schedule=hint_schedule or stage.hint_schedule, corruption=corruption, corruption_rate=corruption_rate))
    return chosen


def steps_of(stages: Sequence[Stage], steps: Sequence[int], preset: Preset) -> list[int]:
    """Steps of each stage: as given, or the preset's (a single-stage baseline takes all four together). ValueError for another count."""
    own = dict(zip((stage.name for stage in STAGES), preset.stage_steps, strict=True))
    found = list(steps) or [own.get(stage.name, sum(preset.stage_steps)) for stage in stages]
    if len(found) != len(stages) or any(n < 1 for n in found):
        raise ValueError(f"stage_steps holds a number above 0 for each of {len(stages)} stages, got {found!r}")
    return found


def ends(train: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over a stage's first and last training steps: LAST of each, or as many as do not overlap. A single step has one column."""
    span = min(LAST, len(train) // 2)
    steps = f"{span} steps" if span > 1 else "step"
    parts = {f"first {steps}": train.head(span), f"last {steps}": train.tail(span)} if span else {"the only step": train}
    return pd.DataFrame({name: part[list(columns)].mean() for name, part in parts.items()})


def change(train: pd.DataFrame, column: str) -> str:
    """What `ends` says of one column, as a sentence."""
    table = ends(train, [column])
    if len(table.columns) == 1:
        return f"One step was made, with a mean {column} of {table.iloc[0, 0]:.2f}: too few to tell a change."
    first, last = table.loc[column]
    return f"Over {len(train)} steps the mean {column} changed by **{last - first:+.2f}** (from the {' to the '.join(table.columns)})."


def accuracies(evaluated: pd.DataFrame) -> dict[str, float]:
    """Of one evaluation: n, accuracy with its 95% interval, accuracy by split, progress and recovery."""
    table = summary(evaluated).set_index("split")
    every = table.loc["all"]
    return {"n": int(every["n"]), "accuracy": float(every["accuracy"]), "low": float(every["low"]), "high": float(every["high"]),
            **{f"accuracy_{split}": float(table.loc[split, "accuracy"]) for split in table.index if split != "all"},
            "evaluated_progress": float(every["progress"]), "evaluated_recovery": float(every["recovery"])}


def result(metrics: pd.DataFrame, evaluated: pd.DataFrame) -> dict[str, float]:
    """Of one run: `accuracies`, and the ends of its training curves. Numbers alone; NaN where there is none."""
    train, validation = metrics[metrics["kind"] == "train"], metrics[metrics["kind"] == "validation"]
    end = train.tail(LAST)

    def mean(name: str) -> float:
        return float(end[name].mean()) if name in end else float("nan")

    return {**accuracies(evaluated), **{f"last_{name}": mean(name) for name in ENDS},
            "largest_grad_norm": float(train["grad_norm"].max()), "best_validation": float(validation["accuracy"].max()),
            "last_validation": float(validation["accuracy"].iloc[-1]), "alarms": int((metrics["kind"] == "alarm").sum()),
            "explosions": int((metrics.get("alarm") == "gradient_explosion").sum()) if "alarm" in metrics else 0,
            "steps": len(train), "train_seconds": float(train["seconds"].sum()),
            "tokens_per_second": float(train["sampled_tokens"].sum() / train["generation_seconds"].sum())}
