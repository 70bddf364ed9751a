"""The environment for TRL's `environment_factory`: the tools are methods, TRL calls them.

>>> tasks = ["multi_turn_base_3", "multi_turn_base_100"]
>>> trainer = GRPOTrainer(
...     model=model, train_dataset=Dataset.from_list(rows(tasks)),
...     environment_factory=environments(tasks), args=args,
... )

TRL takes the tools from a class's public methods, so there is a class for each set of tools, and a
row names its own. Differences from an Episode, all of them the interface's:
- TRL's loop knows no later user turns. A tool `answer` ends a turn and returns the next request, so
  it reaches the agent as a tool's result. Training as in the paper needs train/trl_rollout.py.
- Tools that appear in a later turn (miss_func) are not possible: such tasks are refused.
- The agent writes calls in its model's own format, not in the paper's: malformed calls are TRL's
  to parse, and cost nothing here. Each call is a step of its own.
- An agent that stops calling has answered, also where TRL cut it off.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import replace

from envtune import bfcl
from envtune.bfcl import Task
from envtune.env import domains, rewards
from envtune.env.episode import TRAINING, Episode, Limits
from envtune.record import EpisodeRecord

SYSTEM = (
    "You are an agent that fulfils a user's requests with tools. When you are done with a request, "
    "or cannot go on without the user, call the tool `answer`; it returns the user's next request."
)
LIMITS = replace(TRAINING, name="trl", steps_per_turn=40)
"""A step is one call here, and a turn of the tasks needs up to 34."""
OVER = "The conversation is over."
_TYPES = {name: kind for kind, name in domains.TYPES.items()}


class ToolEnvironment:
    """An episode whose steps are method calls. `environments` makes classes with a task's tools."""

    _limits: Limits = LIMITS
    _settings: dict = {}  # of Episode, such as hint_rate and rules

    def __init__(self):
        self._episode: Episode | None = None
        self._closed = False

    def reset(self, task_id: str, **row) -> str:
        """Begin the task of a dataset row; returns the first user turn."""
        self._episode = Episode(_playable(task_id), self._limits, **self._settings)
        self._closed = False
        return self._episode.task.user_turns[0]

    @property
    def record(self) -> EpisodeRecord:
        """What happened, for reward functions of your own: they get `environments`."""
        return self._live().record

    def get_reward(self) -> float:
        """The progress reward, once the completion is over. It answers the turn that is open."""
        if not (self._closed or self._live().done):
            self._say("answer", "")
        self._closed = True
        return rewards.progress_reward(self.record)

    def answer(self, text: str) -> str:
        """Reply to the user and read the next request.

        Args:
            text: The reply to the user's current request.
        """
        return self._say("answer", text.replace("<", "‹"))  # no tag of the protocol in a text

    def _live(self) -> Episode:
        if self._episode is None:
            raise RuntimeError("reset() comes first")
        return self._episode

    def _say(self, tag: str, text: str) -> str:
        """Play a message of the protocol; returns what the agent reads."""
        episode = self._live()
        if episode.done:
            return OVER
        reply = episode.step(f"<think></think><{tag}>{text}</{tag}>")
        last = episode.record.steps[-1]
        if last.verdict is None and len(last.shown) == 1:
            return last.shown[0]
        return OVER if reply is None else reply


def _tool(doc: dict):
    """A method that makes a tool's call, with the signature and docstring TRL reads from it."""
    name, schema = doc["name"], doc["parameters"]
    given, kind = schema.get("required", []), inspect.Parameter.KEYWORD_ONLY

    def call(self, **arguments):
        # "<" as an escape: an argument can hold no tag of the protocol
        text = json.dumps([{"name": name, "arguments": arguments}]).replace("<", "\\u003c")
        return self._say("tool_call", text)

    parameters, types, about = [inspect.Parameter("self", kind.POSITIONAL_ONLY)], {}, []
    for key, one in schema["properties"].items():
        types[key] = _TYPES[one["type"]]
        default = inspect.Parameter.empty if key in given else None
        parameters.append(inspect.Parameter(key, kind, default=default, annotation=types[key]))
        about.append(f"    {key}: {' '.join(one['description'].split())}")
    call.__name__ = call.__qualname__ = name
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = types
    call.__doc__ = "\n".join(
        [" ".join(doc["description"].split()), *(["", "Args:", *about] if about else [])]
    )
    return call


def _playable(task_id: str) -> Task:
    task = bfcl.load_task(task_id)
    if task.withheld_until:
        raise ValueError(
            f"{task_id} gets tools in a later turn, and a class for TRL has the same tools "
            "throughout; choose tasks of base, miss_param or long_context"
        )
    return task


def _name(task: Task) -> str:
    return "_".join(task.classes)


def environments(
    task_ids: Sequence[str], limits: Limits = LIMITS, **settings
) -> dict[str, type[ToolEnvironment]]:
    """A class for each set of tools among the tasks, by the name that `rows` gives them.

    settings: those of Episode, such as hint_rate and max_result_chars.
    """
    classes = {}
    for task in map(_playable, task_ids):
        tools = {doc["name"]: _tool(doc) for doc in bfcl.docs_of(task.classes)}
        own = {"_limits": limits, "_settings": settings, **tools}
        classes[_name(task)] = type(_name(task), (ToolEnvironment,), own)
    return classes


def rows(task_ids: Sequence[str]) -> list[dict]:
    """Dataset rows; TRL appends what `reset` returns to the last message."""
    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ""}]
    return [
        {"prompt": prompt, "task_id": task.id, "environment": _name(task)}
        for task in map(_playable, task_ids)
    ]
