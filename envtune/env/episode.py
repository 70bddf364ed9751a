"""One episode: user turns, agent steps, verdicts. What happened is kept in an EpisodeRecord.

    >>> episode = Episode("multi_turn_base_3")
    >>> episode.messages[1]["content"][:40]           # the system message and the first user turn
    'As part of my latest photography project'
    >>> episode.step("<think>x</think><answer>Done.</answer>")[:30], episode.record.codes
    ('After identifying them, the ne', [0.0])

Limits are data. TRAINING is the authors' environment: a format error is told to the agent and costs
a step; the sixth step of a turn that is no answer ends the turn (its calls still run); a call in a
turn with empty ground truth is not run and ends the turn. EVALUATION is BFCL's runner: 20 steps,
one more ends the episode; an unreadable message ends the turn; calls in empty turns run. A limit of
one's own: `replace(TRAINING, name="short", steps_per_episode=12)`.

A turn that needs calls and saw none fails, and its ground truth is left out from then on, as in the
authors' code.

Departure from the paper: every one of the T turns counts, so turns that were never reached are
failures (section 3.4 averages over turns; the authors' code over turns reached).
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

# bound once: Python 3.11 takes 0.2 us to look up an enum member
_ANSWER, _CALLS, _CALLS_WITH_ERROR = Outcome.ANSWER, Outcome.CALLS, Outcome.CALLS_WITH_ERROR


@dataclass(frozen=True)
class Limits:
    """How long a turn and an episode may last, and what happens then."""

    name: str
    steps_per_turn: int  # steps without an answer in a turn; the next one ends turn or episode
    limit_ends_episode: bool
    format_error_ends_turn: bool
    run_calls_in_empty_turns: bool
    steps_per_episode: int | None = None  # steps after which an episode is over; None: no limit

    def __post_init__(self):
        if self.steps_per_turn < 1 or (
            self.steps_per_episode is not None and self.steps_per_episode < 1
        ):
            raise ValueError(
                f"limits {self.name!r}: step limits are at least 1, got {self.steps_per_turn} a "
                f"turn and {self.steps_per_episode} an episode"
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


def opening(task: Task, rules: bool = False, compact: bool = False) -> list[dict[str, str]]:
    """The system prompt and the first user turn."""
    hidden = task.withheld if task.withheld_until else ()
    return [
        {"role": "system", "content": _system_prompt(task.classes, hidden, rules, compact)},
        {"role": "user", "content": task.user_turns[0]},
    ]


class Episode:
    """A live episode: `messages` opens it, `step` takes the agent's message and returns the reply.

    episode = Episode("multi_turn_base_3")
    episode.step('<think>look</think><tool_call>[{"name": "ls", "arguments": {}}]</tool_call>')
    episode                   # in a notebook: the whole conversation, and why each turn was lost
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
        max_result_chars, max_observation_chars: how much of one result, and of all results of a
            step, the agent reads [characters]. The text says how much was cut, and the record
            counts it. Verdicts use complete results.
        corruption: how hints are corrupted, to study bad hints.
        """
        if not isinstance(task, (Task, str)):
            raise TypeError(
                f"task is a Task or the id of one, such as 'multi_turn_base_3', got {task!r}"
            )
        if not 0.0 <= hint_rate <= 1.0:
            raise ValueError(f"hint_rate is a probability in [0, 1], got {hint_rate!r}")
        if max_result_chars < 1 or max_observation_chars < 1:
            raise ValueError(
                f"observation limits are at least 1 character, got {max_result_chars} a result "
                f"and {max_observation_chars} a step"
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
        self._ending: Ending | None = None  # None while it runs
        self._results: list[str] = []  # of every call run so far, all turns
        self._turn = 0
        self._steps_in_turn = 0
        self._called_in_turn = False
        self._skipped: tuple[int, ...] = ()  # turns whose ground truth is left out

    @property
    def messages(self) -> list[dict]:
        """The opening messages: system prompt and first user turn."""
        return opening(self.task, self.rules, self.compact)

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
            self._ending or Ending.RUNNING,
        )

    @property
    def turn(self) -> int:
        """The user turn that is being played, 0-based."""
        return self._turn

    @property
    def done(self) -> bool:
        return self._ending is not None

    def _repr_html_(self) -> str:
        return self.record._repr_html_()

    def step(self, message: str) -> str | None:
        """Play one agent message. Returns the environment's reply, or None if the episode is over.

        RuntimeError when the episode was over before: its record no longer changes.
        """
        if not isinstance(message, str):
            raise TypeError(
                "a message is the text that the agent wrote; of a chat message pass the "
                f"'content', got {message!r:.100}"
            )
        if self._ending is not None:
            raise RuntimeError(
                f"the episode of {self.task.id} ended ({self._ending}); start a new one"
            )
        turn, limits = self._turn, self.limits
        self._steps_in_turn += 1
        ends_turn, outcome, feedback, ran = self._play(protocol.parse(message))
        limit_reached = not ends_turn and self._steps_in_turn > limits.steps_per_turn
        if limit_reached:
            ends_turn, outcome = True, Outcome.FORCED_END
            feedback = f"{feedback}\n{protocol.FORCED_END_NOTICE}"
        won = self._end_turn(outcome) if ends_turn else None
        # after the verdict: it runs the ground truth's calls, and an interrupt there leaves the
        # episode running. In the last turn this replaces COMPLETED.
        if limit_reached and limits.limit_ends_episode:
            self._ending = Ending.TURN_STEP_LIMIT
        self._steps.append(Step(turn, message, outcome, feedback, won, *ran))
        if len(self._steps) == limits.steps_per_episode:
            self.abort(Ending.EPISODE_STEP_LIMIT)
        if self._ending is not None:
            return None
        if not ends_turn:
            return feedback
        request = protocol.user_turn(self.task, self._turn, self.compact)
        return f"{feedback}\n{request}" if feedback else request

    def abort(self, ending: Ending) -> None:
        """End the episode now, for instance when the token budget is spent. Open turns fail."""
        if not self.done:
            self._ending = ending

    def _play(self, parsed: protocol.Parsed) -> tuple:
        """Whether a message ends the turn, outcome, feedback, and Step's fields from `calls` on."""
        if parsed.answer is not None:
            return True, _ANSWER, "", ()
        if parsed.error:
            feedback = protocol.format_feedback(parsed.error)
            return self.limits.format_error_ends_turn, Outcome.FORMAT_ERROR, feedback, ()
        self._called_in_turn = True
        if not (self.limits.run_calls_in_empty_turns or self.task.ground_truth[self._turn]):
            warning = protocol.EMPTY_TURN_WARNING
            return True, Outcome.CALL_IN_EMPTY_TURN, warning, (parsed.calls,)
        return self._run(parsed.calls)

    def _run(self, calls: tuple[Call, ...]) -> tuple:
        """Run the calls of a message; returns what `_play` does."""
        results = tuple(map(self._toolbox.execute, calls))
        self._results += results
        texts, hint_ids = results, (None,) * len(results)
        if self.hints_on:
            seed = f"{self.seed} {self.task.id} {len(self._results)}"  # differs from step to step
            hinted = [
                hints.augment(self.task, call, result, self._turn, self.corruption, f"{seed} {i}")
                for i, (call, result) in enumerate(zip(calls, results, strict=True))
            ]
            texts, hint_ids = zip(*hinted, strict=True)
        shown, truncated = protocol.within(texts, self.max_result_chars, self.max_observation_chars)
        outcome = _CALLS
        for result in results:
            if result.startswith(EXECUTION_ERROR):
                outcome = _CALLS_WITH_ERROR
        feedback = protocol.tool_feedback(calls, shown)
        return False, outcome, feedback, (calls, results, shown, hint_ids, truncated)

    def _end_turn(self, outcome: Outcome) -> bool:
        """Decide whether the turn was won, and go on to the next turn or to the episode's end."""
        why = self._why_lost(outcome)
        self._verdicts.append(TurnVerdict(self._turn, not why, why))
        self._turn, self._steps_in_turn, self._called_in_turn = self._turn + 1, 0, False
        if self._turn == self.task.turns:
            self.abort(Ending.COMPLETED)
        return not why

    def _why_lost(self, outcome: Outcome) -> str:
        """What differs from ground truth in state or results, or '' (paper: r_state * r_exec)."""
        if not self.task.ground_truth[self._turn]:
            if self._called_in_turn:
                return "a call was made where asking was right"
            return "" if outcome is _ANSWER else "the turn ended without an answer"
        if not self._called_in_turn:
            # later turns are compared from where the agent stands, as in the golden cases
            self._skipped += (self._turn,)
            return "no call was made in a turn that needs one"
        truth = ground_truth(self.task, self._skipped)[self._turn]
        if not truth.same_state(self._toolbox.instances):
            return bfcl.state_difference(self._toolbox.instances, truth.instances)
        if not truth.among(self._results):
            missing = bfcl.brief(bfcl.missing_results(self._results, truth.results))
            return f"missing among the execution results: {missing}"
        return ""


def replay(
    task_id: str,
    messages: Sequence[str],
    limits: str = "training",
    hint_rate: float = 0.0,
    seed: int = 0,
) -> EpisodeRecord:
    """Play assistant messages in order. The record's `.codes` are the authors' step numbers.

    ValueError when `limits` is not one of LIMITS, or when messages are left after the episode's
    end. TypeError when `messages` is one text or holds something else than texts.
    """
    if limits not in LIMITS:
        raise ValueError(f"limits is one of {', '.join(LIMITS)}, got {limits!r}")
    if isinstance(messages, str):
        raise TypeError(f"messages is a list of assistant messages, got one text: {messages!r:.60}")
    episode = Episode(task_id, LIMITS[limits], hint_rate, seed)
    for number, message in enumerate(messages):
        if episode.done:
            raise ValueError(
                f"{task_id} ended ({episode._ending}) after {number} of {len(messages)} messages"
            )
        episode.step(message)
    return episode.record
