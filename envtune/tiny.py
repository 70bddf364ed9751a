"""The embedded model `tiny-instrument`: made here in about a minute, no download. An instrument, never a result.

It is a 1M-parameter Llama with a BPE of its own, warmed up on scripted episodes of a *few training tasks*, in which right calls,
wrong calls, early answers and broken messages are mixed. So it starts mediocre on purpose: every stage has something to
improve, and a laptop can show that the whole machinery works. It says nothing about the paper's claims: it has read the
ground truth of its tasks (as right actions among wrong ones), and it knows no other task.

Not a Qwen2, because AutoTokenizer gives every qwen2 folder Qwen2's own pre-tokenizer, without a word: prompts then read
otherwise than in the warm-up and the instrument seems to know nothing.

    >>> folder = tiny.build(task_ids, seed=0)      # cached by its recipe under runs/
"""
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from envtune import bfcl, paths, progress, protocol
from envtune.bfcl import Call
from envtune.episode import Episode
from envtune.rollout import Chat, Rollout

NAME = "tiny-instrument"
_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
             "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "<tool_response>", "</tool_response>")


@dataclass(frozen=True)
class Recipe:
    """How the instrument is made. Any change gives another cached model."""
    vocabulary: int = 1_600
    """At most so many entries [tokens]; the few texts may give fewer."""
    longest_token: int = 24
    """Where merging stops [characters]."""
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    """Width, depth and attention heads of the Llama."""
    context_tokens: int = 4_096
    """Positions of the model [tokens]."""
    transcript_tokens: int = 560
    """Where a scripted episode is cut [tokens after the opening]."""
    episodes: int = 600
    """Scripted episodes to warm up on."""
    short_steps: int = 380
    """Steps on windows of `short_tokens` that start at a user message [steps]: cheap, teaches form and right calls."""
    short_tokens: int = 96
    """Length of a window [tokens]."""
    full_steps: int = 50
    """Steps on whole transcripts, system prompt and all [steps]."""
    short_batch: int = 16
    full_batch: int = 16
    """Windows and transcripts a step."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule."""
    p_right: float = 0.32
    """Chance that a scripted step does what the ground truth of the turn does."""
    p_wrong: float = 0.30
    """Chance of a call that is no help or fails."""
    p_early: float = 0.05
    """Chance of an answer before the work is done; the rest of the steps is broken in form."""


def build_tokenizer(texts: Sequence[str], vocabulary: int, longest: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose protocol tags are tokens of their own and survive decoding (they are not special).

    Merges cross spaces, up to `longest` characters: on so few texts whole phrases become tokens, which makes sequences
    three to four times shorter than words would, and a laptop's run that much faster.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=longest, show_progress=False))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAGS])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>",
                                   additional_special_tokens=["<|im_start|>"], chat_template=_TEMPLATE,
                                   clean_up_tokenization_spaces=False)


def message(thought: str, kind: str, body: str) -> str:
    """A message of the protocol; kind is tool_call or answer."""
    return f"<think>{thought}</think><{kind}>{body}</{kind}>"


def calls_message(calls: Sequence[Call], thought: str = "act") -> str:
    """A message that makes these calls."""
    return message(thought, "tool_call", json.dumps([call._asdict() for call in calls]))


def _broken(written: str, draw: random.Random) -> str:
    """The message with one rule of the protocol broken; two of the six ways leave an answer, which has no call, as it was."""
    return draw.choice([
        written.replace("</think>", ""), written.split("</think>")[1], written.replace("[{", "[").replace("}]", "]"),
        written.replace("<think>act</think>", "act"), "ok", written.replace("</tool_call>", "").replace("</answer>", "")])


def scripted_message(episode: Episode, worked: bool, recipe: Recipe, draw: random.Random) -> tuple[str, bool]:
    """One message of the mixed script for an episode, and whether the turn's work is now done."""
    right = episode.task.ground_truth[episode.turn]
    answer = message("done", "answer", "ok")
    p = draw.random()
    if p < recipe.p_right:
        return (answer, False) if worked or not right else (calls_message(right), True)
    if p < recipe.p_right + recipe.p_wrong:
        names = [doc["name"] for doc in bfcl.tool_docs(episode.task, episode.turn)]
        wrong = draw.choice([Call(draw.choice(names), {}), Call(draw.choice(names), {}), Call("help", {}),
                             *(Call(c.name, {}) for c in right[:1])])
        return calls_message([wrong]), worked
    if p < recipe.p_right + recipe.p_wrong + recipe.p_early:
        return answer, False
    return _broken(answer if worked or not right else calls_message(right), draw), worked


Write = Callable[[Episode, bool], tuple[str, bool]]
"""Makes a message: (episode, whether the turn's work is done) -> (message, whether it is done after it)."""


def scripted_rollout(episode: Episode, chat: Chat, write: Write, budget_tokens: int) -> Rollout:
    """An episode played by a script, as ids: the same concatenation as in training, scripted tokens in the mask."""
    rollout, worked, turn = Rollout(episode, chat.opening(episode.messages)), False, 0
    while not episode.done:
        if episode.turn != turn:
            worked, turn = False, episode.turn
        written, worked = write(episode, worked)
        ids = chat.tokenizer(written, add_special_tokens=False)["input_ids"] + [chat.eos_id]
        rollout.advance(chat, ids, None, budget_tokens, message_tokens=0)
    return rollout


def _episodes(task_ids: Sequence[str], count: int, seed: int, max_result_chars: int):
    for i in range(count):
        # the four stages' prompts and feedback all occur: with and without rules, with and without hints
        yield Episode(bfcl.load_task(task_ids[i % len(task_ids)]), hint_rate=0.5, seed=seed * 1_000_003 + i,
                      rules=i // len(task_ids) % 2 == 1, compact=True, max_result_chars=max_result_chars)


def _texts(task_ids: Sequence[str], max_result_chars: int) -> list[str]:
    """What the BPE learns from: the tasks' prompts and user turns, and their right calls with results."""
    texts = []
    for episode in _episodes(task_ids, 2 * len(task_ids), 0, max_result_chars):
        texts += [m["content"] for m in episode.messages] + list(_TAGS)
        while not episode.done:
            right = episode.task.ground_truth[episode.turn]
            messages = ([calls_message(right)] if right else []) + [message("done", "answer", "ok")]
            texts += messages + [episode.step(message) or "" for message in messages]
    return texts


def _batch(rollouts: Sequence[Rollout], chosen: list[int], window: int | None, pad: int, im_start: int,
           draw: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels (B, L), right-padded; labels are -100 where the script did not write. `window` cuts a piece that
    starts where a user message does, so that the system prompt, most of a short transcript, is left out."""
    ids, labels = [], []
    for i in chosen:
        r = rollouts[i]
        mask = [0] * len(r.prompt_ids) + r.mask
        tokens = r.prompt_ids + r.completion_ids
        heads = [j for j, token in enumerate(tokens) if token == im_start]  # system, user, assistant, user, assistant, ...
        start = draw.choice(heads[1::2]) if window else 0
        end = start + window if window else len(tokens)
        ids.append(tokens[start:end])
        labels.append([t if m else -100 for t, m in zip(tokens[start:end], mask[start:end], strict=True)])
    width = max(map(len, ids))
    return (torch.tensor([x + [pad] * (width - len(x)) for x in ids]),
            torch.tensor([x + [-100] * (width - len(x)) for x in labels]))


def _warm_up(model, tokenizer, rollouts: Sequence[Rollout], recipe: Recipe, draw: random.Random,
             quiet: bool) -> list[float]:
    """Train on the script, windows first and whole transcripts after. Returns the loss of every step."""
    total = recipe.short_steps + recipe.full_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=total, pct_start=0.1)
    im_start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    losses = []
    bar = progress.bar(total, "warming up the tiny instrument", "step", quiet)
    for step in range(total):
        short = step < recipe.short_steps
        chosen = draw.choices(range(len(rollouts)), k=recipe.short_batch if short else recipe.full_batch)
        window = recipe.short_tokens if short else None
        ids, labels = _batch(rollouts, chosen, window, tokenizer.pad_token_id, im_start, draw)
        loss = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.update()
        progress.report(step + 1, total)
    bar.close()
    return losses


def build(task_ids: Sequence[str], seed: int = 0, max_result_chars: int = 100, recipe: Recipe | None = None,
          quiet: bool = False) -> Path:
    """The folder of a warmed-up instrument for these tasks; built once for a recipe, tasks, seed and code, then reused."""
    recipe = recipe or Recipe()
    code = hashlib.sha256(Path(__file__).read_bytes() + Path(protocol.__file__).read_bytes()).hexdigest()
    identity = {"code": code, "recipe": asdict(recipe), "tasks": list(task_ids), "seed": seed,
                "max_result_chars": max_result_chars}
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    folder = paths.runs() / "models" / f"{NAME}-{key}"
    if (folder / "recipe.json").exists():
        return folder
    set_seed(seed)
    draw = random.Random(f"tiny {seed}")
    tokenizer = build_tokenizer(_texts(task_ids, max_result_chars), recipe.vocabulary, recipe.longest_token)
    chat = Chat(tokenizer)
    rollouts = [scripted_rollout(episode, chat, lambda e, worked: scripted_message(e, worked, recipe, draw), recipe.transcript_tokens)
                for episode in _episodes(task_ids, recipe.episodes, seed, max_result_chars)]
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=4 * recipe.hidden,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context_tokens, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    losses = _warm_up(model, tokenizer, rollouts, recipe, draw, quiet)
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")  # two processes may build the same one
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    made = {**identity, "parameters": model.num_parameters(), "losses": losses}
    (unfinished / "recipe.json").write_text(json.dumps(made))
    if (folder / "recipe.json").exists():
        shutil.rmtree(unfinished)
    else:
        unfinished.rename(folder)  # a kill leaves either no model or a whole one
    return folder
