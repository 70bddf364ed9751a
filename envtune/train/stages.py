"""The four stages as data (paper section 3.1), and the tasks of a run.

An ablation is a stage made with `replace`.

>>> replace(STAGES[1], name="stage2_no_hints", hint_rate=0.0)
>>> replace(STAGES[2], reward="binary")
>>> replace(STAGES[3], hint_rate=1.0, hint_schedule="linear")  # hints withdrawn gradually
>>> train_curriculum(preset, folder, stages=(STAGES[1], STAGES[0], *STAGES[2:]))  # another order
>>> [stage.hint_rate for stage in stages_of(["stage2_hints"], hint_rate=0.5)]
[0.5]
>>> training_order(("a", "b", "c"), 5, seed=0)
['b', 'a', 'c', 'b', 'c']
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from envtune import bfcl
from envtune.bfcl.splits import Splits, is_base, of_tasks, scenario_of, shortest_scenarios
from envtune.env.rewards import Reward, reward_of
from envtune.hints import Corruption
from envtune.train.presets import EPISODE_TOKENS, Preset
from envtune.train.transition import Transition

SCHEDULES = ("constant", "linear", "cosine", "step")
TASK_SETS = ("stage1", "train_base", "train")


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: its tasks, its reward and what the agent is told."""

    name: str
    tasks: str | tuple[str, ...]
    """One of TASK_SETS: the 75 stage-1 tasks, the 100 base training tasks, or all 400;
    Preset.tasks says whether they are BFCL's or synthetic. Or ids of tasks, also of your own."""
    reward: str | Reward
    """A name in rewards.REWARDS, a Reward, or "module:name" of a Reward in a module of your own."""
    hint_rate: float
    """Share of episodes whose vague errors have hints [0..1], at the start of the stage."""
    rules: bool
    """Whether the prompt has the two rules: look before asking, ask before inventing."""
    prompts_per_step: int
    """Tasks in one optimiser step at the paper's size [prompts]."""
    completion_tokens: int
    """Completion length of an episode at the paper's size [tokens]."""
    reward_scale: float = 1.0
    """Factor of the reward. It cancels out when rewards are normalised within groups, as in the
    paper (see Preset.scale_rewards)."""
    hint_schedule: str = "constant"
    """How the share changes from hint_rate to hint_rate_end over the stage: one of SCHEDULES."""
    hint_rate_end: float = 0.0
    """The share at the end of the stage [0..1]; the constant schedule ignores it."""
    corruption: str = "none"
    """How hints are corrupted, one of hints.KINDS (for studies; not part of the method)."""
    corruption_rate: float = 0.0
    """Share of the shown hints that are corrupted [0..1]."""
    transition: Transition = field(default_factory=Transition)
    """When the stage ends, unless the preset fixes its number of steps."""

    def __post_init__(self):
        if self.tasks not in TASK_SETS and (isinstance(self.tasks, str) or not self.tasks):
            raise ValueError(
                f"stage {self.name!r}: tasks is one of {', '.join(TASK_SETS)}, or a tuple of task "
                f"ids, got {self.tasks!r}"
            )
        reward_of(self.reward)
        for name in ("hint_rate", "hint_rate_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"stage {self.name!r}: {name} is in [0, 1], got {getattr(self, name)!r}"
                )
        if self.hint_schedule not in SCHEDULES:
            raise ValueError(
                f"stage {self.name!r}: hint_schedule is one of {', '.join(SCHEDULES)}, "
                f"got {self.hint_schedule!r}"
            )
        if self.reward_scale <= 0:
            raise ValueError(
                f"stage {self.name!r}: reward_scale is above 0, got {self.reward_scale!r}"
            )
        Corruption(self.corruption, self.corruption_rate)

    @property
    def shows_hints(self) -> bool:
        """Whether an episode of the stage can have hints."""
        return max(self.hint_rate, self.hint_rate_at(1.0)) > 0.0

    def hint_rate_at(self, done: float) -> float:
        """The share of episodes with hints after the fraction `done` of the stage [0..1]."""
        start, end = self.hint_rate, self.hint_rate_end
        return {
            "constant": start,
            "linear": start + (end - start) * done,
            "step": start if done < 0.5 else end,
            "cosine": end + (start - end) * (1 + math.cos(math.pi * done)) / 2,
        }[self.hint_schedule]


STAGES = (
    Stage(
        "stage1_syntax",
        "stage1",
        "stage1",
        hint_rate=0.0,
        rules=False,
        prompts_per_step=16,
        completion_tokens=10_000,
    ),
    Stage(
        "stage2_hints",
        "train_base",
        "progress",
        hint_rate=1.0,
        rules=False,
        prompts_per_step=32,
        completion_tokens=10_000,
    ),
    Stage(
        "stage3_hard_tasks",
        "train",
        "progress",
        hint_rate=1.0,
        rules=True,
        prompts_per_step=32,
        completion_tokens=EPISODE_TOKENS,
    ),
    Stage(
        "stage4_alignment",
        "train",
        "progress",
        hint_rate=0.0,
        rules=True,
        prompts_per_step=32,
        completion_tokens=EPISODE_TOKENS,
    ),
)
DIRECT_GRPO = replace(STAGES[3], name="direct_grpo", reward="direct")
"""The paper's single-stage baseline: 0.9 progress + 0.1 format, no hints, no curriculum."""
TOOLRL = replace(STAGES[3], name="toolrl", reward="toolrl")
"""The same stage with ToolRL's reward, which compares calls with the ground truth's calls."""

BY_NAME = {stage.name: stage for stage in (*STAGES, DIRECT_GRPO, TOOLRL)}


def splits_of(preset: Preset, tasks: str | None = None) -> Splits:
    """The splits that a preset uses, or those of `tasks` alone. Every run uses those of seed 0."""
    scenarios, requests = preset.synthetic_scenarios, preset.synthetic_requests
    return of_tasks(tasks or preset.tasks, scenarios=scenarios, requests=requests)


def training_tasks(stage: Stage, preset: Preset) -> tuple[str, ...]:
    """The tasks that a stage trains on with a preset; ids that the stage names are all taken."""
    if not isinstance(stage.tasks, str):
        return tuple(stage.tasks)
    parts, selected = splits_of(preset), set(shortest_scenario_tasks(preset))
    sets = {"stage1": parts.stage1, "train_base": filter(is_base, parts.train)}
    return tuple(t for t in sets.get(stage.tasks, parts.train) if t in selected)


def training_order(tasks: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` task ids: repeated passes over `tasks`, each with its own shuffle.

    TRL gets the whole stage as one epoch, because its own shuffling restarts when a run resumes
    between epochs.
    """
    draw, order = random.Random(f"order {seed}"), []
    while len(order) < count:
        order += draw.sample(tasks, len(tasks))
    return order[:count]


def shortest_scenario_tasks(preset: Preset) -> tuple[str, ...]:
    """Training tasks in all four variants of the preset's `max_scenarios` shortest scenarios.

    The scenarios are taken from the stage-1 tasks, so that every stage has some of them. A mixture
    of BFCL's and synthetic tasks has that many of each. Without a maximum, all training tasks.
    """
    if preset.max_scenarios is None:
        return splits_of(preset).train
    chosen: tuple[str, ...] = ()
    for tasks in ("bfcl", "synthetic") if preset.tasks == "both" else (preset.tasks,):
        parts = splits_of(preset, tasks)
        # a scenario is named by the id of its base task
        scenarios = set(shortest_scenarios(parts.stage1, preset.max_scenarios))
        chosen += tuple(t for t in parts.train if scenario_of(t) in scenarios)
    return chosen


def spread(tasks: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the tasks (all, if there are fewer), in order and balanced over the variants."""
    by_variant, count = sorted(tasks, key=lambda t: bfcl.load_task(t).split), min(count, len(tasks))
    chosen = {by_variant[i * len(tasks) // count] for i in range(count)}
    return tuple(t for t in tasks if t in chosen)


def validation_tasks(preset: Preset) -> tuple[str, ...]:
    """Held-out tasks that a preset validates on."""
    return spread(splits_of(preset).validation, preset.validation_tasks)


def evaluation_tasks(preset: Preset, count: int | None = None) -> tuple[str, ...]:
    """Tasks that a finished run is evaluated on: the whole held-out set, or `count` of them."""
    held_out = splits_of(preset).test
    return spread(held_out, count) if count else held_out


def stages_of(
    names: Sequence[str],
    reward: str | Reward | None = None,
    reward_scale: float = 1.0,
    hint_rate: float | None = None,
    hint_schedule: str | None = None,
    corruption: str = "none",
    corruption_rate: float = 0.0,
) -> list[Stage]:
    """The named stages with these changes; None changes nothing. ValueError for an unknown name.

    Stage 1 keeps its reward: `reward` replaces the progress reward, which stage 1 does not use.
    """
    unknown = [name for name in names if name not in BY_NAME]
    if unknown or not names:
        raise ValueError(
            f"stages are any of {', '.join(BY_NAME)}, at least one; got {list(names)!r}"
        )
    chosen = []
    for stage in (BY_NAME[name] for name in names):
        own = stage.reward if stage.reward == "stage1" else reward or stage.reward
        chosen.append(
            replace(
                stage,
                reward=own,
                reward_scale=reward_scale,
                hint_rate=stage.hint_rate if hint_rate is None else hint_rate,
                hint_schedule=hint_schedule or stage.hint_schedule,
                corruption=corruption,
                corruption_rate=corruption_rate,
            )
        )
    return chosen


def steps_of(stages: Sequence[Stage], steps: Sequence[int] | None, preset: Preset) -> list[int]:
    """Number of steps of each stage: `steps`, or the preset's.

    A single-stage baseline gets the preset's steps of all four stages together. ValueError unless
    `steps` has a number above 0 for each stage.
    """
    own = dict(zip((stage.name for stage in STAGES), preset.stage_steps, strict=True))
    found = list(steps or ()) or [own.get(stage.name, sum(preset.stage_steps)) for stage in stages]
    if len(found) != len(stages) or any(n < 1 for n in found):
        raise ValueError(
            f"stage_steps holds a number above 0 for each of {len(stages)} stages, got {found!r}"
        )
    return found
