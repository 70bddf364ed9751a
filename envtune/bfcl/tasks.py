"""BFCL V3 multi-turn: 800 tasks, their tool docs and tool classes.

    >>> task = load_tasks()["multi_turn_base_3"]
    >>> task.user_turns[1][:26], task.ground_truth[0][0]
    ('After identifying them, th', Call(name='find', arguments={'path': '.', 'name': 'test'}))

Task i of the four splits is one scenario in four variants. miss_func withholds tools until a turn
whose user message is empty in the data; it reads as NEW_TOOLS_MESSAGE here. Ground truth is parsed
with `ast`, never evaluated.
"""

import ast
import copy
import hashlib
import importlib
import inspect
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PACKAGE_VERSION = "2026.3.23"
SPLITS = ("base", "miss_func", "miss_param", "long_context")
CLASSES = (
    "GorillaFileSystem",
    "MathAPI",
    "MessageAPI",
    "TwitterAPI",
    "TicketAPI",
    "TradingBot",
    "TravelAPI",
    "VehicleControlAPI",
)
DATA_SHA256 = "184248e1df06f9dbc034b609fca928811ae3269ed9064fcf15cb885cdad9e436"
NEW_TOOLS_MESSAGE = "More functions are now available to you. Please try again with them."


class BFCLUnavailable(RuntimeError):
    """bfcl-eval is missing, of another version, or its data has changed."""


class Call(NamedTuple):
    """One tool call: the tool's name and its arguments by keyword."""

    name: str
    arguments: dict

    def source(self) -> str:
        """The call as Python source: `cd(folder='temp')`."""
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


@dataclass(frozen=True)
class Task:
    """One problem. All episodes share it, so nothing may write to its dicts (Toolbox copies).

    Caches use the task itself as the key: another task with the same id is another task.
    """

    id: str
    split: str
    scenario: int  # 0..199, the same in all four splits: what a leak-free split must group by
    user_turns: tuple[str, ...]  # NEW_TOOLS_MESSAGE on the turn where withheld tools appear
    initial_config: dict
    classes: tuple[str, ...]
    withheld: tuple[str, ...]  # tools whose docs appear only from turn `withheld_until` on
    withheld_until: int | None
    ground_truth: tuple[tuple[Call, ...], ...]  # per turn; in an empty turn it is right to ask
    ground_truth_source: tuple[tuple[str, ...], ...]  # the same calls as BFCL writes them

    @property
    def turns(self) -> int:
        return len(self.user_turns)

    def __hash__(self) -> int:
        return hash(self.id)


@lru_cache(maxsize=1)
def _package() -> Path:
    command = f"pip install --no-deps bfcl-eval=={PACKAGE_VERSION}"
    try:
        installed = version("bfcl-eval")
    except PackageNotFoundError:
        raise BFCLUnavailable(f"the BFCL benchmark is not installed; run: {command}") from None
    if installed != PACKAGE_VERSION:
        raise BFCLUnavailable(
            f"bfcl-eval {PACKAGE_VERSION} is expected, {installed} is installed; run: {command}"
        )
    return Path(importlib.import_module("bfcl_eval").__path__[0])


def _data_files() -> dict[str, Path]:
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    data = _package() / "data"
    files = {f"tasks/{s}": data / f"BFCL_v4_multi_turn_{s}.json" for s in SPLITS}
    files |= {
        f"answers/{s}": data / "possible_answer" / f"BFCL_v4_multi_turn_{s}.json" for s in SPLITS
    }
    files |= {
        f"docs/{c}": data / "multi_turn_func_doc" / MULTI_TURN_FUNC_DOC_FILE_MAPPING[c]
        for c in CLASSES
    }
    return files


@lru_cache(maxsize=1)
def _raw() -> dict[str, list[dict]]:
    """Every data file as its JSON lines, read once, after their common hash was compared."""
    _package()
    digest, rows = hashlib.sha256(), {}
    for name, path in sorted(_data_files().items()):
        content = path.read_bytes()
        digest.update(name.encode() + b"\0" + content)
        rows[name] = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
    if digest.hexdigest() != DATA_SHA256:
        raise BFCLUnavailable(
            f"BFCL's data has hash {digest.hexdigest()[:16]}…, expected {DATA_SHA256[:16]}…: the "
            f"installed files were changed; reinstall bfcl-eval=={PACKAGE_VERSION} with --no-deps"
        )
    return rows


# tool classes that are not BFCL's, with their docs, by name; filled by domains.add
OWN_CLASSES: dict[str, tuple[type, list[dict]]] = {}


@cache
def tool_class(name: str) -> type:
    """The Python class behind one of CLASSES, or one of OWN_CLASSES."""
    if name in OWN_CLASSES:
        return OWN_CLASSES[name][0]
    _package()
    from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING

    return getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)


def tool_names(class_name: str) -> tuple[str, ...]:
    """The tools of a class: its public methods, which are exactly the documented ones (tested)."""
    return tuple(doc["name"] for doc in _docs(class_name))


def _docs(class_name: str) -> list[dict]:
    return OWN_CLASSES[class_name][1] if class_name in OWN_CLASSES else _raw()[f"docs/{class_name}"]


def new_instance(class_name: str, initial_config: dict, long_context: bool):
    """A tool instance in its initial state, as BFCL builds it. The config is copied."""
    instance = tool_class(class_name)()
    if class_name != "MathAPI":  # BFCL's only stateless class: it has no scenario to load
        instance._load_scenario(
            copy.deepcopy(initial_config.get(class_name, {})), long_context=long_context
        )
    return instance


def long_context_constants() -> list:
    """Module-level values that long_context tools print; nothing writes to them (tested)."""
    _package()
    from bfcl_eval.eval_checker.multi_turn_eval.func_source_code import long_context as module

    return [
        module.MA_5_EXTENSION,
        module.MA_20_EXTENSION,
        module.INTERMEDIARY_CITIES,
        module.CAR_STATUS_METADATA_EXTENSION,
        module.PARKING_BRAKE_INSTRUCTION,
    ]


def parse_call(source: str, classes: tuple[str, ...]) -> Call:
    """`"sort('a.txt')"` -> Call('sort', {'file_name': 'a.txt'}). Literals only."""
    node = ast.parse(source, mode="eval").body
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise ValueError(f"expected a single call such as f(x=1), got {source!r}")
    owner = next((c for c in classes if node.func.id in tool_names(c)), None)
    if owner is None:
        raise ValueError(f"{node.func.id!r} is no tool of {', '.join(classes)}")
    signature = inspect.signature(getattr(tool_class(owner), node.func.id))
    positional = list(signature.parameters)[1:]  # without self
    if len(node.args) > len(positional):
        raise ValueError(f"{source!r} has more arguments than {node.func.id} takes")
    arguments = {n: ast.literal_eval(v) for n, v in zip(positional, node.args, strict=False)}
    arguments |= {k.arg: ast.literal_eval(k.value) for k in node.keywords}
    return Call(node.func.id, arguments)


def _task(split: str, entry: dict, answer: dict) -> Task:
    withheld = entry.get("missed_function", {})  # {"3": ["sort"]}: at most one turn (tested)
    until = int(next(iter(withheld))) if withheld else None
    classes = tuple(entry["involved_classes"])
    source = tuple(tuple(turn) for turn in answer["ground_truth"])
    return Task(
        id=entry["id"],
        split=split,
        scenario=int(entry["id"].rsplit("_", 1)[1]),
        user_turns=tuple(
            turn[0]["content"] if turn else NEW_TOOLS_MESSAGE for turn in entry["question"]
        ),
        initial_config=entry["initial_config"],
        classes=classes,
        withheld=tuple(withheld[str(until)]) if withheld else (),
        withheld_until=until,
        ground_truth=tuple(tuple(parse_call(c, classes) for c in turn) for turn in source),
        ground_truth_source=source,
    )


@lru_cache(maxsize=1)
def load_tasks() -> dict[str, Task]:
    """All 800 tasks by id, in BFCL's order: base, miss_func, miss_param, long_context."""
    raw = _raw()
    tasks = {}
    for split in SPLITS:
        for entry, answer in zip(raw[f"tasks/{split}"], raw[f"answers/{split}"], strict=True):
            if entry["id"] != answer["id"]:
                raise BFCLUnavailable(
                    f"task {entry['id']} stands beside the answer of {answer['id']}"
                )
            tasks[entry["id"]] = _task(split, entry, answer)
    return tasks


def docs_of(classes: tuple[str, ...], hidden: tuple[str, ...] = ()) -> list[dict]:
    """The tool docs of some classes, in BFCL's order, without the hidden tools."""
    return [doc for c in classes for doc in _docs(c) if doc["name"] not in hidden]


def tool_docs(task: Task, turn: int) -> list[dict]:
    """The tool docs that the model may read in a turn: all but those still withheld."""
    hidden = task.withheld_until is not None and turn < task.withheld_until
    return docs_of(task.classes, task.withheld if hidden else ())
