import json

import pytest
from conftest import ANSWER, tool_call

from envtune import Episode, bfcl
from envtune.bfcl import Call, call_limits, checker
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.bfcl.toolbox import Toolbox

FILES = bfcl.load_task("multi_turn_base_3")


def of_size(measure: str, size: int):
    return size if measure == "magnitude" else {"characters": "x", "items": [1]}[measure] * size


@pytest.mark.parametrize(
    "bound", call_limits.BOUNDS, ids=lambda b: f"{b.tool}-{b.argument}-{b.measure}"
)
def test_every_bound_accepts_its_limit_and_refuses_one_more(bound):
    tool, argument = bound.tool.replace("*", "echo"), bound.argument.replace("*", "content")
    call_limits.weigh(Call(tool, {argument: of_size(bound.measure, bound.at_most)}))
    with pytest.raises(call_limits.Refused, match=f"argument '{argument}'"):
        call_limits.weigh(Call(tool, {argument: of_size(bound.measure, bound.at_most + 1)}))
    if bound.measure == "magnitude":
        with pytest.raises(call_limits.Refused):
            call_limits.weigh(Call(tool, {argument: -bound.at_most * 1.01}))


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        [1, [float("nan")]],
        {"a": 10**31},
        {"x" * 20_001: 1},
        [["y" * 20_001]],
        object(),
        b"x",
        (1,),
        10**5000,
    ],
    ids=list("0123456789x"),
)
def test_a_bad_value_is_refused_wherever_it_lies(value):
    with pytest.raises(call_limits.Refused, match="argument 'content'"):
        call_limits.weigh(Call("echo", {"content": value}))


def test_what_nests_too_deep_is_refused_and_does_not_end_the_process():
    nested = "x"
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(call_limits.Refused, match="'content' nests more than 100 levels"):
        call_limits.weigh(Call("echo", {"content": nested}))


def test_a_number_written_as_text_does_not_pass_the_bound_on_numbers():
    with pytest.raises(
        call_limits.Refused, match="10 characters"
    ):  # mpmath would read it and compute for hours
        call_limits.weigh(Call("logarithm", {"value": 2, "base": 3, "precision": "1000000000"}))


def test_a_refusal_says_why_counts_as_execution_error_and_leaves_the_state_alone():
    episode = Episode(FILES)
    episode.step(tool_call(("mkdir", {"dir_name": "kept"})))
    before = repr(episode._toolbox.instances["GorillaFileSystem"].root)
    reply = episode.step(
        tool_call(
            ("mkdir", {"dir_name": "x" * 256}),
            ("echo", {"content": "y" * 30_000}),
            ("open", {"file": "z", "mode": "w"}),
        )
    )
    assert (
        "256 characters, at most 255" in reply
        and "30000 characters, at most 20000" in reply
        and "name 'open' is not defined" in reply
    )
    assert episode.record.codes == [-1.0, -2.0] and not episode.done
    assert repr(episode._toolbox.instances["GorillaFileSystem"].root) == before


def bomb(levels: int) -> Toolbox:
    """Folders that share their contents: each level doubles the tree, and no call makes more than
    one entry."""
    box = Toolbox(FILES)
    box.execute(Call("mkdir", {"dir_name": "p0"}))
    for level in range(levels):
        box.execute(Call("cp", {"source": f"p{level}", "destination": f"q{level}"}))
        box.execute(Call("mkdir", {"dir_name": f"p{level + 1}"}))
        for name in (f"p{level}", f"q{level}"):
            box.execute(Call("mv", {"source": name, "destination": f"p{level + 1}"}))
    return box


@pytest.mark.parametrize(
    "walk",
    [
        Call("find", {}),
        Call("find", {"path": "/", "name": "p0"}),
        Call("du", {}),
        Call("find", {"path": "p32"}),
    ],
)
def test_a_tree_of_billions_built_by_a_hundred_calls_is_not_walked(walk):
    box = bomb(32)
    assert (
        box.execute(walk)
        == f"{EXECUTION_ERROR}the directory tree has more than {call_limits.TREE_ENTRIES} entries"
    )
    assert "p32" in box.execute(Call("ls", {}))


def test_a_folder_copied_into_itself_is_a_circle_that_is_not_walked():
    box = Toolbox(FILES)
    box.execute(Call("mkdir", {"dir_name": "a"}))
    box.execute(Call("cp", {"source": "a", "destination": "a"}))
    for walk in (Call("find", {}), Call("du", {"human_readable": True})):
        assert (
            box.execute(walk)
            == f"{EXECUTION_ERROR}the directory tree is deeper than {call_limits.TREE_DEPTH} levels"
        )


def test_long_names_nested_deep_are_not_walked():
    box = Toolbox(FILES)
    for level in range(45):
        for i in range(100):
            box.execute(Call("touch", {"file_name": f"{i}" + "x" * 240}))
        box.execute(Call("mkdir", {"dir_name": f"{level}" + "y" * 240}))
        box.execute(Call("cd", {"folder": f"{level}" + "y" * 240}))
    assert "characters" in box.execute(Call("find", {"path": "/"}))


def test_a_verdict_on_a_circle_or_a_bomb_is_given():
    episode = Episode(FILES)
    episode._toolbox = bomb(20)
    episode._toolbox.execute(Call("mkdir", {"dir_name": "a"}))
    episode._toolbox.execute(Call("cp", {"source": "a", "destination": "a"}))
    episode.step(tool_call(("ls", {})))
    episode.step(ANSWER)
    assert "not in the ground truth" in episode.record.verdicts[0].why


def test_a_tree_within_the_bounds_is_walked_as_bfcl_walks_it():
    box, plain = bomb(6), bomb(6)
    assert box.execute(Call("find", {})) == json.dumps(plain.instances["GorillaFileSystem"].find())


def test_the_calls_of_an_episode_carry_and_bring_a_bounded_number_of_characters():
    task = next(t for t in bfcl.load_tasks().values() if "TwitterAPI" in t.classes)
    box = Toolbox(task)
    post = Call("post_tweet", {"content": "z" * 19_000})
    results = [box.execute(post) for _ in range(60)]
    assert "no more are run" in results[-1] and "no more are run" not in results[40]
    box = Toolbox(task)
    box._result_chars = call_limits.EPISODE_RESULT_CHARS + 1
    assert "no more are run" in box.execute(Call("posting_get_login_status", {}))


def test_a_very_long_result_is_cut_and_says_so():
    task = next(t for t in bfcl.load_tasks().values() if "VehicleControlAPI" in t.classes)
    result = Toolbox(task).execute(Call("display_log", {"messages": ["y" * 1_000] * 150}))
    assert result.endswith(" more characters]") and len(result) < call_limits.RESULT_CHARS + 50


def test_no_result_of_a_ground_truth_is_near_the_length_that_is_cut():
    longest = max(
        len(r)
        for t in bfcl.load_tasks().values()
        for turn in checker.ground_truth(t)
        for r in turn.results
    )
    assert 3 * longest < call_limits.RESULT_CHARS
