import json
from dataclasses import replace

import pytest
from conftest import ANSWER, ground_truth_messages, tool_call
from hypothesis import given, settings
from hypothesis import strategies as st

from envtune import Episode, EpisodeRecord, bfcl, replay
from envtune.env import rewards
from envtune.env.episode import EVALUATION, TRAINING
from envtune.record import Ending, Outcome, read_records, write_records

BASE, MISSING = "multi_turn_base_3", "multi_turn_miss_func_3"
LS = tool_call(("ls", {}))


def test_the_sixth_step_without_an_answer_ends_the_turn_after_its_calls_ran():
    record = replay(BASE, [LS] * 6)
    assert (
        record.codes == [-1, -1, -1, -1, -1, 0] and record.steps[-1].outcome is Outcome.FORCED_END
    )
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


@pytest.mark.parametrize("at, valid", [(0, True), (20, True), (None, False)])
def test_the_step_limit_in_the_last_turn_is_judged_by_the_calls_until_then(at, valid):
    first, last = bfcl.load_task(BASE).ground_truth
    steps = [LS] * 21
    if at is not None:
        steps[at] = tool_call(*last)
    record = replay(BASE, [tool_call(*first), ANSWER, *steps], limits="evaluation")
    assert record.ending is Ending.TURN_STEP_LIMIT and bfcl.official_valid(record) == valid
    assert rewards.binary_reward(record) == float(valid)


def test_the_step_limit_in_an_earlier_turn_fails_the_episode():
    first = tool_call(*bfcl.load_task(BASE).ground_truth[0])
    record = replay(BASE, [first, *[LS] * 20], limits="evaluation")
    assert record.verdicts[0].success and record.ending is Ending.TURN_STEP_LIMIT
    assert not bfcl.official_valid(record)


def test_bfcls_verdict_runs_the_calls_of_empty_turns_and_does_not_judge_these_turns():
    asked, *others = ground_truth_messages(MISSING)
    for call, valid in ((LS, True), (tool_call(("mkdir", {"dir_name": "mine"})), False)):
        record = replay(MISSING, [call, asked, *others], limits="evaluation")
        assert not record.verdicts[0].success and bfcl.official_valid(record) == valid


def test_a_call_in_an_empty_turn_is_not_run_in_training_and_is_run_in_evaluation():
    training, evaluation = (
        replay(MISSING, [LS], limits=limits) for limits in ("training", "evaluation")
    )
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
    assert (
        rewards.progress_reward(episode.record) == 0.5
        and rewards.binary_reward(episode.record) == 0.0
    )
    assert not bfcl.official_valid(episode.record)


def test_a_verdict_says_why():
    record = replay(BASE, [LS, ANSWER, LS, ANSWER])
    assert "execution results" in record.verdicts[0].why and "root" in record.verdicts[1].why


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


message = st.sampled_from(
    [
        ANSWER,
        LS,
        "?",
        "",
        tool_call(("cd", {"folder": "projects"})),
        tool_call(("open", {"file": "x"})),
        tool_call(("cd", {})),
        tool_call(("mkdir", {"dir_name": "d"}), ("rm", {"file_name": "d"})),
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(message, max_size=30),
    st.sampled_from([BASE, MISSING, "multi_turn_long_context_3"]),
    st.sampled_from([TRAINING, EVALUATION]),
    st.booleans(),
)
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


def test_each_limit_has_an_ending_of_its_own_and_the_score_stays_over_all_turns():
    short = replace(TRAINING, name="short", steps_per_episode=2)
    episode = Episode(BASE, short)
    messages = ground_truth_messages(BASE)
    assert episode.step(messages[0]) and episode.step(messages[1]) is None
    assert episode.record.ending is Ending.EPISODE_STEP_LIMIT and episode.record.limits == "short"
    assert rewards.progress_reward(episode.record) == 0.5 and not episode.record.completed
    whole = Episode(BASE, replace(TRAINING, name="just enough", steps_per_episode=len(messages)))
    assert [whole.step(m) for m in messages][-1] is None and whole.record.ending is Ending.COMPLETED


def test_an_interrupt_while_a_turn_is_judged_leaves_the_record_as_it_was(monkeypatch):
    episode = Episode(BASE, EVALUATION)
    for _ in range(20):
        episode.step(LS)
    before = episode.record
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "envtune.env.episode.ground_truth", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        episode.step(LS)
    assert episode.record == before and not episode.done
    assert episode.step(LS) is None and episode.record.ending is Ending.TURN_STEP_LIMIT


@pytest.mark.parametrize("changes", [{"steps_per_turn": 0}, {"steps_per_episode": 0}])
def test_limits_below_one_step_are_refused(changes):
    with pytest.raises(ValueError, match="at least 1"):
        replace(TRAINING, **changes)


def test_a_cut_observation_is_marked_and_counted_and_the_verdict_uses_the_whole_result():
    task = next(
        t
        for t in bfcl.load_tasks().values()
        if t.split == "long_context" and any(c.name == "get_stock_info" for c in t.ground_truth[0])
    )
    cut, whole = Episode(task, max_result_chars=50), Episode(task, max_result_chars=100_000)
    for message in ground_truth_messages(task.id)[:2]:
        replies = [episode.step(message) for episode in (cut, whole)]
    steps = cut.record.steps[0], whole.record.steps[0]
    left_out = sum(max(0, len(r) - 50) for r in steps[0].results)
    assert steps[0].truncated == left_out > 30_000 and steps[1].truncated == 0
    assert steps[0].results == steps[1].results and replies[0] == replies[1]
    assert f"[{max(map(len, steps[0].results)) - 50} more characters]" in steps[0].feedback
    assert cut.record.verdicts == whole.record.verdicts and cut.record.verdicts[0].success


def test_an_observation_of_many_results_is_cut_as_a_whole():
    episode = Episode(BASE, max_result_chars=30, max_observation_chars=50)
    episode.step(tool_call(*[("echo", {"content": "x" * 40})] * 4))
    step = episode.record.steps[0]
    lines = step.feedback.splitlines()[1:-1]
    length = len(step.results[0])
    assert [line.split(" … ")[1] for line in lines] == [
        f"[{length - n} more characters]" for n in (30, 20, 0, 0)
    ]
    assert step.truncated == 4 * length - 50
    assert lines == [f"echo: {text}" for text in step.shown]


@pytest.mark.parametrize("changes", [{"max_result_chars": 0}, {"max_observation_chars": -1}])
def test_an_observation_limit_below_one_character_is_refused(changes):
    with pytest.raises(ValueError, match="at least 1 character"):
        Episode(BASE, **changes)


@pytest.mark.parametrize(
    "task_id, calls, parts",
    [
        (
            "multi_turn_base_3",
            [("mkdir", {"dir_name": "mine"})],
            ["GorillaFileSystem differs", "/mine is not in the ground truth"],
        ),
        (
            "multi_turn_base_3",
            [("pwd", {})],
            ["missing among the execution results", "test_image1.jpg"],
        ),
        (
            "multi_turn_base_50",
            [("pressBrakePedal", {"pedalPosition": 1.0})],
            ["VehicleControlAPI differs", "ground truth"],
        ),
    ],
)
def test_why_names_the_attribute_or_the_result_that_differs(task_id, calls, parts):
    record = replay(task_id, [tool_call(*calls), ANSWER])
    assert all(part in record.verdicts[0].why for part in parts), record.verdicts[0].why


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_records_go_to_json_lines_and_back(tmp_path, name):
    records = [
        replay(BASE, [LS, "?", ANSWER], hint_rate=1.0),
        replay(MISSING, ground_truth_messages(MISSING)),
        replay(BASE, [tool_call(("echo", {"content": "\ud800 ä 🦍\u2028"}))]),
    ]
    write_records(tmp_path / name, records[:2])
    write_records(tmp_path / name, records[2:])
    assert list(read_records(tmp_path / name)) == records


def test_a_broken_line_of_a_record_file_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [replay(BASE, [LS])])
    path.write_text(path.read_text() + '{"version": 2}\n')
    with pytest.raises(
        ValueError, match="records.jsonl, line 2: this is no complete episode record"
    ):
        list(read_records(path))


def test_a_resumed_evaluations_file_is_read_without_what_a_kill_cut_short(tmp_path):
    path = tmp_path / "episodes.jsonl"
    records = [replay(BASE, [LS]), replay(BASE, [ANSWER])]
    write_records(path, records[:1])
    path.write_text(path.read_text() + '{"version": 3, "tas\n')
    write_records(path, records[1:])
    assert list(read_records(path)) == records
    own = path.rename(tmp_path / "mine.jsonl")
    with pytest.raises(ValueError, match="mine.jsonl, line 2: not JSON"):
        list(read_records(own))
    own.write_text("5\n")
    with pytest.raises(ValueError, match="mine.jsonl, line 1"):
        list(read_records(own))
    with pytest.raises(TypeError, match="a line carries stage, .*; got foo"):
        read_records(own, foo=1)


def test_an_episode_shows_itself():
    episode = Episode(BASE, hint_rate=1.0)
    episode.step(tool_call(("cat", {"file_name": "a/b"})))
    episode.step(ANSWER)
    page = episode._repr_html_()
    assert (
        page == episode.record._repr_html_()
        and "missing among the execution results" in page
        and "hint" in page
    )


def test_a_record_of_another_version_is_refused():
    with pytest.raises(ValueError, match="version"):
        EpisodeRecord.from_dict({**replay(BASE, []).to_dict(), "version": 99})


@pytest.mark.parametrize(
    "call, part",
    [
        (lambda: Episode(3), "task is a Task or the id of one.*got 3"),
        (lambda: replay(BASE, ANSWER), "a list of assistant messages, got one text"),
        (lambda: replay(BASE, [{"role": "assistant", "content": ANSWER}]), "pass the 'content'"),
    ],
)
def test_what_is_no_task_or_no_message_is_refused_with_a_sentence(call, part):
    with pytest.raises(TypeError, match=part):
        call()
