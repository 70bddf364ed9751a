"""The memory that a preset needs per GPU, what was found, and every reason why it cannot work.

    >>> estimate(presets.GPU_24GB, SHAPES["Qwen/Qwen2.5-3B-Instruct"])["weights"]     # GiB
    1.6

The estimate counts what is large (weights, gradients, optimiser, reference, activations, logits,
keys and values, vLLM's share) from the model's shape. It is rough, enough to tell 12 GiB from 30,
and was not measured on a GPU: see docs/verified.md.
"""

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from packaging.version import Version
from transformers import AutoConfig

from envtune.policy import agent
from envtune.train import stages
from envtune.train.presets import Preset

OPENING_TOKENS = 8_192
"""Longest opening: system prompt with tool docs, first user message [tokens]."""
COMPACT_OPENING_TOKENS = 1_024
"""The same with compact tool docs; SmolLM2's tokenizer needs at most 725 for BFCL's 800 tasks
(4,951 with full docs)."""
VLLM_RANGE = ("0.22.0", "0.31.0")
"""vLLM versions that TRL 1.16 takes."""
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder-only transformer with gated feed-forward layers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    context_tokens: int

    @property
    def linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block."""
        h, kv, wide = self.hidden, self.hidden // self.heads * self.kv_heads, self.intermediate
        return [(h, h), (h, kv), (h, kv), (h, h), (h, wide), (h, wide), (wide, h)]

    @property
    def block_parameters(self) -> int:
        return self.layers * sum(i * o for i, o in self.linear)

    @property
    def parameters(self) -> int:
        """Weights in all, biases and norms left out (below 0.1%)."""
        return self.block_parameters + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def adapter_parameters(self, rank: int) -> int:
        return self.layers * sum(rank * (i + o) for i, o in self.linear)

    @property
    def cache_values_per_token(self) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads)


_LLAMA_8B = Shape(32, 4096, 32, 8, 14336, 128_256, False, 131_072)
SHAPES = {
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(28, 1536, 12, 2, 8960, 151_936, True, 32_768),
    "Qwen/Qwen2.5-3B-Instruct": Shape(36, 2048, 16, 2, 11_008, 151_936, True, 32_768),
    "Qwen/Qwen2.5-7B-Instruct": Shape(28, 3584, 28, 4, 18_944, 152_064, False, 32_768),
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "Team-ACE/ToolACE-2-Llama-3.1-8B": _LLAMA_8B,
    "watt-ai/watt-tool-8B": _LLAMA_8B,
    "smollm2": Shape(30, 576, 9, 3, 1536, 49_152, True, 8_192),
}
"""Shapes that are known without a model hub: the presets' models and the paper's."""


def shape_of(model: str) -> Shape | None:
    """The shape of a preset's model: known, or from its config; None without the hub."""
    if model in SHAPES:
        return SHAPES[model]
    try:
        config = AutoConfig.from_pretrained(agent.FOLDER if model == "tiny-agent" else model)
    except (OSError, ValueError):
        return None
    return Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
        config.vocab_size,
        config.tie_word_embeddings,
        config.max_position_embeddings,
    )


def longest_tokens(preset: Preset) -> tuple[int, int]:
    """(whole sequence, completion) of the longest episode in the preset's stages [tokens]."""
    trained = [
        stage for stage, steps in zip(stages.STAGES, preset.stage_steps, strict=True) if steps
    ] or stages.STAGES
    completion = preset.completion_tokens or max(stage.completion_tokens for stage in trained)
    return completion + (COMPACT_OPENING_TOKENS if preset.compact else OPENING_TOKENS), completion


def estimate(preset: Preset, shape: Shape, gpu_gib: float | None = None) -> dict[str, float]:
    """GiB that one GPU needs at most, by part.

    gpu_gib: the memory that vLLM's share is a share of (None: the preset's).
    """
    value = 2 if preset.bf16 else 4  # bytes
    spread = preset.processes if preset.parallel in ("zero3", "fsdp") else 1
    embedding = shape.parameters - shape.block_parameters
    weights = shape.parameters * value
    if preset.four_bit:
        weights = shape.block_parameters * 0.53 + embedding * value
    trained = shape.adapter_parameters(preset.lora_rank) if preset.lora_rank else shape.parameters
    # adapters are float32; ZeRO-3 and FSDP keep full weights in float32 beside AdamW's moments
    wide = 4 if preset.lora_rank or spread > 1 else value
    optimiser = trained * (2 * wide + wide + (wide if spread > 1 else 0))
    full, completion = longest_tokens(preset)
    tokens = preset.device_batch * full
    one_block = tokens * (4 * shape.hidden + 3 * shape.intermediate) * value * 2
    activations = one_block * shape.layers
    if preset.gradient_checkpointing:
        activations = one_block + tokens * shape.hidden * shape.layers * value
    # as computed, as float32, and their gradient
    logits = preset.device_batch * completion * shape.vocabulary * (value + 4 + 4)
    prompts = preset.prompts_per_step or max(stage.prompts_per_step for stage in stages.STAGES)
    rollouts = prompts * preset.generations // preset.processes
    at_once = 0 if preset.use_vllm else min(preset.rollout_batch or rollouts, rollouts)
    cache = at_once * full * shape.cache_values_per_token * value * 1.25
    reference = 0 if preset.lora_rank or not preset.beta else shape.parameters * value
    parts = {
        "weights": weights / spread,
        "adapters, gradients, optimiser": optimiser / spread,
        "KL reference": reference / spread,
        "one step, the larger of loss and sampling": max(activations + logits, cache),
        "CUDA and fragmentation": 1.5 * GIB if preset.bf16 else 0,
    }
    if preset.use_vllm and preset.vllm_mode == "colocate":
        share = 0.0 if preset.vllm_sleep else preset.vllm_gpu_share  # asleep it frees its memory
        parts["vLLM"] = share * (gpu_gib or preset.gpu_gib) * GIB
    return {name: round(size / GIB, 1) for name, size in parts.items()}


def found() -> tuple[str, int, float]:
    """The device found: its name, how many there are, and the memory of one [GiB]."""
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return gpu.name, torch.cuda.device_count(), gpu.total_memory / GIB
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "CPU", os.cpu_count() or 1, memory / GIB


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _missing(preset: Preset) -> list[str]:
    """Packages that the preset needs and that are missing, or have a wrong version."""
    problems, have = [], _installed("vllm")
    least, most = map(Version, VLLM_RANGE)
    if preset.use_vllm:
        if not have:
            problems.append(
                "vLLM is not installed: pip install -c constraints.txt -e '.[gpu]', or set "
                "use_vllm=False"
            )
        elif not least <= Version(Version(have).base_version) <= most:
            problems.append(
                f"vLLM {have} is installed and TRL takes {least} to {most}: install the version of "
                "constraints.txt"
            )
    wanted = {
        "bitsandbytes": (preset.four_bit, "gpu"),
        "deepspeed": (preset.parallel == "zero3" and preset.processes > 1, "sweep"),
        **{
            package: (package in preset.report_to, "reports")
            for package in ("tensorboard", "wandb", "trackio")
        },
    }
    return problems + [
        f"{package} is not installed: pip install -c constraints.txt -e '.[{extra}]'"
        for package, (needed, extra) in wanted.items()
        if needed and _installed(package) is None
    ]


def report(preset: Preset) -> tuple[str, list[str]]:
    """A table as text, and every reason why the preset cannot work here."""
    name, count, gib = found()
    shape, problems = shape_of(preset.model), _missing(preset)
    gpu = torch.cuda.is_available()
    if not gpu and (preset.use_vllm or preset.bf16) and preset.parallel != "cpu":
        needed = f"it needs {preset.processes} CUDA GPU(s) and none was found"
        problems.insert(0, f"{needed} (cpu-tiny runs without)")
    if gpu and preset.processes > count and preset.parallel != "cpu":
        problems.append(
            f"it needs {preset.processes} GPUs and {count} were found: set processes={count}, or "
            "use more machines"
        )
    if gpu and preset.bf16 and not torch.cuda.is_bf16_supported():
        problems.append(f"{name} has no bf16: set bf16=False")
    for stage, steps in zip(stages.STAGES, preset.stage_steps, strict=True):
        rollouts = (preset.prompts_per_step or stage.prompts_per_step) * preset.generations
        if steps and rollouts % (preset.device_batch * preset.processes):
            problems.append(
                f"{stage.name}: {rollouts} rollouts per step do not divide into batches of "
                f"{preset.device_batch} on {preset.processes} device(s)"
            )
    full, completion = longest_tokens(preset)
    if preset.message_tokens > completion:
        problems.append(
            f"a message may have {preset.message_tokens:,} tokens and a whole completion "
            f"{completion:,}"
        )
    if preset.use_vllm and full > preset.context_tokens:
        problems.append(
            f"an episode may have {full:,} tokens and vLLM reserves "
            f"context_tokens={preset.context_tokens:,}"
        )
    if shape is None:
        unknown = f"the shape of {preset.model} is not known without the model hub; no estimate"
        return f"{preset.name}: {unknown}", problems
    longest = max(full, preset.context_tokens) if preset.use_vllm else full
    if longest > shape.context_tokens:
        problems.append(
            f"episodes of up to {longest:,} tokens, and {preset.model} reads "
            f"{shape.context_tokens:,}: lower context_tokens and completion_tokens, or set "
            "compact=True"
        )
    parts = estimate(preset, shape, gib if gpu else None)
    total = sum(parts.values())
    if (gpu or not preset.bf16) and total > gib:
        problems.append(
            f"it needs about {total:.0f} GiB per device and {name} has {gib:.0f}: lower "
            "device_batch, rollout_batch, completion_tokens or vllm_gpu_share, take a smaller "
            "model, or spread it (parallel='zero3')"
        )
    if preset.use_vllm and preset.vllm_mode == "colocate" and gpu:
        episode = preset.context_tokens * shape.cache_values_per_token
        least = (shape.parameters + episode) * 2 / GIB
        if least > preset.vllm_gpu_share * gib:
            problems.append(
                f"vLLM needs at least {least:.0f} GiB for its weights and one episode, and "
                f"vllm_gpu_share={preset.vllm_gpu_share} of {gib:.0f} is less"
            )
    room = gib if gpu or not preset.bf16 else preset.gpu_gib
    lines = [
        f"{preset.name}: {preset.model}, {shape.parameters / 1e9:.2f} billion parameters; "
        f"found {count} x {name}, {gib:.0f} GiB",
        *(f"  {part:<45} {size:7.1f} GiB" for part, size in parts.items()),
        f"  {'together, estimated':<45} {total:7.1f} GiB of {room:.0f}",
    ]
    return "\n".join(lines), problems


def check(preset: Preset) -> None:
    """Print what a preset needs and what was found. ValueError if it cannot work, saying why."""
    table, problems = report(preset)
    print(table)
    if problems:
        raise ValueError(f"preset {preset.name!r} cannot work here:\n- " + "\n- ".join(problems))
