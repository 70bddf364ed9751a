"""The sampler: messages in order, and the same with and without a kept cache."""

import pytest
import torch
from conftest import SMALL

from envtune import Episode, bfcl
from envtune.policy import rollout
from envtune.policy.sampler import Sampler, load_policy


@pytest.fixture(scope="module")
def loaded(small_policy):
    return load_policy(small_policy, bf16=False)


def test_messages_come_back_in_order_cut_at_their_eos_and_greedy_repeats(loaded):
    model, tokenizer = loaded
    contexts = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("find the file " * 9, "a", "list what is here")
    ]
    model.train()
    greedy = Sampler(model, tokenizer, message_tokens=12, temperature=0.0, wait=1.0)
    together, logprobs = greedy(contexts)
    assert logprobs is None and model.training  # the mode is put back
    assert together == greedy(contexts)[0] == [greedy([context])[0][0] for context in contexts]
    assert all(1 <= len(m) <= 12 and tokenizer.eos_token_id not in m[:-1] for m in together)


def test_sampling_repeats_with_the_seed_and_differs_without(loaded):
    model, tokenizer = loaded
    context = [tokenizer("find", add_special_tokens=False)["input_ids"]] * 8

    def draw(seed):
        torch.manual_seed(seed)
        return Sampler(model, tokenizer, message_tokens=12, wait=1.0)(context)[0]

    assert draw(1) == draw(1) != draw(2)


class Forgetful(Sampler):
    """Reads every context from its start."""

    def __call__(self, contexts):
        messages = super().__call__(contexts)
        self.cache = self._new_cache()
        return messages


def play(loaded, keep=True, temperature=0.0, **settings):
    """Twelve episodes of two tasks, and what the model was made to read [tokens]."""
    model, tokenizer = loaded
    episodes = [
        Episode(bfcl.load_task(f"multi_turn_{split}_3"), compact=True, max_result_chars=60, seed=i)
        for split in ("base", "miss_param")
        for i in range(6)
    ]
    chat, read = rollout.Chat(tokenizer), []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    torch.manual_seed(0)
    kind = Sampler if keep else Forgetful
    sampler = kind(model, tokenizer, SMALL.message_tokens, temperature, **settings)
    rollouts = rollout.play(
        episodes, chat, sampler, budget_tokens=500, message_tokens=SMALL.message_tokens
    )
    hook.remove()
    return [r.completion_ids for r in rollouts], [len(r.record.steps) for r in rollouts], sum(read)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_keeping_keys_and_values_between_waves_changes_no_message_and_reads_a_fraction(
    loaded, temperature
):
    anew, steps, read_anew = play(loaded, keep=False, temperature=temperature)
    kept, _, read = play(loaded, keep=True, temperature=temperature)
    assert kept == anew and max(steps) > 2
    if temperature:  # greedy twins are read once either way
        assert len(set(steps)) > 1 and read < read_anew / 2


@pytest.mark.parametrize("waste", [0.0, 100.0])
def test_closing_the_holes_of_a_cache_changes_no_message(loaded, monkeypatch, waste):
    closed = []
    close = Sampler._close_holes
    monkeypatch.setattr(
        Sampler,
        "_close_holes",
        lambda self, chosen: closed.append(self.ids.shape[1]) or close(self, chosen),
    )
    anew, *_ = play(loaded, keep=False, temperature=1.0)
    kept, *_ = play(loaded, waste=waste, temperature=1.0)
    assert kept == anew and bool(closed) == (waste == 0.0)


@pytest.mark.parametrize(("temperature", "keep"), [(0.0, True), (1.0, True), (1.0, False)])
@pytest.mark.parametrize("wait", [0.01, 0.5])
def test_a_wave_that_waits_for_few_messages_changes_no_message(
    loaded, monkeypatch, wait, temperature, keep
):
    given, call = [], Sampler.__call__

    def watched(self, contexts):
        messages, _ = call(self, contexts)
        given.append([m is None for m in messages])
        return messages, None

    monkeypatch.setattr(Sampler, "__call__", watched)
    patient, *_ = play(loaded, temperature=temperature, wait=1.0)
    assert not any(map(any, given))
    hasty, *_ = play(loaded, keep=keep, temperature=temperature, wait=wait, waste=0.3)
    assert hasty == patient
    assert all(unfinished.count(False) > 0 for unfinished in given)
    assert not temperature or any(map(any, given))


def test_contexts_that_continue_nothing_start_anew(loaded):
    model, tokenizer = loaded
    first, other = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("find the file ", "what is in the folder? ")
    )
    sampler = Sampler(model, tokenizer, message_tokens=8, temperature=0.0)
    [message], _ = sampler([first])
    assert sampler([other])[0] == Sampler(model, tokenizer, 8, 0.0)([other])[0]
    [again], _ = sampler([first])
    assert again == message
    longer = first + message + other
    assert sampler([longer])[0] == Sampler(model, tokenizer, 8, 0.0)([longer])[0]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_log_probabilities_are_those_of_the_tokens_sampled(loaded, temperature):
    model, tokenizer = loaded
    contexts = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("find the file", "a")
    ]
    sampler = Sampler(model, tokenizer, 12, temperature, wait=0.5, logprobs=True)
    messages, logprobs = [None, None], [None, None]
    while None in messages:  # a message that is not complete is asked for again
        left = [i for i in (0, 1) if messages[i] is None]
        for i, message, known in zip(left, *sampler([contexts[i] for i in left]), strict=True):
            messages[i], logprobs[i] = message, known
    for context, message, known in zip(contexts, messages, logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([context + message])).logits[0, len(context) - 1 : -1]
        wanted = torch.log_softmax(logits / (temperature or 1.0), -1)
        wanted = wanted.gather(1, torch.tensor(message)[:, None])[:, 0]
        assert known == pytest.approx(wanted.tolist(), abs=1e-4)
