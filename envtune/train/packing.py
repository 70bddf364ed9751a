"""Log-probabilities without padding. TRL pads a batch to its longest prompt and longest episode.

    trainer = PackedGRPOTrainer(...)        # GRPOTrainer, the same numbers, less work

Every row is moved to the left, so that no mask is needed and attention can use its fast causal
kernel. On a CPU, rows of similar length go through the model together, and logits are computed
only where the policy wrote. TRL 1.16: _get_per_token_logps_and_entropies, _compute_loss
(tests/test_packing.py compares with TRL's own numbers).
"""

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]  # no __all__

CHUNK_TOKENS = 4_096
"""How many tokens go through the model at a time in a single process on a CPU."""


class PackedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer without padding. Images, and losses that need every logit, use TRL's own code."""

    args: GRPOConfig
    _sampled: torch.Tensor | None = None  # (B, C): where the policy wrote, while computing its loss

    def _compute_loss(self, model, inputs):
        mask = inputs["completion_mask"]
        self._sampled = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._sampled = None

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **images,
    ):
        """Log-probabilities and, if asked, entropies (B, logits_to_keep); 0 where not needed."""
        if compute_aux_loss or any(value is not None for value in images.values()):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **images,
            )
        rows, width = input_ids.shape
        wanted = attention_mask.bool().clone()
        wanted[:, : width - logits_to_keep] = False
        if self._sampled is not None:
            wanted[:, width - logits_to_keep :] &= self._sampled.bool()
        starts = attention_mask.argmax(1)  # columns of padding before a row's first token
        lengths = attention_mask.sum(1)
        columns = torch.arange(width, device=input_ids.device)[None]
        source = (columns + starts[:, None]).clamp(max=width - 1)  # (B, W): a token's old column
        ids = input_ids.gather(1, source)
        labels = torch.where(wanted.gather(1, source) & (columns < lengths[:, None]), ids, -100)
        plain = self.accelerator.unwrap_model(model)
        on_cpu = input_ids.device.type == "cpu" and self.accelerator.num_processes == 1
        alone = on_cpu and isinstance(plain, PreTrainedModel)
        logps, entropies = input_ids.new_zeros(2, rows, width, dtype=torch.float32)
        order = lengths.argsort().tolist()
        for chunk in _chunks(order, lengths.tolist(), alone, batch_size):
            longest = int(lengths[chunk].max())
            part = (plain if alone else model, ids[chunk, :longest], labels[chunk, :longest])
            one, two = self._compact(*part) if alone else self._fused(*part)
            # not in place: the pieces belong to the graph of the loss
            place = torch.tensor(chunk, device=ids.device)[:, None], columns[:, :longest]
            logps, entropies = logps.index_put(place, one), entropies.index_put(place, two)
        back = (columns - starts[:, None]).clamp(min=0)[:, width - logits_to_keep :]
        return logps.gather(1, back), entropies.gather(1, back) if compute_entropy else None, None

    def _compact(self, model, ids, labels) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies (B, L), with logits only where there are labels."""
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        kept = labels[:, 1:] != -100  # (B, L-1)
        logits = model.lm_head(hidden[kept]).float() / self.temperature  # (K, V)
        log_probs = torch.log_softmax(logits, -1)
        chosen = log_probs.gather(1, labels[:, 1:][kept][:, None])[:, 0]
        probs = log_probs.detach().exp() if self.args.entropy_coef == 0 else log_probs.exp()
        entropy = -(probs * log_probs).sum(-1)
        row, column = kept.nonzero(as_tuple=True)
        place, blank = (row, column + 1), chosen.new_zeros(ids.shape)
        return blank.index_put(place, chosen), blank.index_put(place, entropy)

    def _fused(self, model, ids, labels) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with TRL's head, which works with every wrapper."""
        with self.accelerator.autocast():
            outputs = model(input_ids=ids, labels=labels, fused_lm_head=True)
        logps, entropy = outputs.log_probs, outputs.entropy
        if entropy is None:  # the reference model's
            entropy = torch.zeros_like(logps)
        # nothing predicts the first token
        return pad(logps.float(), (1, 0)), pad(entropy.float(), (1, 0))


def _chunks(
    order: list[int], lengths: list[int], alone: bool, batch_size: int | None
) -> list[list[int]]:
    """Rows that go through the model together: by length in a single process, else as in TRL."""
    if not alone:
        size, rows = batch_size or len(order), range(len(order))
        return [list(rows[start : start + size]) for start in rows[::size]]
    chunks: list[list[int]] = [[]]
    for row in order:
        if chunks[-1] and lengths[row] * (len(chunks[-1]) + 1) > CHUNK_TOKENS:
            chunks.append([])
        chunks[-1].append(row)
    return chunks
