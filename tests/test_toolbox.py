import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envtune import bfcl
from envtune.bfcl import Call, call_limits, checker
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.bfcl.toolbox import Toolbox

TASK = bfcl.load_task("multi_turn_base_3")


def test_results_read_as_bfcl_prints_them():
    box = Toolbox(TASK)
    assert box.execute(Call("pwd", {})) == '{"current_working_directory": "/alex"}'
    assert box.execute(Call("mkdir", {"dir_name": "x"})) == "None"
    assert box.execute(Call("cd", {"folder": "nowhere"})).startswith('{"error"')


@pytest.mark.parametrize(
    "name",
    [
        "open",
        "eval",
        "exec",
        "__import__",
        "__init__",
        "_load_scenario",
        "_current_dir",
        "root",
        "ls.__globals__",
        "",
        "cd\n",
        "GorillaFileSystem.ls",
    ],
)
def test_only_documented_methods_can_be_called(name, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    result = Toolbox(TASK).execute(Call(name, {"file": str(victim), "mode": "w"}))
    assert result == f"{EXECUTION_ERROR}name {name!r} is not defined"
    assert victim.read_text() == "whole"


@pytest.mark.parametrize(
    "call",
    [
        Call("power", {"base": 9, "exponent": 999_999_999}),
        Call("logarithm", {"value": 2.0, "base": 3.0, "precision": 10**9}),
        Call("square_root", {"number": 2.0, "precision": 10**9}),
        Call("mean", {"numbers": [1.0] * 10**6}),
        Call("add", {"a": 10**40, "b": 1}),
        Call("add", {"a": float("inf"), "b": 1}),
        Call("echo", {"content": "x" * 10**6}),
    ],
)
def test_a_call_that_could_run_away_is_refused_with_the_reason(call):
    task = next(
        t for t in bfcl.load_tasks().values() if set(t.classes) == {"GorillaFileSystem", "MathAPI"}
    )
    result = Toolbox(task).execute(call)
    assert result.startswith(f"{EXECUTION_ERROR}argument ")


def test_no_ground_truth_call_is_refused():
    weights = [
        [call_limits.weigh(call) for turn in task.ground_truth for call in turn]
        for task in bfcl.load_tasks().values()
    ]
    assert max(map(sum, weights)) * 50 < call_limits.EPISODE_ARGUMENT_CHARS


@pytest.mark.parametrize(
    "arguments", [{1: 2}, {None: "x"}, {"self": 1}, {"": 1}, {"x y": 1}, {"__class__": 1}]
)
def test_argument_names_that_are_none_are_an_execution_error(arguments):
    assert Toolbox(TASK).execute(Call("ls", arguments)).startswith(EXECUTION_ERROR)


def test_two_toolboxes_of_one_task_share_nothing():
    one, two = Toolbox(TASK), Toolbox(TASK)
    one.execute(Call("mkdir", {"dir_name": "mine"}))
    assert "mine" in one.execute(Call("ls", {})) and "mine" not in two.execute(Call("ls", {}))


def test_arguments_are_copied_before_a_tool_may_keep_them():
    task = next(
        t for t in bfcl.load_tasks().values() if "TwitterAPI" in t.classes and t.split == "base"
    )
    box, tags = Toolbox(task), ["#a"]
    box.instances["TwitterAPI"].authenticated = True
    assert '"tags": ["#a"]' in box.execute(Call("post_tweet", {"content": "hi", "tags": tags}))
    tags.append("#late")
    assert "#late" not in str(vars(box.instances["TwitterAPI"]))


def test_ground_truth_states_are_not_reachable_through_an_episode():
    first = checker.ground_truth(TASK)
    before = repr(first[0].instances["GorillaFileSystem"].root)
    Toolbox(TASK).execute(Call("mkdir", {"dir_name": "mine"}))
    assert repr(checker.ground_truth(TASK)[0].instances["GorillaFileSystem"].root) == before


arguments = st.dictionaries(
    st.sampled_from(
        ["folder", "file_name", "source", "destination", "a", "path", "name", "lines", "x"]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.lists(st.integers(), max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([*bfcl.tool_names("GorillaFileSystem"), "open"]), arguments),
        max_size=6,
    )
)
def test_any_call_gives_text_and_touches_no_file(calls):
    before = sorted(os.listdir("."))
    box = Toolbox(TASK)
    for name, given_arguments in calls:
        assert isinstance(box.execute(Call(name, given_arguments)), str)
    assert sorted(os.listdir(".")) == before
