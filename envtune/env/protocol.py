"""What goes between agent and environment as text: the system prompt, the agent's message, the environment's reply.

    >>> parse('<think>look</think><tool_call>[{"name": "ls", "arguments": {}}]</tool_call>')
    Parsed(calls=(Call(name='ls', arguments={}),), answer=None, error=None)
    >>> parse("Sure!").error
    'expected one <think>…</think> block, found 0'

A message is one think block, then one tool_call or one answer, and nothing else but white space (PAPER: the protocol).
Where a message could be read in two ways it is a format error, and the error says which rule it broke. JSON is strict:
no NaN, no duplicate keys, no nesting past MAX_DEPTH. Nothing here knows what a tool does.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from envtune.bfcl import Call
from envtune.bfcl.results import shorten

MAX_MESSAGE_CHARS = 200_000
MAX_DEPTH = 32
MAX_CALLS = 100
"""Calls in one message; no turn of the 800 tasks needs more than 34."""
TAGS = ("think", "tool_call", "answer")
_ALL_TAGS = tuple(f"{bracket}{tag}>" for tag in TAGS for bracket in ("<", "</"))

_FORMAT = """Every message you write is exactly one of these two, with nothing before, between or after:
<think>your reasoning</think><tool_call>[{"name": "tool_name", "arguments": {"parameter": "value"}}]</tool_call>
<think>your reasoning</think><answer>your reply to the user</answer>
A tool_call holds a JSON list of one or more calls; they run in order and you then read their results. You may take \
several steps. An answer ends your work on the user's current request, and the next request follows."""

_RULES = """
Two rules:
1. When information is missing, first try the other tools to find it. Ask the user only if no tool can tell.
2. Never invent a call. When the function or a parameter value that a request needs is missing, say so in an answer and ask."""

_COMPACT = (
    '<think></think><tool_call>[{"name": , "arguments": {}}]</tool_call> or '
    "<think></think><answer></answer>"
)
_COMPACT_RULES = "Missing? Look, else ask."


class Parsed(NamedTuple):
    """An agent message: `calls` or `answer`, or the rule it broke in `error`; the other two are None."""

    calls: tuple[Call, ...] | None = None
    answer: str | None = None
    error: str | None = None


def _signature(doc: dict) -> str:
    """`cd(folder)`; a tool's optional parameters carry a question mark."""
    required = doc["parameters"].get("required", [])
    return f"{doc['name']}({', '.join(p if p in required else p + '?' for p in doc['parameters']['properties'])})"


def describe_tools(docs: list[dict], compact: bool) -> str:
    """One tool a line: its whole doc as JSON, or its signature alone for a model with little context."""
    if compact:
        return " ".join(_signature(doc) for doc in docs)
    return "\n".join(
        json.dumps({k: doc[k] for k in ("name", "description", "parameters")}, ensure_ascii=False)
        for doc in docs
    )


def compact_lines() -> tuple[str, str]:
    """The format line and the rules line of a compact system prompt, for a tokenizer that knows them as one token each."""
    return _COMPACT, _COMPACT_RULES


def system_prompt(docs: list[dict], rules: bool = False, compact: bool = False) -> str:
    """The system message: role, format, the two extra rules of stages 3-4 if `rules`, and the tools."""
    if compact:
        return "\n".join(
            [_COMPACT, *([_COMPACT_RULES] if rules else []), describe_tools(docs, compact=True)]
        )
    return (
        f"You are an agent that fulfils a user's requests with tools, over several turns.\n\n{_FORMAT}\n"
        f"{_RULES if rules else ''}\n\nThe tools, one JSON object a line:\n{describe_tools(docs, compact=False)}"
    )


def user_message(text: str, new_docs: list[dict], compact: bool = False) -> str:
    """What the user says at the start of a turn; where withheld tools appear, their docs follow."""
    return f"{text}\n{describe_tools(new_docs, compact)}" if new_docs else text


def _unique(pairs: list[tuple]) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice in one JSON object")
    return made


def _no_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_QUICK = json.JSONDecoder(parse_constant=_no_constant)


def _too_deep(text: str) -> bool:
    """Bracket depth outside strings, before any parser recurses: a 10,000-fold nesting must not reach it."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth, in_string, escaped = 0, False, False
    for char in text:
        if in_string:
            in_string, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif char in "]}":
            depth -= 1
    return False


def _calls(text: str) -> Parsed:
    text = text.strip(" \t\n\r")  # JSON's own white space
    if len(text) > 2 * MAX_DEPTH and _too_deep(text):
        return Parsed(error=f"the tool_call JSON nests more than {MAX_DEPTH} levels deep")
    try:
        payload, end = _QUICK.raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        items = payload if type(payload) is list else [payload]
        # every key takes a colon: where there are more colons than keys found below, one key may have hidden another
        colons = text.count(":")
        for item in items:
            if type(item) is dict:
                arguments = item.get("arguments")
                colons -= len(item) + (len(arguments) if type(arguments) is dict else 0)
        if colons:
            _STRICT.raw_decode(text)
    except (
        ValueError
    ) as error:  # JSONDecodeError is one; so is an integer of more digits than Python converts
        return Parsed(error=f"the tool_call block is not valid JSON: {error}")
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


def parse(message: str) -> Parsed:
    """Read an agent message. Never raises: whatever the model wrote is either understood or a format error."""
    if len(message) > MAX_MESSAGE_CHARS:
        return Parsed(
            error=f"the message has {len(message)} characters, at most {MAX_MESSAGE_CHARS} are read"
        )
    text = message.strip()
    thought_ends = text.find("</think>")
    rest = text[thought_ends + len("</think>") :].lstrip()
    if (
        text.startswith("<think>")
        and thought_ends > 0
        and (text.count("<") == 4 or sum(map(text.count, _ALL_TAGS)) == 4)
    ):
        # four tags in all: if they are these four, none is left over to be read another way
        if rest.startswith("<tool_call>") and rest.endswith("</tool_call>"):
            return _calls(rest[len("<tool_call>") : -len("</tool_call>")])
        if rest.startswith("<answer>") and rest.endswith("</answer>"):
            return Parsed(answer=rest[len("<answer>") : -len("</answer>")].strip())
    return Parsed(error=_fault(message))


def _fault(message: str) -> str:
    """The first rule that a malformed message breaks."""
    for tag in TAGS:
        opened, closed = message.count(f"<{tag}>"), message.count(f"</{tag}>")
        if opened != closed or opened > 1:
            return f"<{tag}> is opened {opened} times and closed {closed} times, at most one pair is allowed"
    if "<think>" not in message:
        return "expected one <think>…</think> block, found 0"
    if ("<tool_call>" in message) == ("<answer>" in message):
        return "expected exactly one of <tool_call>…</tool_call> and <answer>…</answer>"
    return "expected the think block first, then the tool_call or answer, and nothing else"


def format_feedback(error: str) -> str:
    """What the agent reads after a format error."""
    return f"Format error: {error}. Write <think>…</think> and then one <tool_call>…</tool_call> or <answer>…</answer>."


def tool_feedback(calls: Sequence[Call], results: Sequence[str]) -> str:
    """What the agent reads after its calls: one `name: result` line a call, in order."""
    lines = "\n".join([f"{call[0]}: {result}" for call, result in zip(calls, results, strict=True)])
    if not lines.isascii():
        # half of a surrogate pair, which JSON can smuggle in, is no text that a tokenizer or a file takes
        lines = lines.encode("utf-8", "replace").decode()
    return f"<tool_response>\n{lines}\n</tool_response>"


def within(
    results: Sequence[str], result_chars: int, observation_chars: int
) -> tuple[Sequence[str], int]:
    """Results as an agent may read them, and how many characters are left out: each at most `result_chars`, and after
    `observation_chars` of all of them nothing but the mark that says how much is missing."""
    if sum(map(len, results)) <= result_chars <= observation_chars:
        return results, 0  # nearly always
    shown, truncated, left = [], 0, observation_chars
    for text in results:
        limit = min(result_chars, left)
        truncated += max(0, len(text) - limit)
        left -= min(len(text), limit)
        shown.append(shorten(text, limit))
    return shown, truncated


EMPTY_TURN_WARNING = (
    "The call was not carried out: this request could not be fulfilled with the tools and values at "
    "hand, and asking would have been right."
)
FORCED_END_NOTICE = "The turn was ended: too many steps without an answer."
