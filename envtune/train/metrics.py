"""A row of metrics.jsonl: the fields of each kind, and what is computed of a batch of episodes.

    {"stage": "stage1_syntax", "step": 3, "kind": "train", "reward": 0.8, "progress": 0.4, ...}
    {"stage": "stage1_syntax", "step": 10, "kind": "validation", "accuracy": 0.3, ...}

runlog.MetricsLog writes the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from envtune import bfcl
from envtune.env import recovery, rewards
from envtune.record import Ending, EpisodeRecord, Outcome


class _Row(TypedDict):
    """What every row of metrics.jsonl has."""

    stage: str
    step: int


class _Batch(_Row):
    """Means over a batch of episodes; `means` has all of them."""

    episodes: int
    seconds: float
    format_reward: float
    tool_call_reward: float
    progress: float
    binary: float
    steps_per_episode: float
    errors_per_episode: float
    recovery_rate: NotRequired[float]  # where there was an error


class TrainRow(_Batch):
    kind: Literal["train"]
    loss: float
    reward: float
    reward_std: float
    kl: NotRequired[float]  # where beta is not 0
    entropy: float
    grad_norm: float
    learning_rate: float
    share_of_groups_without_signal: float
    sampled_tokens: int
    generation_seconds: float
    environment_seconds: float
    # |log-probability of a sampled token in vLLM - in the trainer|, of a step; with vLLM alone
    logprob_difference_mean: NotRequired[float]
    logprob_difference_max: NotRequired[float]


class ValidationRow(_Batch):
    kind: Literal["validation"]
    accuracy: float  # also accuracy_<split>


class DecisionRow(_Row):
    kind: Literal["decision"]
    move_on: bool
    why: str  # also the numbers of transition.Decision.evidence


class AlarmRow(_Row):
    kind: Literal["alarm"]
    alarm: str
    why: str
    action: str


class RollbackRow(_Row):
    kind: Literal["rollback"]
    rollback: int  # its number in the stage, from 1
    at_step: int
    to_step: int
    alarm: str
    why: str
    learning_rate: float


class SFTRow(_Row):
    kind: Literal["sft"]
    loss: float
    grad_norm: float
    learning_rate: float


class Notice(_Row):
    """Passed to `OnRow` and not written to the file."""

    kind: Literal["resumed", "finished", "stopped"]
    steps: int  # the stage's length


MetricsRow = TrainRow | ValidationRow | DecisionRow | AlarmRow | RollbackRow | SFTRow
"""One row of metrics.jsonl; `kind` says which."""
OnRow = Callable[[MetricsRow | Notice], object]
"""A callback for every row of metrics.jsonl as it is written, and for three kinds not in it:
"resumed" (`step`: where a stage resumes), "finished" (`step`: its last one; sent again when a
finished stage is called again) and "stopped" (by an interrupt or an error)."""

SAID = {
    "train": {
        "reward": "reward",
        "progress": "progress",
        "entropy": "entropy",
        "kl": "KL",
        "grad_norm": "gradient norm",
    },
    "validation": {"accuracy": "accuracy", "progress": "progress"},
}
"""The numbers of a row that `in_words` says, and what it calls them."""


def in_words(row: Mapping, steps: int | None = None) -> str:
    """A row or a notice as one plain line; steps: the stage's length, where it is known.

    >>> in_words({"stage": "s", "step": 3, "kind": "train", "reward": 0.43, "kl": 0.01}, 20)
    's, step 3 of 20: reward 0.43, KL 0.01'
    """
    of, kind = f" of {steps}" if steps else "", row["kind"]
    if kind in ("resumed", "finished", "stopped"):
        return f"{row['stage']}: {kind} at step {row['step']} of {row['steps']}"
    said = SAID.get(kind, {}).items()
    numbers = [f"{words} {row[name]:.3g}" for name, words in said if name in row]
    if kind == "validation":
        what = f"validation of {row['episodes']} tasks, sampled: {', '.join(numbers)}"
    else:
        what = ", ".join(numbers) or f"{kind}: {row.get('why', '')}"
    return f"{row['stage']}, step {row['step']}{of}: {what}"


LINE_EVERY = 5
"""A plain line is printed of every so many training steps, and of everything else."""


def print_some(row: Mapping) -> None:
    """An `on_row` that prints plain lines."""
    if row["kind"] != "train" or row["step"] % LINE_EVERY in (0, 1):
        print(in_words(row), flush=True)


LOGGED = {
    "loss": "loss",
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "frac_reward_zero_std": "share_of_groups_without_signal",
    "learning_rate": "learning_rate",
    "completions/mean_length": "sampled_tokens_per_episode",
    "sampling/sampling_logp_difference/mean": "logprob_difference_mean",
    "sampling/sampling_logp_difference/max": "logprob_difference_max",
}
"""TRL's names -> ours, for what TRL computes; the rest of a row comes from `means`."""
CUT_SHORT = (
    Ending.TURN_STEP_LIMIT,
    Ending.EPISODE_STEP_LIMIT,
    Ending.TOKEN_LIMIT,
    Ending.OBSERVATION_LIMIT,
)
"""The limits that end an episode, each counted in the metrics."""


def means(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """What a row says of a batch of episodes: means, unless named otherwise."""
    n = len(records)
    events = recovery.errors(records)
    steps = [step for record in records for step in record.steps]

    def mean(values) -> float:
        return float(sum(values)) / n

    return {
        "format_reward": mean(rewards.format_reward(r) for r in records),
        "tool_call_reward": mean(rewards.tool_call_reward(r) for r in records),
        "progress": mean(rewards.progress_reward(r) for r in records),
        "binary": mean(rewards.binary_reward(r) for r in records),
        "share_with_call": mean(rewards.attempted_call(r) for r in records),
        "steps_per_episode": mean(len(r.steps) for r in records),
        "share_with_hints_on": mean(r.hints_on for r in records),
        "hints_per_episode": mean(
            sum(h is not None for s in r.steps for h in s.hints) for r in records
        ),
        **{
            f"share_ended_by_{ending}": mean(r.ending is ending for r in records)
            for ending in CUT_SHORT
        },
        "share_of_steps_forced": sum(s.outcome is Outcome.FORCED_END for s in steps)
        / max(1, len(steps)),
        "share_of_steps_truncated": sum(s.truncated > 0 for s in steps) / max(1, len(steps)),
        "errors_per_episode": len(events) / n,
        # the recovered share of all errors; a batch without errors has no such number
        **({"recovery_rate": sum(events["recovered"]) / len(events)} if len(events) else {}),
    }


def accuracy(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Accuracy by BFCL's own verdict, over all tasks and a split."""
    verdicts: dict[str, list[bool]] = {"accuracy": []}
    for record in records:
        for name in ("accuracy", f"accuracy_{bfcl.load_task(record.task_id).split}"):
            verdicts.setdefault(name, []).append(bfcl.official_valid(record))
    return {name: sum(v) / len(v) for name, v in verdicts.items()}
