"""The text of a tool's result: how BFCL prints it, how it is shortened, and whether it is an error.

>>> as_text({"result": 3})
'{"result": 3}'
>>> is_error('{"error": "no such file"}')
'no such file'
"""

import json
from collections.abc import Callable

EXECUTION_ERROR = "Error during execution: "
# The constants that long_context tools print in every episode, already as JSON, by identity. The
# toolbox fills this with the first task. Encoding them at every call would take most of the time
# of a long_context episode.
PRINTED: dict[int, str] = {}
_DEFAULT = json.JSONEncoder()
# json.dumps makes such an encoder at each call, which takes longer than encoding most results
_ENCODE = json.encoder.c_make_encoder(  # pyright: ignore[reportAttributeAccessIssue] not in typeshed
    None,
    _DEFAULT.default,
    json.encoder.encode_basestring_ascii,
    None,
    ": ",
    ", ",
    False,
    False,
    True,
)


def _json(value) -> str:
    return "".join(_ENCODE(value, 0))


def as_text(result) -> str:
    """A tool's return value as BFCL prints it: a dict as JSON if possible, others by str()."""
    if type(result) is not dict:
        return str(result)
    try:
        if PRINTED.keys().isdisjoint(map(id, result.values())):
            return _json(result)
        items = [f"{_json(str(k))}: {PRINTED.get(id(v)) or _json(v)}" for k, v in result.items()]
        return f"{{{', '.join(items)}}}"
    except (TypeError, ValueError):
        return str(result)


def printed(method: Callable, arguments: dict) -> str:
    """What calling a tool prints. Whatever a tool raises is reported in this way by BFCL."""
    try:
        return as_text(method(**arguments))
    except Exception as error:
        return f"{EXECUTION_ERROR}{error}"


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of a result, and how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit} more characters]"


def is_error(result: str) -> str:
    """The error text of a tool's result, or '' when the call succeeded."""
    if result.startswith(EXECUTION_ERROR):
        return result
    # two tools return their error in a list, which BFCL prints by str()
    if result.startswith(("[{'error': ", "['Error: ")):
        return result.strip("[]{}").removeprefix("'error': ").strip("'\"")
    if '"error"' not in result:
        return ""
    try:
        content = json.loads(result)
    except ValueError:
        return ""
    if not isinstance(content, dict) or "error" not in content:
        return ""
    return str(content["error"]) or "an error without a text"  # as a logarithm to the base 1 gives
