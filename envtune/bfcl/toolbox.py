"""The tools of one episode: a name is looked up in a dict of documented methods, arguments pass the guards, a result is text.

    >>> box = Toolbox(load_task("multi_turn_base_3"))
    >>> box.execute(Call("find", {"path": ".", "name": "image"}))
    '{"matches": ["./projects/photography/test_image1.jpg"]}'
    >>> box.execute(Call("open", {"file": "x", "mode": "w"}))
    "Error during execution: name 'open' is not defined"

There is no `eval`: what a model writes selects a documented method or nothing. Results read exactly as BFCL prints them,
an exception as "Error during execution: …". Withheld tools do run when called: BFCL runs them, and the ground truth of
multi_turn_miss_func_49 calls one before its doc appears.

A result depends on the task and the calls before it, and on nothing else. BFCL's classes share more than that: see _OUTSIDE.
"""

import copy
import datetime
import io
import json
import pickle
import random
import sys
import types
from collections.abc import Callable
from functools import cache, lru_cache

from envtune.bfcl import call_limits, tasks, worker
from envtune.bfcl.results import EXECUTION_ERROR, PRINTED, as_text, printed, shorten
from envtune.bfcl.tasks import Call, Task

TODAY = datetime.datetime(2026, 3, 23)
"""The tools' clock: the date of the BFCL release. BFCL reads the host's, so that a traveller's age depends on the day."""


class _Clock(datetime.datetime):
    """datetime with a fixed today; `strptime` and comparisons as ever."""

    @classmethod
    def today(cls):
        return TODAY


_OUTSIDE = {
    # tool -> the names of its module that it gets for itself: what would tie its result to the day or to other episodes
    "verify_traveler_information": {"datetime": lambda old: _Clock},
    "get_outside_temperature_from_google": {"LONG_WEATHER_EXTENSION": dict},  # it writes into it
    "post_tweet": {},  # its default lists, also made its own, are kept in the state, and `mention` extends them
}


_FROM_SETS = frozenset({"book_flight", "edit_ticket"})
_WALKERS = frozenset({"find", "du"})


def _own_method(instance, name: str) -> types.MethodType:
    """A method of _OUTSIDE over a namespace and default arguments of this one toolbox; the installed package is not touched."""
    function = getattr(type(instance), name)
    module = vars(sys.modules[function.__module__])
    own = {key: make(module[key]) for key, make in _OUTSIDE[name].items()}
    return types.MethodType(
        types.FunctionType(
            function.__code__, {**module, **own}, name, copy.deepcopy(function.__defaults__)
        ),
        instance,
    )


def _ordered(call: Call, result: str) -> str:
    """The two error texts that BFCL prints from a set, whose order changes with Python's hash seed: in sorted order."""
    if call.name == "book_flight":
        head, found, rest = result.partition("Must be one of {")
        return (
            f"{head}{found}'business', 'economy', 'first'}}{rest.partition('}')[2]}"
            if found
            else result
        )
    head, found, _ = result.partition("Invalid fields for update: ")
    if not found or not isinstance(call.arguments.get("updates"), dict):
        return result
    invalid = sorted(
        set(call.arguments["updates"]) - {"title", "description", "status", "priority"}
    )
    return as_text({"error": f"{found}{', '.join(invalid)}"})


@cache
def _owners(classes: tuple[str, ...]) -> dict[str, str]:
    """tool -> class, for every documented tool of some classes."""
    return {name: c for c in classes for name in tasks.tool_names(c)}


def _generator(state: tuple) -> random.Random:
    generator = random.Random.__new__(random.Random)
    generator.setstate(state)
    return generator


class _Pickler(pickle.Pickler):
    """Keeps texts and random generators out of a copy: texts cannot change and are shared, generators are made anew."""

    def __init__(self, file):
        super().__init__(file, 5)
        self.texts, self.states = [], []

    def persistent_id(self, value):
        if type(value) is str:
            self.texts.append(
                sys.intern(value)
            )  # one object in every copy of every task: equal states compare by identity
            return len(self.texts) - 1
        if type(value) is random.Random:
            self.states.append(value.getstate())
            return -len(self.states)
        return None


class Copies:
    """Makes equal, independent copies of tool instances, several times faster than building or deep-copying them."""

    def __init__(self, instances: dict):
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(instances)
        self._bytes, self._texts, self._states = (
            file.getvalue(),
            pickler.texts,
            pickler.states[::-1],
        )

    def __call__(self) -> dict:
        reader = pickle.Unpickler(io.BytesIO(self._bytes))
        # ids 0, 1, … count the texts from the front, -1, -2, … the generators from the back
        reader.persistent_load = [*self._texts, *map(_generator, self._states)].__getitem__
        return reader.load()


@lru_cache(maxsize=1024)
def _initial(task: Task) -> Copies:
    """The tools of a task in their initial state, as BFCL builds them, with nothing shared with BFCL's module-level data."""
    if not PRINTED:
        PRINTED.update((id(value), json.dumps(value)) for value in tasks.long_context_constants())
    return Copies(
        {
            c: tasks.new_instance(c, task.initial_config, task.split == "long_context")
            for c in task.classes
        }
    )


class Toolbox:
    """Live tool instances of one task. Two toolboxes share nothing that a call can change."""

    def __init__(self, task: Task):
        self._start(task.classes, _initial(task)())

    @classmethod
    def of_scenario(
        cls, classes: tuple[str, ...], config: dict, long_context: bool = False
    ) -> "Toolbox":
        """Tools in a state of one's own instead of a task's: `config` is {class: what BFCL loads}, a task's initial_config."""
        box = cls.__new__(cls)
        box._start(classes, {c: tasks.new_instance(c, config, long_context) for c in classes})
        return box

    def _start(self, classes: tuple[str, ...], instances: dict) -> None:
        self.instances = instances
        self._owners = _owners(classes)
        self._methods: dict[str, Callable] = {}
        self._argument_chars = self._result_chars = 0

    def execute(self, call: Call) -> str:
        """Run one call and return its result as text. Never raises for what the call says."""
        name, arguments = call
        owner = self._owners.get(name)
        if owner is None:
            return f"{EXECUTION_ERROR}name {name!r} is not defined"
        try:
            self._argument_chars += call_limits.weigh(call)
            if (
                self._argument_chars > call_limits.EPISODE_ARGUMENT_CHARS
                or self._result_chars > call_limits.EPISODE_RESULT_CHARS
            ):
                raise call_limits.Refused(
                    "the calls of this episode carry more than "
                    f"{call_limits.EPISODE_ARGUMENT_CHARS} characters, or their results more than "
                    f"{call_limits.EPISODE_RESULT_CHARS}; no more are run"
                )
            if name in worker.TOOLS:
                result = worker.run(owner, call)
            else:
                if name in _WALKERS:
                    self._check_tree(owner, call)
                for value in arguments.values():
                    if (
                        type(value) is list or type(value) is dict
                    ):  # some tools keep what they are given, the record does too
                        arguments = copy.deepcopy(arguments)
                        break
                method = self._methods.get(name) or self._method(owner, name)
                result = printed(method, arguments)
        except (call_limits.Refused, worker.Ended) as error:
            return f"{EXECUTION_ERROR}{error}"
        if name in _FROM_SETS:
            result = _ordered(call, result)
        result = shorten(result, call_limits.RESULT_CHARS)
        self._result_chars += len(result)
        return result

    def _check_tree(self, owner: str, call: Call) -> None:
        """Refused when `find` or `du` would walk more than the guards allow."""
        path = call.arguments.get("path", ".") if call.name == "find" else "."
        target = (
            self.instances[owner]._navigate_to_directory(path) if isinstance(path, str) else None
        )
        if hasattr(target, "contents"):  # else the tool says itself what is wrong with the path
            call_limits.check_tree(target)

    def _method(self, owner: str, name: str) -> Callable:
        instance = self.instances[owner]
        self._methods[name] = method = (
            _own_method(instance, name) if name in _OUTSIDE else getattr(instance, name)
        )
        return method
