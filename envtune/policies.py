"""A policy from a folder or hub id, and the way to get its next messages: contexts as ids in, sampled ids out (rollout.Generate).

    >>> model, tokenizer = load("runs/quickstart/stage1_syntax/policy", bf16=False)
    >>> generate = Sampler(model, tokenizer, message_tokens=256, temperature=0.0)
    >>> rollouts = rollout.play(episodes, rollout.Chat(tokenizer), generate, budget_tokens=4096, message_tokens=256)
"""
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils import logging

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
"""The 4-bit weights of QLoRA, as bitsandbytes takes them."""


def load(policy: Path | str, bf16: bool, four_bit: bool = False, device: str | None = None):
    """Model and tokenizer of a folder or hub id, on `device` (None: where transformers puts it)."""
    logging.disable_progress_bar()  # one for every load and save would bury the run's own
    quantisation = {"quantization_config": BitsAndBytesConfig(**NF4)} if four_bit else {}
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.bfloat16 if bf16 else torch.float32, **quantisation)
    return (model.to(device) if device and not four_bit else model), AutoTokenizer.from_pretrained(policy)


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
    room: torch.Tensor | None = None  # (2, B, heads, columns, head size)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        used = self.get_seq_length() if self.is_initialized else 0
        end = used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        room = self.room
        if room is None or room.shape[1] != key_states.shape[0] or room.shape[3] < end:
            rows, heads, _, size = key_states.shape
            room = key_states.new_empty(2, rows, heads, end + max(64, end // 4), size)
            if used:
                room[0, :, :, :used], room[1, :, :, :used] = self.keys, self.values
            self.room = room
        room[0, :, :, used:end], room[1, :, :, used:end] = key_states, value_states
        self.keys, self.values = room[0, :, :, :end], room[1, :, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None


class Sampler:
    """Samples messages token by token and keeps the keys and values of one batch of episodes between its waves.

    A wave's contexts continue those of the wave before (context + message + the environment's reply), some rows may be gone: then
    only the reply is read. Any other contexts start anew. In a new batch equal openings, such as a group's, are read once.
    Temperature 0 is greedy. Seed with torch.manual_seed. Columns where a row has no token (other rows' messages were longer) stay in
    the cache with mask 0; when they are `waste` of the longest row, each row's tokens are moved together.
    """

    def __init__(self, model, tokenizer, message_tokens: int, temperature: float = 1.0, waste: float = 0.15, keep: bool = True):
        self.model, self.pad, self.eos, self.waste, self.keep = model, tokenizer.pad_token_id, tokenizer.eos_token_id, waste, keep
        self.message_tokens, self.temperature = message_tokens, temperature
        self.forget()

    def forget(self) -> None:
        """Drop the cache: the model's weights changed, or its memory is needed."""
        self.cache = None
        self.rows: list[list[int]] = []  # the tokens of each row of the cache, as contexts begin with them
        self.ids = self.mask = torch.empty(0, 0, dtype=torch.long)  # (B, W); W counts the columns, holes included

    def _continued(self, contexts: Sequence[list[int]]) -> list[int] | None:
        """For each context the row it continues, in order; None when one continues none."""
        found, row = [], 0
        for context in contexts:
            while row < len(self.rows) and context[:len(self.rows[row])] != self.rows[row]:
                row += 1
            if row == len(self.rows):
                return None
            found.append(row)
            row += 1
        return found

    def _columns(self, pieces: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, longest piece), left-padded."""
        width = max(map(len, pieces))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in pieces], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in pieces], device=self.model.device)
        return ids, mask

    def _start(self, contexts: Sequence[list[int]]) -> None:
        """Read the contexts' distinct openings, all but the last token, and copy keys and values to the rows that share them."""
        self.forget()
        distinct = {tuple(c): None for c in contexts}
        place = {context: i for i, context in enumerate(distinct)}
        ids, mask = self._columns([list(c) for c in distinct])
        chosen = torch.tensor([place[tuple(c)] for c in contexts], device=ids.device)
        self.ids, self.mask = ids[chosen], mask[chosen]
        if len(distinct) < len(contexts) and ids.shape[1] > 1:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            self.cache = self._new_cache()
            self.model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=True,
                       past_key_values=self.cache, logits_to_keep=1)
            self.cache.batch_select_indices(chosen)

    def _go_on(self, contexts: Sequence[list[int]], rows: Sequence[int]) -> None:
        """Keep the running rows and append what the environment said."""
        chosen = torch.tensor(rows, device=self.ids.device)
        ids, mask = self._columns([c[len(self.rows[row]):] for c, row in zip(contexts, rows, strict=True)])
        if len(rows) < len(self.rows):
            self.cache.batch_select_indices(chosen)
        self.ids, self.mask = self.ids[chosen], self.mask[chosen]
        if self.ids.shape[1] > (1 + self.waste) * int(self.mask.sum(1).max()):
            self._close_holes()
        self.ids, self.mask = torch.cat([self.ids, ids], 1), torch.cat([self.mask, mask], 1)

    def _close_holes(self) -> None:
        """Move the tokens of each row together, holes to the left. Keys know their position, not their column, so none is computed anew."""
        read = self.cache.get_seq_length()  # what was sampled last is not in the cache yet
        order = self.mask[:, :read].argsort(dim=1, stable=True)[:, read - int(self.mask[:, :read].sum(1).max()):]  # (B, longest)
        for layer in self.cache.layers:
            columns = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values, layer.room = layer.keys.gather(2, columns), layer.values.gather(2, columns), None
        self.ids, self.mask = (torch.cat([what[:, :read].gather(1, order), what[:, read:]], 1) for what in (self.ids, self.mask))

    def _new_cache(self) -> Cache:
        return Cache(layers=[_RoomyLayer() for _ in range(self.model.config.num_hidden_layers)])

    def _decode(self) -> torch.Tensor:
        """Sample until every row has ended or is full; ids of the contexts and the new tokens (B, W), padded after a row's EOS."""
        ids, mask = self.ids, self.mask
        if self.cache is None:
            self.cache = self._new_cache()
        left = ids[:, self.cache.get_seq_length():]  # what the cache has not read yet
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -left.shape[1]:]
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        new: list[torch.Tensor] = []
        for _ in range(self.message_tokens):
            logits = self.model(input_ids=left, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True,
                                logits_to_keep=1).logits[:, -1].float()  # (B, V)
            if self.temperature:
                # the place where the distribution function passes a uniform draw: multinomial draws a number for every entry instead
                reached = torch.softmax(logits / self.temperature, -1).cumsum(-1)
                token = torch.searchsorted(reached, torch.rand(len(ids), 1, device=ids.device) * reached[:, -1:])[:, 0]
                token = token.clamp(max=logits.shape[1] - 1)
            else:
                token = logits.argmax(-1)
            token = torch.where(ended, self.pad, token)
            new.append(token)
            ended = ended | (token == self.eos)
            if bool(ended.all()):
                break
            left, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(ids), 1)], 1)
        return torch.cat([ids, torch.stack(new, 1)], 1)

    def __call__(self, contexts: Sequence[list[int]]) -> tuple[list[list[int]], None]:
        with torch.no_grad(), evaluating(self.model):
            rows = self._continued(contexts) if self.cache is not None else None
            if rows is None:
                self._start(contexts)
            else:
                self._go_on(contexts, rows)
            sequences = self._decode()
        width = self.ids.shape[1]
        messages = [m[:m.index(self.eos) + 1] if self.eos in m else m for m in sequences[:, width:].tolist()]
        if not self.keep:
            self.forget()
            return messages, None
        self.rows = [context + message for context, message in zip(contexts, messages, strict=True)]
        lengths = torch.tensor([len(m) for m in messages], device=self.mask.device)
        columns = torch.arange(sequences.shape[1] - width, device=self.mask.device)
        self.ids = sequences
        self.mask = torch.cat([self.mask, (columns[None] < lengths[:, None]).long()], 1)
        return messages, None
