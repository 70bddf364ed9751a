"""Ways to get the agent's next message, all with one shape: contexts as ids in, sampled ids out (rollout.Generate).

    >>> generate = sampler(model, tokenizer, message_tokens=256, temperature=0.0)
    >>> rollouts = rollout.play(episodes, rollout.Chat(tokenizer), generate, budget_tokens=4096, message_tokens=256)
"""
import contextlib
from collections.abc import Iterator

import torch

from envtune.rollout import Generate


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """The model in eval mode, and afterwards in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sampler(model, tokenizer, message_tokens: int, temperature: float = 1.0, batch_size: int = 64) -> Generate:
    """Sample with transformers' generate, in left-padded batches; temperature 0 is greedy. Seed with torch.manual_seed."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}

    def batch(contexts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, contexts))
        ids = torch.tensor([[pad] * (width - len(c)) + c for c in contexts], device=model.device)  # (B, L) left-padded
        mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=model.device)  # (B, L)
        with torch.no_grad(), evaluating(model):
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=message_tokens,
                                 pad_token_id=pad, eos_token_id=eos, **sampling)
        messages = out[:, width:].tolist()
        return [m[:m.index(eos) + 1] if eos in m else m for m in messages]

    def generate(contexts: list[list[int]]):
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))  # alike lengths share a batch: less padding
        sampled: list[list[int]] = [[]] * len(contexts)
        for start in range(0, len(order), batch_size):
            chunk = order[start:start + batch_size]
            for i, message in zip(chunk, batch([contexts[i] for i in chunk]), strict=True):
                sampled[i] = message
        return sampled, None
    return generate
