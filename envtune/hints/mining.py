"""What keeps going wrong in the episodes of runs, clustered by tool and error.

    >>> failures = mine(read_records("runs/quickstart/episodes.jsonl.gz", kind="train"))
    >>> failures[0].tool, failures[0].count, failures[0].error

kind="train", because a run's file also has its validations, which play held-out tasks: a hint that
was made for these would leak into training what tests it.

Only tasks without a complete success count, and only errors that were shown without a hint.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from envtune import bfcl, hints
from envtune.bfcl import Call
from envtune.record import EpisodeRecord

TRAJECTORY_CHARS = 2_000
WILDCARDS = 2
"""In a mined pattern. With more, a text that a model provoked can take minutes not to match."""


@dataclass(frozen=True)
class Failure:
    """One cluster: a tool and an error, with its most telling example."""

    class_name: str
    tool: str
    error: str  # the text in the example
    pattern: str  # a regular expression that the errors of this cluster match
    call: Call
    question: str  # what the user had asked in that turn
    trajectory: str  # the agent's messages and what it read, from the turn's start to the error
    task_id: str
    turn: int
    count: int = 1  # episodes in which it happened
    task_ids: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What the errors of a cluster have in common: class, tool and pattern."""
        return f"{self.class_name}.{self.tool}: {self.pattern}"


def pattern_of(error: str) -> str:
    """A regular expression for an error, with wildcards for quoted texts, numbers and paths.

    What follows the last of WILDCARDS and its text is left out.
    """
    parts = re.split(r"('[^']*'|\"[^\"]*\"|\b\d[\d.]*\b|\S*/\S*)", error[:300])
    kept = parts[: 2 * WILDCARDS + 1]
    if not any(letter.isalpha() for part in kept[::2] for letter in part):
        kept = [max(parts[::2], key=len)]  # wildcards alone would match any error
    return "".join(
        ".*?" if number % 2 else re.escape(part).replace("\\ ", " ")
        for number, part in enumerate(kept)
    )


def mine(records: Iterable[EpisodeRecord], at_least: int = 2) -> list[Failure]:
    """Clusters with at least so many episodes, most frequent first.

    The example of a cluster is the failure with the longest trajectory.
    """
    records = list(records)
    won = {r.task_id for r in records if sum(v.success for v in r.verdicts) == r.turns}
    found: dict[str, list[Failure]] = defaultdict(list)
    for record in (r for r in records if r.task_id not in won):
        # an episode that repeats an error counts once, with the last, whose trajectory is longest
        for key, failure in {failure.key: failure for failure in _failures(record)}.items():
            found[key].append(failure)
    clusters = []
    for same in found.values():
        if len(same) >= at_least:
            example = max(same, key=lambda f: len(f.trajectory))
            tasks = tuple(sorted({f.task_id for f in same}))
            clusters.append(replace(example, count=len(same), task_ids=tasks))
    return sorted(clusters, key=lambda f: (-f.count, f.key))


def _failures(record: EpisodeRecord) -> Iterable[Failure]:
    try:
        task = bfcl.load_task(record.task_id)
    except KeyError as error:
        raise ValueError(f"{error.args[0]}. Tasks of your own are added first") from None
    owner = {name: c for c in task.classes for name in bfcl.tool_names(c)}
    for number, step in enumerate(record.steps):
        for call, result, hint in zip(step.calls, step.results, step.hints, strict=False):
            # half of a surrogate pair, which JSON can carry, can be neither printed nor sent
            error = hints.is_error(result).encode("utf-8", "replace").decode()
            if error and hint is None and call.name in owner:
                before = [s for s in record.steps[: number + 1] if s.turn == step.turn]
                story = "\n".join(f"agent: {s.message}\nenvironment: {s.feedback}" for s in before)
                yield Failure(
                    owner[call.name],
                    call.name,
                    error,
                    pattern_of(error),
                    call,
                    task.user_turns[step.turn],
                    story[-TRAJECTORY_CHARS:],
                    task.id,
                    step.turn,
                )
