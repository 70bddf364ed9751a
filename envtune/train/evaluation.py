"""Evaluation as BFCL does it: 20 steps per turn, BFCL's checker, accuracy with an interval.

    >>> results = evaluate(policy_folder, splits.load_splits().test, presets.CPU_TINY)
    >>> accuracy_by_split(results)          # split, n, accuracy, low, high

A task counts only if BFCL's multi_turn_checker says valid (as in the paper). Feedback is
standard: no hints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from envtune import bfcl
from envtune.bfcl import splits, synthetic
from envtune.common.stats import clustered, sign_test, wilson
from envtune.env import recovery, rewards
from envtune.record import EpisodeRecord
from envtune.train.playing import play
from envtune.train.presets import Preset


def result_row(record: EpisodeRecord) -> dict:
    """One evaluated episode as a row; `errors` and `recovered` as in recovery.py.

    unseen: what is new in a synthetic task, see synthetic.novelty.
    """
    events, made_up = recovery.errors([record]), record.task_id.startswith("synthetic_")
    return {
        "task_id": record.task_id,
        "split": bfcl.load_task(record.task_id).split,
        "unseen": synthetic.novelty(record.task_id) if made_up else "",
        "valid": bfcl.official_valid(record),
        "progress": rewards.progress_reward(record),
        "format_reward": rewards.format_reward(record),
        "steps": len(record.steps),
        "ending": str(record.ending),
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
    policy: Path | str,
    task_ids: Sequence[str],
    preset: Preset,
    seed: int = 0,
    batch_size: int = 200,
) -> pd.DataFrame:
    """`evaluate` greedily and sampled, with a column `way`: one may rise and the other fall."""
    settings = {"seed": seed, "batch_size": batch_size}
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
        mean, low, high = clustered(
            list(group["valid"]), list(map(splits.scenario_of, group["task_id"]))
        )
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


def accuracy_by_split(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by split and over all tasks.

    Columns split, n, accuracy, low, high (95%, Wilson), progress, errors (a count), recovery (the
    recovered share of them, NaN without an error). Synthetic test tasks with unseen phrasings or
    unseen names have rows of their own.
    """
    groups = list(results.groupby("split", sort=False))
    if "unseen" in results:
        unseen = results[results["unseen"].isin(["phrasings", "names"])]
        groups += [(f"unseen_{what}", group) for what, group in unseen.groupby("unseen")]
    rows = []
    for split, group in [*groups, ("all", results)]:
        low, high = wilson(int(group["valid"].sum()), len(group))
        errors = int(group["errors"].sum())
        rows.append(
            {
                "split": split,
                "n": len(group),
                "accuracy": group["valid"].mean(),
                "low": low,
                "high": high,
                "progress": group["progress"].mean(),
                "errors": errors,
                "recovery": group["recovered"].sum() / errors if errors else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def verdict(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One sentence on two evaluations of the same tasks: better, worse or equal, and is it chance?

    Chance: a sign test over the tasks whose result changed. ValueError when the tasks differ.
    """
    pairs = before.merge(after, on="task_id", suffixes=("_before", "_after"), validate="one_to_one")
    if len(pairs) != len(before) or len(pairs) != len(after):
        raise ValueError(
            f"expected two evaluations of the same tasks, got {len(before)} and {len(after)} "
            f"tasks, {len(pairs)} in both"
        )
    won, lost, p = sign_test(pairs["valid_after"].astype(int) - pairs["valid_before"].astype(int))
    what, chance = "No better and no worse than before", ""
    if won != lost:
        what = "Better than before" if won > lost else "**Worse than before**"
        number = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
        explained = "more than chance explains" if p < 0.05 else "chance explains as much"
        chance = f", {number}: {explained}"
    return (
        f"{what}: {before['valid'].sum()} of {len(pairs)} tasks valid before, "
        f"{after['valid'].sum()} after ({won} won, {lost} lost{chance})."
    )
