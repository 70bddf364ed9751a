"""The tools of one episode: names are looked up among documented methods, results are text.

    >>> box = Toolbox(load_task("multi_turn_base_3"))
    >>> box.execute(Call("find", {"path": ".", "name": "image"}))
    '{"matches": ["./projects/photography/test_image1.jpg"]}'
    >>> box.execute(Call("open", {"file": "x", "mode": "w"}))
    "Error during execution: name 'open' is not defined"

There is no `eval`: what a model writes selects a documented method or nothing, and arguments are
checked against call_limits. Results read exactly as BFCL prints them, an exception as "Error during
execution: …". Withheld tools do run when called: BFCL runs them, and the ground truth of
multi_turn_miss_func_49 calls one before its doc appears.

A result depends on the task and the calls before it, and on nothing else. BFCL's classes share more
than that between instances: see _OUTSIDE.
"""

import copy
import datetime
import io
import json
import pickle
import random
import re
import sys
import types
from collections.abc import Callable
from functools import cache, lru_cache

from envtune.bfcl import call_limits, tasks, worker
from envtune.bfcl.call_limits import EPISODE_ARGUMENT_CHARS, EPISODE_RESULT_CHARS, weigh
from envtune.bfcl.results import EXECUTION_ERROR, PRINTED, as_text, printed, shorten
from envtune.bfcl.tasks import Call, Task

# The tools' clock: the date of the BFCL release. BFCL reads the host's, so that a traveller's age
# would depend on the day of the run.
TODAY = datetime.datetime(2026, 3, 23)


class _Clock(datetime.datetime):
    """datetime with a fixed today; `strptime` and comparisons as ever."""

    @classmethod
    def today(cls):
        return TODAY


# tool -> names of its module that each toolbox replaces for itself, given the old value: what would
# tie a result to the day or to other episodes
_OUTSIDE = {
    "verify_traveler_information": {"datetime": lambda old: _Clock},
    "get_outside_temperature_from_google": {"LONG_WEATHER_EXTENSION": dict},  # it writes into it
    "post_tweet": {},  # only its default lists, which go into the state and which `mention` extends
}
_FROM_SETS = frozenset({"book_flight", "edit_ticket"})
_WALKERS = frozenset({"find", "du"})


def _own_method(instance, name: str) -> types.MethodType:
    """A method of _OUTSIDE with names and default arguments of its own; BFCL is not patched."""
    function = getattr(type(instance), name)
    module = vars(sys.modules[function.__module__])
    names = module | {key: make(module[key]) for key, make in _OUTSIDE[name].items()}
    defaults = copy.deepcopy(function.__defaults__)
    return types.MethodType(types.FunctionType(function.__code__, names, name, defaults), instance)


def _ordered(call: Call, result: str) -> str:
    """The two error texts that BFCL prints from a set, in sorted order: a set's order changes with
    Python's hash seed."""
    if call.name == "book_flight":
        classes = r"(?<=Must be one of \{)[^}]*(?=\})"
        return re.sub(classes, "'business', 'economy', 'first'", result)
    head, found, _ = result.partition("Invalid fields for update: ")
    if not found or not isinstance(call.arguments.get("updates"), dict):
        return result
    invalid = sorted(
        set(call.arguments["updates"]) - {"title", "description", "status", "priority"}
    )
    return as_text({"error": f"{found}{', '.join(invalid)}"})


@lru_cache(maxsize=1024)
def _number(owner: str, name: str, arguments: str) -> str:
    """The result of one of worker.TOOLS, which depends on the arguments alone [JSON]. Kept: the
    episodes of a group ask for the same numbers, and the way to the worker and back takes longer
    than ten other calls."""
    return worker.run(owner, Call(name, json.loads(arguments)))


@cache
def _owners(classes: tuple[str, ...]) -> dict[str, str]:
    """tool -> class, for every documented tool of some classes."""
    return {name: c for c in classes for name in tasks.tool_names(c)}


@lru_cache(maxsize=8)
def _kept(state: tuple) -> tuple:
    """One object for equal states of random generators, which have 625 numbers each: all
    tasks start from one of three."""
    return state


def _generator(state: tuple) -> random.Random:
    generator = random.Random.__new__(random.Random)
    generator.setstate(state)
    return generator


class _Pickler(pickle.Pickler):
    """Keeps texts and random generators out of the pickle: copies share the texts, which cannot
    change, and get new generators."""

    def __init__(self, file):
        super().__init__(file, 5)
        self.texts, self.states = [], []

    def persistent_id(self, value):
        if type(value) is str:
            # one object in the copies of all tasks, so that equal states compare by identity
            self.texts.append(sys.intern(value))
            return len(self.texts) - 1
        if type(value) is random.Random:
            self.states.append(_kept(value.getstate()))
            return -len(self.states)
        return None


class Copies:
    """Makes equal, independent copies of tool instances, several times faster than deepcopy."""

    def __init__(self, instances: dict):
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(instances)
        self._bytes, self._texts = file.getvalue(), pickler.texts
        self._states = pickler.states[::-1]

    def __call__(self) -> dict:
        reader = pickle.Unpickler(io.BytesIO(self._bytes))
        # ids 0, 1, … count the texts from the front, -1, -2, … the generators from the back
        reader.persistent_load = [*self._texts, *map(_generator, self._states)].__getitem__
        return reader.load()


@lru_cache(maxsize=1024)
def _initial(task: Task) -> Copies:
    """The tools of a task in their initial state; copies share nothing with BFCL's module data."""
    if not PRINTED:
        PRINTED.update((id(value), json.dumps(value)) for value in tasks.long_context_constants())
    long = task.split == "long_context"
    return Copies({c: tasks.new_instance(c, task.initial_config, long) for c in task.classes})


class Toolbox:
    """Live tool instances of one task. Two toolboxes share nothing that a call can change."""

    def __init__(self, task: Task):
        self._start(task.classes, _initial(task)())

    @classmethod
    def of_scenario(
        cls, classes: tuple[str, ...], config: dict, long_context: bool = False
    ) -> "Toolbox":
        """Tools without a task. `config` is {class: scenario}, as in a task's initial_config."""
        box = cls.__new__(cls)
        box._start(classes, {c: tasks.new_instance(c, config, long_context) for c in classes})
        return box

    def _start(self, classes: tuple[str, ...], instances: dict) -> None:
        self.instances = instances
        self._owners = _owners(classes)
        self._methods: dict[str, Callable] = {}
        self._argument_chars = self._result_chars = 0
        self.refused = 0  # calls that were not run: to unknown tools, or beyond call_limits

    def execute(self, call: Call) -> str:
        """Run one call and return its result as text. Never raises for what the call says."""
        name, arguments = call
        owner = self._owners.get(name)
        if owner is None:
            self.refused += 1
            return f"{EXECUTION_ERROR}name {name!r} is not defined"
        try:
            self._argument_chars += weigh(call)
            if (
                self._argument_chars > EPISODE_ARGUMENT_CHARS
                or self._result_chars > EPISODE_RESULT_CHARS
            ):
                raise call_limits.Refused(
                    "the calls of this episode carry more than "
                    f"{EPISODE_ARGUMENT_CHARS} characters, or their results more than "
                    f"{EPISODE_RESULT_CHARS}; no more are run"
                )
            if name in worker.TOOLS:
                result = _number(owner, name, json.dumps(arguments))
            else:
                if name in _WALKERS:
                    self._check_tree(owner, call)
                for value in arguments.values():
                    if type(value) is list or type(value) is dict:
                        # some tools keep what they are given, and the record keeps it too
                        arguments = copy.deepcopy(arguments)
                        break
                method = self._methods.get(name) or self._method(owner, name)
                result = printed(method, arguments)
        except (call_limits.Refused, worker.Ended) as error:
            self.refused += 1
            return f"{EXECUTION_ERROR}{error}"
        if name in _FROM_SETS:
            result = _ordered(call, result)
        if len(result) > call_limits.RESULT_CHARS:
            result = shorten(result, call_limits.RESULT_CHARS)
        self._result_chars += len(result)
        return result

    def _check_tree(self, owner: str, call: Call) -> None:
        """Refused when `find` or `du` would walk a tree beyond the limits."""
        path = call.arguments.get("path", ".") if call.name == "find" else "."
        if isinstance(path, str):
            directory = self.instances[owner]._navigate_to_directory(path)
            if hasattr(directory, "contents"):  # else the tool itself says what is wrong
                call_limits.check_tree(directory)

    def _method(self, owner: str, name: str) -> Callable:
        instance = self.instances[owner]
        own = name in _OUTSIDE
        self._methods[name] = _own_method(instance, name) if own else getattr(instance, name)
        return self._methods[name]
