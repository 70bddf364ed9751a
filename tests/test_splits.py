import json

import pandas as pd
import pytest
from conftest import ANSWER, tool_call

from envtune import bfcl, replay, rewards
from envtune.__main__ import main
from envtune.bfcl import splits, synthetic
from envtune.bfcl.tasks import parse_call
from envtune.env import verl_export
from envtune.train import presets, stages


def scenarios(ids):
    return {bfcl.load_task(t).scenario for t in ids}


@pytest.mark.parametrize("seed", [0, 7])
def test_no_scenario_is_in_training_and_test(seed):
    parts = splits.make_splits(seed)
    assert not scenarios(parts.train) & scenarios(parts.test)
    assert len(scenarios(parts.train)) == len(scenarios(parts.test)) == 100


@pytest.mark.parametrize("mode", splits.MODES)
def test_sizes_and_containment(mode):
    parts = splits.make_splits(0, mode)
    assert [
        len(x) for x in (parts.train, parts.stage1, parts.validation, parts.test, parts.test_unseen)
    ] == [400, 75, 100, 400, 300]
    assert set(parts.stage1) <= {t for t in parts.train if t.startswith("multi_turn_base_")}
    assert set(parts.validation) | set(parts.test_unseen) == set(parts.test)
    assert not set(parts.validation) & set(parts.test_unseen)
    for split in bfcl.SPLITS:
        assert sum(bfcl.load_task(t).split == split for t in parts.train) == 100


def test_splitting_by_task_leaks_scenarios():
    parts = splits.make_splits(0, "per_task")
    assert len(scenarios(parts.train) & scenarios(parts.test)) > 50


@pytest.mark.parametrize("mode", splits.MODES)
def test_the_committed_ids_can_be_drawn_again(mode):
    assert splits.splits_file(0, mode).exists()
    assert splits.load_splits(0, mode) == splits.make_splits(0, mode)


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(splits.paths, "DATA", tmp_path)
    file = splits.save_splits(splits.make_splits(3))
    assert splits.load_splits(3).seed == 3
    data = json.loads(file.read_text())
    data["train"][0], data["test"][0] = data["test"][0], data["train"][0]
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="seed 3"):
        splits.load_splits(3)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="per_turn"):
        splits.make_splits(0, "per_turn")


def test_synthetic_tasks_come_in_the_same_sets():
    parts = splits.of_tasks("synthetic")
    assert [
        len(x) for x in (parts.train, parts.stage1, parts.validation, parts.test, parts.test_unseen)
    ] == [400, 75, 100, 400, 400]
    numbers = [scenarios(ids) for ids in (parts.train, parts.validation, parts.test)]
    assert not (numbers[0] & numbers[1] or numbers[0] & numbers[2] or numbers[1] & numbers[2])
    assert set(parts.stage1) <= {t for t in parts.train if splits.is_base(t)}
    both = splits.of_tasks("both")
    assert both.train == splits.load_splits().train + parts.train
    assert both.test == splits.load_splits().test + parts.test
    with pytest.raises(ValueError, match="bfcl, synthetic, both, got 'toys'"):
        splits.of_tasks("toys")


def test_synthetic_training_tasks_can_be_fewer_more_or_of_one_length():
    plain = splits.of_tasks("synthetic")
    few, many = (splits.of_tasks("synthetic", scenarios=count) for count in (25, 400))
    assert [len(p.train) for p in (few, many)] == [100, 1600]
    assert set(few.train) < set(plain.train) < set(many.train)
    assert few.test == many.test == plain.test and few.validation == plain.validation
    assert not scenarios(many.train) & scenarios(plain.test + plain.validation)
    assert (len(few.stage1), len(many.stage1)) == (25, 75)
    assert all(splits.is_base(t) for t in few.stage1 + many.stage1)
    assert not any(synthetic.novelty(t) for t in many.train)
    long = splits.of_tasks("synthetic", requests=3)
    assert [len(long.train), len(long.validation), len(long.test)] == [400, 100, 400]
    assert {bfcl.load_task(t).turns for t in long.test if splits.is_base(t)} == {3}
    assert {bfcl.load_task(t).turns for t in long.test if not splits.is_base(t)} == {3, 4}
    preset = presets.get("cpu-tiny", synthetic_scenarios=25, synthetic_requests=1)
    assert len(stages.training_tasks(stages.DIRECT_GRPO, preset)) == 100
    assert {bfcl.load_task(t).turns for t in stages.validation_tasks(preset)} == {1, 2}
    assert len(stages.evaluation_tasks(preset)) == 400
    for wrong in ({"synthetic_requests": 5}, {"synthetic_scenarios": 0}):
        with pytest.raises(ValueError, match="is between 1 and"):
            presets.get("cpu-tiny", **wrong)
    with pytest.raises(ValueError, match="is of synthetic tasks"):
        presets.get("gpu-80gb", synthetic_scenarios=25)


@pytest.mark.parametrize(
    "tasks, sizes, base",
    [
        ("bfcl", [75, 100, 400, 400], 100),
        ("synthetic", [75, 100, 400, 400], 100),
        ("both", [150, 200, 800, 800], 200),
    ],
)
def test_every_stage_takes_its_tasks_from_the_presets_source(tasks, sizes, base):
    preset = presets.get("gpu-80gb", tasks=tasks)
    assert [len(stages.training_tasks(stage, preset)) for stage in stages.STAGES] == sizes
    assert all(splits.is_base(t) for t in stages.training_tasks(stages.STAGES[1], preset))
    held_out = splits.of_tasks(tasks)
    validation = stages.validation_tasks(preset)
    assert len(validation) == 100 and set(validation) <= set(held_out.validation)
    assert stages.evaluation_tasks(preset) == held_out.test
    few = [bfcl.load_task(t).split for t in stages.evaluation_tasks(preset, 8)]
    assert len(few) == 8 and {few.count(split) for split in bfcl.SPLITS} == {2}
    kinds = {t.partition("_")[0] for t in stages.training_tasks(stages.STAGES[2], preset)}
    assert (
        kinds
        == {"bfcl": {"multi"}, "synthetic": {"synthetic"}, "both": {"multi", "synthetic"}}[tasks]
    )


def test_a_preset_with_few_scenarios_has_as_many_of_each_kind():
    chosen = {
        tasks: stages.shortest_scenario_tasks(presets.get("cpu-tiny", tasks=tasks, max_scenarios=3))
        for tasks in splits.TASKS
    }
    assert [len(ids) for ids in chosen.values()] == [12, 12, 24]
    assert chosen["both"] == chosen["bfcl"] + chosen["synthetic"]
    assert {
        t
        for t in synthetic.task_ids(synthetic.TRAIN)
        if splits.scenario_of(t) in chosen["synthetic"]
    } == set(chosen["synthetic"])


def test_a_notebooks_parameter_chooses_the_tasks():
    assert presets.choose(presets.CPU_TINY).tasks == "synthetic"
    assert presets.choose(presets.CPU_TINY, tasks="both").tasks == "both"
    with pytest.raises(ValueError, match="tasks is one of bfcl, synthetic, both, got 'toys'"):
        presets.choose(presets.CPU_TINY, tasks="toys")


def exported(folder, tasks):
    assert main(["export-verl", "--out", str(folder), "--tasks", tasks]) == 0
    return {f.stem: pd.read_parquet(f).to_dict("records") for f in folder.glob("*.parquet")}


@pytest.mark.parametrize(
    "tasks, stage1, count",
    [
        ("bfcl", "train_format_75", 1),
        ("synthetic", "synthetic_train_format_75", 1),
        ("both", "both_train_format_150", 2),
    ],
)
def test_the_verl_export_reads_back_as_the_tasks(tmp_path, tasks, stage1, count):
    files = exported(tmp_path, tasks)
    assert {name: len(rows) for name, rows in files.items()} == {
        stage1: 75 * count,
        f"{tasks}_train_base": 100 * count,
        f"{tasks}_train": 400 * count,
        f"{tasks}_val": 100 * count,
    }
    parts = splits.of_tasks(tasks)
    for name, ids in {
        stage1: parts.stage1,
        f"{tasks}_train": parts.train,
        f"{tasks}_val": parts.validation,
    }.items():
        assert [row["extra_info"]["index"] for row in files[name]] == list(ids)
    for row in files[f"{tasks}_val"]:
        extra = row["extra_info"]
        task, inner = bfcl.load_task(extra["index"]), extra["interaction_kwargs"]
        assert extra["original_id"] == inner["id"] == task.id
        assert row["data_source"] == extra["dataset_type"] == task.split
        assert row["ability"] == "multi_turn_function_calling"
        truths = inner["ground_truth"], row["reward_model"]["ground_truth"]
        assert [[list(turn) for turn in truth] for truth in truths] == [
            [list(turn) for turn in task.ground_truth_source]
        ] * 2
        assert json.loads(inner["initial_config"]) == task.initial_config
        assert tuple(inner["involved_classes"]) == task.classes
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        assert row["prompt"][1]["content"] == task.user_turns[0]
        assert len(inner["processed_question"]) == task.turns - 1
        for turn, text in enumerate(inner["processed_question"], start=1):
            assert text.startswith(task.user_turns[turn])
            assert (turn == task.withheld_until) == (
                f'"name": "{task.withheld[0]}"' in text if task.withheld else False
            )
        assert [[m["content"] for m in turn] for turn in inner["question"]] == [
            [] if i == task.withheld_until else [text] for i, text in enumerate(task.user_turns)
        ]


@pytest.mark.parametrize("tasks", ["bfcl", "synthetic"])
def test_the_ground_truth_of_exported_rows_wins_every_turn(tmp_path, tasks):
    for row in exported(tmp_path, tasks)[f"{tasks}_val"]:
        inner, messages = row["extra_info"]["interaction_kwargs"], []
        for turn in range(len(inner["question"])):
            calls = [parse_call(c, inner["involved_classes"]) for c in inner["ground_truth"][turn]]
            messages += ([tool_call(*calls)] if calls else []) + [ANSWER]
        record = replay(inner["id"], messages)
        assert [verdict.success for verdict in record.verdicts] == [True] * len(inner["question"])
        assert rewards.progress_reward(record) == 1.0


def test_datasets_joins_the_exported_files_and_gives_lists(tmp_path):
    datasets = pytest.importorskip("datasets")
    verl_export.export_verl(tmp_path / "out")
    files = sorted(str(f) for f in (tmp_path / "out").glob("*.parquet"))
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 75 + 100 + 400 + 100
    first = rows[0]["extra_info"]
    task, inner = bfcl.load_task(first["index"]), first["interaction_kwargs"]
    assert inner["ground_truth"] == [list(turn) for turn in task.ground_truth_source]
    assert inner["question"][1] == [{"role": "user", "content": task.user_turns[1]}]
    assert inner["processed_question"] == list(task.user_turns[1:])
