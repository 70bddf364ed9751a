"""The numbers of one run: how its curves began and ended, and the row that notebook 90_experiment
leaves for a sweep.

>>> change(metrics[metrics["kind"] == "train"], "reward")
"""

from collections.abc import Sequence

import pandas as pd

from envtune.train.evaluation import accuracy_by_split

LAST = 5
"""Training steps that an end value is the mean of [steps]."""
ENDS = ("reward", "progress", "entropy", "kl", "grad_norm", "recovery_rate", "format_reward")
"""Of what an end value is kept."""


def ends(train: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over a stage's first and last training steps: LAST of each, or as many as do not
    overlap. A single step has one column."""
    span = min(LAST, len(train) // 2)
    steps = f"{span} steps" if span > 1 else "step"
    parts = (
        {f"first {steps}": train.head(span), f"last {steps}": train.tail(span)}
        if span
        else {"the only step": train}
    )
    return pd.DataFrame({name: part[list(columns)].mean() for name, part in parts.items()})


def change(train: pd.DataFrame, column: str) -> str:
    """What `ends` says of one column, as a sentence."""
    table = ends(train, [column])
    if len(table.columns) == 1:
        only = table.iloc[0, 0]
        return f"One step was made, with a mean {column} of {only:.2f}: too few to tell a change."
    first, last = table.loc[column]
    return (
        f"Over {len(train)} steps the mean {column} changed by **{last - first:+.2f}** "
        f"(from the {' to the '.join(table.columns)})."
    )


def accuracies(evaluated: pd.DataFrame) -> dict[str, float]:
    """Of one evaluation: n, accuracy with its 95% interval, accuracy by split, progress and
    recovery."""
    table = accuracy_by_split(evaluated).set_index("split")
    every = table.loc["all"]
    return {
        "n": int(every["n"]),
        "accuracy": float(every["accuracy"]),
        "low": float(every["low"]),
        "high": float(every["high"]),
        **{
            f"accuracy_{split}": float(table.loc[split, "accuracy"])
            for split in table.index
            if split != "all"
        },
        "evaluated_progress": float(every["progress"]),
        "evaluated_recovery": float(every["recovery"]),
    }


def result(metrics: pd.DataFrame, evaluated: pd.DataFrame) -> dict[str, float]:
    """Of one run: `accuracies`, and the ends of its training curves. Numbers alone; NaN where there
    is none."""
    train, validation = (
        metrics[metrics["kind"] == "train"],
        metrics[metrics["kind"] == "validation"],
    )
    end, none = train.tail(LAST), pd.Series(dtype=str)

    def mean(name: str) -> float:
        return float(end[name].mean()) if name in end else float("nan")

    return {
        **accuracies(evaluated),
        **{f"last_{name}": mean(name) for name in ENDS},
        "largest_grad_norm": float(train["grad_norm"].max()),
        "best_validation": float(validation["accuracy"].max()),
        "last_validation": float(validation["accuracy"].iloc[-1]),
        "alarms": int((metrics["kind"] == "alarm").sum()),
        "explosions": int((metrics.get("alarm", none) == "gradient_explosion").sum()),
        "steps": len(train),
        "train_seconds": float(train["seconds"].sum()),
        "tokens_per_second": float(
            train["sampled_tokens"].sum() / train["generation_seconds"].sum()
        ),
    }
