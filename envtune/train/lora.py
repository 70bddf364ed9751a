"""Adapters merged into the weights under them, beside these or for good.

In bf16 a plain sum loses what is learned: a weight stays what it was while the change is below half
of its last digit, which most changes of a stage are (docs/training.md, "Adapters and bf16"). Here a
sum is rounded up or down by a draw, so that it is right in the mean over the weights; a weight that
did not change stays as it is, bit by bit.
"""

import zlib
from collections.abc import Iterator
from typing import Any

import torch


def rounded(value: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A float32 tensor in `dtype`, to bf16 by a draw that depends on `name` and the device alone.

    So each merge rounds one weight in the same direction, and equal adapters give equal weights.
    """
    if dtype is not torch.bfloat16:
        return value.to(dtype)
    # bf16 is the upper half of float32: add a random lower half, then cut it off
    draws = torch.Generator(value.device).manual_seed(zlib.crc32(name.encode()))
    bits = value.float().contiguous().view(torch.int32)
    low = torch.randint(1 << 16, bits.shape, generator=draws, dtype=bits.dtype, device=bits.device)
    return ((bits + low) & -65536).view(torch.float32).to(dtype)


def _adapted(model) -> dict[str, Any]:
    """The layers of a PEFT model that have LoRA adapters, by the name of their weight."""
    from peft.tuners.lora import LoraLayer

    modules = model.named_modules()
    return {f"{n}.base_layer.weight": m for n, m in modules if isinstance(m, LoraLayer)}


def _plain(name: str) -> str:
    """A weight's name in the model without adapters."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def _sum(layer, weight: torch.Tensor, name: str) -> torch.Tensor:
    total = weight.float()
    for adapter in layer.active_adapters:
        total = total + layer.get_delta_weight(adapter)
    return rounded(total, weight.dtype, name)


def merged_weights(model) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of a PEFT model as if its LoRA adapters were merged, in the base's precision.

    Names are those of the model without adapters. The model stays as it is.
    """
    adapted = _adapted(model)
    for name, weight in model.named_parameters():
        if model.prefix in name:
            continue
        layer, plain = adapted.get(name), _plain(name)
        yield plain, _sum(layer, weight.data, plain) if layer else weight.data


def merged(model) -> Any:
    """The model under a PEFT model, with its LoRA adapters merged into its weights for good."""
    for name, layer in _adapted(model).items():
        weight = layer.get_base_layer().weight
        weight.data = _sum(layer, weight.data, _plain(name))
    return model.unload()
