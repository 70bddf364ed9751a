"""Why a run becomes better: how often the agent shows each habit, step by step of its training.

>>> counts = habits_of_run(paths.runs() / "quickstart")   # from episodes.jsonl.gz
>>> rates(counts, by=["stage"])                           # habit, n, share

A habit is counted where it could have shown: `asks` over turns in which a value or a tool is
missing, `gives_up` over steps whose call failed. HABITS says what each is; they are the ones that
the embedded agent was given (docs/agent.md), seen from outside, so any policy has them.
"""

import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

from envtune import bfcl, hints
from envtune.common import paths
from envtune.common.files import atomic, load_metrics
from envtune.record import EpisodeRecord, Outcome, read_tagged
from envtune.study import kit

HABITS = {
    "breaks_format": "messages that break the format",
    "skips": "turns with a call whose prerequisite was skipped",
    "recovers": "failed calls put right, no hint shown",
    "recovers_hinted": "failed calls put right, hint shown",
    "gives_up": "failed steps after which the turn is answered",
    "asks": "turns with something missing that are asked about",
    "tired": "turns that need calls and see none, from the third on",
    "careless": "turns lost without a failed call",
}
"""Name and meaning of each share."""
AT_THE_END = {
    "valid": "tasks solved",
    "failing": "tasks with a failed call",
    "put_right": "failed calls put right",
    "cut": "tasks lost to a limit of steps or tokens",
}
CUT = ("step limit", "length")
PREREQUISITES = ("dependency_missing", "state_prerequisite")
COLUMNS = ("stage", "step", "habit", "shown", "of")


def habits_of(record: EpisodeRecord) -> Iterable[tuple[str, bool]]:
    """(habit, whether it showed), once for every occasion in an episode."""
    task = bfcl.load_task(record.task_id)
    won = {verdict.turn: verdict.success for verdict in record.verdicts}
    for step in record.steps:
        yield "breaks_format", step.outcome is Outcome.FORMAT_ERROR
    for turn, played in _turns(record):
        calls = [step for step in played if step.calls]
        if not task.ground_truth[turn]:
            yield "asks", not calls
            continue
        if turn >= 2 and turn in won:
            yield "tired", not calls
        failed, skipped = False, False
        for number, step in enumerate(played):
            errors = [
                (call, result, hint is not None)
                for call, result, hint in zip(step.calls, step.results, step.hints, strict=False)
                if hints.is_error(result)
            ]
            for call, result, hinted in errors:
                known = hints.match(task.classes, call, hints.is_error(result))
                skipped |= known is not None and known.category in PREREQUISITES
                later = _next(call.name, played[number + 1 :])
                yield "recovers_hinted" if hinted else "recovers", later
            if errors:
                failed = True
                if number + 1 < len(played):
                    yield "gives_up", played[number + 1].outcome is Outcome.ANSWER
        if calls:
            yield "skips", skipped
        if turn in won and not failed:
            yield "careless", not won[turn]


def _turns(record: EpisodeRecord) -> Iterable[tuple[int, list]]:
    for turn in range(record.turns):
        if played := [step for step in record.steps if step.turn == turn]:
            yield turn, played


def _next(tool: str, later: Sequence) -> bool:
    """Whether the next call of a tool in the turn succeeds; no call is no success."""
    for step in later:
        for call, result in zip(step.calls, step.results, strict=False):
            if call.name == tool:
                return not hints.is_error(result)
    return False


def habits_of_run(folder: Path) -> pd.DataFrame:
    """COLUMNS, a row per step and habit of a run's training episodes: how often of how many.

    Kept in the run folder as habits.parquet, and counted again when the run has gone on.
    """
    kept, episodes = folder / "habits.parquet", folder / "episodes.jsonl.gz"
    if kept.exists() and not (
        episodes.exists() and episodes.stat().st_mtime > kept.stat().st_mtime
    ):
        return pd.read_parquet(kept)
    counts: dict[tuple, list[int]] = {}
    for line, record in read_tagged(episodes, lambda line: line.get("kind") == "train"):
        for habit, showed in habits_of(record):
            entry = counts.setdefault((line["stage"], line["step"], habit), [0, 0])
            entry[0] += showed
            entry[1] += 1
    rows = [(*key, *entry) for key, entry in counts.items()]
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    with atomic(kept) as unfinished:
        found.to_parquet(unfinished, index=False)
    return found


def rates(counts: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, habit, n and share: counts added up over everything else."""
    groups = counts.groupby([*by, "habit"], sort=False)[["shown", "of"]]
    table = groups.agg("sum").reset_index().rename(columns={"of": "n"})
    return table.assign(share=table["shown"] / table["n"]).drop(columns="shown")


def of_sweep(name: str, own_runs_first: bool = True) -> pd.DataFrame:
    """Habits of a sweep's finished runs: COLUMNS, `at` (the step over all stages), case and seed.

    From the runs in runs/ with `own_runs_first`, else the committed counts (habits.parquet beside
    the sweep's tables).
    FileNotFoundError where there are neither.
    """

    def read(file: Path) -> pd.DataFrame:
        places = load_metrics(file.parent, kinds=("train",))[["stage", "step", "at"]]
        return habits_of_run(file.parent).merge(places, on=["stage", "step"])

    return _of_runs(name, "habits.parquet", "metrics.jsonl", read, own_runs_first)


def evaluations(name: str, own_runs_first: bool = True) -> pd.DataFrame:
    """What the last policies of a sweep did on the test tasks: a row per run and task.

    The columns of evaluation.csv (valid, failure, errors: calls that failed, recovered: those put
    right, ...), case and seed. From the runs in runs/ with `own_runs_first`, else the committed
    evaluation.parquet. FileNotFoundError where there are neither.
    """
    return _of_runs(name, "evaluation.parquet", "evaluation.csv", pd.read_csv, own_runs_first)


def _of_runs(
    name: str, kept: str, file: str, read: Callable[[Path], pd.DataFrame], own_runs_first: bool
) -> pd.DataFrame:
    """What `read` makes of that file of each finished run of a sweep, else the committed table."""
    committed, table = paths.DATA / "reference_runs" / name / kept, paths.runs() / name
    if own_runs_first and (table / "summary.parquet").exists():
        done = pd.read_parquet(table / "summary.parquet").drop_duplicates("run")
        done = done.loc[done["state"] == "done", ["run", "case", "seed"]]
        parts = [
            read(paths.runs() / run["run"] / file).assign(**run)
            for run in tqdm(
                done.to_dict("records"), desc=name, disable="ENVTUNE_PROGRESS" in os.environ
            )
            if (paths.runs() / run["run"] / file).exists()
        ]
        if parts:
            return pd.concat(parts, ignore_index=True)
    if not committed.exists():
        raise FileNotFoundError(
            f"there is no {kept} in data/reference_runs/{name}/"
            + f" and no finished run of that sweep in {paths.runs().name}/" * own_runs_first
            + "; run its notebook first"
        )
    return pd.read_parquet(committed)


def at_the_end(played: pd.DataFrame) -> pd.DataFrame:
    """Of `evaluations`, a row per case: shares, means over its seeds with the least and largest."""
    played = played.assign(failing=played["errors"] > 0, cut=played["failure"].isin(CUT))
    groups = played.groupby(["case", "seed"], sort=False)
    calls = groups[["recovered", "errors"]].agg("sum")
    shares = groups[["valid", "failing", "cut"]].agg("mean")
    shares = shares.assign(put_right=calls["recovered"] / calls["errors"])

    def spread(share: pd.Series) -> str:
        if share.isna().all():
            return "none"
        return f"{share.mean():.0%} ({share.min():.0%} to {share.max():.0%})"

    table = shares.loc[:, [*AT_THE_END]].rename(columns=AT_THE_END)
    return table.groupby("case", sort=False).agg(spread)


def panel(
    ax, counts: pd.DataFrame, cases: Sequence[str], habit: str, width: int, legend: bool | str
) -> None:
    """The share of a habit over training, every `width` steps together, in one panel."""
    counts = counts.loc[counts["case"].isin(cases) & (counts["habit"] == habit)]
    counts = counts.assign(at=(counts["at"] - 1) // width * width + width / 2)
    table = rates(counts, by=["case", "seed", "at"])
    kit.lines(ax, table, "share", "case", cases, errorbar=("pi", 100), legend=legend, marker="o")
    ax.set(xlabel="step")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def figure(
    counts: pd.DataFrame, cases: Sequence[str], habits: Sequence[str], width: int, source: str
) -> Figure:
    """The share of each habit over training, a panel each: the mean of the seeds and their range.

    width: steps that are counted together for a point [steps].
    """
    counts = counts.loc[counts["case"].isin(cases)]
    columns = min(4, len(habits))
    rows = -(-len(habits) // columns)
    fig, axes = kit.canvas(rows, columns, (2.6 * columns, 0.6 + 2.3 * rows), sharex=True)
    for ax in axes.flat[len(habits) :]:
        ax.set_axis_off()
    for ax, habit in zip(axes.flat, habits, strict=False):
        panel(ax, counts, cases, habit, width, legend=False)
        ax.set_title("\n".join(textwrap.wrap(HABITS[habit], 30)), fontsize=8)
        ax.set(ylim=(0, 1.02), ylabel="")
    shades = kit.colours(cases)
    marks = [Line2D([], [], color=shades[case], label=case) for case in cases]
    fig.legend(handles=marks, loc="outside upper center", ncols=len(cases), fontsize=8)
    seeds = counts["seed"].nunique()
    return kit.finish(
        fig,
        f"{source}, {seeds} seeds; training episodes (sampled), {width} steps a point; bands: "
        "least to largest seed. A case trains on its own tasks, stage by stage.",
    )
