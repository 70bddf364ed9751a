"""What a hint may never do: give away the solution, write a recipe, or be long. Checked in code.

    >>> violation("Call cd(folder='docs').", ("cd", "ls"))
    'it writes a call: cd('
    >>> task, call = load_task("multi_turn_base_3"), Call("cd", {"folder": "x"})
    >>> leak("Look into photography.", task, call, "no")
    'photography'

`violation` looks at the text alone, when a record is loaded or generated. `leak` compares it with
the task, each time a hint is shown.
"""

import re

from envtune.bfcl import Call, Task

MAX_WORDS = 60
_NUMBERED = re.compile(r"(?i)\bstep\s*\d|(?:^|\s)\(?\d[.)]\s|\bfirst call\b.*\bthen call\b")


def violation(text: str, tools: tuple[str, ...]) -> str:
    """The rule that a text breaks, or ''. `tools` are the names of the class's tools.

    At most 60 words; no call written out; no recipe: numbered steps, or several tools by name.
    """
    if not text.strip():
        return "it is empty"
    if (words := len(text.split())) > MAX_WORDS:
        return f"it has {words} words, at most {MAX_WORDS} are shown"
    if call := re.search(r"[A-Za-z_]\w*\(", text):
        return f"it writes a call: {call.group()}"
    if _NUMBERED.search(text):
        return "it numbers steps, which is a recipe"
    # a tool such as `find` or `sort` is also a word; only a name that could be nothing else counts
    named = [
        tool
        for tool in tools
        if ("_" in tool or tool.lower() != tool) and re.search(rf"(?<!\w){tool}(?!\w)", text)
    ]
    if len(named) > 1:
        return f"it names {len(named)} tools in order, which is a recipe: {', '.join(named)}"
    return ""


def values_in(value) -> set[str]:
    """Every scalar in a JSON value as text, keys of objects included."""
    if isinstance(value, dict):
        return set().union(*map(values_in, value), *map(values_in, value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(values_in, value))
    return {str(value)}


def leak(text: str, task: Task, call: Call, result: str) -> str:
    """What of the task's ground truth a text would give away, or ''.

    That is a complete call, or a value that the agent neither wrote nor just read. Values of one
    or two characters are too common to count.
    """
    seen = (*values_in(call.arguments), result)
    for truth in (c for turn in task.ground_truth for c in turn):
        if f"{truth.name}(" in text:
            return f"{truth.name}(…)"
        for value in values_in(list(truth.arguments.values())):
            if (
                len(value) > 2
                and not any(value in text_seen for text_seen in seen)
                and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text)
            ):
                return value
    return ""
