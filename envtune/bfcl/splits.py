"""Which tasks train and which test: 400/400 by scenario, validation, and the stage-1 subset.

    >>> splits = load_splits()
    >>> len(splits.train), len(splits.stage1), len(splits.validation)
    (400, 75, 100)
    >>> len(splits.test), len(splits.test_unseen)
    (400, 300)
    >>> of_tasks("synthetic").train[0]       # the same sets of synthetic tasks; "both" joins them
    'synthetic_base_0'

Task i of the four splits is one scenario, so a split made per task would show the test scenarios in
training. Here 100 scenario indices train and 100 are held out, the same in all four splits (the
paper says only "100 of each"). Validation is 25 of the held-out scenarios, because the paper takes
its validation from the held-out half too. Results are therefore reported on all 400 held-out tasks,
and on the 300 of them that no decision used.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from envtune.bfcl import synthetic
from envtune.bfcl.lookup import load_task
from envtune.bfcl.tasks import SPLITS, load_tasks
from envtune.common import paths

SCENARIOS, TRAIN_SCENARIOS, VALIDATION_SCENARIOS, STAGE1_TASKS = 200, 100, 25, 75
MODES = ("scenario", "per_task")
TASKS = ("bfcl", "synthetic", "both")


@dataclass(frozen=True)
class Splits:
    """Task ids, each in BFCL's order."""

    mode: str
    seed: int
    train: tuple[str, ...]
    stage1: tuple[str, ...]  # 75 of the 100 base training tasks: stage 1 learns the format
    validation: tuple[str, ...]  # 100 of `test`, on which stages are compared
    test: tuple[str, ...]  # all 400 held-out tasks, as the paper reports
    test_unseen: tuple[str, ...]  # the 300 of them outside validation


def make_splits(seed: int = 0, mode: str = "scenario") -> Splits:
    """Draw the splits. `per_task` samples each split alone, as the paper may have: that leaks."""
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, got {mode!r}")
    train, validation = set(), set()
    for split in SPLITS:
        draw = random.Random(f"{mode} {seed}" + (f" {split}" if mode == "per_task" else ""))
        order = draw.sample(range(SCENARIOS), SCENARIOS)
        train |= {f"multi_turn_{split}_{i}" for i in order[:TRAIN_SCENARIOS]}
        validation |= {
            f"multi_turn_{split}_{i}"
            for i in order[TRAIN_SCENARIOS : TRAIN_SCENARIOS + VALIDATION_SCENARIOS]
        }
    base = [t for t in load_tasks() if t in train and t.startswith("multi_turn_base_")]
    stage1 = set(random.Random(f"stage1 {mode} {seed}").sample(base, STAGE1_TASKS))

    def ordered(keep) -> tuple[str, ...]:
        return tuple(t for t in load_tasks() if keep(t))

    return Splits(
        mode,
        seed,
        train=ordered(train.__contains__),
        stage1=ordered(stage1.__contains__),
        validation=ordered(validation.__contains__),
        test=ordered(lambda t: t not in train),
        test_unseen=ordered(lambda t: t not in train | validation),
    )


def is_base(task_id: str) -> bool:
    """Whether a task is of the variant `base`."""
    return load_task(task_id).split == "base"


def scenario_of(task_id: str) -> str:
    """The id of the base variant of a task's scenario, which its four variants share."""
    return task_id.replace(f"_{load_task(task_id).split}_", "_base_", 1)


def shortest_scenarios(task_ids: Sequence[str], count: int) -> tuple[str, ...]:
    """Those of `task_ids` in the `count` scenarios with the shortest ground truth and requests.

    The longest variant counts [characters]. A small model can train on these.
    """

    def size(scenario: str) -> int:
        variants = (load_task(scenario.replace("_base_", f"_{split}_", 1)) for split in SPLITS)
        return max(
            len(str(task.ground_truth_source)) + len(str(task.user_turns)) for task in variants
        )

    by_number = sorted({scenario_of(t) for t in task_ids}, key=lambda s: load_task(s).scenario)
    scenarios = sorted(by_number, key=size)[:count]
    return tuple(t for t in task_ids if scenario_of(t) in scenarios)


def synthetic_splits(scenarios: int | None = None, requests: int | None = None) -> Splits:
    """The fixed sets of synthetic tasks. Here validation tasks are not part of the test set.

    scenarios: how many to train on, each in four variants; None: TRAIN_SCENARIOS, as of BFCL.
    requests: of the user, in every task; None: 1 to 4, as drawn.
    """
    count = TRAIN_SCENARIOS if scenarios is None else scenarios
    numbers = [*synthetic.TRAIN, *synthetic.MORE_TRAIN[: max(0, count - TRAIN_SCENARIOS)]][:count]
    sets = (numbers, synthetic.VALIDATION, synthetic.TEST)
    train, validation, test = (synthetic.task_ids(part, requests=requests) for part in sets)
    return Splits(
        "synthetic",
        0,
        train=train,
        stage1=train[: min(STAGE1_TASKS, count)],  # base tasks come first
        validation=validation,
        test=test,
        test_unseen=test,
    )


def of_tasks(
    tasks: str,
    seed: int = 0,
    mode: str = "scenario",
    scenarios: int | None = None,
    requests: int | None = None,
) -> Splits:
    """Splits of BFCL's tasks ("bfcl"), of synthetic ones ("synthetic"), or of both ("both").

    scenarios, requests: as in `synthetic_splits`; BFCL's tasks are what they are.
    """
    if tasks not in TASKS:
        raise ValueError(f"tasks is one of {', '.join(TASKS)}, got {tasks!r}")
    if tasks == "bfcl":
        return load_splits(seed, mode)
    two = synthetic_splits(scenarios, requests)
    if tasks == "synthetic":
        return two
    one = load_splits(seed, mode)
    joined = {
        f.name: getattr(one, f.name) + getattr(two, f.name)
        for f in fields(Splits)
        if f.name not in ("mode", "seed")
    }
    return Splits(f"{mode} and synthetic", seed, **joined)


def splits_file(seed: int, mode: str = "scenario") -> Path:
    return paths.DATA / "splits" / f"{mode}_seed{seed}.json"


def load_splits(seed: int = 0, mode: str = "scenario") -> Splits:
    """The committed splits, or a draw for a seed without a file. ValueError if these differ."""
    drawn = make_splits(seed, mode)
    file = splits_file(seed, mode)
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(asdict(drawn))):
        raise ValueError(
            f"{file} does not hold the draw of seed {seed}: restore it from git, or delete it to "
            "draw again"
        )
    return drawn


def save_splits(splits: Splits) -> Path:
    """Write the ids under data/splits/, one list a line so that a diff can be read."""
    file = splits_file(splits.seed, splits.mode)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in asdict(splits).items())
    file.write_text(f"{{\n{lines}\n}}\n")
    return file
