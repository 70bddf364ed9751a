"""What the stage notebooks 04 to 07 show of a stage: its settings, what changed, its groups.

>>> settings(STAGES[1], CPU_TINY, steps=12, policy="Qwen/Qwen2.5-7B-Instruct")
>>> groups(run_dir, STAGES[1], CPU_TINY, step=1)[0]      # one group of the first step, as a table
"""

from collections import Counter
from itertools import islice
from pathlib import Path

import pandas as pd

from envtune import read_records
from envtune.common import paths
from envtune.env import rewards
from envtune.record import EpisodeRecord, Outcome
from envtune.study import experiments
from envtune.train import stages
from envtune.train.presets import Preset
from envtune.train.stages import Stage

SHOWN = (
    "reward",
    "format_reward",
    "tool_call_reward",
    "progress",
    "kl",
    "entropy",
    "grad_norm",
    "steps_per_episode",
    "share_with_call",
)


def settings(stage: Stage, setup: Preset, steps: int, policy: Path | str) -> pd.Series:
    """What a stage trains on, and from which policy."""
    return pd.Series(
        {
            "starts from": str(policy).removeprefix(f"{paths.ROOT}/"),
            "tasks": len(stages.training_tasks(stage, setup)),
            "reward": stage.reward,
            "share of episodes with hints": stage.hint_rate,
            "two rules in the prompt": stage.rules,
            "rollouts per step": rollouts(stage, setup),
            "steps": steps,
        },
        name=stage.name,
    )


def rollouts(stage: Stage, setup: Preset) -> int:
    """Episodes in one optimiser step."""
    return (setup.prompts_per_step or stage.prompts_per_step) * setup.generations


def change(metrics: pd.DataFrame, stage: Stage, column: str) -> tuple[pd.DataFrame, str]:
    """How a stage's training began and ended: a table of SHOWN, and a sentence on one column and
    on validation accuracy."""
    own = metrics["stage"] == stage.name
    train = metrics.loc[own & (metrics["kind"] == "train")]
    validations = metrics.loc[own & (metrics["kind"] == "validation")].to_dict("records")
    first, last = validations[0], validations[-1]
    sentence = (
        f"{experiments.change(train, column)} Validation accuracy (sampled, without hints) went "
        f"from {first['accuracy']:.2f} to {last['accuracy']:.2f} on {int(last['episodes'])} tasks."
    )
    return experiments.ends(train, SHOWN).round(3), sentence


def episodes(run_dir: Path, stage: Stage, step: int) -> list[EpisodeRecord]:
    """The training episodes of one step."""
    file = run_dir / "episodes.jsonl.gz"
    return list(read_records(file, stage=stage.name, kind="train", step=step))


def ends(metrics: pd.DataFrame, stage: Stage) -> tuple[int, int]:
    """The first and the last training step that a stage made."""
    made = metrics[(metrics["stage"] == stage.name) & (metrics["kind"] == "train")]["step"]
    return int(min(made)), int(max(made))


def first_hint(run_dir: Path, stage: Stage) -> pd.DataFrame:
    """The stage's first result that carried a hint; no rows where none was shown."""
    file = run_dir / "episodes.jsonl.gz"
    shown = (
        {
            "task": record.task_id,
            "the agent called": f"{call.name}({call.arguments})",
            "the tool said": result,
            "the agent read": step.feedback,
            "hint": hint,
        }
        for record in read_records(file, stage=stage.name, kind="train")
        for step in record.steps
        for call, result, hint in zip(step.calls, step.results, step.hints, strict=False)
        if hint
    )
    return pd.DataFrame(list(islice(shown, 1))).T.rename(columns={0: "the first hint"})


def outcomes(run_dir: Path, stage: Stage, steps: tuple[int, int]) -> pd.DataFrame:
    """What the policy's messages led to in two training steps [shares of all messages]."""
    table = {}
    for step in steps:
        messages = [m for record in episodes(run_dir, stage, step) for m in record.steps]
        counts = Counter(str(message.outcome) for message in messages)
        shares = {str(o): counts[str(o)] / len(messages) for o in Outcome if counts[str(o)]}
        table[f"step {step}"] = pd.Series(shares)
    return pd.DataFrame(table).fillna(0.0)


def groups(run_dir: Path, stage: Stage, setup: Preset, step: int) -> list[pd.DataFrame]:
    """The groups of one step, the one whose rewards differ most first; one row per episode:
    reward, advantage, turns won, messages, hints shown, and the record itself.

    An advantage is the reward minus the group's mean, divided by the group's standard deviation
    unless the preset says otherwise: what TRL computes, so equal rewards teach nothing.
    """
    played, found = episodes(run_dir, stage, step), []
    for first in range(0, len(played), setup.generations):
        group = played[first : first + setup.generations]
        reward = pd.Series([stage.reward_scale * rewards.reward_of(stage.reward)(r) for r in group])
        found.append(
            pd.DataFrame(
                {
                    "reward": reward,
                    "advantage": rewards.advantages(list(reward), setup.scale_rewards),
                    "turns won": [f"{sum(v.success for v in r.verdicts)}/{r.turns}" for r in group],
                    "messages": [len(r.steps) for r in group],
                    "hints": [sum(h is not None for s in r.steps for h in s.hints) for r in group],
                    "record": group,
                }
            )
        )
    return sorted(found, key=lambda group: -group["reward"].std())
