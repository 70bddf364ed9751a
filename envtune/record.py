"""What happened in an episode: a record, its JSON line, and how it shows itself to a person. Nothing here judges.

    >>> record = next(read_records("runs/quickstart/episodes.jsonl.gz", kind="train"))
    >>> record.codes, record.completed
    >>> record                  # at the end of a notebook cell: the conversation, calls and results, hints, each verdict with why

In HTML all text is escaped: what a model wrote is shown, never interpreted.
"""

import gzip
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from envtune import bfcl
from envtune.bfcl import Call

RECORD_VERSION = 2


class Outcome(StrEnum):
    """What one agent message led to."""

    CALLS = "calls"
    CALLS_WITH_ERROR = "calls_with_error"
    """Calls of which at least one raised: an unknown tool or argument, a refused value, an exception in the tool."""
    FORMAT_ERROR = "format_error"
    ANSWER = "answer"
    FORCED_END = "forced_end"
    CALL_IN_EMPTY_TURN = "call_in_empty_turn"


class Ending(StrEnum):
    """Why an episode is over."""

    RUNNING = "running"
    COMPLETED = "completed"
    TURN_STEP_LIMIT = "turn_step_limit"
    """A turn took more steps than it may, where that ends the episode (evaluation)."""
    EPISODE_STEP_LIMIT = "episode_step_limit"
    TOKEN_LIMIT = "token_limit"
    """No room for another message in the token budget."""
    OBSERVATION_LIMIT = "observation_limit"
    """The environment's last reply alone was longer than what was left of the token budget."""


_CODES = {Outcome.CALLS: -1.0, Outcome.CALLS_WITH_ERROR: -2.0, Outcome.FORMAT_ERROR: -3.0}


class Step(NamedTuple):
    """One agent message and what the environment made of it."""

    turn: int
    message: str
    outcome: Outcome
    calls: tuple[Call, ...] = ()
    """The calls of a well-formed message, whether or not they were run."""
    results: tuple[str, ...] = ()
    """A result a call that was run, as the tools gave it: what verdicts are made of."""
    hints: tuple[str | None, ...] = ()
    """The id of the hint shown beside each result; None where the agent read the result alone."""
    feedback: str = ""
    """What the agent read next, without the next user message."""
    truncated: int = 0
    """Characters of its results that the agent did not read, because the observation was too long."""
    verdict: bool | None = None
    """Set on the step that ended a turn: whether the turn succeeded."""

    @property
    def code(self) -> float:
        """The authors' number for a step: 0/1 for a turn's verdict, else -1 calls, -2 calls with error, -3 format error."""
        return _CODES[self.outcome] if self.verdict is None else float(self.verdict)


class TurnVerdict(NamedTuple):
    """How a turn was judged: `why` says what differs from ground truth, '' on success."""

    turn: int
    success: bool
    why: str = ""


@dataclass(frozen=True)
class EpisodeRecord:
    """All that happened in an episode; rewards and metrics are pure functions of it."""

    task_id: str
    turns: int
    """T, the task's number of user turns, reached or not."""
    limits: str
    hints_on: bool
    steps: tuple[Step, ...] = ()
    verdicts: tuple[TurnVerdict, ...] = ()
    ending: Ending = Ending.RUNNING
    version: int = RECORD_VERSION

    @property
    def codes(self) -> list[float]:
        """One number a step, as in the authors' code (see Step.code)."""
        return [step.code for step in self.steps]

    @property
    def completed(self) -> bool:
        """Whether every turn was played to its end."""
        return self.ending is Ending.COMPLETED

    def calls_by_turn(self) -> list[list[list[Call]]]:
        """Well-formed calls as [turn][step][call], for BFCL's checker."""
        return [
            [list(s.calls) for s in self.steps if s.turn == turn and s.calls]
            for turn in range(self.turns)
        ]

    def to_dict(self) -> dict:
        """JSON-ready; `from_dict` gives an equal record back."""
        steps = [
            {**step._asdict(), "calls": [call._asdict() for call in step.calls]}
            for step in self.steps
        ]
        return {
            **vars(self),
            "steps": steps,
            "verdicts": [verdict._asdict() for verdict in self.verdicts],
        }

    @classmethod
    def from_dict(cls, data: dict) -> "EpisodeRecord":
        """The record that `to_dict` wrote. ValueError for another version or a field that does not fit."""
        if data.get("version") != RECORD_VERSION:
            raise ValueError(
                f"expected an episode record of version {RECORD_VERSION}, got {data.get('version')!r}"
            )
        try:
            steps = tuple(
                Step(
                    **{
                        **s,
                        "outcome": Outcome(s["outcome"]),
                        "calls": tuple(Call(**c) for c in s["calls"]),
                        "results": tuple(s["results"]),
                        "hints": tuple(s["hints"]),
                    }
                )
                for s in data["steps"]
            )
            return cls(
                **{
                    **data,
                    "steps": steps,
                    "ending": Ending(data["ending"]),
                    "verdicts": tuple(TurnVerdict(**v) for v in data["verdicts"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no whole episode record: {error!r}") from error

    def _repr_html_(self) -> str:
        """The conversation, calls, results, hints and verdicts, for a notebook."""
        return episode_html(self)


def write_records(path: Path | str, records: Iterable[EpisodeRecord]) -> None:
    """Append records to a JSON-lines file, one a line; a name that ends in .gz is compressed."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "at", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record.to_dict()) + "\n")


def read_records(path: Path | str, **tags) -> Iterator[EpisodeRecord]:
    """The records of a JSON-lines file, also of a run's episodes.jsonl.gz, whose lines carry the tags stage, step and kind.

    `tags` choose among these: `stage="stage2_hints"`, `kind="train"`, `step=range(20, 25)`. ValueError names the file and line
    of what is no record of this version.
    """
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
                found = {tag: data.pop(tag, None) for tag in ("stage", "step", "kind")}
                if all(
                    found[tag] in want if isinstance(want, range) else found[tag] == want
                    for tag, want in tags.items()
                ):
                    yield EpisodeRecord.from_dict(data)
            except (ValueError, AttributeError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


_COLOURS = {
    Outcome.CALLS: "#1b7837",
    Outcome.ANSWER: "#2166ac",
    Outcome.FORMAT_ERROR: "#b2182b",
    Outcome.CALLS_WITH_ERROR: "#d6604d",
    Outcome.FORCED_END: "#b2182b",
    Outcome.CALL_IN_EMPTY_TURN: "#b2182b",
}
_BOX = (
    "margin:2px 0 2px {}px;padding:3px 8px;border-left:4px solid {};font-family:monospace;white-space:pre-wrap;"
    "overflow-wrap:anywhere"
)
_HINT = "#e08214"


def _box(text: str, limit: int, colour: str, indent: int = 16) -> str:
    text = text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit} more characters]"
    return f'<div style="{_BOX.format(indent, colour)}">{html.escape(text)}</div>'


def _hint_text(line: str) -> str:
    """The hint in one line that the agent read, or ''."""
    try:
        content = json.loads(line.partition(": ")[2])
    except ValueError:
        return ""
    return str(content.get("hint", "")) if isinstance(content, dict) else ""


def _step(step: Step, limit: int) -> list[str]:
    """One agent message, what its calls gave, and the hints that stood beside the results."""
    parts = [
        _box(
            f"agent, {step.outcome} ({step.code:+.0f}): {step.message}",
            limit,
            _COLOURS[step.outcome],
        )
    ]
    lines = step.feedback.splitlines()
    if not step.results:
        return parts + ([_box(step.feedback, limit, "#888888", 32)] if step.feedback else [])
    read = iter([text for text in map(_hint_text, lines) if text])
    for call, result, hint in zip(step.calls, step.results, step.hints, strict=True):
        parts.append(_box(f"{call.name} → {result}", limit, "#888888", 32))
        if hint:
            parts.append(
                _box(
                    f"hint {hint}: {next(read, '(cut from what the agent read)')}", limit, _HINT, 32
                )
            )
    if step.truncated:
        parts.append(
            _box(
                f"{step.truncated} characters of the results were not shown to the agent",
                limit,
                _HINT,
                32,
            )
        )
    if step.outcome is Outcome.FORCED_END:
        parts.append(_box(lines[-1], limit, "#b2182b", 32))
    return parts


def episode_html(record: EpisodeRecord, limit: int = 600) -> str:
    """The record as one HTML fragment; texts longer than `limit` characters are cut."""
    task = bfcl.load_task(record.task_id)
    won = sum(verdict.success for verdict in record.verdicts)
    parts = [
        f"<b>{html.escape(record.task_id)}</b> · {html.escape(record.limits)} limits · "
        f"hints {'on' if record.hints_on else 'off'} · {len(record.steps)} steps · {won} of {record.turns} turns won · "
        f"{record.ending}"
    ]
    for turn in range(record.turns):
        verdict = next((v for v in record.verdicts if v.turn == turn), None)
        steps = [step for step in record.steps if step.turn == turn]
        if verdict is None:
            mark = "still open" if record.ending is Ending.RUNNING else "not finished"
        else:
            mark = "✓ success" if verdict.success else f"✗ lost: {verdict.why}"
        if not steps and verdict is None:
            parts.append(
                f"<div style='margin-top:6px;opacity:.6'>Turn {turn + 1}: not reached</div>"
            )
            continue
        parts.append(
            f"<div style='margin-top:8px'><b>Turn {turn + 1}, user:</b> {html.escape(task.user_turns[turn])}</div>"
        )
        for step in steps:
            parts += _step(step, limit)
        parts.append(f"<div style='margin-left:16px'><b>{html.escape(mark)}</b></div>")
    return f"<div style='font-size:13px;line-height:1.35'>{''.join(parts)}</div>"


def side_by_side(records: Mapping[str, EpisodeRecord], limit: int = 600) -> str:
    """Episodes in columns, each under its name: the same task before and after training, or with and without hints."""
    columns = "".join(
        f'<div style="flex:1 1 320px;min-width:0"><h4>{html.escape(name)}</h4>{episode_html(record, limit)}</div>'
        for name, record in records.items()
    )
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">{columns}</div>'
    )
