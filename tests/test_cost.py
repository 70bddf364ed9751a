"""What a run costs: arithmetic on metrics, checked against a run whose time is known."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from envtune.__main__ import main
from envtune.common import paths
from envtune.train import cost, presets, runconfig, sizes, trl_trainer
from envtune.train.stages import STAGES

RENAMED = replace(
    presets.CPU_TINY, name="mine", generations=4, guard=replace(presets.CPU_TINY.guard, window=5)
)
REFERENCE = paths.DATA / "reference_runs" / "cpu_tiny_seed0.parquet"


def test_a_runs_estimate_is_what_its_steps_and_validations_took():
    metrics = pd.read_parquet(REFERENCE)
    table = cost.cost(metrics, presets.CPU_TINY).set_index("stage")
    assert table.loc["all", "hours"] * 3600 == pytest.approx(
        metrics[metrics["kind"].isin(["train", "validation"])]["seconds"].sum(), rel=0.01
    )
    counts = [int((metrics["kind"] == kind).sum()) for kind in ("train", "validation")]
    assert (
        table.loc["all", ["steps", "validations"]].tolist() == counts
        and counts[0] == sum(presets.CPU_TINY.stage_steps)
        and table["measured"].all()
    )


def test_a_few_steps_of_one_stage_are_scaled_to_the_presets_episodes_steps_and_devices():
    metrics = pd.DataFrame(
        [
            {
                "kind": "train",
                "stage": "stage2_hints",
                "seconds": 10.0,
                "episodes": 4,
                "sampled_tokens": 100,
                "generation_seconds": 5.0,
            }
        ]
        * 2
    )
    table = cost.cost(
        metrics,
        presets.get("paper-8x80gb", stage_steps=(1, 2, 3, 4), prompts_per_step=2, generations=8),
    ).set_index("stage")
    assert (
        table["seconds_a_step"].tolist() == [40.0] * 5
        and table["steps"].tolist() == [1, 2, 3, 4, 10]
        and table["tokens_per_second"].tolist() == [20.0] * 5
    )
    assert table.loc["all", "hours"] == pytest.approx(400 / 3600) and table.loc[
        "all", "device_hours"
    ] == pytest.approx(3200 / 3600)
    assert table["measured"].tolist() == [False, True, False, False, False]
    with pytest.raises(ValueError, match="no training step"):
        cost.cost(metrics.assign(kind="validation"), presets.CPU_TINY)


def test_the_command_reads_a_run_or_a_file_and_refuses_in_one_sentence(tmp_path, capsys):
    assert main(["cost", str(REFERENCE), "--preset", "cpu-tiny", "--json"]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)][-1] == "all"
    line = {
        "kind": "train",
        "stage": "stage2_hints",
        "step": 1,
        "seconds": 1.0,
        "episodes": 32,
        "sampled_tokens": 10,
        "generation_seconds": 0.5,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["cost", str(tmp_path)]) == 1 and "give --preset" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"preset": {"name": "cpu-tiny"}}))
    assert main(["cost", str(tmp_path)]) == 0 and "stage4_alignment" in capsys.readouterr().out
    assert (
        main(["cost", str(tmp_path / "nowhere")]) == 1
        and "does not exist" in capsys.readouterr().err
    )


def test_a_runs_preset_is_read_with_every_field_that_was_changed(tmp_path):
    runconfig.register(tmp_path, STAGES[1], RENAMED, 4, "tiny-agent", 0)
    line = {"stage": "stage2_hints", "step": 1, "kind": "train"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    found = cost.read_run(tmp_path)[1]
    assert found == replace(RENAMED, stage_steps=(0, 4, 0, 0))
    changed = replace(RENAMED, name="cpu-tiny")
    (tmp_path / "config.json").unlink()
    runconfig.register(tmp_path, STAGES[1], changed, 4, "tiny-agent", 0)
    assert cost.read_run(tmp_path)[1] == changed
    assert cost.read_run(tmp_path, "cpu-smoke")[1] == presets.CPU_SMOKE


def test_an_estimate_needs_no_run_and_says_that_nothing_was_measured(capsys):
    assert main(["cost", "--estimate", "gpu-80gb"]) == 0
    assert "A100 80 GB SXM, not measured" in capsys.readouterr().out
    assert main(["cost", "--estimate", "gpu-80gb", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["hours"] == pytest.approx(sum(row["hours"] for row in rows[:-1]))
    assert main(["cost", "--estimate", "cpu-tiny"]) == 1
    assert "not estimated" in capsys.readouterr().err
    assert main(["cost"]) == 1 and "either" in capsys.readouterr().err


def test_an_estimate_grows_with_the_work():
    def hours(**changes):
        return cost.estimate(presets.get("gpu-80gb", **changes))["hours"].iloc[-1]

    usual = hours()
    assert hours(generations=16) > 1.9 * usual > hours(lora_rank=None) > usual
    assert hours(stage_steps=(60, 0, 0, 0)) < usual / 5
    assert hours(beta=0.0) < usual < hours(vllm_gpu_share=0.3)
    # fewer episodes per GPU share each read of the weights
    assert usual / 8 < hours(processes=8) < usual / 4


def test_the_page_says_where_presets_leave_the_paper():
    page = (paths.ROOT / "docs" / "training.md").read_text()
    table = page.partition("**Where presets leave the paper.**")[2].partition("\n\n|")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("\n\n")[0].splitlines()
    ]
    head, said = rows[0], {row[0]: row[1:] for row in rows[2:]}
    for column, names in enumerate(head[1:]):
        for name in (part.strip("`") for part in names.removeprefix("paper, ").split(", ")):
            preset = presets.get(name)
            assert float(said["learning rate"][column]) == preset.learning_rate
            assert float(said["KL weight beta"][column]) == preset.beta
            if preset.lora_rank:
                trained = said["weights that are trained"][column]
                alpha = trl_trainer.adapters(preset).lora_alpha
                assert trained in (f"LoRA, rank {preset.lora_rank}, alpha {alpha}", "the same")
            if preset.prompts_per_step:
                sizes_said = said["tasks x rollouts in a step"][column]
                assert sizes_said == f"{preset.prompts_per_step} x {preset.generations}"
                longest = said["longest episode after its opening, tokens"][column]
                assert longest == f"{preset.completion_tokens:,}"
                assert said["steps of the four stages, at most"][column] in (
                    ", ".join(map(str, preset.stage_steps)),
                    f"{preset.stage_steps[0]} each",
                    "the same",  # as gpu-80gb's
                )
            between = said["steps between validations"][column].split()[0]
            assert int(between) == preset.validate_every

    first, second, third, _ = STAGES
    tasks = said["tasks x rollouts in a step"][0]
    assert tasks == f"{first.prompts_per_step} (stage 1) or {second.prompts_per_step}, x 16"
    longest = said["longest episode after its opening, tokens"][0]
    assert longest == f"{first.completion_tokens:,} (stages 1, 2) or {third.completion_tokens:,}"
    assert said["steps of the four stages, at most"][0] == "94, 63, 250, 250"
    assert presets.PAPER.stage_steps == (94, 63, 250, 250) and presets.PAPER.generations == 16


def test_the_table_of_the_page_has_the_numbers_of_the_code():
    page = (paths.ROOT / "docs" / "training.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    assert set(rows) == set(presets.PRESETS)
    for name in ("gpu-24gb", "gpu-24gb-vllm", "gpu-80gb", "paper-8x80gb"):
        preset = presets.get(name)
        shape = sizes.shape_of(preset.model)
        total = sizes.together(sizes.estimate(preset, shape))
        hours = cost.estimate(preset)["hours"].iloc[-1]
        many = f"{preset.processes} x " if preset.processes > 1 else ""
        wanted = (
            f"{many}{total:.0f} GiB of {preset.gpu_gib:.0f}",
            f"{sizes.disk(preset, shape):.0f} GiB",
            f"{hours:.0f} h, estimate",
        )
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert all(any(cell.startswith(text) for cell in cells) for text in wanted), (name, wanted)
