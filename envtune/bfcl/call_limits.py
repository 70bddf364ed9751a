"""What a tool call may carry: one table of bounds, checked before a tool runs.

    >>> weigh(Call("cd", {"folder": "docs"}))                        # characters in the arguments
    4
    >>> weigh(Call("power", {"base": 9, "exponent": 999_999_999}))
    Traceback (most recent call last):
    envtune.bfcl.call_limits.Refused: argument 'exponent' is 999999999, at most 1000 in ...

Every bound is far beyond what the 800 tasks need (tested), and low enough that the worst accepted
call ends in milliseconds. Bounds count characters, items and magnitudes, never seconds, so a
refusal is the same on every machine.
"""

import math
from typing import NamedTuple

from envtune.bfcl.tasks import Call


class Refused(ValueError):
    """A call is not run: the message says which bound it breaks."""


class Bound(NamedTuple):
    """The most that is accepted of an argument, and what the bound prevents."""

    tool: str
    argument: str
    measure: str  # characters of a text, items of a list or object, magnitude of a number
    at_most: int
    reason: str


BOUNDS = (
    Bound("*", "*", "characters", 20_000, "megabyte texts"),
    Bound("*", "*", "items", 2_000, "lists of a million elements"),
    Bound("*", "*", "magnitude", 10**30, "integers of thousands of digits, infinities, NaN"),
    Bound("power", "base", "magnitude", 10**9, "results of millions of digits"),
    Bound("power", "exponent", "magnitude", 10**3, "the same"),
    Bound("logarithm", "precision", "magnitude", 10**3, "hours inside one call of mpmath"),
    Bound("logarithm", "precision", "characters", 3, "the same: mpmath reads texts as numbers"),
    Bound("logarithm", "value", "characters", 64, "mpmath's quadratic pattern for numbers"),
    Bound("logarithm", "base", "characters", 64, "the same"),
    Bound("square_root", "precision", "magnitude", 10**3, "hours inside one call of decimal"),
    Bound("round_number", "decimal_places", "magnitude", 10**3, "ten to the power of a billion"),
    Bound("mkdir", "dir_name", "characters", 255, "paths of megabytes, name by name"),
    Bound("touch", "file_name", "characters", 255, "the same"),
    Bound("mv", "destination", "characters", 255, "the same"),
    Bound("cp", "destination", "characters", 255, "the same"),
)
EPISODE_ARGUMENT_CHARS = 1_000_000  # in all calls of an episode: limits the tools' state
EPISODE_RESULT_CHARS = 20_000_000  # in all results of an episode
DEPTH = 100  # of lists and objects in an argument; a message of the agent has MAX_DEPTH of protocol
# Longest result that is kept complete: three times the longest result of any ground truth (tested),
# so no verdict can change.
RESULT_CHARS = 100_000
# What `find` and `du` may walk. `cp` shares folders, so that thirty calls make a tree of a billion
# entries, or a circle.
TREE_ENTRIES, TREE_DEPTH, TREE_PATH_CHARS = 10_000, 50, 2_000_000

_ANY = {bound.measure: bound.at_most for bound in BOUNDS if bound.tool == "*"}
_OWN: dict[str, dict[str, dict[str, int]]] = {}  # tool -> argument -> measure -> at most
for _bound in (bound for bound in BOUNDS if bound.tool != "*"):
    _of = _OWN.setdefault(_bound.tool, {}).setdefault(_bound.argument, dict(_ANY))
    _of[_bound.measure] = _bound.at_most


def _weigh(value, name: str, at_most: dict[str, int], depth: int = 0) -> int:
    """Characters in a JSON value. Refused when it breaks a bound."""
    if depth > DEPTH:
        raise Refused(f"argument {name!r} nests more than {DEPTH} levels deep")
    kind = type(value)
    if kind is str or kind is list or kind is dict:
        measure = "characters" if kind is str else "items"
        if len(value) > at_most[measure]:
            raise Refused(
                f"argument {name!r} has {len(value)} {measure}, at most {at_most[measure]} are "
                "accepted"
            )
        if kind is str:
            return len(value)
        parts = value if kind is list else [*value, *value.values()]
        return 8 * len(value) + sum(_weigh(part, name, at_most, depth + 1) for part in parts)
    if kind is bool or value is None:
        return 1
    if kind not in (int, float):
        raise Refused(f"argument {name!r} is of type {kind.__name__}, a JSON value is expected")
    if kind is float and not math.isfinite(value):
        raise Refused(f"argument {name!r} is not a finite number")
    if abs(value) > at_most["magnitude"]:
        shown = value
        if kind is int and abs(value) > 10**18:
            shown = f"an integer of {value.bit_length()} bits"
        raise Refused(
            f"argument {name!r} is {shown}, at most {at_most['magnitude']:.6g} in magnitude is "
            "accepted"
        )
    return 8


def weigh(call: Call) -> int:
    """How many characters a call's arguments carry. Refused when one of BOUNDS is broken."""
    own, weight = _OWN.get(call.name), 0
    for name, value in call.arguments.items():
        at_most = own.get(name, _ANY) if own else _ANY
        if type(value) is str and len(value) <= at_most["characters"]:
            weight += len(value)  # nearly always
        else:
            weight += _weigh(value, name, at_most)
    return weight


def check_tree(directory) -> None:
    """Refused when walking a BFCL directory, shared folders included, breaks a TREE_ bound."""
    entries, chars, level, depth = 0, 0, [(directory, 0)], 0
    while level:
        if depth > TREE_DEPTH:
            raise Refused(f"the directory tree is deeper than {TREE_DEPTH} levels")
        below = []
        for folder, prefix in level:
            contents = folder.contents
            entries += len(contents)
            if entries > TREE_ENTRIES:
                raise Refused(f"the directory tree has more than {TREE_ENTRIES} entries")
            for name, item in contents.items():
                chars += prefix + len(name)
                if hasattr(item, "contents"):
                    below.append((item, prefix + len(name) + 1))
        if chars > TREE_PATH_CHARS:
            raise Refused(
                f"the paths of the directory tree have more than {TREE_PATH_CHARS} characters"
            )
        level, depth = below, depth + 1
