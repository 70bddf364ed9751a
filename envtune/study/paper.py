"""The paper's tables and figures, each as published, from our own runs, or both; nothing here trains.

    >>> draw_all(paths.figures() / "paper")      # PNG and PDF of Tables 1-3 and Figures 4a, 4b, 5a, 5b, 6, 7

The paper's tables are exact, its curves digitised from its images and labelled so; of Figures 5 and 7 no image could be had. Our runs are
sweeps and reference runs, chosen by name. A missing run leaves a labelled gap, never a made-up line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from envtune.common import files, paths
from envtune.study import ablations, figures

SPLITS = ("base", "miss_func", "miss_param", "long_context")
OURS = "tiny-agent (no evidence about large models)"


@dataclass(frozen=True)
class Chosen:
    """Names of the runs that our panels are drawn from: sweeps under runs/ or data/reference_runs, and one run with all four stages."""

    curriculum: str = "ablation_curriculum"
    augmentation: str = "ablation_augmentation"
    reward: str = "ablation_reward"
    kl: str = "kl_sweep"
    """The sweep against the reward's scale has this name with _scale."""
    robustness: str = "hint_robustness"
    baselines: str = "baselines"
    dynamics: str = "cpu_tiny_seed0"
    model: str = OURS
    own_runs_first: bool = False
    """Take a sweep of runs/ before the committed one of the same name."""

    @property
    def ablations(self) -> tuple[str, ...]:
        """The sweeps in the order of ablations.PANELS."""
        return (
            self.curriculum,
            self.augmentation,
            self.reward,
            self.kl,
            f"{self.kl}_scale",
            self.robustness,
        )


def sweep(
    name: str, chosen: Chosen, cases: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, curves) of a sweep's finished runs, of these cases if some are named; None where there is none. ValueError for a sweep
    whose points have no `case`."""
    try:
        summary, curves = ablations.load(name, chosen.own_runs_first)
    except FileNotFoundError:
        return None
    if "case" not in summary:
        raise ValueError(
            f"the sweep {name!r} cannot be drawn here: its points have no `case`, the word that names what each does "
            f"(it has {', '.join(summary)})"
        )
    summary = summary[
        (summary["state"] == "done") & (summary["case"].isin(cases) if cases else True)
    ]
    return (
        (summary, curves[curves["case"].isin(cases)] if cases else curves) if len(summary) else None
    )


def dynamics(chosen: Chosen) -> pd.DataFrame | None:
    """Metrics of the run with all four stages, with `at`, or None."""
    file = paths.DATA / "reference_runs" / f"{chosen.dynamics}.parquet"
    if (paths.runs() / chosen.dynamics / "metrics.jsonl").exists():
        return files.load_metrics(paths.runs() / chosen.dynamics)
    if not file.exists():
        return None
    return pd.read_parquet(file)


def gap(ax, text: str) -> None:
    """An empty panel that says what is missing."""
    ax.text(
        0.5,
        0.5,
        text,
        ha="center",
        va="center",
        transform=ax.transAxes,
        fontsize=8,
        color="0.4",
        wrap=True,
    )
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def _paper_bars(
    ax,
    rows: pd.DataFrame,
    label: str,
    columns: tuple[str, ...] = SPLITS,
    colours: Mapping[str, int] | None = None,
) -> None:
    _bars(
        ax,
        [(row[label], [{"accuracy": row[c] / 100} for c in columns]) for _, row in rows.iterrows()],
        columns,
        colours,
    )


def _own_bars(
    ax, summary: pd.DataFrame, cases: Sequence[str], colours: Mapping[str, int] | None = None
) -> None:
    """Means over seeds by split, with the seeds as dots."""
    groups = []
    for case in cases:
        seeds = summary[summary["case"] == case]
        if len(seeds):
            groups.append(
                (
                    case,
                    [
                        {
                            "accuracy": seeds[f"accuracy_{s}"].mean(),
                            "seeds": list(seeds[f"accuracy_{s}"]),
                        }
                        for s in SPLITS
                    ],
                )
            )
    _bars(ax, groups, SPLITS, colours)


def _bars(
    ax,
    groups: Sequence[tuple[str, list]],
    columns: Sequence[str],
    colours: Mapping[str, int] | None,
) -> None:
    places = [(colours or {}).get(label, i) for i, (label, _) in enumerate(groups)]
    figures.grouped_bars(ax, groups, [figures.COLOURS[place] for place in places])
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncol=2)
    ax.set_xticks(
        range(len(columns)),
        [figures.SPLIT_LABELS.get(c, c.replace("_", "\n")) for c in columns],
        fontsize=7,
    )
    ax.set_ylabel("accuracy (%)")


def _source(summary: pd.DataFrame, chosen: Chosen) -> str:
    return (
        f"Own runs: {chosen.model}; {summary['run'].nunique()} runs, seeds {', '.join(map(str, sorted(summary['seed'].unique())))}, "
        f"n = {int(summary['n'].iloc[0])} tasks a seed, BFCL's checker."
    )


def _pair(title: str) -> tuple[Figure, tuple]:
    figures.style()
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.7))
    axes[0].set_title("the paper", fontsize=9)
    axes[1].set_title("own runs", fontsize=9)
    fig.suptitle(title, fontsize=10)
    return fig, axes


def _finish(fig: Figure, text: str) -> Figure:
    inches = 0.05 + 0.125 * len(figures.wrapped(fig, text))  # of seven-point lines
    fig.tight_layout(rect=(0, inches / fig.get_figheight(), 1, 1))
    figures.caption(fig, text)
    return fig


def table1(chosen: Chosen) -> Figure:
    """In-distribution: the paper's methods on Qwen2.5-7B-Instruct; ours of notebook 08, and what of them the curriculum's sweep has too."""
    fig, (theirs, ours) = _pair("Table 1: in-distribution, BFCL V3 multi-turn")
    data = pd.read_csv(paths.DATA / "paper" / "table1_bfcl_v3.csv")
    _paper_bars(
        theirs, data[data["model"] == "Qwen2.5-7B-Instruct"], "method", colours=figures.METHODS
    )
    found, text = (
        sweep(chosen.baselines, chosen),
        "Paper: published values, Qwen2.5-7B-Instruct, 100 tasks a split.",
    )
    if found:
        rows, other = found[0], sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR)
        if other:
            rows = pd.concat([rows, other[0]])
        _own_bars(ours, rows, list(dict.fromkeys(rows["case"])), figures.METHODS)
        text += "\n" + _source(rows, chosen) + " Dots: seeds. Trained and judged on the same tasks."
    else:
        gap(ours, "no runs yet: notebook 08, over seeds")
    return _finish(fig, text)


def table2(chosen: Chosen) -> Figure:
    """Out of distribution: the paper's values; not run here."""
    fig, (theirs, ours) = _pair("Table 2: out of distribution")
    data = pd.read_csv(paths.DATA / "paper" / "table2_ood.csv")
    columns = ("bfcl_v4_average", "tau2_average", "acebench_agent_average")
    rows = data[data["model"] == "Llama-3.1-8B-Instruct"]
    _paper_bars(theirs, rows, "method", columns)
    theirs.set_xticks(range(3), ["BFCL V4", "tau2-bench", "ACEBench\nAgent"], fontsize=7)
    gap(ours, "not run here")
    return _finish(fig, "Paper: published averages, Llama-3.1-8B-Instruct.")


DIRECT_AND_FOUR = ("direct GRPO", "four stages")
STEPS_OF_TABLE3 = ("none", "direct GRPO", "+ stage 1", "+ stage 2", "+ stage 3", "+ stage 4")


def after_each_stage(curves: pd.DataFrame) -> pd.DataFrame:
    """Table 3's rows from the curriculum sweep's validations: before training, after each stage of "four stages", after direct GRPO."""
    rows = []
    for (case, _), run in curves[curves["kind"] == "validation"].groupby(
        ["case", "seed"], sort=False
    ):
        ends = run.groupby("stage", sort=False).tail(1)
        labels = STEPS_OF_TABLE3[2:] if case == "four stages" else STEPS_OF_TABLE3[1:2]
        rows += [
            end.assign(case=label)
            for label, (_, end) in zip(labels, ends.groupby("stage", sort=False), strict=True)
        ]
        if case == "four stages":
            rows.append(run.head(1).assign(case="none"))
    return pd.concat(rows)


def table3(chosen: Chosen) -> Figure:
    """Stage by stage and direct GRPO."""
    fig, (theirs, ours) = _pair("Table 3: the curriculum against one stage")
    paper = figures.paper_table3()
    _paper_bars(theirs, paper[paper["model"] == "Qwen2.5-7B-Instruct"], "training")
    found, text = (
        sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR),
        "Paper: published values, Qwen2.5-7B-Instruct, 100 tasks a split.",
    )
    if found:
        rows = after_each_stage(found[1])
        _own_bars(ours, rows, STEPS_OF_TABLE3)
        seeds = sorted(rows["seed"].unique())
        text += (
            f"\nOwn runs: {chosen.model}; validations (a sampled episode a task) of {len(seeds)} curricula and of direct GRPO, seeds "
            f"{', '.join(map(str, seeds))}, n = {int(rows['episodes'].iloc[0])} tasks a seed, BFCL's checker. Dots: seeds."
        )
    else:
        gap(ours, "no runs yet: notebook 12")
    return _finish(fig, text)


def _by_split(
    name: str, title: str, own: str, cases: Sequence[str], notebook: int, chosen: Chosen
) -> Figure:
    """Two rows of four panels: the paper's digitised curves, and ours."""
    figures.style()
    fig, axes = plt.subplots(2, 4, figsize=(7.2, 4.4), sharey="row")
    fig.suptitle(title, fontsize=10)
    paper = pd.read_csv(paths.DATA / "paper" / f"{name}.csv")
    found = sweep(own, chosen, cases)
    for column, split in enumerate(SPLITS):
        top, bottom = axes[:, column]
        stage = ablations.paper_lines(top, paper[paper["panel"] == split])
        top.set_title(
            figures.SPLIT_LABELS[split].replace("\n", " ") + f"\n(paper: stage {stage})", fontsize=8
        )
        if not found:
            gap(bottom, f"no runs yet:\nnotebook {notebook}")
            continue
        curves = found[1][found[1]["kind"] == "validation"]
        for i, case in enumerate(
            cases
        ):  # in the paper's order, so that a series has one colour in both rows
            if (curves["case"] == case).any():
                ablations.line(
                    bottom,
                    curves[curves["case"] == case],
                    f"accuracy_{split}",
                    figures.COLOURS[i],
                    case,
                )
        bottom.set_xlabel("step", fontsize=8)
    axes[0, 0].set_ylabel("the paper,\ndigitised", fontsize=8)
    axes[1, 0].set_ylabel("own runs", fontsize=8)
    for ax in axes[:, 0]:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=6, loc="best")
    text = "Validation accuracy; ours of one sampled episode a task. Paper: Qwen2.5-7B-Instruct, one run smoothed by its authors."
    if found:
        text += "\n" + _source(found[0], chosen) + " Bands: least to largest seed."
    return _finish(fig, text)


def figure4a(chosen: Chosen) -> Figure:
    """Hints against none."""
    return _by_split(
        "fig4a_augmentation",
        "Figure 4a: with and without augmentation",
        chosen.augmentation,
        ("with hints", "without hints"),
        13,
        chosen,
    )


def figure4b(chosen: Chosen) -> Figure:
    """Progress against binary reward."""
    return _by_split(
        "fig4b_reward",
        "Figure 4b: progress and binary reward",
        chosen.reward,
        ("progress", "binary"),
        14,
        chosen,
    )


def _dynamics(title: str, panels: Mapping[str, str], stages: int | None, chosen: Chosen) -> Figure:
    figures.style()
    fig, axes = plt.subplots(1, len(panels) + 1, figsize=(7.2, 2.7))
    fig.suptitle(title, fontsize=10)
    gap(axes[0], "the paper's image\ncould not be had")
    data = dynamics(chosen)
    for ax, (column, label) in zip(axes[1:], panels.items(), strict=True):
        if data is None:
            gap(ax, "no run")
            continue
        names = list(dict.fromkeys(data["stage"]))[:stages]
        part = data[
            data["stage"].isin(names)
            & (data["kind"] == ("validation" if column == "accuracy" else "train"))
        ]
        for i, (_, piece) in enumerate(part.groupby("stage", sort=False)):
            ax.plot(
                piece["at"],
                piece[column],
                color=figures.COLOURS[0 if stages else i],
                linewidth=1.3,
                marker="o" if column == "accuracy" else None,
                markersize=3,
            )
        ax.set_xlabel("step", fontsize=8)
        ax.set_title(label, fontsize=8)
        ax.set_ylim(bottom=0, top=None if column in ("grad_norm", "steps_per_episode") else 1.05)
    text = (
        ""
        if data is None
        else (
            f"Own run: {chosen.model}, {chosen.dynamics}."
            + ("" if stages else " A colour a stage.")
        )
    )
    return _finish(fig, text)


def figure5a(chosen: Chosen) -> Figure:
    """Stage 1: format reward, tool-call reward, share of episodes with a call, steps an episode."""
    return _dynamics(
        "Figure 5a: stage 1",
        {
            "format_reward": "format reward",
            "tool_call_reward": "tool-call reward",
            "share_with_call": "share with a call",
            "steps_per_episode": "steps an episode",
        },
        1,
        chosen,
    )


def figure5b(chosen: Chosen) -> Figure:
    """The whole curriculum: accuracy and gradient norm."""
    return _dynamics(
        "Figure 5b: the whole curriculum",
        {"accuracy": "validation accuracy", "grad_norm": "gradient norm"},
        None,
        chosen,
    )


def figure6(chosen: Chosen) -> Figure:
    """Single-stage GRPO: accuracy and gradient norm."""
    fig, (theirs, ours) = _pair("Figure 6: one stage alone")
    paper = pd.read_csv(paths.DATA / "paper" / "fig6_single_stage.csv")
    for ax in (theirs, ours):
        ax.set_xlabel("step")
    norm = theirs.twinx()
    for ax, series, colour in ((theirs, "accuracy", 0), (norm, "grad_norm", 3)):
        part = paper[paper["series"] == series]
        ax.plot(part["step"], part["value"], color=figures.COLOURS[colour], linewidth=1.3)
    found = sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR[:1])
    text = "Blue, left: accuracy; red, right: gradient norm. Paper: digitised, one run, smoothed by its authors."
    pairs = [(theirs, norm)]
    if found:
        curves = found[1]
        own_norm = ours.twinx()
        ablations.line(
            ours, curves[curves["kind"] == "validation"], "accuracy", figures.COLOURS[0], "accuracy"
        )
        ablations.line(
            own_norm,
            curves[curves["kind"] == "train"],
            "grad_norm",
            figures.COLOURS[3],
            "gradient norm",
        )
        pairs.append((ours, own_norm))
        text += "\n" + _source(found[0], chosen)
    else:
        gap(ours, "no runs of direct GRPO yet:\nnotebook 12")
    for left, right in pairs:
        left.set_ylim(bottom=0)
        right.set_ylim(bottom=0)
        right.grid(False)
    return _finish(fig, text)


def figure7(chosen: Chosen) -> Figure:
    """KL weights: entropy and accuracy."""
    figures.style()
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 3.0))
    fig.suptitle("Figure 7: the KL weight", fontsize=10)
    gap(
        axes[0],
        "the paper's image\ncould not be had; its text:\nwithout a strong KL\nentropy collapses",
    )
    found, text = sweep(chosen.kl, chosen), ""
    for ax, (column, label) in zip(
        axes[1:],
        {"entropy": "entropy (nats a token)", "accuracy": "validation accuracy"}.items(),
        strict=True,
    ):
        if not found:
            gap(ax, "no runs yet:\nnotebook 15")
            continue
        curves = found[1][found[1]["kind"] == ("validation" if column == "accuracy" else "train")]
        for i, beta in enumerate(sorted(found[0]["beta"].unique())):
            ablations.line(
                ax, curves[curves["beta"] == beta], column, figures.COLOURS[i], f"beta {beta:g}"
            )
        ax.set_xlabel("step")
        ax.set_title(label, fontsize=8)
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=6)
        text = (
            _source(found[0], chosen)
            + " Validation: one sampled episode a task. Bands: least to largest seed."
        )
    return _finish(fig, text)


FIGURES: dict[str, Callable[[Chosen], Figure]] = {
    f.__name__: f
    for f in (table1, table2, table3, figure4a, figure4b, figure5a, figure5b, figure6, figure7)
}
"""Every table and figure by name."""


def _draw(folder: Path, made: Mapping[str, Figure]) -> dict[str, Path]:
    drawn = {}
    for name, fig in made.items():
        drawn[name] = figures.save(fig, folder / name)[0]
        plt.close(fig)
    return drawn


def draw_all(folder: Path, chosen: Chosen | None = None) -> dict[str, Path]:
    """Draw all and return their PNG files by name; a PDF lies beside each."""
    return _draw(folder, {name: draw(chosen or Chosen()) for name, draw in FIGURES.items()})


def draw_learning(folder: Path) -> Path | None:
    """Draw what `make bench` measured: held-out accuracy over the four stages, a line a seed. None where it has not been run."""
    file = paths.DATA / "reference_runs" / "learning_check.csv"
    if not file.exists():
        return None
    table = pd.read_csv(file)
    seeds = ", ".join(map(str, table["seed"].unique()))
    source = f"tiny-agent, preset cpu-tiny, seed{'s' * (',' in seeds)} {seeds}"
    return _draw(folder, {"held_out": figures.held_out_curves(table, source)})["held_out"]


def draw_sweeps(folder: Path, chosen: Chosen | None = None) -> dict[str, Path]:
    """Draw every ablation's whole sweep, as notebooks 12 to 16 do; those that were not run are left out."""
    chosen = chosen or Chosen()
    made = {}
    for name, panels in zip(chosen.ablations, ablations.PANELS.values(), strict=True):
        if found := sweep(name, chosen):
            made[name] = ablations.figure(
                *found, "case", panels, f"{chosen.model}, {int(found[0]['steps'].max())} steps"
            )
    return _draw(folder, made)
