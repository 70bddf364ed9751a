import pytest
from conftest import ANSWER, tool_call

from envtune import replay, rewards

LS, UNKNOWN = tool_call(("ls", {})), tool_call(("teleport", {}))


@pytest.mark.parametrize("messages, form, tool, stage1", [
    ([], 0.0, 0.0, 0.0),
    ([ANSWER, ANSWER], 1.0, 0.0, 0.0),
    ([LS, ANSWER, ANSWER], 1.0, 1.0, 2.0),
    ([LS, UNKNOWN, ANSWER, ANSWER], 1.0, 0.5, 1.5),
    (["?", LS, UNKNOWN, ANSWER], 0.75, 0.5, 1.25),
    (["?", ANSWER], 0.5, 0.0, 0.0),
])
def test_rewards_of_literal_episodes(messages, form, tool, stage1):
    record = replay("multi_turn_base_3", messages)
    assert (rewards.format_reward(record), rewards.tool_call_reward(record), rewards.stage1_reward(record)) == (form, tool, stage1)


def test_a_step_with_one_failing_call_among_many_counts_once():
    record = replay("multi_turn_base_3", [tool_call(("ls", {}), ("teleport", {}), ("ls", {}))])
    assert record.codes == [-2.0] and rewards.tool_call_reward(record) == 0.0


def test_the_direct_reward_is_nine_tenths_progress_and_one_tenth_format():
    record = replay("multi_turn_miss_func_3", [ANSWER, "?", ANSWER])
    assert rewards.progress_reward(record) == pytest.approx(1 / 3)
    assert rewards.direct_reward(record) == pytest.approx(0.9 / 3 + 0.1 * 2 / 3)
