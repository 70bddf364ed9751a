"""Rewards: pure functions of an EpisodeRecord (PAPER: rewards; paper section 3.4 and appendix).

    >>> record = replay("multi_turn_base_3", ["<think>x</think><answer>Done.</answer>"] * 2)
    >>> format_reward(record), tool_call_reward(record), stage1_reward(record), progress_reward(record)
    (1.0, 0.0, 0.0, 0.0)

Counts are per step, not per call, and a step that ended a turn counts for neither C_correct nor C_error, as in the
authors' code. Progress is always over the task's T turns (a departure: the authors average over the turns reached).
"""
from envtune.episode import EpisodeRecord, Outcome


def _count(record: EpisodeRecord, outcome: Outcome) -> int:
    return sum(step.outcome is outcome for step in record.steps)


def format_reward(record: EpisodeRecord) -> float:
    """R_format = (N - C_format) / N over the N steps [0..1]; 0 for an episode without steps."""
    return (len(record.steps) - _count(record, Outcome.FORMAT_ERROR)) / len(record.steps) if record.steps else 0.0


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
    return float(len(record.verdicts) == record.turns and all(verdict.success for verdict in record.verdicts))


def direct_reward(record: EpisodeRecord) -> float:
    """0.9 R_P + 0.1 R_format: the single-stage GRPO baseline [0..1]."""
    return 0.9 * progress_reward(record) + 0.1 * format_reward(record)


REWARDS = {f.__name__.removesuffix("_reward"): f for f in (stage1_reward, progress_reward, binary_reward, direct_reward)}
"""Rewards that a stage may name."""
