"""Parity: 1,693 scripted episodes played through the authors' logic, and the ground truth of all
800 tasks."""

import gzip
import json
from pathlib import Path

import pytest
from conftest import ground_truth_messages
from test_exact import BFCL

from envtune import bfcl, replay
from envtune.env import rewards

FILE = Path(__file__).parent / "data" / "golden_episodes.jsonl.gz"
CASES = [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).decode().splitlines()]
KINDS = sorted({case["kind"] for case in CASES})


@pytest.mark.parametrize("kind", KINDS)
def test_every_golden_episode_of_a_kind_agrees(kind):
    for case in (c for c in CASES if c["kind"] == kind):
        record = replay(case["id"], case["messages"])
        got = {
            "turn": [s.turn for s in record.steps],
            "code": record.codes,
            "turns": record.turns,
            "format_reward": rewards.format_reward(record),
            "tool_call_reward": rewards.tool_call_reward(record),
            "stage1_reward": pytest.approx(rewards.stage1_reward(record), abs=1e-12),
            "progress": pytest.approx(rewards.progress_reward(record), abs=1e-12),
            "bfcl_valid": bfcl.official_valid(record),
        }
        assert {name: case[name] for name in got} == got, case["id"]


def test_all_golden_cases_are_there():
    assert len(CASES) == 1693 and len(KINDS) == 14


@pytest.mark.parametrize("split", bfcl.SPLITS)
def test_ground_truth_of_every_task_is_valid_and_scores_full_progress_under_evaluation_limits(
    split,
):
    for task in (t for t in bfcl.load_tasks().values() if t.split == split):
        record = replay(task.id, ground_truth_messages(task.id), limits="evaluation")
        assert bfcl.official_valid(record), task.id
        assert rewards.progress_reward(record) == rewards.binary_reward(record) == 1.0, task.id


def test_our_checker_call_agrees_with_the_unmodified_function():
    """The exchanged executor changes no verdict: BFCL's own function, strings and all, on cases
    that are safe to give it."""
    for case in CASES[::60]:
        task, record = bfcl.load_task(case["id"]), replay(case["id"], case["messages"])
        with BFCL(task) as reference:
            valid = reference.valid(record.calls_by_turn())
        assert valid == case["bfcl_valid"] == bfcl.official_valid(record), case["id"]
