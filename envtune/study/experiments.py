"""The numbers of one run: how its curves began and ended, and its row in a sweep's summary.

>>> change(metrics[metrics["kind"] == "train"], "reward")
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from envtune.bfcl.splits import scenario_of
from envtune.train.evaluation import accuracy_by_split

LAST = 5
"""How many training steps at the end are averaged [steps]."""
ENDS = ("reward", "progress", "entropy", "kl", "grad_norm", "recovery_rate", "format_reward")
"""The metrics whose average at the end is kept."""


def ends(train: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means over a stage's first and last LAST training steps, fewer where they would overlap.

    A single step gives one column.
    """
    span = min(LAST, len(train) // 2)
    steps = f"{span} steps" if span > 1 else "step"
    parts = (
        {f"first {steps}": train.head(span), f"last {steps}": train.tail(span)}
        if span
        else {"the only step": train}
    )
    return pd.DataFrame({name: part[list(columns)].mean() for name, part in parts.items()})


def change(train: pd.DataFrame, column: str) -> str:
    """The change of one column from the first to the last steps, as a sentence."""
    table = ends(train, [column])
    if len(table.columns) == 1:
        only = table.iloc[0, 0]
        return f"One step was made, with a mean {column} of {only:.2f}: too few to tell a change."
    first, last = table.loc[column]
    return (
        f"Over {len(train)} steps the mean {column} changed by **{last - first:+.2f}** "
        f"(from the {' to the '.join(table.columns)})."
    )


def accuracies(evaluated: pd.DataFrame) -> dict:
    """n, accuracy with its 95% interval, accuracy by split, progress, recovery, and `scenarios`:
    the valid tasks of each scenario as "scenario=valid/tasks ...", from which runs are pooled; in
    scenarios_miss_param those in which a value is missing."""
    table = accuracy_by_split(evaluated).set_index("split")
    every = table.loc["all"]
    return {
        "n": int(every["n"]),
        **every[["accuracy", "low", "high"]].astype(float).to_dict(),
        **table["accuracy"].drop("all").add_prefix("accuracy_").to_dict(),
        "evaluated_progress": float(every["progress"]),
        "evaluated_recovery": float(every["recovery"]),
        "scenarios": _by_scenario(evaluated),
        "scenarios_miss_param": _by_scenario(evaluated.loc[evaluated["split"] == "miss_param"]),
    }


def _by_scenario(evaluated: pd.DataFrame) -> str:
    valid = evaluated["valid"].groupby(evaluated["task_id"].map(scenario_of), sort=False)
    return " ".join(f"{name}={part.sum()}/{len(part)}" for name, part in valid)


def area(validation: pd.DataFrame) -> float:
    """Mean validation accuracy over the steps of a run, by trapezoids; of one step, its accuracy.

    It says how early a run becomes good, which its last accuracy does not.
    """
    at, accuracy = validation["at"].to_numpy(float), validation["accuracy"].to_numpy(float)
    width = at[-1] - at[0]
    return float(np.trapezoid(accuracy, at) / width) if width else float(accuracy.mean())


def result(metrics: pd.DataFrame, evaluated: pd.DataFrame) -> dict:
    """`accuracies` of a run and the ends of its training curves, NaN where a metric is missing."""
    train, validation = (metrics.loc[metrics["kind"] == kind] for kind in ("train", "validation"))
    last = train.tail(LAST).reindex(columns=list(ENDS))
    # a run without an alarm has no column for it; the row of an alarm goes with what a rollback
    # takes back, and the rollback's own row names it
    alarms = metrics.reindex(columns=["alarm"])["alarm"].dropna().tolist()
    return {
        **accuracies(evaluated),
        **{f"last_{name}": float(last[name].mean()) for name in ENDS},
        "largest_grad_norm": float(train["grad_norm"].max()),
        "best_validation": float(validation["accuracy"].max()),
        "last_validation": float(validation["accuracy"].iloc[-1]),
        "validation_area": area(validation),
        "alarms": len(alarms),
        "explosions": alarms.count("gradient_explosion"),
        "steps": len(train),
        "train_seconds": float(train["seconds"].sum()),
        "tokens_per_second": float(
            train["sampled_tokens"].sum() / train["generation_seconds"].sum()
        ),
    }
