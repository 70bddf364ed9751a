"""The paper's tables with ours below: cells as text, and a caption.

>>> cells, text = TABLES["table3"](SourceRuns())

The paper's values are exact. Where a run is missing the caption says so.
"""

from collections.abc import Callable, Mapping

import pandas as pd

from envtune.study import ablations, kit
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

TABLE_COLUMNS = {
    "average": "all",
    **{split: label.replace("\n", " ") for split, label in kit.SPLIT_LABELS.items()},
}
Table = tuple[pd.DataFrame, str]  # cells as text, and where they come from


def _theirs(name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """A published table [percent] as text: a row per (model, method), our headings."""
    rows = published_table(name).rename(columns={"method": "training"})
    rows = rows.set_index(["model", "training"])
    return rows.loc[:, [*columns]].set_axis([*columns.values()], axis=1).map("{:.2f}".format)


def _ours(rows: pd.DataFrame, how: str) -> pd.DataFrame:
    """Mean accuracy of each case [percent], with its lowest and highest seed, in the same shape."""
    columns = ["accuracy", *(f"accuracy_{split}" for split in SPLITS)]
    groups = 100 * rows.set_index("case")[columns]
    mean, least, most = (groups.groupby("case", sort=False).agg(f) for f in ("mean", "min", "max"))
    several = len(set(rows["seed"])) > 1
    cells = {
        name: [
            f"{m:.1f}" + f" ({low:.0f}-{high:.0f})" * several
            for m, low, high in zip(mean[column], least[column], most[column], strict=True)
        ]
        for name, column in zip(TABLE_COLUMNS.values(), columns, strict=True)
    }
    index = pd.MultiIndex.from_product([[f"own runs ({how})"], mean.index])
    return pd.DataFrame(cells, index=index)


def _stacked(theirs: pd.DataFrame, ours: pd.DataFrame | None) -> pd.DataFrame:
    both = theirs if ours is None else pd.concat([theirs, ours])
    return both.rename_axis(index=["model", "training"])


PERCENT = "Accuracy [%]. The paper: published values, 100 tasks per split."


def table1(runs: SourceRuns) -> Table:
    """In-distribution: the paper's models and methods, and ours.

    Our runs are those of notebook 08; direct GRPO and the four stages come from the curriculum's
    sweep.
    """
    own, text = None, no_runs("notebook 08, over seeds")
    if found := finished_sweep(runs.baselines, runs):
        rows = found[0]
        if other := finished_sweep(runs.curriculum, runs, DIRECT_AND_FOUR):
            rows = pd.concat([rows, other[0]])
        own = _ours(rows, "greedy")
        cases = [case for case in dict.fromkeys(rows["case"]) if case != "four stages"]
        text = f"{runs_text(rows, runs)} In brackets: lowest and highest seed."
        text += reading((rows, rows), "four stages", *cases)
    return _stacked(_theirs("table1_bfcl_v3", TABLE_COLUMNS), own), f"{PERCENT}\n{text}"


def table2(runs: SourceRuns) -> Table:
    """Out of distribution: the paper's values only; notebook 11 makes runs of one's own."""
    columns = {
        "bfcl_v4_average": "BFCL V4",
        "web_search": "web search",
        "memory": "memory",
        "tau2_average": "tau2",
        "tau2_retail": "retail",
        "tau2_airline": "airline",
        "tau2_telecom": "telecom",
        "acebench_agent_average": "ACEBench",
        "acebench_multi_turn": "turns",
        "acebench_multi_step": "steps",
    }
    text = (
        "Scores [%], published. BFCL V4, tau2-bench and ACEBench Agent with their parts.\n"
        "Own runs: none here; notebook 11 or `python -m envtune ood` makes them."
    )
    return _stacked(_theirs("table2_ood", columns), None), text


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
    table = pd.concat(rows)
    return table.assign(case=pd.Categorical(table["case"], STEPS_OF_TABLE3)).sort_values("case")


def table3(runs: SourceRuns) -> Table:
    """Stage by stage and direct GRPO."""
    own, text = None, no_runs("notebook 12")
    if found := finished_sweep(runs.curriculum, runs, DIRECT_AND_FOUR):
        rows = after_each_stage(found[1])
        own = _ours(rows.astype({"case": str}), "validation, sampled")
        text = (
            f"Own runs: {runs.model}; validations (a sampled episode per task) of "
            f"{rows['seed'].nunique()} curricula and of direct GRPO, {ablations.seeds_of(rows)}, "
            f"n = {int(rows['episodes'].iloc[0])} tasks per seed, BFCL's checker. In brackets: "
            "lowest and highest seed." + reading(found, "four stages", "direct GRPO")
        )
    return _stacked(_theirs("table3_curriculum", TABLE_COLUMNS), own), f"{PERCENT}\n{text}"


TABLES: dict[str, Callable[[SourceRuns], Table]] = {f.__name__: f for f in (table1, table2, table3)}
"""The tables of the paper, by name."""
TABLE_TITLES = (
    "Table 1: in-distribution, BFCL V3 multi-turn",
    "Table 2: out of distribution",
    "Table 3: the curriculum against one stage",
)
