"""Rewards: pure functions of an EpisodeRecord (PAPER: rewards; paper section 3.4 and appendix).

    >>> record = replay("multi_turn_base_3", ["<think>x</think><answer>Done.</answer>"] * 2)
    >>> format_reward(record), tool_call_reward(record), progress_reward(record)
    (1.0, 0.0, 0.0)
    >>> REWARDS["direct"](record), REWARDS["direct"].maximum
    (0.1, 1.0)

Counts are per step, not per call, and a step that ended a turn counts for neither C_correct nor
C_error, as in the authors' code. Progress is always over the task's T turns (a departure: the
authors average over the turns reached). A reward of your own: docs/rewards.md.
"""

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from numbers import Real
from statistics import fmean

from envtune import bfcl
from envtune.bfcl import Call
from envtune.record import EpisodeRecord, Outcome


def _count(record: EpisodeRecord, outcome: Outcome) -> int:
    return sum(step.outcome is outcome for step in record.steps)


def format_reward(record: EpisodeRecord) -> float:
    """R_format = (N - C_format) / N over the N steps [0..1]; 0 for an episode without steps."""
    return (
        (len(record.steps) - _count(record, Outcome.FORMAT_ERROR)) / len(record.steps)
        if record.steps
        else 0.0
    )


def tool_call_reward(record: EpisodeRecord) -> float:
    """R_tool = C_correct / (C_correct + C_error) [0..1]; 0 when no call was executed."""
    correct, wrong = _count(record, Outcome.CALLS), _count(record, Outcome.CALLS_WITH_ERROR)
    return correct / (correct + wrong) if correct + wrong else 0.0


def attempted_call(record: EpisodeRecord) -> bool:
    """I_tool: whether the episode holds any call that counts for R_tool."""
    return _count(record, Outcome.CALLS) + _count(record, Outcome.CALLS_WITH_ERROR) > 0


def stage1_reward(record: EpisodeRecord) -> float:
    """R = I_tool * (R_format + R_tool) [0..2]."""
    return (format_reward(record) + tool_call_reward(record)) if attempted_call(record) else 0.0


def progress_reward(record: EpisodeRecord) -> float:
    """R_P = successful turns / T [0..1]; turns not reached count as failed."""
    return sum(verdict.success for verdict in record.verdicts) / record.turns


def binary_reward(record: EpisodeRecord) -> float:
    """1 if all T turns succeed, else 0 (the ablation of the paper's Fig. 4b)."""
    return float(
        len(record.verdicts) == record.turns and all(verdict.success for verdict in record.verdicts)
    )


def direct_reward(record: EpisodeRecord) -> float:
    """0.9 R_P + 0.1 R_format: the single-stage GRPO baseline [0..1]."""
    return 0.9 * progress_reward(record) + 0.1 * format_reward(record)


def _likeness(call: Call, truth: Call) -> float:
    """Score of a call with the right name: Jaccard overlap of the argument names, plus one point
    for each argument with the right value."""
    names = call.arguments.keys() | truth.arguments.keys()
    overlap = len(call.arguments.keys() & truth.arguments.keys()) / len(names) if names else 1.0
    right = [
        name
        for name, value in truth.arguments.items()
        if name in call.arguments and call.arguments[name] == value
    ]
    return overlap + len(right)


def call_correctness(calls: Sequence[Call], truth: Sequence[Call]) -> float:
    """ToolRL's R_correct of one turn [-3..3].

    Overlap of tool names, then each true call against the best call not yet taken. A turn whose
    ground truth is empty is worth 3 without a call and -3 with one.
    """
    if not truth:
        return -3.0 if calls else 3.0
    made, wanted = {c.name for c in calls}, {c.name for c in truth}
    score, left = len(made & wanted) / len(made | wanted), list(calls)
    for true in truth:
        if same := [i for i, call in enumerate(left) if call.name == true.name]:
            score += _likeness(left.pop(max(same, key=lambda i: _likeness(left[i], true))), true)
    return 6 * score / (1 + len(truth) + sum(len(true.arguments) for true in truth)) - 3


def toolrl_reward(record: EpisodeRecord) -> float:
    """ToolRL's R_format + R_correct [-3..4] (PAPER: rewards; arXiv 2504.13958, section 3.3).

    It judges the calls and not what they did. ToolRL scores single turns; here R_correct is the
    mean over all T turns, and a turn that was not reached counts -3.
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


@dataclass(frozen=True)
class Reward:
    """A function that scores an episode, and the largest value it gives."""

    function: Callable[[EpisodeRecord], float]
    maximum: float
    """The collapse guard takes a mean reward near this value for a solved stage."""

    def __post_init__(self):
        if not inspect.isfunction(self.function):
            raise ValueError(
                f"a Reward takes a function of an EpisodeRecord, got {self.function!r}; "
                "wrap it in a `def`"
            )
        if not isinstance(self.maximum, Real) or not 0 <= self.maximum < math.inf:
            raise ValueError(
                f"reward {self.name}: maximum is the largest value that it gives, "
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
                f"reward {self.name} gave {value!r} for an episode of {record.task_id}; "
                "it must return a finite number"
            )
        if value > self.maximum + 1e-9:
            warnings.warn(
                f"reward {self.name} gave more than its maximum of {self.maximum}; "
                "the collapse guard needs the true one",
                stacklevel=2,
            )
        return float(value)

    def source_digest(self) -> str:
        """Tells two versions of the function apart: its source, and the numbers and texts that it
        reads from outside. Changes in other functions that it calls are not seen."""
        used = inspect.getclosurevars(self.function)
        outside = {**used.globals, **used.nonlocals}
        constants = {k: v for k, v in outside.items() if isinstance(v, (bool, int, float, str))}
        try:
            text = inspect.getsource(self.function) + repr(sorted(constants.items()))
        except OSError:
            raise ValueError(
                f"the source of reward {self.name} cannot be read, so a run could not tell two "
                "versions of it apart; define it in a notebook cell or in a module"
            ) from None
        return sha256(text.encode()).hexdigest()[:12]


REWARDS = {
    "stage1": Reward(stage1_reward, maximum=2.0),
    "progress": Reward(progress_reward, maximum=1.0),
    "binary": Reward(binary_reward, maximum=1.0),
    "direct": Reward(direct_reward, maximum=1.0),
    "toolrl": Reward(toolrl_reward, maximum=4.0),
}
"""The built-in rewards, by the name that a stage may give."""


def reward_of(given: str | Reward) -> Reward:
    """A stage's reward: a built-in one by name, one of a module as "module:name", or as it is."""
    if isinstance(given, Reward):
        return given
    if given in REWARDS:
        return REWARDS[given]
    if not isinstance(given, str) or ":" not in given:
        raise ValueError(
            f"reward is one of {', '.join(REWARDS)}, or Reward(function, maximum=...), "
            f'or "module:name" of one in a module; got {given!r}'
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


def reward_settings(given: str | Reward) -> str | dict:
    """How config.json keeps a stage's reward: by name, and with a digest if it is not built in."""
    if given in REWARDS:
        return given
    reward = reward_of(given)
    return {
        "name": given if isinstance(given, str) else reward.name,
        "maximum": reward.maximum,
        "source_digest": reward.source_digest(),
    }
