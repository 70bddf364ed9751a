"""The hint library: records under data/hints/, shown beside errors (paper section 3.3).

    - id: vehicle-distance-by-zipcode         # unique
      class: VehicleControlAPI                # whose tools; "*": any class without a record for it
      tools: [estimate_distance]              # or ["*"]: all of the class
      when:                                   # every condition given must hold
        error: "distance not found"           # a regular expression found in the feedback
        any_argument: "[A-Za-z]"              # ... in the text of some argument (`of` names which)
        arguments: {cityA: "[A-Za-z]"}        # ... in the text of this argument
      hint: Distances are kept by zip code … # {argument} slots take the call's own values
      category: dependency_missing            # one of CATEGORIES
      type: explain_dependency                # one of TYPES
      provenance: {made_by: hand, …}         # who wrote and who approved it

The first record that matches, in file and line order, is shown; those of a folder of your own
(`added`, `add_folder`) come first. A success is never changed, and the original error stays in the
text. A hint is dropped if it would give away ground truth that the agent has not written or read.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import yaml

from envtune import bfcl
from envtune.bfcl import Call, Task
from envtune.bfcl.results import is_error
from envtune.common import paths
from envtune.hints import constitution
from envtune.hints.corruption import NONE, Corruption

Category = Literal[
    "dependency_missing",
    "parameter_constraint",
    "state_prerequisite",
    "format_mismatch",
    "resource_unavailable",
]
Type = Literal["clarify_constraint", "suggest_prerequisite", "explain_dependency", "correct_format"]
CATEGORIES, TYPES = get_args(Category), get_args(Type)
SEARCHED_CHARS = 5_000
"""Of an error: a model decides how long it gets, and a pattern may take the square of it."""
_NO_RECORDS = {"clear.yaml", "unjudged.yaml"}  # what coverage.py and corruption.py read
_FIELDS = {"id", "class", "tools", "when", "hint", "category", "type", "provenance"}
_KINDS = {"id": str, "class": str, "tools": list, "when": dict, "hint": str, "provenance": dict}
_CONDITIONS = {"error", "any_argument", "of", "arguments"}


@dataclass(frozen=True)
class Hint:
    """One record of the library."""

    id: str
    class_name: str
    tools: tuple[str, ...]  # empty for class "*": any name that was called, also one of no tool
    error: re.Pattern
    any_argument: re.Pattern | None
    of: tuple[str, ...]
    arguments: tuple[tuple[str, re.Pattern], ...]
    text: str
    category: str
    type: str
    provenance: dict

    def matches(self, call: Call, error: str) -> bool:
        """Whether this record speaks about a call (of its class) and the error text it got."""
        if self.tools and call.name not in self.tools:
            return False
        if not self.error.search(error[:SEARCHED_CHARS]):
            return False
        values = [str(v) for k, v in call.arguments.items() if not self.of or k in self.of]
        if self.any_argument and not any(self.any_argument.search(v) for v in values):
            return False
        return all(
            name in call.arguments and pattern.search(str(call.arguments[name]))
            for name, pattern in self.arguments
        )

    def render(self, call: Call) -> str:
        """The text with its slots filled by the call's arguments, each cut at 60 characters."""
        return re.sub(
            r"\{(\w+)\}",
            lambda slot: str(call.arguments.get(slot.group(1), slot.group(1)))[:60],
            self.text,
        )


def _hint(record: dict, where: str) -> Hint:
    """A record as a Hint. ValueError that names the file and the fault."""
    name = f"{where}: hint {record.get('id', '?')!r}" if isinstance(record, dict) else where
    if not isinstance(record, dict) or set(record) != _FIELDS:
        raise ValueError(f"{name}: a record has exactly the fields {', '.join(sorted(_FIELDS))}")
    when = record["when"]
    for field, kind in _KINDS.items():
        if not isinstance(record[field], kind):
            raise ValueError(
                f"{name}: {field} is of type {kind.__name__}, got {record[field]!r:.60}"
            )
    if not set(when) <= _CONDITIONS or "error" not in when:
        raise ValueError(
            f"{name}: `when` needs `error` and may have any_argument, of and arguments; "
            f"got {', '.join(when)}"
        )
    if record["category"] not in CATEGORIES or record["type"] not in TYPES:
        raise ValueError(
            f"{name}: category is one of {', '.join(CATEGORIES)} and type one of {', '.join(TYPES)}"
        )
    if record["class"] not in (classes := (*bfcl.CLASSES, *bfcl.OWN_CLASSES, "*")):
        raise ValueError(f"{name}: class is one of {', '.join(classes)}, got {record['class']!r}")
    known = () if record["class"] == "*" else bfcl.tool_names(record["class"])
    tools = known if record["tools"] == ["*"] else tuple(record["tools"])
    if not set(tools) <= set(known):
        raise ValueError(
            f"{name}: {record['class']} has no tool {', '.join(sorted({*tools} - {*known}))}"
        )
    if fault := constitution.violation(record["hint"], known):
        raise ValueError(f"{name}: {fault}")
    try:
        return Hint(
            record["id"],
            record["class"],
            tools,
            re.compile(when["error"]),
            re.compile(when["any_argument"]) if "any_argument" in when else None,
            tuple(when.get("of", ())),
            tuple((k, re.compile(v)) for k, v in when.get("arguments", {}).items()),
            record["hint"],
            record["category"],
            record["type"],
            record["provenance"],
        )
    except re.error as error:
        raise ValueError(
            f"{name}: {error.pattern!r} is not a regular expression: {error}"
        ) from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{name}: `when` holds patterns as texts: {error}") from None


_LIBRARY = paths.DATA / "hints"
_ADDED: dict[Path, tuple[tuple[Hint, ...], str]] = {}
"""Your own folders, the last of which is tried first: their records and a digest of their files, as
they were when they were added."""


def add_folder(folder: Path | str) -> None:
    """Add a folder of your own records, which are tried before those that are there already.

    They are in force in this process from now on, as they are now; `added` takes them away again.
    ValueError for a faulty record or an id that is taken, and for a folder without a record.
    """
    folder, before = Path(folder).resolve(), _ADDED.copy()
    _ADDED.pop(folder, None)  # one that was added before is read anew and goes to the front
    try:
        _ADDED[folder] = tuple(_records(folder)), _digest(folder)
        if not _ADDED[folder][0]:
            raise ValueError(
                f"{folder} has no hint: a .yaml file with a list of records is expected"
            )
        load_hints.cache_clear()
        load_hints()
    except BaseException:
        _restore(before)
        raise


@contextlib.contextmanager
def added(folder: Path | str) -> Iterator[None]:
    """add_folder for the time of a `with` block."""
    before = _ADDED.copy()
    add_folder(folder)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: dict) -> None:
    _ADDED.clear()
    _ADDED.update(before)
    load_hints.cache_clear()


def added_folders() -> dict[Path, str]:
    """Your own folders in the order in which they are tried, and a digest of what each holds."""
    return {folder: digest for folder, (_, digest) in reversed(_ADDED.items())}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.yaml")) if path.name not in _NO_RECORDS]


def _read(path: Path) -> list:
    """ValueError for a file that is no list of YAML."""
    try:
        records = yaml.safe_load(path.read_text()) or []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of records, got {records!r:.60}")
    return records


def _digest(folder: Path) -> str:
    return sha256(b"".join(file.read_bytes() for file in _files(folder))).hexdigest()[:12]


def library_digest() -> str:
    """What the records of data/hints hold."""
    return _digest(_LIBRARY)


def _records(folder: Path) -> list[Hint]:
    records = [_hint(record, path.name) for path in _files(folder) for record in _read(path)]
    return sorted(
        records, key=lambda hint: (hint.class_name == "*", hint.provenance.get("made_by") != "hand")
    )


@lru_cache(maxsize=4)
def load_hints(folder: Path | None = None) -> tuple[Hint, ...]:
    """Every record in the order in which they are tried: your own folders', then the library's. Or
    those of one folder.

    Of a folder, in file and line order, but those made by hand first and those of any class last.
    ValueError for a faulty record or a double id.
    """
    own = [] if folder else [records for records, _ in reversed(_ADDED.values())]
    hints = [*itertools.chain(*own), *_records(folder or _LIBRARY)]
    ids = [hint.id for hint in hints]
    if doubles := {i for i in ids if ids.count(i) > 1}:
        raise ValueError(
            f"{folder or 'the library'}: the id {', '.join(doubles)} occurs more than once"
        )
    return tuple(hints)


def match(classes: tuple[str, ...], call: Call, error: str) -> Hint | None:
    """The first hint for a call and its error text."""
    return next(
        (h for h in load_hints() if h.class_name in (*classes, "*") and h.matches(call, error)),
        None,
    )


def augment(
    task: Task,
    call: Call,
    result: str,
    turn: int = 0,
    corruption: Corruption = NONE,
    seed: str = "",
) -> tuple[str, str | None]:
    """What the agent reads for a result, and the id of the hint in it, None if there is none.

    `corruption` replaces a share of the hints, drawn from `seed`, by bad ones; their ids end in
    "!kind".
    """
    error = is_error(result)
    hint = match(task.classes, call, error) if error else None
    if hint is None:
        return result, None
    text, name = hint.render(call), hint.id
    if corruption.applies(seed):
        text = corruption.corrupt(text, hint, load_hints(), task, turn, seed)
        name = f"{hint.id}!{corruption.kind}"
    elif constitution.leak(text, task, call, result):
        return result, None
    content = json.loads(result) if result.startswith("{") else {"error": error}
    return json.dumps({**content, "hint": text}), name
