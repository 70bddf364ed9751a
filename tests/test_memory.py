"""What a preset needs against what is there; every combination that cannot work is refused with its
reason."""

from dataclasses import replace

import pytest

from envtune.__main__ import main
from envtune.train import memory, presets

QWEN = memory.SHAPES["Qwen/Qwen2.5-7B-Instruct"]


@pytest.fixture
def machine(monkeypatch):
    """A pretended machine: GPUs, their memory, and installed packages."""

    def pretend(count=1, gib=80.0, **packages):
        monkeypatch.setattr(memory, "found", lambda: ("Pretended GPU", count, gib))
        monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(memory.torch.cuda, "is_bf16_supported", lambda: True)
        have = {"vllm": "0.30.0", "bitsandbytes": "0.50.2", "deepspeed": "0.19.8", **packages}
        monkeypatch.setattr(memory, "_installed", have.get)

    return pretend


@pytest.mark.parametrize(
    "model, billions",
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("Qwen/Qwen2.5-3B-Instruct", 3.09),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.54),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("smollm2", 0.1345),
    ],
)
def test_shapes_have_the_published_numbers_of_parameters(model, billions):
    assert memory.SHAPES[model].parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_shape_counts_what_transformers_builds(small_policy, monkeypatch):
    from transformers import AutoModelForCausalLM

    shape = memory.shape_of(str(small_policy))
    assert shape.parameters == pytest.approx(
        AutoModelForCausalLM.from_pretrained(small_policy).num_parameters(), rel=0.01
    )

    def unreachable(model):
        raise OSError("no hub")

    monkeypatch.setattr(memory.AutoConfig, "from_pretrained", unreachable)
    assert memory.shape_of("a/model-of-the-hub") is None
    text, problems = memory.report(replace(presets.CPU_TINY, model="a/model-of-the-hub"))
    assert "not known without the model hub" in text and not problems


@pytest.mark.parametrize(
    "name, gib", [("gpu-24gb", 24), ("gpu-24gb-vllm", 24), ("gpu-80gb", 80), ("paper-8x80gb", 80)]
)
def test_every_gpu_preset_fits_the_gpu_it_is_named_for_and_not_one_of_half_its_size(
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
        ("gpu-80gb", {"processes": 9}, {}, "8 were found"),
        ("gpu-80gb", {"vllm_gpu_share": 0.1}, {}, "vLLM needs at least"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(machine, name, changes, packages, part):
    machine(8, 80.0, **packages)
    with pytest.raises(ValueError, match=part):
        memory.check(presets.get(name, **changes))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"four_bit": True}, "4-bit weights do not go with vLLM"),
        ({"four_bit": True, "use_vllm": False, "lora_rank": None}, "set lora_rank"),
        ({"four_bit": True, "use_vllm": False, "parallel": "zero3"}, "set parallel='ddp'"),
        ({"vllm_mode": "server"}, "needs vllm_server"),
        ({"vllm_mode": "cloud"}, "vllm_mode is one of"),
        ({"parallel": "magic"}, "parallel is one of"),
        ({"report_to": ("paper",)}, "report_to holds"),
        ({"generations": 1}, "generations must be at least 2"),
        ({"processes": 0}, "at least 1"),
        ({"vllm_gpu_share": 1.5}, "between 0 and 1"),
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


def test_the_estimate_grows_with_what_it_counts():
    base = presets.get("gpu-80gb")
    total = sum(memory.estimate(base, QWEN).values())
    for changes in (
        {"lora_rank": 128},
        {"device_batch": 2},
        {"completion_tokens": 20_000},
        {"vllm_gpu_share": 0.6},
        {"lora_rank": None},
    ):
        assert sum(memory.estimate(replace(base, **changes), QWEN).values()) > total, changes
    assert memory.estimate(replace(base, processes=8, parallel="zero3"), QWEN)[
        "weights"
    ] == pytest.approx(14.2 / 8, abs=0.1)
