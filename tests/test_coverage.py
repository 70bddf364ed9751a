"""Every error has its hint or its reason, no hint leaks, and none lies."""

import ast
import inspect
import json
import re
import subprocess
import sys

import pandas as pd
import provocations
import pytest

from envtune import bfcl, hints
from envtune.bfcl import Call
from envtune.common import paths
from envtune.hints import coverage

PLAYED = [provocations.play(row) for row in provocations.ROWS]
CLASSES = {h.id: h.class_name for h in hints.load_hints()}


def a_task_with(class_name: str) -> bfcl.Task:
    return next(t for t in bfcl.load_tasks().values() if class_name in t.classes)


def test_every_vague_error_has_a_hint():
    table = coverage.coverage()
    assert coverage.totals(table)["open"] == 0, table[table["state"] == "open"]
    assert coverage.totals(table)["covered"] == 1.0 and len(table) > 450


def test_no_error_of_the_sources_is_missed():
    """Counted a second way: every line of the tool classes that names an error key or raises is the
    line of some site."""
    for class_name in bfcl.CLASSES:
        cls = bfcl.tool_class(class_name)
        source, start = inspect.getsourcelines(cls)
        code = "".join(source)
        docstrings = {
            n
            for node in ast.walk(ast.parse(code))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node)
            for n in range(node.body[0].lineno, node.body[0].end_lineno + 1)
        }
        lines = {s.line for s in coverage.error_sites() if s.class_name == class_name}
        for number, text in enumerate(source, 1):
            if number not in docstrings and re.search(
                r"""["'](error|verification_failure)["']\s*[\]:]|^\s*raise\b""", text
            ):
                near = range(
                    start + number - 1, start + number + 3
                )  # a value may begin on the lines after its key
                assert lines & set(near), (class_name, number, text)


def test_a_clear_record_that_matches_nothing_is_no_reason():
    table = coverage.coverage()
    used = set(table.loc[table["state"] == "clear", "reason"])
    assert used == {r["reason"] for r in coverage._clear()}


@pytest.mark.parametrize(
    "hint_id, class_name, call, result, follow", PLAYED, ids=[f"{p[0]}-{p[2].name}" for p in PLAYED]
)
def test_a_provoked_error_shows_its_hint_and_the_direction_can_succeed(
    hint_id, class_name, call, result, follow
):
    shown, shown_id = hints.augment(a_task_with(class_name), call, result)
    assert shown_id == hint_id, result
    content = json.loads(shown)
    assert content["hint"] and (
        str(content["error"]) or "an error without a text"
    ) == hints.is_error(result)
    assert not follow or not hints.is_error(follow[-1]), follow


def test_every_hint_of_the_library_is_provoked():
    assert {h.id for h in hints.load_hints()} == {p[0] for p in PLAYED}


def unseen_values(task: bfcl.Task) -> set[str]:
    """Everything in the arguments of a task's ground truth, lists and objects taken apart."""
    found = set()

    def take(value):
        if isinstance(value, dict):
            for key, item in value.items():
                take(key)
                take(item)
        elif isinstance(value, list):
            for item in value:
                take(item)
        else:
            found.add(str(value))

    for turn in task.ground_truth:
        for call in turn:
            take(list(call.arguments.values()))
    return found


def test_no_task_gets_a_leak_from_any_provoked_error():
    """Over all 800 tasks: what is shown for every provoked error holds no value that the call and
    the error do not hold, no complete call, at most one tool's name, no numbered steps. Written
    apart from the guard that it checks."""
    shown_count = 0
    for task in bfcl.load_tasks().values():
        values = {v for v in unseen_values(task) if len(v) > 2}
        tools = {doc["name"] for doc in bfcl.docs_of(task.classes)}
        for _, class_name, call, result, _ in PLAYED:
            if class_name not in task.classes:
                continue
            shown, hint_id = hints.augment(task, call, result)
            if hint_id is None:
                continue
            shown_count += 1
            text = json.loads(shown)["hint"]
            words = set(re.findall(r"[\w@#$.:/-]+", text)) | {w.strip(".,;:") for w in text.split()}
            assert not (words & values) - set(
                re.findall(r"[\w@#$.:/-]+", f"{json.dumps(call.arguments)} {result}")
            ), (task.id, hint_id)
            assert not [
                v
                for v in values
                if " " in v and v in text and v not in result + json.dumps(call.arguments)
            ]
            assert not re.search(r"\w\([^)]*\)", text) and not re.search(
                r"(?i)\bstep [0-9]|^[0-9][.)]", text
            )
            assert len(words & tools - {call.name}) <= 1 and len(text.split()) <= 60
    assert shown_count > 20_000


def test_hints_are_shown_in_nearly_every_task_that_meets_their_error():
    """A hint that would leak is dropped; that must stay rare."""
    dropped, met = 0, 0
    for task in bfcl.load_tasks().values():
        for _, class_name, call, result, _ in PLAYED:
            if class_name in task.classes:
                met += 1
                dropped += hints.augment(task, call, result)[1] is None
    assert dropped / met < 0.01, dropped / met


def test_the_report_on_disk_and_the_command_say_what_the_code_says():
    table = coverage.coverage()
    kept = pd.read_csv(paths.DATA / "hints" / "coverage.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept, table)  # stale: python -m envtune hints coverage --write
    done = subprocess.run(
        [sys.executable, "-m", "envtune", "hints", "coverage", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["summary"] == coverage.totals(table) and len(report["sites"]) == len(table)


def test_any_tool_class_has_its_sites_found():
    sites = coverage.sites_of(bfcl.tool_class("TicketAPI"), ("get_ticket",))
    assert [(s.kind, s.template) for s in sites][0] == ("returned", "Ticket with ID {} not found.")
    assert [s.kind for s in sites[1:]] == ["argument"] * 3


def test_an_error_in_a_list_is_an_error():
    assert (
        hints.is_error("[{'error': 'User not authenticated. Please log in to view tickets.'}]")
        == "User not authenticated. Please log in to view tickets."
    )
    assert hints.is_error(
        "['Error: User not authenticated. Please log in to view the watchlist.']"
    ).startswith("Error: User")
    assert hints.is_error("['NVDA']") == "" and hints.is_error("[]") == ""
    assert (
        hints.augment(
            a_task_with("TicketAPI"),
            Call("get_user_tickets", {}),
            "[{'error': 'User not authenticated. x'}]",
        )[1]
        == "ticket-login"
    )
