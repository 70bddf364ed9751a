"""Which tasks a run sees, and in which order.

    >>> practice_order(("a", "b", "c"), 5, seed=0)
    ['b', 'a', 'c', 'b', 'c']
"""
import random
from collections.abc import Sequence

from envtune import bfcl
from envtune.bfcl import splits
from envtune.presets import Preset
from envtune.stages import Stage, stage_tasks


def practice_tasks(stage: Stage, preset: Preset) -> tuple[str, ...]:
    """The tasks a stage trains on under a preset. The split is that of seed 0 in every run; a run's seed is its own."""
    tasks = stage_tasks(stage, splits.of_tasks(preset.tasks))
    if preset.max_scenarios is None:
        return tasks
    practised = set(practice_scenarios(preset))
    return tuple(t for t in tasks if t in practised)


def practice_order(tasks: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` task ids: pass after pass over `tasks`, each pass shuffled anew.

    A stage's whole order is one epoch to TRL, because its own shuffling starts over when a run resumes between epochs.
    """
    draw, order = random.Random(f"order {seed}"), []
    while len(order) < count:
        order += draw.sample(tasks, len(tasks))
    return order[:count]


def practice_scenarios(preset: Preset) -> tuple[str, ...]:
    """Training tasks of the preset's few scenarios (all four variants); they are chosen within stage 1's tasks so that every
    stage has some of them. Of a mixture, so many of each kind."""
    practised: tuple[str, ...] = ()
    for tasks in ("bfcl", "synthetic") if preset.tasks == "both" else (preset.tasks,):
        everything = splits.of_tasks(tasks)
        chosen = set(splits.shortest_scenarios(everything.stage1, preset.max_scenarios))  # base tasks: they name their scenarios
        practised += tuple(t for t in everything.train if splits.scenario_of(t) in chosen)
    return practised


def spread(tasks: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the tasks, in their order: as many of each variant as there are, spread over all of them. No more than there are."""
    by_variant, count = sorted(tasks, key=lambda t: bfcl.load_task(t).split), min(count, len(tasks))
    chosen = {by_variant[i * len(tasks) // count] for i in range(count)}
    return tuple(t for t in tasks if t in chosen)


def validation_tasks(preset: Preset) -> tuple[str, ...]:
    """Held-out tasks that a preset validates on."""
    return spread(splits.of_tasks(preset.tasks).validation, preset.validation_tasks)


def evaluation_tasks(preset: Preset, count: int = 0) -> tuple[str, ...]:
    """Tasks that a finished run is evaluated on: the whole held-out set, or `count` of it."""
    held_out = splits.of_tasks(preset.tasks).test
    return spread(held_out, count) if count else held_out
