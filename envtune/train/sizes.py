"""What a preset takes of memory and disk: arithmetic on its model's shape.

    >>> parts = estimate(presets.GPU_24GB, SHAPES["Qwen/Qwen2.5-3B-Instruct"])
    >>> parts["weights"], together(parts)     # GiB
    (1.9, 7.1)

For the longest episode, with what TRL 1.16 and packing.py allocate. Rough, enough to tell 12 GiB
from 30, and not measured on a GPU: see docs/verified.md.
"""

from dataclasses import dataclass

from transformers import AutoConfig

from envtune.policy import agent
from envtune.train import stages
from envtune.train.presets import Preset

GIB = 2**30
OPENING_TOKENS = 8_192
"""Longest opening: system prompt with tool docs, first user message [tokens]."""
COMPACT_OPENING_TOKENS = 1_024
"""The same with compact tool docs; SmolLM2's tokenizer needs at most 725 for BFCL's 800 tasks
(4,951 with full docs)."""
TILE = (4_096, 32_768)
"""Tokens and vocabulary entries whose logits TRL's LM head holds at a time on a GPU (its
kernels/chunked_logprob.py and trainer/utils.py); whole logits are never there."""
GATHERED_VALUES = 1_500_000_000
"""DeepSpeed's defaults: 1e9 gathered weights (stage3_max_live_parameters) and 5e8 gradients on
their way (reduce_bucket_size). Taken for FSDP too, which needs less, except that TRL gathers the
whole KL reference under it."""
CUDA_BYTES = int(1.5 * 2**30)
"""CUDA context, workspaces and fragmentation of one process; assumed."""
VLLM_OWN_BYTES = int(1.5 * 2**30)
"""vLLM's activations, CUDA graphs and sampler, within its share; assumed."""
VLLM_ASLEEP_BYTES = 2**30
"""What a sleeping vLLM keeps: CUDA graphs, buffers and its context; assumed."""
TRAINING = "while training: activations, LM head"
SAMPLING = "while sampling: keys and values, or vLLM"
"""Two parts that are never there together; the larger one counts."""


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
    def kv_width(self) -> int:
        """Values of the keys of one token in one layer."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def linear(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block."""
        h, kv, wide = self.hidden, self.kv_width, self.intermediate
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
        return 2 * self.layers * self.kv_width


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
        config = AutoConfig.from_pretrained(agent.FOLDERS.get(model, model))
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


def _value_bytes(preset: Preset) -> tuple[int, int]:
    """Bytes of a value as computed, and as weights are kept.

    Full fine-tuning in bf16 keeps float32 weights, because steps of 1e-6 vanish in bf16; DeepSpeed
    has them in its optimiser instead.
    """
    computed = 2 if preset.bf16 else 4
    masters = preset.bf16 and not preset.lora_rank and not preset.zero3
    return computed, 4 if masters else computed


def _standing(preset: Preset, shape: Shape) -> dict[str, float]:
    """Bytes on one device that are always there."""
    computed, kept = _value_bytes(preset)
    spread, everything = preset.spread, shape.parameters
    weights = everything * kept
    if preset.four_bit:  # 4.25 bits with the scales of NF4; embeddings stay as computed
        embeddings = everything - shape.block_parameters
        weights = shape.block_parameters * 0.53 + embeddings * computed
    elif kept > computed and spread == 1:
        weights += everything * computed  # autocast's bf16 copies, until a forward pass has ended
    if preset.lora_rank:  # adapters, their gradients and AdamW's two moments, all in float32
        trained = shape.adapter_parameters(preset.lora_rank) * 16
    else:  # gradients as the weights; two moments, and under ZeRO-3 the float32 weights
        trained = everything * (kept + 8 + (4 if preset.zero3 else 0))
    # with LoRA the reference is the model without its adapters
    reference = everything * kept if preset.beta and not preset.lora_rank else 0
    gathered = min(2 * everything, GATHERED_VALUES) * computed if spread > 1 else 0
    if reference and preset.parallel == "fsdp":
        gathered = max(gathered, everything * computed)
    return {
        "weights": weights / spread,
        "gradients, optimiser, adapters": trained / spread,
        "KL reference": reference / spread,
        "layers gathered from other GPUs": gathered,
        "CUDA and fragmentation": CUDA_BYTES if preset.bf16 else 0,
    }


def saved_values(preset: Preset, shape: Shape) -> int:
    """Values as computed that one block saves for one token, for its backward pass.

    Around attention and norms, more with adapters and most where float32 weights make the residual
    stream float32; then keys and values; then the MLP. tests/test_sizes.py counts them.
    """
    computed, kept = _value_bytes(preset)
    around = 24 if kept > computed else 12 if preset.lora_rank else 10
    return around * shape.hidden + 2 * shape.kv_width + 4 * shape.intermediate


def _loss(preset: Preset, shape: Shape) -> float:
    """Bytes of activations and LM head. packing.py needs no attention mask at any batch size."""
    computed, kept = _value_bytes(preset)
    full, completion = longest_tokens(preset)
    hidden, wide = shape.hidden, shape.intermediate
    tokens, scored = preset.device_batch * full, preset.device_batch * completion
    block = saved_values(preset, shape)
    saved = shape.layers * block * computed
    if preset.gradient_checkpointing:  # the input of every block, and one block computed anew
        saved = shape.layers * hidden * kept + block * computed
    activations = tokens * (saved + 3 * wide * computed)  # and the gradients within one MLP
    if not (preset.bf16 or preset.use_vllm):  # on a CPU packing.py holds logits where it scores:
        # log-probabilities and probabilities of all, three copies of a chunk
        logits = (2 * scored + 3 * min(scored, TILE[0])) * shape.vocabulary * 4
        return activations + logits
    head = min(scored, TILE[0]) * TILE[1] * computed + scored * hidden * (2 * computed + 4)
    if not preset.lora_rank:  # its gradient in float32 and as the weights; gathered if spread
        head += shape.vocabulary * hidden * (4 + kept + (2 if preset.spread > 1 else 0))
    return activations + head


def _own_cache(preset: Preset, shape: Shape) -> float:
    """Bytes of the keys and values that the sampler keeps without vLLM, with its spare columns."""
    at_once = max(rollouts(preset), -(-preset.validation_tasks // preset.processes))
    at_once = min(preset.rollout_batch or at_once, at_once)
    values = at_once * longest_tokens(preset)[0] * shape.cache_values_per_token
    return values * _value_bytes(preset)[1] * 1.25


def rollouts(preset: Preset) -> int:
    """Episodes that a process plays in one step."""
    prompts = preset.prompts_per_step or max(stage.prompts_per_step for stage in stages.STAGES)
    return prompts * preset.generations // preset.processes


def colocated(preset: Preset) -> bool:
    return preset.use_vllm and preset.vllm_mode == "colocate"


def estimate(preset: Preset, shape: Shape, gpu_gib: float | None = None) -> dict[str, float]:
    """GiB on one device, by part; of TRAINING and SAMPLING only one is there at a time.

    gpu_gib: the memory that vLLM's share is a share of (None: the preset's).
    """
    parts = _standing(preset, shape)
    training, sampling = _loss(preset, shape), 0.0
    vllm = preset.vllm_gpu_share * (gpu_gib or preset.gpu_gib) * GIB
    if not preset.use_vllm:
        sampling = _own_cache(preset, shape)
    elif colocated(preset) and preset.vllm_sleep:
        training, sampling = training + VLLM_ASLEEP_BYTES, vllm
    elif colocated(preset):
        parts["vLLM, always awake"] = vllm
    parts |= {TRAINING: training, SAMPLING: sampling}
    return {name: round(size / GIB, 1) for name, size in parts.items()}


def together(parts: dict[str, float]) -> float:
    """GiB at the fullest moment: while training or while sampling."""
    return sum(parts.values()) - min(parts[TRAINING], parts[SAMPLING])


def episodes_held(preset: Preset, shape: Shape, gpu_gib: float | None = None) -> float:
    """How many of the longest episodes fit the keys and values of a colocated vLLM at once."""
    computed = _value_bytes(preset)[0]
    room = preset.vllm_gpu_share * (gpu_gib or preset.gpu_gib) * GIB - VLLM_OWN_BYTES
    episode = longest_tokens(preset)[0] * shape.cache_values_per_token * computed
    return max(0.0, (room - shape.parameters * computed) / episode)


def disk(preset: Preset, shape: Shape) -> float:
    """GiB that a run leaves at its fullest: policies, adapters and checkpoints.

    A finished stage keeps its policy and last checkpoint; one in training has
    preset.checkpoints_kept and the one being written. Models from a hub are not counted.
    """
    computed, kept = _value_bytes(preset)
    policy = shape.parameters * kept
    checkpoint = shape.parameters * (14 if preset.zero3 else kept + 8)
    if preset.lora_rank:  # adapters and their two moments; the policy has them merged
        adapters = shape.adapter_parameters(preset.lora_rank) * 4
        policy, checkpoint = shape.parameters * computed + adapters, 3 * adapters
    trained = [steps for steps in preset.stage_steps if steps]
    written = max((-(-steps // max(1, preset.save_every)) for steps in trained), default=0)
    checkpoints = max(0, len(trained) - 1) + min(preset.checkpoints_kept + 1, written)
    return (len(trained) * policy + checkpoints * checkpoint) / GIB
