"""Tasks of your own on BFCL's tools, or a domain of your own: a tool class with its tasks.

    >>> domains.add(RestaurantAPI, TASKS)      # docs/new_domain.md
    >>> Episode("restaurant_0")
    >>> three = {"id": "mine", "user_turns": ["What is 3 times 4?"],
    ...          "initial_config": {"MathAPI": {}}, "ground_truth": [["multiply(3, 4)"]]}
    >>> domains.add_tasks([three])
    ['mine']

A tool class follows BFCL's form: public methods are tools, `_load_scenario(config, long_context)`
sets the state, public attributes are what verdicts compare. Tool docs are read from signatures and
docstrings. docs/environment.md says under SECURITY what the environment does not protect from.
"""

import inspect
import re
import typing
from collections.abc import Sequence

from envtune import bfcl
from envtune.bfcl import checker, toolbox
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.bfcl.synthetic import tasks as synthetic
from envtune.bfcl.toolbox import Toolbox
from envtune.env import episode

TYPES = {
    str: "string",
    int: "integer",
    float: "float",
    bool: "boolean",
    list: "array",
    dict: "dict",
}
"""Python's types, and what BFCL's tool docs call them."""
_DESCRIPTION = re.compile(r"^\s*(\w+) *(?:\(.*?\))?: *(.*?) *$", re.MULTILINE)


def docs_of_class(cls: type) -> list[dict]:
    """Tool docs in BFCL's form: its type names, docstrings with `name (type): text` under "Args:".

    ValueError for a tool without a docstring or a parameter without an annotation: an agent could
    not know how to call it.
    """
    docs = []
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_"):
            continue
        docstring = inspect.getdoc(method) or ""
        text, _, args = docstring.partition("Args:")
        if not docstring:
            raise ValueError(
                f"{cls.__name__}.{name} has no docstring, which is what the agent reads about it"
            )
        described = dict(_DESCRIPTION.findall(args))
        properties, required = {}, []
        for parameter in list(inspect.signature(method).parameters.values())[1:]:
            kind = typing.get_origin(parameter.annotation) or parameter.annotation
            if kind not in TYPES:
                raise ValueError(
                    f"{cls.__name__}.{name}: parameter {parameter.name!r} needs an annotation, one "
                    f"of {', '.join(t.__name__ for t in TYPES)}"
                )
            description = described.get(parameter.name, "")
            properties[parameter.name] = {"type": TYPES[kind], "description": description}
            if parameter.default is parameter.empty:
                required.append(parameter.name)
        parameters = {"type": "dict", "properties": properties, "required": required}
        docs.append({"name": name, "description": text.strip(), "parameters": parameters})
    return docs


def forget() -> None:
    """Empty the caches that depend on tool classes and tasks, after these have changed."""
    for cached in (
        bfcl.tool_class,
        toolbox._owners,
        toolbox._initial,
        checker.ground_truth,
        episode._system_prompt,
        synthetic._made,
    ):
        cached.cache_clear()


def add(cls: type, tasks: Sequence[dict]) -> list[str]:
    """Register a tool class and its tasks, and return the ids of the tasks.

    A task is {"id": text, "user_turns": [text], "initial_config": {...}, "ground_truth": [[call as
    Python source]]}, with one list of calls per turn, an empty one where asking is right.
    ValueError when a name is BFCL's, or when a call of the ground truth raises.
    """
    name = cls.__name__
    if name in bfcl.CLASSES:
        raise ValueError(f"{name} is one of BFCL's classes; choose another name")
    docs = docs_of_class(cls)
    taken = {tool for c in bfcl.CLASSES for tool in bfcl.tool_names(c)} & {
        doc["name"] for doc in docs
    }
    if taken:
        raise ValueError(
            f"{name}: tools are known by their name alone, and BFCL has "
            f"{', '.join(sorted(taken))} already"
        )
    bfcl.OWN_CLASSES[name] = (cls, docs)
    forget()  # in a notebook the same class is defined again and again
    return add_tasks([{**task, "initial_config": {name: task["initial_config"]}} for task in tasks])


def add_tasks(tasks: Sequence[dict]) -> list[str]:
    """Register tasks on tool classes that are there, BFCL's or your own, and return their ids.

    A task is as in `add`, but its initial_config holds the state of every class that it uses:
    {"MathAPI": {}, "TwitterAPI": {...}}, as BFCL's tasks and the synthetic ones do. ValueError for
    an id of these, or when a call of the ground truth raises.
    """
    for number, entry in enumerate(tasks):
        if missing := {"id", "user_turns", "initial_config", "ground_truth"} - set(entry):
            raise ValueError(f"task {number} lacks {', '.join(sorted(missing))}")
        if entry["id"].startswith("synthetic_") or entry["id"] in bfcl.load_tasks():
            raise ValueError(f"the id {entry['id']!r} is taken; choose another one for your task")
        if isinstance(entry["user_turns"], str) or not entry["user_turns"]:
            raise ValueError(f"{entry['id']}: user_turns is a list of at least one text")
        if len(entry["user_turns"]) != len(entry["ground_truth"]):
            raise ValueError(
                f"{entry['id']}: {len(entry['user_turns'])} user turns and "
                f"{len(entry['ground_truth'])} lists of calls"
            )
        source = tuple(tuple(turn) for turn in entry["ground_truth"])
        classes = tuple(entry["initial_config"])
        known = (*bfcl.CLASSES, *bfcl.OWN_CLASSES)
        if unknown := [name for name in classes if name not in known]:
            raise ValueError(
                f"{entry['id']}: no tool class is named {', '.join(unknown)}; initial_config has "
                f"the state of each class that is used, of {', '.join(known)}"
            )
        task = bfcl.Task(
            id=entry["id"],
            split="base",
            scenario=number,
            user_turns=tuple(entry["user_turns"]),
            initial_config=entry["initial_config"],
            classes=classes,
            withheld=(),
            withheld_until=None,
            ground_truth=tuple(tuple(bfcl.parse_call(c, classes) for c in turn) for turn in source),
            ground_truth_source=source,
        )
        box = Toolbox.of_scenario(task.classes, task.initial_config)
        for result in (box.execute(call) for turn in task.ground_truth for call in turn):
            if result.startswith(EXECUTION_ERROR):
                raise ValueError(f"{task.id}: its ground truth fails: {result}")
        bfcl.OWN_TASKS[task.id] = task
    return [entry["id"] for entry in tasks]
