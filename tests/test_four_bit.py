"""QLoRA on a CPU: two stages of two steps on 4-bit weights, their hand-over, and evaluation.

`make test-4bit` installs bitsandbytes and runs this. bitsandbytes 0.50 has CPU kernels for
dequantize_4bit and quantize_blockwise; quantize_4bit and gemm_4bit run as PyTorch code on top of
them, forward and backward. gemv_4bit has a kernel for CPUs with AVX512-BF16 only, and that has no
backward pass, so load_policy keeps it from being used.
"""

import os
import signal
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, lines
from safetensors.torch import load_file

from envtune.common import files
from envtune.policy import agent, sampler
from envtune.train import evaluation, grpo, runlog, sft, trl_rollout, trl_trainer
from envtune.train.errors import Interrupted
from envtune.train.stages import STAGES, validation_tasks

bnb = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: make test-4bit")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("four_bit")]

LORA = replace(SMALL, lora_rank=8, validate_every=2)
PRESET = replace(LORA, four_bit=True)


def layers_of(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def read(layer):
    """The weights that a 4-bit layer computes with."""
    return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def whole_weights(folder):
    return sampler.load_policy(folder, bf16=False)[0].state_dict()


def started_plus_adapters(start, adapters):
    """The weights of `start` with 2 B A added (lora_alpha is twice the rank), by hand."""
    weights, trained = whole_weights(start), load_file(adapters / "adapter_model.safetensors")
    for name in [n for n in trained if n.endswith(".lora_A.weight")]:
        up = trained[name.replace("lora_A", "lora_B")]
        key = name.removeprefix("base_model.model.").replace(".lora_A", "")
        weights[key] = weights[key] + 2 * up @ trained[name]
    return weights


def train(stage, preset, steps, start, folder, monkeypatch):
    """Policy folder of a stage, and the model as it was trained."""
    seen, hand_over = [], trl_trainer.hand_over

    def kept(trainer, *args):
        seen.append(trainer.model)
        hand_over(trainer, *args)

    monkeypatch.setattr(trl_trainer, "hand_over", kept)
    policy = grpo.train_stage(stage, preset, steps, start, folder, 0)
    monkeypatch.undo()
    return policy, seen[0]


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory):
    """Stage 1 and, from what it handed over, stage 2: two steps each."""
    folder, start, found = tmp_path_factory.mktemp("four_bit"), agent.FOLDER, []
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES[:2]:
            policy, model = train(stage, PRESET, 2, start, folder, patch)
            found.append((start, policy, model))
            start = policy
    return folder, found


def test_the_base_is_four_bit_and_only_float32_adapters_are_trained(curriculum):
    start, _, model = curriculum[1][0]
    layers, whole = layers_of(model), whole_weights(start)
    assert len(layers) == 4 * 7  # blocks x linear layers; embeddings and head, tied, stay whole
    for name, layer in layers.items():
        key = name.removeprefix("base_model.model.").replace(".base_layer", "") + ".weight"
        assert layer.weight.dtype == torch.uint8 and layer.weight.nbytes * 8 == whole[key].nbytes
    at_rest = sampler.load_policy(start, bf16=False, four_bit=True)[0]
    plain = sampler.load_policy(start, bf16=False)[0]
    assert at_rest.get_memory_footprint() < plain.get_memory_footprint() / 3
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(layers) and all(".lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(bool(p.any()) for n, p in trained.items() if ".lora_B." in n)  # they begin at 0
    for (name, layer), old in zip(layers.items(), layers_of(at_rest).values(), strict=True):
        assert torch.equal(layer.weight, old.weight) and torch.equal(read(layer), read(old)), name


def test_the_hand_over_is_the_start_plus_what_was_learnt_and_the_next_stage_begins_there(
    curriculum,
):
    for start, policy, model in curriculum[1]:
        wanted = started_plus_adapters(start, policy.with_name("adapters"))
        handed, before = whole_weights(policy), whole_weights(start)
        assert all(torch.allclose(handed[k], wanted[k], rtol=0, atol=1e-7) for k in wanted)
        changed = {k for k in handed if not torch.equal(handed[k], before[k])}
        assert len(changed) == len(layers_of(model)) and handed.keys() == before.keys()
    (_, first, _), (start, _, second) = curriculum[1]
    assert start == first
    begun = layers_of(sampler.load_policy(first, bf16=False, four_bit=True)[0])
    pairs = zip(layers_of(second).values(), begun.values(), strict=True)
    assert all(torch.equal(one.weight, two.weight) for one, two in pairs)
    rows = files.read_lines(curriculum[0] / "metrics.jsonl")
    kl = [row["kl"] for row in rows if row["kind"] == "train"]
    assert kl[0] == kl[2] == 0.0 and kl[1] > 0 and kl[3] > 0  # measured to each stage's own start


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """A folder with the agent's weights rounded to 4 bits, as plain float32 weights."""
    coarse, tokenizer = sampler.load_policy(agent.FOLDER, bf16=False, four_bit=True)
    plain, folder = sampler.load_policy(agent.FOLDER, bf16=False)[0], tmp_path_factory.mktemp("r")
    for name, layer in layers_of(coarse).items():
        plain.get_submodule(name).weight.data = read(layer)
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_gradients_are_those_of_the_rounded_weights_also_after_sampling(rounded):
    ids, gradients = torch.randint(5, 1600, (2, 40), generator=torch.Generator().manual_seed(0)), []
    for folder, four_bit in ((agent.FOLDER, True), (rounded, False)):
        model, tokenizer = sampler.load_policy(folder, bf16=False, four_bit=four_bit)
        sampler.Sampler(model, tokenizer, message_tokens=4)([[5, 6, 7]] * 2)
        model.train()
        read_in = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=read_in, labels=ids).loss.backward()
        gradients.append(read_in.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7) and bool(gradients[0].any())


def test_a_step_is_the_step_of_lora_on_the_rounded_weights(curriculum, rounded, tmp_path):
    grpo.train_stage(STAGES[0], LORA, 1, rounded, tmp_path, 0)
    one, two = lines(curriculum[0], "train")[0], lines(tmp_path, "train")[0]
    assert one["reward"] == two["reward"]  # the same episodes
    # TRL rounds an adapter's first weights to bf16 where the base is 4-bit
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=0.02)


def test_a_warm_up_of_layers_narrower_than_a_block_hands_over_start_plus_adapters(
    small_policy, tmp_path
):
    tokenizer = sampler.load_policy(small_policy, bf16=False)[1]
    wide = replace(PRESET, completion_tokens=5_000, message_tokens=500, max_result_chars=2_000)
    rows = sft.gold_rows(["multi_turn_base_3"] * 2, tokenizer, wide)
    settings = {"epochs": 1, "batch": 1, "learning_rate": 1e-3}
    policy = sft.train(rows, wide, small_policy, tmp_path, "sft", 0, **settings)
    adapters = policy.with_name("adapters")
    wanted, found = started_plus_adapters(small_policy, adapters), whole_weights(policy)
    assert all(torch.allclose(found[k], wanted[k], rtol=0, atol=1e-7) for k in wanted)
    trained = load_file(adapters / "adapter_model.safetensors")
    assert {v.dtype for v in trained.values()} == {torch.float32}
    assert all(bool(v.any()) for v in trained.values())


@pytest.mark.parametrize("four_bit", [True, False])
def test_what_was_handed_over_is_evaluated_with_four_bits_and_without(curriculum, four_bit):
    tasks, policy = validation_tasks(PRESET), curriculum[1][1][1]
    results = evaluation.evaluate(policy, tasks, replace(PRESET, four_bit=four_bit))
    assert list(results["task_id"]) == list(tasks) and results["progress"].between(0, 1).all()
    assert (results["steps"] > 0).all()


def test_greedy_replies_in_four_bits_are_those_of_the_rounded_weights(rounded):
    tasks = validation_tasks(PRESET)
    one = evaluation.play(agent.FOLDER, tasks, PRESET)
    two = evaluation.play(rounded, tasks, LORA)
    assert [r.steps for r in one] == [r.steps for r in two]


def test_a_stage_interrupted_after_a_step_ends_as_one_that_was_not(
    curriculum, tmp_path, monkeypatch
):
    play, calls = trl_rollout.play, []

    def pressed(*args, **kwargs):
        result = play(*args, **kwargs)
        calls.append(1)
        if len(calls) == 3:  # after a validation and the first step: in the second
            os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(trl_rollout, "play", pressed)
        with pytest.raises(Interrupted, match="interrupted at step 1 of 2 and is saved there"):
            grpo.train_stage(STAGES[0], PRESET, 2, agent.FOLDER, tmp_path, 0)
    assert runlog.last_good_checkpoint(tmp_path / STAGES[0].name).name == "checkpoint-1"
    policy = grpo.train_stage(STAGES[0], PRESET, 2, agent.FOLDER, tmp_path, 0)
    wanted, found = whole_weights(curriculum[1][0][1]), whole_weights(policy)
    assert all(torch.equal(wanted[k], found[k]) for k in wanted)
    assert lines(tmp_path, "train") == lines(curriculum[0], "train")[:2]
