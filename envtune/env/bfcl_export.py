"""Export of episodes as the result files that BFCL's own command scores.

    >>> export_bfcl(Path("runs/x/evaluation"), Path("out"))
    [PosixPath('out')]

    $ bfcl evaluate --model Qwen/Qwen3-4B-Instruct-2507-FC --test-category multi_turn \\
          --result-dir $PWD/out --score-dir $PWD/scores --partial-eval

The model's name chooses BFCL's reader of the calls, whoever made them. This reader takes a step as

    <tool_call>
    {"name": "cd", "arguments": {"folder": "docs"}}
    </tool_call>

BFCL's command formats each call into Python source and evaluates it. So a call is written only if
it names a tool of the task, its arguments have plain names, and our limits let it run; any other
becomes a call of NOT_RUN, an execution error there as here. Text without a call is written so
that no call can be read from it.
"""

import json
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from envtune import bfcl
from envtune.bfcl import Call, Task
from envtune.bfcl.toolbox import Toolbox
from envtune.common.files import atomic
from envtune.record import TAGS, Ending, EpisodeRecord, episodes_file, read_tagged

MODEL = "Qwen/Qwen3-4B-Instruct-2507-FC"
KINDS = ("validation", "train", "all")
NOT_RUN = "call_that_was_not_run"
_FILE = "BFCL_v4_multi_turn_{}_result.json"


def whole(text: str) -> str:
    """The text with U+FFFD for half surrogates, which BFCL's command cannot write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_run(box: Toolbox, call: Call) -> Call:
    """The call, or one of NOT_RUN if the toolbox does not run it."""
    before = box.refused
    box.execute(call)
    plain = all(
        name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
        for name in call.arguments
    )
    if box.refused == before and plain:
        return call
    return Call(NOT_RUN, {"tool": call.name[:100]})


def result_step(calls: list[Call], message: str = "") -> str:
    """One step of a result file: its calls, or the message if there are none."""
    if calls:
        bodies = [json.dumps(call._asdict(), ensure_ascii=False) for call in calls]
        text = "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)
    else:
        text = message.replace("<tool_call>\n", "<tool_call> \n")
    return whole(text)


def result(record: EpisodeRecord) -> list[list[str]] | str:
    """What BFCL's runner would have kept of an episode: `[turn][step]`, or an error as text.

    An episode that ran into the step limit has the turns up to this one. BFCL has no limits on an
    episode's tokens or steps; there a context that is full is an error of the inference.
    """
    if record.ending not in (Ending.COMPLETED, Ending.TURN_STEP_LIMIT):
        return f"Error during inference: the episode is not complete ({record.ending})"
    box = Toolbox(bfcl.load_task(record.task_id))
    turns: list[list[str]] = [[] for _ in record.verdicts]
    for step in record.steps:
        calls = [as_run(box, call) for call in step.calls]
        turns[step.turn].append(result_step(calls, step.message))
    return turns


def read_episodes(run: Path, kind: str = "validation") -> Iterator[tuple[str, EpisodeRecord]]:
    """(group, record) of a run folder, an evaluation's folder, or a file of records.

    A group is a repeat of an evaluation, or a stage's step in a run. kind: of a run's episodes.
    """
    file = episodes_file(run) or run
    if not file.is_file():
        raise ValueError(
            f"{run} is neither a file of episodes nor a folder with an episodes.jsonl "
            "(an evaluation's) or an episodes.jsonl.gz (a run's)"
        )

    def wanted(line: dict) -> bool:
        return kind == "all" or line.get("kind") in (None, kind)

    for line, record in read_tagged(file, wanted):
        tags = {tag: line[tag] for tag in TAGS if line.get(tag) is not None}
        named = [f"{tag}_{tags[tag]}" for tag in ("repeat", "step") if tag in tags]
        group = "_".join([str(tags[tag]) for tag in ("stage", "kind") if tag in tags] + named)
        yield re.sub(r"[^\w-]", "_", group), record


def _task(task_id: str) -> Task:
    if task_id not in bfcl.load_tasks():
        raise ValueError(
            f"{task_id} is no task of BFCL, and BFCL's command scores no others; export episodes "
            "of BFCL's tasks"
        )
    return bfcl.load_task(task_id)


def write_results(out: Path, records: list[EpisodeRecord], model: str = MODEL) -> Path:
    """Write one result file for each split under `out`, for records of different BFCL tasks."""
    lines = defaultdict(list)
    for record in records:
        line = json.dumps({"id": record.task_id, "result": result(record)})
        lines[_task(record.task_id).split].append(line + "\n")
    folder = out / model.replace("/", "_") / "multi_turn"
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in lines.items():
        with atomic(folder / _FILE.format(split)) as unfinished:
            unfinished.write_text("".join(found))
    return out


def export_bfcl(run: Path, out: Path, model: str = MODEL, kind: str = "validation") -> list[Path]:
    """Write the result files of a run's episodes, and return the folders for `--result-dir`.

    Repeats, or evaluations of several steps, get a folder each under `out`. ValueError without
    episodes, for a task that is not BFCL's, another reader of calls, or if `out` is not empty.
    """
    if not re.fullmatch(r"Qwen/Qwen3-[A-Za-z0-9.-]+-FC", model):
        raise ValueError(
            f"model is one of BFCL's Qwen/Qwen3-...-FC, such as {MODEL}, got {model!r}"
        )
    if out.exists() and any(out.iterdir()):
        raise ValueError(
            f"{out} is not empty, and BFCL's command scores all it finds; name another"
        )
    groups: dict[str, dict[str, EpisodeRecord]] = {}
    for name, record in read_episodes(run, kind):
        _task(record.task_id)
        group, again = name, 1
        while record.task_id in groups.get(group, ()):
            again += 1
            group = f"{name}_{again}".lstrip("_")
        groups.setdefault(group, {})[record.task_id] = record
    if not groups:
        raise ValueError(f"{run} has no episodes of kind {kind}; see --kind")
    return [
        write_results(out / (group or "1") if len(groups) > 1 else out, [*found.values()], model)
        for group, found in groups.items()
    ]
