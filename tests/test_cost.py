"""What a run costs: arithmetic on metrics, checked against a run whose time is known."""

import json

import pandas as pd
import pytest

from envtune.__main__ import main
from envtune.common import paths
from envtune.train import cost, presets

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
