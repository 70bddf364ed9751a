"""What the stage notebooks show of a stage's episodes: groups with advantages, outcomes, a hint."""

import gzip
import json
from dataclasses import replace

import pytest
from conftest import ANSWER, ground_truth_messages, tool_call

from envtune import replay
from envtune.study import stage_report
from envtune.train import presets
from envtune.train.stages import STAGES

TASK, STAGE = "multi_turn_base_3", STAGES[1]
PAIRS = replace(presets.CPU_SMOKE, generations=2)
A_PATH = tool_call(("rm", {"file_name": "projects/photography/test_image1.jpg"}))


@pytest.fixture
def run_dir(tmp_path):
    """Step 1: a group of two lost episodes, and one of a lost and a won episode."""
    right = ground_truth_messages(TASK)
    played = [[ANSWER, "no format"], [A_PATH, ANSWER], [ANSWER], right]
    tags = {"stage": STAGE.name, "step": 1, "kind": "train"}
    with gzip.open(tmp_path / "episodes.jsonl.gz", "wt") as out:
        for messages in played:
            record = replay(TASK, messages, hint_rate=1.0)
            out.write(json.dumps({**tags, **record.to_dict()}) + "\n")
    return tmp_path


def test_the_group_with_the_most_different_rewards_comes_first(run_dir):
    first, second = stage_report.groups(run_dir, STAGE, PAIRS, step=1)
    assert first["reward"].tolist() == [0.0, 1.0]
    assert first["advantage"].tolist() == pytest.approx([-0.707, 0.707], abs=1e-3)
    assert second["advantage"].tolist() == [0.0, 0.0]
    assert first["record"].iloc[1].completed and first["turns won"].iloc[1].startswith("2/")


def test_advantages_keep_the_scale_where_the_preset_does_not_normalise(run_dir):
    plain = replace(PAIRS, scale_rewards="none")
    tripled = replace(STAGE, reward_scale=3.0)
    first = stage_report.groups(run_dir, tripled, plain, step=1)[0]
    assert first["advantage"].tolist() == [-1.5, 1.5]


def test_outcomes_are_shares_of_a_steps_messages(run_dir):
    shares = stage_report.outcomes(run_dir, STAGE, (1, 1))["step 1"]
    assert shares.sum() == pytest.approx(1.0) and 0 < shares["format_error"] < shares["answer"]


def test_the_first_hint_is_shown_with_what_the_agent_read(run_dir):
    shown = stage_report.first_hint(run_dir, STAGE)["the first hint"]
    assert shown["the agent called"].startswith("rm(") and "hint" not in shown["the tool said"]
    assert '"hint"' in shown["the agent read"]
    assert stage_report.first_hint(run_dir, STAGES[0]).empty
