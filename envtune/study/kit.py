"""Drawing helpers that all figures share: one colour per method, curves, bars, captions.

>>> fig, [[ax]] = kit.canvas(1, 1, (5, 3), "Figure 6")
>>> kit.panel(ax, curves, "accuracy", hue="case")
>>> kit.finish(fig, "Own runs: ...")
"""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from envtune.common.files import save_figure
from envtune.common.stats import exact

STAGE_LABELS = {
    "stage1_syntax": "1 syntax",
    "stage2_hints": "2 hints",
    "stage3_hard_tasks": "3 hard tasks",
    "stage4_alignment": "4 alignment",
}
SPLIT_LABELS = {
    "base": "base",
    "miss_func": "missing\nfunctions",
    "miss_param": "missing\nparameters",
    "long_context": "long\ncontext",
}
LABELS = {
    "accuracy": "validation accuracy",
    **{f"accuracy_{split}": "validation accuracy" for split in SPLIT_LABELS},
    "progress": "progress",
    "format_reward": "format reward",
    "tool_call_reward": "tool-call reward",
    "share_with_call": "episodes with a call",
    "steps_per_episode": "steps per episode",
    "grad_norm": "gradient norm",
    "entropy": "entropy (nats per token)",
    "recovery_rate": "errors recovered",
    "share_of_groups_without_signal": "groups without a signal",
}
"""Axis label of each metric."""

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, PINK, GREY, YELLOW, SKY = sns.color_palette("colorblind")
_METHOD = ("four stages", "curriculum", "Environment Tuning", "with hints", "progress")
COLOURS = {
    **dict.fromkeys((*_METHOD, "as they are", "with a hint", "greedy"), BLUE),
    **dict.fromkeys(("none", "before training", "without a hint"), GREY),
    **dict.fromkeys(("SFT", "sampled"), ORANGE),
    **dict.fromkeys(("without hints", "binary"), ORANGE),
    "direct GRPO": BROWN,
    "direct GRPO, 3 times": tuple(0.55 * part for part in BROWN),
    "ToolRL": RED,
    "linear": GREEN,
    "cosine": PURPLE,
    "step": BROWN,
    "validation accuracy": "0.25",
    "gradient norm": RED,
    "steps per episode": GREEN,
    "format reward": SKY,
    "tool-call reward": PURPLE,
    "episodes with a call": ORANGE,
}
"""The unchanged method is blue in every figure; its stages are shades of blue, light to dark."""
for _shade, _stage in zip(sns.light_palette(BLUE, 6)[2:], STAGE_LABELS.values(), strict=True):
    COLOURS |= {_stage: _shade, f"+ stage {_stage[0]}": _shade}


def colours(names: Iterable) -> dict:
    """A colour for each name: its own in COLOURS, else the next one that none of them has.

    "paper: ToolRL" has the colour of "ToolRL".
    """
    names = list(dict.fromkeys(names))
    own = {name: COLOURS.get(str(name).removeprefix("paper: ")) for name in names}
    taken = [colour for colour in own.values() if colour]
    palette = (GREEN, PURPLE, ORANGE, BROWN, RED, SKY, GREY, BLUE, PINK, YELLOW)
    free = itertools.cycle([c for c in palette if c not in taken] or palette)
    return {name: colour or next(free) for name, colour in own.items()}


def label(name) -> str:
    """A column's or a case's name as an axis shows it."""
    return LABELS.get(name, str(name).replace("_", " "))


def canvas(
    rows: int, columns: int, size: tuple[float, float], title: str = "", **shared
) -> tuple[Figure, np.ndarray]:
    """A figure in the common style, and its axes as a rows x columns array."""
    style = {
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "axes.titlesize": 9,
        "axes.labelsize": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    sns.set_theme(style="ticks", context="paper", rc=style)
    shape = {"figsize": size, "squeeze": False, "layout": "constrained"}
    fig, axes = plt.subplots(rows, columns, **shape, **shared)
    fig.suptitle(title, fontsize=10)
    return fig, axes


def finish(fig: Figure, text: str) -> Figure:
    """Write under a figure where its numbers come from."""
    width = int(19 * fig.get_figwidth())  # letters of seven points that fit on a line
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, width)]
    height = (0.1 + 0.125 * len(lines)) / fig.get_figheight()
    fig.set_layout_engine("constrained", rect=(0, height, 1, 1 - height))
    fig.text(0.01, 0.01, "\n".join(lines), va="bottom", fontsize=7, color="0.35")
    return fig


def save(folder: Path, made: Mapping[str, Figure]) -> dict[str, Path]:
    """Write figures as PNG and PDF and close them; returns the PNG files by name."""
    drawn = {name: save_figure(fig, folder / name)[0] for name, fig in made.items()}
    for fig in made.values():
        plt.close(fig)
    return drawn


def table(data: pd.DataFrame, text: str, title: str = "") -> Figure:
    """A table of texts as a figure; a line between the values of the first of its two indexes."""
    body = data.reset_index()
    group = body.iloc[:, 0]
    body.iloc[:, 0] = group.where(~group.duplicated(), "")
    fig, [[ax]] = canvas(1, 1, (7.2, 0.9 + 0.17 * len(body)), title)
    ax.set_axis_off()
    width = [1.3 * max(map(len, (name, *body[name]))) for name in body.columns]
    cells = ax.table(
        body.to_numpy(),
        colLabels=list(body.columns),
        colWidths=[part / sum(width) for part in width],
        cellLoc="right",
        bbox=(0, 0, 1, 1),
    )
    cells.auto_set_font_size(False)
    cells.set_fontsize(7)
    last = [-1, *(i for i in range(len(body)) if i + 1 == len(body) or body.iloc[i + 1, 0])]
    for (row, column), cell in cells.get_celld().items():
        if column < data.index.nlevels:
            cell.set_text_props(ha="left")
        cell.visible_edges = "B" if row - 1 in last else ""
        cell.set(edgecolor="0.6", linewidth=0.7)
        if row == 0:
            cell.set_text_props(weight="bold")
    return finish(fig, text)


def lines(ax, data: pd.DataFrame, y: str, hue: str, names: Sequence = (), x: str = "at", **how):
    """One line per value of `hue`, in the order of `names` (default: as in the data).

    `how` is passed to seaborn.
    """
    names = list(names) or list(dict.fromkeys(data[hue]))
    look: dict[str, Any] = {"linewidth": 1.4, "markersize": 4, "markeredgewidth": 0, "ax": ax}
    look["zorder"] = 3  # above the axis, which would hide a line at 0
    if "estimator" not in how:
        look["err_kws"] = {"alpha": 0.15, "linewidth": 0}
    shades = {"hue": hue, "hue_order": names, "palette": colours(names)}
    sns.lineplot(data, x=x, y=y, **shades | look | how)
    if ax.get_legend():
        ax.legend(fontsize=7)


SMOOTH = 5
"""Window of the running mean that smooths the training curves of several runs [steps]."""


def panel(
    ax, data: pd.DataFrame, column: str, hue: str, names: Sequence = (), band=True, legend=True
):
    """One metric over the steps.

    Several runs (a column `seed`) are drawn as their mean and, with `band`, the range from the
    lowest to the highest seed. One run is drawn as it is, with a gap where a value is missing.
    """
    validated, own = column.startswith("accuracy"), "kind" in data
    if own:
        data = data.loc[data["kind"] == ("validation" if validated else "train")]
    how: dict[str, Any]
    if "seed" in data:
        how = {"errorbar": ("pi", 100) if band else None}
        if not validated:
            runs = data.groupby([hue, "seed"], sort=False)[column]
            smooth = runs.transform(lambda run: run.rolling(SMOOTH, min_periods=1).mean())
            data = data.assign(**{column: smooth})
    else:
        how = {"estimator": None, "units": "piece"}
        data = data.assign(piece=data[column].isna().cumsum())
    marker = "o" if own and validated else None
    lines(ax, data, column, hue, names, marker=marker, legend="full" if legend else False, **how)
    ax.set(xlabel="step", ylabel=label(column) + ("\n(sampled)" if own and validated else ""))
    ax.set_ylim(bottom=0, auto=None)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def exact95(values) -> tuple[float, float]:
    """95% interval of independent values of 0 and 1, as an `errorbar` function for seaborn."""
    return exact(int(values.sum()), len(values))


def points_axis(ax) -> None:
    """Differences in accuracy [0..1] read as points, with a line where there is none."""
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f}")


def interval(ax, value: Sequence[float], spot: float, colour) -> None:
    """A dot with its 95% interval (mean, low, high) on a line of its own."""
    mean, low, high = value
    look = {"fmt": "o", "markersize": 5, "color": colour, "capsize": 3}
    ax.errorbar(mean, spot, xerr=[[mean - low], [high - mean]], **look)


def bars(ax, data: pd.DataFrame, x: str, y: str, hue: str, names: Sequence = (), errorbar=None):
    """Bars of mean shares [0..1], one group per `x`, one colour per `hue`.

    A dot marks the end of each bar, or each seed where there is a column `seed`.
    """
    names = list(names) or list(dict.fromkeys(data[hue]))
    ticks = list(dict.fromkeys(data[x]))
    what = {"x": x, "y": y, "hue": hue, "order": ticks, "hue_order": names, "ax": ax}
    whiskers = {"errorbar": errorbar, "err_kws": {"linewidth": 0.8, "color": "0.3"}, "capsize": 0.3}
    sns.barplot(data, **what, **whiskers, palette=colours(names), saturation=1)
    if "seed" in data:
        dots = {"dodge": True, "jitter": False, "size": 2.5, "legend": False}
        sns.stripplot(data, **what, **dots, palette=["0.25"] * len(names))
    elif errorbar:
        for bar in itertools.chain(*ax.containers):
            ax.plot(bar.get_x() + bar.get_width() / 2, bar.get_height(), ".", color="0.25", ms=3)
    ax.set_xticks(range(len(ticks)), [SPLIT_LABELS.get(t, t.replace("_", "\n")) for t in ticks])
    ax.tick_params(axis="x", labelsize=7)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlabel="", ylabel="accuracy")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
