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
    "ablation_augmentation_deaf": ("accuracy", "progress", "recovery_rate"),
    "ablation_reward_3": ("accuracy", "progress", "share_of_groups_without_signal"),
    "ablation_reward_4": ("accuracy", "progress", "share_of_groups_without_signal"),
    "kl_sweep": ("entropy", "accuracy", "progress"),
    "kl_sweep_scale": ("entropy", "accuracy", "grad_norm"),
    "hint_robustness": ("accuracy", "progress", "recovery_rate"),
    "training_tasks": ("accuracy", "progress", "entropy"),
    "collapse_search": ("accuracy", "entropy", "grad_norm"),
}
"""The metrics that each sweep's figure shows over the steps."""
LEAST = 0.06
"""The difference in accuracy that the study was planned to see (docs/study.md)."""
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
        f"there is no sweep {name!r} in {' or '.join(f'{p.parent.name}/' for p in places)}: "
        "run its notebook, `make ablations` or `make collapse`"
    )


PARTS = ("all", "doing", "asking")
"""The test tasks: all, those of the other three variants, those with a missing parameter."""


def _counts(text: str) -> dict[str, tuple[int, int]]:
    """Valid tasks and tasks of each scenario, from the text that experiments.accuracies keeps."""
    parts = (part.partition("=") for part in text.split())
    return {name: (int(n.split("/")[0]), int(n.split("/")[1])) for name, _, n in parts}


def by_task(runs: pd.DataFrame, part: str = "all") -> pd.DataFrame:
    """Columns scenario, seed, valid, a row per evaluated task of each run, from the columns
    `scenarios` and `scenarios_miss_param` (experiments.accuracies). `part`: one of PARTS."""
    rows = []
    for run in runs.to_dict("records"):
        asking = _counts(run["scenarios_miss_param"]) if part != "all" else {}
        counts = asking if part == "asking" else _counts(run["scenarios"])
        for scenario, (right, n) in counts.items():
            if part == "doing":
                less = asking.get(scenario, (0, 0))
                right, n = right - less[0], n - less[1]
            seed = run.get("seed", 0)  # of a sweep over other parameters all have the same
            rows += [(scenario, seed, 1.0)] * right + [(scenario, seed, 0.0)] * (n - right)
    return pd.DataFrame(rows, columns=["scenario", "seed", "valid"])


def _done(summary: pd.DataFrame, axis: str, value, part: str = "all") -> pd.DataFrame:
    """The finished runs of one value, a row per task."""
    return by_task(summary.loc[(summary[axis] == value) & (summary["state"] == "done")], part)


def pooled(summary: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Accuracy of each axis value over all its seeds, with a 95% interval (low, high).

    n is tasks times seeds; least and most are the lowest and the highest accuracy of a seed. The
    interval is for new tasks and new seeds (stats.crossed); with one seed, for new tasks alone.
    """
    rows = []
    for value, group in summary.loc[summary["state"] == "done"].groupby(axis, sort=False):
        tasks = by_task(group)
        what = list(tasks["valid"]), list(tasks["scenario"]), list(tasks["seed"])
        made = stats.crossed(*what) if len(set(what[2])) > 1 else stats.share(*what[:2])
        low, high = max(0.0, made.low), min(1.0, made.high)
        reach = group["accuracy"].min(), group["accuracy"].max()
        rows.append((value, len(set(what[2])), len(tasks), made.mean, low, high, *reach))
    names = ("value", "seeds", "n", "accuracy", "low", "high", "least", "most")
    return pd.DataFrame(rows, columns=names)


def by_variant(summary: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of each case [0..1], a column per variant of the test tasks."""
    table = summary.set_index("case").filter(regex="^accuracy_")
    table = table.rename(columns=lambda name: name.removeprefix("accuracy_"))
    return table.groupby("case", sort=False).agg("mean")


def difference(summary: pd.DataFrame, axis: str, one, other, part="all") -> Difference | None:
    """Accuracy of one value minus that of the other, on the same tasks and with the same seeds.

    `part`: one of PARTS. With several seeds, stats.crossed; with one, stats.paired. None where
    they share no seed.
    """
    keys = ["scenario", "seed"]
    means: list[Any] = [
        _done(summary, axis, v, part).groupby(keys)["valid"].mean() for v in (one, other)
    ]
    gain = (means[0] - means[1]).dropna().reset_index()
    if not len(gain):
        return None
    what = list(gain["valid"]), list(gain["scenario"])
    seeds = list(gain["seed"])
    return stats.crossed(*what, seeds) if len(set(seeds)) > 1 else stats.paired(*what)


def verdict(found: Difference) -> str:
    """What a difference says of the claim that it is above 0, by its 95% interval."""
    if found.low > 0:
        return "supported"
    return "contradicted" if found.high < 0 else "undecided"


def points(found: Difference) -> str:
    """A difference as text, in points of accuracy.

    >>> points(Difference(0.07, 0.02, 0.12, 0.02, 0.013, 0.06))
    '+7.0 points [+2.0, +12.0], p = 0.013; 6.0 would be seen'
    """
    mean, low, high = (f"{100 * value:+.1f}" for value in found[:3])
    seen = f"; {100 * found.detectable:.1f} would be seen" if found.detectable else ""
    p = f"p = {found.p_value:.3f}" if found.p_value >= 0.0005 else "p < 0.001"
    return f"{mean} points [{low}, {high}], {p}{seen}"


def against(summary: pd.DataFrame, axis: str, reference) -> dict[Any, tuple[Difference, float]]:
    """Every other value minus the reference, and its p after Holm's correction for all of them.

    A value that shares no seed with the reference is left out.
    """
    values = dict.fromkeys(summary.loc[summary["state"] == "done", axis])
    found = {v: difference(summary, axis, v, reference) for v in values if v != reference}
    known = {v: made for v, made in found.items() if made}
    corrected, p = {}, 0.0
    for i, value in enumerate(sorted(known, key=lambda v: known[v].p_value)):
        corrected[value] = p = min(1.0, max(p, (len(known) - i) * known[value].p_value))
    return {value: (made, corrected[value]) for value, made in known.items()}


def seeds_of(runs: pd.DataFrame) -> str:
    """The seeds of a table's runs as text: "seeds 0, 1, 2"."""
    return "seeds " + ", ".join(map(str, sorted(set(runs["seed"]))))


def figure(
    summary: pd.DataFrame,
    curves: pd.DataFrame,
    axis: str,
    panels: Iterable[str],
    source: str,
    title: str = "",
) -> Figure:
    """Curves of the sweep, one panel per metric, the accuracy at the end, and what differs.

    `axis` is the column that differs between runs besides the seed; its first value is what the
    others are compared with. A value without a finished run is left out. ValueError when no run of
    the sweep is done.
    """
    summary = summary.loc[summary["state"] == "done"]
    if not len(summary):
        raise ValueError(
            "no run of this sweep is done, so there is nothing to draw; its table has the errors"
        )
    panels, names = list(panels), list(dict.fromkeys(summary[axis]))
    curves, bands = curves.loc[curves[axis].isin(names)], len(names) <= BANDS
    fig, axes = kit.canvas(1, len(panels) + 2, (2.7 * (len(panels) + 2), 3.4), title)
    *over_steps, ends, gains = axes[0]
    for ax, column in zip(over_steps, panels, strict=True):
        kit.panel(ax, curves, column, axis, names, bands, legend=False)
    table, colours = pooled(summary, axis).set_index("value"), kit.colours(names)
    for i, name in enumerate(names):
        dots = summary.loc[summary[axis] == name, "accuracy"]
        kit.interval(ends, table.loc[name, ["accuracy", "low", "high"]], i, colours[name])
        ends.plot(dots, [i + 0.25] * len(dots), ".", color=colours[name], alpha=0.6)
    ends.set(xlabel="accuracy at the end (greedy)", xlim=(0, 1.02), yticks=range(len(names)))
    ends.tick_params(axis="y", labelleft=False)
    compared = against(summary, axis, names[0])
    for name, (found, _) in compared.items():
        kit.interval(gains, found[:3], names.index(name), colours[name])
    kit.points_axis(gains)
    gains.axvspan(-LEAST, LEAST, color="0.92", zorder=0)
    gains.set(xlabel=f"points above\n{kit.label(names[0])}", ylim=ends.get_ylim())
    gains.set_yticks(range(len(names)), map(kit.label, names))
    for ax in (ends, gains):
        ax.invert_yaxis()
    gains.yaxis.tick_right()
    for tick, name in zip(gains.get_yticklabels(), names, strict=True):
        tick.set_color(colours[name])
    ranges = "Bands: least to largest seed; " if bands else "Means over seeds; "
    return kit.finish(
        fig,
        f"Own runs: {source}, {seeds_of(summary)}. {ranges}training curves are "
        f"means over {kit.SMOOTH} steps; validation is one sampled episode per task.\n"
        f"At the end: greedy, {int(summary['n'].iloc[0])} tasks per seed, BFCL's checker, no "
        "hints; large dots pool the seeds (95%, for new tasks and seeds), small dots are seeds. "
        f"Right: paired by task and seed; grey: within {100 * LEAST:.0f} points. "
        + _apart(names[0], compared),
    )


def _apart(reference, compared: dict[Any, tuple[Difference, float]]) -> str:
    """Which values differ from the reference after Holm's correction, as a sentence."""
    shown = {value: found for value, (found, p) in compared.items() if p < 0.05}
    said = ", ".join(f"{value} ({100 * found.mean:+.1f})" for value, found in shown.items())
    corrected = f"Holm's correction over all {len(compared)} comparisons here"
    shown = f"Apart from {reference} after {corrected}: {said}." if said else ""
    return shown or f"None is apart from {reference} after {corrected}."


def ranking_text(summary: pd.DataFrame, axis: str) -> str:
    """Every value with its accuracy, and its paired difference to the first one, as text."""
    failed = summary.loc[summary["state"] != "done", "run"].tolist()
    missing = [f"Missing runs: {', '.join(failed)}."] if failed else []
    if len(failed) == len(summary):
        return f"No run is done. {missing[0]}"
    table = pooled(summary, axis)
    reference = table["value"].iloc[0]
    compared = against(summary, axis, reference)
    lines = []
    for row in table.to_dict("records"):
        line = (
            f"- **{row['value']}**: {row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
            f"seeds {row['least']:.2f} to {row['most']:.2f} ({row['seeds']}, n = {row['n']})"
        )
        if row["value"] in compared:
            found, p = compared[row["value"]]
            line += f"; against {reference} {points(found)}; p = {p:.3f} after Holm"
        lines.append(line)
    return "\n".join([*lines, "", _apart(reference, compared), *missing])
