import json

import pandas as pd
import pytest

from envtune import bfcl
from envtune.__main__ import main
from envtune.bfcl import splits, synthetic
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


def test_a_draw_made_per_task_leaks_scenarios():
    parts = splits.make_splits(0, "per_task")
    assert len(scenarios(parts.train) & scenarios(parts.test)) > 50


@pytest.mark.parametrize("mode", splits.MODES)
def test_committed_ids_are_the_draw(mode):
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
    assert (
        both.train == splits.load_splits().train + parts.train
        and both.test == splits.load_splits().test + parts.test
    )
    with pytest.raises(ValueError, match="bfcl, synthetic, both, got 'toys'"):
        splits.of_tasks("toys")


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
    assert len(stages.validation_tasks(preset)) == 100 and set(
        stages.validation_tasks(preset)
    ) <= set(held_out.validation)
    assert stages.evaluation_tasks(preset) == held_out.test
    few = [bfcl.load_task(t).split for t in stages.evaluation_tasks(preset, 8)]
    assert len(few) == 8 and {few.count(split) for split in bfcl.SPLITS} == {2}
    kinds = {t.partition("_")[0] for t in stages.training_tasks(stages.STAGES[2], preset)}
    assert (
        kinds
        == {"bfcl": {"multi"}, "synthetic": {"synthetic"}, "both": {"multi", "synthetic"}}[tasks]
    )


def test_a_few_scenarios_of_each_kind_are_practised():
    chosen = {
        tasks: stages.shortest_scenario_tasks(presets.get("cpu-tiny", tasks=tasks, max_scenarios=3))
        for tasks in splits.TASKS
    }
    assert [len(ids) for ids in chosen.values()] == [12, 12, 24] and chosen["both"] == chosen[
        "bfcl"
    ] + chosen["synthetic"]
    assert {
        t
        for t in synthetic.task_ids(synthetic.TRAIN)
        if splits.scenario_of(t) in chosen["synthetic"]
    } == set(chosen["synthetic"])


def test_a_notebooks_parameter_chooses_the_tasks():
    assert (
        presets.choose(presets.CPU_TINY).tasks == "synthetic"
        and presets.choose(presets.CPU_TINY, tasks="both").tasks == "both"
    )
    with pytest.raises(ValueError, match="tasks is one of bfcl, synthetic, both, got 'toys'"):
        presets.choose(presets.CPU_TINY, tasks="toys")


@pytest.mark.parametrize("tasks, count", [("bfcl", 1), ("synthetic", 1), ("both", 2)])
def test_the_verl_export_reads_back_as_the_tasks(tmp_path, tasks, count):
    assert main(["export-verl", "--out", str(tmp_path), "--tasks", tasks]) == 0
    frames = {f.stem: pd.read_parquet(f) for f in tmp_path.glob("*.parquet")}
    assert {name: len(frame) for name, frame in frames.items()} == {
        f"{tasks}_train_base": 100 * count,
        f"{tasks}_train": 400 * count,
        f"{tasks}_val": 100 * count,
    }
    parts = splits.of_tasks(tasks)
    assert [e["original_id"] for e in frames[f"{tasks}_train"]["extra_info"]] == list(parts.train)
    for row in frames[f"{tasks}_val"].to_dict("records"):
        extra = row["extra_info"]
        task, inner = bfcl.load_task(extra["original_id"]), extra["interaction_kwargs"]
        assert json.loads(inner["ground_truth"]) == [
            list(turn) for turn in task.ground_truth_source
        ]
        assert json.loads(row["reward_model"]["ground_truth"]) == json.loads(inner["ground_truth"])
        assert json.loads(inner["initial_config"]) == task.initial_config
        assert tuple(inner["involved_classes"]) == task.classes
        assert [m["role"] for m in row["prompt"]] == ["system", "user"] and row["prompt"][1][
            "content"
        ] == task.user_turns[0]
        assert len(inner["processed_question"]) == task.turns - 1
        for turn, text in enumerate(inner["processed_question"], start=1):
            assert text.startswith(task.user_turns[turn])
            assert (turn == task.withheld_until) == (
                f'"name": "{task.withheld[0]}"' in text if task.withheld else False
            )
        assert [bool(t) for t in json.loads(inner["question"])] == [
            i != task.withheld_until for i in range(task.turns)
        ]
        kind = "bfcl_v3_multi_turn" if task.id.startswith("multi_turn") else "envtune_synthetic"
        assert (row["data_source"], row["ability"]) == (kind, "multi_turn_function_calling")
