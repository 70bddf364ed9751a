"""What a vLLM run does around vLLM, where a CPU without vLLM can show it. See test_vllm.py too."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chat_server import ChatServer
from conftest import ANSWER, SMALL, tool_call

from envtune.env.episode import EVALUATION, Episode
from envtune.policy import rollout, sampler, vllm_engine
from envtune.record import Ending
from envtune.train import (
    colocated,
    errors,
    grpo,
    launch,
    lora,
    playing,
    presets,
    stages,
    trl_rollout,
    trl_trainer,
)

LOOK = tool_call(("ls", {}))


# -- processes of its own --------------------------------------------------------------------


def job(tmp_path, text: str, on_row=lambda row: None, **how) -> launch.Ended:
    """Run a Python text as a job."""
    script = tmp_path / "job.py"
    script.write_text("import json, os, signal, subprocess, sys, time\n" + text)
    return launch.run_job([sys.executable, "-u", str(script)], on_row, {}, **how)


def test_what_a_job_prints_goes_where_it_is_sent(tmp_path, capsys):
    job(tmp_path, "print('WARNING')", out=sys.stderr)
    assert capsys.readouterr() == ("", "WARNING\n")


def alive(pid: int) -> bool:
    try:
        return "Z" not in open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return False


def gone(pid: int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


def test_rows_and_errors_of_a_job_come_through_and_other_lines_are_printed(tmp_path, capsys):
    told = []
    ended = job(
        tmp_path,
        f"""
print({launch.LINE!r} + json.dumps({{"kind": "train", "step": 1}}))
print("a warning")
print({launch.ERROR!r} + json.dumps({{"type": "Collapsed", "message": "entropy"}}))
sys.exit(1)""",
        told.append,
    )
    assert told == [{"kind": "train", "step": 1}]
    assert isinstance(ended.error, errors.Collapsed) and str(ended.error) == "entropy"
    assert (ended.code, ended.interrupted, ended.last) == (1, False, "a warning\n")
    assert capsys.readouterr().out == "a warning\n"


def test_nothing_of_a_job_lives_on(tmp_path):
    told = []
    text = f"""
child = subprocess.Popen(["sleep", "600"])
print({launch.LINE!r} + json.dumps({{"pid": child.pid}}))"""
    assert job(tmp_path, text, told.append).code == 0
    assert gone(told[0]["pid"])


def test_workers_in_sessions_of_their_own_end_with_their_launcher(tmp_path):
    """As those of torch's launcher: no signal to the launcher's group reaches them."""
    told, worker = [], tmp_path / "worker.py"
    worker.write_text(
        "import os, time\nfrom envtune.train import launch\nlaunch.end_with_parent()\n"
        f"print({launch.LINE!r} + str(os.getpid()), flush=True)\ntime.sleep(600)"
    )
    text = f"""
child = subprocess.Popen([sys.executable, {str(worker)!r}], start_new_session=True)
time.sleep(4)
os.kill(os.getpid(), signal.SIGKILL)"""
    assert job(tmp_path, text, told.append).code == -signal.SIGKILL
    assert len(told) == 1 and gone(told[0])


def test_a_bar_without_an_end_and_broken_text_swallow_no_row(tmp_path, capsys):
    told = []
    text = f"""
os.write(1, b"\\xe2\\x96\\n")
sys.stdout.write("\\r 50%|##")
print({launch.LINE!r} + "7")
sys.stdout.write("\\r 60%|##")
print({launch.ERROR!r} + json.dumps({{"type": "RolledBack", "message": "to 3"}}))
sys.exit(1)"""
    ended = job(tmp_path, text, told.append)
    assert told == [7] and isinstance(ended.error, errors.RolledBack)
    assert "50%|##" in capsys.readouterr().out


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path):
    def interrupt(row):
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    told = {"type": "Interrupted", "message": "at step 7"}
    ended = job(
        tmp_path,
        f"""
print({launch.LINE!r} + "{{}}")
try:
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.5)  # as long as it takes to save a checkpoint
    print({launch.ERROR!r} + {__import__("json").dumps(told)!r})
    sys.exit(130)""",
        interrupt,
    )
    assert (ended.code, ended.interrupted, str(ended.error)) == (130, True, "at step 7")


def test_a_job_ends_when_the_process_that_launched_it_is_killed(tmp_path):
    (tmp_path / "inner.py").write_text(
        "import os, time\nfrom envtune.train import launch\nlaunch.end_with_parent()\n"
        "print(os.getpid(), flush=True)\ntime.sleep(600)"
    )
    outer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom envtune.train import launch\n"
            f"launch.run_job([sys.executable, {str(tmp_path / 'inner.py')!r}], print, {{}})",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    inner = int(outer.stdout.readline())
    assert alive(inner)
    outer.kill()
    outer.wait()
    assert gone(inner)


def test_a_rolled_back_vllm_stage_goes_on_in_a_new_process(tmp_path, monkeypatch):
    script, count = tmp_path / "train.py", tmp_path / "count"
    rolled = {"type": "RolledBack", "message": "to step 3"}
    script.write_text(
        f"""
import json, pathlib, sys
count = pathlib.Path({str(count)!r})
times = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(times))
if times < 3:
    print({launch.ERROR!r} + json.dumps({rolled!r}))
    sys.exit(1)"""
    )
    monkeypatch.setattr(launch, "command", lambda preset, job: [sys.executable, str(script)])
    preset = replace(SMALL, use_vllm=True)
    policy = grpo.train_stage(stages.STAGES[0], preset, 2, "start", tmp_path / "run", 0)
    assert count.read_text() == "3" and policy == tmp_path / "run" / "stage1_syntax" / "policy"


def test_an_interrupt_at_the_very_end_of_a_stage_still_stops_a_curriculum(tmp_path, monkeypatch):
    ended = launch.Ended(0, True, None, "")
    monkeypatch.setattr(launch, "run_job", lambda *arguments: ended)
    with pytest.raises(errors.Interrupted, match="has just ended"):
        grpo.train_stage(
            stages.STAGES[0], replace(SMALL, use_vllm=True), 2, "start", tmp_path / "run", 0
        )


def test_a_vllm_stage_that_is_rolled_back_asks_for_a_new_process(tmp_path, monkeypatch):
    alarm = SimpleNamespace(step=4, kind="entropy", why="low")
    monkeypatch.setattr(grpo, "_attempt", lambda *arguments: alarm)
    preset = replace(SMALL, use_vllm=True, guard=replace(SMALL.guard, action="rollback"))
    stage, log = stages.STAGES[0], SimpleNamespace(step=lambda: 4)
    (tmp_path / stage.name).mkdir()
    with pytest.raises(errors.RolledBack, match="rolled back to step 0"):
        grpo._train(launch.Job(stage, preset, 5, "start", tmp_path, 0), log)
    assert (tmp_path / stage.name / "rollbacks.json").exists()


# -- sampling --------------------------------------------------------------------------------


def test_a_models_own_sampling_settings_are_not_used(small_policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(small_policy)
    tokenizer = AutoTokenizer.from_pretrained(small_policy)
    other = tokenizer.convert_tokens_to_ids("a")
    model.generation_config.update(
        repetition_penalty=1.3,
        top_k=5,
        eos_token_id=[tokenizer.eos_token_id, other],
        do_sample=True,
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = sampler.load_policy(tmp_path, False)
    own = loaded.generation_config
    assert (own.repetition_penalty, own.top_k, own.temperature) == (1.0, 0, 1.0)
    assert own.eos_token_id == [tokenizer.eos_token_id, other]
    loaded.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = sampler.load_policy(tmp_path / "saved", False)
    assert again.generation_config.repetition_penalty == 1.0

    # greedy messages are those of the bare model, and end at either of the ending tokens
    contexts = [[5, 6, 7], [9, 8]]
    found, _ = sampler.Sampler(loaded, tokenizer, 12, temperature=0.0, wait=1.0)(contexts)
    for context, message in zip(contexts, found, strict=True):
        ids = list(context)
        for token in message:
            assert loaded(torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)
        assert not {other, tokenizer.eos_token_id} & set(message[:-1])
    chat = rollout.Chat(tokenizer, own.eos_token_id)
    assert chat.decode([5, other]) == chat.decode([5, tokenizer.eos_token_id]) == chat.decode([5])
    closed = chat.reply("x", closed=True)
    assert chat.reply("x", closed=False) == [tokenizer.eos_token_id, *closed]


class Script:
    """An engine that writes given messages; a message takes as many steps as it has tokens."""

    def __init__(self, chat, texts):
        self.chat, self.texts, self.running, self.steps = chat, texts, {}, 0
        self.asked: dict[int, list[list[int]]] = {}

    def submit(self, number, context):
        said = self.asked.setdefault(number, [])
        said.append(context)
        texts = self.texts[number % len(self.texts)]
        ids = self.chat.written(texts[min(len(said), len(texts)) - 1])
        self.running[number] = [ids, 0]

    def collect(self):
        self.steps += 1
        for one in self.running.values():
            one[1] += 1
        ended = [number for number, (ids, done) in self.running.items() if done >= len(ids)]
        return [(number, ids := self.running.pop(number)[0], [-0.5] * len(ids)) for number in ended]


@pytest.fixture(scope="module")
def chat():
    from transformers import AutoTokenizer

    from envtune.policy import agent

    return rollout.Chat(AutoTokenizer.from_pretrained(agent.FOLDER))


def test_episodes_at_their_own_pace_are_those_played_in_waves(chat):
    texts = [[LOOK, ANSWER], [ANSWER], [LOOK, LOOK, LOOK, ANSWER, LOOK]]

    def episodes():
        return [Episode("synthetic_base_7", seed=i) for i in range(6)]

    engine = Script(chat, texts)
    ended = list(rollout.play_continuously(episodes(), chat, engine, 4_000, 200, at_once=4))
    said = [0] * 6

    def generate(contexts):
        running = [n for n, r in enumerate(waves) if not r.done]
        ids = []
        for number in running:
            mine = texts[number % 3]
            said[number] += 1
            ids.append(chat.written(mine[min(said[number], len(mine)) - 1]))
        return ids, [[-0.5] * len(one) for one in ids]

    waves = episodes()
    expected = rollout.play(waves, chat, generate, 4_000, 200)
    assert sorted(number for number, _ in ended) == list(range(6))
    for number, played in ended:
        assert vars(played) | {"episode": 0} == vars(expected[number]) | {"episode": 0}
        assert played.record == expected[number].record
        # every context is what came before, so that a prefix cache serves it
        contexts = engine.asked[number]
        assert all(b[: len(a)] == a for a, b in zip(contexts, contexts[1:], strict=False))


def test_an_episode_does_not_wait_for_the_longest_message(chat):
    """Four episodes of two messages; one writes a long message first. Steps, not seconds."""
    long = "<think>" + "so " * 60 + "</think>" + LOOK
    texts = [[long, ANSWER], [LOOK, ANSWER], [LOOK, ANSWER], [ANSWER, LOOK, ANSWER]]
    engine, order = Script(chat, texts), []
    for number, _ in rollout.play_continuously(
        [Episode("synthetic_base_7") for _ in range(4)], chat, engine, 4_000, 400
    ):
        order.append(number)
    assert order[-1] == 0 and engine.steps < sum(len(chat.written(text)) for text in texts[0]) * 4


class Vllm:
    """TRL's VLLMGeneration, counting what costs time."""

    def __init__(self, sleep: bool):
        self.enable_sleep_mode, self._llm_weights_sleeping = sleep, sleep
        self.calls, self.llm = [], self

    def sync_weights(self):
        self.calls.append("sync")
        self._llm_weights_sleeping = False

    def wake_up(self, tags):
        self.calls.append(f"wake {tags[0]}")

    def sleep(self, level):
        self.calls.append(f"sleep {level}")


def test_a_rollout_wakes_vllm_once():
    generation = Vllm(sleep=True)
    for _ in range(2):
        with vllm_engine.awake(generation) as llm:
            assert llm is generation
    assert generation.calls == ["sync", "wake kv_cache", "sleep 2"] * 2
    generation = Vllm(sleep=True)
    generation._llm_weights_sleeping = False  # TRL has just pushed the weights of a new step
    with vllm_engine.awake(generation):
        pass
    assert generation.calls == ["wake kv_cache", "sleep 2"]
    generation = Vllm(sleep=False)
    with vllm_engine.awake(generation):
        pass
    assert generation.calls == []


def test_processes_send_a_server_equally_many_contexts(monkeypatch):
    """TRL gives a process the slice that starts at index times its own number of contexts."""
    contexts = {0: [[1], [2], [3]], 1: [[4]]}
    sent: dict[int, list] = {}

    def trainer(index):
        def generate(prompts, *_):
            sent[index] = prompts
            raise StopIteration

        return SimpleNamespace(
            use_vllm=True,
            accelerator=SimpleNamespace(num_processes=2),
            _generate_single_turn=generate,
        )

    monkeypatch.setattr(
        trl_rollout, "gather_object", lambda mine: [len(c) for c in contexts.values()]
    )
    for index, mine in contexts.items():
        with pytest.raises(StopIteration):
            trl_rollout._generate_together(trainer(index), mine)
    everything = [context for index in sent for context in sent[index]]
    for index, mine in contexts.items():
        size = len(sent[index])  # as TRL slices
        answers = everything[index * size : (index + 1) * size]
        served = trainer(index)
        served._generate_single_turn = lambda prompts, *_, a=answers: (a, [[0.0]] * len(a))
        ids, logprobs = trl_rollout._generate_together(served, mine)
        assert ids == mine and len(logprobs) == len(mine)


# -- weights ---------------------------------------------------------------------------------


def adapted(policy):
    """A bf16 model with LoRA adapters that change it."""
    from peft import get_peft_model

    model, _ = sampler.load_policy(policy, True)
    model = get_peft_model(model, trl_trainer.adapters(replace(SMALL, lora_rank=4)))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return model


def test_a_hundred_pushes_of_lora_weights_leave_the_base_as_it_was(small_policy):
    model = adapted(small_policy)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(100):
        pushed = dict(lora.merged_weights(model))
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    # what is pushed is what the hand-over saves
    expected = dict(lora.merged(adapted(small_policy)).named_parameters())
    assert pushed.keys() == expected.keys()
    assert all(torch.equal(pushed[name], value) for name, value in expected.items())
    start = dict(sampler.load_policy(small_policy, True)[0].named_parameters())
    assert any(not torch.equal(pushed[name], value) for name, value in start.items())


@pytest.mark.parametrize("sign", [1, -1])
def test_changes_below_the_last_digit_of_bf16_arrive_in_the_mean(sign):
    weight = sign * torch.full((64, 256), 0.02).bfloat16().float()
    assert torch.equal(lora.rounded(weight, torch.bfloat16, "a").float(), weight)
    change = torch.linspace(-1e-5, 1e-5, 256).expand(64, 256)  # the last digit is 1.2e-4
    assert torch.equal((weight + change).bfloat16().float(), weight)
    arrived = lora.rounded(weight + change, torch.bfloat16, "a").float() - weight
    assert float((arrived * change).sum() / (change * change).sum()) == pytest.approx(1, abs=0.25)
    assert torch.equal(lora.rounded(weight + change, torch.float32, "a"), weight + change)


def test_trls_merging_in_place_would_not(small_policy):
    """Why lora.merged_weights exists; when this fails, TRL's and PEFT's way is exact."""
    model = adapted(small_policy)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(100):
        model.merge_adapter()
        model.unmerge_adapter()
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())


def test_the_engine_gets_the_runs_seed_and_precision(monkeypatch):
    made = []

    def init(self):
        colocated._generation.LLM(model="m", seed=0, max_model_len=9)

    monkeypatch.setattr(colocated.VLLMGeneration, "_init_vllm", init)
    monkeypatch.setattr(colocated._generation, "LLM", lambda **k: made.append(k), raising=False)
    monkeypatch.setattr(vllm_engine, "prepare", lambda: None)
    theirs = colocated._trainer.VLLMGeneration
    for seed in (3, 4):
        with colocated.engine_settings(**vllm_engine.settings(bf16=True, seed=seed)):
            generation = object.__new__(colocated._trainer.VLLMGeneration)
            generation.mode = "colocate"
            generation._init_vllm()
    assert colocated._trainer.VLLMGeneration is theirs
    assert [one["seed"] for one in made] == [3, 4]
    assert all(one["dtype"] == "bfloat16" and one["max_model_len"] == 9 for one in made)


def test_all_weights_are_trained_on_float32_masters_and_adapters_on_a_bf16_base():
    full = replace(SMALL, bf16=True)
    assert trl_trainer.float32_masters(full)
    assert not trl_trainer.float32_masters(replace(full, lora_rank=4))
    assert not trl_trainer.float32_masters(SMALL)
    assert not trl_trainer.float32_masters(presets.PAPER)  # DeepSpeed keeps its own


def test_a_small_learning_rate_changes_weights_in_bf16(small_policy, tmp_path):
    """In pure bf16 nearly all of these steps would be lost in rounding."""
    preset = replace(SMALL, bf16=True, learning_rate=1e-6, beta=0.0)
    policy = grpo.train_stage(stages.STAGES[0], preset, 2, small_policy, tmp_path / "run", 0)
    start, end = (sampler.load_policy(p, False)[0].state_dict() for p in (small_policy, policy))
    changed = sum(int((start[name] != value).sum()) for name, value in end.items())
    assert changed > 0.3 * sum(value.numel() for value in end.values())


# -- validation ------------------------------------------------------------------------------


def test_a_validation_is_one_rollout_and_no_forward_pass_of_a_loss(
    small_policy, tmp_path, monkeypatch
):
    calls, forwards = [], []
    played = trl_rollout.TRLRollout.__call__

    def count(self, prompts, trainer):
        calls.append((trainer.model.training, len(prompts)))
        return played(self, prompts, trainer)

    computed = trl_trainer.StageTrainer._get_per_token_logps_and_entropies

    def forward(self, model, *arguments, **named):
        forwards.append(self.model.training)
        return computed(self, model, *arguments, **named)

    monkeypatch.setattr(trl_rollout.TRLRollout, "__call__", count)
    monkeypatch.setattr(trl_trainer.StageTrainer, "_get_per_token_logps_and_entropies", forward)
    preset = replace(SMALL, validation_tasks=12)
    grpo.train_stage(stages.STAGES[0], preset, 1, small_policy, tmp_path / "run", 0)
    assert [size for training, size in calls if not training] == [12, 12]  # start and end
    assert forwards and all(forwards)


def test_several_processes_do_not_search_for_unused_parameters(tmp_path):
    config = trl_trainer.grpo_config(stages.STAGES[0], SMALL, 2, tmp_path, 0)
    assert config.ddp_find_unused_parameters is False


# -- evaluation ------------------------------------------------------------------------------


TASKS = [f"synthetic_base_{number}" for number in range(200, 206)]


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def test_a_server_plays_the_episodes_and_a_busy_one_is_asked_again(key, monkeypatch):
    refused = []

    def replies(asked):
        if len(refused) < 3:
            refused.append(asked)
            return 503, ""
        return (
            LOOK
            if asked["messages"][-1]["role"] == "user" and len(asked["messages"]) < 4
            else ANSWER
        )

    with ChatServer(replies) as server:
        records = playing.play("m", TASKS, presets.CPU_TINY, engine=server.url, batch_size=3)
    assert [record.task_id for record in records] == TASKS and len(refused) == 3
    for record in records:
        episode = Episode(record.task_id, EVALUATION, rules=True, **presets.CPU_TINY.episode)
        for step in record.steps:
            episode.step(step.message)
        assert episode.record == record


def test_a_context_that_a_server_cannot_take_ends_its_episode_alone(key):
    first = Episode(TASKS[0]).messages[1]["content"]

    def replies(asked):
        if len(asked["messages"]) > 2 and asked["messages"][1]["content"] == first:
            return 400, "maximum context length"
        return LOOK if len(asked["messages"]) < 4 else ANSWER

    with ChatServer(replies) as server:
        records = playing.play("m", TASKS, presets.CPU_TINY, engine=server.url)
    assert records[0].ending is Ending.TOKEN_LIMIT and len(records[0].steps) == 1
    assert all(record.ending is not Ending.TOKEN_LIMIT for record in records[1:])


def test_every_message_is_asked_for_with_a_seed_of_its_own(key):
    def replies(asked):
        return LOOK if len(asked["messages"]) < 6 else ANSWER

    with ChatServer(replies) as server:
        how = {"engine": server.url, "repeats": 2, "temperature": 1.0}
        playing.play("m", TASKS[:2], presets.CPU_TINY, **how)
    seeds = [asked["seed"] for asked in server.asked]
    assert len(seeds) == len(set(seeds)) >= 12


def test_a_repeat_that_is_played_later_is_another_sample(small_policy, tmp_path):
    preset = replace(SMALL, completion_tokens=60)

    def go(repeats):
        return playing.play(
            small_policy, TASKS[:2], preset, temperature=1.0, repeats=repeats, keep=tmp_path
        )

    once, twice = go(1), go(2)
    assert twice[:2] == once
    assert [r.steps[0].message for r in twice[2:]] != [r.steps[0].message for r in once]


def test_a_sampled_evaluation_that_was_killed_ends_as_one_that_was_not(
    small_policy, tmp_path, monkeypatch
):
    preset, how = replace(SMALL, completion_tokens=60), {"temperature": 1.0, "batch_size": 3}

    def go(name):
        keep = tmp_path / name
        return playing.play(small_policy, TASKS, preset, repeats=2, keep=keep, **how)

    def dies_at_the_fifth(folder, key, record):
        if len(list(playing.read_kept(folder))) == 4:
            raise KeyboardInterrupt
        append(folder, key, record)

    whole, append = go("whole"), playing._append
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(playing, "_append", dies_at_the_fifth)
        go("killed")
    assert go("killed") == whole


def test_a_folder_of_other_settings_is_refused(small_policy, tmp_path):
    preset = replace(SMALL, completion_tokens=60)
    playing.play(small_policy, TASKS[:1], preset, keep=tmp_path)
    with pytest.raises(ValueError, match="temperature was 0.0, now 1.0"):
        playing.play(small_policy, TASKS[:1], preset, temperature=1.0, keep=tmp_path)
    with pytest.raises(ValueError, match="engine is transformers, vllm or a URL"):
        playing.play(small_policy, TASKS[:1], preset, engine="sglang")


def test_repeats_are_other_samples_of_the_same_tasks(small_policy, tmp_path):
    preset = replace(SMALL, completion_tokens=60)
    records = playing.play(
        small_policy, TASKS[:2], preset, temperature=1.0, repeats=2, keep=tmp_path
    )
    assert [record.task_id for record in records] == TASKS[:2] * 2
    assert [key for key, _ in playing.read_kept(tmp_path)] == [
        (t, r) for r in (0, 1) for t in TASKS[:2]
    ]
    assert records[:2] != records[2:]
