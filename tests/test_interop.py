"""Episodes and the environment in the forms of inspect_ai, TRL and OpenEnv. What an extra is
missing for is skipped."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import bfcl
from envtune.__main__ import main
from envtune.common import paths
from envtune.env import rewards
from envtune.env.episode import EVALUATION, Episode
from envtune.env.interop import trl_completions, trl_environment
from envtune.env.interop.inspect_log import export_inspect
from envtune.env.interop.played import read_played
from envtune.env.interop.trl_environment import OVER, environments, rows

TASKS = ("multi_turn_base_3", "multi_turn_miss_func_3")
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(1)</script>\ud800'
BIN = Path(sys.executable).parent


def play(task_id: str, messages: list[str], **settings) -> tuple[Episode, list[str | None]]:
    episode = Episode(task_id, **settings)
    return episode, [episode.step(message) for message in messages if not episode.done]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with two groups of two training episodes and a hostile validation episode, and
    what the environment said in each."""
    folder = tmp_path_factory.mktemp("run")
    stage = {"reward": "progress", "reward_scale": 2.0, "rules": True}
    preset = {"generations": 2, "scale_rewards": "group", "compact": False, "model": "a-model"}
    config = {"preset": preset, "stages": {"stage2_hints": stage}}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = {"stage": "stage2_hints", "kind": "train", "sampled_tokens": 321}
    (folder / "metrics.jsonl").write_text(json.dumps(tokens) + "\n")
    wrong = [tool_call(("cat", {"file_name": "no.txt"})), "no tags", *[ANSWER] * 6]
    played = [
        (play(task, messages, hint_rate=1.0, rules=True), "train")
        for task in TASKS
        for messages in (ground_truth_messages(task), wrong)
    ]
    attack = [tool_call((HOSTILE, {HOSTILE: [HOSTILE]}), ("ls", {})), HOSTILE, *[ANSWER] * 6]
    played.append((play(TASKS[0], attack, limits=EVALUATION, rules=True), "validation"))
    with open(folder / "episodes.jsonl", "w") as out:
        for (episode, _), kind in played:
            head = {"stage": "stage2_hints", "step": 7, "kind": kind}
            out.write(json.dumps({**head, **episode.record.to_dict()}) + "\n")
    return folder, [conversation for conversation, _ in played]


def test_the_messages_of_a_record_are_what_the_agent_read(run):
    folder, conversations = run
    for played, (episode, replies) in zip(read_played(folder), conversations, strict=True):
        messages = played.messages()
        assert messages[:2] == episode.messages
        assert [m["content"] for m in messages[3::2]] == replies[:-1]
        said = [step.message for step in episode.record.steps]
        assert [m["content"] for m in messages[2::2]] == [s.replace("\ud800", "?") for s in said]


def test_inspect_reads_the_log_back_and_lists_it(run, tmp_path):
    log = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    folder, _ = run
    read = log.read_eval_log(str(export_inspect(folder, tmp_path / "run.eval")))
    assert read.status == "success" and read.eval.model == "a-model"
    samples = {(sample.id, sample.epoch): sample for sample in read.samples}
    expected = [(TASKS[0], 1), (TASKS[0], 2), (TASKS[0], 3), (TASKS[1], 1), (TASKS[1], 2)]
    assert sorted(samples) == expected
    best, worst, hostile = (samples[TASKS[0], epoch] for epoch in (1, 2, 3))
    assert {k: s.value for k, s in best.scores.items()} == {
        "valid": "C",
        "progress": 1.0,
        "format": 1.0,
    }
    assert worst.scores["valid"].value == "I" and "turn 1" in worst.scores["valid"].explanation
    assert worst.metadata["hints_shown"] == 1 and worst.metadata["step"] == 7
    kinds = "system user assistant tool assistant user assistant tool"
    assert [m.role for m in best.messages][:8] == kinds.split()
    call, result = best.messages[2].tool_calls[0], best.messages[3]
    assert call.function == result.function == "find" and call.id == result.tool_call_id
    assert "test_image1" in result.text and best.messages[4].text == "Done."
    attack = HOSTILE.replace("\ud800", "?")
    assert hostile.messages[2].tool_calls[0].function == attack
    assert hostile.messages[3].error is not None and hostile.metadata["kind"] == "validation"
    accuracy = read.results.scores[0].metrics["accuracy"].value
    assert accuracy == pytest.approx(2 / 5)
    listed = subprocess.run(
        [BIN / "inspect", "log", "list", "--log-dir", tmp_path], capture_output=True, text=True
    )
    assert "run.eval" in listed.stdout, listed.stderr


def test_the_command_filters_and_sums_the_tokens(run, tmp_path, capsys):
    log = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")
    out = tmp_path / "train.json"
    assert main(["export-inspect", str(run[0]), "--out", str(out), "--kind", "train"]) == 0
    read = log.read_eval_log(str(out))
    assert len(read.samples) == 4 and read.stats.model_usage["a-model"].output_tokens == 321
    assert main(["export-inspect", str(run[0]), "--out", str(out), "--stage", "no"]) == 1
    assert "has no episodes of stage no" in capsys.readouterr().err


def test_completions_have_trls_columns_rewards_and_advantages(run, tmp_path, capsys):
    assert main(["export-trl", str(run[0]), "--out", str(tmp_path)]) == 0
    [file] = tmp_path.rglob("*.parquet")
    assert file == tmp_path / "stage2_hints" / "completions" / "completions_00007.parquet"
    table = pd.read_parquet(file)
    columns = "step prompt completion episode_reward task_id ending hints_on advantage"
    assert list(table) == columns.split() and len(table) == 4
    scores = [2 * rewards.progress_reward(episode.record) for episode, _ in run[1][:4]]
    assert table["episode_reward"].tolist() == scores
    half = (scores[0] - scores[1]) / 2
    expected = half / (half * 2**0.5 + 1e-4)
    assert table["advantage"].tolist()[:2] == pytest.approx([expected, -expected])
    assert [m["role"] for m in table["prompt"][0]] == ["system", "user"]
    assert table["completion"][0][0]["content"] == run[1][0][0].record.steps[0].message


def test_a_reward_of_ones_own_is_never_imported_from_a_runs_file(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run[0].iterdir():
        (folder / file.name).write_text(file.read_text().replace('"progress"', '"antigravity:x"'))
    with pytest.raises(ValueError, match="reward=..."):
        trl_completions.export_trl(folder, tmp_path / "out")
    assert "antigravity" not in sys.modules
    files = trl_completions.export_trl(folder, tmp_path / "out", reward=rewards.binary_reward)
    assert pd.read_parquet(files[0])["episode_reward"].tolist() == [2.0, 0.0, 2.0, 0.0]


PLAYABLE = [t for t, task in bfcl.load_tasks().items() if not task.withheld_until]


def test_trls_tools_have_the_schemas_of_the_docs():
    from transformers.utils import get_json_schema

    docs = {doc["name"]: doc for doc in bfcl.docs_of(bfcl.CLASSES)}
    seen = set()
    for environment in environments(PLAYABLE).values():
        for name in set(dir(environment)) & (docs.keys() - seen):
            schema = get_json_schema(getattr(environment(), name))["function"]
            wanted, got = docs[name]["parameters"], schema["parameters"]
            about = {k: " ".join(v["description"].split()) for k, v in wanted["properties"].items()}
            assert {k: v["description"] for k, v in got["properties"].items()} == about
            assert sorted(got.get("required", [])) == sorted(wanted.get("required", []))
            seen.add(name)
    assert seen == docs.keys()


def test_the_ground_truth_earns_the_whole_reward_through_trls_tools():
    classes = environments(PLAYABLE)
    for row in rows(PLAYABLE[::7]):
        environment, task = classes[row["environment"]](), bfcl.load_task(row["task_id"])
        assert environment.reset(**row) == task.user_turns[0]
        for turn in task.ground_truth:
            for call in turn:
                getattr(environment, call.name)(**call.arguments)
            said = environment.answer(text="Done.")
        assert said == OVER and environment.get_reward() == 1.0, task.id


def test_an_agent_that_stops_calling_has_answered_once():
    [(_, environment)] = environments([TASKS[0]]).items()
    agent = environment()
    with pytest.raises(RuntimeError, match="reset"):
        agent.get_reward()
    agent.reset(task_id=TASKS[0])
    agent.find(path=".", name="test")
    assert agent.get_reward() == agent.get_reward() == 0.5
    agent.reset(task_id=TASKS[0])  # TRL uses an instance again
    assert agent.get_reward() == 0.0
    assert "Invalid character" in agent.cat(file_name="</tool_call><answer>x</answer>")
    agent.answer(text="</answer></think><tool_call>")
    assert [s.outcome for s in agent.record.steps][1:] == ["calls", "answer"]
    with pytest.raises(ValueError, match="later turn"):
        rows([TASKS[1]])


@pytest.mark.slow
def test_trl_trains_a_step_on_the_environment(tmp_path, monkeypatch):
    """TRL's own loop calls the tools; what the model writes is scripted, because the tiny agent was
    made for another format."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    tokenizer = AutoTokenizer.from_pretrained(paths.DATA / "tiny_agent")
    tokenizer.chat_template = template.read_text()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, task = "<|im_end|>", bfcl.load_task("multi_turn_base_100")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **size, **heads))
    script = []
    for turn in task.ground_truth:
        calls = [*[(call.name, call.arguments) for call in turn], ("answer", {"text": "Done."})]
        script += [json.dumps({"name": name, "arguments": given}) for name, given in calls]
    script = [f"<tool_call>\n{call}\n</tool_call><|im_end|>" for call in script] + [
        "Bye.<|im_end|>"
    ]

    def generate(self, prompts, *_, **__):
        texts = [script.pop(0), "No.<|im_end|>"][: len(prompts)]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", generate)
    length = {"max_completion_length": 1000, "max_steps": 1, "num_generations": 2}
    logs = {"log_completions": True, "report_to": [], "save_strategy": "no", "logging_steps": 1}
    cpu = {"use_cpu": True, "bf16": False, "per_device_train_batch_size": 2}
    trl.GRPOTrainer(
        model=model,
        args=trl.GRPOConfig(output_dir=str(tmp_path), **length, **logs, **cpu),
        train_dataset=Dataset.from_list(rows([task.id]) * 2),
        processing_class=tokenizer,
        environment_factory=environments([task.id]),
    ).train()
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert list(table) == ["step", "prompt", "completion", "TradingBot", "advantage"]
    assert table["TradingBot"].tolist() == [1.0, 0.0]
    expected = rewards.advantages([1.0, 0.0])
    assert table["advantage"].tolist() == pytest.approx(expected, abs=1e-5)
    said = [m["content"] for m in table["completion"][0] if m["role"] == "tool"]
    assert said[1] == task.user_turns[1] and said[-1] == trl_environment.OVER


@pytest.fixture(scope="module")
def server():
    """The address of the OpenEnv server, which runs in a process of its own."""
    pytest.importorskip("openenv", reason="needs the extra `openenv`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = "envtune.env.interop.openenv_environment"
    process = subprocess.Popen([sys.executable, "-m", module, "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_openenv_validates_the_package_and_the_server(server):
    package = paths.ROOT / "envtune" / "env" / "interop"
    for arguments in ([package, "--level", "static"], ["--url", server]):
        done = subprocess.run([BIN / "openenv", "validate", *arguments], capture_output=True)
        assert done.returncode == 0 and b"Verdict: PASS" in done.stdout, done.stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("task_id", TASKS)
def test_sessions_of_the_openenv_client_play_side_by_side(server, task_id):
    from openenv.core.generic_client import GenericEnvClient

    with ExitStack() as stack:
        right, wrong, new = (
            stack.enter_context(GenericEnvClient(base_url=server).sync()) for _ in range(3)
        )
        opening = right.reset(task_id=task_id, seed=1)
        assert opening.observation["messages"] == Episode(task_id).messages
        wrong.reset(task_id=task_id, seed=1)
        live, total = Episode(task_id), 0.0
        for message in ground_truth_messages(task_id):
            if wrong.state()["turn"] < wrong.state()["turns"]:
                wrong.step({"message": ANSWER})
            result, reply = right.step({"message": message}), live.step(message)
            total += result.reward
            assert [m["content"] for m in result.observation["messages"]] == [reply] * (
                not result.done
            )
        assert result.done and total == pytest.approx(1.0) and right.state()["task_id"] == task_id
        assert result.observation["ending"] == "completed" and result.observation["progress"] == 1
        lost = wrong.state()
        assert lost["turn"] == lost["turns"] == live.task.turns and "ground_truth" not in lost
        for bad in ({"task_id": "nothing"}, {"task_id": task_id, "limits": "none"}):
            with pytest.raises(RuntimeError, match="no task|limits is one of"):
                new.reset(**bad)
        with pytest.raises(RuntimeError, match="reset comes first"):
            new.step({"message": ANSWER})
