"""Every hinted error, provoked on BFCL's own tools: the rows of data/provocations.txt.

A row: hint id, class, scenario (what BFCL loads), calls before, the call that fails, calls that
follow the hint.
"""

import ast
from pathlib import Path

from envtune.bfcl import Call

TREE = {
    "root": {
        "home": {
            "type": "directory",
            "contents": {
                "docs": {
                    "type": "directory",
                    "contents": {
                        "a.txt": {"type": "file", "content": "one"},
                        "deep": {"type": "directory", "contents": {}},
                    },
                },
                "full": {
                    "type": "directory",
                    "contents": {
                        "a.txt": {"type": "file", "content": "x"},
                        "docs": {"type": "directory", "contents": {}},
                    },
                },
                "a.txt": {"type": "file", "content": "two"},
                "b.txt": {"type": "file", "content": "three"},
            },
        }
    }
}
ORDERS = {"authenticated": True, "market_status": "Open"}
TRAVEL = {
    "access_token": "t0k",
    "token_expires_in": 2,
    "credit_card_list": {
        "77": {"balance": 5000},
        "78": {"card_number": "9"},
        "79": {"balance": 10},
    },
}
CAR = {"fuelLevel": 10.0}
LOCKED = {
    "doorStatus": dict.fromkeys(("driver", "passenger", "rear_left", "rear_right"), "locked"),
    "fuelLevel": 10.0,
}
TICKET = {
    "ticket_queue": [{"id": 5, "title": "t", "status": "Open", "created_by": "me"}],
    "current_user": "me",
}


def _calls(text: str) -> list[tuple[str, dict]]:
    """`cd(folder='a'); ls()` as names and arguments, whether or not there is such a tool."""
    calls = [line.value for line in ast.parse(text.strip()).body]
    return [(c.func.id, {k.arg: ast.literal_eval(k.value) for k in c.keywords}) for c in calls]


def _state(text: str) -> dict:
    """`TRAVEL`, `{...}`, or `TRAVEL | {...}`, which changes some of its values."""
    name, _, changes = text.partition(" | ")
    known = globals()[name] if name.isupper() else ast.literal_eval(name)
    return known | ast.literal_eval(changes or "{}")


def _rows() -> list[tuple]:
    rows, class_name, state = [], "", {}
    for line in (Path(__file__).parent / "data" / "provocations.txt").read_text().splitlines():
        if line.startswith("["):
            class_name, _, words = line[1:].partition("] ")
            state = _state(words)
        elif line and not line.startswith("#"):
            hint, *parts = line.split("|")
            before, [failing], follow = map(_calls, parts)
            rows.append((hint.strip(), class_name, state, before, failing, follow))
    return rows


ROWS = _rows()


def play(row):
    """Return (hint id, class, failing call, its result, results of the calls that follow)."""
    from envtune.bfcl.toolbox import Toolbox

    hint_id, class_name, scenario, before, failing, follow = row
    box = Toolbox.of_scenario((class_name,), {class_name: scenario})

    def execute(name, arguments):
        filled = {
            "@token": lambda: box.instances[class_name].access_token,
            "@booking": lambda: next(iter(box.instances[class_name].booking_record)),
        }
        return box.execute(
            Call(
                name,
                {
                    k: filled[v]() if isinstance(v, str) and v in filled else v
                    for k, v in arguments.items()
                },
            )
        )

    for call in before:
        execute(*call)
    result = execute(*failing)
    return hint_id, class_name, Call(*failing), result, [execute(*call) for call in follow]
