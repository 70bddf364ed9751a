import json
import re

import pandas as pd
import pytest
from conftest import ANSWER, SMALL, ground_truth_messages, tool_call

from envtune import bfcl, replay
from envtune.bfcl.toolbox import Toolbox
from envtune.env.episode import EVALUATION, Episode
from envtune.record import Ending
from envtune.train import evaluation, stages


def test_summary_gives_each_split_and_all_with_n():
    results = pd.DataFrame(
        {
            "task_id": [f"multi_turn_base_{i}" for i in range(3)] + ["multi_turn_miss_func_0"],
            "split": ["base"] * 3 + ["miss_func"],
            "valid": [True, False, True, False],
            "progress": [1.0, 0.5, 1.0, 0.0],
            "errors": [2, 0, 1, 0],
            "recovered": [1, 0, 1, 0],
        }
    )
    table = evaluation.accuracy_by_split(results).set_index("split")
    assert table["n"].to_dict() == {"base": 3, "miss_func": 1, "all": 4}
    assert (
        table.loc["all", "accuracy"] == 0.5
        and table.loc["all", "low"] < 0.5 < table.loc["all", "high"]
    )


def test_evaluation_repeats_exactly_and_has_a_row_a_task(small_policy):
    tasks = stages.shortest_scenario_tasks(SMALL)
    one, two = (evaluation.evaluate(small_policy, tasks, SMALL) for _ in range(2))
    assert one.equals(two) and one["task_id"].tolist() == list(tasks)


def test_a_policy_that_says_the_ground_truth_is_valid_and_one_that_does_not_is_not(small_policy):
    """Evaluation end to end with a scripted sampler as the model: the verdicts are BFCL's."""
    from transformers import AutoTokenizer

    from envtune.policy import rollout

    tokenizer = AutoTokenizer.from_pretrained(small_policy)
    tasks = ["multi_turn_base_3", "multi_turn_miss_func_3"]
    for script, expected in (
        ({t: ground_truth_messages(t) for t in tasks}, [True, True]),
        ({t: [ANSWER] * 9 for t in tasks}, [False, False]),
    ):
        episodes = [Episode(bfcl.load_task(t), EVALUATION, compact=True) for t in tasks]

        def generate(contexts, script=script, episodes=episodes):
            running = [e for e in episodes if not e.done]
            texts = [script[e.task.id][len(e.record.steps)] for e in running]
            return [
                tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
                for text in texts
            ], None

        rollouts = rollout.play(episodes, rollout.Chat(tokenizer), generate, 20_000, 500)
        assert [evaluation.result_row(r.record)["valid"] for r in rollouts] == expected


def test_no_task_is_refused(small_policy):
    with pytest.raises(ValueError, match="at least one"):
        evaluation.evaluate(small_policy, [], SMALL)


def evaluated(*valid):
    tasks = [f"multi_turn_base_{i}" for i in range(len(valid))]
    return pd.DataFrame({"task_id": tasks, "valid": valid})


@pytest.mark.parametrize(
    "before, after, words",
    [
        (
            [True] * 8 + [False] * 8,
            [False] * 16,
            "**Worse than before**: 8 of 16 tasks valid before, 0 after (0 won, 8 lost, p = "
            "0.008: more than chance explains).",
        ),
        (
            [True, True, False],
            [True, False, False],
            "**Worse than before**: 2 of 3 tasks valid before, 1 after (0 won, 1 lost, p = 1.000: "
            "chance explains as much).",
        ),
        (
            [False] * 7,
            [True] * 7,
            "Better than before: 0 of 7 tasks valid before, 7 after (7 won, 0 lost, p = 0.016: "
            "more than chance explains).",
        ),
        (
            [True, False],
            [False, True],
            "No better and no worse than before: 1 of 2 tasks valid before, 1 after (1 won, 1 "
            "lost).",
        ),
    ],
)
def test_the_verdict_says_when_a_run_ended_worse_than_it_began(before, after, words):
    assert evaluation.verdict(evaluated(*before), evaluated(*after)) == words


def test_a_verdict_on_different_tasks_is_refused():
    with pytest.raises(ValueError, match="the same tasks, got 2 and 3 tasks, 2 in both"):
        evaluation.verdict(evaluated(True, True), evaluated(True, True, True))


def test_a_runs_summary_has_the_first_and_the_last_policy_and_every_stage():
    def measured(greedy, sampled):
        tasks = [f"synthetic_base_{200 + i}" for i in range(10)]
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "task_id": tasks,
                        "valid": [i < right for i in range(10)],
                        "format_reward": 1.0,
                        "progress": 0.5,
                        "way": way,
                    }
                )
                for way, right in (("greedy", greedy), ("sampled", sampled))
            ]
        )

    table = evaluation.after_stages(
        {"start": measured(1, 2), "stage1_syntax": measured(3, 4), "stage2_hints": measured(6, 5)}
    )
    assert evaluation.held_out_summary(table, 12.34) == {
        "held_out": {
            "n": 10,
            "before": {"greedy": 0.1, "sampled": 0.2},
            "after": {"greedy": 0.6, "sampled": 0.5},
        },
        "stages": [
            {"stage": "stage1_syntax", "greedy": 0.3, "sampled": 0.4},
            {"stage": "stage2_hints", "greedy": 0.6, "sampled": 0.5},
        ],
        "seconds": 12.3,
    }
    assert (table["low"] <= table["accuracy"]).all() and (table["high"] >= table["accuracy"]).all()


TASK = "multi_turn_base_3"  # two turns: find; then cd, mv or cp, and a tweet
EMPTY = "multi_turn_miss_param_3"


def failed(task, *messages):
    record = replay(task, messages, limits="evaluation")
    assert not bfcl.official_valid(record)
    return evaluation.failure(record)


def test_a_failure_is_named_after_the_first_turn_that_was_lost():
    right = ground_truth_messages(TASK)
    first, rest = right[:2], right[2:]
    assert failed(TASK, "Sure!", *rest) == "format"
    assert failed(TASK, ANSWER, *rest) == "no call"
    assert failed(TASK, tool_call(("fly", {})), ANSWER, *rest) == "unknown tool"
    wrong = tool_call(("find", {"path": ".", "names": "test"}))
    assert failed(TASK, wrong, ANSWER, *rest) == "wrong arguments"
    assert failed(TASK, tool_call(("ls", {})), ANSWER, *rest) == "missing result"
    assert failed(TASK, tool_call(("touch", {"file_name": "x"})), ANSWER, *rest) == "wrong state"
    # an error that was recovered from is not what lost the turn
    recovered = [tool_call(("touch", {"name": "x"})), tool_call(("touch", {"file_name": "x"}))]
    assert failed(TASK, *recovered, ANSWER, *rest) == "wrong state"
    assert failed(TASK, *first, ANSWER) == "no call"
    assert failed(TASK, *[tool_call(("ls", {}))] * 21) == "step limit"


def test_a_call_where_asking_was_right_and_a_long_episode_have_their_names():
    task = next(
        t
        for t in bfcl.load_tasks().values()
        if t.split == "miss_param" and not t.ground_truth[0] and "GorillaFileSystem" in t.classes
    )
    messages = [tool_call(("touch", {"file_name": "x.txt"})), ANSWER]
    messages += ground_truth_messages(task.id)[1:]
    assert failed(task.id, *messages) == "call where asking was right"
    episode = Episode(TASK, EVALUATION)
    episode.step(ground_truth_messages(TASK)[0])
    episode.abort(Ending.TOKEN_LIMIT)
    assert evaluation.failure(episode.record) == "length"


def rows(*tasks, say=ground_truth_messages, repeat=0):
    table = [evaluation.result_row(replay(t, say(t), limits="evaluation")) for t in tasks]
    return pd.DataFrame(table).assign(repeat=repeat)


def silent(task):
    return [ANSWER] * bfcl.load_task(task).turns


def test_a_row_says_which_turns_were_won():
    half = replay(TASK, [*ground_truth_messages(TASK)[:2], ANSWER], limits="evaluation")
    assert evaluation.result_row(half)["turns"] == "wl"
    episode = Episode(TASK, EVALUATION)
    episode.abort(Ending.TOKEN_LIMIT)
    assert evaluation.result_row(episode.record)["turns"] == "--"


def test_a_breakdown_has_sets_splits_domains_and_turns():
    good, bad = [f"multi_turn_{s}_4" for s in bfcl.SPLITS], ["multi_turn_base_3"]
    table = evaluation.breakdown(pd.concat([rows(*good), rows(*bad, say=silent)]))
    sets = table[table["by"] == "set"].set_index("group")
    assert sets.loc["all", ["n", "accuracy"]].tolist() == [5, 0.8]
    assert sets.loc["without known errors", ["n", "accuracy"]].tolist() == [1, 0.0]
    assert set(table[table["by"] == "domain"]["group"]) >= {"GorillaFileSystem", "TwitterAPI"}
    turns = table[table["by"] == "turn"].set_index("group")
    assert turns["n"].tolist() == [5, 5, 4, 2] and turns["accuracy"].tolist() == [0.8, 0.8, 1, 1]
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()


def test_policies_are_compared_pair_by_pair_over_scenarios():
    tasks = [f"multi_turn_{s}_{i}" for i in (5, 6, 7) for s in bfcl.SPLITS]
    before, after = rows(*tasks, say=silent), rows(*tasks)
    found = evaluation.compare(before, after)
    assert found.mean == 1.0 and found.p_value == 2 / 8  # three scenarios, not twelve tasks
    twice = pd.concat([after, rows(*tasks, say=silent, repeat=1)])
    assert evaluation.compare(before, twice).mean == 0.5
    assert evaluation.compare(twice, twice).mean == 0.0
    assert evaluation.passes(twice)[["pass_at_k", "pass_hat_k"]].values.tolist() == [
        [0.5, 0.5],
        [1.0, 0.0],
    ]


def test_recovery_is_a_share_of_errors_with_scenarios_as_units():
    table = rows("multi_turn_base_5", "multi_turn_base_6")
    assert evaluation.recovered(table.assign(errors=0, recovered=0)) is None
    found = evaluation.recovered(table.assign(errors=[3, 1], recovered=[1, 1]))
    assert found.mean == 0.5 and found.low < 0.02 and found.high == 1.0


def test_every_known_error_is_in_the_data():
    """What the list says of a ground truth is read off BFCL's data here, task by task."""
    table = evaluation.known_errors()
    assert len(table) == 7 and table["task_id"].is_unique and table["reason"].str.len().min() > 10
    for row in table.to_dict("records"):
        task, turn, value = bfcl.load_task(row["task_id"]), row["turn"], str(row["value"])
        assert value in str(task.ground_truth_source[turn])
        if row["kind"] == "hidden_tool":
            assert value not in {doc["name"] for doc in bfcl.tool_docs(task, turn)}
            continue
        assert row["kind"] == "never_shown"
        box, read = Toolbox(task), [json.dumps(bfcl.docs_of(task.classes))]
        for before in range(turn):
            read += [task.user_turns[before], *map(box.execute, task.ground_truth[before])]
        read.append(task.user_turns[turn])
        assert not re.search(rf"\b{re.escape(value)}\b", " ".join(read)), row
