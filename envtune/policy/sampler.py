"""Load a policy from a folder or hub id, and sample its next messages: context ids in, ids out.

>>> model, tokenizer = load_policy("runs/quickstart/stage1_syntax/policy", bf16=False)
>>> generate = Sampler(model, tokenizer, message_tokens=256, temperature=0.0)
>>> chat = rollout.Chat(tokenizer)
>>> rollouts = rollout.play(episodes, chat, generate, budget_tokens=4096, message_tokens=256)
"""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils import logging

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
"""The 4-bit weights of QLoRA, as bitsandbytes takes them."""


def load_tokenizer(policy: Path | str):
    """The tokenizer of a folder or hub id, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.pad_token is None:  # Llama's
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(policy: Path | str, bf16: bool, four_bit: bool = False, device: str | None = None):
    """Model and tokenizer of a folder or hub id, on `device` (None: where transformers puts it)."""
    logging.disable_progress_bar()  # one per load and save would hide the run's own
    settings: dict[str, Any] = {"dtype": torch.bfloat16 if bf16 else torch.float32}
    if four_bit:
        settings["quantization_config"] = BitsAndBytesConfig(
            **NF4, bnb_4bit_compute_dtype=settings["dtype"]
        )
    model = AutoModelForCausalLM.from_pretrained(policy, **settings)
    for layer in model.modules() if four_bit else ():
        # else a forward pass in eval mode on a CPU with AVX512-BF16 repacks the weights for
        # bitsandbytes::gemv_4bit, which has no backward pass: gradients are silently wrong
        layer.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    if device and not four_bit:
        model = model.to(device)  # pyright: ignore[reportArgumentType]  # its decorator hides self
    tokenizer = load_tokenizer(policy)
    ends = end_ids(model.generation_config, tokenizer)
    model.generation_config = plain_generation(ends, tokenizer.pad_token_id)
    return model, tokenizer


def free_gpu() -> None:
    """Give back the GPU memory of models that nothing uses any more: what this process keeps for
    later, another one (vLLM's) cannot get."""
    gc.collect()  # trainers refer to themselves
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def end_ids(generation: GenerationConfig, tokenizer) -> tuple[int, ...]:
    """Every token that ends a message: the tokenizer's EOS first, then the model's own others."""
    own = generation.eos_token_id
    own = [own] if isinstance(own, int) else own or []
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *own]))


def plain_generation(ends: Sequence[int], pad: int | None) -> GenerationConfig:
    """Sampling from the model's distribution as it is, with nothing left to a model's own file.

    Qwen2.5-Instruct's file has a repetition penalty of 1.05, which changes greedy messages too and
    makes the sampled distribution another one than the trained. It is saved with a policy, so a
    server that reads the file samples as training did.
    """
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        eos_token_id=list(ends),
        pad_token_id=pad,
    )


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """Puts the model into eval mode and afterwards back into the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _RoomyLayer(DynamicLayer):
    """Keys and values with spare columns at the end.

    DynamicLayer copies all of them for every token, which on a CPU takes longer than the model. The
    numbers are the same.
    """

    keys: torch.Tensor  # (B, heads, columns in use, head size), a view of `room`, as are values
    values: torch.Tensor
    room = torch.empty(2, 0, 0, 0, 0)  # keys and values (2, B, heads, columns, head size)
    active_rows: torch.Tensor | None = None  # rows that the model reads now; None: all

    def _show(self, room: torch.Tensor, end: int) -> None:
        self.room, self.keys, self.values = room, room[0, :, :, :end], room[1, :, :, :end]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = self.get_seq_length()
        end = used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        room = self.room
        if room.shape[3] < end:
            _, heads, _, size = key_states.shape
            batch = room.shape[1] if used else len(key_states)
            room = key_states.new_empty(2, batch, heads, end + max(64, end // 4), size)
            if used:
                room[:, :, :, :used] = self.room[:, :, :, :used]
        self._show(room, end)
        # autocast computes values in bf16 and rotates keys in float32
        key_states, value_states = key_states.to(room.dtype), value_states.to(room.dtype)
        if self.active_rows is None:
            self.keys[:, :, used:], self.values[:, :, used:] = key_states, value_states
            return self.keys, self.values
        rows = self.active_rows
        # zeros for the other rows: attention gives these columns weight 0, and 0 x NaN is NaN
        room[:, :, :, used:end] = 0.0
        self.keys[rows, :, used:], self.values[rows, :, used:] = key_states, value_states
        return self.keys[rows], self.values[rows]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._show(self.room.index_select(1, indices), self.keys.shape[2])

    def choose(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep these rows (B,) and of each its columns (B, N), in this order."""
        end = columns.shape[1]
        spare = columns.new_zeros(len(rows), max(64, end // 4))
        columns = torch.cat([columns, spare], 1)[:, None]  # (B, 1, N + spare)
        heads = torch.arange(self.room.shape[2], device=rows.device)[:, None]
        self._show(self.room[:, rows[:, None, None], heads, columns], end)


class _RoomyCache(Cache):
    layers: list[_RoomyLayer]


@dataclass
class _Row:
    """An episode in the cache."""

    tokens: list[int]  # what its next context begins with, without an unfinished message
    draws: torch.Generator
    message: list[int] = field(default_factory=list)  # what is written of an unfinished message
    scores: list[float] = field(default_factory=list)  # its tokens' log-probabilities, if wanted
    noise: torch.Tensor = torch.empty(0)  # a uniform draw for each of its tokens; none if greedy

    def continued_by(self, context: list[int]) -> bool:
        known = context if self.message else context[: len(self.tokens)]
        return known == self.tokens


def _seeds(rows: int) -> list[int]:
    """One for each row, from torch's generator."""
    return torch.randint(2**62, (rows,)).tolist()


def skip(rows: int) -> None:
    """Draw what so many rows would have drawn: the next ones sample as if these had been played."""
    _seeds(rows)


class Sampler:
    """Samples messages token by token, and keeps the keys and values of a batch of episodes.

    If a wave's contexts continue those of the wave before (context + message + the environment's
    reply; some rows may be gone), only the reply is read. Any other contexts start anew; then equal
    openings, such as a group's, are read once.

    wait: the share of messages that must be complete to end a wave, so that few rows run idle. A
        row whose message is not complete gets None; the same context in the next call continues it.
    waste: a row has holes (mask 0) in the cache where other rows' messages were longer. When the
        cache is longer than its longest row by this share, each row's tokens are moved together.

    Temperature 0 is greedy. Seed with torch.manual_seed: every row has its own generator, so its
    tokens do not depend on when other rows end.

    logprobs: whether to return the log-probability of each sampled token, at this temperature (of
        the model's own distribution if greedy).
    """

    def __init__(
        self,
        model,
        tokenizer,
        message_tokens: int,
        temperature: float = 1.0,
        wait: float = 0.5,
        waste: float = 0.15,
        logprobs: bool = False,
    ):
        self.model, self.pad = model, tokenizer.pad_token_id
        self.ends = end_ids(model.generation_config, tokenizer)
        self.message_tokens, self.temperature = message_tokens, temperature
        self.wait, self.waste, self.logprobs = wait, waste, logprobs
        self.forget()

    def forget(self) -> None:
        """Drop the cache: the model's weights changed, or its memory is needed."""
        self.cache = self._new_cache()
        self.rows: list[_Row] = []
        self.ids = self.mask = torch.empty(0, 0, dtype=torch.long)  # (B, W), W with holes

    def _continued(self, contexts: Sequence[list[int]]) -> list[int] | None:
        """For each context the row it continues, in order; None when one continues none."""
        found, at = [], 0
        for context in contexts:
            while at < len(self.rows) and not self.rows[at].continued_by(context):
                at += 1
            if at == len(self.rows):
                return None
            found.append(at)
            at += 1
        return found

    def _columns(self, pieces: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, longest piece), left-padded."""
        width, device = max(map(len, pieces)), self.model.device
        ids = [[self.pad] * (width - len(p)) + p for p in pieces]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in pieces]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _start(self, contexts: Sequence[list[int]]) -> None:
        """Read each distinct opening once, without its last token, and copy it to its rows."""
        distinct = {tuple(c): None for c in contexts}
        place = {context: i for i, context in enumerate(distinct)}
        ids, mask = self._columns([list(c) for c in distinct])
        chosen = torch.tensor([place[tuple(c)] for c in contexts], device=ids.device)
        self.ids, self.mask = ids[chosen], mask[chosen]
        if len(distinct) < len(contexts) and ids.shape[1] > 1:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            self._read(ids[:, :-1], mask[:, :-1], positions[:, :-1])
            self.cache.batch_select_indices(chosen)

    def _read(self, ids, mask, positions) -> torch.Tensor:
        """Feed tokens to the model, keys and values to the cache; logits of the last one (B, V)."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    def _go_on(self, pieces: Sequence[list[int]], places: Sequence[int]) -> None:
        """Keep the running rows and append what each has to read."""
        chosen = torch.tensor(places, device=self.ids.device)
        self.ids, self.mask = self.ids[chosen], self.mask[chosen]
        if self.ids.shape[1] > (1 + self.waste) * int(self.mask.sum(1).max()):
            self._close_holes(chosen)
        elif len(places) < len(self.rows):
            self.cache.batch_select_indices(chosen)
        ids, mask = self._columns(pieces)
        self.ids, self.mask = torch.cat([self.ids, ids], 1), torch.cat([self.mask, mask], 1)

    def _close_holes(self, chosen: torch.Tensor) -> None:
        """Move the tokens of each row together, holes to the left.

        Keys depend on a token's position, not on its column, so none is computed again.
        """
        read = self.cache.get_seq_length()  # what was sampled last is not in the cache yet
        longest = int(self.mask[:, :read].sum(1).max())
        order = self.mask[:, :read].argsort(dim=1, stable=True)[:, read - longest :]  # (B, longest)
        for layer in self.cache.layers:
            layer.choose(chosen, order)
        self.ids, self.mask = (
            torch.cat([what[:, :read].gather(1, order), what[:, read:]], 1)
            for what in (self.ids, self.mask)
        )

    def _new_cache(self) -> _RoomyCache:
        count = self.model.config.num_hidden_layers
        return _RoomyCache(layers=[_RoomyLayer() for _ in range(count)])

    def _decode(
        self, written: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sample until enough rows have ended or are full.

        written: how many tokens of its message each row already has (B,).
        noise: the draws for the tokens of a message (B, message_tokens), None if greedy.

        Returns the new tokens (B, N), padded after a row's end, their log-probabilities (B, N), 0
        where they are not wanted, and which rows still write (B,).
        """
        ids, mask = self.ids, self.mask
        left = ids[:, self.cache.get_seq_length() :]  # what the cache has not read yet
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -left.shape[1] :]
        replied = mask[:, -left.shape[1] : -1].any(1)
        if left.shape[1] < ids.shape[1] and not bool(replied.all()) and bool(replied.any()):
            # rows that continue a message have only one token to read, so they skip this pass
            for layer in self.cache.layers:
                layer.active_rows = replied.nonzero()[:, 0]
            self._read(left[replied, :-1], mask[replied, :-1], positions[replied, :-1])
            for layer in self.cache.layers:
                layer.active_rows = None
            left, positions = left[:, -1:], positions[:, -1:]
        writing = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        ends = torch.tensor(self.ends, device=ids.device)
        new: list[torch.Tensor] = []
        scores: list[torch.Tensor] = []
        while int((~writing).sum()) < self.wait * len(ids):
            logits = self._read(left, mask, positions)
            if noise is not None:
                # invert the distribution function: multinomial would draw a number for every entry
                reached = torch.softmax(logits / self.temperature, -1).cumsum(-1)
                draw = noise.gather(1, written.clamp(max=self.message_tokens - 1)[:, None])
                token = torch.searchsorted(reached, draw * reached[:, -1:])[:, 0]
                token = token.clamp(max=logits.shape[1] - 1)
            else:
                token = logits.argmax(-1)
            if self.logprobs:
                known = torch.log_softmax(logits / (self.temperature or 1.0), -1)
                scores.append(known.gather(1, token[:, None])[:, 0])
            token = torch.where(writing, token, self.pad)
            new.append(token)
            written = written + writing
            writing = writing & (token[:, None] != ends).all(1) & (written < self.message_tokens)
            left, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(ids), 1)], 1)
        sampled = torch.stack(new, 1)
        return sampled, torch.stack(scores, 1) if scores else sampled * 0.0, writing

    def __call__(
        self, contexts: Sequence[list[int]]
    ) -> tuple[list[list[int] | None], list[list[float]] | None]:
        places = self._continued(contexts)
        if places is None:
            self.forget()
            rows = [_Row([], torch.Generator().manual_seed(seed)) for seed in _seeds(len(contexts))]
        else:
            rows = [self.rows[place] for place in places]
        for row in rows:
            if not row.message and self.temperature:
                row.noise = torch.rand(self.message_tokens, generator=row.draws)
        pairs = list(zip(contexts, rows, strict=True))
        with torch.no_grad(), evaluating(self.model):
            if places is None or not self.cache.get_seq_length():
                self._start([context + row.message for context, row in pairs])
            else:
                pieces = [row.message[-1:] or context[len(row.tokens) :] for context, row in pairs]
                self._go_on(pieces, places)
            device, noise = self.ids.device, None
            if self.temperature:
                noise = torch.stack([row.noise for row in rows]).to(device)
            written = torch.tensor([len(row.message) for row in rows], device=device)
            new, scores, writing = self._decode(written, noise)
        messages: list[list[int] | None] = []
        logprobs: list[list[float]] = []
        read = []  # of the new columns, how many hold a token of the row
        for (context, row), tokens, known, unfinished in zip(
            pairs, new.tolist(), scores.tolist(), writing.tolist(), strict=True
        ):
            tokens = tokens[: self.message_tokens - len(row.message)]
            end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
            tokens = tokens[: end + 1]
            message = row.message + tokens
            logprobs.append(row.scores + known[: len(tokens)])
            row.tokens, row.message = (context, message) if unfinished else (context + message, [])
            row.scores = logprobs[-1] if unfinished else []
            messages.append(None if unfinished else message)
            # the next wave starts with the last token of an unfinished message
            read.append(len(tokens) - unfinished)
        counts = torch.tensor(read, device=device)[:, None]
        columns = torch.arange(new.shape[1], device=device) < counts
        self.rows, self.ids = rows, torch.cat([self.ids, new], 1)
        self.mask = torch.cat([self.mask, columns.long()], 1)
        return messages, logprobs if self.logprobs else None
