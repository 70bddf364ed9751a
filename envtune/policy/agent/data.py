"""Scripted episodes as token ids and labels: whole, or windows that start at a user message."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from envtune.env.episode import TRAINING, Episode
from envtune.policy.agent.script import Habits, Script
from envtune.policy.rollout import Chat

FIRST_NUMBER = 1_000_000
"""Pre-training uses task numbers from here on; training, validation and tests use none of them."""
READING = {"compact": True, "max_result_chars": 160}
"""What the agent reads: signatures instead of tool docs, short results."""
VARIANTS = {"base": 0.5, "miss_param": 0.2, "miss_func": 0.15, "long_context": 0.15}


class Example(NamedTuple):
    ids: list[int]
    labels: list[int]  # the id where it is learnt, -100 elsewhere


def task_id(number: int, draw: random.Random, turns: int | None, prompt: bool = True) -> str:
    """The id of one task of pre-training.

    prompt: whether the model will read the list of tools; only then can it see that one is missing.
    """
    variants = {name: share for name, share in VARIANTS.items() if prompt or name != "miss_func"}
    variant = draw.choices(list(variants), list(variants.values()))[0]
    return f"synthetic_{variant}_{FIRST_NUMBER + number}" + (f"_t{turns}" if turns else "")


def play(
    task: str, chat: Chat, habits: Habits, seed: int, draw: random.Random, learn_all: bool
) -> Example:
    """One scripted episode as ids and labels.

    learn_all: mistakes and habits are learnt too, not only right messages.
    """
    rules = draw.random() < 0.5
    episode = Episode(task, TRAINING, hint_rate=0.5, seed=seed, rules=rules, **READING)
    script = Script(habits, seed)
    ids = chat.opening(episode.messages)
    labels = [-100] * len(ids)
    while not episode.done:
        message = script.message(episode)
        written = chat.written(message.text)
        reply = episode.step(message.text)
        ids += written
        labels += written if learn_all or message.right else [-100] * len(written)
        if reply is not None:
            said = chat.reply(reply, closed=True)
            ids += said
            labels += [-100] * len(said)
    return Example(ids, labels)


def texts(count: int, habits: Habits) -> Iterator[str]:
    """What the BPE learns from: all texts of some scripted episodes."""
    draw = random.Random("texts")
    for number in range(count):
        task, rules = task_id(number, draw, None), number % 2 == 1
        episode = Episode(task, TRAINING, hint_rate=0.5, seed=number, rules=rules, **READING)
        script = Script(habits, number)
        yield from (message["content"] for message in episode.messages[1:])
        while not episode.done:
            message = script.message(episode).text
            yield message
            yield episode.step(message) or ""


def windows(sequence: Example, user_id: int, width: int) -> list[Example]:
    """Pieces of at most `width` ids that start at a user message, where something is learnt."""
    starts = [i for i, token in enumerate(sequence.ids) if token == user_id]
    pieces, at = [], 0
    for start in starts:
        if start < at:
            continue
        cut = slice(start, start + width)
        piece = Example(sequence.ids[cut], sequence.labels[cut])
        at = start + width // 2
        if any(label != -100 for label in piece.labels):
            pieces.append(piece)
    return pieces
