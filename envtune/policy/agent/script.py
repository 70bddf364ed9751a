"""The script that the agent learns from: ground truth, played with habits whose strengths are dials.

    >>> episode = Episode("synthetic_base_1000000", compact=True)
    >>> script = Script(COMPETENT, seed=0)
    >>> while not episode.done: episode.step(script.message(episode).text)

Without habits it does each call of the ground truth in a message of its own and then answers. A habit is a way to go wrong that the
paper describes: prerequisites are skipped, a vague error ends the work, a call is made where asking is right, the format breaks.
The likeliest action is then a wrong one, so that greedy decoding shows the habits and training has something to unlearn.
"""

import json
import random
from dataclasses import dataclass
from typing import NamedTuple

from envtune import bfcl, hints
from envtune.bfcl import Call, checker
from envtune.env.episode import Episode
from envtune.record import Outcome


@dataclass(frozen=True)
class Habits:
    """Probabilities [0..1] of what the script does at a step. The defaults are competence: no habit."""

    skip: float = 0.0
    """A prerequisite is left out and the call that needs it is made at once."""
    recover: float = 1.0
    """After an error without a hint the right step is made; else the script gives up or flounders."""
    follow: float = 1.0
    """The same after an error with a hint."""
    give_up: float = 0.6
    """Where it does not recover: the turn is answered; else the failed call is made again, or another one."""
    ask: float = 1.0
    """Where a value or a tool is missing the script asks; else it calls something."""
    early: float = 0.0
    """The turn is answered before its last call."""
    tired: float = 0.0
    """From the third turn on a turn is answered before its first call."""
    wrong: float = 0.0
    """An argument is left out or another tool is called."""
    broken: float = 0.0
    """A message breaks a rule of the protocol."""
    broken_when_stuck: float = 0.0
    """The message that gives up breaks a rule of the protocol."""


COMPETENT = Habits()
STUMBLING = Habits(skip=0.2, wrong=0.04, broken=0.03, ask=0.85)
"""Competence with mishaps to come back from: what pre-training plays. Mishaps are not learnt, what follows them is."""

HABITS = Habits(
    skip=0.8,
    recover=0.1,
    follow=0.8,
    give_up=0.65,
    ask=0.15,
    early=0.12,
    tired=0.75,
    wrong=0.12,
    broken=0.15,
    broken_when_stuck=0.6,
)
"""The dials of the committed agent."""


class Message(NamedTuple):
    text: str
    right: bool
    """Whether a competent agent would write it here."""


def write(thought: str, kind: str, body: str) -> str:
    return f"<think>{thought}</think><{kind}>{body}</{kind}>"


def call_message(call: Call) -> str:
    return write("act", "tool_call", json.dumps([call._asdict()], ensure_ascii=False))


ANSWER, ASK, STOP = (
    write(thought, "answer", said)
    for thought, said in (
        ("done", "Done."),
        ("missing", "What is missing?"),
        ("stuck", "It failed."),
    )
)


class Script:
    """Plays one episode, message by message. `habits` are the dials, `seed` makes its draws."""

    def __init__(self, habits: Habits, seed: int):
        self.habits, self.draw = habits, random.Random(f"script {seed}")
        self.turn, self.done = -1, 0
        self.errors = 0
        """Errors of this turn that were met so far."""

    def message(self, episode: Episode) -> Message:
        """The next message. The script reads from the record what its last one led to."""
        if episode.turn != self.turn:
            self.turn, self.done, self.errors = episode.turn, 0, 0
            self.skipped = False
        steps = episode.record.steps
        last = steps[-1] if steps and steps[-1].turn == episode.turn else None
        if last is not None and last.outcome is not Outcome.FORMAT_ERROR and self.sent_right:
            self.done += 1
        failed = last is not None and any(hints.is_error(result) for result in last.results)
        hinted = failed and any(last.hints)
        text, right = self._choose(episode, failed, hinted, last)
        if self.draw.random() < (
            self.habits.broken_when_stuck if text == STOP else self.habits.broken
        ):
            self.sent_right = False
            return Message(_broken(text, self.draw), False)
        self.sent_right = right and text not in (ANSWER, ASK, STOP)
        return Message(text, right)

    def _choose(self, episode: Episode, failed: bool, hinted: bool, last) -> tuple[str, bool]:
        truth = episode.task.ground_truth[episode.turn]
        habits, draw = self.habits, self.draw
        if not truth:
            return (ASK, True) if draw.random() < habits.ask else (self._hasty(episode), False)
        if self.done >= len(truth):
            return ANSWER, True
        needed = truth[self.done]
        if failed:
            if draw.random() < (habits.follow if hinted else habits.recover):
                return call_message(needed), True
            if draw.random() < habits.give_up:
                return STOP, False
            return (
                call_message(last.calls[0]) if draw.random() < 0.5 else self._another(episode)
            ), False
        if habits.tired and not self.done and episode.turn >= 2 and draw.random() < habits.tired:
            return ANSWER, False
        prerequisite = self.done < len(truth) - 1 and prepares(needed)
        if prerequisite and draw.random() < habits.skip:
            return call_message(unprepared(episode, self.done)), False
        if draw.random() < habits.early:
            return ANSWER, False
        if draw.random() < habits.wrong:
            return self._another(episode, needed), False
        return call_message(needed), True

    def _another(self, episode: Episode, needed: Call | None = None) -> str:
        """A call that is no help: the needed one without an argument, or another tool."""
        if needed is not None and needed.arguments and self.draw.random() < 0.5:
            left_out = self.draw.choice(list(needed.arguments))
            return call_message(
                Call(needed.name, {k: v for k, v in needed.arguments.items() if k != left_out})
            )
        names = [doc["name"] for doc in bfcl.tool_docs(episode.task, episode.turn)]
        return call_message(Call(self.draw.choice(names), {}))

    def _hasty(self, episode: Episode) -> str:
        """A call where asking is right: what a later turn will need, without what is missing."""
        later = episode.task.ground_truth[episode.turn + 1]
        if (
            later[0].name in (doc["name"] for doc in bfcl.tool_docs(episode.task, episode.turn))
            and len(later) > 1
        ):
            return call_message(later[0])
        call = later[-1]
        said = " ".join(episode.task.user_turns[: episode.turn + 1])
        return call_message(
            Call(call.name, {k: v for k, v in call.arguments.items() if str(v) in said})
        )


PREPARING = frozenset(
    "cd ticket_login message_login authenticate_twitter trading_login get_user_id get_symbol_by_name get_nearest_airport_by_city "
    "get_zipcode_based_on_city lockDoors pressBrakePedal startEngine liter_to_gallon get_stock_info".split()
)
"""Tools that prepare another call."""


def prepares(call: Call) -> bool:
    return call.name in PREPARING


def unprepared(episode: Episode, done: int) -> Call:
    """The call that the needed preparation leads to, as one writes it who skipped all that prepares: with the city where its code
    belongs, the person's name where an id belongs."""
    truth = episode.task.ground_truth[episode.turn]
    results = checker.ground_truth(episode.task, episode._unjudged)[episode.turn].results
    at = next((i for i in range(done + 1, len(truth)) if not prepares(truth[i])), len(truth) - 1)
    if truth[done].name in ("lockDoors", "pressBrakePedal") and any(
        c.name == "startEngine" for c in truth[done:]
    ):
        at = next(i for i in range(done, len(truth)) if truth[i].name == "startEngine")
    learnt = {}
    for call, result in zip(truth[done:at], results[done:at], strict=True):
        if result.startswith("{") and call.arguments:
            learnt |= {
                str(value): next(iter(call.arguments.values()))
                for value in json.loads(result).values()
            }
    return Call(truth[at].name, {k: learnt.get(str(v), v) for k, v in truth[at].arguments.items()})


def _broken(text: str, draw: random.Random) -> str:
    """The message with one rule of the protocol broken, in one of the ways that small models break it."""
    inner = text.split("</think>")[1]
    return draw.choice(
        [
            inner,
            text.replace("</think>", ""),
            text.replace("<tool_call>[", "<tool_call>").replace("<answer>", ""),
            text.replace("</tool_call>", "").replace("</answer>", ""),
        ]
    )
