"""What an evaluation found, as text, tables and figures.

>>> print(text(evaluation_run.run("last", policy, tasks, preset)))
>>> fig = accuracy_figure({"start": before, "trained": after}, "tiny-agent")   # `results` tables
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from envtune.common import paths
from envtune.common.stats import FEW, Difference
from envtune.env import failures
from envtune.study import kit
from envtune.train import evaluation, evaluation_run

FAILURE_COLOURS = {
    "format": kit.RED,
    "unknown tool": kit.PINK,
    "wrong arguments": kit.ORANGE,
    "wrong state": kit.BLUE,
    "missing result": kit.SKY,
    "no call": kit.GREEN,
    "call where asking was right": kit.YELLOW,
    "step limit": kit.PURPLE,
    "length": kit.BROWN,
    "other": kit.GREY,
}


def share_text(found: Mapping) -> str:
    """`41.0% [35.2, 46.9]` of an estimate's mean, low and high."""
    return f"{found['mean']:.1%} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def difference_text(found: Mapping) -> str:
    """A difference with its interval, p-value and the least that could have been seen [points]."""
    number = "p < 0.001" if found["p_value"] < 0.001 else f"p = {found['p_value']:.3f}"
    mean, low, high = (100 * found[name] + 0.0 for name in ("mean", "low", "high"))
    least = "one scenario alone cannot tell a difference"
    if found["detectable"] is not None:
        least = (
            "the least difference that this comparison would see four times in five is "
            f"{100 * found['detectable']:.1f} points"
        )
    if (low > 0 or high < 0) != (found["p_value"] < 0.05):
        number += " (which decides: too few scenarios differ for the interval)"
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}], {number}; {least}"


def comparison(names: tuple[str, str], found: Difference) -> str:
    """Two policies compared, as a sentence: what was seen, or that nothing was."""
    seen = "differs from" if found.p_value < 0.05 else "cannot be told apart from"
    return f"**{names[1]}** {seen} **{names[0]}**: {difference_text(found._asdict())}."


def text(found: Mapping) -> str:
    """What `python -m envtune evaluate` prints: the table, then a line for each other number."""
    table = pd.read_csv(paths.runs() / found["name"] / "breakdown.csv", dtype={"group": str})
    shown = table[["by", "group", "n"]].assign(
        accuracy=table["accuracy"].map("{:.1%}".format),
        interval=[
            f"[{100 * a:.1f}, {100 * b:.1f}]"
            for a, b in zip(table["low"], table["high"], strict=True)
        ],
        error=(100 * table["error"]).map("{:.1f}".format),
    )
    how = "greedy" if not found["temperature"] else f"at temperature {found['temperature']:g}"
    lines = [
        f"{found['policy']}, preset {found['preset']}, {found['tasks']} tasks, {how}, "
        f"{found['repeats']} run{'s' * (found['repeats'] > 1)} of each",
        shown.to_string(index=False),
        "intervals: 95%, error: standard error [points], both over scenarios"
        + (" crossed with repeats" if found["repeats"] > 1 else ""),
    ]
    if found["scenarios"] < FEW:
        lines.append(f"only {found['scenarios']} scenarios: every interval here is rough")
    lines += [f"failed, {kind}: {count}" for kind, count in found["failures"].items()]
    if found["recovery"]:
        lines.append(f"errors recovered: {share_text(found['recovery'])} of {found['errors']}")
    for row in found["passes"] if found["repeats"] > 1 else ():
        lines.append(
            f"pass@{row['k']} {row['pass_at_k']:.1%} [{100 * row['at_low']:.1f}, "
            f"{100 * row['at_high']:.1f}], pass^{row['k']} {row['pass_hat_k']:.1%} "
            f"[{100 * row['hat_low']:.1f}, {100 * row['hat_high']:.1f}]"
        )
    if hinted := found.get("with_hints"):
        lines.append(
            f"with hints: {share_text(hinted['accuracy'])}, {difference_text(hinted['gain'])}"
        )
    if other := found.get("against"):
        lines.append(
            f"against {other['name']}, on {other['tasks']} tasks: {difference_text(other)}"
        )
    return "\n".join([*lines, f"everything else: {paths.runs() / found['name']}"])


def overview(evaluations: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per policy: accuracy on every set, progress, recovery, and with hints where played.

    evaluations: name -> results.parquet. `gained by hints` is the paired difference.
    """
    rows = {}
    for name, results in evaluations.items():
        own = evaluation_run.plain(results)
        hinted = results.loc[results["hints"]]
        found = evaluation_run.summary(own, hinted if len(hinted) else None)
        row = {f"accuracy, {part}": share_text(v) for part, v in found["accuracy"].items()}
        row |= {"episodes": len(own), "progress": f"{found['progress']:.2f}"}
        row["errors recovered"] = share_text(found["recovery"]) if found["recovery"] else "no error"
        if hints := found.get("with_hints"):
            gain = hints["gain"]
            row["accuracy with hints"] = share_text(hints["accuracy"])
            row["gained by hints"] = (
                f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            )
        rows[name] = row
    return pd.DataFrame(rows).T.fillna("")


def accuracy_figure(evaluations: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Accuracy with its interval: sets and splits, domains, turns; a colour per policy."""
    tables = {
        name: evaluation.breakdown(evaluation_run.plain(results))
        for name, results in evaluations.items()
    }
    colours, first = kit.colours(tables), next(iter(tables.values()))
    panels = {"set and split": ("set", "split"), "domain": ("domain",), "turn": ("turn",)}
    fig, axes = kit.canvas(1, 3, (11, 3.6), "", sharex=True)
    for ax, (title, kinds) in zip(axes[0], panels.items(), strict=True):
        order = first.loc[first["by"].isin(kinds)]
        labels = []
        for by, group in order.set_index(["by", "group"]).index:
            found = (t.loc[(t["by"] == by) & (t["group"] == group), "n"] for t in tables.values())
            counts = dict.fromkeys(str(n) for part in found for n in part)
            labels.append(f"{kit.label(group)} ({'; '.join(counts)})")
        for i, (name, table) in enumerate(tables.items()):
            rows = table[table["by"].isin(kinds)].set_index(["by", "group"])
            rows = rows.reindex(pd.MultiIndex.from_frame(order.loc[:, ["by", "group"]]))
            at = [y + 0.28 * (i - (len(tables) - 1) / 2) for y in range(len(rows))]
            reach = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
            look = {"fmt": "o", "markersize": 4, "capsize": 2, "color": colours[name]}
            ax.errorbar(rows["accuracy"], at, xerr=reach, **look, label=name)
        ax.set_yticks(range(len(labels)), labels, fontsize=7.5)
        ax.invert_yaxis()
        ax.set(
            title=title, xlabel="accuracy" if title != "turn" else "turns won", xlim=(-0.02, 1.02)
        )
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0][0].legend(fontsize=7.5, loc="best")
    return kit.finish(
        fig,
        f"{source}. BFCL's checker and limits, no hints. Bars: 95%, bootstrap over scenarios, "
        "crossed with repeats. In brackets: episodes (of each policy, where they differ). A task "
        "counts in each of its domains; a turn that was not reached is lost.",
    )


def failure_figure(evaluations: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Why episodes fail: stacked shares of all episodes, a bar per policy and split."""
    bars = {}
    for name, results in evaluations.items():
        own = evaluation_run.plain(results)
        for split, part in [("all", own), *own.groupby("split", sort=False)]:
            bars[f"{name}: {kit.label(split)} ({len(part)})"] = part[
                "failure"
            ].value_counts() / len(part)
    table = pd.DataFrame(bars).T.reindex(columns=failures.FAILURES).fillna(0.0)
    table = table[[kind for kind in table if table[kind].to_numpy().any()]]
    fig, [[ax]] = kit.canvas(1, 1, (9, 1.6 + 0.3 * len(table)))
    if len(table.columns):
        colours = [FAILURE_COLOURS[kind] for kind in table]
        table.plot.barh(stacked=True, width=0.8, color=colours, ax=ax)
        ax.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", labelsize=7.5)
    ax.set(
        xlabel="episodes that failed, by what went wrong in the first turn that was lost",
        xlim=(0, 1),
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return kit.finish(fig, f"{source}. What is left to 100% was valid. No hints.")
