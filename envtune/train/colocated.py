"""TRL's colocated vLLM with three changes: seed and precision, CPU, and how LoRA weights reach it.

TRL merges adapters into the base weights before it pushes them to vLLM, and subtracts them again
afterwards. In bf16 that rounds (trl#6688): after 120 pushes a quarter of the base weights had
changed, which moves the KL reference and makes the saved policy another one than the trained. Here
the sum is made beside the weights, which stay as they are bit by bit (lora.py).

TRL 1.16: trl.generation.vllm_generation.VLLMGeneration, made by GRPOTrainer.__init__.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from trl.generation.vllm_generation import VLLMGeneration

from envtune.policy import vllm_engine
from envtune.train.lora import merged_weights

# as modules whose names are replaced for a moment below
_generation: Any = importlib.import_module("trl.generation.vllm_generation")
_trainer: Any = importlib.import_module("trl.trainer.grpo_trainer")


class Generation(VLLMGeneration):
    """VLLMGeneration with `engine_settings` for its engine, and adapters merged out of place."""

    engine_settings: dict[str, Any] = {}  # noqa: RUF012 -- a subclass of one run sets it

    def _init_vllm(self) -> None:
        if self.mode != "colocate":
            return super()._init_vllm()
        vllm_engine.prepare()
        theirs = _generation.LLM

        def build(**settings):
            return theirs(**{**settings, **self.engine_settings})

        _generation.LLM = build
        try:
            return super()._init_vllm()
        finally:
            _generation.LLM = theirs

    def _iter_named_params(self) -> Iterator[tuple[str, torch.Tensor]]:
        if _generation.is_peft_model(self.model):
            yield from merged_weights(self.model)
        else:
            yield from super()._iter_named_params()


@contextlib.contextmanager
def engine_settings(**settings) -> Iterator[None]:
    """Within it, a GRPOTrainer makes our Generation with these settings for its engine."""
    theirs = _trainer.VLLMGeneration
    _trainer.VLLMGeneration = type("Generation", (Generation,), {"engine_settings": settings})
    try:
        yield
    finally:
        _trainer.VLLMGeneration = theirs
