"""The episodes of a run with the settings that they were played with, as chat messages.

>>> played = next(read_played(Path("runs/quickstart"), kind="train"))
>>> played.stage, played.step, [message["role"] for message in played.messages()][:4]
('stage1_syntax', 1, ['system', 'user', 'assistant', 'user'])
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from envtune import bfcl
from envtune.bfcl import Task
from envtune.common.files import read_json
from envtune.env import episode, protocol
from envtune.record import EpisodeRecord, episodes_file, read_tagged


def clean(value: Any) -> Any:
    """A JSON value with "?" for each half of a surrogate pair, which no file can hold as UTF-8."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


@dataclass(frozen=True)
class Played:
    """An episode and where it was played."""

    record: EpisodeRecord
    stage: str | None
    step: int | None  # optimiser step of the stage
    kind: str  # "train", "validation" or "evaluation"
    settings: dict[str, Any]  # of the stage or of the evaluation, from the run's files
    rules: bool
    compact: bool

    @property
    def task(self) -> Task:
        return bfcl.load_task(self.record.task_id)

    def opening(self) -> list[dict[str, str]]:
        """The system prompt and the first user turn, as the agent read them."""
        return episode.opening(self.task, self.rules, self.compact)

    def user_turn(self, turn: int) -> str:
        """What the user says at the start of a later turn, with the docs of tools that appear."""
        return protocol.user_turn(self.task, turn, self.compact)

    def messages(self) -> list[dict[str, str]]:
        """The conversation as the agent read it: every reply of the environment is a user message.

        It ends with the agent's last message: nobody reads what follows it.
        """
        messages, steps = self.opening(), self.record.steps
        for step, after in zip_longest(steps, steps[1:]):
            messages.append({"role": "assistant", "content": step.message})
            if after is not None:
                said = self.user_turn(after.turn) if after.turn != step.turn else ""
                reply = "\n".join(text for text in (step.feedback, said) if text)
                messages.append({"role": "user", "content": reply})
        return clean(messages)


def read_played(run: Path, stage: str | None = None, kind: str | None = None) -> Iterator[Played]:
    """The episodes of a run folder, or of a folder in which an evaluation kept its episodes.

    ValueError for a folder that is neither, and for a line that is no record.
    """
    if (file := episodes_file(run)) is None:
        raise ValueError(
            f"{run} has no episodes.jsonl.gz (a run) and no episodes.jsonl (evaluation)"
        )
    config, evaluation = read_json(run / "config.json", {}), read_json(run / "settings.json", {})

    def wanted(line: dict) -> bool:
        return stage in (None, line.get("stage")) and kind in (None, line.get("kind", "evaluation"))

    for line, record in read_tagged(file, wanted):
        settings = evaluation or config.get("stages", {}).get(line.get("stage"), {})
        compact = config.get("preset", {}).get("compact", False)
        shown = {"rules": settings.get("rules", False), "compact": compact}
        shown |= settings.get("episode", {})
        place = line.get("stage"), line.get("step"), line.get("kind", "evaluation")
        yield Played(record, *place, settings, shown["rules"], shown["compact"])
