"""Evaluation as BFCL does it: 20 steps a turn, BFCL's checker, per-split accuracy with an interval and n.

    >>> results = evaluate(policy_folder, splits.load_splits().test, presets.CPU_TINY)
    >>> accuracy_by_split(results)          # split, n, accuracy, low, high

A task counts only if BFCL's multi_turn_checker says valid (PAPER: evaluation). Feedback is standard: no hints.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import set_seed

from envtune import bfcl
from envtune.bfcl import splits, synthetic
from envtune.common import progress
from envtune.common.stats import clustered, sign_test, wilson
from envtune.env import recovery, rewards
from envtune.env.episode import EVALUATION, Episode
from envtune.policy import rollout, sampler
from envtune.record import EpisodeRecord
from envtune.train.presets import Preset


def result_row(record: EpisodeRecord) -> dict:
    """One evaluated episode as a table row; `errors` and `recovered` as in recovery.py, `unseen` as in synthetic.novelty."""
    events = recovery.errors([record])
    return {
        "task_id": record.task_id,
        "split": bfcl.load_task(record.task_id).split,
        "unseen": synthetic.novelty(record.task_id)
        if record.task_id.startswith("synthetic_")
        else "",
        "valid": bfcl.official_valid(record),
        "progress": rewards.progress_reward(record),
        "format_reward": rewards.format_reward(record),
        "steps": len(record.steps),
        "ending": str(record.ending),
        "errors": len(events),
        "recovered": int(events["recovered"].sum()),
    }


def play(
    policy: Path | str,
    task_ids: Sequence[str],
    preset: Preset,
    rules: bool = True,
    temperature: float = 0.0,
    seed: int = 0,
    completion_tokens: int = 24_576,
    batch_size: int | None = None,
) -> list[EpisodeRecord]:
    """Every task once with the policy of a folder or hub id, under BFCL's limits, as records in the order of the tasks.

    Temperature 0 is greedy and repeats exactly. `batch_size` episodes are played at once (None: 32, or more where the preset trains on
    more at once); `completion_tokens` is the length of an episode where the preset names none. ValueError when there is no task.
    """
    if not task_ids:
        raise ValueError("evaluation needs at least one task id, got none")
    set_seed(seed)
    model, tokenizer = sampler.load_policy(
        policy, preset.bf16, preset.four_bit, "cuda" if torch.cuda.is_available() else "cpu"
    )
    chat = rollout.Chat(tokenizer)
    generate = sampler.Sampler(model, tokenizer, preset.message_tokens, temperature, sampler.WAIT)
    batch_size = batch_size or max(32, preset.device_batch)
    records: list[EpisodeRecord] = []
    with progress.bar(len(task_ids), "evaluating", "task") as bar:
        for start in range(0, len(task_ids), batch_size):
            episodes = [
                Episode(bfcl.load_task(t), EVALUATION, seed=seed, rules=rules, **preset.episode)
                for t in task_ids[start : start + batch_size]
            ]
            done = rollout.play(
                episodes,
                chat,
                generate,
                preset.completion_tokens or completion_tokens,
                preset.message_tokens,
            )
            records += [r.record for r in done]
            bar.update(len(done))
            progress.report(len(records), len(task_ids))
    return records


def evaluate(
    policy: Path | str, task_ids: Sequence[str], preset: Preset, **settings
) -> pd.DataFrame:
    """The same as a table, a row a task (see `result_row`); `settings` are those of `play`."""
    return pd.DataFrame(
        [result_row(record) for record in play(policy, task_ids, preset, **settings)]
    )


WAYS = {"greedy": 0.0, "sampled": 1.0}
"""How a policy is played: its likeliest words, or words drawn as in training."""


def both_ways(
    policy: Path | str,
    task_ids: Sequence[str],
    preset: Preset,
    seed: int = 0,
    batch_size: int = 200,
) -> pd.DataFrame:
    """`evaluate` greedily and sampled, with a column `way`: a policy can gain in one and lose in the other."""
    return pd.concat(
        [
            evaluate(
                policy, task_ids, preset, temperature=temperature, seed=seed, batch_size=batch_size
            ).assign(way=way)
            for way, temperature in WAYS.items()
        ],
        ignore_index=True,
    )


def by_way(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of a `both_ways` table: way, n, accuracy, low, high (95%, clustered by scenario), format_reward, progress."""
    rows = []
    for way, group in results.groupby("way", sort=False):
        mean, low, high = clustered(
            group["valid"], [splits.scenario_of(task) for task in group["task_id"]]
        )
        rows.append(
            {
                "way": way,
                "n": len(group),
                "accuracy": mean,
                "low": low,
                "high": high,
                "format_reward": group["format_reward"].mean(),
                "progress": group["progress"].mean(),
            }
        )
    return pd.DataFrame(rows)


def after_stages(measured: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`by_way` of the policies of a run, start first, with a column `after`. `measured`: name -> `both_ways` table of the same tasks."""
    return pd.concat(
        [by_way(results).assign(after=name) for name, results in measured.items()],
        ignore_index=True,
    )


def held_out_summary(table: pd.DataFrame, seconds: float) -> dict:
    """What a run's summary.json holds, from an `after_stages` table: accuracies [0..1] before and after training, greedy and sampled,
    after each stage, and how long it took [s]."""
    found = [
        {"stage": name, **{row.way: round(row.accuracy, 4) for row in part.itertuples()}}
        for name, part in table.groupby("after", sort=False)
    ]
    ends = [{way: policy[way] for way in WAYS} for policy in (found[0], found[-1])]
    return {
        "held_out": {"n": int(table["n"].iloc[0]), "before": ends[0], "after": ends[1]},
        "stages": found[1:],
        "seconds": round(seconds, 1),
    }


def accuracy_by_split(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy a split and over all tasks: columns split, n, accuracy, low, high (95%, Wilson), progress, errors (a count) and
    recovery (the recovered share of them, NaN without an error). Synthetic test tasks that are said in unseen phrasings, or with unseen
    names, have rows of their own."""
    groups = list(results.groupby("split", sort=False))
    if "unseen" in results:
        groups += [
            (f"unseen_{what}", group)
            for what, group in results.groupby("unseen")
            if what in ("phrasings", "names")
        ]
    groups.append(("all", results))
    rows = []
    for split, group in groups:
        low, high = wilson(int(group["valid"].sum()), len(group))
        rows.append(
            {
                "split": split,
                "n": len(group),
                "accuracy": group["valid"].mean(),
                "low": low,
                "high": high,
                "progress": group["progress"].mean(),
                "errors": int(group["errors"].sum()),
                "recovery": group["recovered"].sum() / group["errors"].sum()
                if group["errors"].sum()
                else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def verdict(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """One sentence on two evaluations of the same tasks: better, worse or the same, and whether chance explains it (a sign test over the
    tasks whose verdict changed). ValueError when the tasks differ."""
    pairs = before.merge(after, on="task_id", suffixes=("_before", "_after"), validate="one_to_one")
    if len(pairs) != len(before) or len(pairs) != len(after):
        raise ValueError(
            f"expected two evaluations of the same tasks, got {len(before)} and {len(after)} tasks, {len(pairs)} in both"
        )
    won, lost, p = sign_test(pairs["valid_after"].astype(int) - pairs["valid_before"].astype(int))
    what = (
        "Better than before"
        if won > lost
        else "**Worse than before**"
        if lost > won
        else "No better and no worse than before"
    )
    spoken = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    chance = (
        ""
        if won == lost
        else f", {spoken}: "
        + ("more than chance explains" if p < 0.05 else "chance explains as much")
    )
    return (
        f"{what}: {before['valid'].sum()} of {len(pairs)} tasks valid before, {after['valid'].sum()} after ({won} won, {lost} "
        f"lost{chance})."
    )
