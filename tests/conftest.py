"""Shared fixtures: a run folder of the session, and a model small enough to train in seconds."""

import importlib.util
import json
import signal
import sys
from dataclasses import replace

import pytest
from hypothesis import settings

from envtune import bfcl
from envtune.bfcl.synthetic import tasks
from envtune.common import files, paths
from envtune.env import domains
from envtune.hints import library
from envtune.train import presets

settings.register_profile("no clock", deadline=None)  # no test asserts a wall time
settings.load_profile("no clock")

# what a shell starts in the background ignores interrupts, and tests send themselves some
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = {
    "census",
    "curriculum",
    "whole",
}  # fixtures that are worth making once for all their tests


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share a costly fixture run in one process, so that it is made once."""
    for item in items:
        if SHARED & set(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_ignore_collect(collection_path, config):
    """tests/browser needs Chromium and Playwright: it is collected with `-m browser` alone."""
    left_out = collection_path.name == "browser" and config.option.markexpr != "browser"
    return left_out or None


def tool_call(*calls) -> str:
    """An agent message that makes calls, given as (name, arguments) or Call."""
    body = json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])
    return f"<think>work</think><tool_call>{body}</tool_call>"


ANSWER = "<think>done</think><answer>Done.</answer>"


def ground_truth_messages(task_id: str) -> list[str]:
    """The assistant messages that do a task right, all calls of a turn in one message."""
    messages = []
    for turn in bfcl.load_task(task_id).ground_truth:
        messages += ([tool_call(*turn)] if turn else []) + [ANSWER]
    return messages


HINT = {
    "id": "x",
    "class": "GorillaFileSystem",
    "tools": ["cd"],
    "when": {"error": "."},
    "hint": "go",
    "category": "format_mismatch",
    "type": "correct_format",
    "provenance": {},
}
"""A record of a hint library."""
TIMES = ("seconds", "generation_seconds", "environment_seconds")
"""The fields of metrics.jsonl that a clock gives."""


def lines(folder, *kinds) -> list[dict]:
    """The rows of a run's metrics.jsonl, of some kinds or of all, without TIMES."""
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in files.read_lines(folder / "metrics.jsonl")
        if not kinds or row["kind"] in kinds
    ]


def weights(folder) -> dict:
    """The weights of a policy, by name."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one, two) -> bool:
    """Whether two policies have the same weights."""
    first, second = weights(one), weights(two)
    return all((first[name] == second[name]).all() for name in first)


@pytest.fixture(scope="session", autouse=True)
def runs_folder(tmp_path_factory):
    """Runs and figures of the tests in folders of their own; a model already unpacked in the
    workspace is reused."""
    folder = tmp_path_factory.mktemp("runs")
    unpacked = paths.ROOT / "runs" / "models"
    if unpacked.is_dir():
        (folder / "models").symlink_to(unpacked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVTUNE_RUNS", str(folder))
        patch.setenv("ENVTUNE_FIGURES", str(tmp_path_factory.mktemp("figures")))
        yield folder


@pytest.fixture
def forgotten(monkeypatch):
    """What a test adds of its own (tools, tasks, worlds, hints) is gone after it."""
    monkeypatch.setattr(library, "_ADDED", {})
    yield
    for known in (bfcl.OWN_CLASSES, bfcl.OWN_TASKS, tasks.OWN_WORLDS):
        known.clear()
    domains.forget()
    library.load_hints.cache_clear()


def own_module(monkeypatch, name: str):
    """A module of docs/examples, known for one test."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


EXAMPLES = paths.ROOT / "docs" / "examples"

SMALL = replace(
    presets.CPU_SMOKE, max_scenarios=1, message_tokens=24, completion_tokens=200, validation_tasks=2
)


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory):
    """A folder with a model of few weights after few steps on the agent's script: it babbles, which
    is enough to test the machinery."""
    import torch
    from transformers import AutoTokenizer, set_seed

    from envtune.policy import agent, rollout
    from envtune.policy.agent import script, train

    set_seed(0)
    recipe, folder = (
        train.Recipe(hidden=32, mlp=64, layers=1, heads=2, pool=64),
        tmp_path_factory.mktemp("small") / "model",
    )
    tokenizer = AutoTokenizer.from_pretrained(agent.FOLDER)
    model, phase = (
        train.new_model(recipe, tokenizer),
        train.Phase("small", 64, (1,), None, 1e-2, script.HABITS, learn_all=True),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.learning_rate)
    for ids, labels in train.pool(rollout.Chat(tokenizer), phase, recipe, 0, 0):
        loss, _ = train.loss_of(model, ids, labels, tokenizer.pad_token_id, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    train.save(model, tokenizer, folder)
    return folder
