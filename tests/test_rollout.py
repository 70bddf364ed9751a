"""Ids and masks: what is trained is what was sampled, and a transcript is never tokenised again."""

import random
from dataclasses import replace

import pytest
from conftest import ANSWER, SMALL, tool_call
from transformers import AutoTokenizer

from envtune import Episode, bfcl
from envtune.policy import rollout, sampler
from envtune.record import Ending
from envtune.train import grpo, metrics, runlog, stages, trl_rollout, trl_trainer


@pytest.fixture(scope="module")
def tokenizer(small_policy):
    return AutoTokenizer.from_pretrained(small_policy)


class Scripted:
    """A sampler that writes given messages, remembers every context and every list of ids that it
    returned."""

    def __init__(self, tokenizer, messages, seed=0):
        self.tokenizer, self.messages, self.draw = tokenizer, messages, random.Random(seed)
        self.contexts, self.sampled = [], []

    def __call__(self, contexts):
        batch = []
        for _ in contexts:
            ids = self.tokenizer(self.draw.choice(self.messages), add_special_tokens=False)[
                "input_ids"
            ]
            batch.append(
                ids + [self.tokenizer.eos_token_id] * self.draw.randint(0, 1)
            )  # some are cut before their EOS
        self.contexts.append(contexts)
        self.sampled.append(batch)
        return batch, None


def episodes(count):
    return [
        Episode(bfcl.load_task("multi_turn_base_3"), compact=True, max_result_chars=60, seed=i)
        for i in range(count)
    ]


def test_masked_in_tokens_are_exactly_the_sampled_ones_and_contexts_only_grow(tokenizer):
    chat = rollout.Chat(tokenizer)
    sampler = Scripted(
        tokenizer,
        [
            ANSWER,
            tool_call(("ls", {})),
            "no format",
            "é😀 ünï",
            tool_call(("\ud800", {"folder": "\udfff"})),
            "",
        ],
    )
    rollouts = rollout.play(episodes(6), chat, sampler, budget_tokens=5000, message_tokens=10)
    assert all(r.episode.record.completed for r in rollouts)
    for r in rollouts:
        assert len(r.completion_ids) == len(r.mask) == len(r.logprobs)
    # follow the rollouts through the waves: a running episode keeps its order in the batch
    written = {id(r): [] for r in rollouts}
    before: dict[int, list[int]] = {}
    running = list(rollouts)
    left = {id(r): len(r.record.steps) for r in rollouts}
    for contexts, batch in zip(sampler.contexts, sampler.sampled, strict=True):
        assert len(contexts) == len(running)
        for r, context, ids in zip(running, contexts, batch, strict=True):
            assert context == (r.prompt_ids + r.completion_ids)[: len(context)]
            if id(r) in before:
                assert context[: len(before[id(r)])] == before[id(r)]
            written[id(r)] += ids
            before[id(r)] = context + ids
            left[id(r)] -= 1
        running = [r for r in running if left[id(r)]]
    for r in rollouts:
        masked_in = [t for t, m in zip(r.completion_ids, r.mask, strict=True) if m]
        assert masked_in == written[id(r)]
        text = "".join(s.message for s in r.record.steps)
        assert tokenizer.decode([t for t in masked_in if t != chat.eos_id]) == text


def test_sampled_text_is_never_encoded(tokenizer, monkeypatch):
    encoded = []
    original = rollout.Chat._encode
    monkeypatch.setattr(
        rollout.Chat, "_encode", lambda self, text: encoded.append(text) or original(self, text)
    )
    marker = "<think>unrepeatable-marker</think><answer>unrepeatable-marker</answer>"
    rollout.play(episodes(2), rollout.Chat(tokenizer), Scripted(tokenizer, [marker]), 5000, 10)
    assert encoded and not any("unrepeatable-marker" in text for text in encoded)


def test_ids_read_as_the_chat_template_would_write_them(tokenizer):
    chat = rollout.Chat(tokenizer)
    episode = episodes(1)[0]
    messages = episode.messages
    [r] = rollout.play([episode], chat, Scripted(tokenizer, [ANSWER]), 5000, 10)
    messages = [
        *messages,
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": bfcl.load_task("multi_turn_base_3").user_turns[1]},
        {"role": "assistant", "content": ANSWER},
    ]
    written = tokenizer(
        tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False
    )["input_ids"]
    assert r.prompt_ids + r.completion_ids == written


def test_an_episode_that_would_outgrow_its_budget_ends_and_loses_the_rest(tokenizer):
    sampler = Scripted(tokenizer, [tool_call(("ls", {}))])
    [r] = rollout.play(
        episodes(1), rollout.Chat(tokenizer), sampler, budget_tokens=150, message_tokens=40
    )
    assert r.record.ending is Ending.TOKEN_LIMIT and len(r.completion_ids) <= 150
    assert metrics.means([r.record])["share_ended_by_token_limit"] == 1.0
    assert metrics.means([r.record])["share_ended_by_observation_limit"] == 0.0


def test_a_reply_longer_than_what_is_left_has_an_ending_of_its_own(tokenizer):
    sampler = Scripted(tokenizer, [tool_call(("ls", {}))])
    left = len(tokenizer(tool_call(("ls", {})))["input_ids"]) + 10
    [r] = rollout.play(
        episodes(1), rollout.Chat(tokenizer), sampler, budget_tokens=left, message_tokens=1
    )
    assert r.record.ending is Ending.OBSERVATION_LIMIT and len(r.completion_ids) <= left
    assert metrics.means([r.record])["share_ended_by_observation_limit"] == 1.0


@pytest.mark.parametrize(
    "template, part",
    [
        ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", "verbatim"),
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "EOS"),
    ],
)
def test_a_chat_template_that_cannot_be_taken_apart_is_refused(small_policy, template, part):
    other = AutoTokenizer.from_pretrained(small_policy)
    other.chat_template = template
    with pytest.raises(ValueError, match=part):
        rollout.Chat(other)


def test_what_trl_trains_on_is_what_its_sampler_returned(small_policy, tmp_path, monkeypatch):
    """One real GRPO step: the ids and the mask inside the trainer hold the sampled tokens, and only
    those count."""
    sampled, batches = [], []
    sample = sampler.Sampler.__call__

    def watched(self, contexts):
        ids, logprobs = sample(self, contexts)
        sampled.append([token for row in ids if row is not None for token in row])
        return ids, logprobs

    class Watched(trl_trainer.StageTrainer):
        def _generate_and_score_completions(self, inputs):
            if self.model.training:
                sampled.clear()  # the validation before
            out = super()._generate_and_score_completions(inputs)
            if self.model.training:
                batches.append((out, [token for wave in sampled for token in wave]))
            return out

    monkeypatch.setattr(sampler.Sampler, "__call__", watched)
    monkeypatch.setattr(trl_trainer, "StageTrainer", Watched)
    grpo.train_stage(stages.STAGES[0], SMALL, 1, small_policy, tmp_path, seed=0)
    [(batch, tokens)] = batches
    trained = batch["completion_ids"][
        (batch["tool_mask"] * batch["completion_mask"]).bool()
    ].tolist()
    assert sorted(trained) == sorted(tokens) and 0 < len(trained) < int(
        batch["completion_mask"].sum()
    )


def test_all_generations_of_a_prompt_stand_together_and_evaluation_has_no_hints(
    small_policy, tmp_path, monkeypatch
):
    seen = []
    original = trl_rollout.TRLRollout.__call__

    def watch(self, prompts, trainer):
        out = original(self, prompts, trainer)
        seen.append((trainer.model.training, [p[0]["task_id"] for p in prompts]))
        return out

    monkeypatch.setattr(trl_rollout.TRLRollout, "__call__", watch)
    told = []
    monkeypatch.setattr(
        runlog.MetricsLog,
        "on_records",
        lambda self, mode, records, timings, tags: (
            told.append((mode, records)),
            self.records[mode].extend(zip(records, tags, strict=True)),
        ),
    )
    preset = replace(SMALL, max_scenarios=2, prompts_per_step=2, device_batch=8)
    grpo.train_stage(stages.STAGES[2], preset, 1, small_policy, tmp_path, seed=0)
    for training_mode, ids in seen:
        if training_mode:
            groups = [
                ids[i : i + preset.generations] for i in range(0, len(ids), preset.generations)
            ]
            assert all(len(set(group)) == 1 for group in groups) and len(groups) == 2
    assert all(
        not r.hints_on and r.limits == "evaluation"
        for mode, records in told
        if mode == "eval"
        for r in records
    )
    assert all(
        r.hints_on and r.limits == "training"
        for mode, records in told
        if mode == "train"
        for r in records
    )
