import json

import pytest
from conftest import ANSWER, ground_truth_messages, tool_call
from hypothesis import given, settings
from hypothesis import strategies as st

from envtune import Episode, EpisodeRecord, bfcl, replay, rewards
from envtune.episode import EVALUATION, TRAINING, Ending, Outcome

BASE, MISSING = "multi_turn_base_3", "multi_turn_miss_func_3"
LS = tool_call(("ls", {}))


def test_the_sixth_step_without_an_answer_ends_the_turn_after_its_calls_ran():
    record = replay(BASE, [LS] * 6)
    assert record.codes == [-1, -1, -1, -1, -1, 0] and record.steps[-1].outcome is Outcome.FORCED_END
    assert record.steps[-1].results and record.verdicts[0].success is False


def test_a_forced_end_can_still_win_the_turn():
    right = tool_call(*bfcl.load_task(BASE).ground_truth[0])
    assert replay(BASE, [LS] * 5 + [right]).codes[-1] == 1.0


def test_evaluation_allows_twenty_steps_and_the_next_ends_the_episode():
    twenty = replay(BASE, [LS] * 20, limits="evaluation")
    assert twenty.ending is Ending.RUNNING
    beyond = replay(BASE, [LS] * 21, limits="evaluation")
    assert beyond.ending is Ending.TURN_STEP_LIMIT and not bfcl.official_valid(beyond)
    assert rewards.progress_reward(beyond) == 0.0


def test_a_call_in_an_empty_turn_is_not_run_in_training_and_is_run_in_evaluation():
    training, evaluation = (replay(MISSING, [LS], limits=limits) for limits in ("training", "evaluation"))
    assert training.codes == [0.0] and not training.steps[0].results and training.steps[0].calls
    assert evaluation.codes == [-1.0] and evaluation.steps[0].results


def test_asking_wins_an_empty_turn_and_the_new_tools_follow():
    episode = Episode(bfcl.load_task(MISSING))
    reply = episode.step(ANSWER)
    assert episode.record.codes == [1.0]
    assert reply.startswith(bfcl.NEW_TOOLS_MESSAGE) and '"name": "find"' in reply


def test_an_unreadable_message_ends_the_turn_in_evaluation_only():
    assert replay(BASE, ["?"], limits="evaluation").verdicts and not replay(BASE, ["?"]).verdicts


def test_a_finished_episode_takes_no_more_messages():
    messages = ground_truth_messages(BASE)
    episode = Episode(bfcl.load_task(BASE))
    assert [episode.step(m) is None for m in messages][-1] and episode.done
    with pytest.raises(RuntimeError, match="start a new one"):
        episode.step(ANSWER)
    with pytest.raises(ValueError, match="ended"):
        replay(BASE, [*messages, ANSWER])


def test_an_aborted_episode_scores_over_all_turns():
    episode = Episode(bfcl.load_task(BASE))
    for message in ground_truth_messages(BASE)[:2]:
        episode.step(message)
    episode.abort(Ending.TOKEN_LIMIT)
    assert rewards.progress_reward(episode.record) == 0.5 and rewards.binary_reward(episode.record) == 0.0
    assert not bfcl.official_valid(episode.record)


def test_a_verdict_says_why():
    record = replay(BASE, [LS, ANSWER, LS, ANSWER])
    assert "execution results" in record.verdicts[0].why and "root" in record.verdicts[1].why


def test_interleaved_episodes_of_one_task_do_not_touch_each_other():
    messages = ground_truth_messages(BASE)
    alone = replay(BASE, messages)
    episodes = [Episode(bfcl.load_task(BASE)) for _ in range(8)]
    for message in messages:
        for episode in episodes:
            episode.step(message)
    assert all(episode.record == alone for episode in episodes)


def test_hints_are_drawn_once_an_episode_at_the_given_rate_and_repeat_with_the_seed():
    task = bfcl.load_task(BASE)
    drawn = [Episode(task, hint_rate=0.3, seed=s).record.hints_on for s in range(2000)]
    assert 0.25 < sum(drawn) / len(drawn) < 0.35
    assert drawn == [Episode(task, hint_rate=0.3, seed=s).record.hints_on for s in range(2000)]
    assert not any(Episode(task, hint_rate=0.0, seed=s).record.hints_on for s in range(50))
    assert all(Episode(task, hint_rate=1.0, seed=s).record.hints_on for s in range(50))


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_hint_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match="hint_rate"):
        Episode(bfcl.load_task(BASE), hint_rate=rate)


def test_unknown_limits_are_refused():
    with pytest.raises(ValueError, match="training, evaluation"):
        replay(BASE, [], limits="none")


message = st.sampled_from([ANSWER, LS, "?", "", tool_call(("cd", {"folder": "projects"})), tool_call(("open", {"file": "x"})),
                           tool_call(("cd", {})), tool_call(("mkdir", {"dir_name": "d"}), ("rm", {"file_name": "d"}))])


@settings(max_examples=100, deadline=None)
@given(st.lists(message, max_size=30), st.sampled_from([BASE, MISSING, "multi_turn_long_context_3"]),
       st.sampled_from([TRAINING, EVALUATION]), st.booleans())
def test_any_sequence_of_messages_keeps_the_record_sound(messages, task_id, limits, hints_on):
    episode = Episode(bfcl.load_task(task_id), limits, hint_rate=float(hints_on))
    for text in messages:
        if episode.done:
            break
        reply = episode.step(text)
        assert (reply is None) == episode.done
    record = episode.record
    assert 0 <= rewards.progress_reward(record) <= 1 and 0 <= rewards.stage1_reward(record) <= 2
    assert len(record.verdicts) == sum(s.verdict is not None for s in record.steps) <= record.turns
    assert all(code in (-3, -2, -1, 0, 1) for code in record.codes)
    assert EpisodeRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    plain = replay(task_id, [s.message for s in record.steps], limits.name)
    assert plain.codes == record.codes  # hints change no verdict


def test_a_record_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version"):
        EpisodeRecord.from_dict({**replay(BASE, []).to_dict(), "version": 99})
