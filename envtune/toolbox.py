"""The tools of one episode: a name is looked up in a dict of bound methods, arguments pass the guards, a result is text.

    >>> box = Toolbox(load_task("multi_turn_base_3"))
    >>> box.execute(Call("find", {"path": ".", "name": "image"}))
    '{"matches": ["./projects/photography/test_image1.jpg"]}'
    >>> box.execute(Call("open", {"file": "x", "mode": "w"}))
    "Error during execution: name 'open' is not defined"

There is no `eval`: what a model writes selects a documented method or nothing. Results read exactly as BFCL prints them,
an exception as "Error during execution: …". Withheld tools do run when called: BFCL runs them, and the ground truth of
multi_turn_miss_func_49 calls one before its doc appears.
"""
import copy
import json
import math
from dataclasses import dataclass
from functools import lru_cache

from envtune import bfcl
from envtune.bfcl import Call, Task

EXECUTION_ERROR = "Error during execution: "
MAX_STRING_CHARS = 20_000
MAX_ITEMS = 2_000
MAX_INT = 10**30

LIMITED_ARGUMENTS: dict[str, dict[str, float]] = {
    # tool -> argument -> largest magnitude: past it one C call of the big-number libraries runs for minutes
    "power": {"base": 1e9, "exponent": 1e3},
    "logarithm": {"precision": 1e3},
    "square_root": {"precision": 1e3},
    "round_number": {"decimal_places": 1e3},
}


def _refusal(value, where: str) -> str:
    """Why a JSON value is too large to pass on, or ''."""
    if isinstance(value, str) and len(value) > MAX_STRING_CHARS:
        return f"{where} has {len(value)} characters, at most {MAX_STRING_CHARS} are accepted"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where} is not a finite number"
    if isinstance(value, int) and abs(value) > MAX_INT:
        return f"{where} is larger than 10^30"
    if isinstance(value, (list, dict)):
        if len(value) > MAX_ITEMS:
            return f"{where} has {len(value)} items, at most {MAX_ITEMS} are accepted"
        items = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_refusal(item, where) for item in items)), "")
    return ""


def guard(call: Call) -> str:
    """Why a call's arguments are refused before the tool runs, or '' when they may pass."""
    limits = LIMITED_ARGUMENTS.get(call.name, {})
    for name, value in call.arguments.items():
        if reason := _refusal(value, f"argument {name!r}"):
            return reason
        if name in limits and isinstance(value, (int, float)) and abs(value) > limits[name]:
            return f"argument {name!r} is {value}, at most {limits[name]:g} in magnitude is accepted"
    return ""


def as_text(result) -> str:
    """A tool's return value as BFCL prints it: a str as it is, a dict as JSON where it can be, all else by str()."""
    if type(result) is str:
        return result
    if type(result) is dict:
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


class Toolbox:
    """Live tool instances of one task. Two toolboxes share nothing that a call can change."""

    def __init__(self, task: Task):
        self.instances = {c: bfcl.new_instance(c, task.initial_config, task.split == "long_context")
                          for c in task.classes}
        self._methods = {name: getattr(instance, name)
                         for c, instance in self.instances.items() for name in bfcl.tool_names(c)}

    def execute(self, call: Call) -> str:
        """Run one call and return its result as text. Never raises for what the call says."""
        method = self._methods.get(call.name)
        if method is None:
            return f"{EXECUTION_ERROR}name {call.name!r} is not defined"
        if reason := guard(call):
            return f"{EXECUTION_ERROR}{reason}"
        try:
            # copied: some tools keep the list they are given, and the record must not change with it
            return as_text(method(**copy.deepcopy(call.arguments)))
        except Exception as error:  # the tools are third-party code and may raise anything; BFCL reports it all this way
            return f"{EXECUTION_ERROR}{error}"


@dataclass(frozen=True)
class TurnTruth:
    """What the ground truth leaves after one turn: results of its calls, and a copy of every instance."""
    results: tuple[str, ...]
    instances: dict


@lru_cache(maxsize=2048)
def ground_truth(task_id: str, skipped: tuple[int, ...] = ()) -> tuple[TurnTruth, ...]:
    """Ground truth of a task, executed once and reused by every episode: states are copied, never handed out to tools.

    `skipped` turns are not executed: the authors' environment leaves out a turn in which the agent made no call, so
    later turns are judged from where the agent stands.
    """
    task = bfcl.load_task(task_id)
    box, turns = Toolbox(task), []
    for turn, calls in enumerate(task.ground_truth):
        results = () if turn in skipped else tuple(box.execute(call) for call in calls)
        turns.append(TurnTruth(results, copy.deepcopy(box.instances)))
    return tuple(turns)
