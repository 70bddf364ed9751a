"""What a tool call may carry: one table of bounds, checked before a tool runs.

    >>> weigh(Call("cd", {"folder": "docs"}))                        # characters that the call carries
    4
    >>> weigh(Call("power", {"base": 9, "exponent": 999_999_999}))
    Traceback (most recent call last):
    envtune.bfcl.call_limits.Refused: argument 'exponent' is 999999999, at most 1000 in magnitude is accepted

Every bound is far beyond what the 800 tasks need (tested) and low enough that the worst accepted call ends in milliseconds.
Bounds count characters, items and magnitudes, never seconds, so a refusal is the same on every machine.
"""

import math
from typing import NamedTuple

from envtune.bfcl.tasks import Call


class Refused(ValueError):
    """A call is not run: the message says which bound it breaks."""


class Bound(NamedTuple):
    """One row: what of which argument is measured, the most that is accepted, and what the bound keeps away."""

    tool: str
    argument: str
    measure: str
    """characters of a text, items of a list or object, or magnitude of a number."""
    at_most: int
    reason: str


GUARDS = (
    Bound("*", "*", "characters", 20_000, "megabyte texts"),
    Bound("*", "*", "items", 2_000, "lists of a million elements"),
    Bound(
        "*",
        "*",
        "magnitude",
        10**30,
        "integers of thousands of digits; infinities and NaN break every bound",
    ),
    Bound("power", "base", "magnitude", 10**9, "results of millions of digits"),
    Bound("power", "exponent", "magnitude", 10**3, "the same"),
    Bound("logarithm", "precision", "magnitude", 10**3, "hours inside one call of mpmath"),
    Bound(
        "logarithm", "precision", "characters", 3, "the same: mpmath reads '1000000000' as a number"
    ),
    Bound(
        "logarithm", "value", "characters", 64, "mpmath's pattern for numbers takes quadratic time"
    ),
    Bound("logarithm", "base", "characters", 64, "the same"),
    Bound("square_root", "precision", "magnitude", 10**3, "hours inside one call of decimal"),
    Bound("round_number", "decimal_places", "magnitude", 10**3, "ten to the power of a billion"),
    Bound("mkdir", "dir_name", "characters", 255, "paths of megabytes, name by name"),
    Bound("touch", "file_name", "characters", 255, "the same"),
    Bound("mv", "destination", "characters", 255, "the same"),
    Bound("cp", "destination", "characters", 255, "the same"),
)
EPISODE_ARGUMENT_CHARS = 1_000_000
"""Characters that the calls of one episode may carry in all: the tools' state cannot outgrow it."""
EPISODE_RESULT_CHARS = 20_000_000
"""Characters of results that one episode may collect in all."""
RESULT_CHARS = 100_000
"""Longest result that is kept whole; three times the longest result of any ground truth (tested), so no verdict can change."""
TREE_ENTRIES, TREE_DEPTH, TREE_PATH_CHARS = 10_000, 50, 2_000_000
"""What `find` and `du` may walk: `cp` shares folders, so that thirty calls make a tree of a billion entries, or a circle."""

_ANY = {bound.measure: bound.at_most for bound in GUARDS if bound.tool == "*"}
_OWN: dict[str, dict[str, dict[str, int]]] = {}
for _row in (bound for bound in GUARDS if bound.tool != "*"):
    _OWN.setdefault(_row.tool, {}).setdefault(_row.argument, dict(_ANY))[_row.measure] = (
        _row.at_most
    )


def _weigh(value, name: str, bounds: dict[str, int]) -> int:
    """Characters in a JSON value. Refused when it breaks a bound."""
    kind = type(value)
    if kind is str:
        if len(value) > bounds["characters"]:
            raise Refused(
                f"argument {name!r} has {len(value)} characters, at most {bounds['characters']} are accepted"
            )
        return len(value)
    if kind is bool or value is None:
        return 1
    if kind is int or kind is float:
        if kind is float and not math.isfinite(value):
            raise Refused(f"argument {name!r} is not a finite number")
        if abs(value) > bounds["magnitude"]:
            shown = (
                f"an integer of {value.bit_length()} bits"
                if kind is int and abs(value) > 10**18
                else f"{value}"
            )
            raise Refused(
                f"argument {name!r} is {shown}, at most {bounds['magnitude']:.6g} in magnitude is accepted"
            )
        return 8
    if kind is list or kind is dict:
        if len(value) > bounds["items"]:
            raise Refused(
                f"argument {name!r} has {len(value)} items, at most {bounds['items']} are accepted"
            )
        weight = 8 * len(value)
        for item in value:
            weight += _weigh(item, name, bounds)
        if kind is dict:
            for item in value.values():
                weight += _weigh(item, name, bounds)
        return weight
    raise Refused(f"argument {name!r} is of type {kind.__name__}, a JSON value is expected")


def weigh(call: Call) -> int:
    """How many characters a call's arguments carry. Refused when one of them breaks a bound of GUARDS."""
    own = _OWN.get(call.name)
    weight = 0
    for name, value in call.arguments.items():
        if type(value) is str and own is None and len(value) <= _ANY["characters"]:
            weight += len(value)  # the usual call, without another frame
        else:
            weight += _weigh(value, name, _ANY if own is None else own.get(name, _ANY))
    return weight


def check_tree(directory) -> None:
    """Refused when a walk through a BFCL directory would meet more than the TREE_ bounds allow, a shared folder each time."""
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
