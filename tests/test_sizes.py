"""The arithmetic of memory and disk: what it counts, and that it counts it."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from envtune.train import memory, presets, sizes, trl_trainer

QWEN = sizes.SHAPES["Qwen/Qwen2.5-7B-Instruct"]
ONE_GPU, PAPER = presets.get("gpu-80gb"), presets.get("paper-8x80gb")


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
    assert sizes.SHAPES[model].parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_shape_counts_what_transformers_builds(small_policy, monkeypatch):
    from transformers import AutoModelForCausalLM

    shape = sizes.shape_of(str(small_policy))
    assert shape.parameters == pytest.approx(
        AutoModelForCausalLM.from_pretrained(small_policy).num_parameters(), rel=0.01
    )

    def unreachable(model):
        raise OSError("no hub")

    monkeypatch.setattr(sizes.AutoConfig, "from_pretrained", unreachable)
    assert sizes.shape_of("a/model-of-the-hub") is None
    text, problems = memory.report(replace(presets.CPU_TINY, model="a/model-of-the-hub"))
    assert "not known without the model hub" in text and not problems


def test_the_estimate_grows_with_what_it_counts():
    total = sizes.together(sizes.estimate(ONE_GPU, QWEN))
    for changes in (
        {"lora_rank": 128},
        {"device_batch": 2},
        {"completion_tokens": 20_000},
        {"vllm_gpu_share": 0.6},
        {"lora_rank": None},
        {"gradient_checkpointing": False},
    ):
        assert sizes.together(sizes.estimate(replace(ONE_GPU, **changes), QWEN)) > total, changes


def test_logits_are_never_there_on_a_gpu():
    once, twice = (
        sizes.estimate(replace(ONE_GPU, completion_tokens=tokens), QWEN)[sizes.TRAINING]
        for tokens in (10_000, 20_000)
    )
    logits = 10_000 * QWEN.vocabulary * 4 / sizes.GIB
    assert twice - once < 2 * logits < 13 and once < 12


def test_a_sleeping_vllm_counts_only_where_it_is_the_larger_moment():
    parts = sizes.estimate(PAPER, QWEN)
    assert parts[sizes.SAMPLING] == 56.0 > parts[sizes.TRAINING]
    standing = sum(parts.values()) - parts[sizes.SAMPLING] - parts[sizes.TRAINING]
    assert sizes.together(parts) == pytest.approx(standing + 56.0)
    awake = sizes.estimate(replace(PAPER, vllm_sleep=False), QWEN)
    assert sizes.together(awake) > sizes.together(parts) + 20


def test_full_fine_tuning_keeps_float32_weights_somewhere():
    """DeepSpeed has 16 bytes a parameter besides the reference; one GPU 6 + 12."""
    of_a_parameter = QWEN.parameters / sizes.GIB
    parts = sizes.estimate(PAPER, QWEN)
    assert parts["weights"] == pytest.approx(2 * of_a_parameter / 8, abs=0.1)
    assert parts["gradients, optimiser, adapters"] == pytest.approx(
        14 * of_a_parameter / 8, abs=0.1
    )
    parts = sizes.estimate(replace(ONE_GPU, lora_rank=None), QWEN)
    both = parts["weights"] + parts["gradients, optimiser, adapters"]
    assert both == pytest.approx(18 * of_a_parameter, abs=0.2)
    assert parts["KL reference"] == pytest.approx(4 * of_a_parameter, abs=0.1)
    alone = replace(ONE_GPU, lora_rank=None, parallel="zero3")  # nothing to spread over
    assert sizes.estimate(alone, QWEN) == parts
    assert sizes.disk(alone, QWEN) == sizes.disk(replace(ONE_GPU, lora_rank=None), QWEN)


def test_disk_is_policies_and_checkpoints():
    policy, whole = (QWEN.parameters * n / sizes.GIB for n in (2, 14))
    assert PAPER.checkpoints_kept == 4
    assert sizes.disk(PAPER, QWEN) == pytest.approx(4 * policy + (3 + 5) * whole)
    adapters = QWEN.adapter_parameters(32) * 4 / sizes.GIB
    assert sizes.disk(ONE_GPU, QWEN) == pytest.approx(4 * (policy + adapters) + 8 * 3 * adapters)
    short = replace(PAPER, stage_steps=(0, 4, 0, 0))  # one checkpoint, after the last step
    assert sizes.disk(short, QWEN) == pytest.approx(policy + whole)


def test_adapters_are_float32_on_4_bit_weights_too():
    """As trl_trainer.adapters_in_float32 keeps them, with gradients and two moments."""
    preset, shape = presets.get("gpu-24gb"), sizes.SHAPES["Qwen/Qwen2.5-3B-Instruct"]
    adapters = shape.adapter_parameters(32) / sizes.GIB
    found = sizes.estimate(preset, shape)["gradients, optimiser, adapters"]
    assert found == pytest.approx(16 * adapters, abs=0.05)
    wider = replace(preset, four_bit=False)
    assert sizes.disk(preset, shape) == sizes.disk(wider, shape)


def saved_by_autograd(preset, layers: int) -> float:
    """Values of 2 bytes per token that a small Qwen2 saves for its backward pass, weights apart."""
    lengths = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 100}
    kept = torch.bfloat16 if sizes._value_bytes(preset)[1] == 2 else torch.float32
    model = Qwen2ForCausalLM(Qwen2Config(**lengths, **heads)).to(kept)
    backbone = model.model
    if preset.lora_rank:
        from peft import get_peft_model

        adapted = get_peft_model(model, trl_trainer.adapters(preset))
        adapted.enable_input_require_grads()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = {}

    def note(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            saved[memory.data_ptr()] = memory.nbytes(), tensor  # held, so that no address returns
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        backbone(torch.zeros(1, 1024, dtype=torch.long), use_cache=False)
    return sum(size for size, _ in saved.values()) / 1024 / 2


@pytest.mark.parametrize("preset", [ONE_GPU, PAPER, replace(ONE_GPU, lora_rank=None)])
def test_a_block_saves_what_autograd_saves(preset):
    small = sizes.Shape(1, 512, 8, 2, 2048, 100, False, 1024)
    one_block = (saved_by_autograd(preset, 3) - saved_by_autograd(preset, 1)) / 2
    assert one_block == pytest.approx(sizes.saved_values(preset, small), rel=0.1)
