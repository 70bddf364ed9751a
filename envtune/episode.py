"""One episode: user turns, agent steps, verdicts. Text in, text out; what happened is kept in an EpisodeRecord.

    >>> episode = Episode(load_task("multi_turn_base_3"))
    >>> episode.messages[1]["content"][:40]                     # the system message and the first user turn
    'As part of my latest photography project'
    >>> episode.step("<think>x</think><answer>Done.</answer>")[:30], episode.record.codes
    ('After identifying them, the ne', [0.0])

Limits are data. TRAINING is the authors' environment: a format error is told to the agent and costs a step, the sixth step
of a turn that is no answer ends the turn (its calls still run), a call in a turn with empty ground truth is not run and
ends the turn. EVALUATION is BFCL's runner: 20 steps, one more ends the episode; an unreadable message ends the turn; calls in
empty turns run.

A turn that needs calls and saw none fails, and its ground truth is left out from then on (as in the authors' code).

Departures from the paper: a verdict is given on all T turns, so those never reached count as failures (section 3.4 of the
paper averages over turns; its code over turns reached).
"""
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

from envtune import bfcl, hints, protocol
from envtune.bfcl import Call, Task
from envtune.toolbox import EXECUTION_ERROR, Toolbox, ground_truth

RECORD_VERSION = 1


class Outcome(StrEnum):
    """What one agent message led to."""
    CALLS = "calls"
    CALLS_WITH_ERROR = "calls_with_error"
    """Calls of which at least one raised: an unknown tool or argument, a refused value, an exception in the tool."""
    FORMAT_ERROR = "format_error"
    ANSWER = "answer"
    FORCED_END = "forced_end"
    CALL_IN_EMPTY_TURN = "call_in_empty_turn"


class Ending(StrEnum):
    """Why an episode is over."""
    RUNNING = "running"
    COMPLETED = "completed"
    STEP_LIMIT = "step_limit"
    TOKEN_LIMIT = "token_limit"


_CODES = {Outcome.CALLS: -1.0, Outcome.CALLS_WITH_ERROR: -2.0, Outcome.FORMAT_ERROR: -3.0}


@dataclass(frozen=True)
class Limits:
    """How long a turn may last and what the environment does at its edges."""
    name: str
    steps_per_turn: int
    """Steps without an answer that a turn may hold [steps]; the next one ends the turn or the episode."""
    limit_ends_episode: bool
    format_error_ends_turn: bool
    run_calls_in_empty_turns: bool


TRAINING = Limits("training", 5, limit_ends_episode=False, format_error_ends_turn=False, run_calls_in_empty_turns=False)
EVALUATION = Limits("evaluation", 20, limit_ends_episode=True, format_error_ends_turn=True, run_calls_in_empty_turns=True)
LIMITS = {limits.name: limits for limits in (TRAINING, EVALUATION)}


@dataclass(frozen=True)
class Step:
    """One agent message and what the environment made of it."""
    turn: int
    message: str
    outcome: Outcome
    calls: tuple[Call, ...] = ()
    """The calls of a well-formed message, whether or not they were run."""
    results: tuple[str, ...] = ()
    """A result a call that was run, as the tools gave it: what verdicts are made of."""
    hints: tuple[str | None, ...] = ()
    """The id of the hint shown beside each result; None where the agent read the result alone."""
    feedback: str = ""
    """What the agent read next, without the next user message."""
    verdict: bool | None = None
    """Set on the step that ended a turn: whether the turn succeeded."""

    @property
    def code(self) -> float:
        """The authors' number for a step: 0/1 for a turn's verdict, else -1 calls, -2 calls with error, -3 format error."""
        return _CODES[self.outcome] if self.verdict is None else float(self.verdict)


@dataclass(frozen=True)
class TurnVerdict:
    """How a turn was judged: `why` says what differs from ground truth, '' on success."""
    turn: int
    success: bool
    why: str = ""


@dataclass(frozen=True)
class EpisodeRecord:
    """All that happened in an episode; rewards and metrics are pure functions of it."""
    task_id: str
    turns: int
    """T, the task's number of user turns, reached or not."""
    limits: str
    hints_on: bool
    steps: tuple[Step, ...] = ()
    verdicts: tuple[TurnVerdict, ...] = ()
    ending: Ending = Ending.RUNNING
    version: int = RECORD_VERSION

    @property
    def codes(self) -> list[float]:
        """One number a step, as in the authors' code (see Step.code)."""
        return [step.code for step in self.steps]

    @property
    def completed(self) -> bool:
        """Whether every turn was played to its end."""
        return self.ending is Ending.COMPLETED

    def calls_by_turn(self) -> list[list[list[Call]]]:
        """Well-formed calls as [turn][step][call], for BFCL's checker."""
        return [[list(s.calls) for s in self.steps if s.turn == turn and s.calls] for turn in range(self.turns)]

    def to_dict(self) -> dict:
        """JSON-ready; `from_dict` gives an equal record back."""
        data = asdict(self)
        for step, own in zip(data["steps"], self.steps, strict=True):
            step["calls"] = [call._asdict() for call in own.calls]
        return data

    @classmethod
    def from_dict(cls, data: dict) -> "EpisodeRecord":
        if data.get("version") != RECORD_VERSION:
            raise ValueError(f"expected an episode record of version {RECORD_VERSION}, got {data.get('version')!r}")
        steps = tuple(Step(**{**s, "outcome": Outcome(s["outcome"]), "calls": tuple(Call(**c) for c in s["calls"]),
                              "results": tuple(s["results"]), "hints": tuple(s["hints"])}) for s in data["steps"])
        return cls(**{**data, "steps": steps, "ending": Ending(data["ending"]),
                      "verdicts": tuple(TurnVerdict(**v) for v in data["verdicts"])})


@dataclass
class Episode:
    """A live episode. `messages` is the opening; `step` takes the agent's message and returns what it reads next."""
    task: Task
    limits: Limits = TRAINING
    hint_rate: float = 0.0
    """Probability that this episode shows hints, drawn once from the seed [0..1]."""
    seed: int = 0
    rules: bool = False
    """Whether the system prompt carries the two extra rules of stages 3-4."""
    compact: bool = False
    """Whether tool docs are signatures only."""
    max_result_chars: int = 20_000
    """How much of one result the agent reads [characters]; verdicts use the whole result."""
    record: EpisodeRecord = field(init=False)

    def __post_init__(self):
        if not 0.0 <= self.hint_rate <= 1.0:
            raise ValueError(f"hint_rate is a probability in [0, 1], got {self.hint_rate!r}")
        hints_on = random.Random(f"hints {self.seed} {self.task.id}").random() < self.hint_rate
        self.record = EpisodeRecord(self.task.id, self.task.turns, self.limits.name, hints_on)
        self._toolbox = Toolbox(self.task)
        self._results: list[str] = []  # of every call run so far, all turns
        self._turn = 0
        self._steps_in_turn = 0
        self._called_in_turn = False
        self._unjudged: tuple[int, ...] = ()  # turns whose ground truth was never executed

    @property
    def messages(self) -> list[dict]:
        """The opening messages: system prompt and first user turn."""
        docs = bfcl.tool_docs(self.task, 0)
        return [{"role": "system", "content": protocol.system_prompt(docs, self.rules, self.compact)},
                {"role": "user", "content": self.task.user_turns[0]}]

    @property
    def turn(self) -> int:
        """The user turn that is being played, 0-based."""
        return self._turn

    @property
    def done(self) -> bool:
        return self.record.ending is not Ending.RUNNING

    def step(self, message: str) -> str | None:
        """Play one agent message. Returns the text of the environment's reply, or None when the episode is over.

        RuntimeError when the episode was over before: its record no longer changes.
        """
        if self.done:
            raise RuntimeError(f"the episode of {self.task.id} ended ({self.record.ending}); start a new one")
        parsed = protocol.parse(message)
        self._steps_in_turn += 1
        if parsed.answer is not None:
            return self._end_turn(Step(self._turn, message, Outcome.ANSWER))
        if parsed.error:
            step = Step(self._turn, message, Outcome.FORMAT_ERROR, feedback=protocol.format_feedback(parsed.error))
            if self.limits.format_error_ends_turn:
                return self._end_turn(step)
        elif not self.task.ground_truth[self._turn] and not self.limits.run_calls_in_empty_turns:
            self._called_in_turn = True
            return self._end_turn(Step(self._turn, message, Outcome.CALL_IN_EMPTY_TURN, calls=parsed.calls,
                                       feedback=protocol.EMPTY_TURN_WARNING))
        else:
            step = self._run(message, parsed.calls)
        if self._steps_in_turn > self.limits.steps_per_turn:
            return self._end_turn(replace(step, outcome=Outcome.FORCED_END,
                                          feedback=f"{step.feedback}\n{protocol.FORCED_END_NOTICE}"),
                                  Ending.STEP_LIMIT if self.limits.limit_ends_episode else Ending.RUNNING)
        self._append(step)
        return step.feedback

    def abort(self, ending: Ending) -> None:
        """End the episode where it stands, as when the token budget is spent. Turns not finished count as failed."""
        if not self.done:
            self.record = replace(self.record, ending=ending)

    def _run(self, message: str, calls: Sequence[Call]) -> Step:
        results = tuple(self._toolbox.execute(call) for call in calls)
        self._results.extend(results)
        self._called_in_turn = True
        shown, hint_ids = results, (None,) * len(results)
        if self.record.hints_on:
            shown, hint_ids = zip(*(hints.augment(self.task, call, result)
                                    for call, result in zip(calls, results, strict=True)), strict=True)
        failed = any(result.startswith(EXECUTION_ERROR) for result in results)
        return Step(self._turn, message, Outcome.CALLS_WITH_ERROR if failed else Outcome.CALLS, calls, results, hint_ids,
                    protocol.tool_feedback([call.name for call in calls],
                                           [protocol.shorten(text, self.max_result_chars) for text in shown]))

    def _judge(self, step: Step) -> TurnVerdict:
        """The verdict of the current turn: state and results against ground truth (PAPER: r_state * r_exec)."""
        why = ""
        if not self.task.ground_truth[self._turn]:
            if self._called_in_turn:
                why = "a call was made where asking was right"
            elif step.outcome is not Outcome.ANSWER:
                why = "the turn ended without an answer"
        elif not self._called_in_turn:
            # golden: such a turn fails and its ground truth is left out, so later turns are judged from where the agent stands
            self._unjudged += (self._turn,)
            why = "no call was made in a turn that needs one"
        else:
            truth = ground_truth(self.task.id, self._unjudged)[self._turn]
            why, _ = bfcl.compare_turn(self._toolbox.instances, truth.instances, self._results,
                                       list(truth.results), self._turn)
        return TurnVerdict(self._turn, not why, why)

    def _append(self, step: Step, **changes) -> None:
        self.record = replace(self.record, steps=(*self.record.steps, step), **changes)

    def _end_turn(self, step: Step, ending: Ending = Ending.RUNNING) -> str | None:
        verdict = self._judge(step)
        self._turn, self._steps_in_turn, self._called_in_turn = self._turn + 1, 0, False
        if ending is Ending.RUNNING and self._turn == self.task.turns:
            ending = Ending.COMPLETED
        self._append(replace(step, verdict=verdict.success), ending=ending,
                     verdicts=(*self.record.verdicts, verdict))
        if self.done:
            return None
        docs = [d for d in bfcl.tool_docs(self.task, self._turn) if d["name"] in self.task.withheld]
        new_docs = docs if self._turn == self.task.withheld_until else []
        following = protocol.user_message(self.task.user_turns[self._turn], new_docs, self.compact)
        return f"{step.feedback}\n{following}" if step.feedback else following


def replay(task_id: str, messages: Sequence[str], limits: str = "training", hint_rate: float = 0.0,
           seed: int = 0) -> EpisodeRecord:
    """Play assistant messages in order and return the record, whose `.codes` are the authors' step numbers.

    ValueError when `limits` is not one of LIMITS or when messages are left after the episode's end.
    """
    if limits not in LIMITS:
        raise ValueError(f"limits is one of {', '.join(LIMITS)}, got {limits!r}")
    episode = Episode(bfcl.load_task(task_id), LIMITS[limits], hint_rate, seed)
    for number, message in enumerate(messages):
        if episode.done:
            raise ValueError(f"{task_id} ended ({episode.record.ending}) after {number} of {len(messages)} messages")
        episode.step(message)
    return episode.record
