import pytest
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import bfcl, replay
from envtune.bfcl import Call
from envtune.env import rewards

LS, UNKNOWN = tool_call(("ls", {})), tool_call(("teleport", {}))


@pytest.mark.parametrize(
    "messages, form, tool, stage1",
    [
        ([], 0.0, 0.0, 0.0),
        ([ANSWER, ANSWER], 1.0, 0.0, 0.0),
        ([LS, ANSWER, ANSWER], 1.0, 1.0, 2.0),
        ([LS, UNKNOWN, ANSWER, ANSWER], 1.0, 0.5, 1.5),
        (["?", LS, UNKNOWN, ANSWER], 0.75, 0.5, 1.25),
        (["?", ANSWER], 0.5, 0.0, 0.0),
    ],
)
def test_rewards_of_literal_episodes(messages, form, tool, stage1):
    record = replay("multi_turn_base_3", messages)
    assert (
        rewards.format_reward(record),
        rewards.tool_call_reward(record),
        rewards.stage1_reward(record),
    ) == (form, tool, stage1)


def test_a_step_with_one_failing_call_among_many_counts_once():
    record = replay("multi_turn_base_3", [tool_call(("ls", {}), ("teleport", {}), ("ls", {}))])
    assert record.codes == [-2.0] and rewards.tool_call_reward(record) == 0.0


def test_the_direct_reward_is_nine_tenths_progress_and_one_tenth_format():
    record = replay("multi_turn_miss_func_3", [ANSWER, "?", ANSWER])
    assert rewards.progress_reward(record) == pytest.approx(1 / 3)
    assert rewards.direct_reward(record) == pytest.approx(0.9 / 3 + 0.1 * 2 / 3)


def call(name, **arguments):
    return Call(name, arguments)


@pytest.mark.parametrize(
    "made, truth, value",
    [
        (
            [call("cd", folder="a")],
            [call("cd", folder="a")],
            3.0,
        ),  # name 1, names of arguments 1, value 1 of 3 points
        ([call("cd", folder="b")], [call("cd", folder="a")], 6 * 2 / 3 - 3),  # the value is wrong
        (
            [call("cd", path="a")],
            [call("cd", folder="a")],
            6 * 1 / 3 - 3,
        ),  # the argument's name too
        ([call("ls")], [call("cd", folder="a")], -3.0),  # another tool
        ([], [call("cd", folder="a")], -3.0),
        ([], [], 3.0),
        ([call("ls")], [], -3.0),  # a turn whose right act is to ask
        (
            [call("ls"), call("cd", folder="a")],
            [call("cd", folder="a")],
            6 * 2.5 / 3 - 3,
        ),  # one tool too many: half of the names
        (
            [call("cd", folder="b"), call("cd", folder="a")],
            [call("cd", folder="a")],
            3.0,
        ),  # the best of alike calls counts
    ],
)
def test_toolrls_correctness_of_a_turn(made, truth, value):
    assert rewards.call_correctness(made, truth) == pytest.approx(value)


def test_toolrl_of_an_episode_is_format_plus_the_mean_over_all_turns():
    task = bfcl.load_task("multi_turn_base_3")
    gold = replay(task.id, ground_truth_messages(task.id))
    assert rewards.toolrl_reward(gold) == pytest.approx(4.0) == rewards.MAXIMUM["toolrl"]
    assert rewards.toolrl_reward(replay(task.id, ["?"])) == pytest.approx(-3.0)
    half = replay(
        task.id, ground_truth_messages(task.id)[:2]
    )  # the first turn done, the second not reached
    assert (
        rewards.toolrl_reward(half) == pytest.approx(1.0 + (3.0 - 3.0) / 2) and task.ground_truth[0]
    )


@pytest.mark.parametrize("name", rewards.REWARDS)
def test_no_reward_exceeds_its_maximum_and_doing_right_reaches_it(name):
    gold = replay("multi_turn_miss_param_3", ground_truth_messages("multi_turn_miss_param_3"))
    assert rewards.REWARDS[name](gold) == pytest.approx(rewards.MAXIMUM[name])
