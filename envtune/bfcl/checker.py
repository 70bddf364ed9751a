"""Whether a turn or an episode is right: BFCL's own checks, and the right state of every turn.

>>> task = load_task("multi_turn_base_3")
>>> [len(turn.results) for turn in ground_truth(task)]
[1, 4]
>>> official_check(task, [[list(turn)] for turn in task.ground_truth])
True
"""

import operator
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

from envtune.bfcl.lookup import load_task
from envtune.bfcl.tasks import Call, Task, _package
from envtune.bfcl.toolbox import Copies, Toolbox


@cache
def _checker() -> types.ModuleType:
    _package()
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker

    return multi_turn_checker


def brief(values, chars: int = 160, items: int = 3) -> str:
    """A few values as text, each cut at `chars` characters: for a person who asks why."""
    texts = [
        text if len(text) <= chars else f"{text[:chars]} …" for text in map(str, values[:items])
    ]
    return "; ".join(texts) + (f"; and {len(values) - items} more" if len(values) > items else "")


def missing_results(results: list[str], truth_results: tuple[str, ...]) -> list[str]:
    """BFCL's response check: results of the ground truth that are not among the agent's."""
    verdict = _checker().response_checker(results, truth_results, 0)
    return [] if verdict["valid"] else verdict["details"]["missing_items"]


def state_difference(model_instances: dict, truth_instances: dict) -> str:
    """BFCL's state check: the class and its public attributes that differ, or ''."""
    verdict = _checker().state_checker(model_instances, truth_instances)
    if verdict["valid"]:
        return ""
    found = []
    for name, pair in verdict["details"]["differences"].items():
        model, truth = pair["model"], pair["ground_truth"]
        if hasattr(truth, "contents"):
            found += [f"{name}: {difference}" for difference in _tree_differences(model, truth, "")]
        else:
            found += [f"{name} is {brief([model])}, ground truth {brief([truth])}"]
    owner = next(c for c in truth_instances if f" {c} " in verdict["error_message"])
    return f"{owner} differs from ground truth: {brief(found, 400)}"


def _tree_differences(model, truth, path: str) -> list[str]:
    """What differs between two directories or files of BFCL's file system, by path."""
    kinds = [type(item).__name__.lower() for item in (model, truth)]
    if type(model) is not type(truth):
        return [f"{path} is a {kinds[0]}, ground truth has a {kinds[1]}"]
    if not hasattr(truth, "contents"):
        held = [brief([repr(item.content)], 60) for item in (model, truth)]
        return [] if model == truth else [f"{path} holds {held[0]}, ground truth {held[1]}"]
    found = [
        f"{path}/{name} is not in the ground truth"
        for name in model.contents
        if name not in truth.contents
    ]
    for name, item in truth.contents.items():
        if name not in model.contents:
            found.append(f"{path}/{name} is missing")
        else:
            found += _tree_differences(model.contents[name], item, f"{path}/{name}")
    if not found and model.name != truth.name:
        found.append(f"{path} is named {model.name!r}, ground truth {truth.name!r}")
    return found


def official_valid(record) -> bool:
    """The verdict of BFCL's multi_turn_checker on all well-formed calls of an EpisodeRecord.

    The checker's own code runs, with one change: where it would build strings and `eval` them, the
    calls go through a Toolbox as data. As in BFCL's runner, an episode fails that a limit ended
    before its last turn did ("force-terminated"), and one that ran into the step limit in its last
    turn is judged by the calls made until then.
    """
    if len(record.verdicts) < record.turns:
        return False
    return official_check(load_task(record.task_id), record.calls_by_turn())


def official_check(task: Task, steps_by_turn: list[list[list[Call]]]) -> bool:
    """multi_turn_checker on calls given as `[turn][step][call]`."""
    boxes: dict[str, Toolbox] = {}

    def execute(func_call_list, model_name, **_):
        box = boxes.setdefault(model_name, Toolbox(task))
        return [box.execute(call) for call in func_call_list], box.instances

    checker = _checker()
    # a copy of BFCL's function with a namespace of its own: the installed package is not patched
    check = types.FunctionType(
        checker.multi_turn_checker.__code__,
        {**vars(checker), "execute_multi_turn_func_call": execute},
    )
    verdict = check(
        steps_by_turn,
        [list(turn) for turn in task.ground_truth],
        {
            "initial_config": task.initial_config,
            "involved_classes": list(task.classes),
            "id": task.id,
        },
        f"multi_turn_{task.split}",
        "policy",
    )
    return bool(verdict["valid"])


@dataclass(frozen=True)
class TurnTruth:
    """What is right after one turn: the results of the ground truth, and a copy of every tool."""

    results: tuple[str, ...]
    instances: dict
    # (class, getter of its public attributes, their values): what BFCL's state check compares
    public: tuple[tuple[str, Callable, tuple], ...]

    def same_state(self, instances: dict) -> bool:
        """Whether every public attribute is equal: BFCL's state check without its report."""
        for name, public_of, values in self.public:  # noqa: SIM110, all() takes longer
            if public_of(instances[name]) != values:
                return False
        return True

    def among(self, results: list[str]) -> bool:
        """Whether `results` contain every right one, as often: BFCL's response check, no report."""
        left = results.copy()
        try:
            for result in self.results:
                left.remove(result)
        except ValueError:
            return False
        return True


def _public(instance) -> tuple[Callable, tuple]:
    """A getter of an instance's public attributes, and what it gets now."""
    names = [name for name in vars(instance) if not name.startswith("_")]
    public_of = operator.attrgetter("__class__", *names)
    return public_of, public_of(instance)


@lru_cache(maxsize=1024)
def ground_truth(task: Task, skipped: tuple[int, ...] = ()) -> tuple[TurnTruth, ...]:
    """Ground truth of a task, executed once and shared by all episodes, so no tool may run on it.

    `skipped` turns are not executed: the authors' environment leaves out a turn in which the agent
    made no call, so later turns are compared from where the agent stands.
    """
    box, turns = Toolbox(task), []
    for turn, calls in enumerate(task.ground_truth):
        results = () if turn in skipped else tuple(box.execute(call) for call in calls)
        if turns and not results:
            turns.append(TurnTruth(results, turns[-1].instances, turns[-1].public))
            continue
        instances = Copies(box.instances)()
        turns.append(
            TurnTruth(results, instances, tuple((c, *_public(i)) for c, i in instances.items()))
        )
    return tuple(turns)
