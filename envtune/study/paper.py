"""The paper's tables and figures: its published values, our own runs, or both. Nothing here trains.

    >>> draw_all(paths.figures() / "paper")      # PNG and PDF of Tables 1-3 and Figures 4a-7

The values of the paper's tables are exact; its curves were digitised from its images and are
labelled so. The images of Figures 5 and 7 are not available. A panel is drawn only from values
that exist: where a run is missing there is no panel, and the caption says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from envtune.common import files, paths
from envtune.study import ablations, figures, kit

SPLITS = tuple(kit.SPLIT_LABELS)
OURS = "tiny-agent (no evidence about large models)"


@dataclass(frozen=True)
class SourceRuns:
    """Names of the sweeps and runs, in runs/ or data/reference_runs, that our panels show."""

    curriculum: str = "ablation_curriculum"
    augmentation: str = "ablation_augmentation"
    reward: str = "ablation_reward_3"  # tasks of three requests; those of one end in _1
    kl: str = "kl_sweep"  # the sweep against the reward's scale has this name with _scale
    robustness: str = "hint_robustness"
    training_tasks: str = "training_tasks"
    baselines: str = "baselines"
    dynamics: str = "cpu_tiny_seed0"  # one run with all four stages
    model: str = OURS
    own_runs_first: bool = False  # prefer a sweep in runs/ to the committed one of that name

    @property
    def ablations(self) -> tuple[str, ...]:
        """The sweeps in the order of ablations.PANELS."""
        first = (self.curriculum, self.augmentation, f"{self.augmentation}_deaf", self.reward)
        short = self.reward.replace("_3", "_1")
        return (*first, short, self.kl, f"{self.kl}_scale", self.robustness, self.training_tasks)


def finished_sweep(
    name: str, runs: SourceRuns, cases: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, curves) of a sweep's finished runs, None where there is none.

    `cases` selects some of its cases. ValueError for a sweep whose points have no `case`.
    """
    try:
        summary, curves = ablations.load_sweep(name, runs.own_runs_first)
    except FileNotFoundError:
        return None
    if "case" not in summary:
        raise ValueError(
            f"the sweep {name!r} cannot be drawn here: its points have no `case`, the name of "
            f"what each of them does (it has {', '.join(summary)})"
        )
    summary = summary.loc[summary["state"] == "done"]
    if cases:
        summary, curves = (table.loc[table["case"].isin(cases)] for table in (summary, curves))
    return (summary, curves) if len(summary) else None


def _published(name: str, **only: str) -> pd.DataFrame:
    """The rows of a file in data/paper that have these values."""
    table = pd.read_csv(paths.DATA / "paper" / f"{name}.csv")
    for column, value in only.items():
        table = table.loc[table[column] == value]
    return table


def _source(summary: pd.DataFrame, runs: SourceRuns) -> str:
    return (
        f"Own runs: {runs.model}; {summary['run'].nunique()} runs, "
        f"{ablations.seeds_of(summary)}, n = {int(summary['n'].iloc[0])} tasks per seed, "
        "BFCL's checker."
    )


def _missing(notebook: str) -> str:
    return f"Own runs: no runs yet ({notebook})."


def _own_curves(
    found: tuple[pd.DataFrame, pd.DataFrame] | None, runs: SourceRuns, book: int, more: str = ""
) -> str:
    """Where a sweep's curves come from, or which notebook would make them."""
    bands = f"{more}Bands: least to largest seed."
    return f"{_source(found[0], runs)} {bands}" if found else _missing(f"notebook {book}")


QWEN = "Paper: published values, Qwen2.5-7B-Instruct, 100 tasks per split."


def _bars(
    title: str,
    published: pd.DataFrame,
    own: pd.DataFrame | None = None,
    own_title: str = "own runs",
    text: str = QWEN,
    **how,
) -> Figure:
    """The published values, and ours beside them where there are runs.

    `published` has a column `case` and a column per group of bars [percent]; `own` has case, split
    and accuracy [0..1], one row per bar or per seed.
    """
    fig, axes = kit.canvas(1, 1 if own is None else 2, (7.2, 3.2), title, sharey=True)
    long = published.melt("case", var_name="split", value_name="accuracy")
    kit.bars(axes[0, 0], long.assign(accuracy=long["accuracy"] / 100), "split", "accuracy", "case")
    axes[0, 0].set_title("the paper")
    if own is not None:
        kit.bars(axes[0, 1], own, "split", "accuracy", "case", **how)
        axes[0, 1].set_title(own_title)
    return kit.finish(fig, text)


def _by_split(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns accuracy_<split> as one column accuracy, beside case, seed and split."""
    table = rows.set_index(["case", "seed"]).loc[:, [f"accuracy_{split}" for split in SPLITS]]
    table = table.set_axis(SPLITS, axis=1).reset_index()
    return table.melt(["case", "seed"], var_name="split", value_name="accuracy")


def _table1_published() -> pd.DataFrame:
    table = _published("table1_bfcl_v3", model="Qwen2.5-7B-Instruct")
    return table.rename(columns={"method": "case"}).loc[:, ["case", *SPLITS]]


def table1(runs: SourceRuns) -> Figure:
    """In-distribution: the paper's methods on Qwen2.5-7B-Instruct beside ours.

    Our runs are those of notebook 08; direct GRPO and the four stages come from the curriculum's
    sweep.
    """
    title, own = "Table 1: in-distribution, BFCL V3 multi-turn", None
    text = _missing("notebook 08, over seeds")
    if found := finished_sweep(runs.baselines, runs):
        rows = found[0]
        if other := finished_sweep(runs.curriculum, runs, DIRECT_AND_FOUR):
            rows = pd.concat([rows, other[0]])
        own = _by_split(rows)
        text = _source(rows, runs) + " Dots: seeds. Trained and judged on the same tasks."
    return _bars(title, _table1_published(), own, "own runs (greedy)", f"{QWEN}\n{text}")


def method_bars(results: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Accuracy by split, a bar per method: the paper's Table 1 beside one run.

    `results` maps a method to its `evaluation.evaluate(...)`.
    """
    tasks = pd.concat(results, names=["case"]).reset_index("case")
    tasks = tasks.assign(accuracy=tasks["valid"].astype(float))
    counts = sorted(set(next(iter(results.values()))["split"].value_counts()))
    text = (
        f"Own run: {source}, n = {' to '.join(map(str, counts))} tasks per split, with 95% "
        "exact intervals, one seed.\nPaper: published means, 100 tasks per split; its 'none' is "
        "the untrained model. Not a comparison between the panels."
    )
    how = {"errorbar": kit.exact95}
    title = "Methods, accuracy by split"
    return _bars(title, _table1_published(), tasks, "own run (greedy)", text, **how)


def table2(runs: SourceRuns) -> Figure:
    """Out of distribution: the paper's values only; notebook 11 draws runs of one's own."""
    names = {
        "method": "case",
        "bfcl_v4_average": "BFCL V4",
        "tau2_average": "tau2-bench",
        "acebench_agent_average": "ACEBench\nAgent",
    }
    table = _published("table2_ood", model="Llama-3.1-8B-Instruct").rename(columns=names)
    own = "Own runs: none here; notebook 11 or `python -m envtune ood` makes and draws them."
    text = f"Paper: published averages, Llama-3.1-8B-Instruct.\n{own}"
    return _bars("Table 2: out of distribution", table.loc[:, list(names.values())], text=text)


DIRECT_AND_FOUR = ("direct GRPO", "four stages")
STEPS_OF_TABLE3 = ("none", "direct GRPO", "+ stage 1", "+ stage 2", "+ stage 3", "+ stage 4")


def after_each_stage(curves: pd.DataFrame) -> pd.DataFrame:
    """Table 3's rows from the validations of the curriculum's sweep.

    Before training, after each stage of "four stages", and after direct GRPO.
    """
    rows = []
    validations = curves.loc[curves["kind"] == "validation"]
    for (case, _), run in validations.groupby(["case", "seed"], sort=False):
        ends = run.drop_duplicates("stage", keep="last")
        if case == "four stages":
            rows.append(run.head(1).assign(case="none"))
        steps = STEPS_OF_TABLE3[2:] if case == "four stages" else STEPS_OF_TABLE3[1:2]
        rows.append(ends.assign(case=steps))
    return pd.concat(rows)


def table3(runs: SourceRuns) -> Figure:
    """Stage by stage and direct GRPO."""
    published = _published("table3_curriculum", model="Qwen2.5-7B-Instruct")
    published = published.rename(columns={"training": "case"}).loc[:, ["case", *SPLITS]]
    own, text = None, _missing("notebook 12")
    if found := finished_sweep(runs.curriculum, runs, DIRECT_AND_FOUR):
        rows = after_each_stage(found[1])
        own = _by_split(rows)
        text = (
            f"Own runs: {runs.model}; validations (a sampled episode per task) of "
            f"{rows['seed'].nunique()} curricula and of direct GRPO, {ablations.seeds_of(rows)}, "
            f"n = {int(rows['episodes'].iloc[0])} tasks per seed, BFCL's checker. Dots: seeds."
        )
    title, how = "Table 3: the curriculum against one stage", {"names": STEPS_OF_TABLE3}
    return _bars(title, published, own, "own runs (sampled)", f"{QWEN}\n{text}", **how)


def _curves(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Sequence[str], pd.DataFrame | None]],
    text: str,
    hue: str = "case",
    sharey: str | bool = False,
) -> Figure:
    """One panel per column of curves, one row per (titles, data) in `rows` that has data."""
    rows = [(titles, data) for titles, data in rows if data is not None]
    if not rows:
        fig, [[ax]] = kit.canvas(1, 1, (7.2, 0.9), f"{title}: nothing to draw yet")
        ax.set_axis_off()
        return kit.finish(fig, text)
    names = list(dict.fromkeys(name for _, data in rows for name in data[hue]))
    size = (7.2, 0.8 + 1.9 * len(rows))
    fig, axes = kit.canvas(len(rows), len(columns), size, title, sharey=sharey)
    for line, (titles, data) in zip(axes, rows, strict=True):
        for ax, column, head in zip(line, columns, titles, strict=True):
            kit.panel(ax, data, column, hue, names, legend=len(names) > 1 and ax is axes[0, 0])
            ax.set_title(head, fontsize=8)
            ax.tick_params(labelsize=7)
            if sharey == "row" and ax is not line[0]:
                ax.set_ylabel("")
    return kit.finish(fig, text)


DIGITISED = "Paper: digitised, Qwen2.5-7B-Instruct, one run smoothed by its authors"
HINTS = {"with_augmentation": "with hints", "without_augmentation": "without hints"}


def _four_splits(
    name: str, title: str, own: str, cases: Sequence[str], notebook: int, runs: SourceRuns
) -> Figure:
    """Figure 4: validation accuracy on each split, of two cases."""
    data = _published(name).replace({"series": HINTS})
    stages = data.groupby("panel")["stage"].first()
    theirs = data.pivot(index=["series", "step"], columns="panel", values="accuracy")
    theirs = theirs.add_prefix("accuracy_").loc[list(cases)].reset_index()
    theirs = theirs.rename(columns={"series": "case", "step": "at"})
    found = finished_sweep(own, runs, cases)
    text = f"{DIGITISED}; a gap could not be read off the image.\n"
    text += _own_curves(found, runs, notebook, "One sampled episode per task. ")
    labels = {split: kit.SPLIT_LABELS[split].replace("\n", " ") for split in SPLITS}
    heads = [f"{label}\nthe paper, stage {stages[split]}" for split, label in labels.items()]
    own_heads = [f"{label}\nown runs" for label in labels.values()]
    rows = [(heads, theirs), (own_heads, found and found[1])]
    columns = [f"accuracy_{split}" for split in SPLITS]
    return _curves(title, columns, rows, text, sharey="row")


def figure4a(runs: SourceRuns) -> Figure:
    """Training with hints against training without."""
    title, cases = "Figure 4a: with and without augmentation", tuple(HINTS.values())
    return _four_splits("fig4a_augmentation", title, runs.augmentation, cases, 13, runs)


def figure4b(runs: SourceRuns) -> Figure:
    """The progress reward against the binary reward."""
    title, cases = "Figure 4b: progress and binary reward", ("progress", "binary")
    return _four_splits("fig4b_reward", title, runs.reward, cases, 14, runs)


UNAVAILABLE = "Paper figure unavailable."


def dynamics(runs: SourceRuns) -> pd.DataFrame | None:
    """Metrics of the run with all four stages, or None; `at` counts steps over all stages."""
    file = paths.DATA / "reference_runs" / f"{runs.dynamics}.parquet"
    if (paths.runs() / runs.dynamics / "metrics.jsonl").exists():
        return files.load_metrics(paths.runs() / runs.dynamics)
    return pd.read_parquet(file) if file.exists() else None


def _dynamics(title: str, columns: Sequence[str], stages: int, runs: SourceRuns) -> Figure:
    """The first `stages` stages of the run with all four, a colour per stage."""
    data, text = dynamics(runs), f"{UNAVAILABLE} {_missing('notebook 00')}"
    if data is not None:
        data = data.loc[data["stage"].isin(list(dict.fromkeys(data["stage"]))[:stages])]
        data = data.replace({"stage": kit.STAGE_LABELS})
        text = f"{UNAVAILABLE} Own run: {runs.model}, {runs.dynamics}."
    return _curves(title, columns, [([""] * len(columns), data)], text, hue="stage")


def figure5a(runs: SourceRuns) -> Figure:
    """Stage 1: rewards for format and tool calls, episodes with a call, steps per episode."""
    columns = ("format_reward", "tool_call_reward", "share_with_call", "steps_per_episode")
    return _dynamics("Figure 5a: stage 1", columns, 1, runs)


def figure5b(runs: SourceRuns) -> Figure:
    """The whole curriculum: accuracy and gradient norm."""
    return _dynamics("Figure 5b: the whole curriculum", ("accuracy", "grad_norm"), 4, runs)


def figure6(runs: SourceRuns) -> Figure:
    """Single-stage GRPO: accuracy and gradient norm."""
    table = _published("fig6_single_stage").pivot(index="step", columns="series", values="value")
    theirs = table.rename_axis(index="at").reset_index().assign(case="direct GRPO")
    found = finished_sweep(runs.curriculum, runs, DIRECT_AND_FOUR[:1])
    rows = [(["the paper"] * 2, theirs), (["own runs"] * 2, found and found[1])]
    columns, text = ("accuracy", "grad_norm"), f"{DIGITISED}.\n{_own_curves(found, runs, 12)}"
    return _curves("Figure 6: one stage alone (direct GRPO)", columns, rows, text, sharey="col")


def figure7(runs: SourceRuns) -> Figure:
    """KL weights: entropy and accuracy."""
    found = finished_sweep(runs.kl, runs)
    text = f"{UNAVAILABLE} Its text: without a strong KL entropy collapses.\n"
    text += _own_curves(found, runs, 15)
    curves = found and found[1].sort_values("beta", kind="stable")
    title, columns = "Figure 7: the KL weight", ("entropy", "accuracy")
    return _curves(title, columns, [(["own runs"] * 2, curves)], text)


FIGURES: dict[str, Callable[[SourceRuns], Figure]] = {
    f.__name__: f
    for f in (table1, table2, table3, figure4a, figure4b, figure5a, figure5b, figure6, figure7)
}
"""The tables and figures of the paper, by name."""


def _draw(folder: Path, made: Mapping[str, Figure]) -> dict[str, Path]:
    drawn = {name: files.save_figure(fig, folder / name)[0] for name, fig in made.items()}
    for fig in made.values():
        kit.plt.close(fig)
    return drawn


def draw_all(folder: Path, runs: SourceRuns | None = None) -> dict[str, Path]:
    """Draw every table and figure as PNG and PDF; returns the PNG files by name."""
    return _draw(folder, {name: draw(runs or SourceRuns()) for name, draw in FIGURES.items()})


def draw_learning(folder: Path) -> Path | None:
    """Draw the held-out accuracy that `make bench` measured; None where it has not been run."""
    file = paths.DATA / "reference_runs" / "learning_check.csv"
    if not file.exists():
        return None
    table = pd.read_csv(file)
    source = f"tiny-agent, preset cpu-tiny, {ablations.seeds_of(table)}"
    return _draw(folder, {"held_out": figures.held_out_curves(table, source)})["held_out"]


def draw_sweeps(folder: Path, runs: SourceRuns | None = None) -> dict[str, Path]:
    """Draw every finished ablation as notebooks 12 to 16 do; returns the PNG files by name."""
    runs = runs or SourceRuns()
    made = {}
    for name, panels in zip(runs.ablations, ablations.PANELS.values(), strict=True):
        if found := finished_sweep(name, runs):
            source = f"{runs.model}, {found[0]['steps'].max():.0f} steps"
            made[name] = ablations.figure(*found, "case", panels, source)
    return _draw(folder, made)
