"""The small pictures of docs/findings.md, one for each finding, from the committed runs.

>>> findings.draw(paths.figures() / "findings")   # {"hints": .../hints.png, ...}
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from envtune.study import ablations, kit, mechanism
from envtune.study.source_runs import SourceRuns, finished_sweep

SIZE = (3.6, 2.5)
HINTS = ["with hints", "without hints"]
WITHDRAWN = {"linear": "withdrawn\nlinearly", "cosine": "by a cosine", "step": "at half"}


def draw(folder: Path, runs: SourceRuns | None = None) -> dict[str, Path]:
    """Draw those whose runs are there, as PNG and PDF; returns the PNG files by name."""
    made = {name: make(runs or SourceRuns()) for name, make in FINDINGS.items()}
    return kit.save(folder, {name: fig for name, fig in made.items() if fig})


def _own(*tables: pd.DataFrame) -> str:
    seeds = sorted({len(set(table["seed"])) for table in tables})
    return f"tiny-agent (no evidence about large models), {' and '.join(map(str, seeds))} seeds"


def hints_at_the_end(runs: SourceRuns) -> Figure | None:
    """What accuracy gains when hints are left out or withdrawn, for both agents."""
    names = {"tiny-agent": runs.augmentation, "tiny-agent-deaf": f"{runs.augmentation}_deaf"}
    known = {words: found for words, name in names.items() if (found := finished_sweep(name, runs))}
    if not known:
        return None
    fig, axes = kit.canvas(1, len(known), SIZE, sharey=True, sharex=True)
    for ax, (words, (summary, _)) in zip(axes[0], known.items(), strict=True):
        compared = ablations.against(summary, "case", HINTS[0])
        shades = kit.colours(summary["case"])
        for i, (case, (found, _)) in enumerate(compared.items()):
            kit.interval(ax, found[:3], i, shades[case])
        kit.points_axis(ax)
        ax.set_yticks(range(len(compared)), [WITHDRAWN.get(case, case) for case in compared])
        ax.set_title(words, fontsize=8)
        ax.set(xlabel='points above\n"with hints"')
    axes[0][0].invert_yaxis()
    tables = [summary for summary, _ in known.values()]
    tasks = f"{tables[0]['n'].max():.0f} tasks"
    return kit.finish(fig, f"{_own(*tables)}, tested without hints on {tasks}; bars: 95%.")


def errors_are_cheap(runs: SourceRuns) -> Figure | None:
    """How often a prerequisite is skipped over training, with and without hints."""
    try:
        counts = mechanism.of_sweep(runs.augmentation, runs.own_runs_first)
    except FileNotFoundError:
        return None
    fig, [[ax]] = kit.canvas(1, 1, SIZE)
    mechanism.panel(ax, counts, HINTS, "skips", width=8, legend="auto")
    ax.set(ylim=(0, 0.5), ylabel="turns with a skipped\nprerequisite (sampled)")
    return kit.finish(fig, f"{_own(counts)}: mean, least and largest; 8 steps a point.")


def strong_kl(runs: SourceRuns) -> Figure | None:
    """What accuracy gains by a strong KL term, for three ways to scale the reward beside it."""
    scaled = f"{runs.kl}_scale"
    rows = {
        "rewards\nnormalised": (runs.kl, ""),
        "rewards x1,\nnot normalised": (scaled, ", reward x1"),
        "rewards x4,\nnot normalised": (scaled, ", reward x4"),
    }
    gains, tables = {}, []
    for words, (name, more) in rows.items():
        cases = [f"beta {beta}{more}" for beta in ("0.1", "0")]
        if not (found := finished_sweep(name, runs, cases)):
            return None
        if not (gain := ablations.difference(found[0], "case", *cases)):
            return None
        gains[words] = gain
        tables.append(found[0])
    fig, [[ax]] = kit.canvas(1, 1, SIZE)
    for i, found in enumerate(gains.values()):
        kit.interval(ax, found[:3], i, kit.BLUE)
    kit.points_axis(ax)
    ax.set_yticks(range(len(gains)), gains)
    ax.set(xlabel="points: beta 0.1\nminus beta 0", ylim=(2.5, -0.5))
    tasks = f"{tables[0]['n'].max():.0f} tasks"
    return kit.finish(fig, f"{_own(*tables)}, tested without hints on {tasks}; bars: 95%.")


def signal(runs: SourceRuns) -> Figure | None:
    """Groups without a signal over training, by reward and requests of a task."""
    names = {"three requests": runs.reward, "four requests": runs.reward_long}
    known = {words: found for words, name in names.items() if (found := finished_sweep(name, runs))}
    if not known:
        return None
    fig, axes = kit.canvas(1, len(known), SIZE, sharey=True)
    for ax, (words, (_, curves)) in zip(axes[0], known.items(), strict=True):
        column = "share_of_groups_without_signal"
        kit.panel(ax, curves, column, "case", ["progress", "binary"], legend=ax is axes[0][0])
        ax.set_title(words, fontsize=8)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set(ylim=(0, 1.02))
    seeds = _own(*(curves for _, curves in known.values()))
    return kit.finish(fig, f"{seeds}: mean, least and largest; means over {kit.SMOOTH} steps.")


def curricula(runs: SourceRuns) -> Figure | None:
    """What accuracy gains or loses by another order of training than the four stages."""
    if not (found := finished_sweep(runs.curriculum, runs)):
        return None
    summary, _ = found
    fig, [[ax]] = kit.canvas(1, 1, SIZE)
    compared = ablations.against(summary, "case", "four stages")
    shades = kit.colours(summary["case"])
    for i, (case, (gain, _)) in enumerate(compared.items()):
        kit.interval(ax, gain[:3], i, shades[case])
    kit.points_axis(ax)
    ax.set_yticks(range(len(compared)), list(compared))
    ax.set(xlabel='points above "four stages"')
    ax.invert_yaxis()
    tasks = f"{summary['n'].max():.0f} tasks"
    return kit.finish(fig, f"{_own(summary)}, tested without hints on {tasks}; bars: 95%.")


FINDINGS: dict[str, Callable[[SourceRuns], Figure | None]] = {
    "stages": curricula,
    "hints": hints_at_the_end,
    "errors": errors_are_cheap,
    "kl": strong_kl,
    "signal": signal,
}
"""Name of a picture, and what draws it: nothing where its runs are missing."""
