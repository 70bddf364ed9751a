"""The episodes of runs as a table: one row an episode, with its reward, advantage and error kind.

>>> table, lines = read([paths.runs() / "quickstart"])
>>> table[table["group"] == 3][["reward", "advantage", "ending", "error kind"]]

A run is a run folder or an evaluation's; the latter's with_hints/ is read too. Reward and advantage
are the ones training used, times the stage's reward_scale. An evaluation's reward is BFCL's
verdict, 0 or 1, as in training's validations. Needs no torch.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from envtune import bfcl
from envtune.common.files import read_json
from envtune.env import rewards
from envtune.env.failures import failure
from envtune.record import EpisodeRecord, episodes_file, read_tagged

COLUMNS = (
    "run stage step kind repeat task split group reward advantage won turns ending".split()
    + ["error kind", "hints"]
)


def _lines(folder: Path) -> Iterator[tuple[dict, EpisodeRecord]]:
    """The lines of a folder's episodes, and the record in each.

    ValueError, in one sentence, for a folder without episodes and for a line that is no record.
    """
    file = episodes_file(folder)
    if file is None:
        what = "holds no episodes" if folder.is_dir() else "does not exist"
        raise ValueError(
            f"{folder} {what}: give a run that was trained (notebooks 00 or 04-07) or an "
            "evaluation (python -m envtune evaluate), by its name in runs/ or as a folder"
        )
    for number, (line, record) in enumerate(read_tagged(file), 1):
        try:
            bfcl.load_task(record.task_id)
        except KeyError as error:
            raise ValueError(
                f"{file}, episode {number}: {error.args[0]}; tasks of your own must be added "
                "before its episodes are browsed (docs/new_domain.md)"
            ) from error
        yield line, record


def reward(record: EpisodeRecord, line: dict, stage: dict) -> float | None:
    """The reward that was used; None where it is of a function that is not built in."""
    if line.get("reward") is not None:
        return line["reward"]
    if line.get("kind") != "train":
        return float(bfcl.official_valid(record))
    name = stage.get("reward")
    if not isinstance(name, str) or name not in rewards.REWARDS:
        return None
    return stage.get("reward_scale", 1.0) * rewards.REWARDS[name](record)


def _hints(record: EpisodeRecord) -> list[str] | None:
    """Ids of the hints that the agent read, each once; None with hints off."""
    shown = [hint for step in record.steps for hint in step.hints if hint]
    return list(dict.fromkeys(shown)) if record.hints_on else None


def _rows(folder: Path, name: str) -> Iterator[tuple[dict, dict]]:
    """(row, line) of every episode of a folder, groups not yet numbered."""
    config = read_json(folder / "config.json", {})
    for line, record in _lines(folder):
        won = sum(verdict.success for verdict in record.verdicts)
        stage = config.get("stages", {}).get(line.get("stage"), {})
        yield (
            {
                "run": name,
                "kind": line.get("kind", "evaluation"),
                **{tag: line.get(tag) for tag in ("stage", "step", "repeat")},
                "task": record.task_id,
                "split": bfcl.load_task(record.task_id).split,
                "reward": reward(record, line, stage),
                "won": won,
                "turns": record.turns,
                "ending": str(record.ending),
                "error kind": "" if won == record.turns else failure(record),
                "hints": _hints(record),
            },
            line,
        )


def _number_groups(rows: Sequence[dict], first: int, preset: dict) -> int:
    """Give training episodes their group and advantage; returns the next free number.

    The rollouts of a prompt are written one after the other, `generations` of them.
    """
    size, scale = preset.get("generations"), preset.get("scale_rewards", "group")

    def moment(row: dict) -> tuple:
        return row["kind"], row["stage"], row["step"], row["task"]

    for key, together in itertools.groupby(rows, moment):
        members = list(together)
        if key[0] != "train":
            continue
        for start in range(0, len(members), size or len(members)):
            group = members[start : start + (size or len(members))]
            scores = [row["reward"] for row in group]
            known = None not in scores and len(scores) > 1 and len(scores) == (size or len(scores))
            found = rewards.advantages(scores, scale) if known else [None] * len(group)
            for row, advantage in zip(group, found, strict=True):
                row |= {"group": first, "advantage": advantage}
            first += 1
    return first


def read(folders: Sequence[Path], names: Sequence[str]) -> tuple[pd.DataFrame, list[dict]]:
    """The table, with COLUMNS, and every episode's line as it was kept.

    names: what to call each run. ValueError that says what is wrong with a folder or a file.
    """
    rows, lines, number = [], [], 1
    for folder, name in zip(folders, names, strict=True):
        hinted = folder / "with_hints"
        begun = (hinted / "episodes.jsonl").exists()
        places = [(folder, name)] + [(hinted, f"{name}/with_hints")] * begun
        for place, called in places:
            found = list(_rows(place, called))
            preset = read_json(place / "config.json", {}).get("preset", {})
            number = _number_groups([row for row, _ in found], number, preset)
            rows += [row for row, _ in found]
            lines += [line for _, line in found]
    if not rows:
        raise ValueError(f"{', '.join(map(str, folders))}: no episode has ended yet")
    return pd.DataFrame(rows, columns=list(COLUMNS)), lines
