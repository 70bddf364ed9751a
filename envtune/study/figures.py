"""Figures from saved metrics, one function a figure; nothing here trains. Each says where its numbers come from.

>>> fig = stage_dynamics(load_metrics(run_dir), "tiny-agent, seed 0")
>>> save(fig, run_dir / "stage_dynamics")          # .png and .pdf
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from envtune.common import paths
from envtune.env import recovery

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
    "all": "all",
}
COLOURS = sns.color_palette("colorblind")
METHODS = {
    "before training": 0,
    "none": 0,
    "SFT": 1,
    "direct GRPO": 5,
    "ToolRL": 3,
    "curriculum": 2,
    "four stages": 2,
    "Environment Tuning": 2,
}
"""Places in the palette: a method has the same colour in our panel and the paper's."""
_SHADES = ("#f2f2f2", "#e3e3e3")


def style() -> None:
    """The look of every figure here."""
    sns.set_theme(
        style="ticks",
        context="paper",
        rc={
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
        },
    )


def _shade_stages(ax, data: pd.DataFrame, label: bool) -> None:
    for number, (stage, part) in enumerate(data.groupby("stage", sort=False)):
        start, end = part["at"].min(), part["at"].max()
        start = part.loc[part["step"] > 0, "at"].min() - 1 if (part["step"] > 0).any() else start
        ax.axvspan(start, end, color=_SHADES[number % 2], zorder=0, linewidth=0)
        if label:
            name = STAGE_LABELS.get(stage, stage).replace(
                " ", "\n", 1
            )  # on two lines a short stage's name fits its span
            ax.text(
                (start + end) / 2,
                1.02,
                name,
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=7,
            )


def wrapped(fig: Figure, text: str) -> list[str]:
    """A caption's lines, as wide as the figure."""
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, int(19 * fig.get_figwidth()))
    ]


def caption(fig: Figure, text: str) -> None:
    """Lines under a figure: where its numbers come from."""
    fig.text(
        0.01, 0.005, "\n".join(wrapped(fig, text)), ha="left", va="bottom", fontsize=7, color="0.35"
    )


def _mark_events(accuracy, norm, data: pd.DataFrame) -> None:
    """What the controller decided, on the curves it looked at: a tick under every validation, a line where a stage ended by its
    rule, a cross where the collapse guard spoke, an arrow's foot where a run was rolled back to."""
    for row in data.itertuples():
        if row.kind == "decision":
            early = row.move_on and row.why.startswith("plateau")
            for ax in (accuracy, norm):
                if early:
                    ax.axvline(row.at, color="0.25", linewidth=1.0)
            accuracy.plot(
                row.at,
                0.015,
                marker="|" if not row.move_on else "^",
                color="0.25" if row.move_on else "0.6",
                markersize=5,
                transform=accuracy.get_xaxis_transform(),
                clip_on=False,
            )
            if early:
                accuracy.annotate(
                    "plateau and\nstable norm",
                    (row.at, 0.06),
                    xycoords=accuracy.get_xaxis_transform(),
                    fontsize=6,
                    ha="right",
                    color="0.25",
                    xytext=(-2, 0),
                    textcoords="offset points",
                )
        elif row.kind in ("alarm", "rollback"):
            marker, colour = ("x", COLOURS[3]) if row.kind == "alarm" else ("<", COLOURS[4])
            norm.plot(
                row.at,
                0.93,
                marker=marker,
                color=colour,
                markersize=6,
                transform=norm.get_xaxis_transform(),
                linestyle="none",
            )
            norm.annotate(
                row.alarm.replace("_", " "),
                (row.at, 0.93),
                xycoords=norm.get_xaxis_transform(),
                fontsize=6,
                color=colour,
                xytext=(4, -2),
                textcoords="offset points",
            )


def stage_dynamics(data: pd.DataFrame, source: str) -> Figure:
    """Reward parts, validation accuracy, gradient norm and interaction over steps, stages shaded (after the paper's Fig. 5), with the
    controller's decisions and the collapse guard's alarms where there are any.

    `data` as `load_metrics` gives it; `source` names the model and the seed, and is printed under the figure.
    """
    data = data[data["kind"] != "sft"]
    style()
    train, validation = data[data["kind"] == "train"], data[data["kind"] == "validation"]
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex=True)
    panels = (
        (
            axes[0, 0],
            train,
            {"format_reward": "format", "tool_call_reward": "tool call", "progress": "progress"},
            "reward part",
        ),
        (
            axes[0, 1],
            validation,
            {"accuracy": "validation accuracy", "progress": "validation progress"},
            "share",
        ),
        (axes[1, 0], train, {"grad_norm": "gradient norm"}, "gradient norm"),
        (axes[1, 1], train, {"steps_per_episode": "steps an episode"}, "steps an episode"),
    )
    for number, (ax, part, series, label) in enumerate(panels):
        _shade_stages(ax, data, label=number < 2)
        # a validation line does not cross into the next stage, whose prompt may differ
        pieces = (
            [piece for _, piece in part.groupby("stage", sort=False)]
            if part is validation
            else [part]
        )
        for colour, (column, name) in zip(COLOURS, series.items(), strict=False):
            for i, piece in enumerate(pieces):
                ax.plot(
                    piece["at"],
                    piece[column],
                    color=colour,
                    label=name if i == 0 else None,
                    linewidth=1.5,
                    marker="o" if part is validation else None,
                    markersize=4,
                )
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    for ax in axes[0]:
        ax.set_ylim(0, 1.05)
    ends = axes[1, 1].twinx()
    ends.plot(
        train["at"],
        train["share_with_call"],
        color=COLOURS[1],
        linewidth=1.5,
        label="episodes with a call",
    )
    ends.set(ylim=(0, 1.05), ylabel="share with a call")
    ends.grid(False)
    for ax in axes[1]:
        ax.set_xlabel("optimiser step, stages in order")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (axes[0, 0], axes[0, 1], axes[1, 0]):
        ax.legend(loc="best", fontsize=8)
    _mark_events(axes[0, 1], axes[1, 0], data)
    lines = axes[1, 1].get_lines() + ends.get_lines()
    axes[1, 1].legend(lines, [line.get_label() for line in lines], loc="lower left", fontsize=8)
    fig.tight_layout(rect=(0, 0.05, 1, 1))
    marks = {
        "decision": "| stage goes on, ^ stage ends",
        "alarm": "x alarm of the collapse guard",
        "rollback": "< rolled back to here",
    }
    told = "; ".join(text for kind, text in marks.items() if kind in set(data["kind"]))
    caption(
        fig,
        f"Own run: {source}. Training: mean of {train['episodes'].mean():.0f} episodes a step. Validation: "
        f"{validation['episodes'].mean():.0f} tasks, BFCL's checker, sampled as in training, no hints."
        + (f"\n{told}." if told else ""),
    )
    return fig


def paper_table3() -> pd.DataFrame:
    """The paper's Table 3 in percent: columns model, training, average and the four splits."""
    return pd.read_csv(paths.DATA / "paper" / "table3_curriculum.csv")


def held_out_curves(table: pd.DataFrame, source: str) -> Figure:
    """Accuracy on held-out tasks before training and after each stage, greedy and sampled.

    `table` as `evaluation.after_stages` gives it: of one run, drawn with its intervals; or of several, with a column `seed`: then the
    mean is drawn and each seed as a thin line. `source` names the model and the seeds, and is printed under the figure.
    """
    style()
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    names = list(dict.fromkeys(table["after"]))
    seeds = table["seed"].nunique() if "seed" in table else 1
    for i, (way, part) in enumerate(table.groupby("way", sort=False)):
        shift, colour, dashes = 0.06 * (i - 0.5), COLOURS[i], ("-", "--")[i]
        if seeds > 1:
            for _, run in part.groupby("seed"):
                ax.plot(
                    [names.index(name) + shift for name in run["after"]],
                    100 * run["accuracy"],
                    color=colour,
                    linestyle=dashes,
                    linewidth=0.7,
                    alpha=0.6,
                )
            part = part.groupby("after", sort=False)[["accuracy"]].mean().reset_index()
        at, heights = (
            [names.index(name) + shift for name in part["after"]],
            100 * part["accuracy"].to_numpy(),
        )
        ax.plot(
            at,
            heights,
            color=colour,
            marker="os"[i],
            linestyle=dashes,
            linewidth=1.8,
            markersize=5,
            label=way,
        )
        if seeds == 1:
            errors = [heights - 100 * part["low"], 100 * part["high"] - heights]
            ax.errorbar(
                at, heights, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.0, capsize=3
            )
        for place in sorted({0, len(at) - 1}):
            ax.annotate(
                f"{heights[place]:.0f}",
                (at[place], heights[place]),
                xytext=(6 if i else -6, 6),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                ha="left" if i else "right",
            )
    ax.set_xticks(
        range(len(names)),
        ["before\ntraining" if n == "start" else "after\n" + STAGE_LABELS.get(n, n) for n in names],
    )
    ax.set(ylim=(0, 105), ylabel="held-out accuracy (%)", xlim=(-0.4, len(names) - 0.6))
    ax.legend(loc="upper left", fontsize=8)
    fig.tight_layout(rect=(0, 0.1, 1, 1))
    shown = (
        "thin: one seed, thick: their mean" if seeds > 1 else "bars: 95%, bootstrap over scenarios"
    )
    caption(
        fig,
        f"Own run{'s' * (seeds > 1)}: {source}. {int(table['n'].iloc[0])} synthetic tasks that no training saw, no hints, "
        f"judged by BFCL's checker; {shown}.",
    )
    return fig


def method_bars(rows: Sequence[tuple[str, pd.DataFrame]], source: str) -> Figure:
    """Accuracy a split, a bar a method: our runs (left) beside the paper's Table 1 (right). `rows`: (method, evaluation.accuracy_by_split(...))."""
    style()
    paper = pd.read_csv(paths.DATA / "paper" / "table1_bfcl_v3.csv")
    paper = paper[paper["model"] == "Qwen2.5-7B-Instruct"]
    splits = list(SPLIT_LABELS)[:4]
    fig, (ours, theirs) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    bars = (
        (
            ours,
            [
                (label, [summary.set_index("split").loc[s] for s in splits])
                for label, summary in rows
            ],
        ),
        (
            theirs,
            [
                (row["method"], [{"accuracy": row[s] / 100} for s in splits])
                for _, row in paper.iterrows()
            ],
        ),
    )
    for ax, groups in bars:
        grouped_bars(ax, groups, [COLOURS[METHODS[label]] for label, _ in groups])
        ax.set_xticks(range(4), [SPLIT_LABELS[s] for s in splits])
    ours.set(title=f"own run: {source}", ylabel="accuracy (%)")
    theirs.set(title="the paper, Table 1: Qwen2.5-7B-Instruct")
    fig.tight_layout(rect=(0, 0.04, 1, 1))
    counts = sorted(set(rows[0][1].set_index("split").loc[splits, "n"]))
    caption(
        fig,
        f"Own run: n = {' to '.join(map(str, counts))} tasks a split, with 95% Wilson intervals, one seed. Paper: published "
        'means, 100 tasks a split; its "none" is the untrained model. Not a comparison between the panels.',
    )
    return fig


def grouped_bars(ax, groups: Sequence[tuple[str, list]], colours: Sequence) -> None:
    """Bars side by side, a label and its cells a group; a cell has accuracy [0..1] and may have low and high (an interval) or seeds (drawn
    as dots). A colour a group."""
    width = 0.8 / len(groups)
    for number, (label, cells) in enumerate(groups):
        heights = [100 * cell["accuracy"] for cell in cells]
        positions = [x - 0.4 + width * (number + 0.5) for x in range(len(cells))]
        ax.bar(positions, heights, width * 0.95, label=label, color=colours[number])
        if "low" in cells[0]:
            errors = [
                [h - 100 * c["low"] for h, c in zip(heights, cells, strict=True)],
                [100 * c["high"] - h for h, c in zip(heights, cells, strict=True)],
            ]
            ax.errorbar(
                positions, heights, yerr=errors, fmt="none", ecolor="0.3", elinewidth=0.8, capsize=2
            )
        for x, cell in zip(positions, cells, strict=True):
            seeds = [100 * value for value in cell.get("seeds", [])]
            ax.plot(
                [x] * len(seeds), seeds, linestyle="none", marker=".", color="0.25", markersize=3
            )
    ax.set_ylim(0, 105)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)


def paper_collapse() -> Figure:
    """The paper's Fig. 6 as digitised: accuracy and gradient norm of single-stage GRPO."""
    style()
    data = pd.read_csv(paths.DATA / "paper" / "fig6_single_stage.csv")
    fig, ax = plt.subplots(figsize=(5.5, 3))
    norm = ax.twinx()
    for axis, series, colour, label in (
        (ax, "accuracy", COLOURS[0], "accuracy"),
        (norm, "grad_norm", COLOURS[3], "gradient norm"),
    ):
        part = data[data["series"] == series]
        axis.plot(part["step"], part["value"], color=colour)
        axis.set_ylabel(label, color=colour)
        axis.set_ylim(bottom=0)
    norm.grid(False)
    ax.set_xlabel("step")
    fig.tight_layout(rect=(0, 0.05, 1, 1))
    caption(fig, "The paper's Fig. 6, digitised from its image: one run, smoothed by its authors.")
    return fig


def coverage_bars(table: pd.DataFrame) -> Figure:
    """Errors a tool class: with a hint, clear as they are, open. `table` as hints.coverage.coverage() gives it."""
    style()
    counts = table.groupby(["class", "state"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=["hinted", "clear", "open"], fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values().index]
    fig, ax = plt.subplots(figsize=(8, 3.6))
    left = 0
    for state, label, colour in (
        ("hinted", "vague, with a hint", COLOURS[0]),
        ("clear", "clear as it is", "0.75"),
        ("open", "vague, no hint", COLOURS[3]),
    ):
        ax.barh(counts.index, counts[state], left=left, color=colour, label=label)
        left = left + counts[state]
    ax.set(xlabel="errors that the tools can give", xlim=(0, left.max() * 1.02))
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    fig.tight_layout(rect=(0, 0.05, 1, 1))
    caption(
        fig,
        f"{len(table)} sites found in BFCL's source by ast: returned errors, exceptions, and argument errors of calls.",
    )
    return fig


def recovery_bars(events: pd.DataFrame, source: str) -> Figure:
    """Recovered errors by category, without and with hints, with 95% intervals and n. `events` as recovery.errors gives them.

    A group without an error has no bar.
    """
    style()
    data = recovery.table(events, by=["category", "hinted"])
    categories = sorted(data["category"].unique())
    fig, ax = plt.subplots(figsize=(8, 3.8))
    for offset, hinted, label, colour in (
        (-0.2, False, "without a hint", "0.6"),
        (0.2, True, "with a hint", COLOURS[0]),
    ):
        part = data[data["hinted"] == hinted].set_index("category")
        at = [i for i, category in enumerate(categories) if category in part.index]
        part = part.loc[[categories[i] for i in at]]
        ax.bar([i + offset for i in at], 100 * part["recovered"], 0.38, color=colour, label=label)
        ax.errorbar(
            [i + offset for i in at],
            100 * part["recovered"],
            fmt="none",
            ecolor="0.2",
            elinewidth=0.8,
            capsize=2,
            yerr=[
                100 * (part["recovered"] - part["low"]),
                100 * (part["high"] - part["recovered"]),
            ],
        )
        for i, high, n in zip(at, part["high"], part["n"], strict=True):
            ax.text(i + offset, 100 * high + 1.5, f"n={n}", ha="center", fontsize=7)
    ax.set_xticks(range(len(categories)), [c.replace("_", "\n") for c in categories])
    ax.set(ylabel="errors recovered (%)", ylim=(0, min(112, 100 * data["high"].max() + 12)))
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=2)
    fig.tight_layout(rect=(0, 0.04, 1, 1))
    caption(
        fig,
        f"{source}. An error is recovered when the next call of its tool in the turn succeeds; 95% Wilson intervals.",
    )
    return fig


def robustness_lines(data: pd.DataFrame, source: str) -> Figure:
    """Accuracy and recovery against the share of corrupted hints, a line a kind, dots are seeds.

    `data`: a sweep's summary with corruption, corruption_rate, accuracy and last_recovery_rate; rate 0 is the library as it is and starts
    every line.
    """
    style()
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    data = data.rename(columns={"corruption": "kind", "corruption_rate": "rate"})
    clean = data[data["rate"] == 0]
    for ax, (column, label) in zip(
        axes,
        (("accuracy", "accuracy at the end"), ("last_recovery_rate", "errors recovered")),
        strict=True,
    ):
        for colour, (kind, part) in zip(
            COLOURS, data[data["rate"] > 0].groupby("kind", sort=False), strict=False
        ):
            whole = pd.concat([clean, part])
            ax.plot(
                whole.groupby("rate")[column].mean(),
                color=colour,
                marker="o",
                markersize=4,
                linewidth=1.5,
                label=kind,
            )
            ax.plot(
                whole["rate"],
                whole[column],
                linestyle="none",
                marker=".",
                markersize=3,
                color=colour,
                alpha=0.5,
            )
        ax.set(xlabel="share of hints corrupted", ylabel=label, ylim=(0, 1.05))
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.05), ncol=5)
    fig.tight_layout(rect=(0, 0.14, 1, 1))
    caption(
        fig,
        f"{source}. Accuracy: greedy, no hints; recovery: last five training steps, under the hints of the run.",
    )
    return fig


def save(fig: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path`.png (200 dpi) and `path`.pdf, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = path.with_suffix(".png"), path.with_suffix(".pdf")
    fig.savefig(files[0], dpi=200)
    fig.savefig(files[1])
    return files
