"""Every branch of Generator and Judge, against a server that reads out a script."""

import json

import pytest
import yaml
from chat_server import ChatServer
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import replay
from envtune.hints import generator, library
from envtune.hints.generator import Endpoint, generate, tally
from envtune.hints.mining import mine, pattern_of

GUESS = tool_call(("estimate_distance", {"cityA": "Rivermist", "cityB": "Stonebrook"}))
CARS = "multi_turn_base_89"
[FAILURE] = mine([replay(CARS, [GUESS, GUESS, ANSWER]) for _ in range(3)])
HINT = "Distances are kept by another kind of key than the name of a city; it can be looked up."


def draft(hint=HINT, **changes) -> str:
    return json.dumps(
        {
            "reasoning": "r",
            "need_augmentation": True,
            "error_category": "dependency_missing",
            "augmentation_type": "explain_dependency",
            "augmented_feedback": hint,
        }
        | changes
    )


def verdict(approved=True, **changes) -> str:
    return json.dumps(
        {
            "reasoning": "r",
            "solution_leakage": False,
            "exploration_constraint": False,
            "actionability": True,
            "hint_quality": "high",
            "overall_approved": approved,
            "suggestions": "" if approved else "be shorter",
        }
        | changes
    )


def run(tmp_path, answers, **changes):
    with ChatServer(answers) as server:
        endpoint = Endpoint(
            server.url, "scripted", **{"timeout_seconds": 5.0, "retries": 2, **changes}
        )
        [outcome] = generate([FAILURE], endpoint, tmp_path / "run", tmp_path, workers=1)
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "attempts.jsonl").read_text().splitlines()
    ]
    return outcome, rows, server


def test_failures_are_mined_by_tool_and_error_from_tasks_that_keep_failing():
    lost = [
        replay(CARS, [GUESS, ANSWER]),
        replay(CARS, [GUESS, GUESS, ANSWER]),
        replay("multi_turn_base_97", [GUESS, ANSWER]),
    ]
    [failure] = mine(lost)
    assert (failure.tool, failure.class_name, failure.count) == (
        "estimate_distance",
        "VehicleControlAPI",
        3,
    )
    assert failure.task_ids == (CARS, "multi_turn_base_97") and failure.question.startswith(
        "I'm planning a road trip"
    )
    assert failure.trajectory.count("agent:") == 2 and "distance not found" in failure.trajectory
    solved = mine([*lost, replay(CARS, ground_truth_messages(CARS))], at_least=1)
    assert [f.task_ids for f in solved] == [
        ("multi_turn_base_97",)
    ]  # a task that was won once does not keep failing
    assert mine(lost, at_least=4) == [] and mine([replay(CARS, [GUESS], hint_rate=1.0)] * 3) == []


@pytest.mark.parametrize(
    "error, other",
    [
        ("cd: 'docs': No such file or directory", "cd: 'a b': No such file or directory"),
        ("Order with ID 5 not found.", "Order with ID 12 not found."),
        ("(odd) [text", "(odd) [text"),
    ],
)
def test_a_pattern_leaves_values_open_and_nothing_else(error, other):
    import re

    assert re.search(pattern_of(error), other) and not re.search(pattern_of(error), "all is well")


def test_a_pattern_of_many_values_has_few_wildcards_which_would_search_for_minutes():
    assert pattern_of("cat: 1 2 3 4 5 6: No such file") == "cat: .*? .*? "
    assert pattern_of("/a/b /c/d /e/f: not found") == " not found"


def test_held_out_episodes_are_not_mined(tmp_path, capsys):
    from envtune.__main__ import main

    told, lost = tmp_path / "episodes.jsonl", replay(CARS, [GUESS, ANSWER]).to_dict()
    for tags in ({"kind": "eval"}, {"kind": "validation"}, {"repeat": 0}):
        told.write_text(3 * (json.dumps(tags | lost) + "\n"))
        assert main(["hints", "mine", str(told)]) == 0
        assert "no failure occurs in at least 2 training episodes" in capsys.readouterr().err
    told.write_text(3 * (json.dumps({"kind": "train"} | lost) + "\n"))
    assert main(["hints", "mine", str(told)]) == 0 and "3  estimate" in capsys.readouterr().out


def test_an_approved_hint_becomes_a_record_that_the_library_loads(tmp_path):
    outcome, rows, server = run(tmp_path, [draft(), verdict()])
    assert (
        outcome.status == "approved"
        and outcome.attempts == 1
        and [r["verdict"] for r in rows] == ["draft", "approved"]
    )
    [record] = yaml.safe_load((tmp_path / "generated_VehicleControlAPI.yaml").read_text())
    assert (
        record["hint"] == HINT
        and record["provenance"]["made_by"] == "scripted"
        and record["provenance"]["reviewed"] is False
    )
    [hint] = library.load_hints(tmp_path)
    assert hint.matches(FAILURE.call, FAILURE.error)
    assert tally([outcome], (1.0, 2.0)) == {
        "approved": 1,
        "not_needed": 0,
        "rejected": 0,
        "failed": 0,
        "attempts": 1,
        "prompt_tokens": 200,
        "completion_tokens": 20,
        "dollars": 0.00024,
    }
    generator_prompt, judge_prompt = (body["messages"][0]["content"] for body in server.asked)
    assert (
        "estimate_distance(" in judge_prompt and "estimate_distance(cityA" not in generator_prompt
    )
    assert "Hints of this domain" in generator_prompt


def test_zero_shot_shows_no_example(tmp_path):
    with ChatServer([draft(), verdict()]) as server:
        generate(
            [FAILURE], Endpoint(server.url, "scripted"), tmp_path / "run", tmp_path, few_shot=0
        )
    assert "Hints of this domain" not in server.asked[0]["messages"][0]["content"]


def test_the_judges_suggestions_go_into_the_next_attempt(tmp_path):
    outcome, rows, server = run(
        tmp_path,
        [
            draft(),
            verdict(False),
            draft(),
            verdict(True, hint_quality="medium"),
            draft(),
            verdict(),
        ],
    )
    assert outcome.status == "approved" and outcome.attempts == 3
    assert [r["verdict"] for r in rows] == [
        "draft",
        "rejected",
        "draft",
        "rejected",
        "draft",
        "approved",
    ]
    assert "refused: be shorter" in server.asked[2]["messages"][0]["content"]


def test_three_refusals_end_a_failure(tmp_path):
    outcome, rows, _ = run(tmp_path, [draft(), verdict(False)] * 3)
    assert outcome.status == "rejected" and outcome.record is None and rows[-1]["role"] == "end"
    assert not (tmp_path / "generated_VehicleControlAPI.yaml").exists()


@pytest.mark.parametrize(
    "bad",
    [
        "no JSON here",
        "",
        '{"reasoning": "r"}',
        "{" * 5_000,
        '{"a":' * 50_000,
        "[1, 2]",
        draft(error_category="invented"),
        '{"reasoning": 1',
    ],
)
def test_an_answer_of_the_wrong_shape_is_a_failed_attempt(tmp_path, bad):
    outcome, rows, server = run(tmp_path, [bad, draft(), "not judged", draft(), verdict()])
    assert [r["verdict"] for r in rows] == [
        "bad_json",
        "draft",
        "bad_json",
        "draft",
        "approved",
    ] and outcome.attempts == 3
    assert "not the JSON object" in server.asked[1]["messages"][0]["content"]


def test_json_in_a_fence_is_read(tmp_path):
    assert (
        run(tmp_path, [f"Here it is:\n```json\n{draft()}\n```", verdict()])[0].status == "approved"
    )


def test_a_clear_error_needs_no_hint(tmp_path):
    outcome, rows, server = run(tmp_path, [draft("", need_augmentation=False)])
    assert outcome.status == "not_needed" and len(server.asked) == 1


@pytest.mark.parametrize(
    "hint, why",
    [
        ("Look up 83214 for it.", "gives away '83214'"),
        ("Use get_zipcode_based_on_city and then estimate_distance.", "names 2 tools"),
        ("Try estimate_distance(cityA='x').", "writes a call"),
        ("word " * 61, "61 words"),
    ],
)
def test_code_catches_a_leak_that_the_judge_approved(tmp_path, hint, why):
    outcome, rows, server = run(tmp_path, [draft(hint), verdict(), draft(), verdict()])
    assert [r["verdict"] for r in rows] == [
        "draft",
        "caught_by_code",
        "draft",
        "approved",
    ] and why in rows[1]["why"]
    assert why in server.asked[2]["messages"][0]["content"]


def test_a_busy_server_is_asked_again(tmp_path):
    outcome, rows, server = run(tmp_path, [429, draft(), 503, verdict()])
    assert outcome.status == "approved" and len(server.asked) == 4 and len(rows) == 2


@pytest.mark.parametrize("answers", [[500] * 9, [401] * 9, [5.0] * 9])
def test_a_server_that_gives_up_fails_the_failure_and_the_next_run_tries_again(tmp_path, answers):
    outcome, rows, _ = run(tmp_path, answers, timeout_seconds=0.3, retries=1)
    assert outcome.status == "failed" and rows[-1]["verdict"] == "failed"
    again, _, _ = run(tmp_path, [draft(), verdict()])
    assert again.status == "approved"


def test_a_finished_failure_is_not_worked_on_again_and_nothing_is_overwritten(tmp_path):
    run(tmp_path, [draft(), verdict()])
    path = tmp_path / "generated_VehicleControlAPI.yaml"
    path.write_text("# looked at by a person\n" + path.read_text())
    before = path.read_text()
    (tmp_path / "run" / "attempts.jsonl").open("a").write('{"torn')
    assert (
        generate([FAILURE], Endpoint("http://127.0.0.1:9/v1", "nobody"), tmp_path / "run", tmp_path)
        == []
    )
    assert path.read_text() == before


def test_a_run_killed_before_the_library_was_written_loses_nothing(tmp_path):
    run(tmp_path, [draft(), verdict()])
    (tmp_path / "generated_VehicleControlAPI.yaml").unlink()
    generate([FAILURE], Endpoint("http://127.0.0.1:9/v1", "nobody"), tmp_path / "run", tmp_path)
    assert len(yaml.safe_load((tmp_path / "generated_VehicleControlAPI.yaml").read_text())) == 1


def test_what_a_model_wrote_is_never_read_as_a_placeholder():
    assert (
        generator._fill(
            "judge",
            {
                "hint": "{ground_truth}",
                "ground_truth": "SECRET",
                "question": "",
                "call": "",
                "error": "",
            },
        ).count("SECRET")
        == 1
    )


def test_the_endpoint_comes_from_the_environment(monkeypatch):
    for name in ("ENVTUNE_LLM_BASE_URL", "ENVTUNE_LLM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="ENVTUNE_LLM_BASE_URL and ENVTUNE_LLM_MODEL"):
        Endpoint.from_environment()
    monkeypatch.setenv("ENVTUNE_LLM_BASE_URL", "http://x/v1")
    assert Endpoint.from_environment(model="m") == Endpoint("http://x/v1", "m")


def test_the_commands_mine_and_generate(tmp_path, monkeypatch, capsys):
    from envtune import write_records
    from envtune.__main__ import main

    episodes = tmp_path / "episodes.jsonl.gz"
    write_records(episodes, [replay(CARS, [GUESS, ANSWER]) for _ in range(3)])
    assert main(["hints", "mine", str(episodes)]) == 0
    assert "3  estimate_distance: distance not found" in capsys.readouterr().out
    monkeypatch.delenv("ENVTUNE_LLM_BASE_URL", raising=False)
    command = [
        "hints",
        "generate",
        str(episodes),
        "--out",
        str(tmp_path / "run"),
        "--library",
        str(tmp_path),
    ]
    assert main(command) == 1 and "set ENVTUNE_LLM_BASE_URL" in capsys.readouterr().err
    with ChatServer([draft(), verdict()]) as server:
        monkeypatch.setenv("ENVTUNE_LLM_BASE_URL", server.url)
        monkeypatch.setenv("ENVTUNE_LLM_MODEL", "scripted")
        assert main(command) == 0
    assert (
        json.loads(capsys.readouterr().out.splitlines()[-1])["approved"] == 1
        and len(library.load_hints(tmp_path)) == 1
    )


def test_many_failures_at_a_time_keep_one_whole_log(tmp_path):
    from dataclasses import replace

    failures = [replace(FAILURE, pattern=f"distance not found {i}") for i in range(24)]
    with ChatServer(
        [lambda prompt: verdict() if "You are the judge" in prompt else draft()]
    ) as server:
        outcomes = generate(
            failures, Endpoint(server.url, "scripted"), tmp_path / "run", tmp_path, workers=8
        )
    assert [o.failure for o in outcomes] == failures and all(
        o.status == "approved" for o in outcomes
    )
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "attempts.jsonl").read_text().splitlines()
    ]
    assert (
        len(rows) == 48
        and len(yaml.safe_load((tmp_path / "generated_VehicleControlAPI.yaml").read_text())) == 24
    )


def test_a_torn_line_does_not_swallow_the_next_attempt(tmp_path):
    (tmp_path / "run").mkdir()
    log = tmp_path / "run" / "attempts.jsonl"
    log.write_text('{"failure": "x", "role": "gener')
    with ChatServer([draft(), verdict()]) as server:
        generate([FAILURE], Endpoint(server.url, "scripted"), tmp_path / "run", tmp_path, workers=1)
    assert [row["verdict"] for row in generator.attempts(log)] == ["draft", "approved"]
