"""Supervised fine-tuning: the labels are the assistant's tokens, and gold episodes are right."""

from dataclasses import replace

import pytest
from conftest import SMALL
from safetensors.torch import load_file

from envtune import bfcl, replay
from envtune.bfcl import splits
from envtune.common import files
from envtune.env import rewards
from envtune.policy import sampler
from envtune.train import sft, stages

WIDE = replace(SMALL, completion_tokens=5_000, message_tokens=500, max_result_chars=2_000)


@pytest.fixture(scope="module")
def tokenizer(small_policy):
    return sampler.load_policy(small_policy, bf16=False)[1]


def assistant(row, tokenizer):
    """The messages that the loss sees."""
    return tokenizer.decode([t for t in row["labels"] if t != -100]).split("<|end|>")[:-1]


@pytest.mark.parametrize(
    "task_id", ["multi_turn_base_3", "multi_turn_miss_func_3", "multi_turn_miss_param_3"]
)
def test_a_gold_row_trains_the_assistants_tokens_alone_and_they_solve_the_task(tokenizer, task_id):
    [row] = sft.gold_rows([task_id], tokenizer, WIDE)
    messages = assistant(row, tokenizer)
    record = replay(task_id, messages, limits="evaluation")
    assert (
        rewards.progress_reward(record) == 1.0
        and rewards.format_reward(record) == 1.0
        and bfcl.official_valid(record)
    )
    assert len(row["input_ids"]) == len(row["labels"])
    assert all(
        label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )
    masked = tokenizer.decode(
        [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
    )
    assert (
        all(turn in masked for turn in bfcl.load_task(task_id).user_turns)
        and "<tool_response>" in masked
    )


def test_every_training_tasks_gold_episode_is_valid(tokenizer):
    wide = replace(WIDE, completion_tokens=200_000, max_result_chars=100, compact=True)
    for task_id in splits.load_splits().train[::20]:
        [row] = sft.gold_rows([task_id], tokenizer, wide)
        assert bfcl.official_valid(
            replay(task_id, assistant(row, tokenizer), limits="evaluation")
        ), task_id


def test_a_gold_message_holds_as_many_calls_as_fit_it(tokenizer):
    lengths = {}
    for limit in (1, 48, 500):
        [row] = sft.gold_rows(["multi_turn_base_3"], tokenizer, replace(WIDE, message_tokens=limit))
        messages = assistant(row, tokenizer)
        assert bfcl.official_valid(replay("multi_turn_base_3", messages, limits="evaluation"))
        lengths[limit] = [
            len(tokenizer(m, add_special_tokens=False)["input_ids"]) for m in messages
        ]
    assert len(lengths[1]) > len(lengths[48]) > len(lengths[500]) and max(lengths[48]) < 48 < max(
        lengths[500]
    )


def test_a_row_longer_than_the_budget_is_cut_there(tokenizer):
    [row] = sft.gold_rows(["multi_turn_base_3"], tokenizer, replace(WIDE, completion_tokens=50))
    [whole] = sft.gold_rows(["multi_turn_base_3"], tokenizer, WIDE)
    opening = row["labels"].index(next(label for label in row["labels"] if label != -100))
    assert (
        opening < len(row["input_ids"]) <= opening + 50
        and row["input_ids"] == whole["input_ids"][: len(row["input_ids"])]
    )


def test_the_warm_up_shows_the_format_and_both_right_and_wrong_calls(tokenizer):
    tasks = splits.load_splits().train[::34]
    rows = sft.warm_up_rows(tasks, tokenizer, WIDE, 12, seed=0)
    assert (
        rows
        == sft.warm_up_rows(tasks, tokenizer, WIDE, 12, seed=0)
        != sft.warm_up_rows(tasks, tokenizer, WIDE, 12, seed=1)
    )
    records = [
        replay(tasks[i % len(tasks)], [m for m in assistant(row, tokenizer) if m])
        for i, row in enumerate(rows)
    ]
    assert all(rewards.format_reward(r) == 1.0 for r in records)
    assert 0.05 < sum(map(rewards.progress_reward, records)) / 12 < 0.95


def test_training_lowers_the_loss_logs_every_step_and_is_not_done_twice(
    small_policy, tokenizer, tmp_path
):
    rows = sft.gold_rows(stages.shortest_scenario_tasks(SMALL), tokenizer, SMALL)
    told = []
    policy = sft.train(
        rows,
        SMALL,
        small_policy,
        tmp_path,
        "sft",
        0,
        epochs=6,
        learning_rate=3e-3,
        batch=2,
        on_row=told.append,
    )
    losses = [row["loss"] for row in files.read_lines(tmp_path / "metrics.jsonl")]
    assert len(losses) == 12 and losses[-1] < losses[0] and (policy / "model.safetensors").exists()
    same = {"epochs": 6, "learning_rate": 3e-3, "batch": 2, "on_row": told.append}
    told.clear()
    assert sft.train(rows, SMALL, small_policy, tmp_path, "sft", 0, **same) == policy and not told
    for changed in ({"epochs": 7}, {"learning_rate": 1e-3}):
        with pytest.raises(ValueError, match=f"other settings .{[*changed][0]} was"):
            sft.train(rows, SMALL, small_policy, tmp_path, "sft", 0, **{**same, **changed})


def test_adapters_are_merged_and_kept_beside_the_policy(small_policy, tokenizer, tmp_path):
    rows = sft.gold_rows(stages.shortest_scenario_tasks(SMALL), tokenizer, SMALL)
    policy = sft.train(
        rows,
        replace(SMALL, lora_rank=4),
        small_policy,
        tmp_path,
        "sft",
        0,
        epochs=1,
        learning_rate=1e-2,
        batch=4,
    )
    assert (policy.with_name("adapters") / "adapter_model.safetensors").exists()
    before, after = (
        sampler.load_policy(p, bf16=False)[0].state_dict() for p in (small_policy, policy)
    )
    assert set(before) == set(after) and any((before[k] != after[k]).any() for k in before)


def test_small_steps_in_bf16_are_not_rounded_away(small_policy, tokenizer, tmp_path):
    rows = sft.gold_rows(stages.shortest_scenario_tasks(SMALL), tokenizer, SMALL)
    bf16, rate = replace(SMALL, bf16=True), {"epochs": 1, "learning_rate": 1e-6, "batch": 4}
    policy = sft.train(rows, bf16, small_policy, tmp_path, "sft", 0, **rate)
    before, after = (load_file(p / "model.safetensors") for p in (small_policy, policy))
    moved = [(before[n].to(after[n].dtype) != after[n]).float().mean().item() for n in after]
    assert max(moved) > 0.9


def test_bad_input_is_refused(small_policy, tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        sft.train([], SMALL, small_policy, tmp_path, "sft", 0)
    with pytest.raises(ValueError, match="one process"):
        sft.train(
            [{"input_ids": [1], "labels": [1]}],
            replace(SMALL, processes=2, parallel="cpu"),
            small_policy,
            tmp_path,
            "sft",
            0,
        )
