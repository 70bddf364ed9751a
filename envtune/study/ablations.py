"""Pictures of a sweep: a line a case with the range of its seeds, and the ends of runs as dots with
pooled intervals.

>>> summary, curves = load("kl_sweep")     # of runs/kl_sweep, else of data/reference_runs
>>> fig = figure(summary, curves, "case", PANELS["kl_sweep"], "tiny-agent")
"""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from envtune.common import paths
from envtune.common.stats import wilson
from envtune.study import kit

PANELS = {
    "ablation_curriculum": ("accuracy", "progress", "grad_norm"),
    "ablation_augmentation": ("accuracy", "progress", "recovery_rate"),
    "ablation_reward": ("accuracy", "progress", "grad_norm"),
    "kl_sweep": ("entropy", "accuracy", "progress"),
    "kl_sweep_scale": ("entropy", "accuracy", "grad_norm"),
    "hint_robustness": ("accuracy", "progress", "recovery_rate"),
}
"""The metrics that each sweep's figure shows over the steps."""
BANDS = 4
"""With more cases than this, the ranges of their seeds would cover each other and are left out of
the curves."""


def load(name: str, run_first: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of a sweep: of its run folder, else the committed reference.
    FileNotFoundError says how to make it."""
    places = [paths.runs() / name] * run_first + [paths.DATA / "reference_runs" / name]
    for place in places:
        if (place / "summary.parquet").exists():
            return tuple(
                pd.read_parquet(place / f"{part}.parquet") for part in ("summary", "curves")
            )
    raise FileNotFoundError(
        f"there is no sweep {name!r} in {' or '.join(map(str, places))}: "
        "run its notebook, or `make ablations`"
    )


def pooled(summary: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy of each axis value over all its seeds: value, seeds, n (tasks times seeds),
    accuracy, low, high (95%, Wilson).

    The interval takes the tasks of all seeds as independent. They are the same tasks, and seeds
    differ more than tasks do, so it is too narrow; `apart` asks for more than that.
    """
    rows = []
    for value, group in summary[summary["state"] == "done"].groupby(axis, sort=False):
        right, n = round((group["accuracy"] * group["n"]).sum()), int(group["n"].sum())
        low, high = wilson(right, n)
        least, most = group["accuracy"].min(), group["accuracy"].max()
        rows.append((value, len(group), n, right / n, low, high, least, most))
    names = ("value", "seeds", "n", "accuracy", "low", "high", "least", "most")
    return pd.DataFrame(rows, columns=names)


def apart(higher, lower) -> bool:
    """Whether one row of `pooled` lies above another: its interval, and every seed of it above
    every seed of the other. With three seeds a side, chance puts all of one above all of the other
    in one case of twenty."""
    return bool(higher["low"] > lower["high"] and higher["least"] > lower["most"])


def paired(summary: pd.DataFrame, axis: str, one, other) -> pd.Series:
    """Accuracy of one value less that of another, by seed: runs of one seed start from one policy
    and read the tasks in one order."""
    done = summary[summary["state"] == "done"]
    by_seed = done.pivot_table(index="seed", columns=axis, values="accuracy")
    return (by_seed[one] - by_seed[other]).dropna()


def seeds_of(runs: pd.DataFrame) -> str:
    """The seeds of a table's runs, in words."""
    return "seeds " + ", ".join(map(str, sorted(runs["seed"].unique())))


def figure(
    summary: pd.DataFrame, curves: pd.DataFrame, axis: str, panels: Iterable[str], source: str
) -> Figure:
    """Curves of the sweep, a panel a metric, and the accuracy at the end. `axis` is what differs,
    besides the seed. ValueError when no run of the sweep is done; a value without one is left
    out."""
    summary = summary[summary["state"] == "done"]
    if not len(summary):
        raise ValueError(
            "no run of this sweep is done, so there is nothing to draw; its table has the errors"
        )
    panels, names = list(panels), list(dict.fromkeys(summary[axis]))
    curves, bands = curves[curves[axis].isin(names)], len(names) <= BANDS
    fig, axes = kit.canvas(1, len(panels) + 1, (3.1 * (len(panels) + 1), 3.4))
    *over_steps, ends = axes[0]
    for ax, column in zip(over_steps, panels, strict=True):
        kit.panel(ax, curves, column, axis, names, bands, legend=False)
    table, colours = pooled(summary, axis).set_index("value"), kit.colours(names)
    for i, name in enumerate(names):
        row, dots = table.loc[name], summary.loc[summary[axis] == name, "accuracy"]
        reach = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
        look = {"fmt": "o", "markersize": 5, "color": colours[name], "capsize": 3}
        ends.errorbar(row["accuracy"], i, xerr=reach, **look)
        ends.plot(dots, [i + 0.25] * len(dots), ".", color=colours[name], alpha=0.6)
    ends.set_yticks(range(len(names)), map(kit.label, names))
    ends.set(xlabel="accuracy at the end (greedy)", xlim=(0, 1.02))
    ends.invert_yaxis()
    ends.yaxis.tick_right()
    for tick, name in zip(ends.get_yticklabels(), names, strict=True):
        tick.set_color(colours[name])
    ranges = "Bands: least to largest seed; " if bands else "Means over seeds; "
    return kit.finish(
        fig,
        f"Own runs: {source}, {seeds_of(summary)}. {ranges}training curves are "
        f"means over {kit.SMOOTH} steps; validation is one sampled episode per task.\n"
        f"At the end: greedy, {int(summary['n'].iloc[0])} tasks per seed, BFCL's checker; large "
        "dots pool the seeds (95% Wilson), small dots are seeds.",
    )


def reading(summary: pd.DataFrame, axis: str) -> str:
    """The pooled accuracies in words, best first, and which of them lie apart from the best."""
    failed = summary[summary["state"] != "done"]["run"].tolist()
    missing = [f"Missing runs: {', '.join(failed)}."] if failed else []
    if len(failed) == len(summary):
        return f"No run is done. {missing[0]}"
    table = pooled(summary, axis).sort_values("accuracy", ascending=False, kind="stable")
    best = table.iloc[0]
    lines = [
        f"- {row.value}: {row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}], "
        f"seeds from {row.least:.2f} to {row.most:.2f} ({row.seeds} seeds, n = {row.n})"
        for row in table.itertuples()
    ]
    below = [str(row["value"]) for _, row in table.iloc[1:].iterrows() if apart(best, row)]
    verdict = (
        f"Below it by interval and in every seed: {', '.join(below)}."
        if below
        else "None lies below it by interval and in every seed: no difference is shown."
    )
    return "\n".join([*lines, "", f"Highest: **{best['value']}**. {verdict}", *missing])
