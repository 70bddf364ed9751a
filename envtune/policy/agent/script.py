"""The script that the agent learns from: ground truth, played with habits of set strengths.

    >>> episode = Episode("synthetic_base_1000000", compact=True)
    >>> script = Script(COMPETENT, seed=0)
    >>> while not episode.done: episode.step(script.message(episode).text)

Without habits it makes each call of the ground truth in a message of its own and then answers. A
habit is a mistake that the paper describes: it skips prerequisites, gives up at a vague error,
calls a tool where it should ask, or breaks the format. The likeliest action is then a wrong one,
so greedy decoding shows the habits and training has something to unlearn.
"""

import json
import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from envtune import bfcl, hints
from envtune.bfcl import Call, checker
from envtune.env.episode import Episode
from envtune.record import Outcome, Step


@dataclass(frozen=True)
class Habits:
    """Probabilities [0..1] of what the script does at a step. The defaults are no habits."""

    skip: float = 0.0  # leaves out a prerequisite and makes the call that needs it
    recover: float = 1.0  # makes the right step after an error without a hint; else see give_up
    follow: float = 1.0  # the same after an error with a hint
    give_up: float = 0.6  # answers the turn if it does not recover; else makes a useless call
    ask: float = 1.0  # asks where a value or a tool is missing; else calls something
    early: float = 0.0  # answers the turn before its last call
    tired: float = 0.0  # from the third turn on, answers a turn before its first call
    wrong: float = 0.0  # leaves out an argument or calls another tool
    broken: float = 0.0  # breaks a rule of the protocol
    broken_when_stuck: float = 0.0  # breaks one in the message that gives up


COMPETENT = Habits()
STUMBLING = Habits(skip=0.2, wrong=0.04, broken=0.03, ask=0.85)
"""Competence with mistakes to recover from, for pre-training; mistakes are not learnt."""

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
"""The habits of the committed agent."""
DEAF = replace(HABITS, follow=HABITS.recover)
"""The same, but a hint changes nothing: for the study of what hints are worth to whom."""


class Message(NamedTuple):
    text: str
    right: bool  # whether a competent agent would write it here


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
    """Plays one episode, message by message; `seed` is the seed of its random choices."""

    def __init__(self, habits: Habits, seed: int):
        self.habits, self.draw = habits, random.Random(f"script {seed}")
        self.turn, self.done = -1, 0

    def message(self, episode: Episode) -> Message:
        """The next message. The script reads the result of its last one from the record."""
        if episode.turn != self.turn:
            self.turn, self.done = episode.turn, 0
        steps = episode.record.steps
        last = steps[-1] if steps and steps[-1].turn == episode.turn else None
        if last is not None and last.outcome is not Outcome.FORMAT_ERROR and self.sent_right:
            self.done += 1
        failed = last if last and any(map(hints.is_error, last.results)) else None
        text, right = self._choose(episode, failed)
        broken = self.habits.broken_when_stuck if text == STOP else self.habits.broken
        if self.draw.random() < broken:
            self.sent_right = False
            return Message(_broken(text, self.draw), False)
        self.sent_right = right and text not in (ANSWER, ASK, STOP)
        return Message(text, right)

    def _choose(self, episode: Episode, failed: Step | None) -> tuple[str, bool]:
        """The next message and whether it is right. failed: the last step, if it had an error."""
        truth = episode.task.ground_truth[episode.turn]
        habits, draw = self.habits, self.draw
        if not truth:
            return (ASK, True) if draw.random() < habits.ask else (self._hasty(episode), False)
        if self.done >= len(truth):
            return ANSWER, True
        needed = truth[self.done]
        if failed:
            if draw.random() < (habits.follow if any(failed.hints) else habits.recover):
                return call_message(needed), True
            if draw.random() < habits.give_up:
                return STOP, False
            again = draw.random() < 0.5
            return (call_message(failed.calls[0]) if again else self._another(episode)), False
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
        """A useless call: the needed one without an argument, or another tool."""
        if needed is not None and needed.arguments and self.draw.random() < 0.5:
            left_out = self.draw.choice(list(needed.arguments))
            arguments = {k: v for k, v in needed.arguments.items() if k != left_out}
            return call_message(Call(needed.name, arguments))
        names = [doc["name"] for doc in bfcl.tool_docs(episode.task, episode.turn)]
        return call_message(Call(self.draw.choice(names), {}))

    def _hasty(self, episode: Episode) -> str:
        """A call where asking is right: what a later turn will need, without what is missing."""
        later = episode.task.ground_truth[episode.turn + 1]
        known = {doc["name"] for doc in bfcl.tool_docs(episode.task, episode.turn)}
        first, call = later[0], later[-1]
        if first.name in known and len(later) > 1:
            return call_message(first)
        said = " ".join(episode.task.user_turns[: episode.turn + 1])
        arguments = {k: v for k, v in call.arguments.items() if str(v) in said}
        return call_message(Call(call.name, arguments))


PREPARING = frozenset(
    "cd ticket_login message_login authenticate_twitter trading_login get_user_id "
    "get_symbol_by_name get_nearest_airport_by_city get_zipcode_based_on_city lockDoors "
    "pressBrakePedal startEngine liter_to_gallon get_stock_info".split()
)
"""Tools that prepare another call."""


def prepares(call: Call) -> bool:
    return call.name in PREPARING


def unprepared(episode: Episode, done: int) -> Call:
    """The call that the next prerequisite prepares, written as if it had not been prepared.

    It has a city in place of the airport's code, or a person's name in place of an id.
    """
    truth = episode.task.ground_truth[episode.turn]
    results = checker.ground_truth(episode.task, episode._skipped)[episode.turn].results
    at = next((i for i in range(done + 1, len(truth)) if not prepares(truth[i])), len(truth) - 1)
    if truth[done].name in ("lockDoors", "pressBrakePedal"):
        starts = (i for i in range(done, len(truth)) if truth[i].name == "startEngine")
        at = next(starts, at)
    learnt = {}
    for call, result in zip(truth[done:at], results[done:at], strict=True):
        if result.startswith("{") and call.arguments:
            given = next(iter(call.arguments.values()))
            learnt |= {str(value): given for value in json.loads(result).values()}
    return Call(truth[at].name, {k: learnt.get(str(v), v) for k, v in truth[at].arguments.items()})


def _broken(text: str, draw: random.Random) -> str:
    """The message with one rule of the protocol broken, as small models break it."""
    inner = text.split("</think>")[1]
    return draw.choice(
        [
            inner,
            text.replace("</think>", ""),
            text.replace("<tool_call>[", "<tool_call>").replace("<answer>", ""),
            text.replace("</tool_call>", "").replace("</answer>", ""),
        ]
    )
