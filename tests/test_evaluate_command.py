"""`envtune evaluate`: any policy, a folder in which its numbers can be traced, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from chat_server import ChatServer
from conftest import ANSWER, tool_call
from safetensors.torch import load_file, save_file

from envtune import bfcl
from envtune.__main__ import main
from envtune.bfcl import splits
from envtune.common import paths
from envtune.common.files import fingerprint
from envtune.env.episode import EVALUATION, Episode
from envtune.study import evaluation_report
from envtune.train import evaluation, evaluation_run, playing, presets, runconfig, stages
from envtune.train.errors import JobFailed

SMOKE = ("--preset", "cpu-smoke")


def test_the_command_leaves_episodes_rows_and_a_summary_that_agree(small_policy, capsys):
    command = ["evaluate", str(small_policy), "--tasks", "synthetic", "--limit", "4", *SMOKE]
    assert main([*command, "--name", "one", "--hints"]) == 0
    printed = capsys.readouterr().out
    assert "4 tasks, greedy, 1 run of each" in printed and "with hints: " in printed
    folder = paths.runs() / "one"
    found = json.loads((folder / "summary.json").read_text())
    table = pd.read_parquet(folder / "results.parquet")
    assert len(table) == 8 and table["hints"].sum() == 4 and found["tasks"] == 4
    own = table[~table["hints"]]
    again = [
        evaluation.result_row(record) | {"repeat": repeat, "hints": False}
        for (_, repeat), record in playing.read_kept(folder)
    ]
    by_task = {row["task_id"]: row for row in again}
    assert by_task == {row["task_id"]: row for row in own.to_dict("records")}
    assert found["accuracy"]["all"]["mean"] == own["valid"].mean()
    assert sum(found["failures"].values()) == (~own["valid"]).sum()
    assert found["bfcl_data_sha256"] == bfcl.DATA_SHA256 and found["versions"]["torch"]


def test_more_tasks_and_a_comparison_go_on_from_what_was_played(small_policy, capsys, monkeypatch):
    command = ["evaluate", str(small_policy), "--tasks", "synthetic", *SMOKE, "--json"]
    assert main([*command, "--limit", "2", "--name", "few"]) == 0
    played, play_here = [], playing._play
    monkeypatch.setattr(
        playing,
        "_play",
        lambda settings, keys, *how: played.append(keys) or play_here(settings, keys, *how),
    )
    assert main([*command, "--limit", "2", "--name", "few"]) == 0 and played == [[]]
    assert main([*command, "--limit", "2", "--name", "same", "--against", "few"]) == 0
    other = json.loads(capsys.readouterr().out.splitlines()[-1])["against"]
    assert other["name"] == "few" and other["mean"] == 0.0 and other["p_value"] == 1.0
    kept = json.loads((paths.runs() / "same" / "summary.json").read_text())
    assert kept["against"] == other
    assert main([*command, "--limit", "3", "--name", "more", "--against", "few"]) == 1
    assert "same tasks, got 2 and 3 tasks" in capsys.readouterr().err
    assert not (paths.runs() / "more").exists()
    assert main([*command, "--limit", "1", "--name", "part", "--against", "few"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["against"]["tasks"] == 1


def test_episodes_of_other_weights_are_not_taken_for_those_of_the_policy(small_policy, tmp_path):
    policy = tmp_path / "policy"
    shutil.copytree(small_policy, policy)
    ask = ["evaluate", str(policy), "--tasks", "synthetic", "--limit", "1", *SMOKE, "--name", "x"]
    assert main(ask) == 0
    kept = json.loads((paths.runs() / "x" / "summary.json").read_text())["weights"]
    assert kept == fingerprint(policy) == fingerprint(small_policy)
    settings = json.loads((paths.runs() / "x" / "settings.json").read_text())
    old = {name: value for name, value in settings.items() if name != "weights"}
    (paths.runs() / "x" / "settings.json").write_text(json.dumps(old))  # of an older version
    assert main(ask) == 0
    (paths.runs() / "x" / "settings.json").write_text(json.dumps(settings))
    weights = load_file(policy / "model.safetensors")
    save_file(
        {n: w * 2 for n, w in weights.items()}, policy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match='other settings .weights was ".*", now ".*"'):
        playing.play(policy, ["synthetic_base_200"], presets.CPU_SMOKE, keep=paths.runs() / "x")
    assert main(ask) == 1


@pytest.mark.parametrize("body", [b"<html>a login page</html>", b'{"object": "list", "data": []}'])
def test_a_reply_that_is_no_chat_completion_is_named(body):
    ask = ("m", ["multi_turn_base_3"], presets.CPU_SMOKE)
    with ChatServer([body]) as server, pytest.raises(JobFailed, match="did not answer for m: "):
        playing.play(*ask, engine=server.url)


def test_a_server_may_leave_out_token_counts():
    said = {"role": "assistant", "content": "no"}
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": said}], "usage": {}}
    with ChatServer([json.dumps(body).encode()] * 40) as server:
        [record] = playing.play("m", ["multi_turn_base_3"], presets.CPU_SMOKE, engine=server.url)
    assert record.steps[0].message == "no"


def test_half_a_surrogate_pair_from_a_server_is_replaced_and_the_evaluation_goes_on():
    said = rb'{"role": "assistant", "content": "<think>\ud800</think><answer>a</answer>"}'
    body = [b'{"choices": [{"index": 0, "message": ' + said + b"}]}"]
    with ChatServer(body * 40) as server:
        [record] = playing.play("m", ["multi_turn_base_3"], presets.CPU_SMOKE, engine=server.url)
    assert record.steps[0].message == "<think>?</think><answer>a</answer>"


def test_a_training_run_is_not_overwritten_by_an_evaluation_of_its_name(small_policy, capsys):
    folder = paths.run_dir("trained")
    (folder / "config.json").write_text("{}")
    assert main(["evaluate", str(small_policy), "--name", "trained"]) == 1
    assert "holds a training run; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_a_temperature_is_a_number_from_0(small_policy, temperature):
    with pytest.raises(ValueError, match="temperature is 0 .greedy. or above"):
        playing.play(
            small_policy, ["multi_turn_base_3"], presets.CPU_SMOKE, temperature=temperature
        )


def test_repeats_have_a_pass_at_k_and_greedy_ones_are_refused(small_policy, capsys):
    command = ["evaluate", str(small_policy), "--tasks", "synthetic", "--limit", "2", *SMOKE]
    command += ["--name", "twice", "--repeats", "2"]
    assert main(command) == 1
    assert "2 repeats at temperature 0 are 2 times the same" in capsys.readouterr().err
    assert main([*command, "--temperature", "1.0"]) == 0
    assert "pass^2" in capsys.readouterr().out
    assert len(pd.read_parquet(paths.runs() / "twice" / "results.parquet")) == 4


def test_a_server_that_fails_loses_nothing_that_was_paid_for(capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(playing, "RETRIES", 0)
    tasks = evaluation_run.tasks("validation", 8)
    enough = sum(bfcl.load_task(task).turns for task in tasks)
    with ChatServer([ANSWER] * (enough - 2) + [lambda prompt: 500]) as server:
        command = ["evaluate", "model", "--engine", server.url, "--name", "served", "--limit", "8"]
        command += ["--preset", "paper-8x80gb", "--tasks", "validation"]
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "did not answer for model" in error and "Traceback" not in error
        kept = dict(playing.read_kept(paths.runs() / "served"))
        with open(paths.runs() / "served" / "episodes.jsonl", "a") as file:
            file.write('{"repeat": 0, "task_')  # a kill in the middle of a line
        asked = len(server.asked)
        server.answers[:] = [lambda prompt: ANSWER]
        assert main(command) == 0
    left = [task for task in tasks if (task, 0) not in kept]
    turns = sum(bfcl.load_task(task).turns for task in left)
    assert kept and left and len(server.asked) - asked == turns
    found = json.loads((paths.runs() / "served" / "summary.json").read_text())
    assert found["accuracy"]["all"]["n"] == 8 and found["failures"] == {"no call": 8}


def scripted(task_id, reply):
    """The record of an episode that `reply` plays without a server and without a kill."""
    episode = Episode(task_id, EVALUATION, rules=True, seed=0, **presets.PAPER.episode)
    prompt = episode.messages[-1]["content"]
    while prompt is not None:
        prompt = episode.step(reply(prompt))
    return episode.record


@pytest.mark.slow
def test_400_tasks_on_a_server_killed_twice_send_no_answered_request_again(tmp_path):
    tasks = evaluation_run.tasks("test")
    calls = {
        text: tool_call(*turn)
        for task in map(bfcl.load_task, tasks)
        for text, turn in zip(task.user_turns, task.ground_truth, strict=True)
        if turn
    }

    def play(prompt):
        return calls.get(prompt, ANSWER)

    whole = {task: scripted(task, play) for task in tasks}
    requests = sum(len(record.steps) for record in whole.values())
    running, kill_at, paid = [], [requests], set()

    def reply(prompt):
        if len(server.asked) > kill_at[0]:
            running[-1].kill()
        return play(prompt)

    command = [sys.executable, "-m", "envtune", "evaluate", "model", "--name", "served"]
    env = {**os.environ, "ENVTUNE_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with ChatServer([reply]) as server:
        for share in (0.4, 0.75, 2):
            kill_at[0], before = share * requests, len(server.asked)
            running.append(subprocess.Popen([*command, "--engine", server.url], env=env))
            assert running[-1].wait() == (0 if share > 1 else -signal.SIGKILL)
            # each request has a seed of its own, so the seeds say which were sent
            assert not paid & {body["seed"] for body in server.asked[before:]}
            kept = [record for _, record in playing.read_kept(tmp_path / "served")]
            paid = {
                playing._mixed(0, record.task_id, 0, 2 + 2 * step)
                for record in kept
                for step in range(len(record.steps))
            }
            assert len(kept) == len({record.task_id for record in kept})
            assert min(share, 1) - 0.1 < len(paid) / requests <= share
    assert {record.task_id: record for record in kept} == whole
    # again were sent only those of the episodes that were open at a kill, 16 at once
    assert requests == len(paid) < len(server.asked) < 1.1 * requests
    table = pd.read_parquet(tmp_path / "served" / "results.parquet").drop(
        columns=["repeat", "hints"]
    )
    rows = pd.DataFrame([evaluation.result_row(whole[task]) for task in tasks])
    pd.testing.assert_frame_equal(table, rows)


def test_tasks_are_sets_files_and_limits(tmp_path):
    sizes = {"test": 400, "test300": 300, "validation": 100, "train": 400, "synthetic": 400}
    assert {name: len(evaluation_run.tasks(name)) for name in sizes} == sizes
    assert set(evaluation_run.tasks("test")).isdisjoint(evaluation_run.tasks("train"))
    few = evaluation_run.tasks("test", 8)
    assert len(few) == 8 and {bfcl.load_task(t).split for t in few} == set(bfcl.SPLITS)
    assert len({splits.scenario_of(t) for t in few}) == 8
    some = evaluation_run.tasks("test", 250)
    assert len(some) == 250 and len({splits.scenario_of(t) for t in some}) == 100
    uneven = [f"synthetic_{v}_200" for v in bfcl.SPLITS] + ["synthetic_base_201"]
    assert [len(evaluation_run._some(uneven, count)) for count in (1, 3, 4)] == [1, 3, 4]
    file = tmp_path / "ids.txt"
    file.write_text("multi_turn_base_3\nmulti_turn_base_5\nmulti_turn_base_3\n")
    assert evaluation_run.tasks(str(file)) == ("multi_turn_base_3", "multi_turn_base_5")
    file.write_text("multi_turn_base_999")
    with pytest.raises(ValueError, match="no task 'multi_turn_base_999'"):
        evaluation_run.tasks(str(file))


@pytest.mark.parametrize(
    "given, words",
    [
        (["runs/none/policy"], "there is no folder runs/none/policy"),
        (["EMPTY"], "holds no model"),
        (["tiny-agent", "--tasks", "tests"], "tasks are one of test, test300"),
        (["tiny-agent", "--limit", "0"], "at least 1 task, got 0"),
        (["tiny-agent", "--preset", "none"], "preset is one of"),
        (["tiny-agent", "--engine", "sglang"], "engine is transformers, vllm or a URL"),
        (["Qwen/Qwen2.5-7B-Instruct"], "preset 'paper-8x80gb' plays on vLLM, which is not"),
        (["tiny-agent", "--engine", "vllm"], "vLLM is not installed here: choose the engine"),
        (["tiny-agent", "--against", "nothing"], "holds no finished evaluation"),
        (["tiny-agent", "--name", "a/b"], "plain folder name"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(
    given, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    given = [str(tmp_path) if part == "EMPTY" else part for part in given]
    assert main(["evaluate", "--name", "refused", *given]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_preset_is_that_of_the_run_that_trained_the_policy(tmp_path, monkeypatch):
    policy = tmp_path / "run" / "stage1_syntax" / "policy"
    policy.mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"preset": {"name": "cpu-smoke"}}')
    assert evaluation_run.preset_of(str(policy)) == presets.CPU_SMOKE
    assert evaluation_run.preset_of("tiny-agent") == presets.CPU_TINY
    relative = os.path.relpath(paths.DATA / "tiny_agent")
    assert evaluation_run.preset_of(relative) == presets.CPU_TINY
    assert evaluation_run.preset_of("Qwen/Qwen2.5-7B-Instruct") == presets.PAPER
    for name in ("gpu-80gb", "mine"):
        trained = replace(presets.GPU_80GB, name=name, compact=True, message_tokens=512)
        (tmp_path / "run" / "config.json").unlink()
        runconfig.register(tmp_path / "run", stages.STAGES[0], trained, 60, "tiny-agent", 0)
        found = evaluation_run.preset_of(str(policy))
        assert replace(found, stage_steps=trained.stage_steps) == trained
    assert evaluation_run.preset_of(str(policy), "gpu-80gb") == presets.GPU_80GB
    monkeypatch.chdir(policy.parent)  # a hub id and a built-in name are no folders here
    assert evaluation_run.preset_of("Qwen/Qwen2.5-7B-Instruct") == presets.PAPER
    assert evaluation_run.preset_of("smollm2") == presets.get("smollm2")
    (tmp_path / "run" / "config.json").write_text('{"preset": {"name": "mine"}}')
    with pytest.raises(ValueError, match="no preset is named 'mine'"):
        evaluation_run.preset_of(str(policy))


def test_a_policys_folder_is_found_from_any_working_directory(small_policy, monkeypatch):
    monkeypatch.chdir(small_policy.parent)
    found = evaluation_run.resolve(small_policy.name, paths.runs(), presets.CPU_SMOKE, "")
    assert found == small_policy.resolve()


def test_tasks_that_are_all_known_errors_have_a_summary():
    row = {"task_id": "multi_turn_base_4", "split": "base", "unseen": "", "valid": False}
    row |= {"progress": 0.5, "format_reward": 1.0, "failure": "wrong state", "turns": "wl"}
    results = pd.DataFrame([row | {"errors": 0, "recovered": 0, "repeat": 0}])
    found = evaluation_run.summary(results, results)
    assert list(found["accuracy"]) == ["all"] and len(evaluation.breakdown(results))
    assert found["with_hints"]["gain"]["error"] is None
    json.dumps(found, allow_nan=False)
    assert "one scenario alone" in evaluation_report.difference_text(found["with_hints"]["gain"])


def test_an_adapter_is_merged_with_its_base_once(small_policy, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(small_policy)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    preset = evaluation_run.preset_of("", "cpu-smoke")
    out = evaluation_run.resolve(str(tmp_path / "adapter"), tmp_path / "out", preset, "")
    found = AutoModelForCausalLM.from_pretrained(out).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(small_policy).state_dict()
    changed = [name for name in plain if not torch.equal(plain[name], found[name])]
    assert changed and all("q_proj" in name for name in changed)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)
    written = (out / "merged_from.json").stat().st_mtime_ns
    assert evaluation_run.resolve(str(tmp_path / "adapter"), tmp_path / "out", preset, "") == out
    assert (out / "merged_from.json").stat().st_mtime_ns == written
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        (tmp_path / "adapter" / "adapter_config.json").read_text() + " "
    )
    with pytest.raises(ValueError, match="was merged from"):
        evaluation_run.resolve(str(tmp_path / "adapter"), tmp_path / "out", preset, "")
    (tmp_path / "adapter").rename(tmp_path / "another")
    with pytest.raises(ValueError, match="was merged from"):
        evaluation_run.resolve(str(tmp_path / "another"), tmp_path / "out", preset, "")
    rows = playing.play(out, list(splits.synthetic_splits().test[:1]), preset)
    assert len(rows) == 1
