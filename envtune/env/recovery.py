"""Recovery: how often an agent gets a call right after an error. What hints are worth, in numbers.

    >>> rates(errors(read_records("runs/quickstart/episodes.jsonl.gz")), by=["hinted"])

An error is a call whose result is one: an exception, or a returned {"error": …}. It is recovered
when the agent's next call of the same tool, in a later step of the same turn, succeeds; an error
without such a call is not. Another column says whether the turn was won. Errors with a hint and
without are two groups, not two tries of one agent: compare them at the same step of training.
"""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from envtune import bfcl, hints
from envtune.bfcl.splits import scenario_of
from envtune.common import stats
from envtune.record import EpisodeRecord

COLUMNS = (
    "task_id split turn step tool error category hinted hint retried recovered turn_won".split()
)
RATES = "n retried recovered low high turn_won turn_low turn_high".split()


def _events(record: EpisodeRecord) -> Iterator[tuple]:
    """The errors of an episode, in the order of COLUMNS."""
    task = bfcl.load_task(record.task_id)
    won = {verdict.turn: verdict.success for verdict in record.verdicts}
    made = [
        (number, step.turn, call, hints.is_error(result), hint)
        for number, step in enumerate(record.steps)
        for call, result, hint in zip(step.calls, step.results, step.hints, strict=False)
    ]
    for number, turn, call, error, shown in made:
        if not error:
            continue
        later = [
            again
            for n, t, other, again, _ in made
            if n > number and t == turn and other.name == call.name
        ]
        hint = hints.match(task.classes, call, error)
        category = hint.category if hint else "clear"
        retried, recovered = bool(later), bool(later) and not later[0]
        # half of a surrogate pair cannot be written to a table
        name, text = (s.encode("utf-8", "replace").decode() for s in (call.name, error))
        of = (record.task_id, task.split, turn, number, name, text, category)
        hinted = (shown is not None, shown or "")
        yield (*of, *hinted, retried, recovered, won.get(turn, False))


def errors(records: Iterable[EpisodeRecord]) -> pd.DataFrame:
    """One row per error, with COLUMNS.

    `category` is that of the hint that matches the error, shown or not; "clear" if none does.
    """
    rows = [event for record in records for event in _events(record)]
    return pd.DataFrame(rows, columns=COLUMNS)


def left_over(record: EpisodeRecord, turn: int) -> bool:
    """Whether an error of a turn was not recovered from."""
    events = (dict(zip(COLUMNS, event, strict=True)) for event in _events(record))
    return any(event["turn"] == turn and not event["recovered"] for event in events)


def rates(events: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Shares of recovered errors and of won turns with 95% intervals: RATES, one row per group.

    The errors of a scenario resemble each other, so intervals are clustered by scenario
    (stats.share). No rows where there is no error.
    """
    rows = []
    for key, group in events.groupby(list(by)) if by else [((), events)]:
        if n := len(group):
            scenarios = [scenario_of(task) for task in group["task_id"]]
            recovery, victory = (
                stats.share([float(x) for x in group[name]], scenarios)[:3]
                for name in ("recovered", "turn_won")
            )
            retried = list(group["retried"]).count(True) / n
            # pandas declares any key, and makes tuples of a list of columns
            rows.append((*key, n, retried, *recovery, *victory))  # pyright: ignore[reportGeneralTypeIssues]
    return pd.DataFrame(rows, columns=[*by, *RATES])
