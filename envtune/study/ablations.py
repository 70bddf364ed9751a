"""Figures of a sweep: a line per case with the range of its seeds, and the final accuracies.

>>> summary, curves = load_sweep("kl_sweep")     # from runs/kl_sweep, else data/reference_runs
>>> fig = figure(summary, curves, "case", PANELS["kl_sweep"], "tiny-agent")
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from envtune.common import paths, stats
from envtune.common.stats import Difference
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
"""With more cases than this, the bands of their seeds would overlap and are not drawn."""


def load_sweep(name: str, run_first: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, curves) of a sweep from its run folder, else from the committed reference runs."""
    places = [paths.runs() / name] * run_first + [paths.DATA / "reference_runs" / name]
    for place in places:
        if (place / "summary.parquet").exists():
            summary = pd.read_parquet(place / "summary.parquet")
            return summary, pd.read_parquet(place / "curves.parquet")
    raise FileNotFoundError(
        f"there is no sweep {name!r} in {' or '.join(map(str, places))}: "
        "run its notebook, or `make ablations`"
    )


def by_task(runs: pd.DataFrame) -> pd.DataFrame | None:
    """Columns scenario, seed, valid, a row per evaluated task of each run, from the column
    `scenarios` (experiments.accuracies); None where a run lacks it."""
    if "scenarios" not in runs or runs["scenarios"].isna().to_numpy().any():
        return None
    rows = []
    for run in runs.to_dict("records"):
        for part in run["scenarios"].split():
            scenario, _, counts = part.partition("=")
            right, n = map(int, counts.split("/"))
            rows += [(scenario, run["seed"], 1.0)] * right
            rows += [(scenario, run["seed"], 0.0)] * (n - right)
    return pd.DataFrame(rows, columns=["scenario", "seed", "valid"])


def pooled(summary: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy of each axis value over all its seeds, with a 95% interval (low, high).

    n is tasks times seeds; least and most are the lowest and the highest accuracy of a seed.
    The interval is a bootstrap over scenarios crossed with seeds (stats.share). Three seeds say
    little of the spread between seeds, so it is still too narrow; `clearly_above` asks for more.
    For runs without results by scenario it holds both the range of their seeds and the exact
    interval (stats.exact) of all their tasks, which takes tasks and seeds as independent trials.
    """
    rows = []
    for value, group in summary.loc[summary["state"] == "done"].groupby(axis, sort=False):
        n, tasks = int(group["n"].sum()), by_task(group)
        low, high = least, most = group["accuracy"].min(), group["accuracy"].max()
        if tasks is None:
            below, above = stats.exact(int((group["accuracy"] * group["n"]).round().sum()), n)
            low, high = min(least, below), max(most, above)
        else:
            _, low, high = stats.clustered(
                list(tasks["valid"]), list(tasks["scenario"]), list(tasks["seed"])
            )
        mean = (group["accuracy"] * group["n"]).sum() / n
        rows.append((value, len(group), n, mean, low, high, least, most))
    names = ("value", "seeds", "n", "accuracy", "low", "high", "least", "most")
    return pd.DataFrame(rows, columns=names)


def clearly_above(higher, lower) -> bool:
    """Whether one row of `pooled` lies above another with its whole interval and with every seed.

    With three seeds each, all seeds of one are above all of the other by chance 1 time in 20.
    """
    return bool(higher["low"] > lower["high"] and higher["least"] > lower["most"])


def paired(summary: pd.DataFrame, axis: str, one, other) -> pd.Series:
    """Accuracy of one value minus that of the other, by seed.

    Runs with the same seed start from the same policy and see the tasks in the same order.
    """
    done = summary.loc[summary["state"] == "done"]
    by_seed = done.pivot_table(index="seed", columns=axis, values="accuracy")
    return (by_seed[one] - by_seed[other]).dropna()


def difference(summary: pd.DataFrame, axis: str, one, other) -> Difference | None:
    """Accuracy of one value minus that of the other, paired by scenario and seed (stats.paired).

    None where they share no seed, or lack results by scenario.
    """
    done, keys = summary.loc[summary["state"] == "done"], ["scenario", "seed"]
    tables = [by_task(done.loc[done[axis] == value]) for value in (one, other)]
    means: list[Any] = [t.groupby(keys)["valid"].mean() for t in tables if t is not None]
    if len(means) < 2:
        return None
    gain = (means[0] - means[1]).dropna().reset_index()
    if not len(gain):
        return None
    return stats.paired(list(gain["valid"]), list(gain["scenario"]), list(gain["seed"]))


def seeds_of(runs: pd.DataFrame) -> str:
    """The seeds of a table's runs as text: "seeds 0, 1, 2"."""
    return "seeds " + ", ".join(map(str, sorted(set(runs["seed"]))))


def figure(
    summary: pd.DataFrame, curves: pd.DataFrame, axis: str, panels: Iterable[str], source: str
) -> Figure:
    """Curves of the sweep, one panel per metric, and the accuracy at the end.

    `axis` is the column that differs between runs besides the seed; a value of it without a
    finished run is left out. ValueError when no run of the sweep is done.
    """
    summary = summary.loc[summary["state"] == "done"]
    if not len(summary):
        raise ValueError(
            "no run of this sweep is done, so there is nothing to draw; its table has the errors"
        )
    panels, names = list(panels), list(dict.fromkeys(summary[axis]))
    curves, bands = curves.loc[curves[axis].isin(names)], len(names) <= BANDS
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
    interval = "95%, scenarios crossed with seeds"
    if by_task(summary) is None:
        interval += "; without results by scenario: the exact one and the seeds' range"
    return kit.finish(
        fig,
        f"Own runs: {source}, {seeds_of(summary)}. {ranges}training curves are "
        f"means over {kit.SMOOTH} steps; validation is one sampled episode per task.\n"
        f"At the end: greedy, {int(summary['n'].iloc[0])} tasks per seed, BFCL's checker; large "
        f"dots pool the seeds ({interval}), small dots are seeds.",
    )


def ranking_text(summary: pd.DataFrame, axis: str) -> str:
    """The pooled accuracies as text, best first, and which of them are clearly below the best."""
    failed = summary.loc[summary["state"] != "done", "run"].tolist()
    missing = [f"Missing runs: {', '.join(failed)}."] if failed else []
    if len(failed) == len(summary):
        return f"No run is done. {missing[0]}"
    table = pooled(summary, axis).sort_values("accuracy", ascending=False, kind="stable")
    best, *others = rows = table.to_dict("records")
    lines = [
        f"- {row['value']}: {row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}], "
        f"seeds from {row['least']:.2f} to {row['most']:.2f} ({row['seeds']} seeds, n = {row['n']})"
        for row in rows
    ]
    below = [str(row["value"]) for row in others if clearly_above(best, row)]
    verdict = (
        f"Below it by interval and in every seed: {', '.join(below)}."
        if below
        else "None lies below it by interval and in every seed: no difference is shown."
    )
    return "\n".join([*lines, "", f"Highest: **{best['value']}**. {verdict}", *missing])
