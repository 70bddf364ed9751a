"""The text of a tool's result: how BFCL prints it, how it is shortened, and whether it is an error.

>>> as_text({"result": 3})
'{"result": 3}'
>>> is_error('{"error": "no such file"}')
'no such file'
"""

import json
from collections.abc import Callable

EXECUTION_ERROR = "Error during execution: "
PRINTED: dict[int, str] = {}
"""The constants that long_context tools print again and again, as JSON, by identity (filled by the toolbox with the first task)."""


def _encoder() -> Callable[[object], str]:
    """json.dumps with its C encoder made once: json.dumps makes one a call, which takes longer than printing most results."""
    if json.encoder.c_make_encoder is None:
        return json.dumps
    make = json.encoder.c_make_encoder(
        None,
        json.JSONEncoder().default,
        json.encoder.encode_basestring_ascii,
        None,
        ": ",
        ", ",
        False,
        False,
        True,
    )
    return lambda value: "".join(make(value, 0))


_json = _encoder()


def as_text(result) -> str:
    """A tool's return value as BFCL prints it: a str as it is, a dict as JSON where it can be, all else by str()."""
    if type(result) is dict:
        try:
            for value in result.values():
                if (
                    id(value) in PRINTED
                ):  # a thousand numbers need not be printed anew: most of the time of long_context
                    return (
                        "{"
                        + ", ".join(
                            [
                                f"{_json(str(k))}: {PRINTED.get(id(v)) or _json(v)}"
                                for k, v in result.items()
                            ]
                        )
                        + "}"
                    )
            return _json(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def printed(method: Callable, arguments: dict) -> str:
    """What calling a tool prints, whatever it raises: the tools are third-party code, and BFCL reports it all this way."""
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
    if result.startswith(
        ("[{'error': ", "['Error: ")
    ):  # two tools return their error in a list, which BFCL prints by str()
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
