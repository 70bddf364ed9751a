import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from envtune import policies


def test_messages_come_back_in_order_cut_at_their_eos_and_greedy_repeats(small_policy):
    tokenizer, model = AutoTokenizer.from_pretrained(small_policy), AutoModelForCausalLM.from_pretrained(small_policy)
    contexts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("find the file " * 9, "a", "list what is here")]
    model.train()
    greedy = policies.sampler(model, tokenizer, message_tokens=12, temperature=0.0, batch_size=2)
    together, logprobs = greedy(contexts)
    assert logprobs is None and model.training  # the mode is put back
    assert together == greedy(contexts)[0] == [greedy([context])[0][0] for context in contexts]
    assert all(1 <= len(m) <= 12 and tokenizer.eos_token_id not in m[:-1] for m in together)


def test_sampling_repeats_with_the_seed_and_differs_without(small_policy):
    tokenizer, model = AutoTokenizer.from_pretrained(small_policy), AutoModelForCausalLM.from_pretrained(small_policy)
    generate = policies.sampler(model, tokenizer, message_tokens=12)
    context = [tokenizer("find", add_special_tokens=False)["input_ids"]] * 8

    def draw(seed):
        torch.manual_seed(seed)
        return generate(context)[0]
    assert draw(1) == draw(1) != draw(2)
