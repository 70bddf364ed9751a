"""The rows of a run in the shape of the paper's Table 2: one column per checkpoint.

    >>> table(rows)                          # a text a cell: "12.5 (n = 40)" or "not run"
    >>> figure(rows, "Qwen3-4B-Instruct, seed 0")

A line per task and per average, as in the paper: web search and memory are the means of their
variants, BFCL V4 the mean of these two, tau2-bench and ACEBench Agent of their tasks. An average
needs all its parts.
"""

import pandas as pd
from matplotlib.figure import Figure

from envtune.common import paths
from envtune.study import kit
from envtune.study.ood.setting import NOT_RUN

PARTS = {
    "BFCL V4": ("web search", "memory"),
    "web search": ("web_search_base", "web_search_no_snippet"),
    "memory": ("memory_kv", "memory_vector", "memory_rec_sum"),
    "tau2-bench": ("retail", "airline", "telecom"),
    "ACEBench Agent": ("agent_multi_turn", "agent_multi_step"),
}
"""Averages and what they are averages of."""
LINES = (
    *("BFCL V4", "web search", *PARTS["web search"], "memory", *PARTS["memory"]),
    *("tau2-bench", *PARTS["tau2-bench"], "ACEBench Agent", *PARTS["ACEBench Agent"]),
)
PUBLISHED = {
    "bfcl_v4_average": "BFCL V4",
    "web_search": "web search",
    "memory_recursive_summary": "memory_rec_sum",
    "tau2_average": "tau2-bench",
    "tau2_retail": "retail",
    "tau2_airline": "airline",
    "tau2_telecom": "telecom",
    "acebench_agent_average": "ACEBench Agent",
    "acebench_multi_turn": "agent_multi_turn",
    "acebench_multi_step": "agent_multi_step",
}
"""Columns of the committed files, and the lines of the table that have another name."""
UNPUBLISHED = "not published"


def published(model: str = "Llama-3.1-8B-Instruct") -> pd.DataFrame:
    """The paper's numbers [percent] for a model: lines of the table, a column per method."""
    folder, keys = paths.DATA / "paper", ["model", "method"]
    whole = pd.read_csv(folder / "table2_ood.csv")
    detail = pd.read_csv(folder / "table2_ood_bfcl_v4_detail.csv")
    both = whole.merge(detail.drop(columns=["web_search_average", "memory_average"]), "left", keys)
    if model not in set(both["model"]):
        known = ", ".join(dict.fromkeys(both["model"]))
        raise ValueError(f"the paper's Table 2 has {known}; got {model!r}")
    chosen = both.loc[both["model"] == model].set_index("method")
    chosen = chosen.rename(columns=PUBLISHED).T.reindex(LINES).astype(float)
    return chosen.rename(columns=lambda method: f"paper: {model}, {method}")


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Our scores [percent] by line and checkpoint, averages included; missing where not run."""
    columns = list(dict.fromkeys(rows["checkpoint"])) if len(rows) else []
    if not columns:
        return pd.DataFrame(index=pd.Index(LINES))
    own = rows.pivot(index="task", columns="checkpoint", values="score")
    own = own.reindex(index=LINES, columns=columns).astype(float)
    for name in reversed(PARTS):  # BFCL V4 after its parts
        own.loc[name] = own.loc[list(PARTS[name])].mean(skipna=False)
    return own


def table(rows: pd.DataFrame, paper_model: str = "Llama-3.1-8B-Instruct") -> pd.DataFrame:
    """The table as text: the paper's columns, then one per checkpoint, with n per task."""
    paper, own = published(paper_model), scores(rows)
    shown = paper.map(lambda value: UNPUBLISHED if pd.isna(value) else f"{value:.2f}")
    counts = rows.set_index(["task", "checkpoint"])["n"].to_dict() if len(rows) else {}

    def cell(line: str, column: str) -> str:
        value = own.at[line, column]
        if pd.isna(value):
            parts = [*PARTS.get(line, ())]
            some = own.loc[[p for part in parts for p in (*PARTS.get(part, ()), part)], column]
            return "incomplete" if some.notna().any() else NOT_RUN
        n = counts.get((line, column))  # an average has none
        return f"{value:.2f} (n = {n})" if n else f"{value:.2f}"

    for column in own:
        shown[column] = [cell(line, str(column)) for line in LINES]
    return shown.rename_axis("accuracy [%]")


def not_run(rows: pd.DataFrame) -> pd.DataFrame:
    """What did not run, and why."""
    missing = rows.loc[rows["state"] == NOT_RUN, ["checkpoint", "harness", "task", "why"]]
    return missing.reset_index(drop=True)


def figure(
    rows: pd.DataFrame,
    source: str,
    paper_model: str = "Llama-3.1-8B-Instruct",
) -> Figure:
    """The averages as bars, the paper's beside ours; what is missing has no bar.

    source: what the checkpoints are.
    """
    fig, [[ax]] = kit.canvas(1, 1, (7.2, 3.2), "Out of distribution")
    own = scores(rows).dropna(axis="columns", how="all").add_prefix("own: ")
    paper = published(paper_model).rename(columns=lambda name: f"paper: {name.rpartition(', ')[2]}")
    both = paper.join(own).loc[list(PARTS)]
    long = both.rename_axis("task").reset_index().melt("task", var_name="column")
    kit.bars(ax, long.assign(value=long["value"] / 100), "task", "value", "column")
    ran = rows["state"].ne(NOT_RUN).sum() if len(rows) else 0
    text = f"{source}; {ran} of {len(rows)} tasks ran" if len(rows) else "none was run"
    return kit.finish(
        fig, f"The paper: published averages, {paper_model}.\nOwn checkpoints: {text}."
    )
