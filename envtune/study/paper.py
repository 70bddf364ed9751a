"""The paper's tables and figures, each as published, from our own runs, or both; nothing here
trains.

    >>> draw_all(paths.figures() / "paper")      # PNG and PDF of Tables 1-3 and Figures 4a-7

The paper's tables are exact, its curves digitised from its images and labelled so; Figures 5 and 7
are unavailable as images. Our runs are sweeps and reference runs, chosen by name. Where a run is
missing there is no panel, and the text under the figure says so; a line is never made up.
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
class Chosen:
    """The runs that our panels are drawn from: sweeps under runs/ or data/reference_runs, by
    name."""

    curriculum: str = "ablation_curriculum"
    augmentation: str = "ablation_augmentation"
    reward: str = "ablation_reward"
    kl: str = "kl_sweep"  # the sweep against the reward's scale has this name with _scale
    robustness: str = "hint_robustness"
    baselines: str = "baselines"
    dynamics: str = "cpu_tiny_seed0"  # one run with all four stages
    model: str = OURS
    own_runs_first: bool = False  # take a sweep of runs/ before the committed one of the same name

    @property
    def ablations(self) -> tuple[str, ...]:
        """The sweeps in the order of ablations.PANELS."""
        plain = (self.curriculum, self.augmentation, self.reward, self.kl)
        return (*plain, f"{self.kl}_scale", self.robustness)


def sweep(
    name: str, chosen: Chosen, cases: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(summary, curves) of a sweep's finished runs, of these cases if some are named; None where
    there is none. ValueError for a sweep whose points have no `case`."""
    try:
        summary, curves = ablations.load(name, chosen.own_runs_first)
    except FileNotFoundError:
        return None
    if "case" not in summary:
        raise ValueError(
            f"the sweep {name!r} cannot be drawn here: its points have no `case`, the word that "
            f"names what each does (it has {', '.join(summary)})"
        )
    summary = summary[summary["state"] == "done"]
    if cases:
        summary, curves = (table[table["case"].isin(cases)] for table in (summary, curves))
    return (summary, curves) if len(summary) else None


def _published(name: str, **only: str) -> pd.DataFrame:
    """A file of data/paper, or those of its rows that have these values."""
    table = pd.read_csv(paths.DATA / "paper" / f"{name}.csv")
    for column, value in only.items():
        table = table[table[column] == value]
    return table


def _source(summary: pd.DataFrame, chosen: Chosen) -> str:
    return (
        f"Own runs: {chosen.model}; {summary['run'].nunique()} runs, "
        f"{ablations.seeds_of(summary)}, n = {int(summary['n'].iloc[0])} tasks per seed, "
        "BFCL's checker."
    )


def _missing(notebook: str) -> str:
    return f"Own runs: no runs yet ({notebook})."


QWEN = "Paper: published values, Qwen2.5-7B-Instruct, 100 tasks per split."


def _bars(
    title: str,
    published: pd.DataFrame,
    own: pd.DataFrame | None = None,
    own_title: str = "own runs",
    text: str = QWEN,
    **how,
) -> Figure:
    """The published values, and ours beside them where there are runs: `published` has a column
    `case` and a column of percents for each group of bars, `own` has case, split and accuracy
    [0..1], a row a bar or a seed."""
    fig, axes = kit.canvas(1, 1 if own is None else 2, (7.2, 3.2), title, sharey=True)
    long = published.melt("case", var_name="split", value_name="accuracy")
    kit.bars(axes[0, 0], long.assign(accuracy=long["accuracy"] / 100), "split", "accuracy", "case")
    axes[0, 0].set_title("the paper")
    if own is not None:
        kit.bars(axes[0, 1], own, "split", "accuracy", "case", **how)
        axes[0, 1].set_title(own_title)
    return kit.finish(fig, text)


def _by_split(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns case, seed, split and accuracy, of a table with a column accuracy_<split> for
    each."""
    table = rows.set_index(["case", "seed"])[[f"accuracy_{split}" for split in SPLITS]]
    table = table.set_axis(SPLITS, axis=1).reset_index()
    return table.melt(["case", "seed"], var_name="split", value_name="accuracy")


def _table1_published() -> pd.DataFrame:
    table = _published("table1_bfcl_v3", model="Qwen2.5-7B-Instruct")
    return table.rename(columns={"method": "case"})[["case", *SPLITS]]


def table1(chosen: Chosen) -> Figure:
    """In-distribution: the paper's methods on Qwen2.5-7B-Instruct; ours of notebook 08, and what of
    them the curriculum's sweep has too."""
    title, own = "Table 1: in-distribution, BFCL V3 multi-turn", None
    text = _missing("notebook 08, over seeds")
    if found := sweep(chosen.baselines, chosen):
        rows = found[0]
        if other := sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR):
            rows = pd.concat([rows, other[0]])
        own = _by_split(rows)
        text = _source(rows, chosen) + " Dots: seeds. Trained and judged on the same tasks."
    return _bars(title, _table1_published(), own, "own runs (greedy)", f"{QWEN}\n{text}")


def method_bars(results: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Accuracy by split, a bar a method: the paper's Table 1 beside one run. `results`: method ->
    evaluation.evaluate(...)."""
    tasks = pd.concat(results, names=["case"]).reset_index("case")
    tasks = tasks.assign(accuracy=tasks["valid"].astype(float))
    counts = sorted(set(next(iter(results.values()))["split"].value_counts()))
    text = (
        f"Own run: {source}, n = {' to '.join(map(str, counts))} tasks per split, with 95% "
        "Wilson intervals, one seed.\nPaper: published means, 100 tasks per split; its 'none' is "
        "the untrained model. Not a comparison between the panels."
    )
    how = {"errorbar": kit.wilson95}
    title = "Methods, accuracy by split"
    return _bars(title, _table1_published(), tasks, "own run (greedy)", text, **how)


def table2(chosen: Chosen) -> Figure:
    """Out of distribution: the paper's values; not run here."""
    names = {
        "method": "case",
        "bfcl_v4_average": "BFCL V4",
        "tau2_average": "tau2-bench",
        "acebench_agent_average": "ACEBench\nAgent",
    }
    table = _published("table2_ood", model="Llama-3.1-8B-Instruct").rename(columns=names)
    text = "Paper: published averages, Llama-3.1-8B-Instruct.\nOwn runs: not run here."
    return _bars("Table 2: out of distribution", table[list(names.values())], text=text)


DIRECT_AND_FOUR = ("direct GRPO", "four stages")
STEPS_OF_TABLE3 = ("none", "direct GRPO", "+ stage 1", "+ stage 2", "+ stage 3", "+ stage 4")


def after_each_stage(curves: pd.DataFrame) -> pd.DataFrame:
    """Table 3's rows from the curriculum sweep's validations: before training, after each stage of
    "four stages", after direct GRPO."""
    rows = []
    validations = curves[curves["kind"] == "validation"]
    for (case, _), run in validations.groupby(["case", "seed"], sort=False):
        ends = run.drop_duplicates("stage", keep="last")
        if case == "four stages":
            rows.append(run.head(1).assign(case="none"))
        steps = STEPS_OF_TABLE3[2:] if case == "four stages" else STEPS_OF_TABLE3[1:2]
        rows.append(ends.assign(case=steps))
    return pd.concat(rows)


def table3(chosen: Chosen) -> Figure:
    """Stage by stage and direct GRPO."""
    published = _published("table3_curriculum", model="Qwen2.5-7B-Instruct")
    published = published.rename(columns={"training": "case"})[["case", *SPLITS]]
    own, text = None, _missing("notebook 12")
    if found := sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR):
        rows = after_each_stage(found[1])
        own = _by_split(rows)
        text = (
            f"Own runs: {chosen.model}; validations (a sampled episode per task) of "
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
    """A panel for each column of curves, and a row for each (titles, data) of `rows` that has
    data."""
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
    name: str, title: str, own: str, cases: Sequence[str], notebook: int, chosen: Chosen
) -> Figure:
    """Figure 4: validation accuracy on each split, two cases."""
    data = _published(name).replace({"series": HINTS})
    stages = data.groupby("panel")["stage"].first()
    theirs = data.pivot(index=["series", "step"], columns="panel", values="accuracy")
    theirs = theirs.add_prefix("accuracy_").loc[list(cases)].reset_index()
    theirs = theirs.rename(columns={"series": "case", "step": "at"})
    found = sweep(own, chosen, cases)
    text = f"{DIGITISED}; a gap could not be read off the image.\n" + (
        f"{_source(found[0], chosen)} One sampled episode per task. Bands: least to largest seed."
        if found
        else _missing(f"notebook {notebook}")
    )
    splits = [kit.SPLIT_LABELS[split].replace("\n", " ") for split in SPLITS]
    heads = [
        f"{said}\nthe paper, stage {stages[s]}" for s, said in zip(SPLITS, splits, strict=True)
    ]
    rows = [(heads, theirs), ([f"{said}\nown runs" for said in splits], found and found[1])]
    columns = [f"accuracy_{split}" for split in SPLITS]
    return _curves(title, columns, rows, text, sharey="row")


def figure4a(chosen: Chosen) -> Figure:
    """Hints against none."""
    title, cases = "Figure 4a: with and without augmentation", tuple(HINTS.values())
    return _four_splits("fig4a_augmentation", title, chosen.augmentation, cases, 13, chosen)


def figure4b(chosen: Chosen) -> Figure:
    """Progress against binary reward."""
    title, cases = "Figure 4b: progress and binary reward", ("progress", "binary")
    return _four_splits("fig4b_reward", title, chosen.reward, cases, 14, chosen)


UNAVAILABLE = "Paper figure unavailable."


def dynamics(chosen: Chosen) -> pd.DataFrame | None:
    """Metrics of the run with all four stages, with `at`, or None."""
    file = paths.DATA / "reference_runs" / f"{chosen.dynamics}.parquet"
    if (paths.runs() / chosen.dynamics / "metrics.jsonl").exists():
        return files.load_metrics(paths.runs() / chosen.dynamics)
    return pd.read_parquet(file) if file.exists() else None


def _dynamics(title: str, columns: Sequence[str], stages: int, chosen: Chosen) -> Figure:
    """The first stages of the run with all four, a colour a stage."""
    data, text = dynamics(chosen), f"{UNAVAILABLE} {_missing('notebook 00')}"
    if data is not None:
        data = data[data["stage"].isin(data["stage"].unique()[:stages])]
        data = data.replace({"stage": kit.STAGE_LABELS})
        text = f"{UNAVAILABLE} Own run: {chosen.model}, {chosen.dynamics}."
    return _curves(title, columns, [([""] * len(columns), data)], text, hue="stage")


def figure5a(chosen: Chosen) -> Figure:
    """Stage 1: format reward, tool-call reward, share of episodes with a call, steps per
    episode."""
    columns = ("format_reward", "tool_call_reward", "share_with_call", "steps_per_episode")
    return _dynamics("Figure 5a: stage 1", columns, 1, chosen)


def figure5b(chosen: Chosen) -> Figure:
    """The whole curriculum: accuracy and gradient norm."""
    return _dynamics("Figure 5b: the whole curriculum", ("accuracy", "grad_norm"), 4, chosen)


def figure6(chosen: Chosen) -> Figure:
    """Single-stage GRPO: accuracy and gradient norm."""
    table = _published("fig6_single_stage").pivot(index="step", columns="series", values="value")
    theirs = table.rename_axis(index="at").reset_index().assign(case="direct GRPO")
    found = sweep(chosen.curriculum, chosen, DIRECT_AND_FOUR[:1])
    own = (
        f"{_source(found[0], chosen)} Bands: least to largest seed."
        if found
        else _missing("notebook 12")
    )
    rows = [(["the paper"] * 2, theirs), (["own runs"] * 2, found and found[1])]
    columns, text = ("accuracy", "grad_norm"), f"{DIGITISED}.\n{own}"
    return _curves("Figure 6: one stage alone (direct GRPO)", columns, rows, text, sharey="col")


def figure7(chosen: Chosen) -> Figure:
    """KL weights: entropy and accuracy."""
    text = f"{UNAVAILABLE} Its text: without a strong KL entropy collapses.\n"
    if found := sweep(chosen.kl, chosen):
        text += f"{_source(found[0], chosen)} Bands: least to largest seed."
    else:
        text += _missing("notebook 15")
    curves = found and found[1].sort_values("beta", kind="stable")
    title, columns = "Figure 7: the KL weight", ("entropy", "accuracy")
    return _curves(title, columns, [(["own runs"] * 2, curves)], text)


FIGURES: dict[str, Callable[[Chosen], Figure]] = {
    f.__name__: f
    for f in (table1, table2, table3, figure4a, figure4b, figure5a, figure5b, figure6, figure7)
}
"""Every table and figure by name."""


def _draw(folder: Path, made: Mapping[str, Figure]) -> dict[str, Path]:
    drawn = {name: files.save_figure(fig, folder / name)[0] for name, fig in made.items()}
    for fig in made.values():
        kit.plt.close(fig)
    return drawn


def draw_all(folder: Path, chosen: Chosen | None = None) -> dict[str, Path]:
    """Draw all and return their PNG files by name; a PDF lies beside each."""
    return _draw(folder, {name: draw(chosen or Chosen()) for name, draw in FIGURES.items()})


def draw_learning(folder: Path) -> Path | None:
    """Draw what `make bench` measured: held-out accuracy over the four stages, a line a seed. None
    where it has not been run."""
    file = paths.DATA / "reference_runs" / "learning_check.csv"
    if not file.exists():
        return None
    table = pd.read_csv(file)
    source = f"tiny-agent, preset cpu-tiny, {ablations.seeds_of(table)}"
    return _draw(folder, {"held_out": figures.held_out_curves(table, source)})["held_out"]


def draw_sweeps(folder: Path, chosen: Chosen | None = None) -> dict[str, Path]:
    """Draw every ablation's whole sweep, as notebooks 12 to 16 do; those that were not run are left
    out."""
    chosen = chosen or Chosen()
    made = {}
    for name, panels in zip(chosen.ablations, ablations.PANELS.values(), strict=True):
        if found := sweep(name, chosen):
            source = f"{chosen.model}, {int(found[0]['steps'].max())} steps"
            made[name] = ablations.figure(*found, "case", panels, source)
    return _draw(folder, made)
