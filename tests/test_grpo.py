import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import SMALL, weights

from envtune import bfcl
from envtune.bfcl import splits
from envtune.policy import agent
from envtune.train import grpo, presets, stages, trl_trainer
from envtune.train.stages import STAGES

COLUMNS = {
    "reward",
    "format_reward",
    "tool_call_reward",
    "progress",
    "kl",
    "entropy",
    "grad_norm",
    "steps_per_episode",
    "share_with_call",
}


@pytest.fixture(scope="module")
def curriculum(small_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curriculum")
    return grpo.train_curriculum(SMALL, folder, seed=0, start=small_policy)


def test_all_four_stages_run_and_hand_over_their_policy(curriculum):
    assert list(curriculum.checkpoints) == [s.name for s in STAGES]
    config = json.loads((curriculum.folder / "config.json").read_text())
    starts = [config["stages"][s.name]["start"] for s in STAGES]
    assert starts == [str(curriculum.start), *(f"./{stage.name}/policy" for stage in STAGES[:-1])]
    first, last = weights(curriculum.start), weights(curriculum.checkpoints["stage1_syntax"])
    assert any(not torch.equal(first[k], last[k]) for k in first)


def test_metrics_have_every_part_and_every_step_once(curriculum):
    data = pd.read_json(curriculum.folder / "metrics.jsonl", lines=True)
    train, validation = data[data["kind"] == "train"], data[data["kind"] == "validation"]
    assert train[["stage", "step"]].values.tolist() == [[s.name, 1] for s in STAGES]
    assert train[list(COLUMNS)].notna().all(axis=None) and set(validation["step"]) == {0, 1}
    assert validation["accuracy"].between(0, 1).all()
    assert (train["reward"] - train["progress"]).abs()[
        1:
    ].max() < 1e-6  # stages 2-4 are rewarded by progress


def test_the_reward_trl_saw_is_the_reward_of_the_recorded_episodes(curriculum):
    from envtune import read_records
    from envtune.env import rewards

    data = pd.read_json(curriculum.folder / "metrics.jsonl", lines=True)
    for stage in STAGES:
        records = list(
            read_records(
                curriculum.folder / "episodes.jsonl.gz",
                stage=stage.name,
                kind="train",
                step=range(1, 2),
            )
        )
        score = rewards.REWARDS[stage.reward]
        logged = data[(data["stage"] == stage.name) & (data["kind"] == "train")]["reward"].iloc[0]
        assert len(records) == SMALL.generations
        assert logged == pytest.approx(sum(map(score, records)) / len(records), abs=1e-5)


def test_the_same_config_and_seed_give_the_same_run(curriculum, small_policy, tmp_path):
    again = grpo.train_stage(STAGES[0], SMALL, 1, small_policy, tmp_path, seed=0)
    first, second = weights(curriculum.checkpoints["stage1_syntax"]), weights(again)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_finished_stage_is_not_run_again(curriculum, small_policy):
    told = []
    grpo.train_stage(STAGES[0], SMALL, 1, small_policy, curriculum.folder, 0, on_row=told.append)
    assert told == [{"stage": "stage1_syntax", "step": 1, "kind": "finished", "steps": 1}]


def test_a_stage_cut_off_resumes_at_its_checkpoint_without_a_step_twice(small_policy, tmp_path):
    # as many prompts a step as there are tasks: the checkpoint lies between two passes over them
    preset = replace(
        SMALL, save_every=2, validate_every=3, max_scenarios=2, prompts_per_step=2, device_batch=8
    )
    whole = grpo.train_stage(STAGES[0], preset, 4, small_policy, tmp_path / "whole", seed=0)

    class Killed(Exception):
        pass

    def stop(line):
        if line["kind"] == "train" and line["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        grpo.train_stage(STAGES[0], preset, 4, small_policy, tmp_path / "cut", 0, on_row=stop)
    with (
        open(tmp_path / "cut" / "metrics.jsonl", "a") as metrics,
        open(tmp_path / "cut" / "episodes.jsonl.gz", "r+b") as episodes,
    ):
        metrics.write(
            '{"stage": "stage1_sy'
        )  # torn, as a kill in the middle of a write leaves them
        episodes.truncate(len(episodes.read()) - 7)
    resumed = grpo.train_stage(STAGES[0], preset, 4, small_policy, tmp_path / "cut", 0)
    data = [
        pd.read_json(tmp_path / name / "metrics.jsonl", lines=True) for name in ("whole", "cut")
    ]
    steps = [d[d["kind"] == "train"]["step"].tolist() for d in data]
    assert steps == [[1, 2, 3, 4]] * 2
    validated = [d[d["kind"] == "validation"]["step"].tolist() for d in data]
    assert validated == [[0, 3, 4]] * 2
    rewards = [d[d["kind"] == "train"]["reward"].tolist() for d in data]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)
    one, two = weights(whole), weights(resumed)
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)


def test_the_kl_reference_is_the_policy_at_the_stages_start_with_lora_too(
    curriculum, small_policy, tmp_path
):
    preset = replace(SMALL, lora_rank=4, learning_rate=1e-2)
    run = grpo.train_curriculum(
        replace(preset, stage_steps=(2, 1, 0, 0)), tmp_path, 0, start=small_policy
    )
    data = pd.read_json(tmp_path / "metrics.jsonl", lines=True)
    kl = data[data["kind"] == "train"].set_index(["stage", "step"])["kl"]
    assert kl["stage1_syntax", 1] == pytest.approx(0, abs=1e-6) and kl["stage1_syntax", 2] > 1e-6
    assert kl["stage2_hints", 1] == pytest.approx(
        0, abs=1e-6
    )  # merged adapters are in the reference
    first, second = weights(small_policy), weights(run.checkpoints["stage1_syntax"])
    assert set(first) == set(second) and any(not torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("scaled, factor", [("group", 1.0), ("none", 4.0)])
def test_the_scale_of_a_reward_cancels_out_when_rewards_are_normalised(tmp_path, scaled, factor):
    preset = replace(
        presets.CPU_SMOKE,
        scale_rewards=scaled,
        generations=8,
        device_batch=8,
        beta=0.0,
        entropy_coef=0.0,
        validation_tasks=1,
    )
    norms = []
    for scale in (1.0, 4.0):
        stage, folder = replace(STAGES[0], reward_scale=scale), tmp_path / f"x{scale:g}"
        grpo.train_stage(stage, preset, 1, agent.FOLDER, folder, seed=0)
        data = pd.read_json(folder / "metrics.jsonl", lines=True)
        norms.append(data.loc[data["kind"] == "train", "grad_norm"].iloc[0])
    # TRL adds 1e-4 to the group's standard deviation
    assert norms[0] > 0 and norms[1] / norms[0] == pytest.approx(factor, rel=2e-3)


def test_the_order_of_tasks_is_whole_passes_and_comes_from_the_seed():
    tasks = ("a", "b", "c")
    order = stages.training_order(tasks, 8, seed=0)
    assert sorted(order[:3]) == sorted(order[3:6]) == list(tasks) and len(order) == 8
    assert order == stages.training_order(tasks, 8, 0) != stages.training_order(tasks, 8, 1)
    assert order[:3] == stages.training_order(tasks, 3, 0)  # a longer run begins like a shorter one


def test_trl_gets_the_papers_settings(tmp_path):
    config = trl_trainer.grpo_config(
        STAGES[1], replace(presets.PAPER, use_vllm=False, bf16=False), 5, tmp_path, 0
    )
    assert (config.beta, config.epsilon, config.epsilon_high, config.delta) == (
        0.1,
        0.2,
        0.28,
        10.0,
    )
    assert (config.loss_type, config.learning_rate, config.max_grad_norm, config.entropy_coef) == (
        "grpo",
        1e-6,
        1.0,
        0.001,
    )
    assert (config.num_generations, config.top_p, config.top_k, config.temperature) == (
        16,
        1.0,
        0,
        1.0,
    )
    assert (
        config.gradient_accumulation_steps
        * config.per_device_train_batch_size
        * presets.PAPER.processes
        == 32 * 16
    )


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device_batch"):
        trl_trainer.grpo_config(STAGES[0], replace(SMALL, device_batch=3), 1, tmp_path, 0)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"generations": 1}, "generations"),
        ({"stage_steps": (1, 2)}, "four counts"),
        ({"beta": -1.0}, "beta"),
        ({"nothing": 1}, "no field nothing"),
    ],
)
def test_a_preset_that_cannot_work_is_refused(changes, part):
    with pytest.raises(ValueError, match=part):
        presets.get("cpu-tiny", **changes)
    with pytest.raises(ValueError, match="cpu-tiny"):
        presets.get("laptop")


@pytest.mark.parametrize("changes", [{"reward": "joy"}, {"tasks": "all"}, {"hint_rate": 2.0}])
def test_a_stage_that_cannot_work_is_refused(changes):
    with pytest.raises(ValueError, match="stage"):
        replace(STAGES[0], **changes)


def test_stages_are_the_papers():
    assert [(s.tasks, s.reward, s.hint_rate, s.rules) for s in STAGES] == [
        ("stage1", "stage1", 0.0, False),
        ("train_base", "progress", 1.0, False),
        ("train", "progress", 1.0, True),
        ("train", "progress", 0.0, True),
    ]

    assert [len(stages.training_tasks(s, presets.PAPER)) for s in STAGES] == [75, 100, 400, 400]


def test_cpu_tiny_trains_the_committed_agent_on_tasks_that_no_validation_or_test_uses():
    assert (
        grpo.starting_model(presets.CPU_TINY) == agent.FOLDER
        and (agent.FOLDER / "model.safetensors").stat().st_size < 8e6
    )
    train, held_out = set(splits.of_tasks("synthetic").train), splits.of_tasks("synthetic")
    for stage in STAGES:
        assert (
            len(stages.training_tasks(stage, presets.CPU_TINY)) >= presets.CPU_TINY.prompts_per_step
        )
        assert set(stages.training_tasks(stage, presets.CPU_TINY)) <= train
    assert set(stages.validation_tasks(presets.CPU_TINY)) <= set(held_out.validation)
    assert len(stages.validation_tasks(presets.CPU_TINY)) == presets.CPU_TINY.validation_tasks
    assert stages.evaluation_tasks(presets.CPU_TINY) == held_out.test


def test_validation_tasks_are_drawn_over_all_variants():
    for preset in (presets.CPU_TINY, presets.SMOLLM2, presets.PAPER):
        chosen = [bfcl.load_task(t).split for t in stages.validation_tasks(preset)]
        assert {chosen.count(split) for split in bfcl.SPLITS} == {len(chosen) // 4}


def test_a_changed_stage_starts_where_its_place_in_the_curriculum_says(tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "starting_model", lambda preset: "the model")
    gradual = replace(STAGES[3], hint_rate=1.0, hint_schedule="linear")
    assert grpo.last_policy(tmp_path, gradual, SMALL) == "the model"
    (tmp_path / "stage2_hints" / "policy").mkdir(parents=True)
    assert grpo.last_policy(tmp_path, gradual, SMALL) == tmp_path / "stage2_hints" / "policy"
    assert grpo.last_policy(tmp_path, replace(STAGES[3], name="my own"), SMALL) == "the model"
