"""Shared fixtures: a run folder of the session, and an instrument small enough to train in seconds."""
import json
from dataclasses import replace

import pytest
from hypothesis import settings

from envtune import bfcl, paths, presets

settings.register_profile("no clock", deadline=None)  # no test asserts a wall time
settings.load_profile("no clock")


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


@pytest.fixture(scope="session", autouse=True)
def runs_folder(tmp_path_factory):
    """Runs and figures of the tests in folders of their own; instruments already built in the workspace are reused."""
    folder = tmp_path_factory.mktemp("runs")
    built = paths.ROOT / "runs" / "models"
    if built.is_dir():
        (folder / "models").symlink_to(built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVTUNE_RUNS", str(folder))
        patch.setenv("ENVTUNE_FIGURES", str(tmp_path_factory.mktemp("figures")))
        yield folder


SMALL = replace(presets.CPU_TINY, max_scenarios=1, prompts_per_step=1, generations=4, device_batch=4, message_tokens=24,
                completion_tokens=200, validation_tasks=2, stage_steps=(1, 1, 1, 1), warmup_steps=0)


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory):
    """A folder with an instrument of few weights after few steps: it babbles, which is enough to test the machinery."""
    from envtune import tiny, training
    recipe = tiny.Recipe(hidden=32, layers=1, heads=2, episodes=24, short_steps=20, full_steps=2, vocabulary=400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENVTUNE_RUNS", str(tmp_path_factory.mktemp("small")))
        return tiny.build(training.practice_scenarios(SMALL), 0, SMALL.max_result_chars, recipe, quiet=True)
