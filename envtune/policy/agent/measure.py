"""What the agent can do and which habits it has, on held-out tasks (200-999, not in pre-training).

>>> accuracy_by_group(play(model, tokenizer, task_ids, temperature=0.0))
>>> hint_effect(model, tokenizer)   # how often the step after a vague error is right
"""

from collections.abc import Sequence

import pandas as pd
import torch

from envtune import bfcl
from envtune.bfcl import synthetic
from envtune.common.stats import share
from envtune.env import protocol, rewards
from envtune.env.episode import EVALUATION, TRAINING, Episode, Limits
from envtune.hints import is_error
from envtune.policy import rollout
from envtune.policy.agent import EPISODE_TOKENS, MESSAGE_TOKENS
from envtune.policy.agent.data import READING
from envtune.policy.agent.script import call_message, prepares, unprepared
from envtune.policy.sampler import Sampler
from envtune.record import EpisodeRecord


def play(
    model,
    tokenizer,
    task_ids: Sequence[str],
    temperature: float,
    limits: Limits = EVALUATION,
    hint_rate: float = 0.0,
    seed: int = 0,
    batch: int = 100,
) -> list[EpisodeRecord]:
    """Each task once; temperature 0 is greedy."""
    torch.manual_seed(seed)
    first, settings = seed * 1_000_003, {"rules": True, **READING}
    episodes = (
        Episode(task, limits, hint_rate, first + i, **settings) for i, task in enumerate(task_ids)
    )
    budgets = EPISODE_TOKENS, MESSAGE_TOKENS
    return list(rollout.play_policy(model, tokenizer, episodes, batch, *budgets, temperature))


def accuracy_by_group(records: Sequence[EpisodeRecord]) -> pd.DataFrame:
    """Accuracy by BFCL's checker: over all tasks, by variant, class, number of turns and novelty.

    Columns group, n, accuracy, low, high (95%, clustered by scenario).
    """
    groups: dict[str, list[tuple[bool, int]]] = {}
    for record in records:
        task = bfcl.load_task(record.task_id)
        valid = bfcl.official_valid(record)
        novelty = f"new {synthetic.novelty(task.id)}"
        for group in ("all", task.split, *task.classes, f"{task.turns} turns", novelty):
            groups.setdefault(group, []).append((valid, task.scenario))
    rows = []
    for group, found in groups.items():
        valid, scenarios = zip(*found, strict=True)
        rows.append((group, len(found), *share(valid, scenarios)[:3]))
    return pd.DataFrame(rows, columns=["group", "n", "accuracy", "low", "high"])


def start(model, tokenizer, task_ids: Sequence[str]) -> dict[str, float]:
    """Greedy and sampled accuracy, and the format reward, as training starts from them."""
    found: dict[str, float] = {"n": len(task_ids)}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        records = play(model, tokenizer, task_ids, temperature)
        found[name] = sum(map(bfcl.official_valid, records)) / len(records)
        trained = play(model, tokenizer, task_ids, temperature, TRAINING)
        found[f"{name}_format_reward"] = sum(map(rewards.format_reward, trained)) / len(trained)
        found[f"{name}_progress"] = sum(map(rewards.progress_reward, trained)) / len(trained)
    return found


def hint_effect(model, tokenizer) -> dict[str, float]:
    """How often the message after a vague error is the right step, without and with a hint.

    The errors are the same, and come from leaving out the first prerequisite of a task; `n` of them
    have a hint.
    """
    torch.manual_seed(0)
    chat = rollout.Chat(tokenizer)
    contexts: dict[str, list[list[int]]] = {"without": [], "with": []}
    needed = []
    for number in range(200, 999):
        task = bfcl.load_task(f"synthetic_base_{number}")
        if not prepares(task.ground_truth[0][0]) or len(task.ground_truth[0]) < 2:
            continue
        pair = {}
        for name, rate in (("without", 0.0), ("with", 1.0)):
            episode = Episode(task, TRAINING, rate, seed=number, rules=True, **READING)
            played = rollout.Rollout(episode, chat.opening(episode.messages))
            ids = chat.written(call_message(unprepared(episode, 0)))
            played.advance(chat, ids, None, EPISODE_TOKENS, 0)
            pair[name] = played
        steps = pair["with"].record.steps
        if not steps or not is_error(steps[0].results[0]) or not any(steps[0].hints):
            continue
        needed.append(task.ground_truth[0][0])
        for name, played in pair.items():
            contexts[name].append(played.prompt_ids + played.completion_ids)
    found: dict[str, float] = {"n": len(needed)}
    for name, these in contexts.items():
        messages = []
        for i in range(0, len(these), 100):
            sampler = Sampler(model, tokenizer, MESSAGE_TOKENS, 1.0, wait=1.0)
            messages += sampler(these[i : i + 100])[0]
        right = sum(
            protocol.parse(chat.decode(ids)).calls == (call,)
            for ids, call in zip(messages, needed, strict=True)
        )
        found[name] = right / len(needed)
    return found
