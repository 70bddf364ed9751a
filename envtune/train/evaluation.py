"""Evaluation as BFCL does it: 20 steps per turn, BFCL's checker, accuracy with an interval.

    >>> results = evaluate(policy_folder, splits.load_splits().test, presets.CPU_TINY)
    >>> accuracy_by_split(results)          # split, n, accuracy, low, high
    >>> compare(before, after)              # Difference(mean, low, high, error, p_value, ...)

A task counts only if BFCL's multi_turn_checker says valid (as in the paper). Feedback is
standard: no hints. Every interval takes the scenario as its unit, crossed with the repeats where a
task was played more than once.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from envtune import bfcl
from envtune.bfcl import splits, synthetic
from envtune.common import paths, stats
from envtune.common.stats import Difference, Estimate
from envtune.env import recovery, rewards
from envtune.env.failures import failure
from envtune.record import EpisodeRecord
from envtune.train.playing import play
from envtune.train.presets import Preset


def result_row(record: EpisodeRecord) -> dict:
    """One evaluated episode as a row; `errors` and `recovered` as in recovery.py.

    unseen: what is new in a synthetic task, see synthetic.novelty.
    failure: one of failures.FAILURES, "" for a valid episode.
    turns: a letter a turn: w won, l lost, - not reached.
    """
    events, made_up = recovery.errors([record]), record.task_id.startswith("synthetic_")
    valid = bfcl.official_valid(record)
    judged = {verdict.turn: "w" if verdict.success else "l" for verdict in record.verdicts}
    return {
        "task_id": record.task_id,
        "split": bfcl.load_task(record.task_id).split,
        "unseen": synthetic.novelty(record.task_id) if made_up else "",
        "valid": valid,
        "progress": rewards.progress_reward(record),
        "format_reward": rewards.format_reward(record),
        "steps": len(record.steps),
        "ending": str(record.ending),
        "failure": "" if valid else failure(record),
        "turns": "".join(judged.get(turn, "-") for turn in range(record.turns)),
        "errors": len(events),
        "recovered": sum(events["recovered"]),
    }


def evaluate(
    policy: Path | str, task_ids: Sequence[str], preset: Preset, **settings
) -> pd.DataFrame:
    """`play` as a table, one `result_row` per task; `settings` are those of `play`."""
    return pd.DataFrame(
        [result_row(record) for record in play(policy, task_ids, preset, **settings)]
    )


WAYS = {"greedy": 0.0, "sampled": 1.0}
"""How a policy is played: always its likeliest token, or sampled as in training."""


def both_ways(
    policy: Path | str, task_ids: Sequence[str], preset: Preset, seed: int = 0
) -> pd.DataFrame:
    """`evaluate` greedily and sampled, with a column `way`: one may rise and the other fall."""
    settings = {"seed": seed, "batch_size": 200}
    tables = [
        evaluate(policy, task_ids, preset, temperature=temperature, **settings).assign(way=way)
        for way, temperature in WAYS.items()
    ]
    return pd.concat(tables, ignore_index=True)


def by_way(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of a `both_ways` table, greedy and sampled.

    Columns way, n, accuracy, low, high (95%, clustered by scenario), format_reward, progress.
    """
    rows = []
    for way, group in results.groupby("way", sort=False):
        mean, low, high, _ = accuracy(group)
        row = {"way": way, "n": len(group), "accuracy": mean, "low": low, "high": high}
        rows.append(row | group[["format_reward", "progress"]].mean().to_dict())
    return pd.DataFrame(rows)


def after_stages(measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`by_way` of a run's policies, the start first, with a column `after`.

    measured: name -> `both_ways` table of the same tasks.
    """
    tables = [by_way(results).assign(after=name) for name, results in measured.items()]
    return pd.concat(tables, ignore_index=True)


def held_out_summary(table: pd.DataFrame, seconds: float) -> dict:
    """The content of a run's summary.json, from an `after_stages` table.

    Accuracies [0..1], greedy and sampled, before and after training and after each stage; seconds.
    """
    found = []
    for name, part in table.groupby("after", sort=False):
        ways = zip(part["way"], part["accuracy"], strict=True)
        found.append({"stage": name, **{way: round(accuracy, 4) for way, accuracy in ways}})
    ends = [{way: policy[way] for way in WAYS} for policy in (found[0], found[-1])]
    return {
        "held_out": {"n": int(table["n"].iloc[0]), "before": ends[0], "after": ends[1]},
        "stages": found[1:],
        "seconds": round(seconds, 1),
    }


def accuracy(results: pd.DataFrame) -> Estimate:
    """The share of valid episodes, clustered by scenario and crossed with `repeat` if there is one.

    Splits have one task of each scenario, so for them tasks are the units.
    """
    scenarios = list(map(splits.scenario_of, results["task_id"]))
    return stats.share(list(results["valid"].astype(float)), scenarios, results.get("repeat"))


def accuracy_by_split(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by split and over all tasks.

    Columns split, n, accuracy, low, high (95%, see `accuracy`), progress, errors (a count),
    recovery (the recovered share of them, NaN without an error). Synthetic test tasks with unseen
    phrasings or unseen names have rows of their own.
    """
    groups = list(results.groupby("split", sort=False))
    if "unseen" in results:
        unseen = results[results["unseen"].isin(["phrasings", "names"])]
        groups += [(f"unseen_{what}", group) for what, group in unseen.groupby("unseen")]
    rows = []
    for split, group in [*groups, ("all", results)]:
        mean, low, high, _ = accuracy(group)
        errors = int(group["errors"].sum())
        rows.append(
            {
                "split": split,
                "n": len(group),
                "accuracy": mean,
                "low": low,
                "high": high,
                "progress": group["progress"].mean(),
                "errors": errors,
                "recovery": group["recovered"].sum() / errors if errors else float("nan"),
            }
        )
    return pd.DataFrame(rows)


@cache
def known_errors() -> pd.DataFrame:
    """data/bfcl_known_errors.csv: tasks of BFCL whose ground truth is wrong, with a reason each."""
    return pd.read_csv(paths.DATA / "bfcl_known_errors.csv")


def subsets(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The sets whose accuracy is always told: all tasks; of BFCL's test tasks also those without a
    known error in the ground truth, and those that no choice saw."""
    found, tasks = {"all": results}, results["task_id"]
    if tasks.isin(bfcl.load_tasks()).to_numpy().any():
        known = tasks.isin(known_errors()["task_id"])
        if not known.to_numpy().all():
            found["without known errors"] = results.loc[~known]
        unseen = splits.load_splits().test_unseen
        if 0 < tasks.isin(unseen).to_numpy().sum() < len(results):
            found["no choice saw"] = results.loc[tasks.isin(unseen)]
    return found


def breakdown(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every subset, split, domain and turn.

    Columns by, group, n (episodes), accuracy, low, high, error (standard error). A task counts in
    each of its domains; a turn is judged by its verdict, and one that was not reached is lost.
    """
    domains = results.assign(group=[bfcl.load_task(t).classes for t in results["task_id"]])
    turns = [
        results[results["turns"].str.len() > turn].assign(
            valid=lambda part, turn=turn: part["turns"].str[turn] == "w"
        )
        for turn in range(max(map(len, results["turns"])))
    ]
    parts = [
        *(("set", name, part) for name, part in subsets(results).items()),
        *(("split", name, part) for name, part in results.groupby("split", sort=False)),
        *(("domain", name, part) for name, part in domains.explode("group").groupby("group")),
        *(("turn", str(number), part) for number, part in enumerate(turns, 1)),
    ]
    rows = [(by, name, len(part), *accuracy(part)) for by, name, part in parts if len(part)]
    return pd.DataFrame(rows, columns=["by", "group", "n", "accuracy", "low", "high", "error"])


def passes(results: pd.DataFrame) -> pd.DataFrame:
    """pass@k and pass^k for every k up to the number of runs of a task, clustered by scenario.

    Columns k, pass_at_k, at_low, at_high, pass_hat_k, hat_low, hat_high. With k = 1 both are the
    accuracy, and so is the interval; for more runs it is for new scenarios, not for new runs.
    """
    by_task = results.groupby("task_id", sort=False)["valid"].agg(["size", "sum"])
    scenarios, rows = list(map(splits.scenario_of, by_task.index)), []
    for k in range(1, min(by_task["size"]) + 1):
        row: dict[str, float] = {"k": k}
        for name, short, chance in (
            ("pass_at_k", "at", stats.pass_at_k),
            ("pass_hat_k", "hat", stats.pass_hat_k),
        ):
            pairs = zip(by_task["size"], by_task["sum"], strict=True)
            values = [chance(int(n), int(right), k) for n, right in pairs]
            made = accuracy(results) if k == 1 else stats.share(values, scenarios)
            row[name], row[f"{short}_low"], row[f"{short}_high"], _ = made
        rows.append(row)
    return pd.DataFrame(rows)


def recovered(results: pd.DataFrame) -> Estimate | None:
    """The recovered share of the errors, clustered by scenario and crossed with `repeat` if there
    is one; None without an error."""
    values, scenarios, repeats = [], [], []
    for row in results.to_dict("records"):
        values += [1] * row["recovered"] + [0] * (row["errors"] - row["recovered"])
        scenarios += [splits.scenario_of(row["task_id"])] * row["errors"]
        repeats += [row.get("repeat", 0)] * row["errors"]
    return stats.share(values, scenarios, repeats) if values else None


def compare(before: pd.DataFrame, after: pd.DataFrame) -> Difference:
    """Accuracy of `after` minus that of `before`, paired by task, clustered by scenario.

    Repeats of the same number are paired and crossed with the scenarios, else a task's mean counts.
    ValueError when the tasks differ.
    """
    keys = ["task_id", "repeat"]
    means: list[Any] = []
    if any("repeat" not in table for table in (before, after)) or set(before["repeat"]) != set(
        after["repeat"]
    ):
        keys = ["task_id"]
    for table in (before, after):
        grouped: Any = table.groupby(keys)["valid"].mean()
        means.append(grouped.sort_index())
    if not means[0].index.equals(means[1].index):
        refuse_other_tasks(set(before["task_id"]), set(after["task_id"]))
        raise ValueError("expected two evaluations with the same repeats of every task")
    change = (means[1] - means[0]).reset_index()
    scenarios = list(map(splits.scenario_of, change["task_id"]))
    return stats.paired(list(change["valid"]), scenarios, change.get("repeat"))


def refuse_other_tasks(before: set[str], after: set[str]) -> None:
    """ValueError unless two evaluations are of the same tasks."""
    if before != after:
        raise ValueError(
            f"expected two evaluations of the same tasks, got {len(before)} and {len(after)} "
            f"tasks, {len(before & after)} in both"
        )


def verdict(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One sentence on two evaluations of the same tasks: better, worse or equal, and is it chance?

    Chance: `compare`, which flips whole scenarios. ValueError when the tasks differ.
    """
    found = compare(before, after)
    pairs = before.merge(after, on="task_id", suffixes=("_before", "_after"), validate="one_to_one")
    results = list(zip(pairs["valid_before"], pairs["valid_after"], strict=True))
    won = sum(not earlier and bool(later) for earlier, later in results)
    lost = sum(bool(earlier) and not later for earlier, later in results)
    what, chance = "No better and no worse than before", ""
    if won != lost:
        what = "Better than before" if won > lost else "**Worse than before**"
        number = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
        explained = (
            "more than chance explains" if found.p_value < 0.05 else ("chance explains as much")
        )
        chance = f", {number}: {explained}"
    return (
        f"{what}: {before['valid'].sum()} of {len(pairs)} tasks valid before, "
        f"{after['valid'].sum()} after ({won} won, {lost} lost{chance})."
    )
