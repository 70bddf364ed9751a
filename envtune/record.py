"""What happened in an episode: a record, its JSON line, and its HTML view.

    >>> record = next(read_records("runs/quickstart/episodes.jsonl.gz", kind="train"))
    >>> record.codes, record.completed
    >>> record           # in a notebook: the conversation with results, hints and verdicts

In HTML all text is escaped: what a model wrote is shown, never interpreted.
"""

import gzip
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from envtune import bfcl
from envtune.bfcl import Call
from envtune.bfcl.results import shorten
from envtune.common.files import read_lines

TAGS = ("stage", "step", "kind", "repeat", "reward", "tokens")
"""What a line of a run's or an evaluation's episodes may carry besides the record."""
RECORD_VERSION = 3
READABLE_VERSIONS = (2, 3)  # 2 has no Step.shown


class Outcome(StrEnum):
    """What one agent message led to."""

    CALLS = "calls"
    CALLS_WITH_ERROR = "calls_with_error"
    """At least one call raised: unknown tool or argument, refused value, exception in the tool."""
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
    """One agent message and the environment's reaction."""

    turn: int
    message: str
    outcome: Outcome
    feedback: str = ""  # what the agent read next, without the next user message
    verdict: bool | None = None  # on the step that ended a turn: whether the turn was won
    calls: tuple[Call, ...] = ()  # of a well-formed message, whether or not they were run
    results: tuple[str, ...] = ()  # of the calls that were run, complete: verdicts use these
    shown: tuple[str, ...] = ()  # each result as the agent read it: with its hint, shortened
    hints: tuple[str | None, ...] = ()  # id of the hint in each shown result, or None
    truncated: int = 0  # characters of the results that the agent did not read

    @property
    def code(self) -> float:
        """The authors' number for a step: 1 or 0 for a turn that was won or lost, else -1 calls,
        -2 calls with an error, -3 format error."""
        return _CODES[self.outcome] if self.verdict is None else float(self.verdict)


class TurnVerdict(NamedTuple):
    """Whether a turn was won; `why` says what differs from ground truth, '' if nothing does."""

    turn: int
    success: bool
    why: str = ""


@dataclass(frozen=True)
class EpisodeRecord:
    """Everything that happened in an episode. Rewards and metrics are pure functions of it."""

    task_id: str
    turns: int  # T, the task's number of user turns, reached or not
    limits: str
    hints_on: bool
    steps: tuple[Step, ...] = ()
    verdicts: tuple[TurnVerdict, ...] = ()
    ending: Ending = Ending.RUNNING
    version: int = RECORD_VERSION

    @property
    def codes(self) -> list[float]:
        """One number per step, as in the authors' code (see Step.code)."""
        return [step.code for step in self.steps]

    @property
    def completed(self) -> bool:
        """Whether every turn was played to its end."""
        return self.ending is Ending.COMPLETED

    def calls_by_turn(self) -> list[list[list[Call]]]:
        """Well-formed calls as `[turn][step][call]`, for BFCL's checker."""
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
        return {**vars(self), "steps": steps, "verdicts": [v._asdict() for v in self.verdicts]}

    @classmethod
    def from_dict(cls, data: dict) -> "EpisodeRecord":
        """The record that `to_dict` wrote, without the TAGS of its line.

        ValueError for another version or a wrong field.
        """
        data = {name: value for name, value in data.items() if name not in TAGS}
        if data.get("version") not in READABLE_VERSIONS:
            versions = " or ".join(map(str, READABLE_VERSIONS))
            raise ValueError(
                f"expected an episode record of version {versions}, got {data.get('version')!r}"
            )
        try:
            steps = []
            for step in data["steps"]:
                lists = {k: tuple(v) for k, v in step.items() if isinstance(v, (list, tuple))}
                lists["calls"] = tuple(Call(**call) for call in step["calls"])
                for field in ("results", "hints", *(["shown"] if data["version"] > 2 else [])):
                    if field not in lists:
                        raise ValueError(f"step without a list {field!r}")
                steps.append(Step(**{**step, **lists, "outcome": Outcome(step["outcome"])}))
            verdicts = tuple(TurnVerdict(**verdict) for verdict in data["verdicts"])
            ending = Ending(data["ending"])
            return cls(**{**data, "steps": tuple(steps), "verdicts": verdicts, "ending": ending})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no complete episode record: {error!r}") from error

    def _repr_html_(self) -> str:
        """The conversation, calls, results, hints and verdicts, for a notebook."""
        return episode_html(self)


def write_records(path: Path | str, records: Iterable[EpisodeRecord]) -> None:
    """Append records to a JSON-lines file, one a line; a name that ends in .gz is compressed."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "at", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record.to_dict()) + "\n")


def episodes_file(folder: Path) -> Path | None:
    """The file in which a run (.jsonl.gz) or an evaluation keeps its episodes."""
    files = (folder / name for name in ("episodes.jsonl.gz", "episodes.jsonl"))
    return next((file for file in files if file.exists()), None)


def read_tagged(
    file: Path, wanted: Callable[[dict], bool] = lambda line: True
) -> Iterator[tuple[dict, EpisodeRecord]]:
    """Each wanted line of a file of episodes, with its TAGS, and the record that it holds.

    ValueError names the file and the line that is not a record of a readable version. What a kill
    cut short is left out: the last line, or any of an evaluation's, which goes on in its file.
    """
    reopened = file.name == "episodes.jsonl"
    for number, line in enumerate(read_lines(file, reopened), 1):
        try:
            if wanted(line):
                yield line, EpisodeRecord.from_dict(line)
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{file}, line {number}: {error}") from error


def read_records(path: Path | str, **tags) -> Iterator[EpisodeRecord]:
    """The records of a JSON-lines file; errors as in `read_tagged`.

    The lines of a run's episodes.jsonl.gz carry TAGS, and `tags` choose among them:
    `stage="stage2_hints"`, `kind="train"`, `step=range(20, 25)` or `[1, 20]`. TypeError for
    another tag.
    """
    if unknown := [tag for tag in tags if tag not in TAGS]:
        raise TypeError(f"a line carries {', '.join(TAGS)}; got {', '.join(unknown)}")

    def wanted(line: dict) -> bool:
        return all(
            line.get(tag) in want
            if isinstance(want, (range, list, tuple, set))
            else line.get(tag) == want
            for tag, want in tags.items()
        )

    return (record for _, record in read_tagged(Path(path), wanted))


_GREEN, _RED, _ORANGE, _BLUE, _GREY = "#1b7837", "#c2403c", "#b35806", "#2166ac", "#888888"
COLOURS = {"good": _GREEN, "said": _BLUE, "warn": _ORANGE, "bad": _RED}
OUTCOME_WORDS = {
    Outcome.CALLS: ("calls", "good"),
    Outcome.CALLS_WITH_ERROR: ("calls with an error", "warn"),
    Outcome.FORMAT_ERROR: ("format error", "bad"),
    Outcome.ANSWER: ("answer", "said"),
    Outcome.FORCED_END: ("one step too many, the turn was ended", "bad"),
    Outcome.CALL_IN_EMPTY_TURN: ("a call where asking was right", "bad"),
}
"""What one message led to, in words, and what kind of thing that is: the colour of its bar."""
_TAGGED = re.compile(r"<(think|tool_call|answer)>(.*?)</\1>", re.DOTALL)


def _box(text: str, limit: int, colour: str, indent: int = 32) -> str:
    """A text with a coloured bar at its left, shortened to `limit` characters."""
    style = (
        f"margin:2px 0 2px {indent}px;padding:3px 8px;border-left:4px solid {colour};"
        "font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere"
    )
    text = shorten(text, limit).encode("utf-8", "replace").decode()  # half a surrogate pair
    return f'<div style="{style}">{html.escape(text)}</div>'


def call_text(call: Call) -> str:
    """A call as one reads it: `cd(folder="temp")`."""
    arguments = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.arguments.items())
    return f"{call.name}({', '.join(arguments)})"


def message_text(step: Step) -> str:
    """A well-formed message without tags and JSON; a broken one as the agent wrote it."""
    parts = dict(_TAGGED.findall(step.message))
    if step.outcome is Outcome.FORMAT_ERROR or not parts:
        return step.message
    said = [parts.get("think", ""), *map(call_text, step.calls), parts.get("answer", "")]
    return "\n".join(text.strip() for text in said if text.strip())


def _step(step: Step, limit: int) -> list[str]:
    """One agent message and what the agent read about it, a box for each result."""
    words, kind = OUTCOME_WORDS[step.outcome]
    parts = [_box(f"agent, {words}:\n{message_text(step)}", limit, COLOURS[kind], indent=16)]
    if not step.results:
        return parts + ([_box(step.feedback, limit, _GREY)] if step.feedback else [])
    read = step.shown or step.results
    for call, text, hint in zip(step.calls, read, step.hints, strict=True):
        text = f"with hint {hint}: {call.name} → {text}" if hint else f"{call.name} → {text}"
        parts.append(_box(text, limit, _ORANGE if hint else _GREY))
    if step.truncated:
        text = f"{step.truncated} characters of the results were not shown to the agent"
        parts.append(_box(text, limit, _ORANGE))
    if step.outcome is Outcome.FORCED_END:
        parts.append(_box(step.feedback.splitlines()[-1], limit, _RED))
    return parts


def episode_html(record: EpisodeRecord, limit: int = 600) -> str:
    """The record as one HTML fragment; texts longer than `limit` characters are cut."""
    task = bfcl.load_task(record.task_id)
    won = sum(verdict.success for verdict in record.verdicts)
    parts = [
        f"<b>{html.escape(record.task_id)}</b> · {html.escape(record.limits)} limits · "
        f"hints {'on' if record.hints_on else 'off'} · {len(record.steps)} steps · "
        f"{won} of {record.turns} turns won · {record.ending}"
    ]
    verdicts = {verdict.turn: verdict for verdict in record.verdicts}
    for turn in range(record.turns):
        verdict, steps = verdicts.get(turn), [step for step in record.steps if step.turn == turn]
        is_open = record.ending is Ending.RUNNING and turn == len(verdicts)
        if not (steps or verdict or is_open):
            parts.append(f"<div style='opacity:.75'>Turn {turn + 1}: not reached</div>")
            continue
        asked = f"<b>Turn {turn + 1}, user:</b> {html.escape(task.user_turns[turn])}"
        parts.append(f"<div style='margin-top:8px'>{asked}</div>")
        for step in steps:
            parts += _step(step, limit)
        if verdict is None:
            mark, colour = "still open" if is_open else "not finished", _GREY
        elif verdict.success:
            mark, colour = "✓ won", _GREEN
        else:
            why = verdict.why.encode("utf-8", "replace").decode()  # half a surrogate pair
            mark, colour = f"✗ lost: {why}", _RED
        # a bar, not the text, has the colour: it is legible on a light and on a dark page
        style = f"margin:2px 0 2px 16px;padding:3px 8px;border-left:8px double {colour}"
        parts.append(f"<div style='{style}'><b>{html.escape(mark)}</b></div>")
    return f"<div style='font-size:13px;line-height:1.35'>{''.join(parts)}</div>"


def side_by_side(records: Mapping[str, EpisodeRecord], limit: int = 600) -> str:
    """Episodes in columns under their names, such as a task before and after training."""
    columns = "".join(
        f'<div style="flex:1 1 320px;min-width:0"><h4>{html.escape(name)}</h4>'
        f"{episode_html(record, limit)}</div>"
        for name, record in records.items()
    )
    style = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start"
    return f'<div style="{style}">{columns}</div>'
