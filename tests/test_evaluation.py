import pandas as pd
import pytest
from conftest import SMALL

from envtune.train import evaluation, stages


@pytest.mark.parametrize(
    "successes, n, low, high",
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval_has_its_published_values(successes, n, low, high):
    assert evaluation.wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_an_interval_holds_its_share_also_when_rounding_is_against_it():
    for n in range(1, 120):
        for successes in range(n + 1):
            low, high = evaluation.wilson(successes, n)
            assert 0.0 <= low <= successes / n <= high <= 1.0, (
                successes,
                n,
            )  # 4 of 4 gave 0.9999999999999999


@pytest.mark.parametrize("successes, n", [(0, 0), (3, 2), (-1, 2)])
def test_an_impossible_count_is_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        evaluation.wilson(successes, n)


def test_summary_gives_each_split_and_all_with_n():
    results = pd.DataFrame(
        {
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
    from conftest import ANSWER, ground_truth_messages
    from transformers import AutoTokenizer

    from envtune import Episode, bfcl
    from envtune.env.episode import EVALUATION
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
    return pd.DataFrame({"task_id": [f"t{i}" for i in range(len(valid))], "valid": valid})


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
