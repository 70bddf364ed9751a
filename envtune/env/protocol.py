"""The text between agent and environment: system prompt, agent message, environment reply.

    >>> parse('<think>look</think><tool_call>[{"name": "ls", "arguments": {}}]</tool_call>')
    Parsed(calls=(Call(name='ls', arguments={}),), answer=None, error=None)
    >>> parse("Sure!").error
    'expected one <think>…</think> block, found 0'

A message is one think block, then one tool_call or one answer, and nothing else but white space
(the paper's protocol). A message that could be read in two ways is a format error, and the error
says which rule it broke. JSON is strict: no NaN, no duplicate keys, no nesting past MAX_DEPTH.
Nothing here knows what a tool does.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from envtune.bfcl import Call, Task, docs_of
from envtune.bfcl.results import shorten

MAX_MESSAGE_CHARS = 200_000
MAX_DEPTH = 32
MAX_CALLS = 100  # in one message; no turn of the 800 tasks needs more than 34
TAGS = ("think", "tool_call", "answer")

_FORMAT = """Every message you write is exactly one of these two, with nothing before, between or \
after:
<think>your reasoning</think><tool_call>[{"name": "tool_name", "arguments": \
{"parameter": "value"}}]</tool_call>
<think>your reasoning</think><answer>your reply to the user</answer>
A tool_call holds a JSON list of one or more calls; they run in order and you then read their \
results. You may take several steps. An answer ends your work on the user's current request, and \
the next request follows."""

_RULES = """
Two rules:
1. When information is missing, first try the other tools to find it. Ask the user only if no \
tool can tell.
2. Never invent a call. When the function or a parameter value that a request needs is missing, \
say so in an answer and ask."""

_COMPACT = (
    '<think></think><tool_call>[{"name": , "arguments": {}}]</tool_call> or '
    "<think></think><answer></answer>"
)
_COMPACT_RULES = "Missing? Look, else ask."


class Parsed(NamedTuple):
    """An agent message: its calls, or its answer, or in `error` the rule it broke."""

    calls: tuple[Call, ...] = ()
    answer: str | None = None
    error: str | None = None


def _signature(doc: dict) -> str:
    """`cd(folder)`; a tool's optional parameters carry a question mark."""
    required, names = doc["parameters"].get("required", []), doc["parameters"]["properties"]
    return f"{doc['name']}({', '.join(n if n in required else n + '?' for n in names)})"


def describe_tools(docs: list[dict], compact: bool) -> str:
    """One tool a line, as JSON; or, for a model with little context, the signatures alone."""
    if compact:
        return " ".join(_signature(doc) for doc in docs)
    return "\n".join(
        json.dumps({k: doc[k] for k in ("name", "description", "parameters")}, ensure_ascii=False)
        for doc in docs
    )


def compact_lines() -> tuple[str, str]:
    """The format and rules lines of a compact system prompt: one token each in our tokenizer."""
    return _COMPACT, _COMPACT_RULES


def system_prompt(docs: list[dict], rules: bool = False, compact: bool = False) -> str:
    """The system message: role, format, the two extra rules of stages 3-4 if `rules`, and tools."""
    tools = describe_tools(docs, compact)
    if compact:
        return "\n".join([_COMPACT, *([_COMPACT_RULES] if rules else []), tools])
    return (
        "You are an agent that fulfils a user's requests with tools, over several turns.\n\n"
        f"{_FORMAT}\n{_RULES if rules else ''}\n\nThe tools, one JSON object a line:\n{tools}"
    )


def user_turn(task: Task, turn: int, compact: bool = False) -> str:
    """What the user says as a turn begins, with the docs of the tools that appear in it."""
    if turn != task.withheld_until:
        return task.user_turns[turn]
    docs = [doc for doc in docs_of(task.classes) if doc["name"] in task.withheld]
    return f"{task.user_turns[turn]}\n{describe_tools(docs, compact)}"


def _unique(pairs: list[tuple]) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice in one JSON object")
    return made


def _no_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_PLAIN_JSON = json.JSONDecoder(parse_constant=_no_constant)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)


def _too_deep(text: str) -> bool:
    """Whether brackets outside strings nest too deep, found before the JSON parser recurses."""
    depths = (
        1 if found[0] in "[{" else -1 if found[0] in "]}" else 0
        for found in _STRING_OR_BRACKET.finditer(text)
    )
    return max(itertools.accumulate(depths)) > MAX_DEPTH


def _decode(decoder: json.JSONDecoder, text: str):
    payload, end = decoder.raw_decode(text)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return payload


def _calls(text: str) -> Parsed:
    text = text.strip(" \t\n\r")  # JSON's own white space
    brackets = text.count("[") + text.count("{")
    if len(text) > 2 * MAX_DEPTH and brackets > MAX_DEPTH and _too_deep(text):
        return Parsed(error=f"the tool_call JSON nests more than {MAX_DEPTH} levels deep")
    try:
        payload = _decode(_STRICT, text)
    except ValueError as found:  # also an integer of more digits than Python converts
        error = found
        try:
            _decode(_PLAIN_JSON, text)
        except ValueError as syntax:  # named before a key that occurs twice
            error = syntax
        return Parsed(error=f"the tool_call block is not valid JSON: {error}")
    items = payload if isinstance(payload, list) else [payload]
    if not items:
        return Parsed(error="the tool_call block holds no call")
    if len(items) > MAX_CALLS:
        return Parsed(
            error=f"the tool_call block holds {len(items)} calls, at most {MAX_CALLS} are run"
        )
    calls = []
    for item in items:
        name = item.get("name") if type(item) is dict else None
        if type(name) is not str:
            return Parsed(
                error='each call is an object {"name": "…", "arguments": {…}} with a text as name'
            )
        arguments = item.get("arguments")
        if type(arguments) is not dict:
            return Parsed(
                error=f'call {name!r} needs "arguments": an object, {{}} if there are none'
            )
        calls.append(Call(name, arguments))
    return Parsed(tuple(calls))


_TAG = re.compile(r"(</?(?:think|tool_call|answer)>)")
# what nearly every message looks like, and quick to tell: no other "<" than those of its four tags
_PLAIN = re.compile(r"\s*<think>[^<]*</think>\s*<(tool_call|answer)>([^<]*)</\1>\s*")
_CALLING, _ANSWERING = (
    ["<think>", "</think>", f"<{tag}>", f"</{tag}>"] for tag in ("tool_call", "answer")
)


def parse(message: str) -> Parsed:
    """Read an agent message. Never raises: what is not understood is a format error."""
    if len(message) > MAX_MESSAGE_CHARS:
        return Parsed(
            error=f"the message has {len(message)} characters, at most {MAX_MESSAGE_CHARS} are read"
        )
    plain = _PLAIN.fullmatch(message)
    if plain:
        kind, text = plain.groups()
        return _calls(text) if kind == "tool_call" else Parsed((), text.strip())
    parts = _TAG.split(message)  # text before, <think>, thought, </think>, text between, <...
    tags, outside = parts[1::2], "".join(parts[::4])
    if tags not in (_CALLING, _ANSWERING) or outside.strip():
        return Parsed(error=_broken_rule(message))
    return _calls(parts[6]) if tags == _CALLING else Parsed(answer=parts[6].strip())


def _broken_rule(message: str) -> str:
    """The first rule that a malformed message breaks."""
    for tag in TAGS:
        opened, closed = message.count(f"<{tag}>"), message.count(f"</{tag}>")
        if opened != closed or opened > 1:
            return (
                f"<{tag}> is opened {opened} times and closed {closed} times, "
                "at most one pair is allowed"
            )
    if "<think>" not in message:
        return "expected one <think>…</think> block, found 0"
    if ("<tool_call>" in message) == ("<answer>" in message):
        return "expected exactly one of <tool_call>…</tool_call> and <answer>…</answer>"
    return "expected the think block first, then the tool_call or answer, and nothing else"


def format_feedback(error: str) -> str:
    """What the agent reads after a format error."""
    return (
        f"Format error: {error}. Write <think>…</think> and then one <tool_call>…</tool_call> or "
        "<answer>…</answer>."
    )


def tool_feedback(calls: Sequence[Call], results: Sequence[str]) -> str:
    """What the agent reads after its calls: one `name: result` line per call, in order."""
    lines = [f"{call.name}: {text}" for call, text in zip(calls, results, strict=True)]
    text = "\n".join(["<tool_response>", *lines, "</tool_response>"])
    # half of a surrogate pair, which JSON can carry, can be neither tokenized nor written to a file
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def within(
    results: Sequence[str], result_chars: int, observation_chars: int
) -> tuple[tuple[str, ...], int]:
    """Results as the agent reads them, and how many characters are left out.

    Each is cut to `result_chars`, and all together to `observation_chars`; a result that is cut
    ends with how much is missing.
    """
    if sum(map(len, results)) <= result_chars <= observation_chars:
        return tuple(results), 0  # nearly always
    shown, left = [], observation_chars
    for text in results:
        limit = min(result_chars, left)
        shown.append(shorten(text, limit))
        left -= min(len(text), limit)
    return tuple(shown), sum(map(len, results)) - (observation_chars - left)


EMPTY_TURN_WARNING = (
    "The call was not carried out: this request could not be fulfilled with the tools and values "
    "at hand, and asking would have been right."
)
FORCED_END_NOTICE = "The turn was ended: too many steps without an answer."
