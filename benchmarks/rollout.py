"""Where the time of a GRPO step goes: generation, environment, loss; and what the cache saves.

    $ python benchmarks/rollout.py [--model tiny-agent|smollm2|FOLDER] [--steps 4]
        [-p FIELD VALUE] [--json]
    $ python benchmarks/rollout.py --model FOLDER --decoders     # ways to decode one wave (CUDA)

A few real training steps of stage 2 are run four times in one process, on the same tasks and
seeds: as they are, with the contexts of every wave read anew, with waves that wait for their last
message, and with TRL's padding in the loss. "environment" is everything that is neither generation
nor loss: parsing, tools, verdicts, hints, records, tokenising the replies, masks. Its target is
below 3% of a step.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import yaml
from trl import GRPOTrainer

from envtune import Episode, bfcl
from envtune.policy import rollout, sampler
from envtune.train import grpo, presets, trl_rollout, trl_trainer
from envtune.train.stages import STAGES, shortest_scenario_tasks

TARGET = 0.03


class Clock:
    """Seconds by part; a part inside another is counted for the inner one alone."""

    def __init__(self):
        self.seconds, self.open = defaultdict(float), []

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str):
        began, inner = self._now(), len(self.open)
        self.open.append(0.0)
        try:
            yield
        finally:
            whole = self._now() - began
            self.seconds[name] += whole - self.open.pop()
            if inner:
                self.open[-1] += whole

    def around(self, function, name):
        """`function`, timed; `name` may be computed from its arguments."""

        def timed(*args, **kwargs):
            with self.part(name(kwargs) if callable(name) else name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def watched(clock: Clock, keep: bool, padded: bool, wait: float):
    """Training with the clock around its parts. Undone at the end.

    keep: the sampler keeps its cache; wait: the share of a wave's messages that it waits for;
    padded: the loss with TRL's padding.
    """
    state = {"generating": False, "tokens": 0, "steps": 0}

    class Sampler(sampler.Sampler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.wait = wait

        def __call__(self, contexts):
            state["generating"] = True
            with clock.part("generation: the rest"):
                messages, _ = super().__call__(contexts)
            if not keep:
                self.cache = None
            state["generating"] = False
            state["tokens"] += sum(len(m) for m in messages if m is not None)
            return messages, None

    class Trainer(trl_trainer.StageTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            inner = (
                self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            )  # within its adapters
            inner = inner.base_model  # without its head, which the loss may call apart
            inner.forward = clock.around(
                inner.forward,
                lambda kwargs: (
                    "forward of policy and reference"
                    if self.ref_model is None and self.beta and not state["generating"]
                    else "forward of the policy"
                    if not state["generating"]
                    else "generation: decode"
                    if kwargs["input_ids"].shape[1] == 1
                    else "generation: prefill"
                ),
            )
            if self.ref_model is not None:
                reference = self.ref_model.base_model
                reference.forward = clock.around(reference.forward, "forward of the reference")
            self.accelerator.backward = clock.around(self.accelerator.backward, "backward")

        def training_step(self, *args, **kwargs):
            state["steps"] += 1
            with clock.part("heads, loss, advantages, the rest"):
                return super().training_step(*args, **kwargs)

        if padded:
            _get_per_token_logps_and_entropies = GRPOTrainer._get_per_token_logps_and_entropies

    before = sampler.Sampler, trl_trainer.StageTrainer, trl_rollout.TRLRollout._play
    sampler.Sampler, trl_trainer.StageTrainer = Sampler, Trainer
    trl_rollout.TRLRollout._play = lambda self, *args: clock.around(before[2], "environment")(
        self, *args
    )
    try:
        yield state
    finally:
        sampler.Sampler, trl_trainer.StageTrainer, trl_rollout.TRLRollout._play = before


def measure(
    preset: presets.Preset,
    start: Path | str,
    steps: int,
    keep: bool = True,
    padded: bool = False,
    wait: float = 0.5,
) -> dict:
    """Train `steps` steps of stage 2 without validation: seconds by part and in all, tokens."""
    clock = Clock()
    quick = replace(preset, validation_tasks=1, validate_every=10**6, save_every=10**6)
    with TemporaryDirectory() as folder, watched(clock, keep, padded, wait) as state:
        original = trl_trainer.grpo_config

        def unvalidated(*args):
            config = original(*args)
            config.eval_strategy, config.eval_on_start = "no", False
            return config

        trl_trainer.grpo_config = unvalidated
        try:
            grpo.train_stage(
                STAGES[1], quick, steps, start, Path(folder), seed=0, on_row=lambda line: None
            )
        finally:
            trl_trainer.grpo_config = original
    return {
        "parts": dict(clock.seconds),
        "tokens": state["tokens"],
        "seconds": sum(clock.seconds.values()),
    }


def decoders(preset: presets.Preset, start: Path | str, rows: int = 16) -> pd.DataFrame:
    """Tokens per second of one wave: dynamic cache, static cache (compiled on CUDA), and continuous
    batching (CUDA)."""
    model, tokenizer = sampler.load_policy(
        start, preset.bf16, device="cuda" if torch.cuda.is_available() else "cpu"
    )
    chat = rollout.Chat(tokenizer)
    tasks = shortest_scenario_tasks(replace(preset, max_scenarios=2))
    contexts = [
        chat.opening(Episode(bfcl.load_task(tasks[i % len(tasks)]), **preset.episode).messages)
        for i in range(rows)
    ]
    settings = {
        "max_new_tokens": preset.message_tokens,
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    width = max(map(len, contexts))
    ids = torch.tensor(
        [[tokenizer.pad_token_id] * (width - len(c)) + c for c in contexts], device=model.device
    )
    mask = (ids != tokenizer.pad_token_id).long()

    def count(messages) -> int:
        eos = tokenizer.eos_token_id
        return sum(m.index(eos) + 1 if eos in m else len(m) for m in messages)

    def plain(**more):
        return count(
            model.generate(input_ids=ids, attention_mask=mask, **settings, **more)[
                :, width:
            ].tolist()
        )

    def continuous():
        from transformers import GenerationConfig

        done = model.generate_batch(
            contexts, generation_config=GenerationConfig(**settings), progress_bar=False
        )
        return count([list(out.generated_tokens) for out in done.values()])

    ways = {
        "the sampler": lambda: sum(
            map(
                len, sampler.Sampler(model, tokenizer, preset.message_tokens, wait=1.0)(contexts)[0]
            )
        ),
        "dynamic cache": plain,
        "static cache": lambda: plain(cache_implementation="static"),
    }
    if torch.cuda.is_available():
        ways["continuous batching"] = continuous
    rows_out = []
    for name, way in ways.items():
        with torch.no_grad():
            way()  # compile, warm up
            clock = Clock()
            with clock.part(name):
                tokens = way()
        rows_out.append(
            {
                "decoder": name,
                "tokens": tokens,
                "seconds": round(clock.seconds[name], 2),
                "tokens/s": round(tokens / clock.seconds[name]),
            }
        )
    return pd.DataFrame(rows_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny-agent", help="tiny-agent, smollm2, or a folder")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("FIELD", "VALUE"),
        help="a field of the preset to change",
    )
    parser.add_argument(
        "--decoders", action="store_true", help="compare ways of decoding one wave instead"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    preset = presets.get(
        "smollm2" if options.model == "smollm2" else "cpu-tiny",
        **{name: yaml.safe_load(value) for name, value in options.parameter},
    )
    start = grpo.starting_model(replace(preset, model=options.model))
    if options.decoders:
        print(decoders(preset, start).to_string(index=False))
        return
    kept, anew, patient, padded = (
        measure(preset, start, options.steps, **way)
        for way in ({}, {"keep": False}, {"wait": 1.0}, {"padded": True})
    )
    table = pd.DataFrame(
        [
            {
                "part": part,
                "seconds a step": round(seconds / options.steps, 3),
                "share": round(seconds / kept["seconds"], 4),
            }
            for part, seconds in sorted(kept["parts"].items(), key=lambda item: -item[1])
        ]
    )

    def generation(run: dict) -> float:
        return sum(
            seconds for part, seconds in run["parts"].items() if part.startswith("generation")
        )

    share = kept["parts"]["environment"] / kept["seconds"]
    facts = {
        "model": options.model,
        "steps": options.steps,
        "seconds_a_step": kept["seconds"] / options.steps,
        "tokens_per_second_of_generation": kept["tokens"] / generation(kept),
        "tokens_per_second_of_a_step": kept["tokens"] / kept["seconds"],
        "environment_share": share,
        "environment_target": TARGET,
        "met": share < TARGET,
        "generation_anew_over_kept": (generation(anew) / anew["tokens"])
        / (generation(kept) / kept["tokens"]),
        "step_anew_over_kept": anew["seconds"] / kept["seconds"],
        "generation_waiting_for_all_over_half": (generation(patient) / patient["tokens"])
        / (generation(kept) / kept["tokens"]),
        "training_padded_over_packed": (padded["seconds"] - generation(padded))
        / (kept["seconds"] - generation(kept)),
        "step_padded_over_packed": padded["seconds"] / kept["seconds"],
    }
    if options.json:
        print(json.dumps({**facts, "parts": table.to_dict("records")}))
        return
    print(table.to_string(index=False))
    for name, value in facts.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
