"""Rewards: pure functions of an EpisodeRecord (PAPER: rewards; paper section 3.4 and appendix).

    >>> record = replay("multi_turn_base_3", ["<think>x</think><answer>Done.</answer>"] * 2)
    >>> format_reward(record), tool_call_reward(record), stage1_reward(record), progress_reward(record)
    (1.0, 0.0, 0.0, 0.0)

Counts are per step, not per call, and a step that ended a turn counts for neither C_correct nor C_error, as in the
authors' code. Progress is always over the task's T turns (a departure: the authors average over the turns reached).
"""

from collections.abc import Sequence
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
    """Of a call with the right name: Jaccard overlap of the argument names, and a point for each argument with the right value."""
    names = call.arguments.keys() | truth.arguments.keys()
    overlap = len(call.arguments.keys() & truth.arguments.keys()) / len(names) if names else 1.0
    right = [
        name
        for name, value in truth.arguments.items()
        if name in call.arguments and call.arguments[name] == value
    ]
    return overlap + len(right)


def call_correctness(calls: Sequence[Call], truth: Sequence[Call]) -> float:
    """ToolRL's R_correct of one turn [-3..3]: overlap of tool names, then each true call against the best call not yet taken.

    A turn whose ground truth is empty is worth 3 without a call and -3 with one.
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
    """ToolRL's R_format + R_correct [-3..4], R_correct as a mean over all T turns (ToolRL itself is about single turns; a turn not
    reached counts -3). It judges the calls and not what they did (PAPER: rewards; ToolRL: arXiv 2504.13958, section 3.3)."""
    truth = bfcl.load_task(record.task_id).ground_truth
    calls: list[list[Call]] = [[] for _ in truth]
    reached = 1 + max((step.turn for step in record.steps), default=-1)
    for step in record.steps:
        calls[step.turn] += step.calls
    turns = [
        call_correctness(calls[i], truth[i]) if i < reached else -3.0 for i in range(record.turns)
    ]
    return format_reward(record) + fmean(turns)


REWARDS = {
    f.__name__.removesuffix("_reward"): f
    for f in (stage1_reward, progress_reward, binary_reward, direct_reward, toolrl_reward)
}
"""Rewards that a stage may name."""
MAXIMUM = {"stage1": 2.0, "progress": 1.0, "binary": 1.0, "direct": 1.0, "toolrl": 4.0}
"""The largest value of each."""
