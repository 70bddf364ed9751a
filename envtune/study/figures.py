"""Figures of single runs from saved metrics, one function per figure; nothing here trains.

>>> fig = stage_dynamics(load_metrics(run_dir), "tiny-agent, seed 0")
>>> files.save_figure(fig, run_dir / "stage_dynamics")          # .png and .pdf
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from envtune.env import recovery
from envtune.study import kit


def _shade_stages(ax, data: pd.DataFrame, named: bool) -> None:
    width = data["at"].to_numpy().max()
    for number, (stage, part) in enumerate(data.groupby("stage", sort=False)):
        at = part["at"].to_numpy()
        trained = at[part["step"].to_numpy() > 0]
        start, end = trained.min() - 1 if len(trained) else at.min(), at.max()
        ax.axvspan(start, end, color=("0.95", "0.89")[number % 2], zorder=0, linewidth=0)
        if named:  # on two lines, so that a short stage's name fits its span, or its number alone
            name = kit.STAGE_LABELS.get(str(stage), str(stage)).replace(" ", "\n", 1)
            if end - start < 0.15 * width:
                name = name.partition("\n")[0]
            place = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            ax.text((start + end) / 2, 1.02, name, fontsize=7, **place)


def _of_one_run(data: pd.DataFrame, source: str) -> str:
    """The caption of a run's curves: what they are means of, and the marks that occur."""
    train, validation = (data.loc[data["kind"] == k, "episodes"] for k in ("train", "validation"))
    text = f"Own run: {source}. Training: mean of {train.mean():.0f} episodes per step."
    if len(validation):
        tasks = f"{validation.mean():.0f} tasks"
        text += f" Validation: {tasks}, BFCL's checker, sampled as in training, no hints."
    marks = "; ".join(mark for kind, mark in EVENTS.items() if kind in set(data["kind"]))
    return f"{text}\n{marks}." if marks else text


EVENTS = {
    "decision": "| stage goes on, ^ stage ends",
    "alarm": "x alarm of the collapse guard",
    "rollback": "< rolled back to here",
}
"""The marks of the stage controller's events, as the caption explains them."""


def _mark_events(accuracy, norm, events: pd.DataFrame) -> None:
    """Mark every decision under the accuracy, every alarm and rollback above the gradient norm.

    A line in both panels shows where a stage ended by its transition rule.
    """
    small = {"textcoords": "offset points", "fontsize": 6}
    for row in events.to_dict("records"):
        at = row["at"]
        if row["kind"] == "decision":
            marker, colour = ("^", "0.25") if row["move_on"] else ("|", "0.6")
            foot = {"transform": accuracy.get_xaxis_transform(), "clip_on": False}
            accuracy.plot(at, 0.015, marker=marker, color=colour, markersize=5, **foot)
            if row["move_on"] and row["why"].startswith("plateau"):
                for ax in (accuracy, norm):
                    ax.axvline(at, color="0.25", linewidth=1.0)
                left = {"xycoords": foot["transform"], "xytext": (-2, 0), "ha": "right"}
                accuracy.annotate("plateau and\nstable norm", (at, 0.06), **left, **small)
        else:
            marker, colour = ("x", kit.RED) if row["kind"] == "alarm" else ("<", kit.PURPLE)
            top = norm.get_xaxis_transform()
            norm.plot(at, 0.93, marker=marker, color=colour, markersize=6, transform=top)
            head = {"xycoords": top, "xytext": (4, -2), "color": colour}
            norm.annotate(row["alarm"].replace("_", " "), (at, 0.93), **head, **small)


def _over_steps(data: pd.DataFrame, source: str, size: tuple, panels: tuple, norm: int) -> Figure:
    """Two rows of panels: (kind of row, metrics, name, highest value, look of the lines).

    norm: number of the panel with the gradient norm; accuracy is in panel 1.
    """
    data, columns = data.loc[data["kind"] != "sft"], len(panels) // 2
    fig, axes = kit.canvas(2, columns, size, sharex=True)
    for number, (ax, panel) in enumerate(zip(axes.flat, panels, strict=True)):
        kind, metrics, name, top, look = panel
        _shade_stages(ax, data, named=number < columns)
        part = data.loc[data["kind"] == kind]
        known = [metric for metric in metrics if metric in part]  # no KL where beta is 0
        long = part.melt(["at", "stage", "kind"], known, "metric").replace({"metric": kit.LABELS})
        if len(long := long.dropna(subset="value")):
            kit.lines(ax, long, "value", "metric", estimator=None, **look)
        ax.set(xlabel="optimiser step, stages in order", ylabel=name, ylim=(0, top))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _mark_events(axes.flat[1], axes.flat[norm], data.loc[data["kind"].isin(list(EVENTS))])
    return kit.finish(fig, _of_one_run(data, source))


def stage_dynamics(data: pd.DataFrame, source: str) -> Figure:
    """Rewards, validation, gradient norm and interaction over the steps (after the paper's Fig. 5).

    Stages are shaded; decisions of the stage controller and alarms of the collapse guard are
    marked. `data` comes from `load_metrics`; `source` names the model and the seed in the caption.
    """
    rewards = ("format_reward", "tool_call_reward", "progress", "share_with_call")
    # validation lines are cut between stages, because a stage may change the prompt
    whole, cut = {"units": "kind"}, {"units": "stage", "marker": "o"}
    alone = {**whole, "legend": False}
    panels = (
        ("train", rewards, "training (sampled)", 1.05, whole),
        ("validation", ("accuracy", "progress"), "validation (sampled)", 1.05, cut),
        ("train", ("grad_norm",), "gradient norm", None, alone),
        ("train", ("steps_per_episode",), "steps per episode", None, alone),
    )
    return _over_steps(data, source, (9, 5.6), panels, norm=2)


def training_curves(data: pd.DataFrame, source: str) -> Figure:
    """What is watched while training runs: reward, accuracy, entropy, KL, gradient norm, steps.

    Stages are shaded, alarms and decisions marked as in `stage_dynamics`, whose arguments it takes.
    """
    cut = {"units": "stage", "marker": "o"}
    alone = {**cut, "legend": False}
    panels = (
        ("train", ("progress", "reward"), "training\n(sampled)", None, cut),
        ("validation", ("accuracy",), "validation accuracy\n(sampled)", 1.05, alone),
        ("train", ("grad_norm",), "gradient norm", None, alone),
        ("train", ("entropy",), "entropy\n(nats per token)", None, alone),
        ("train", ("kl",), "KL to the stage's start\n(nats per token)", None, alone),
        ("train", ("steps_per_episode",), "steps per episode", None, alone),
    )
    return _over_steps(data, source, (12, 5), panels, norm=2)


def held_out_curves(table: pd.DataFrame, source: str) -> Figure:
    """Accuracy on held-out tasks before training and after each stage, greedy and sampled.

    `table` comes from `evaluation.after_stages`. One run is drawn with its intervals; several runs
    (a column `seed`) are drawn as their mean, and each seed as a thin line. `source` names the
    model and the seeds in the caption.
    """
    names, ways = list(dict.fromkeys(table["after"])), list(dict.fromkeys(table["way"]))
    several = "seed" in table and len(set(table["seed"])) > 1
    shift = table["way"].map(lambda way: 0.06 * (ways.index(way) - 0.5))
    table = table.assign(at=table["after"].map(names.index) + shift)
    fig, [[ax]] = kit.canvas(1, 1, (6.4, 3.6))
    dashes = {"style": "way", "style_order": ways}
    thin = {"units": "seed", "estimator": None, "linewidth": 0.7, "alpha": 0.6, "legend": False}
    if several:
        kit.lines(ax, table, "accuracy", "way", **dashes, **thin)
    thick = {"errorbar": None, "markers": ["o", "s"], "markersize": 6, "linewidth": 1.8}
    kit.lines(ax, table, "accuracy", "way", **dashes, **thick)
    for i, (way, part) in enumerate(table.groupby("way", sort=False)):
        colour = kit.COLOURS[way]
        if not several:  # seaborn cannot compute intervals that are clustered by scenario
            errors = [part["accuracy"] - part["low"], part["high"] - part["accuracy"]]
            bars = {"fmt": "none", "ecolor": colour, "elinewidth": 1.0, "capsize": 3}
            ax.errorbar(part["at"], part["accuracy"], yerr=errors, **bars)
        means = part.groupby("at")["accuracy"].agg("mean")
        side = {"ha": "left", "xytext": (6, 6)} if i else {"ha": "right", "xytext": (-6, 6)}
        for place, value in means.iloc[[0, -1]].items():
            words = {"textcoords": "offset points", "fontsize": 8, "color": colour, **side}
            ax.annotate(f"{100 * value:.1f}", (place, value), **words)
    stages = [f"after\n{kit.STAGE_LABELS.get(name, name)}" for name in names[1:]]
    ax.set_xticks(range(len(names)), ["before\ntraining", *stages])
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(ylim=(0, 1.05), xlim=(-0.4, len(names) - 0.6), xlabel="", ylabel="held-out accuracy")
    one_run = "bars: 95%, bootstrap over scenarios"
    shown = "thin: one seed, thick: their mean" if several else one_run
    return kit.finish(
        fig,
        f"Own run{'s' * several}: {source}. {int(table['n'].iloc[0])} synthetic tasks "
        f"that no training saw, no hints, judged by BFCL's checker; {shown}.",
    )


def coverage_bars(table: pd.DataFrame) -> Figure:
    """Errors by tool class: vague with a hint, clear without one, vague without one.

    `table` comes from `hints.coverage.coverage`.
    """
    counts = table.groupby(["class", "state"]).size().unstack(fill_value=0)
    states = {
        "hinted": ("vague, with a hint", kit.COLOURS["with a hint"]),
        "clear": ("clear as it is", "0.75"),
        "open": ("vague, no hint", kit.RED),
    }
    counts = counts.loc[counts.sum(axis=1).sort_values().index, [s for s in states if s in counts]]
    fig, [[ax]] = kit.canvas(1, 1, (8, 3.6))
    labels, colours = zip(*(states[state] for state in counts), strict=True)
    counts.set_axis(labels, axis=1).plot.barh(stacked=True, width=0.8, color=colours, ax=ax)
    ax.set(xlabel="errors that the tools can give", ylabel="")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
    return kit.finish(
        fig,
        f"{len(table)} sites found in BFCL's source by ast: returned errors, exceptions, and "
        "argument errors of calls.",
    )


def recovery_bars(events: pd.DataFrame, source: str) -> Figure:
    """Share of errors recovered, by category, without and with hints, with 95% intervals and n.

    `events` come from `recovery.errors`. A group without an error has no bar.
    """
    hints = ("without a hint", "with a hint")
    events = events.sort_values("category").assign(hint=events["hinted"].map(hints.__getitem__))
    fig, [[ax]] = kit.canvas(1, 1, (8, 3.8))
    kit.bars(ax, events, "category", "recovered", "hint", hints)
    places = list(dict.fromkeys(events["category"]))
    for row in recovery.rates(events, by=["category", "hinted"]).to_dict("records"):
        at = places.index(row["category"]) + (0.2 if row["hinted"] else -0.2)
        reach = [[row["recovered"] - row["low"]], [row["high"] - row["recovered"]]]
        look = {"fmt": ".", "color": "0.25", "markersize": 5, "elinewidth": 0.8, "capsize": 2}
        ax.errorbar(at, row["recovered"], yerr=reach, **look)
        ax.text(at, row["high"] + 0.015, f"n={row['n']}", ha="center", fontsize=7)
    ax.set_ylabel("errors recovered")
    return kit.finish(
        fig,
        f"{source}. An error is recovered when the next call of its tool in the turn succeeds; "
        "95%, bootstrap over scenarios.",
    )
