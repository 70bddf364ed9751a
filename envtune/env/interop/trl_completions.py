"""Export of a run's training episodes as the parquet files that TRL writes with log_completions.

>>> export_trl(Path("runs/quickstart"), Path("out"))[0]
PosixPath('out/stage1_syntax/completions/completions_00001.parquet')

Columns as in TRL 1.16: step, prompt, completion, a column for each reward function (ours is
`episode_reward`), extra columns, advantage. Rewards and advantages are computed from the records.
The files that TRL itself writes of a run hold an empty prompt and one text without special tokens,
because the rollout is ours; here both are chat messages.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pandas as pd

from envtune.common.files import atomic, read_json
from envtune.env import rewards
from envtune.env.interop.played import Played, read_played
from envtune.record import EpisodeRecord


def _reward(played: Played) -> Callable[[EpisodeRecord], float]:
    name = played.settings.get("reward")
    if (
        not isinstance(name, str) or name not in rewards.REWARDS
    ):  # no module is imported because a run's file names it
        raise ValueError(
            f"stage {played.stage} has the reward {name!r}, not one of "
            f"{', '.join(rewards.REWARDS)}; call export_trl(run, out, reward=...) with the function"
        )
    return rewards.REWARDS[name]


def export_trl(
    run: Path, out: Path, reward: Callable[[EpisodeRecord], float] | None = None
) -> list[Path]:
    """Write a file for every training step of every stage, and return their paths.

    reward: what the stages were trained with; None: the built-in rewards that the run names.
    ValueError for a run without training episodes, or with groups that are not whole.
    """
    preset, files = read_json(run / "config.json", {}).get("preset", {}), []
    if "generations" not in preset:
        raise ValueError(f"{run} is no training run: config.json with its preset is missing")
    played = read_played(run, kind="train")
    for (stage, step), batch in groupby(played, lambda p: (p.stage, p.step)):
        rows = list(batch)
        ids, size = [row.record.task_id for row in rows], preset["generations"]
        if (
            any(len(set(ids[i : i + size])) > 1 for i in range(0, len(ids), size))
            or len(ids) % size
        ):
            raise ValueError(
                f"step {step} of {stage} has {len(ids)} episodes that are not groups of {size} "
                "of one task; was the run's config.json replaced?"
            )
        score, scale = reward or _reward(rows[0]), rows[0].settings.get("reward_scale", 1.0)
        scores = [scale * score(row.record) for row in rows]
        talks = [row.messages() for row in rows]
        table = {
            "step": step,
            "prompt": [talk[:2] for talk in talks],
            "completion": [talk[2:] for talk in talks],
            "episode_reward": scores,
            "task_id": ids,
            "ending": [str(row.record.ending) for row in rows],
            "hints_on": [row.record.hints_on for row in rows],
            "advantage": [
                advantage
                for i in range(0, len(scores), size)
                for advantage in rewards.advantages(scores[i : i + size], preset["scale_rewards"])
            ],
        }
        folder = out / str(stage) / "completions"
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"completions_{step:05d}.parquet")
        with atomic(files[-1], durable=False) as unfinished:
            pd.DataFrame(table).to_parquet(unfinished)
    if not files:
        raise ValueError(f"{run} has no training episodes")
    return files
