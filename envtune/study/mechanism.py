"""Why a run becomes better: how often the agent shows each habit, step by step of its training.

>>> counts = habits_of_run(paths.runs() / "quickstart")   # from episodes.jsonl.gz
>>> rates(counts, by=["stage"])                           # habit, n, share

A habit is counted where it could have shown: `asks` over turns in which a value or a tool is
missing, `gives_up` over steps whose call failed. HABITS says what each is; they are the ones that
the embedded agent was given (docs/agent.md), seen from outside, so any policy has them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from envtune import bfcl, hints
from envtune.common.files import read_lines
from envtune.record import EpisodeRecord, Outcome

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
    """COLUMNS, a row per step and habit of a run's training episodes: how often of how many."""
    counts: dict[tuple, list[int]] = {}
    for line in read_lines(folder / "episodes.jsonl.gz"):
        stage, step, kind = (line.pop(name) for name in ("stage", "step", "kind"))
        if kind == "train":
            for habit, showed in habits_of(EpisodeRecord.from_dict(line)):
                entry = counts.setdefault((stage, step, habit), [0, 0])
                entry[0] += showed
                entry[1] += 1
    rows = [(*key, *entry) for key, entry in counts.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def rates(counts: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, habit, n and share: counts added up over everything else."""
    table = counts.groupby([*by, "habit"], sort=False)[["shown", "of"]].sum().reset_index()
    return table.assign(n=table["of"], share=table["shown"] / table["of"]).drop(
        columns=["shown", "of"]
    )
