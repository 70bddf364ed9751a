"""One episode: user turns, agent steps, verdicts. Text in, text out; what happened is kept in an EpisodeRecord.

    >>> episode = Episode(load_task("multi_turn_base_3"))
    >>> episode.messages[1]["content"][:40]                     # the system message and the first user turn
    'As part of my latest photography project'
    >>> episode.step("<think>x</think><answer>Done.</answer>")[:30], episode.record.codes
    ('After identifying them, the ne', [0.0])

Limits are data. TRAINING is the authors' environment: a format error is told to the agent and costs a step, the sixth step
of a turn that is no answer ends the turn (its calls still run), a call in a turn with empty ground truth is not run and
ends the turn. EVALUATION is BFCL's runner: 20 steps, one more ends the episode; an unreadable message ends the turn; calls in
empty turns run. A limit of one's own is made with `replace(TRAINING, name="short", steps_per_episode=12)`.

A turn that needs calls and saw none fails, and its ground truth is left out from then on (as in the authors' code).

Departures from the paper: a verdict is given on all T turns, so those never reached count as failures (section 3.4 of the
paper averages over turns; its code over turns reached).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from envtune import bfcl, hints
from envtune.bfcl import Call, Task
from envtune.bfcl.checker import ground_truth
from envtune.bfcl.results import EXECUTION_ERROR
from envtune.bfcl.toolbox import Toolbox
from envtune.env import protocol
from envtune.record import Ending, EpisodeRecord, Outcome, Step, TurnVerdict

# bound once: Python 3.11 looks up an enum member through its metaclass, at every step of every episode
_ANSWER, _CALLS, _CALLS_WITH_ERROR, _RUNNING = (
    Outcome.ANSWER,
    Outcome.CALLS,
    Outcome.CALLS_WITH_ERROR,
    Ending.RUNNING,
)


@dataclass(frozen=True)
class Limits:
    """How long a turn may last and what the environment does at its edges."""

    name: str
    steps_per_turn: int
    """Steps without an answer that a turn may hold [steps]; the next one ends the turn or the episode."""
    limit_ends_episode: bool
    format_error_ends_turn: bool
    run_calls_in_empty_turns: bool
    steps_per_episode: int | None = None
    """Steps after which an episode is over, wherever it stands [steps]; None: only its turns are limited."""

    def __post_init__(self):
        if self.steps_per_turn < 1 or (
            self.steps_per_episode is not None and self.steps_per_episode < 1
        ):
            raise ValueError(
                f"limits {self.name!r}: step limits are at least 1, got {self.steps_per_turn} a turn and "
                f"{self.steps_per_episode} an episode"
            )


TRAINING = Limits(
    "training",
    5,
    limit_ends_episode=False,
    format_error_ends_turn=False,
    run_calls_in_empty_turns=False,
)
EVALUATION = Limits(
    "evaluation",
    20,
    limit_ends_episode=True,
    format_error_ends_turn=True,
    run_calls_in_empty_turns=True,
)
LIMITS = {limits.name: limits for limits in (TRAINING, EVALUATION)}


@lru_cache(maxsize=256)
def _system_prompt(
    classes: tuple[str, ...], hidden: tuple[str, ...], rules: bool, compact: bool
) -> str:
    return protocol.system_prompt(bfcl.docs_of(classes, hidden), rules, compact)


class Episode:
    """A live episode: `messages` is the opening, `step` takes the agent's message and returns what it reads next.

    episode = Episode("multi_turn_base_3")
    episode.step('<think>look</think><tool_call>[{"name": "ls", "arguments": {}}]</tool_call>')
    episode                                        # in a notebook: the whole conversation, each verdict with why
    """

    def __init__(
        self,
        task: Task | str,
        limits: Limits = TRAINING,
        hint_rate: float = 0.0,
        seed: int = 0,
        rules: bool = False,
        compact: bool = False,
        max_result_chars: int = 20_000,
        max_observation_chars: int = 100_000,
        corruption: hints.Corruption = hints.NONE,
    ):
        """
        task: a Task or its id.
        hint_rate: probability that this episode shows hints, drawn once from the seed [0..1].
        rules: whether the system prompt carries the two extra rules of stages 3-4.
        compact: whether tool docs are signatures only.
        max_result_chars, max_observation_chars: how much of one result, and of all results of a step, the agent reads
            [characters]; what was cut is marked in the text and counted in the record. Verdicts use whole results.
        corruption: how hints are spoilt, for the study of bad hints.
        """
        if not 0.0 <= hint_rate <= 1.0:
            raise ValueError(f"hint_rate is a probability in [0, 1], got {hint_rate!r}")
        if max_result_chars < 1 or max_observation_chars < 1:
            raise ValueError(
                f"observation limits are at least 1 character, got {max_result_chars} a result and "
                f"{max_observation_chars} a step"
            )
        self.task = task = bfcl.load_task(task) if isinstance(task, str) else task
        self.limits, self.rules, self.compact = limits, rules, compact
        self.max_result_chars, self.max_observation_chars = max_result_chars, max_observation_chars
        self.seed, self.corruption = seed, corruption
        self.hints_on = hint_rate == 1.0 or (
            hint_rate > 0.0 and random.Random(f"hints {seed} {task.id}").random() < hint_rate
        )
        self._toolbox = Toolbox(task)
        self._steps: list[Step] = []
        self._verdicts: list[TurnVerdict] = []
        self._ending = _RUNNING
        self._results: list[str] = []  # of every call run so far, all turns
        self._turn = 0
        self._steps_in_turn = 0
        self._called_in_turn = False
        self._unjudged: tuple[int, ...] = ()  # turns whose ground truth was never executed

    @property
    def messages(self) -> list[dict]:
        """The opening messages: system prompt and first user turn."""
        hidden = self.task.withheld if self.task.withheld_until else ()
        return [
            {
                "role": "system",
                "content": _system_prompt(self.task.classes, hidden, self.rules, self.compact),
            },
            {"role": "user", "content": self.task.user_turns[0]},
        ]

    @property
    def record(self) -> EpisodeRecord:
        """What happened so far."""
        return EpisodeRecord(
            self.task.id,
            self.task.turns,
            self.limits.name,
            self.hints_on,
            tuple(self._steps),
            tuple(self._verdicts),
            self._ending,
        )

    @property
    def turn(self) -> int:
        """The user turn that is being played, 0-based."""
        return self._turn

    @property
    def done(self) -> bool:
        return self._ending is not _RUNNING

    def _repr_html_(self) -> str:
        return self.record._repr_html_()

    def step(self, message: str) -> str | None:
        """Play one agent message. Returns the text of the environment's reply, or None when the episode is over.

        RuntimeError when the episode was over before: its record no longer changes.
        """
        if self._ending is not _RUNNING:
            raise RuntimeError(
                f"the episode of {self.task.id} ended ({self._ending}); start a new one"
            )
        reply = self._play(message, protocol.parse(message))
        if len(self._steps) == self.limits.steps_per_episode and self._ending is _RUNNING:
            self.abort(Ending.EPISODE_STEP_LIMIT)
            return None
        return reply

    def abort(self, ending: Ending) -> None:
        """End the episode where it stands, as when the token budget is spent. Turns not finished count as failed."""
        if self._ending is _RUNNING:
            self._ending = ending

    def _play(self, message: str, parsed: protocol.Parsed) -> str | None:
        limits = self.limits
        self._steps_in_turn += 1
        if parsed.answer is not None:
            return self._end_turn(message, _ANSWER)
        if parsed.error:
            outcome, calls, results, hint_ids, truncated = Outcome.FORMAT_ERROR, (), (), (), 0
            feedback = protocol.format_feedback(parsed.error)
            if limits.format_error_ends_turn:
                return self._end_turn(message, outcome, feedback=feedback)
        elif not limits.run_calls_in_empty_turns and not self.task.ground_truth[self._turn]:
            self._called_in_turn = True
            return self._end_turn(
                message,
                Outcome.CALL_IN_EMPTY_TURN,
                parsed.calls,
                feedback=protocol.EMPTY_TURN_WARNING,
            )
        else:
            calls = parsed.calls
            outcome, results, hint_ids, feedback, truncated = self._run(calls)
        if self._steps_in_turn > limits.steps_per_turn:
            return self._end_turn(
                message,
                Outcome.FORCED_END,
                calls,
                results,
                hint_ids,
                f"{feedback}\n{protocol.FORCED_END_NOTICE}",
                truncated,
                Ending.TURN_STEP_LIMIT if limits.limit_ends_episode else _RUNNING,
            )
        self._steps.append(
            Step(self._turn, message, outcome, calls, results, hint_ids, feedback, truncated)
        )
        return feedback

    def _run(
        self, calls: tuple[Call, ...]
    ) -> tuple[Outcome, tuple[str, ...], tuple[str | None, ...], str, int]:
        """Run calls: the outcome, a result a call, the hints shown beside them, what the agent reads and how much it does not."""
        results = tuple(map(self._toolbox.execute, calls))
        self._results += results
        self._called_in_turn = True
        shown, hint_ids = results, (None,) * len(results)
        if self.hints_on:
            number = f"{self.seed} {self.task.id} {len(self._results)}"  # of this step's hints among all of the episode
            shown, hint_ids = zip(
                *(
                    hints.augment(
                        self.task, call, result, self._turn, self.corruption, f"{number} {i}"
                    )
                    for i, (call, result) in enumerate(zip(calls, results, strict=True))
                ),
                strict=True,
            )
        outcome = _CALLS
        for result in results:
            if result.startswith(EXECUTION_ERROR):
                outcome = _CALLS_WITH_ERROR
        read, truncated = protocol.within(shown, self.max_result_chars, self.max_observation_chars)
        return outcome, results, hint_ids, protocol.tool_feedback(calls, read), truncated

    def _judge(self, outcome: Outcome) -> TurnVerdict:
        """The verdict of the current turn: state and results against ground truth (PAPER: r_state * r_exec)."""
        why = ""
        if not self.task.ground_truth[self._turn]:
            if self._called_in_turn:
                why = "a call was made where asking was right"
            elif outcome is not _ANSWER:
                why = "the turn ended without an answer"
        elif not self._called_in_turn:
            # golden: such a turn fails and its ground truth is left out, so later turns are judged from where the agent stands
            self._unjudged += (self._turn,)
            why = "no call was made in a turn that needs one"
        else:
            truth = ground_truth(self.task, self._unjudged)[self._turn]
            if not truth.same_state(self._toolbox.instances):
                why = bfcl.state_difference(self._toolbox.instances, truth.instances)
            elif not truth.among(self._results):
                why = f"missing among the execution results: {bfcl.brief(bfcl.missing_results(self._results, truth.results))}"
        return TurnVerdict(self._turn, not why, why)

    def _end_turn(
        self,
        message: str,
        outcome: Outcome,
        calls=(),
        results=(),
        hint_ids=(),
        feedback: str = "",
        truncated: int = 0,
        ending: Ending = _RUNNING,
    ) -> str | None:
        """Judge the turn, keep its last step, and open the next turn or end the episode."""
        verdict = self._judge(outcome)
        self._steps.append(
            Step(
                self._turn,
                message,
                outcome,
                calls,
                results,
                hint_ids,
                feedback,
                truncated,
                verdict.success,
            )
        )
        self._verdicts.append(verdict)
        self._turn, self._steps_in_turn, self._called_in_turn = self._turn + 1, 0, False
        if self._turn == self.task.turns and ending is _RUNNING:
            ending = Ending.COMPLETED
        self._ending = ending
        if ending is not _RUNNING:
            return None
        following = self.task.user_turns[self._turn]
        if self._turn == self.task.withheld_until:
            docs = [
                doc for doc in bfcl.docs_of(self.task.classes) if doc["name"] in self.task.withheld
            ]
            following = protocol.user_message(following, docs, self.compact)
        return f"{feedback}\n{following}" if feedback else following


def replay(
    task_id: str,
    messages: Sequence[str],
    limits: str = "training",
    hint_rate: float = 0.0,
    seed: int = 0,
) -> EpisodeRecord:
    """Play assistant messages in order and return the record, whose `.codes` are the authors' step numbers.

    ValueError when `limits` is not one of LIMITS or when messages are left after the episode's end.
    """
    if limits not in LIMITS:
        raise ValueError(f"limits is one of {', '.join(LIMITS)}, got {limits!r}")
    episode = Episode(task_id, LIMITS[limits], hint_rate, seed)
    for number, message in enumerate(messages):
        if episode.done:
            raise ValueError(
                f"{task_id} ended ({episode._ending}) after {number} of {len(messages)} messages"
            )
        episode.step(message)
    return episode.record
