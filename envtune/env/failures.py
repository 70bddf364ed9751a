"""Why an episode failed: one word for what went wrong in the first turn that it lost.

>>> failure(record)
'wrong arguments'
"""

from envtune.bfcl.results import EXECUTION_ERROR
from envtune.env import recovery
from envtune.record import Ending, EpisodeRecord, Outcome

FAILURES = (
    "format",
    "unknown tool",
    "wrong arguments",
    "wrong state",
    "missing result",
    "no call",
    "call where asking was right",
    "step limit",
    "length",
    "other",
)
"""Why an episode failed: what went wrong in the first turn that it lost; see `failure`."""
_ENDINGS = {
    Ending.TURN_STEP_LIMIT: "step limit",
    Ending.EPISODE_STEP_LIMIT: "step limit",
    Ending.TOKEN_LIMIT: "length",
    Ending.OBSERVATION_LIMIT: "length",
}
_WHY = {
    "a call was made where asking": "call where asking was right",
    "no call was made": "no call",
    "the turn ended without an answer": "format",
}


def failure(record: EpisodeRecord) -> str:
    """One of FAILURES, for an episode that is not valid: the first turn that it lost decides.

    A limit counts where no turn was lost before the one it ended. Within a turn: a broken format;
    a call where asking was right, or no call; a call of a tool that does not exist; an error that
    was not recovered from; then what the verdict names.
    """
    lost = next((verdict for verdict in record.verdicts if not verdict.success), None)
    if record.ending in _ENDINGS and (lost is None or lost.turn == record.steps[-1].turn):
        return _ENDINGS[record.ending]
    if lost is None:  # BFCL's checker judges an episode as a whole
        return _ENDINGS.get(record.ending, "other")
    steps = [step for step in record.steps if step.turn == lost.turn]
    if any(step.outcome is Outcome.FORMAT_ERROR for step in steps):
        return "format"
    if found := next((kind for why, kind in _WHY.items() if lost.why.startswith(why)), ""):
        return found
    results = [result for step in steps for result in step.results]
    if any(r.startswith(EXECUTION_ERROR) and r.endswith("is not defined") for r in results):
        return "unknown tool"
    if recovery.left_over(record, lost.turn):
        return "wrong arguments"
    return "missing result" if lost.why.startswith("missing among") else "wrong state"
