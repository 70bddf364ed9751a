"""The collapse guard at work: real runs of the agent that collapse, because their learning rate is
ten times too large."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, lines
from transformers import AutoModelForCausalLM

from envtune import read_records
from envtune.env import rewards
from envtune.train import errors, grpo, presets
from envtune.train.collapse import Guard
from envtune.train.stages import STAGES

BREAKING = replace(
    presets.CPU_TINY,
    prompts_per_step=2,
    device_batch=16,
    validate_every=100,
    validation_tasks=2,
    warmup_steps=0,
    save_every=1,
    completion_tokens=320,
    learning_rate=1e-2,
    beta=0.01,
)


@pytest.fixture(scope="module")
def policy():
    return grpo.starting_model(presets.CPU_TINY)


@pytest.mark.slow
def test_a_run_that_collapses_is_seen_to_by_several_signs_and_goes_on_when_only_warned(
    policy, tmp_path
):
    preset = replace(BREAKING, guard=Guard(action="warn", window=3))
    with pytest.warns(UserWarning, match="collapse guard, stage1_syntax, step"):
        grpo.train_stage(STAGES[0], preset, 9, policy, tmp_path, 0)
    alarms = [row["alarm"] for row in lines(tmp_path, "alarm")]
    assert "kl_blowup" in alarms and len(alarms) >= 2
    assert len(alarms) == len(set(alarms))  # a sign that lasts is told once
    assert len(lines(tmp_path, "train")) == 9


@pytest.mark.slow
def test_entropy_collapse_of_a_real_run_is_found(policy, tmp_path):
    # paid for being sure, and with nothing to hold it back, the policy loses its entropy
    guard = Guard(action="stop", window=3, entropy_share=0.3, format_drop=1.0, silent_share=2.0)
    preset = replace(BREAKING, learning_rate=1e-3, beta=0.0, entropy_coef=-1.0, guard=guard)
    with (
        pytest.warns(UserWarning, match="entropy_collapse"),
        pytest.raises(errors.Collapsed, match="step"),
    ):
        grpo.train_stage(STAGES[0], preset, 12, policy, tmp_path, 0)


@pytest.mark.slow
def test_a_stopped_run_says_why_and_keeps_its_checkpoints(policy, tmp_path):
    preset = replace(BREAKING, guard=Guard(action="stop", window=3))
    with (
        pytest.warns(UserWarning),
        pytest.raises(errors.Collapsed, match="collapse guard.*smaller learning rate") as stopped,
    ):
        grpo.train_stage(STAGES[0], preset, 9, policy, tmp_path, 0)
    last = len(lines(tmp_path, "train"))
    assert f"stopped at step {last} " in str(stopped.value) and last < 9
    stage = tmp_path / "stage1_syntax"
    assert not (stage / "policy").exists()
    assert all((stage / f"checkpoint-{step}").is_dir() for step in (last - 3, last - 1))


@pytest.mark.slow
def test_a_rollback_goes_on_from_the_last_good_checkpoint_with_a_smaller_step_and_recovers(
    policy, tmp_path
):
    preset = replace(BREAKING, guard=Guard(action="rollback", window=3, learning_rate_factor=0.03))
    with pytest.warns(UserWarning, match="rolled back"):
        grpo.train_stage(STAGES[0], preset, 9, policy, tmp_path, 0)
    out = tmp_path / "stage1_syntax"
    rollbacks = json.loads((out / "rollbacks.json").read_text())
    targets = [r["to_step"] for r in rollbacks]
    assert targets == sorted(
        targets, reverse=True
    )  # where one did not help, the next goes back further
    train = lines(tmp_path, "train")
    assert [row["step"] for row in train] == list(range(1, 10))
    assert train[-1]["learning_rate"] == pytest.approx(1e-2 * 0.03 ** len(rollbacks))
    told = sorted(row["rollback"] for row in lines(tmp_path, "rollback"))
    assert told == list(range(1, len(rollbacks) + 1))
    dropped = [json.loads(line) for line in (tmp_path / "discarded.jsonl").read_text().splitlines()]
    assert {row["step"] for row in dropped if row["kind"] == "train"} >= {
        targets[0] + 1,
        targets[0] + 2,
        targets[0] + 3,
    }
    weights = AutoModelForCausalLM.from_pretrained(out / "policy").state_dict()
    assert all(torch.isfinite(w).all() for w in weights.values())


@pytest.mark.slow
def test_rollbacks_have_an_end(policy, tmp_path):
    preset = replace(
        BREAKING,
        learning_rate=1.0,
        guard=Guard(action="rollback", window=2, learning_rate_factor=1.0, max_rollbacks=1),
    )
    with pytest.warns(UserWarning), pytest.raises(errors.Collapsed, match="after 1 rollbacks"):
        grpo.train_stage(STAGES[0], preset, 9, policy, tmp_path, 0)


def test_numbers_go_to_tensorboard_when_asked_with_the_parts_of_the_reward(small_policy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    grpo.train_stage(
        STAGES[0], replace(SMALL, report_to=("tensorboard",)), 2, small_policy, tmp_path, 0
    )
    [file] = (tmp_path / "stage1_syntax").rglob("events.out.tfevents*")
    events = EventAccumulator(str(file)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/reward", "train/progress", "train/format_reward", "train/kl"} <= tags
    assert [e.value for e in events.Scalars("train/reward")] == pytest.approx(
        [row["reward"] for row in lines(tmp_path, "train")], abs=1e-6
    )


def test_two_stages_of_one_name_are_refused(small_policy, tmp_path):
    with pytest.raises(ValueError, match="a name of its own"):
        grpo.train_curriculum(SMALL, tmp_path, 0, stages=[STAGES[0], STAGES[0]], start=small_policy)


def test_stages_run_in_the_order_given(small_policy, tmp_path):
    run = grpo.train_curriculum(
        SMALL, tmp_path, 0, stages=[STAGES[2], STAGES[0]], start=small_policy
    )
    assert list(run.checkpoints) == ["stage3_hard_tasks", "stage1_syntax"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["stages"]["stage1_syntax"]["start"] == "./stage3_hard_tasks/policy"


def test_gradient_checkpointing_and_small_batches_of_episodes_change_no_reward(
    small_policy, tmp_path
):
    rewards = []
    for name, changes in {"plain": {}, "checkpointing": {"gradient_checkpointing": True}}.items():
        grpo.train_stage(STAGES[0], replace(SMALL, **changes), 2, small_policy, tmp_path / name, 0)
        rewards.append([row["reward"] for row in lines(tmp_path / name, "train")])
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)
    grpo.train_stage(
        STAGES[0], replace(SMALL, rollout_batch=3), 1, small_policy, tmp_path / "batches", 0
    )
    assert lines(tmp_path / "batches", "train")[0]["episodes"] == 4


def test_a_reward_of_calls_and_the_baselines_train(small_policy, tmp_path):
    from envtune.train.stages import DIRECT_GRPO, TOOLRL

    for stage in (DIRECT_GRPO, TOOLRL):
        grpo.train_stage(stage, SMALL, 1, small_policy, tmp_path, 0)
    logged = {row["stage"]: row["reward"] for row in lines(tmp_path, "train")}
    for stage in (DIRECT_GRPO, TOOLRL):
        records = list(read_records(tmp_path / "episodes.jsonl.gz", stage=stage.name, kind="train"))
        assert logged[stage.name] == pytest.approx(
            sum(map(rewards.REWARDS[stage.reward], records)) / len(records), abs=1e-5
        )
