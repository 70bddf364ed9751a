"""A policy from a folder or hub id, and the way to get its next messages: contexts as ids in, sampled ids out (rollout.Generate).

>>> model, tokenizer = load_policy("runs/quickstart/stage1_syntax/policy", bf16=False)
>>> generate = Sampler(model, tokenizer, message_tokens=256, temperature=0.0)
>>> rollouts = rollout.play(episodes, rollout.Chat(tokenizer), generate, budget_tokens=4096, message_tokens=256)
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils import logging

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
}
"""The 4-bit weights of QLoRA, as bitsandbytes takes them."""


def load_policy(policy: Path | str, bf16: bool, four_bit: bool = False, device: str | None = None):
    """Model and tokenizer of a folder or hub id, on `device` (None: where transformers puts it)."""
    logging.disable_progress_bar()  # one for every load and save would bury the run's own
    quantisation = {"quantization_config": BitsAndBytesConfig(**NF4)} if four_bit else {}
    model = AutoModelForCausalLM.from_pretrained(
        policy, dtype=torch.bfloat16 if bf16 else torch.float32, **quantisation
    )
    return (model.to(device) if device and not four_bit else model), AutoTokenizer.from_pretrained(
        policy
    )


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """The model in eval mode, and afterwards in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _RoomyLayer(DynamicLayer):
    """Keys and values with room behind them: DynamicLayer copies all of them for every token, which on a CPU takes longer than the
    model. The numbers are the same."""

    room: torch.Tensor | None = None  # (2, B, heads, columns, head size), keys and values
    active_rows: torch.Tensor | None = (
        None  # the rows that the model reads for now, None: all of them
    )

    def _show(self, room: torch.Tensor, end: int) -> None:
        self.room, self.keys, self.values = room, room[0, :, :, :end], room[1, :, :, :end]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = self.get_seq_length() if self.is_initialized else 0
        end = used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        room = self.room
        if room is None or room.shape[3] < end:
            _, heads, _, size = key_states.shape
            room = key_states.new_empty(
                2, room.shape[1] if used else len(key_states), heads, end + max(64, end // 4), size
            )
            if used:
                room[:, :, :, :used] = self.room[:, :, :, :used]
        self._show(room, end)
        if self.active_rows is None:
            self.keys[:, :, used:], self.values[:, :, used:] = key_states, value_states
            return self.keys, self.values
        room[:, :, :, used:end] = (
            0.0  # holes: attention gives them weight 0, and 0 x NaN would be NaN
        )
        self.keys[self.active_rows, :, used:], self.values[self.active_rows, :, used:] = (
            key_states,
            value_states,
        )
        return self.keys[self.active_rows], self.values[self.active_rows]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._show(self.room.index_select(1, indices), self.keys.shape[2])

    def choose(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Keep these rows (B,) and of each its columns (B, N), in this order."""
        two, before, heads, width, size = self.room.shape
        end = columns.shape[1]
        columns = torch.cat(
            [columns, columns.new_zeros(len(rows), max(64, end // 4))], 1
        )  # the room behind them
        lines = (
            torch.arange(two, device=rows.device)[:, None, None] * before + rows[:, None]
        )  # (2, B, 1)
        lines = (
            lines * heads + torch.arange(heads, device=rows.device)
        ) * width  # (2, B, heads), where a row's columns begin
        lines = lines[..., None] + columns[:, None]
        room = self.room.view(-1, size).index_select(0, lines.flatten())
        self._show(room.view(two, len(rows), heads, -1, size), end)


@dataclass
class _Row:
    """An episode in the cache."""

    tokens: list[int]
    """As contexts begin with them: without a message that is not complete."""
    draws: torch.Generator
    message: list[int] = field(default_factory=list)
    """What is written of a message that is not complete."""
    noise: torch.Tensor | None = None
    """A uniform draw for each of its tokens."""

    def continued_by(self, context: list[int]) -> bool:
        return (
            context == self.tokens if self.message else context[: len(self.tokens)] == self.tokens
        )


WAIT = 0.5
"""Of a wave's messages, the share that play waits for: the others are written on in the next wave, so that few rows run idle."""


class Sampler:
    """Samples messages token by token and keeps the keys and values of one batch of episodes between its waves.

    A wave's contexts continue those of the wave before (context + message + the environment's reply), some rows may be gone: then
    only the reply is read. Any other contexts start anew. In a new batch equal openings, such as a group's, are read once.
    A wave ends when the share `wait` of its messages is complete; a row whose message is not gets None, and the same context in the next
    call goes on with it. Temperature 0 is greedy. Seed with torch.manual_seed: every row has a generator of its own, so that its words
    do not depend on when other rows end. Columns where a row has no token (other rows' messages were longer) stay in
    the cache with mask 0; when they are `waste` of the longest row, each row's tokens are moved together.
    """

    def __init__(
        self,
        model,
        tokenizer,
        message_tokens: int,
        temperature: float = 1.0,
        wait: float = 1.0,
        waste: float = 0.15,
        keep: bool = True,
    ):
        self.model, self.pad, self.eos, self.waste, self.keep = (
            model,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            waste,
            keep,
        )
        self.message_tokens, self.temperature, self.wait = message_tokens, temperature, wait
        self.forget()

    def forget(self) -> None:
        """Drop the cache: the model's weights changed, or its memory is needed."""
        self.cache = None
        self.rows: list[_Row] = []
        self.ids = self.mask = torch.empty(
            0, 0, dtype=torch.long
        )  # (B, W); W counts the columns, holes included

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
        width = max(map(len, pieces))
        ids = torch.tensor(
            [[self.pad] * (width - len(p)) + p for p in pieces], device=self.model.device
        )
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in pieces], device=self.model.device
        )
        return ids, mask

    def _start(self, contexts: Sequence[list[int]]) -> None:
        """Read the contexts' distinct openings, all but the last token, and copy keys and values to the rows that share them."""
        distinct = {tuple(c): None for c in contexts}
        place = {context: i for i, context in enumerate(distinct)}
        ids, mask = self._columns([list(c) for c in distinct])
        chosen = torch.tensor([place[tuple(c)] for c in contexts], device=ids.device)
        self.ids, self.mask, self.cache = ids[chosen], mask[chosen], self._new_cache()
        if len(distinct) < len(contexts) and ids.shape[1] > 1:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            self.model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, :-1],
                use_cache=True,
                past_key_values=self.cache,
                logits_to_keep=1,
            )
            self.cache.batch_select_indices(chosen)

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
        """Move the tokens of each row together, holes to the left. Keys know their position, not their column, so none is computed anew."""
        read = self.cache.get_seq_length()  # what was sampled last is not in the cache yet
        order = self.mask[:, :read].argsort(dim=1, stable=True)[
            :, read - int(self.mask[:, :read].sum(1).max()) :
        ]  # (B, longest)
        for layer in self.cache.layers:
            layer.choose(chosen, order)
        self.ids, self.mask = (
            torch.cat([what[:, :read].gather(1, order), what[:, read:]], 1)
            for what in (self.ids, self.mask)
        )

    def _new_cache(self) -> Cache:
        return Cache(layers=[_RoomyLayer() for _ in range(self.model.config.num_hidden_layers)])

    def _decode(
        self, written: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample until enough rows have ended or are full. Takes how many tokens of its message each row has (B,) and the draws for the
        tokens of a message (B, message_tokens), None if greedy; gives the new tokens (B, N), padded after a row's end, and who is still
        writing (B,)."""
        ids, mask = self.ids, self.mask
        left = ids[:, self.cache.get_seq_length() :]  # what the cache has not read yet
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -left.shape[1] :]
        replied = mask[:, -left.shape[1] : -1].any(1)
        if left.shape[1] < ids.shape[1] and not bool(replied.all()) and bool(replied.any()):
            # who goes on with a message has one token to read: the others' replies are read without them
            for layer in self.cache.layers:
                layer.active_rows = replied.nonzero()[:, 0]
            self.model(
                input_ids=left[replied, :-1],
                attention_mask=mask[replied, :-1],
                position_ids=positions[replied, :-1],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            for layer in self.cache.layers:
                layer.active_rows = None
            left, positions = left[:, -1:], positions[:, -1:]
        writing = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        new: list[torch.Tensor] = []
        while int((~writing).sum()) < self.wait * len(ids):
            logits = (
                self.model(
                    input_ids=left,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=self.cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )  # (B, V)
            if noise is not None:
                # the place where the distribution function passes a uniform draw: multinomial draws a number for every entry instead
                reached = torch.softmax(logits / self.temperature, -1).cumsum(-1)
                draw = noise.gather(1, written.clamp(max=self.message_tokens - 1)[:, None])
                token = torch.searchsorted(reached, draw * reached[:, -1:])[:, 0]
                token = token.clamp(max=logits.shape[1] - 1)
            else:
                token = logits.argmax(-1)
            token = torch.where(writing, token, self.pad)
            new.append(token)
            written = written + writing
            writing = writing & (token != self.eos) & (written < self.message_tokens)
            left, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(ids), 1)], 1)
        return torch.stack(new, 1), writing

    def __call__(self, contexts: Sequence[list[int]]) -> tuple[list[list[int] | None], None]:
        places = self._continued(contexts)
        if places is None:
            self.forget()
            rows = [
                _Row([], torch.Generator().manual_seed(seed))
                for seed in torch.randint(2**62, (len(contexts),)).tolist()
            ]
        else:
            rows = [self.rows[place] for place in places]
        for row in rows:
            if not row.message and self.temperature:
                row.noise = torch.rand(self.message_tokens, generator=row.draws)
        with torch.no_grad(), evaluating(self.model):
            if self.cache is None:
                self._start(
                    [context + row.message for context, row in zip(contexts, rows, strict=True)]
                )
            else:
                self._go_on(
                    [
                        row.message[-1:] or context[len(row.tokens) :]
                        for context, row in zip(contexts, rows, strict=True)
                    ],
                    places,
                )
            device = self.ids.device
            written = torch.tensor([len(row.message) for row in rows], device=device)
            noise = (
                torch.stack([row.noise for row in rows]).to(device) if self.temperature else None
            )
            new, writing = self._decode(written, noise)
        messages: list[list[int] | None] = []
        read = []  # of the new columns, how many hold a token of the row
        for row, context, tokens, unfinished in zip(
            rows, contexts, new.tolist(), writing.tolist(), strict=True
        ):
            tokens = tokens[: self.message_tokens - len(row.message)]
            tokens = tokens[: tokens.index(self.eos) + 1] if self.eos in tokens else tokens
            message = row.message + tokens
            row.tokens, row.message = (context, message) if unfinished else (context + message, [])
            messages.append(None if unfinished else message)
            read.append(
                len(tokens) - unfinished
            )  # the next wave starts with the last token of an unfinished message
        columns = (
            torch.arange(new.shape[1], device=device) < torch.tensor(read, device=device)[:, None]
        )
        self.rows, self.ids, self.mask = (
            rows,
            torch.cat([self.ids, new], 1),
            torch.cat([self.mask, columns.long()], 1),
        )
        if not self.keep:
            self.cache = None
        return messages, None
