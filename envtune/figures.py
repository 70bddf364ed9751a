"""Figures from saved metrics, one function a figure; nothing here trains. Each says where its numbers come from.

    >>> fig = stage_dynamics(load_metrics(run_dir), "tiny-instrument, seed 0")
    >>> save(fig, paths.figures() / "quickstart" / "stage_dynamics")          # .png and .pdf
"""
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from envtune import paths

STAGE_LABELS = {"stage1_syntax": "1 syntax", "stage2_hints": "2 hints", "stage3_hard_tasks": "3 hard tasks",
                "stage4_alignment": "4 alignment"}
SPLIT_LABELS = {"base": "base", "miss_func": "missing\nfunctions", "miss_param": "missing\nparameters",
                "long_context": "long\ncontext", "all": "all"}
_COLOURS = sns.color_palette("colorblind")
_SHADES = ("#f2f2f2", "#e3e3e3")


def _style() -> None:
    sns.set_theme(style="ticks", context="paper", rc={"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False,
                                                     "axes.spines.top": False, "axes.spines.right": False})


def load_metrics(run_dir: Path) -> pd.DataFrame:
    """metrics.jsonl with `at`: the step counted over all stages. FileNotFoundError that says what to run."""
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist: train the run first (notebooks 00 or 04-07 write it)")
    data = pd.read_json(file, lines=True)
    offset, parts = 0, []
    for stage in data["stage"].unique():
        part = data[data["stage"] == stage].copy()
        part["at"] = part["step"] + offset
        offset += int(part["step"].max())
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _shade_stages(ax, data: pd.DataFrame, label: bool) -> None:
    for number, (stage, part) in enumerate(data.groupby("stage", sort=False)):
        start, end = part["at"].min(), part["at"].max()
        start = part.loc[part["step"] > 0, "at"].min() - 1 if (part["step"] > 0).any() else start
        ax.axvspan(start, end, color=_SHADES[number % 2], zorder=0, linewidth=0)
        if label:
            name = STAGE_LABELS.get(stage, stage).replace(" ", "\n", 1)  # on two lines a short stage's name fits its span
            ax.text((start + end) / 2, 1.02, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)


def _caption(fig: Figure, text: str) -> None:
    fig.text(0.01, 0.005, text, ha="left", va="bottom", fontsize=7, color="0.35")


def stage_dynamics(data: pd.DataFrame, source: str) -> Figure:
    """Reward parts, validation accuracy, gradient norm and interaction over steps, stages shaded (after the paper's Fig. 5).

    `data` as `load_metrics` gives it; `source` names the model and the seed, and is printed under the figure.
    """
    _style()
    train, validation = data[data["kind"] == "train"], data[data["kind"] == "validation"]
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex=True)
    panels = (
        (axes[0, 0], train, {"format_reward": "format", "tool_call_reward": "tool call", "progress": "progress"}, "reward part"),
        (axes[0, 1], validation, {"accuracy": "validation accuracy", "progress": "validation progress"}, "share"),
        (axes[1, 0], train, {"grad_norm": "gradient norm"}, "gradient norm"),
        (axes[1, 1], train, {"steps_per_episode": "steps an episode"}, "steps an episode"),
    )
    for number, (ax, part, series, label) in enumerate(panels):
        _shade_stages(ax, data, label=number < 2)
        # a validation line does not cross into the next stage, whose prompt may differ
        pieces = [piece for _, piece in part.groupby("stage", sort=False)] if part is validation else [part]
        for colour, (column, name) in zip(_COLOURS, series.items(), strict=False):
            for i, piece in enumerate(pieces):
                ax.plot(piece["at"], piece[column], color=colour, label=name if i == 0 else None, linewidth=1.5,
                        marker="o" if part is validation else None, markersize=4)
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    for ax in axes[0]:
        ax.set_ylim(0, 1.05)
    ends = axes[1, 1].twinx()
    ends.plot(train["at"], train["share_with_call"], color=_COLOURS[1], linewidth=1.5, label="episodes with a call")
    ends.set(ylim=(0, 1.05), ylabel="share with a call")
    ends.grid(False)
    for ax in axes[1]:
        ax.set_xlabel("optimiser step, stages in order")
    for ax in (axes[0, 0], axes[0, 1], axes[1, 0]):
        ax.legend(loc="best", fontsize=8)
    lines = axes[1, 1].get_lines() + ends.get_lines()
    axes[1, 1].legend(lines, [line.get_label() for line in lines], loc="lower left", fontsize=8)
    fig.tight_layout(rect=(0, 0.03, 1, 1))
    _caption(fig, f"Own run: {source}. Training: mean of {train['episodes'].mean():.0f} episodes a step. Validation: "
                  f"{validation['episodes'].mean():.0f} tasks, BFCL's checker, sampled as in training, no hints.")
    return fig


def paper_table3() -> pd.DataFrame:
    """The paper's Table 3 in percent: columns model, training, average and the four splits."""
    return pd.read_csv(paths.DATA / "paper" / "table3_curriculum.csv")


def curriculum_bars(rows: Sequence[tuple[str, pd.DataFrame]], source: str) -> Figure:
    """Accuracy a split, stage after stage: our runs (left) beside the paper's Table 3 (right), after the paper's Table 3.

    `rows`: (label, evaluation.summary(...)) in order. The two panels are different models and are labelled so.
    """
    _style()
    paper = paper_table3()
    paper = paper[paper["model"] == "Qwen2.5-7B-Instruct"]
    splits = list(SPLIT_LABELS)[:4]
    fig, (ours, theirs) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    _grouped_bars(ours, [(label, [table.set_index("split").loc[s] for s in splits]) for label, table in rows])
    ours.set(title=f"own run: {source}", ylabel="accuracy (%)")
    _grouped_bars(theirs, [(row["training"], [{"accuracy": row[s] / 100} for s in splits]) for _, row in paper.iterrows()])
    theirs.set(title="the paper, Table 3: Qwen2.5-7B-Instruct")
    for ax in (ours, theirs):
        ax.set_xticks(range(4), [SPLIT_LABELS[s] for s in splits])
        ax.set_ylim(0, 105)
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
    fig.tight_layout(rect=(0, 0.04, 1, 1))
    counts = sorted(set(rows[0][1].set_index("split").loc[splits, "n"]))
    _caption(fig, f"Own run: n = {' to '.join(map(str, counts))} tasks a split, with 95% Wilson intervals. "
                  "Paper: published means, 100 tasks a split. Different models and tasks: not a comparison.")
    return fig


def _grouped_bars(ax, groups: Sequence[tuple[str, list]]) -> None:
    """Bars side by side; a stage has the same colour wherever it is drawn, by the digit in its label."""
    width = 0.8 / len(groups)
    for number, (label, cells) in enumerate(groups):
        heights = [100 * cell["accuracy"] for cell in cells]
        positions = [x - 0.4 + width * (number + 0.5) for x in range(len(cells))]
        ax.bar(positions, heights, width * 0.95, label=label, color=_COLOURS[_colour(label)])
        if "low" in cells[0]:
            errors = [[h - 100 * c["low"] for h, c in zip(heights, cells, strict=True)],
                      [100 * c["high"] - h for h, c in zip(heights, cells, strict=True)]]
            ax.errorbar(positions, heights, yerr=errors, fmt="none", ecolor="0.3", elinewidth=0.8, capsize=2)


def _colour(label: str) -> int:
    """Place in the palette: the untrained policy 0, stages 1-4, any other training 5."""
    digits = [c for c in label if c.isdigit()]
    return int(digits[0]) if digits else 0 if label in ("before training", "none") else 5


def save(fig: Figure, path: Path) -> tuple[Path, Path]:
    """Write `path`.png (200 dpi) and `path`.pdf, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = path.with_suffix(".png"), path.with_suffix(".pdf")
    fig.savefig(files[0], dpi=200)
    fig.savefig(files[1])
    return files
