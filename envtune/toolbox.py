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
import operator
import pickle
import random
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

from envtune import apart, bfcl, guards, protocol
from envtune.bfcl import Call, Task

EXECUTION_ERROR = "Error during execution: "
TODAY = datetime.datetime(2026, 3, 23)
"""The tools' clock: the date of the BFCL release. BFCL reads the host's, so that a traveller's age depends on the day."""


_LONG: dict[int, str] = {}
"""The constants that long_context tools print again and again, as JSON, by identity (filled with the first task)."""


def _encoder() -> Callable[[object], str]:
    """json.dumps with its C encoder made once: json.dumps makes one a call, which takes longer than printing most results."""
    if json.encoder.c_make_encoder is None:
        return json.dumps
    make = json.encoder.c_make_encoder(None, json.JSONEncoder().default, json.encoder.encode_basestring_ascii, None,
                                       ": ", ", ", False, False, True)
    return lambda value: "".join(make(value, 0))


_json = _encoder()


def as_text(result) -> str:
    """A tool's return value as BFCL prints it: a str as it is, a dict as JSON where it can be, all else by str()."""
    if type(result) is dict:
        try:
            for value in result.values():
                if id(value) in _LONG:  # a thousand numbers need not be printed anew: most of the time of long_context
                    return "{" + ", ".join([f"{_json(str(k))}: {_LONG.get(id(v)) or _json(v)}" for k, v in result.items()]) + "}"
            return _json(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def printed(method: Callable, arguments: dict) -> str:
    """What calling a tool prints, whatever it raises: the tools are third-party code, and BFCL reports it all this way."""
    try:
        return as_text(method(**arguments))
    except Exception as error:
        return f"{EXECUTION_ERROR}{error}"


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
    return types.MethodType(types.FunctionType(function.__code__, {**module, **own}, name,
                                               copy.deepcopy(function.__defaults__)), instance)


def _ordered(call: Call, result: str) -> str:
    """The two error texts that BFCL prints from a set, whose order changes with Python's hash seed: in sorted order."""
    if call.name == "book_flight":
        head, found, rest = result.partition("Must be one of {")
        return f"{head}{found}'business', 'economy', 'first'}}{rest.partition('}')[2]}" if found else result
    head, found, _ = result.partition("Invalid fields for update: ")
    if not found or not isinstance(call.arguments.get("updates"), dict):
        return result
    invalid = sorted(set(call.arguments["updates"]) - {"title", "description", "status", "priority"})
    return as_text({"error": f"{found}{', '.join(invalid)}"})


@cache
def _owners(classes: tuple[str, ...]) -> dict[str, str]:
    """tool -> class, for every documented tool of some classes."""
    return {name: c for c in classes for name in bfcl.tool_names(c)}


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
            self.texts.append(sys.intern(value))  # one object in every copy of every task: equal states compare by identity
            return len(self.texts) - 1
        if type(value) is random.Random:
            self.states.append(value.getstate())
            return -len(self.states)
        return None


class _Copies:
    """Makes equal, independent copies of tool instances, several times faster than building or deep-copying them."""

    def __init__(self, instances: dict):
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(instances)
        self._bytes, self._texts, self._states = file.getvalue(), pickler.texts, pickler.states[::-1]

    def __call__(self) -> dict:
        reader = pickle.Unpickler(io.BytesIO(self._bytes))
        # ids 0, 1, … count the texts from the front, -1, -2, … the generators from the back
        reader.persistent_load = [*self._texts, *map(_generator, self._states)].__getitem__
        return reader.load()


@lru_cache(maxsize=1024)
def _initial(task_id: str) -> _Copies:
    """The tools of a task in their initial state, as BFCL builds them, with nothing shared with BFCL's module-level data."""
    task = bfcl.load_task(task_id)
    if not _LONG:
        _LONG.update((id(value), json.dumps(value)) for value in bfcl.long_context_constants())
    return _Copies({c: bfcl.new_instance(c, task.initial_config, task.split == "long_context") for c in task.classes})


class Toolbox:
    """Live tool instances of one task. Two toolboxes share nothing that a call can change."""

    def __init__(self, task: Task):
        self._start(task.classes, _initial(task.id)())

    @classmethod
    def of_scenario(cls, classes: tuple[str, ...], config: dict, long_context: bool = False) -> "Toolbox":
        """Tools in a state of one's own instead of a task's: `config` is {class: what BFCL loads}, a task's initial_config."""
        box = cls.__new__(cls)
        box._start(classes, {c: bfcl.new_instance(c, config, long_context) for c in classes})
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
            self._argument_chars += guards.weigh(call)
            if self._argument_chars > guards.EPISODE_ARGUMENT_CHARS or self._result_chars > guards.EPISODE_RESULT_CHARS:
                raise guards.Refused("the calls of this episode carry more than "
                                     f"{guards.EPISODE_ARGUMENT_CHARS} characters, or their results more than "
                                     f"{guards.EPISODE_RESULT_CHARS}; no more are run")
            if name in apart.TOOLS:
                result = apart.run(owner, call)
            else:
                if name in _WALKERS:
                    self._check_tree(owner, call)
                for value in arguments.values():
                    if type(value) is list or type(value) is dict:  # some tools keep what they are given, the record does too
                        arguments = copy.deepcopy(arguments)
                        break
                method = self._methods.get(name) or self._method(owner, name)
                result = printed(method, arguments)
        except (guards.Refused, apart.Ended) as error:
            return f"{EXECUTION_ERROR}{error}"
        if name in _FROM_SETS:
            result = _ordered(call, result)
        result = protocol.shorten(result, guards.RESULT_CHARS)
        self._result_chars += len(result)
        return result

    def _check_tree(self, owner: str, call: Call) -> None:
        """Refused when `find` or `du` would walk more than the guards allow."""
        path = call.arguments.get("path", ".") if call.name == "find" else "."
        target = self.instances[owner]._navigate_to_directory(path) if isinstance(path, str) else None
        if hasattr(target, "contents"):  # else the tool says itself what is wrong with the path
            guards.check_tree(target)

    def _method(self, owner: str, name: str) -> Callable:
        instance = self.instances[owner]
        self._methods[name] = method = _own_method(instance, name) if name in _OUTSIDE else getattr(instance, name)
        return method


@dataclass(frozen=True)
class TurnTruth:
    """What the ground truth leaves after one turn: results of its calls, and a copy of every instance."""
    results: tuple[str, ...]
    instances: dict
    public: tuple[tuple[str, Callable, tuple], ...]
    """(class, getter of its public attributes, their values): what BFCL's state check compares."""

    def same_state(self, instances: dict) -> bool:
        """Whether every public attribute equals the ground truth's: BFCL's state check without its report."""
        for name, public_of, values in self.public:  # noqa: SIM110 -- a generator takes longer, at every turn
            if public_of(instances[name]) != values:
                return False
        return True

    def among(self, results: list[str]) -> bool:
        """Whether every result of the ground truth is among these, as often: BFCL's response check without its report."""
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
    public_of = operator.attrgetter(*names, "__class__") if names else type  # the class makes it a tuple for one name too
    return public_of, public_of(instance)


@lru_cache(maxsize=1024)
def ground_truth(task_id: str, skipped: tuple[int, ...] = ()) -> tuple[TurnTruth, ...]:
    """Ground truth of a task, executed once and reused by every episode: states are copied, never handed out to tools.

    `skipped` turns are not executed: the authors' environment leaves out a turn in which the agent made no call, so
    later turns are judged from where the agent stands.
    """
    task = bfcl.load_task(task_id)
    box, turns = Toolbox(task), []
    for turn, calls in enumerate(task.ground_truth):
        results = () if turn in skipped else tuple(box.execute(call) for call in calls)
        if turns and not results:
            turns.append(TurnTruth(results, turns[-1].instances, turns[-1].public))
            continue
        instances = _Copies(box.instances)()
        turns.append(TurnTruth(results, instances, tuple((c, *_public(i)) for c, i in instances.items())))
    return tuple(turns)
