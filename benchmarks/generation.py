"""Waves against continuous generation, with messages of unequal lengths.

    $ python benchmarks/generation.py                      # counts the steps of a stub engine
    $ python benchmarks/generation.py --engine vllm [--model tiny-agent|smollm2|FOLDER] [--json]

A wave (rollout.play) ends with its longest message, and all others wait for it; continuously
(rollout.play_continuously) an episode goes on as soon as its own message is there. Both ways play
the same episodes: lengths are drawn once for every message and the engine is made to keep to them.

Spread: the longest possible message is `spread` times as long as the mean. A length is spread x
mean x Beta(1, spread - 1): all equal at 1, uniform from nothing to twice the mean at 2, and above
that most messages are short and few are long.

The stub engine gives each running request one token a step, and a step costs the same whatever
runs, like a GPU whose time goes into reading the weights. Target: at spread 4 at least 1.5 times
the tokens per step.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pandas as pd
import torch

from envtune.policy import agent, rollout, smollm2, vllm_engine

TARGET, TARGET_SPREAD = 1.5, 4
FIRST_ID = 10
"""Context ids start with FIRST_ID + the episode's number; the rest of an opening is drawn."""
Lengths = list[list[int]]
"""Of every episode the lengths of its messages [tokens]."""


def lengths(spread: float, mean: int, episodes: int, messages: int, seed: int) -> Lengths:
    """Lengths as the file's docstring says. ValueError below a spread of 1."""
    if spread < 1:
        raise ValueError(f"a spread is 1 or more, longest over mean, got {spread}")
    draw = random.Random(seed)

    def one() -> int:
        share = draw.betavariate(1, spread - 1) if spread > 1 else 1.0
        return max(1, round(spread * mean * share))

    return [[one() for _ in range(messages)] for _ in range(episodes)]


class Turns:
    """An episode of so many messages, whose opening is a list of ids."""

    def __init__(self, opening: list[int], count: int):
        self.messages, self.left, self.done = opening, count, False

    def step(self, text: str) -> str | None:
        self.left -= 1
        self.done = not self.left
        return None if self.done else "reply"


def chat(reply: Sequence[int]) -> SimpleNamespace:
    """What rollout takes from a Chat: openings are ids already, each reply is the same ids."""
    return SimpleNamespace(
        eos_id=-1,
        opening=lambda messages: messages,
        reply=lambda text, closed: list(reply),
        decode=lambda ids: "",
    )


class Planned:
    """Which message of which episode a request is: contexts start with the episode's own id."""

    def __init__(self, planned: Lengths):
        self.planned, self.asked = planned, [0] * len(planned)

    def length(self, context: list[int]) -> int:
        number = context[0] - FIRST_ID
        self.asked[number] += 1
        return self.planned[number][self.asked[number] - 1]


class StubEngine:
    """A rollout.Engine: a token for every running request in each step; counts the steps."""

    def __init__(self, planned: Lengths):
        self.plan, self.steps = Planned(planned), 0
        self.running: dict[int, tuple[int, int]] = {}  # number -> tokens left, tokens in all

    def submit(self, number: int, context: list[int]) -> None:
        length = self.plan.length(context)
        self.running[number] = length, length

    def collect(self) -> list[tuple[int, list[int], None]]:
        self.steps += 1
        self.running = {n: (left - 1, whole) for n, (left, whole) in self.running.items()}
        ended = [(n, [1] * whole, None) for n, (left, whole) in self.running.items() if not left]
        for number, _, _ in ended:
            del self.running[number]
        return ended


def planned_vllm(llm, planned: Lengths) -> vllm_engine.VLLMEngine:
    """A VLLMEngine whose messages have the planned lengths: no token ends one."""
    engine, plan = vllm_engine.VLLMEngine(llm, [], message_tokens=1), Planned(planned)

    def submit(number: int, context: list[int]) -> None:
        engine._sampling = copy.copy(engine._sampling)
        engine._sampling.max_tokens, engine._sampling.ignore_eos = plan.length(context), True
        vllm_engine.VLLMEngine.submit(engine, number, context)

    engine.submit = submit
    return engine


def in_waves(engine: rollout.Engine) -> rollout.Generate:
    """A `generate` for rollout.play: all messages of a wave, when the last one is there."""

    def generate(contexts: list[list[int]]):
        for place, context in enumerate(contexts):
            engine.submit(place, context)
        ended: dict[int, list[int]] = {}
        while len(ended) < len(contexts):
            ended |= {place: ids for place, ids, _ in engine.collect()}
        return [ended[place] for place in range(len(contexts))], None

    return generate


def play(way: str, engine: rollout.Engine, planned: Lengths, opening: int, vocabulary: int) -> int:
    """Play the planned episodes in waves or continuously; the tokens sampled."""
    draw = random.Random(0)
    ids = [draw.randrange(FIRST_ID, vocabulary) for _ in range(opening)]
    turns = [Turns([FIRST_ID + n, *ids], len(plan)) for n, plan in enumerate(planned)]
    limits = (10**9, 1)  # no episode is cut
    if way == "waves":
        played = rollout.play(turns, chat(ids[:16]), in_waves(engine), *limits)
    else:
        parts = rollout.play_continuously(turns, chat(ids[:16]), engine, *limits)
        played = [one for _, one in parts]
    return sum(sum(one.mask) for one in played)


WAYS = ("waves", "continuous")
Cost = dict[str, float]
"""What it took to play in one way: steps of the engine, and with a real one seconds."""


def row(spread: float, seed: int, planned: Lengths, cost: Callable[[str], Cost]) -> dict:
    """One comparison: the costs of both ways and their ratios. Odd seeds start with waves."""
    took = {way: cost(way) for way in (WAYS if seed % 2 else WAYS[::-1])}
    tokens = sum(map(sum, planned))
    found = {"spread": spread, "seed": seed, "tokens": tokens}
    found["longest/mean"] = round(max(map(max, planned)) * sum(map(len, planned)) / tokens, 2)
    for unit in took["waves"]:
        waves, continuous = (took[way][unit] for way in WAYS)
        found |= {f"waves {unit}": round(waves, 3), f"continuous {unit}": round(continuous, 3)}
        found[f"{unit} ratio"] = round(waves / continuous, 2)
    if "seconds" in took["waves"]:
        found |= {f"{way} tokens/s": round(tokens / took[way]["seconds"], 1) for way in WAYS}
    return found


def on_stub(spread: float, seed: int, sizes: Sequence[int]) -> dict:
    """sizes: mean length, episodes, messages of an episode."""
    planned = lengths(spread, *sizes, seed)

    def cost(way: str) -> Cost:
        engine = StubEngine(planned)
        play(way, engine, planned, opening=0, vocabulary=100)
        return {"steps": engine.steps}

    return row(spread, seed, planned, cost)


def on_vllm(llm, spread: float, seed: int, sizes: Sequence[int], opening: int) -> dict:
    """The same on a vLLM engine; reading the contexts is counted.

    Seconds are those of the clock on a GPU. On a CPU they are the processor's, which other work on
    the machine changes less.
    """
    planned = lengths(spread, *sizes, seed)
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    now = time.perf_counter if torch.cuda.is_available() else time.process_time

    def cost(way: str) -> Cost:
        llm.reset_prefix_cache()
        engine, steps = planned_vllm(llm, planned), 0
        collect = engine.collect

        def counted():
            nonlocal steps
            steps += 1
            return collect()

        engine.collect = counted
        began = now()
        play(way, engine, planned, opening, vocabulary)
        return {"seconds": now() - began, "steps": steps}

    return row(spread, seed, planned, cost)


def load(model: str, bf16: bool, context_tokens: int, gpu_share: float, cached: bool, sleep: bool):
    """A vLLM engine; "tiny-agent" and "smollm2" are the workspace's own models."""
    folders = {"tiny-agent": lambda: agent.FOLDER, "smollm2": smollm2.unpacked}
    folder = folders[model]() if model in folders else model
    vllm_engine.prepare()
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    return LLM(
        model=str(folder),
        max_model_len=context_tokens,
        gpu_memory_utilization=gpu_share,
        enable_prefix_caching=cached,
        enable_sleep_mode=sleep,
        **vllm_engine.settings(bf16, seed=0),
    )


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """One line per spread: means over the seeds; of the first ratio the least and the most too."""
    found = pd.DataFrame(rows)
    by = found.drop(columns="seed").groupby("spread")
    ratio = next(name for name in found if name.endswith(" ratio"))
    means = by.mean().round(2).assign(least=by[ratio].min(), most=by[ratio].max())
    return means.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("stub", "vllm"), default="stub")
    parser.add_argument("--model", default="tiny-agent", help="tiny-agent, smollm2, or a folder")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--spread", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, default=64, help="all played at once")
    parser.add_argument("--messages", type=int, default=8, help="of every episode")
    parser.add_argument("--mean", type=int, default=64, help="length of a message [tokens]")
    parser.add_argument("--opening", type=int, default=128, help="of an episode [tokens]")
    parser.add_argument("--context", type=int, default=4096, help="longest context [tokens]")
    parser.add_argument("--gpu-share", type=float, default=0.5)
    parser.add_argument("--no-prefix-cache", action="store_true")
    parser.add_argument("--sleep", action="store_true", help="an engine that could sleep")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = (options.mean, options.episodes, options.messages)
    if options.engine == "vllm":
        how = (options.bf16, options.context, options.gpu_share, not options.no_prefix_cache)
        llm = load(options.model, *how, options.sleep)
        on_vllm(llm, 1, 0, (4, options.episodes, 2), options.opening)  # warm up

    def measured(spread: float, seed: int) -> dict:
        if options.engine == "stub":
            return on_stub(spread, seed, sizes)
        return on_vllm(llm, spread, seed, sizes, options.opening)

    rows = [measured(spread, seed) for spread in options.spread for seed in options.seeds]
    if options.json:
        print(json.dumps(rows))
        return
    print(table(rows).to_string(index=False))
    unit = "steps ratio" if options.engine == "stub" else "seconds ratio"
    if reached := [r[unit] for r in rows if r["spread"] == TARGET_SPREAD]:
        print(f"target at spread {TARGET_SPREAD}: {TARGET}; least of the seeds: {min(reached)}")


if __name__ == "__main__":
    main()
