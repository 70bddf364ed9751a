"""A domain that is not BFCL's: from class to coverage, hints and a playable episode, as
docs/new_domain.md tells it."""

import pytest
from conftest import ANSWER, EXAMPLES, ground_truth_messages, own_module, tool_call

from envtune import Episode, bfcl, hints, replay
from envtune.bfcl import synthetic
from envtune.env import domains, rewards
from envtune.hints import coverage, library

HINTS = EXAMPLES / "restaurant_hints"


@pytest.fixture
def restaurant(monkeypatch, forgotten):
    """The example domain, known for one test."""
    module = own_module(monkeypatch, "restaurant")
    domains.add(module.RestaurantAPI, module.TASKS)
    return module


def test_the_ground_truth_of_a_domain_of_ones_own_wins(restaurant):
    record = replay("restaurant_0", ground_truth_messages("restaurant_0"))
    assert rewards.progress_reward(record) == 1.0 and bfcl.official_valid(record)
    lost = replay(
        "restaurant_0",
        [
            tool_call(("reserve", {"guest_id": "G-17", "table": "T2", "hour": 19, "party": 2})),
            ANSWER,
        ],
    )
    assert "RestaurantAPI differs from ground truth" in lost.verdicts[0].why
    assert (
        replay("restaurant_1", [*ground_truth_messages("restaurant_1")[:2], ANSWER]).codes[-1]
        == 1.0
    )  # asking is right


def test_docs_are_read_from_the_class(restaurant):
    system = Episode("restaurant_0").messages[0]["content"]
    assert (
        '"name": "reserve"' in system
        and "full hour from 0 to 23" in system
        and "_load_scenario" not in system
    )
    [doc] = [d for d in bfcl.docs_of(("RestaurantAPI",)) if d["name"] == "reserve"]
    assert (
        doc["parameters"]["required"] == ["guest_id", "table", "hour", "party"]
        and doc["parameters"]["properties"]["hour"]["type"] == "integer"
    )


def test_coverage_says_what_is_open_and_the_hints_close_it(restaurant):
    sites = tuple(coverage.sites_of(restaurant.RestaurantAPI, bfcl.tool_names("RestaurantAPI")))
    before = coverage.coverage(sites)
    assert set(before.loc[before["state"] == "open", "error"]) == {
        "Unknown guest.",
        "Invalid guest.",
        "Not possible at this hour.",
        "Table too small.",
        "Conflict.",
        "Not found.",
        "Table '{}' does not exist. The tables are: {}.",
    }
    hints.add_folder(HINTS)
    after = coverage.coverage(sites)
    assert list(after.loc[after["state"] == "open", "error"]) == [
        "Table '{}' does not exist. The tables are: {}."
    ]  # clear as it is


def test_its_hints_are_shown_and_leak_nothing(restaurant):
    hints.add_folder(HINTS)
    record = replay(
        "restaurant_0",
        [tool_call(("reserve", {"guest_id": "Ada", "table": "T1", "hour": 19, "party": 2}))],
        hint_rate=1.0,
    )
    assert record.steps[0].hints == ("restaurant-guest",)
    for hint in library.load_hints(HINTS):
        for task in bfcl.OWN_TASKS.values():
            assert not hints.leak(hint.text, task, bfcl.Call(hint.tools[0], {}), "")


def test_a_domain_that_cannot_be_is_refused(restaurant):
    class Silent:
        def do(self, x: int):
            pass

    class Loose:
        def do(self, x):
            """Do."""

    class Ls:
        def ls(self) -> dict:
            """List."""

    with pytest.raises(ValueError, match="no docstring"):
        domains.add(Silent, [])
    with pytest.raises(ValueError, match="needs an annotation"):
        domains.add(Loose, [])
    with pytest.raises(ValueError, match="BFCL has ls"):
        domains.add(Ls, [])
    with pytest.raises(ValueError, match="2 user turns and 1 lists"):
        domains.add(
            restaurant.RestaurantAPI,
            [{"id": "x", "user_turns": ["a", "b"], "initial_config": {}, "ground_truth": [[]]}],
        )
    task = {"id": "x", "user_turns": "a", "initial_config": {}, "ground_truth": [[]]}
    with pytest.raises(ValueError, match="x: user_turns is a list of at least one text"):
        domains.add_tasks([task])
    for lost in ("ground_truth", "id"):
        with pytest.raises(ValueError, match=f"task 0 lacks {lost}"):
            domains.add_tasks([{k: v for k, v in task.items() if k != lost}])
    with pytest.raises(ValueError, match="ground truth fails"):
        domains.add(
            restaurant.RestaurantAPI,
            [
                {
                    "id": "x",
                    "user_turns": ["a"],
                    "initial_config": {},
                    "ground_truth": [["cancel(reservation=[])"]],
                }
            ],
        )


def test_hints_for_it_can_be_generated_from_mined_failures_without_an_example(restaurant, tmp_path):
    from chat_server import ChatServer

    from envtune.hints.generator import Endpoint, generate
    from envtune.hints.mining import mine

    late = tool_call(("reserve", {"guest_id": "G-17", "table": "T1", "hour": 3, "party": 2}))
    failures = mine([replay("restaurant_0", [late, ANSWER]) for _ in range(2)])
    assert [(f.class_name, f.tool, f.error) for f in failures] == [
        ("RestaurantAPI", "reserve", "Not possible at this hour.")
    ]
    written = (
        '{"reasoning": "r", "need_augmentation": true, "error_category": "parameter_constraint", '
        '"augmentation_type": "clarify_constraint", '
        '"augmented_feedback": "The restaurant is open in the evening only."}'
    )
    judged = (
        '{"reasoning": "r", "solution_leakage": false, "exploration_constraint": false, '
        '"actionability": true, "hint_quality": "high", '
        '"overall_approved": true, "suggestions": ""}'
    )
    with ChatServer([written, judged]) as server:
        [outcome] = generate(
            failures, Endpoint(server.url, "scripted"), tmp_path / "run", tmp_path, few_shot=0
        )
    assert outcome.status == "approved"
    hints.add_folder(tmp_path)
    assert replay("restaurant_0", [late], hint_rate=1.0).steps[0].hints == (outcome.record["id"],)


COUNT = {
    "id": "my_count",
    "user_turns": ["What is 3 times 4?", "And without it?"],
    "initial_config": {"MathAPI": {}},
    "ground_truth": [["multiply(3, 4)"], []],
}


@pytest.fixture
def own_task(forgotten):
    return domains.add_tasks([COUNT])[0]


def test_a_task_of_ones_own_on_bfcls_tools_is_played_judged_and_trained_on(own_task, tmp_path):
    from dataclasses import replace

    from envtune.train import launch, presets, stages

    record = replay(own_task, ground_truth_messages(own_task))
    assert rewards.progress_reward(record) == 1.0 and bfcl.official_valid(record)
    assert rewards.progress_reward(replay(own_task, [ANSWER, ANSWER])) == 0.5
    stage = replace(stages.STAGES[1], tasks=(own_task, "synthetic_base_3"))
    assert stages.training_tasks(stage, presets.CPU_SMOKE) == (own_task, "synthetic_base_3")
    with pytest.raises(ValueError, match="other processes cannot see.*my_count"):
        job = launch.Job(stage, presets.CPU_SMOKE, 1, "start", tmp_path, 0)
        launch.write_job(tmp_path / "job.json", job)
    with pytest.raises(ValueError, match="tuple of task ids"):
        replace(stages.STAGES[1], tasks=())


@pytest.mark.parametrize("taken", ["multi_turn_base_3", "synthetic_base_3"])
def test_a_task_of_ones_own_cannot_take_the_id_of_another(taken):
    with pytest.raises(ValueError, match="is taken"):
        domains.add_tasks([{**COUNT, "id": taken}])
    assert taken not in bfcl.OWN_TASKS


def test_synthetic_tasks_of_a_class_that_has_changed_are_made_again(restaurant, monkeypatch):
    synthetic.add_world(own_module(monkeypatch, "restaurant_world").Restaurant)
    before = bfcl.load_task("synthetic_base_7_RestaurantAPI")
    domains.add(restaurant.RestaurantAPI, [])
    assert bfcl.load_task("synthetic_base_7_RestaurantAPI") is not before
