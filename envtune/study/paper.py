"""The paper's tables and figures: its published values, our own runs, or both. Nothing here trains.

    >>> draw_all(paths.figures() / "paper")      # PNG and PDF of Tables 1-3 and Figures 4a-7

The values of the paper's tables are exact; its curves were digitised from its images and are
labelled so. The images of Figures 5 and 7 are not available. A panel is drawn only from values
that exist: where a run is missing there is no panel, and the caption says so.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from envtune.common import files, paths
from envtune.study import ablations, figures, kit
from envtune.study.experiments import LAST
from envtune.study.paper_tables import TABLE_TITLES, TABLES
from envtune.study.source_runs import (
    DIRECT_AND_FOUR,
    SPLITS,
    SourceRuns,
    finished_sweep,
    no_runs,
    published_table,
    reading,
    runs_text,
)


def _own_curves(
    found: tuple[pd.DataFrame, pd.DataFrame] | None, runs: SourceRuns, book: int, panels: int = 1
) -> str:
    """Where a sweep's curves come from, or which notebook would make them. `panels`: over how many
    of them the validation tasks are spread."""
    if not found:
        return no_runs(f"notebook {book}")
    played = found[1].loc[found[1]["kind"] == "validation", "episodes"].max() / panels
    spread = " in each panel" if panels > 1 else ""
    return (
        f"{runs_text(found[0], runs)} Accuracy curves: validation on {played:.0f} other tasks"
        f"{spread}, one sampled episode each. Bands: least to largest seed."
    )


def method_bars(results: Mapping[str, pd.DataFrame], source: str) -> Figure:
    """Accuracy by split, a bar per method: the paper's Table 1 beside one run.

    `results` maps a method to its `evaluation.evaluate(...)`.
    """
    tasks = pd.concat(results, names=["case"]).reset_index("case")
    tasks = tasks.assign(accuracy=tasks["valid"].astype(float))
    published = published_table("table1_bfcl_v3", model="Qwen2.5-7B-Instruct")
    published = published.rename(columns={"method": "case"}).loc[:, ["case", *SPLITS]]
    long = published.melt("case", var_name="split", value_name="accuracy")
    fig, [[theirs, ours]] = kit.canvas(1, 2, (7.2, 3.2), "Methods, accuracy by split", sharey=True)
    kit.bars(theirs, long.assign(accuracy=long["accuracy"] / 100), "split", "accuracy", "case")
    theirs.set_title("the paper")
    kit.bars(ours, tasks, "split", "accuracy", "case", errorbar=kit.exact95)
    ours.set_title("own run (greedy)")
    counts = sorted(set(next(iter(results.values()))["split"].value_counts()))
    return kit.finish(
        fig,
        f"Own run: {source}, n = {' to '.join(map(str, counts))} tasks per split, with 95% "
        "exact intervals, one seed.\nPaper: published values, Qwen2.5-7B-Instruct, 100 tasks per "
        "split; its 'none' is the untrained model. Not a comparison between the panels.",
    )


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


DIGITISED = "Paper: digitised, Qwen2.5-7B-Instruct, by its look one smoothed run"
HINTS = {"with_augmentation": "with hints", "without_augmentation": "without hints"}


def _four_splits(
    name: str, title: str, own: str, cases: Sequence[str], notebook: int, runs: SourceRuns
) -> Figure:
    """Figure 4: validation accuracy on each split, of two cases."""
    data = published_table(name).replace({"series": HINTS})
    stages = data.groupby("panel")["stage"].first()
    theirs = data.pivot(index=["series", "step"], columns="panel", values="accuracy")
    theirs = theirs.add_prefix("accuracy_").loc[list(cases)].reset_index()
    theirs = theirs.rename(columns={"series": "case", "step": "at"})
    found = finished_sweep(own, runs, cases)
    last = theirs.groupby("case")[[f"accuracy_{split}" for split in SPLITS]].last()
    above = (last.loc[cases[0]] > last.loc[cases[1]]).sum()
    text = (
        f"{DIGITISED}; a gap could not be read off the image. {cases[0].capitalize()} ends above "
        f"{cases[1]} on {above} of {len(SPLITS)} splits.\n"
    )
    text += _own_curves(found, runs, notebook, len(SPLITS))
    text += reading(found, *cases)
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
    """Metrics of the runs with all four stages, with a column seed; None where there is none.

    `at` counts steps over all stages.
    """
    own = paths.runs() / runs.dynamics
    if runs.own_runs_first and (own / "metrics.jsonl").exists():
        seed = files.read_json(own / "config.json", {}).get("seed", 0)
        return files.load_metrics(own).assign(seed=seed)
    kept = sorted((paths.DATA / "reference_runs").glob(f"{runs.dynamics}_seed*.parquet"))
    parts = [pd.read_parquet(file).assign(seed=file.stem.rpartition("seed")[2]) for file in kept]
    return pd.concat(parts, ignore_index=True) if parts else None


def _at_the_ends(data: pd.DataFrame, columns: Sequence[str], end: str) -> pd.DataFrame:
    """The first or last ("head", "tail") three values of each metric and seed, one of accuracy."""
    parts = {}
    for column in columns:
        validated = column == "accuracy"
        rows = data.loc[data["kind"] == ("validation" if validated else "train")]
        groups = rows.sort_values("at").groupby("seed")[column]
        parts[column] = getattr(groups, end)(1 if validated else 3)
    return pd.DataFrame(parts)


def _dynamics(title: str, columns: Sequence[str], stages: int, runs: SourceRuns) -> Figure:
    """The first `stages` stages of the runs with all four, a colour per stage."""
    data, text = dynamics(runs), f"{UNAVAILABLE} {no_runs('make bench')}"
    if data is not None:
        data = data.loc[data["stage"].isin(list(dict.fromkeys(data["stage"]))[:stages])]
        first, last = (_at_the_ends(data, columns, end).mean() for end in ("head", "tail"))
        changes = (f"{kit.label(c)} {first[c]:.2f} to {last[c]:.2f}" for c in columns)
        data = data.replace({"stage": kit.STAGE_LABELS})
        text = (
            f"{UNAVAILABLE} Own runs: {runs.model}, {runs.dynamics}, {ablations.seeds_of(data)}; "
            f"mean and range of the seeds, training curves over {kit.SMOOTH} steps. Means of "
            f"the first and last three steps (validation: first and last): {', '.join(changes)}."
        )
    return _curves(title, columns, [([""] * len(columns), data)], text, hue="stage")


def figure5a(runs: SourceRuns) -> Figure:
    """Stage 1: rewards for format and tool calls, episodes with a call, steps per episode."""
    columns = ("format_reward", "tool_call_reward", "share_with_call", "steps_per_episode")
    return _dynamics("Figure 5a: stage 1", columns, 1, runs)


def figure5b(runs: SourceRuns) -> Figure:
    """The whole curriculum: accuracy and gradient norm."""
    return _dynamics("Figure 5b: the whole curriculum", ("accuracy", "grad_norm"), 4, runs)


def _mean_by_case(curves: pd.DataFrame, column: str, kind: str, how: str) -> pd.Series:
    """Per case the mean over seeds of the largest or the last value of a metric."""
    rows = curves.loc[curves["kind"] == kind].sort_values("at")
    by_seed = rows.groupby(["case", "seed"], sort=False)[column].agg(how)
    return by_seed.groupby("case", sort=False).mean()


def figure6(runs: SourceRuns) -> Figure:
    """Single-stage GRPO: accuracy and gradient norm."""
    table = published_table("fig6_single_stage").pivot(
        index="step", columns="series", values="value"
    )
    theirs = table.rename_axis(index="at").reset_index().assign(case="direct GRPO")
    long = "direct GRPO, 3 times"
    found = finished_sweep(runs.curriculum, runs, (DIRECT_AND_FOUR[0], long))
    text = (
        f"{DIGITISED}; accuracy falls from {theirs['accuracy'].max():.2f} to "
        f"{theirs['accuracy'].dropna().iloc[-1]:.2f}.\n{_own_curves(found, runs, 12)}"
    )
    if found:
        best, last = (_mean_by_case(found[1], "accuracy", "validation", f) for f in ("max", "last"))
        text += " Validation accuracy, best and last: " + ", ".join(
            f"{case} {best[case]:.2f}, {last[case]:.2f}" for case in best.index
        )
        text += f"; largest gradient norm {found[1]['grad_norm'].max():.2f}. The longer runs begin "
        text += "as the shorter ones."
    rows = [(["the paper"] * 2, theirs), (["own runs"] * 2, found and found[1])]
    columns = ("accuracy", "grad_norm")
    return _curves("Figure 6: one stage alone (direct GRPO)", columns, rows, text, sharey="col")


def figure7(runs: SourceRuns) -> Figure:
    """KL weights: entropy and accuracy."""
    found = finished_sweep(runs.kl, runs)
    text = f"{UNAVAILABLE} Its text: without a strong KL entropy collapses.\n"
    text += _own_curves(found, runs, 15)
    curves = None
    if found:
        curves = found[1].sort_values("beta", kind="stable")
        last = found[0].sort_values("beta").groupby("case", sort=False)["last_entropy"].agg("mean")
        text += f" Entropy of the last {LAST} steps: " + ", ".join(
            f"{case} {value:.3f}" for case, value in last.items()
        )
        text += "." + reading(found, "beta 0.1", "beta 0")
    title, columns = "Figure 7: the KL weight", ("entropy", "accuracy")
    return _curves(title, columns, [(["own runs"] * 2, curves)], text)


FIGURES: dict[str, Callable[[SourceRuns], Figure]] = {
    f.__name__: f for f in (figure4a, figure4b, figure5a, figure5b, figure6, figure7)
}
"""The figures of the paper, by name."""


def draw_all(folder: Path, runs: SourceRuns | None = None) -> dict[str, Path]:
    """Draw every table and figure as PNG and PDF; returns the PNG files by name."""
    runs = runs or SourceRuns()
    titles = dict(zip(TABLES, TABLE_TITLES, strict=True))
    made = {name: kit.table(*table(runs), titles[name]) for name, table in TABLES.items()}
    return kit.save(folder, made | {name: draw(runs) for name, draw in FIGURES.items()})


def draw_learning(folder: Path) -> Path | None:
    """Draw the held-out accuracy that `make bench` measured; None where it has not been run."""
    file = paths.DATA / "reference_runs" / "learning_check.csv"
    if not file.exists():
        return None
    table = pd.read_csv(file)
    source = f"tiny-agent, preset cpu-tiny, {ablations.seeds_of(table)}"
    return kit.save(folder, {"held_out": figures.held_out_curves(table, source)})["held_out"]


TITLES = {
    "ablation_curriculum": "Does the curriculum matter, and its order?",
    "ablation_augmentation": "Hints: with, without, withdrawn",
    "ablation_augmentation_deaf": "Hints, for an agent that makes no use of them",
    "ablation_reward_3": "Progress and binary reward, tasks of three requests",
    "ablation_reward_4": "Progress and binary reward, tasks of four requests",
    "kl_sweep": "The KL weight",
    "kl_sweep_scale": "The KL weight and the reward's scale, rewards not normalised",
    "hint_robustness": "Bad hints",
    "training_tasks": "How many training tasks?",
    "collapse_search": "When does one stage alone collapse?",
}


def with_400(
    summary: pd.DataFrame, curves: pd.DataFrame, runs: SourceRuns
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sweep over numbers of training tasks, and the curriculum's "four stages" as 400 tasks."""
    if not (known := finished_sweep(runs.curriculum, runs, ["four stages"])):
        return summary, curves
    first, second = (table.assign(case="400 tasks") for table in known)
    both = (first, summary), (second, curves)
    summary, curves = (pd.concat(tables, ignore_index=True) for tables in both)
    return summary, curves


def draw_sweeps(folder: Path, runs: SourceRuns | None = None) -> dict[str, Path]:
    """Draw every finished sweep of the study; returns the PNG files by name."""
    runs = runs or SourceRuns()
    made = {}
    names = (*runs.ablations, runs.collapse)
    for name, panels in zip(names, ablations.PANELS.values(), strict=True):
        if found := finished_sweep(name, runs):
            steps = dict.fromkeys(f"{n:.0f}" for n in sorted(found[0]["steps"].dropna()))
            source = f"{runs.model}, {' or '.join(steps)} steps"
            if name == runs.training_tasks:
                found = with_400(*found, runs)
            made[name] = ablations.figure(*found, "case", panels, source, TITLES.get(name, name))
    return kit.save(folder, made)
