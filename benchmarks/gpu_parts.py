"""The parts of benchmarks/gpu.py: each measures one thing, in a process of its own.

    $ python -m benchmarks.gpu_parts stage_lora runs/gpu [--tiny] [--model smollm2]

A part notes what it has measured in runs/gpu/PART.json as it goes, with how it ended: done, not run
(and why), unfinished or failed. Heavy imports are inside the functions, so that a part whose
packages are missing fails alone.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import gpu_check
from envtune.common.files import read_lines, write_json

STAGE = {"prompts_per_step": 8, "generations": 8, "device_batch": 8}
TINY = {"message_tokens": 60, "completion_tokens": 300, "context_tokens": 2_048}
TINY_STAGE = {"prompts_per_step": 2, "generations": 4, "device_batch": 8, "validation_tasks": 2}


class NotRun(Exception):
    """A part cannot run on this machine; the message says why."""


@dataclass
class Here:
    """What a part is given, and where it notes what it measured."""

    name: str
    folder: Path
    tiny: bool
    model: str

    def note(self, **values) -> None:
        """Add to the part's results; kept also if the part is stopped afterwards."""
        self.results = {**getattr(self, "results", {}), **values}
        self.end("unfinished", "it was stopped")

    def end(self, state: str, why: str = "") -> None:
        found = {"state": state, "why": why, "results": getattr(self, "results", {})}
        write_json(self.folder / f"{self.name}.json", found)

    def need(self, *packages: str) -> None:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise NotRun(f"{package} is not installed")

    def preset(self, **changes):
        """SmolLM2, or the model asked for, in bf16, vLLM beside the trainer; tiny: the agent."""
        import torch

        from envtune.train import presets

        if self.tiny:
            basis = replace(presets.CPU_SMOKE, lora_rank=8, bf16=True, use_vllm=True)
            return replace(basis, **TINY, **TINY_STAGE, **changes)
        bf16 = torch.cuda.is_bf16_supported()
        model = {"model": self.model, "bf16": bf16, "use_vllm": True, "vllm_gpu_share": 0.3}
        return replace(presets.SMOLLM2, **STAGE, **model, **changes)


class Peak:
    """The most memory taken while it runs [GiB]: by this process's PyTorch, and of the device."""

    def __enter__(self):
        import torch

        self.torch, self.device, self.ended = torch, 0.0, threading.Event()
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        while not self.ended.wait(0.2):
            free, total = self.torch.cuda.mem_get_info()
            self.device = max(self.device, (total - free) / 2**30)

    def __exit__(self, *_):
        self.ended.set()

    def found(self) -> dict:
        if not self.cuda:
            return {}
        allocated = self.torch.cuda.max_memory_allocated() / 2**30
        return {"allocated_gib": round(allocated, 2), "device_gib": round(self.device, 2)}


def summary(rows: list[dict]) -> dict:
    """Seconds of a step by part: medians over all steps but the first, which compiles."""
    import pandas as pd

    timed = pd.DataFrame(rows[1:] or rows)
    rest = timed["seconds"] - timed["generation_seconds"] - timed["environment_seconds"]
    seconds = {
        "seconds": timed["seconds"].median(),
        "generation": timed["generation_seconds"].median(),
        "environment": timed["environment_seconds"].median(),
        "rest": rest.median(),
        "first_step": rows[0]["seconds"],
        "tokens_per_second": timed["sampled_tokens"].sum() / timed["generation_seconds"].sum(),
    }
    found = {"steps": len(rows), **{k: round(float(v), 3) for k, v in seconds.items()}}
    if "kl" in rows[0]:
        found["kl_first_step"] = rows[0]["kl"]
    if "logprob_difference_max" in rows[0]:
        means = [row["logprob_difference_mean"] for row in rows]
        found["logprob_difference_mean"] = sum(means) / len(means)
        found["logprob_difference_max"] = max(row["logprob_difference_max"] for row in rows)
    return found


def estimated(preset) -> dict:
    from envtune.train import memory, sizes

    shape = sizes.shape_of(preset.model)
    parts = sizes.estimate(preset, shape, memory.found()[2]) if shape else {}
    return {"estimated_gib": round(sizes.together(parts), 2), "estimated": parts} if parts else {}


def stage(here: Here, steps: int, preset, hands_over: bool = True) -> None:
    """Steps of stage 1 in this process; notes seconds by part, agreement and memory after each.

    hands_over: whether the policy is merged and saved at the end.
    """
    import torch

    from envtune.train import launch, memory

    here.need(*["vllm"] * preset.use_vllm, *["bitsandbytes"] * preset.four_bit)
    if not here.tiny and (problems := memory.report(preset)[1]):
        raise NotRun("; ".join(problems))
    if preset.vllm_sleep and not torch.cuda.is_available():
        raise NotRun("vLLM's sleep mode needs CUDA")
    os.environ[launch.INSIDE] = "1"
    from envtune.train import grpo, stages, trl_trainer

    trl_trainer.StageTrainer.evaluate = lambda self, *args, **kwargs: {}  # only steps are measured
    if not hands_over:
        trl_trainer.hand_over = lambda *_: None
    steps, run = (2 if here.tiny else steps), here.folder / here.name
    preset = replace(preset, save_every=steps, validate_every=steps)
    shutil.rmtree(run, ignore_errors=True)  # of a call that was stopped
    with Peak() as peak:
        start = grpo.starting_model(preset)
        how = {"lora_rank": preset.lora_rank, "bf16": preset.bf16, "four_bit": preset.four_bit}
        how |= {"episodes": preset.prompts_per_step * preset.generations, "model": preset.model}
        how |= {"engine": "vLLM" if preset.use_vllm else "transformers"}
        rows: list[dict] = []

        def noted(row) -> None:
            told(row)
            if row["kind"] == "train":
                rows.append(row)
                here.note(**how, **summary(rows), **peak.found(), **estimated(preset))

        grpo.train_stage(stages.STAGES[0], preset, steps, start, run, 0, on_row=noted)
    here.note(**peak.found())


def told(row) -> None:
    print(row["kind"], row["step"], row.get("seconds", ""), flush=True)


def qlora(here: Here) -> None:
    preset = here.preset(use_vllm=False, four_bit=True)
    stage(here, 2, replace(preset, prompts_per_step=2, generations=4, device_batch=4))


def random_model(shape, folder: Path) -> Path:
    """A model of a known shape with random weights, and the embedded agent's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from envtune.policy import agent

    tokenizer = AutoTokenizer.from_pretrained(agent.FOLDER)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context_tokens,
        tie_word_embeddings=shape.tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype=torch.bfloat16,
    )
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def memory_7b(here: Here) -> None:
    """A step of gpu-80gb on random weights: messages never end, so every episode is full."""
    from envtune.train import presets, sizes

    vllm = importlib.util.find_spec("vllm") is not None
    shape = sizes.SHAPES["Qwen/Qwen2.5-7B-Instruct"]
    preset = replace(presets.GPU_80GB, prompts_per_step=2, generations=4, validation_tasks=1)
    if not vllm:  # slower, so shorter
        short = {"completion_tokens": 3_072, "message_tokens": 768}
        preset = replace(preset, use_vllm=False, **short)
    if here.tiny:
        shape = sizes.Shape(2, 128, 4, 2, 256, 4_096, True, 4_096)
        preset = replace(here.preset(), use_vllm=vllm)
    folder = random_model(shape, here.folder / "random_weights")
    try:
        stage(here, 1, replace(preset, model=str(folder)), hands_over=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    here.note(model=f"random weights, {shape.parameters / 1e9:.2f} billion")


def generation(here: Here, cached: bool = True, sleep: bool = False) -> None:
    """Tokens per second of a vLLM engine, in waves and continuously."""
    import torch

    here.need("vllm", "trl")
    if sleep and not torch.cuda.is_available():
        raise NotRun("vLLM's sleep mode needs CUDA")
    from benchmarks import generation as waves

    sizes, seeds = ((8, 8, 3), (0,)) if here.tiny else ((64, 64, 8), (0, 1, 2))
    model = "tiny-agent" if here.tiny else here.model
    bf16 = here.preset().bf16
    llm = waves.load(model, bf16, 2_048 if here.tiny else 8_192, 0.3, cached, sleep)
    waves.on_vllm(llm, 1, 0, (4, sizes[1], 2), 128)  # warm up
    rows = []
    for spread in (1, 4):
        for seed in seeds:
            rows.append(waves.on_vllm(llm, spread, seed, sizes, 128))
            here.note(rows=rows, prefix_cache=cached, sleep_mode=sleep)
    if sleep:
        took = {}
        for name, act in (("sleep", lambda: llm.sleep(level=1)), ("wake_up", llm.wake_up)):
            began = time.perf_counter()
            act()
            took[name] = round(time.perf_counter() - began, 3)
        here.note(seconds=took)


def curriculum(here: Here) -> None:
    """A format warm-up and the four stages, as in notebook 09; goes on where it was stopped."""
    from envtune.policy import sampler
    from envtune.train import evaluation, grpo, memory, sft, stages

    vllm = importlib.util.find_spec("vllm") is not None
    preset = here.preset(use_vllm=vllm)
    count = 8 if here.tiny else 400
    if not here.tiny:
        stage_sizes = {"prompts_per_step": 4, "validation_tasks": 40}
        preset = replace(preset, stage_steps=(20, 20, 20, 20), **stage_sizes)
        if problems := memory.report(preset, here.folder / here.name)[1]:
            raise NotRun("; ".join(problems))
    run = here.folder / here.name
    start, tested = grpo.starting_model(preset), stages.validation_tasks(preset)
    rows: list[dict] = []

    def measure(policy, name: str) -> None:
        # on our own sampler: for so few tasks vLLM would take longer to start than to play
        how = {"engine": "transformers", "keep": run / f"evaluation_{name}"}
        table = evaluation.evaluate(policy, tested, preset, **how)
        means = table[["valid", "progress", "format_reward"]].mean().round(4).to_dict()
        rows.append({"policy": name, "tasks": len(table), **means})
        here.note(rows=rows)

    measure(start, "untuned")
    tokenizer = sampler.load_tokenizer(start)
    tasks = stages.training_tasks(stages.STAGES[3], preset)
    shown = sft.warm_up_rows(tasks, tokenizer, preset, count, seed=0)
    how = {"epochs": 1, "learning_rate": 5e-4, "batch": 8, "on_row": told}
    warm = sft.train(shown, preset, start, run, "format_warm_up", 0, **how)
    measure(warm, "format_warm_up")
    done = grpo.train_curriculum(preset, run, seed=0, start=warm, on_row=told)
    measure(list(done.checkpoints.values())[-1], "four_stages")
    trained = [row for row in read_lines(run / "metrics.jsonl") if row["kind"] == "train"]
    here.note(engine="vLLM" if vllm else "transformers", **summary(trained))


def check(here: Here) -> None:
    for values in gpu_check.found():
        here.note(**values)


def prepare(here: Here, of_a_parent: bool) -> None:
    """What every part but the check needs: a GPU (or --tiny), and vLLM's environment."""
    import torch

    from envtune.policy import vllm_engine
    from envtune.train import launch

    if of_a_parent:
        launch.end_with_parent()
    os.environ.update(vllm_engine.environment())  # before TRL imports vLLM
    if not (torch.cuda.is_available() or here.tiny):
        raise NotRun("no CUDA GPU was found (--tiny runs on a CPU)")


FUNCTIONS = {
    "check": check,
    "stage_lora": lambda here: stage(here, 6, here.preset()),
    "stage_full": lambda here: stage(here, 6, here.preset(lora_rank=None, learning_rate=1e-5)),
    "stage_transformers": lambda here: stage(here, 4, here.preset(use_vllm=False)),
    "qlora": qlora,
    "generation": generation,
    "generation_uncached": lambda here: generation(here, cached=False),
    "generation_sleep": lambda here: generation(here, sleep=True),
    "stage_sleep": lambda here: stage(here, 6, here.preset(vllm_sleep=True)),
    "memory_7b": memory_7b,
    "curriculum": curriculum,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=list(FUNCTIONS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--of-a-parent", action="store_true", help="end with who started this")
    options = parser.parse_args()
    here: Any = Here(options.part, options.folder.resolve(), options.tiny, options.model)
    here.folder.mkdir(parents=True, exist_ok=True)
    try:
        if here.name != "check":
            prepare(here, options.of_a_parent)
        FUNCTIONS[options.part](here)
        here.end("done")
    except (NotRun, ImportError) as error:
        here.end("not run", str(error))
    except KeyboardInterrupt as error:
        here.end("unfinished", str(error) or "it was stopped")
        return 130
    except Exception as error:  # whatever it was, the other parts go on; the log has the trace
        traceback.print_exc()
        here.end("failed", f"{type(error).__name__}: {error}"[:600])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
