"""Rewards: pure functions of an EpisodeRecord (paper section 3.4 and appendix).

    >>> record = replay("multi_turn_base_3", ["<think>x</think><answer>Done.</answer>"] * 2)
    >>> format_reward(record), tool_call_reward(record), progress_reward(record)
    (1.0, 0.0, 0.0)
    >>> REWARDS["direct"](record), REWARDS["direct"].maximum
    (0.1, 1.0)

As in the authors' code, steps are counted, not calls, and a step that ended a turn counts neither
as C_correct nor as C_error. Departure: progress is always over the task's T turns, while the
authors average over the turns reached. How to add a reward of your own: docs/rewards.md.
"""

import contextlib
import dis
import importlib
import inspect
import math
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from statistics import fmean, stdev

from envtune import bfcl
from envtune.bfcl import Call
from envtune.record import EpisodeRecord, Outcome


def _count(record: EpisodeRecord, outcome: Outcome) -> int:
    return sum(step.outcome is outcome for step in record.steps)


def format_reward(record: EpisodeRecord) -> float:
    """R_format = (N - C_format) / N over the N steps [0..1]; 0 for an episode without steps."""
    steps = len(record.steps)
    return (steps - _count(record, Outcome.FORMAT_ERROR)) / steps if steps else 0.0


def tool_call_reward(record: EpisodeRecord) -> float:
    """R_tool = C_correct / (C_correct + C_error) [0..1]; 0 when no call was executed."""
    correct, wrong = _count(record, Outcome.CALLS), _count(record, Outcome.CALLS_WITH_ERROR)
    return correct / (correct + wrong) if correct + wrong else 0.0


def attempted_call(record: EpisodeRecord) -> bool:
    """I_tool: whether the episode has any call that counts for R_tool."""
    return _count(record, Outcome.CALLS) + _count(record, Outcome.CALLS_WITH_ERROR) > 0


def stage1_reward(record: EpisodeRecord) -> float:
    """R = I_tool * (R_format + R_tool) [0..2]."""
    return format_reward(record) + tool_call_reward(record) if attempted_call(record) else 0.0


def progress_reward(record: EpisodeRecord) -> float:
    """R_P = successful turns / T [0..1]; turns not reached count as failed."""
    return sum(verdict.success for verdict in record.verdicts) / record.turns


def binary_reward(record: EpisodeRecord) -> float:
    """1 if all T turns succeed, else 0 (the ablation of the paper's Fig. 4b)."""
    return float(sum(verdict.success for verdict in record.verdicts) == record.turns)


def direct_reward(record: EpisodeRecord) -> float:
    """0.9 R_P + 0.1 R_format: the single-stage GRPO baseline [0..1]."""
    return 0.9 * progress_reward(record) + 0.1 * format_reward(record)


def advantages(scores: Sequence[float], scale: str = "group") -> list[float]:
    """A group's advantages as TRL computes them: minus the mean, over the standard deviation.

    scale: Preset.scale_rewards; "none" leaves the division out.

    >>> advantages([1.0, 0.0, 0.0, 1.0], "none")
    [0.5, -0.5, -0.5, 0.5]
    """
    mean, width = fmean(scores), stdev(scores) + 1e-4 if scale == "group" else 1.0
    return [(score - mean) / width for score in scores]


def _similarity(call: Call, truth: Call) -> float:
    """Jaccard overlap of the argument names, plus one for each argument with the right value."""
    names = call.arguments.keys() | truth.arguments.keys()
    overlap = len(call.arguments.keys() & truth.arguments.keys()) / len(names) if names else 1.0
    return overlap + sum(
        name in call.arguments and call.arguments[name] == value
        for name, value in truth.arguments.items()
    )


def call_correctness(calls: Sequence[Call], truth: Sequence[Call]) -> float:
    """ToolRL's R_correct of one turn [-3..3].

    The score adds the overlap of the tool names and the similarity of each true call to its best
    match among the calls not yet matched. A turn whose ground truth is empty gives 3 without a
    call and -3 with one.
    """
    if not truth:
        return -3.0 if calls else 3.0
    made, wanted = {c.name for c in calls}, {c.name for c in truth}
    score, left = len(made & wanted) / len(made | wanted), list(calls)
    for true in truth:
        if same := [i for i, call in enumerate(left) if call.name == true.name]:
            best = max(same, key=lambda i: _similarity(left[i], true))
            score += _similarity(left.pop(best), true)
    return 6 * score / (1 + len(truth) + sum(len(true.arguments) for true in truth)) - 3


def toolrl_reward(record: EpisodeRecord) -> float:
    """ToolRL's R_format + R_correct [-3..4] (arXiv 2504.13958, section 3.3).

    It compares the calls with the ground truth's calls, not their effects. ToolRL scores single
    turns; here R_correct is the mean over all T turns, and a turn that was not reached gives -3.
    """
    truth = bfcl.load_task(record.task_id).ground_truth
    calls: list[list[Call]] = [[] for _ in truth]
    reached = 1 + max((step.turn for step in record.steps), default=-1)
    for step in record.steps:
        calls[step.turn] += step.calls
    turns = [
        call_correctness(calls[i], truth[i]) if i < reached else -3.0 for i in range(record.turns)
    ]
    return format_reward(record) + fmean(turns)


def _names_read(code: types.CodeType) -> set[str]:
    """Global names that a function and the functions inside it read; no attributes."""
    instructions = dis.get_instructions(code)
    names = {i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_read(constant)
    return names


def _read_outside(function: types.FunctionType) -> dict[str, object]:
    """Numbers and texts that a function reads from its module and from functions around it."""
    read = _names_read(function.__code__)
    outside = {k: v for k, v in function.__globals__.items() if k in read}
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            outside[name] = cell.cell_contents
    return {k: v for k, v in outside.items() if isinstance(v, (bool, int, float, str))}


def _stable(value: object) -> str:
    """Compiled code, a constant or a default value as text that every process writes alike.

    No addresses, files or line numbers; of an object that is not plain data, its type alone.
    """
    if isinstance(value, types.CodeType):
        arguments = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount)
        names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
        code = (value.co_code, value.co_exceptiontable, value.co_flags, arguments, names)
        return f"code {code} {_stable(value.co_consts)}"
    if isinstance(value, (tuple, list, set, frozenset, dict)):
        parts = [_stable(v) for v in (value.items() if isinstance(value, dict) else value)]
        if isinstance(value, (set, frozenset)):
            parts.sort()  # their order changes with Python's hash seed
        return f"{type(value).__name__}({', '.join(parts)})"
    plain = (bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType)
    return repr(value) if isinstance(value, plain) else type(value).__qualname__


@dataclass(frozen=True)
class Reward:
    """A function that scores an episode, and the largest value it can return."""

    function: Callable[[EpisodeRecord], float]
    maximum: float
    """A stage whose mean reward is near this value counts as solved for the collapse guard."""

    def __post_init__(self):
        if not inspect.isfunction(self.function):
            raise ValueError(
                f"a Reward takes a function of an EpisodeRecord, got {self.function!r}; "
                "wrap it in a `def`"
            )
        if not isinstance(self.maximum, Real) or not 0 <= self.maximum < math.inf:
            raise ValueError(
                f"reward {self.name}: maximum is the largest value that it can return, "
                f"a number of at least 0, got {self.maximum!r}"
            )

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, record: EpisodeRecord) -> float:
        """The function's value. ValueError when it is not a finite number."""
        value = self.function(record)
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"reward {self.name} returned {value!r} for an episode of {record.task_id}; "
                "it must return a finite number"
            )
        if value > self.maximum + 1e-9:
            warnings.warn(
                f"reward {self.name} returned more than its maximum of {self.maximum}; "
                "the collapse guard needs the true maximum",
                stacklevel=2,
            )
        return float(value)

    def source_digest(self) -> str:
        """Digest that tells versions of the function apart.

        It covers the function as it was compiled, with its default values, and the numbers and
        texts that it reads from outside, but not other functions that it calls. Comments do not
        count; another Python version compiles to another digest.
        """
        # of a decorated function, the wrapper and what it wraps
        functions = dict.fromkeys((self.function, inspect.unwrap(self.function)))
        parts = [
            (f.__code__, f.__defaults__, f.__kwdefaults__, sorted(_read_outside(f).items()))
            for f in functions
            if inspect.isfunction(f)
        ]
        return sha256(_stable(parts).encode()).hexdigest()[:12]


REWARDS = {
    "stage1": Reward(stage1_reward, maximum=2.0),
    "progress": Reward(progress_reward, maximum=1.0),
    "binary": Reward(binary_reward, maximum=1.0),
    "direct": Reward(direct_reward, maximum=1.0),
    "toolrl": Reward(toolrl_reward, maximum=4.0),
}
"""The built-in rewards, by the name that a stage may give."""


def reward_of(given: str | Reward) -> Reward:
    """The Reward that a stage names: built in, or "module:name". A Reward is returned as it is."""
    if isinstance(given, Reward):
        return given
    if given in REWARDS:
        return REWARDS[given]
    if not isinstance(given, str) or ":" not in given:
        raise ValueError(
            f"reward is one of {', '.join(REWARDS)}, or Reward(function, maximum=...), "
            f'or "module:name" of a Reward in a module; got {given!r}'
        )
    module, _, name = given.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reward {given!r} cannot be loaded: {error}; the module must lie beside the "
            "notebook or in a folder on PYTHONPATH"
        ) from None
    if not isinstance(found, Reward):
        raise ValueError(
            f"reward {given!r} is a {type(found).__name__}; the module needs "
            f"a line such as `NAME = Reward({name}, maximum=1.0)`, and the stage that name"
        )
    return found


def reward_settings(given: str | Reward) -> str | dict[str, str | float]:
    """A stage's reward in config.json: its name, and a digest if it is not built in."""
    if isinstance(given, str) and given in REWARDS:
        return given
    reward = reward_of(given)
    return {
        "name": given if isinstance(given, str) else reward.name,
        "maximum": reward.maximum,
        "source_digest": reward.source_digest(),
    }
