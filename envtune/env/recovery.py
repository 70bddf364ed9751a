"""Recovery: after an error, does the agent find its way? What hints are worth, in numbers.

    >>> table(errors(read_records("runs/quickstart/episodes.jsonl.gz")), by=["hinted"])

An error is a call whose result is one: an exception, or a returned {"error": …}. It is recovered when the agent's next call of
the same tool, in a later step of the same turn, succeeds; an error that is never followed by such a call is not. Beside it stands
whether the turn was won. Errors with a hint and without are two groups, not one agent's two tries: compare them at one step of
training.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from envtune import bfcl, hints
from envtune.common.stats import wilson
from envtune.record import EpisodeRecord

COLUMNS = (
    "task_id",
    "split",
    "turn",
    "step",
    "tool",
    "error",
    "category",
    "hinted",
    "hint",
    "retried",
    "recovered",
    "turn_won",
)


def errors(records: Iterable[EpisodeRecord]) -> pd.DataFrame:
    """One row an error, with COLUMNS. `category` is that of the hint that speaks about it, shown or not; "clear" if none does."""
    rows = []
    for record in records:
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
            rows.append(
                (
                    record.task_id,
                    task.split,
                    turn,
                    number,
                    call.name,
                    error,
                    hint.category if hint else "clear",
                    shown is not None,
                    shown or "",
                    bool(later),
                    bool(later) and not later[0],
                    won.get(turn, False),
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def table(events: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Shares of recovered errors and of won turns with 95% intervals, a row a group: n, retried, recovered, low, high, turn_won,
    turn_low, turn_high. No rows where there is no error."""
    groups = events.groupby(list(by), sort=True) if by else [((), events)]
    rows = []
    for key, group in groups:
        if not len(group):
            continue
        keys = key if isinstance(key, tuple) else (key,)
        low, high = wilson(int(group["recovered"].sum()), len(group))
        turn_low, turn_high = wilson(int(group["turn_won"].sum()), len(group))
        rows.append(
            {
                **dict(zip(by, keys, strict=True)),
                "n": len(group),
                "retried": group["retried"].mean(),
                "recovered": group["recovered"].mean(),
                "low": low,
                "high": high,
                "turn_won": group["turn_won"].mean(),
                "turn_low": turn_low,
                "turn_high": turn_high,
            }
        )
    return pd.DataFrame(
        rows,
        columns=[
            *by,
            "n",
            "retried",
            "recovered",
            "low",
            "high",
            "turn_won",
            "turn_low",
            "turn_high",
        ],
    )
