"""Leaving padding out changes no number: log-probabilities, entropies, the loss and its gradient
are those of TRL."""

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from envtune.train import packing


@pytest.fixture
def trainer(small_policy, tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "x"}]}] * 8)
    config = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=8,
        num_generations=4,
        beta=0.1,
        entropy_coef=0.001,
        report_to="none",
        disable_tqdm=True,
        temperature=0.7,
        loss_type="grpo",
    )
    return packing.PackedGRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(small_policy, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(small_policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=rows,
    )


def batch(prompt=9, completion=40, rows=8, seed=0):
    """Left-padded prompts and right-padded completions of unequal length, with stretches that the
    environment wrote."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, prompt + 1, (rows,), generator=draw)
    completions = torch.randint(2, completion + 1, (rows,), generator=draw)
    places = torch.arange(completion)
    return {
        "prompt_ids": torch.randint(5, 200, (rows, prompt), generator=draw),
        "prompt_mask": (torch.arange(prompt)[None] >= prompt - prompts[:, None]).long(),
        "completion_ids": torch.randint(5, 200, (rows, completion), generator=draw),
        "completion_mask": (places[None] < completions[:, None]).long(),
        "tool_mask": (torch.rand(rows, completion, generator=draw) < 0.6).long(),
        "advantages": torch.randn(rows, generator=draw),
        "ref_per_token_logps": -torch.rand(rows, completion, generator=draw) * 3,
        "num_items_in_batch": torch.tensor(1.0),
    }


def scores(trainer, method, inputs, model=None, entropy=True):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    return method(
        trainer,
        model or trainer.model,
        ids,
        mask,
        inputs["completion_ids"].shape[1],
        compute_entropy=entropy,
    )


@pytest.mark.parametrize("chunk_tokens", [30, 100_000])
@pytest.mark.parametrize("alone", [True, False])
def test_log_probabilities_and_entropies_are_those_of_trl(
    trainer, monkeypatch, chunk_tokens, alone
):
    monkeypatch.setattr(packing, "CHUNK_TOKENS", chunk_tokens)
    if not alone:  # as for several processes or on a GPU
        monkeypatch.setattr(packing, "PreTrainedModel", ())
    inputs = batch()
    there = inputs["completion_mask"].bool()
    with torch.no_grad():
        ours = scores(trainer, packing.PackedGRPOTrainer._get_per_token_logps_and_entropies, inputs)
        theirs = scores(trainer, GRPOTrainer._get_per_token_logps_and_entropies, inputs)
    for mine, its in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine[there], its[there], atol=1e-5, rtol=1e-5)
        assert there.sum() > 100 and its[there].std() > 0.01


@pytest.mark.parametrize("alone", [True, False])
def test_the_reference_is_scored_as_trl_scores_it(trainer, monkeypatch, alone):
    if not alone:
        monkeypatch.setattr(packing, "PreTrainedModel", ())
    inputs = batch(seed=1)
    there = inputs["completion_mask"].bool()
    with torch.no_grad():
        trainer.ref_model.get_input_embeddings().weight.mul_(
            1.5
        )  # another policy than the trained one
        ours, none, _ = scores(
            trainer,
            packing.PackedGRPOTrainer._get_per_token_logps_and_entropies,
            inputs,
            trainer.ref_model,
            False,
        )
        theirs, _, _ = scores(
            trainer,
            GRPOTrainer._get_per_token_logps_and_entropies,
            inputs,
            trainer.ref_model,
            False,
        )
    assert none is None
    torch.testing.assert_close(ours[there], theirs[there], atol=1e-5, rtol=1e-5)


def test_the_loss_and_its_gradient_are_those_of_trl(trainer):
    inputs, found = batch(), {}
    trainer.current_gradient_accumulation_steps = 1
    for kind in (packing.PackedGRPOTrainer, GRPOTrainer):
        trainer.__class__ = kind
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, dict(inputs))
        loss.backward()
        found[kind] = (
            loss.item(),
            torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters()]),
        )
    (ours, our_gradient), (theirs, their_gradient) = found.values()
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert their_gradient.abs().max() > 1e-3
    torch.testing.assert_close(our_gradient, their_gradient, atol=1e-5, rtol=1e-3)
