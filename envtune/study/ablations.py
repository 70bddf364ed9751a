"""Pictures of a sweep: a line an axis value with a band over seeds, ends of runs as dots with pooled intervals, the paper's curves beside.

>>> summary, curves = load("kl_sweep")                               # of runs/kl_sweep, else of data/reference_runs
>>> fig = figure(summary, curves, "case", PANELS["kl_sweep"], "tiny-agent")
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from envtune.common import paths
from envtune.common.stats import wilson
from envtune.study import figures

VALIDATED = (
    "accuracy",
    *(f"accuracy_{split}" for split in ("base", "miss_func", "miss_param", "long_context")),
)
"""Columns of curves that validations have; all others are of training steps."""
SMOOTH = 5
"""Training curves are drawn as means over so many steps [steps]."""

_ACCURACY, _PROGRESS, _NORM = (
    {"accuracy": "validation accuracy"},
    {"progress": "progress (training)"},
    {"grad_norm": "gradient norm"},
)
_ENTROPY, _RECOVERY = {"entropy": "entropy (nats a token)"}, {"recovery_rate": "errors recovered"}
PANELS = {
    "ablation_curriculum": _ACCURACY | _PROGRESS | _NORM,
    "ablation_augmentation": _ACCURACY | _PROGRESS | _RECOVERY,
    "ablation_reward": _ACCURACY | _PROGRESS | _NORM,
    "kl_sweep": _ENTROPY | _ACCURACY | _PROGRESS,
    "kl_sweep_scale": _ENTROPY | _ACCURACY | _NORM,
    "hint_robustness": _ACCURACY | _PROGRESS | _RECOVERY,
}
"""What each ablation's figure shows of its curves: column -> axis label."""


def load(name: str, run_first: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of a sweep: of its run folder, else the committed reference. FileNotFoundError says how to make it."""
    places = [paths.DATA / "reference_runs" / name]
    if run_first:
        places.insert(0, paths.runs() / name)
    for place in places:
        if (place / "summary.parquet").exists():
            return pd.read_parquet(place / "summary.parquet"), pd.read_parquet(
                place / "curves.parquet"
            )
    raise FileNotFoundError(
        f"there is no sweep {name!r} in {' or '.join(map(str, places))}: run its notebook, or `make ablations`"
    )


def line(ax, data: pd.DataFrame, column: str, colour, label: str) -> None:
    """Mean over seeds at every step, with the band from the least to the largest seed."""
    per_seed = data.dropna(subset=[column]).pivot_table(index="at", columns="seed", values=column)
    if column not in VALIDATED:
        per_seed = per_seed.rolling(SMOOTH, min_periods=1).mean()
    ax.plot(
        per_seed.index,
        per_seed.mean(axis=1),
        color=colour,
        label=label,
        linewidth=1.5,
        marker="o" if column in VALIDATED else None,
        markersize=3,
    )
    if per_seed.shape[1] > 1:
        ax.fill_between(
            per_seed.index,
            per_seed.min(axis=1),
            per_seed.max(axis=1),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )


def pooled(summary: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy of each axis value over all its seeds: value, seeds, n (tasks times seeds), accuracy, low, high (95%, Wilson).

    The interval takes the tasks of all seeds as independent. They are the same tasks, and seeds differ more than tasks do, so it is too
    narrow; `apart` asks for more than that.
    """
    rows = []
    for value, group in summary[summary["state"] == "done"].groupby(axis, sort=False):
        right, n = round((group["accuracy"] * group["n"]).sum()), int(group["n"].sum())
        low, high = wilson(right, n)
        rows.append(
            {
                "value": value,
                "seeds": len(group),
                "n": n,
                "accuracy": right / n,
                "low": low,
                "high": high,
                "least": group["accuracy"].min(),
                "most": group["accuracy"].max(),
            }
        )
    return pd.DataFrame(rows)


def apart(higher, lower) -> bool:
    """Whether one row of `pooled` lies above another: its interval, and every seed of it above every seed of the other. With three seeds
    a side, chance puts all of one above all of the other in one case of twenty."""
    return bool(higher["low"] > lower["high"] and higher["least"] > lower["most"])


def paired(summary: pd.DataFrame, axis: str, one, other) -> pd.Series:
    """Accuracy of one value less that of another, by seed: runs of one seed start from one policy and read the tasks in one order."""
    by_seed = summary[summary["state"] == "done"].pivot_table(
        index="seed", columns=axis, values="accuracy"
    )
    return (by_seed[one] - by_seed[other]).dropna()


def figure(
    summary: pd.DataFrame, curves: pd.DataFrame, axis: str, panels: Mapping[str, str], source: str
) -> Figure:
    """Curves of the sweep, a panel a column, and the accuracy at the end. `axis` is what differs, besides the seed. ValueError when no run
    of the sweep is done; a value without one is left out."""
    summary = summary[summary["state"] == "done"]
    if not len(summary):
        raise ValueError(
            "no run of this sweep is done, so there is nothing to draw; its table has the errors"
        )
    figures.style()
    order, colours = list(dict.fromkeys(summary[axis])), figures.COLOURS * 3
    width = 3.1 * (len(panels) + 1)
    fig, axes = plt.subplots(1, len(panels) + 1, figsize=(width, 3.6))
    for ax, (column, title) in zip(axes, panels.items(), strict=False):
        part = curves[curves["kind"] == ("validation" if column in VALIDATED else "train")]
        for i, value in enumerate(order):
            line(ax, part[part[axis] == value], column, colours[i], str(value))
        ax.set(xlabel="optimiser step", ylabel=title)
        ax.set_ylim(bottom=0)
    ends, table = axes[-1], pooled(summary, axis).set_index("value")
    for i, value in enumerate(order):
        row = table.loc[value]
        ends.errorbar(
            i,
            row["accuracy"],
            yerr=[[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]],
            fmt="o",
            markersize=5,
            color=colours[i],
            capsize=3,
        )
        dots = summary[summary[axis] == value]["accuracy"]
        ends.plot(
            [i + 0.18] * len(dots),
            dots,
            linestyle="none",
            marker=".",
            markersize=5,
            color=colours[i],
            alpha=0.6,
        )
    ends.set_xticks(range(len(order)), order, rotation=30, ha="right", fontsize=7)
    ends.set(ylabel="accuracy at the end", ylim=(0, 1.02), xlim=(-0.5, len(order) - 0.2))
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(
        handles,
        names,
        fontsize=7,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.075),
        ncol=min(len(order), 7),
    )
    fig.tight_layout(rect=(0, 0.17, 1, 1))
    seeds, n = sorted(summary["seed"].unique()), int(summary["n"].iloc[0])
    figures.caption(
        fig,
        f"Own runs: {source}, seeds {', '.join(map(str, seeds))}. Bands: least to largest seed; training curves are means "
        f"over {SMOOTH} steps; validation is one sampled episode a task.\nAt the end: greedy, {n} tasks a seed, "
        "BFCL's checker; large dots pool the seeds (95% Wilson), small dots are seeds.",
    )
    return fig


def reading(summary: pd.DataFrame, axis: str) -> str:
    """The pooled accuracies in words, best first, and which of them lie apart from the best."""
    failed = summary[summary["state"] != "done"]["run"].tolist()
    if len(failed) == len(summary):
        return f"No run is done. Missing runs: {', '.join(failed)}."
    table = pooled(summary, axis).sort_values("accuracy", ascending=False, kind="stable")
    best = table.iloc[0]
    lines = [
        f"- {row.value}: {row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}], seeds from {row.least:.2f} to {row.most:.2f} "
        f"({row.seeds} seeds, n = {row.n})"
        for row in table.itertuples()
    ]
    below = [str(row["value"]) for _, row in table.iloc[1:].iterrows() if apart(best, row)]
    verdict = f"Highest: **{best['value']}**. " + (
        f"Below it by interval and in every seed: {', '.join(below)}."
        if below
        else "None lies below it by interval and in every seed: no difference is shown."
    )
    return "\n".join(
        [*lines, "", verdict, *([f"Missing runs: {', '.join(failed)}."] if failed else [])]
    )


def paper_lines(ax, data: pd.DataFrame) -> str:
    """One panel of the paper's Fig. 4, a line a series; returns the stage that it shows."""
    for i, (series, part) in enumerate(data.groupby("series", sort=False)):
        ax.plot(
            part["step"],
            part["accuracy"],
            color=figures.COLOURS[i],
            linewidth=1.1,
            label=series.replace("_", " "),
        )
    return " and ".join(str(stage) for stage in sorted(data["stage"].unique()))


def paper_panels(
    name: str, panels: Sequence[str] = ("base", "miss_func", "miss_param", "long_context")
) -> Figure:
    """The paper's Fig. 4a or 4b as digitised: a panel a split, a line a series."""
    figures.style()
    data = pd.read_csv(paths.DATA / "paper" / f"{name}.csv")
    fig, axes = plt.subplots(1, len(panels), figsize=(3.0 * len(panels), 2.9), sharey=True)
    for ax, panel in zip(axes, panels, strict=True):
        stage = paper_lines(ax, data[data["panel"] == panel])
        ax.set(title=f"{panel.replace('_', ' ')}, stage {stage}", xlabel="step")
    axes[0].set_ylabel("accuracy")
    axes[0].legend(fontsize=7)
    fig.tight_layout(rect=(0, 0.06, 1, 1))
    figures.caption(
        fig,
        "The paper, digitised from its image: Qwen2.5-7B-Instruct, smoothed by its authors, one run.",
    )
    return fig
