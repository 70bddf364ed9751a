"""The embedded agent's making: a script that wins without habits and errs with them, tokens that
can be copied, pre-training that ends in a model."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from envtune import Episode, bfcl, hints
from envtune.__main__ import main
from envtune.bfcl import synthetic
from envtune.env import protocol, rewards
from envtune.policy import agent, sampler
from envtune.policy.agent import build, data, measure, script, tokens, train
from envtune.policy.agent.script import Habits, Script
from envtune.policy.rollout import Chat
from envtune.study import agent_card

RECIPE = train.Recipe(
    vocabulary=600, hidden=32, mlp=64, layers=1, heads=2, pool=8, batch_tokens=1024
)


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.build(data.texts(150, Habits(skip=0.4, recover=0.5, ask=0.6, broken=0.1)), 900)


def played(task_id, habits, seed=0, hint_rate=0.0):
    episode, player = (
        Episode(task_id, compact=True, hint_rate=hint_rate, seed=seed),
        Script(habits, seed),
    )
    while not episode.done:
        episode.step(player.message(episode).text)
    return episode.record


def test_without_habits_the_script_wins_every_task():
    for task_id in synthetic.task_ids(range(1000, 1050)):
        record = played(task_id, script.COMPETENT)
        assert rewards.progress_reward(record) == 1.0 and bfcl.official_valid(record), task_id


def test_each_habit_shows():
    ids = synthetic.task_ids(range(1000, 1040))

    def mean(measure, **habits):
        return sum(
            measure(played(task, Habits(**habits), seed=i, hint_rate=1.0))
            for i, task in enumerate(ids)
        ) / len(ids)

    def errors(record):
        return sum(bool(hints.is_error(result)) for step in record.steps for result in step.results)

    assert mean(errors) == 0 < mean(errors, skip=1.0)
    assert mean(rewards.progress_reward, skip=1.0, follow=1.0) > mean(
        rewards.progress_reward, skip=1.0, follow=0.0
    )
    assert mean(rewards.format_reward) == 1.0 > mean(rewards.format_reward, broken=0.3) > 0.4
    for habit in (
        {"ask": 0.0},
        {"early": 0.5},
        {"tired": 1.0},
        {"wrong": 0.5, "recover": 0.0, "follow": 0.0},
    ):
        assert mean(rewards.progress_reward, **habit) < 0.95, habit
    stuck = {"skip": 1.0, "follow": 0.0, "give_up": 1.0}
    assert (
        mean(rewards.format_reward, **stuck)
        == 1.0
        > mean(rewards.format_reward, **stuck, broken_when_stuck=1.0)
    )


def test_who_skips_a_look_up_writes_what_the_user_said():
    task = next(
        t
        for t in map(bfcl.load_task, synthetic.task_ids(range(1000, 1400), ("base",)))
        if t.ground_truth[0][0].name == "get_user_id"
    )
    call = script.unprepared(Episode(task), 0)
    assert (
        call.name == "send_message"
        and call.arguments["receiver_id"] == task.ground_truth[0][0].arguments["user"]
    )


def test_a_value_is_the_same_tokens_in_the_users_words_and_in_a_call(tokenizer):
    def of(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def within(part, whole):
        return any(whole[i : i + len(part)] == part for i in range(len(whole)))

    for value in ("budget_12.txt", "plitpree", "USR023", "card_4750", "2026-02-03", "gustav90"):
        call = protocol.json.dumps([{"name": "cat", "arguments": {"file_name": value}}])
        assert within(of(value), of(f"Show {value} now.")) and within(of(value), of(call))
    message = script.call_message(bfcl.Call("cd", {"folder": "docs"}))
    assert tokenizer.decode(of(message)) == message
    assert len(of(protocol.system_prompt(bfcl.docs_of(("TicketAPI",)), compact=True))) < 15


def test_what_is_learnt_is_what_the_script_wrote_rightly(tokenizer):
    chat, draw = Chat(tokenizer), random.Random(0)
    clean = data.play("synthetic_base_1000000_t2", chat, script.COMPETENT, 0, draw, learn_all=False)
    learnt = tokenizer.decode([label for label in clean.labels if label != -100])
    truth = bfcl.load_task("synthetic_base_1000000_t2").ground_truth
    assert (
        learnt.count("<tool_call>") == sum(map(len, truth))
        and learnt.count("<answer>") == 2
        and "<tool_response>" not in learnt
    )
    wrong = Habits(broken=1.0)
    right_only, all_of_it = (
        data.play("synthetic_base_1000000_t2", chat, wrong, 0, random.Random(0), learn)
        for learn in (False, True)
    )
    assert set(right_only.labels) == {-100} != set(all_of_it.labels)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    for piece in data.windows(clean, user, 40):
        assert piece.ids[0] == user and len(piece.ids) == len(piece.labels) <= 40


def test_pre_training_sees_no_task_of_the_fixed_sets():
    draw = random.Random(0)
    numbers = {bfcl.load_task(data.task_id(n, draw, None)).scenario for n in range(50)}
    assert (
        min(numbers)
        >= data.FIRST_NUMBER
        > max(*synthetic.TRAIN, *synthetic.VALIDATION, *synthetic.TEST)
    )
    assert not any(
        synthetic.novelty(f"synthetic_base_{n}") for n in numbers
    )  # all on the training side of the held-out line
    assert not any("miss_func" in data.task_id(n, draw, 1, prompt=False) for n in range(200))


@pytest.mark.slow
def test_pre_training_ends_in_a_model_and_a_log_and_is_not_done_twice(tmp_path):
    phases = (
        train.Phase("short", 32, (1,), 96, 3e-3),
        train.Phase("whole", 16, (None,), None, 1e-3, context=0.5),
    )
    folder = train.pretrain(RECIPE, tmp_path / "agent", phases)
    rows = [
        json.loads(line) for line in (tmp_path / "agent" / "log.jsonl").read_text().splitlines()
    ]
    assert [(row["phase"], row["episodes"]) for row in rows] == [
        ("short", 16),
        ("short", 32),
        ("whole", 16),
    ]
    assert rows[1]["loss"] < rows[0]["loss"] and not (tmp_path / "agent" / "checkpoint.pt").exists()
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert (
        len(tokenizer) == model.config.vocab_size
        and Chat(tokenizer).eos_id == tokenizer.eos_token_id
    )
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert train.pretrain(RECIPE, tmp_path / "agent", phases) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


STOPPED = """
from pathlib import Path
from test_agent import RECIPE, PHASES
from envtune.policy.agent import train
if __name__ == "__main__":
    train.pretrain(RECIPE, Path({folder!r}), PHASES)
"""
PHASES = (train.Phase("short", 160, (1,), 96, 3e-3), train.Phase("whole", 32, (None,), None, 1e-3))


@pytest.mark.slow
def test_a_stopped_pre_training_goes_on_and_ends_as_one_that_was_not(tmp_path):
    whole = train.pretrain(RECIPE, tmp_path / "whole", PHASES)
    (tmp_path / "stopped.py").write_text(STOPPED.format(folder=str(tmp_path / "stopped")))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "stopped.py"],
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    log = tmp_path / "stopped" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be stopped"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "stopped" / "model").exists()
    again = train.pretrain(RECIPE, tmp_path / "stopped", PHASES)
    one, two = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, again)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (
        [
            (row["phase"], row["episodes"], row["loss"])
            for row in map(json.loads, file.read_text().splitlines())
        ]
        for file in (tmp_path / "whole" / "log.jsonl", log)
    )
    assert one == two and len(one) == 12


@pytest.mark.parametrize("name, habits", [("tiny-agent", "HABITS"), ("tiny-agent-deaf", "DEAF")])
def test_the_committed_agent_is_what_its_card_says(name, habits):
    folder = agent.FOLDERS[name]
    made = json.loads((folder / "made.json").read_text())
    assert (folder / "model.safetensors").stat().st_size < 8e6
    assert (folder / "README.md").read_text() == agent_card.card(
        made, (folder / "model.safetensors").stat().st_size
    ), "write the card anew: agent_card.write(made, folder)"
    assert made["recipe"]["habit_phases"][0]["habits"] == asdict(getattr(script, habits)), (
        "the dials are not those of the committed weights"
    )
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert (
        model.num_parameters() == made["parameters"] and len(tokenizer) == model.config.vocab_size
    )
    competence, start = {row["group"]: row for row in made["competence"]}, made["start"]
    assert (
        competence["all"]["n"] == 400
        and competence["all"]["accuracy"] >= 0.8
        and min(competence[c]["accuracy"] for c in synthetic.WORLDS) >= 0.6
    )
    assert (
        all(0.05 <= start[way] <= 0.25 for way in ("greedy", "sampled"))
        and abs(start["greedy"] - start["sampled"]) <= 0.15
    )
    assert 0.7 <= start["sampled_format_reward"] <= 0.85
    worth = start["hint_effect"]["with"] - start["hint_effect"]["without"]
    assert worth >= 0.3 if "deaf" not in name else abs(worth) <= 0.1


def test_writing_an_agent_that_is_not_built_is_refused_and_trains_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ENVTUNE_RUNS", str(tmp_path))
    (tmp_path / "agent" / "competence").mkdir(parents=True)
    (tmp_path / "agent" / "competence" / "measured.json").write_text("[]")
    assert main(["agent", "--write"]) == 1
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "tiny-agent/measured.json missing. Build it first, with `make agent`" in said
    )
    assert [f.name for f in (tmp_path / "agent").rglob("*")] == ["competence", "measured.json"]


def test_other_habits_go_on_from_the_same_competence_once_their_folder_is_deleted(
    tmp_path, monkeypatch
):
    """`make agent` as the card says; what a training leaves stands in for the training."""

    def trained(work, arguments, nprocs):
        recipe, folder, phases, start, _ = arguments
        made.append((folder.name, phases[-1].habits, start))
        (folder / "model").mkdir()

    made, other = [], replace(script.HABITS, skip=0.5)
    habits = (replace(train.Recipe().habit_phases[0], habits=other),)
    changed = train.Recipe(habit_phases=habits)
    monkeypatch.setattr(train, "spawn", trained)
    monkeypatch.setattr(train, "tokenizer_of", lambda recipe: tokens.build(["a b"], 300))
    monkeypatch.setattr(train.PreTrainedTokenizerFast, "from_pretrained", train.tokenizer_of)
    monkeypatch.setattr(build.sampler, "load_policy", lambda *_, **__: (None, None))
    monkeypatch.setattr(measure, "play", lambda *_, **__: [])
    monkeypatch.setattr(measure, "start", lambda *_: {"greedy": len(made)})
    monkeypatch.setattr(measure, "hint_effect", lambda *_: {})
    assert build.build(tmp_path) == build.build(tmp_path) == tmp_path / "tiny-agent" / "model"
    with pytest.raises(
        ValueError, match=r"tiny-agent was made.*habits\.skip was 0\.8, now 0\.5\. Delete"
    ):
        build.build(tmp_path, recipe=changed)
    shutil.rmtree(tmp_path / "tiny-agent")
    build.build(tmp_path, recipe=changed)
    competent = tmp_path / "competence" / "model"
    assert made[1:] == [("tiny-agent", script.HABITS, competent), ("tiny-agent", other, competent)]
    assert json.loads((tmp_path / "tiny-agent" / "measured.json").read_text())["greedy"] == 3
    with pytest.raises(ValueError, match="competence was made with other settings: layers was 4"):
        build.build(tmp_path, recipe=replace(changed, layers=2))


@pytest.mark.slow
def test_the_committed_agent_plays_as_its_card_says():
    """A part of what `make agent` measured, played again: its start, 100 tasks each way."""
    made = json.loads((agent.FOLDER / "made.json").read_text())["start"]
    model, tokenizer = sampler.load_policy(agent.FOLDER, bf16=False)
    for way, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        records = measure.play(model, tokenizer, synthetic.task_ids(range(400, 425)), temperature)
        valid = sum(map(bfcl.official_valid, records)) / len(records)
        assert abs(valid - made[way]) < 0.12, way  # three standard errors of 100 tasks
