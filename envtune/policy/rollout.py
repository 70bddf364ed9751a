"""Plays many episodes at once as token ids. Only the environment's text is tokenised.

    message 1:  [system, user] -> generate -> ids of an episode's first message
    message 2:  prompt ids + message ids + ids of the environment's reply -> generate -> ...

With our sampler and with generation that several processes share, the episodes go in waves: one
batched `generate` for all that still run (play). With a vLLM engine an episode goes on as soon as
its own message is there (play_continuously).

The tokens trained are the tokens sampled: ids are concatenated; a message is decoded once for the
environment and never encoded again. `mask` is 1 for a token that the policy sampled and 0 for one
that the environment wrote.

This is the only file that uses TRL's internals for rollouts (TRL 1.16: rollout_func, env_mask,
_generate_single_turn, vllm_generation).
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accelerate.utils import gather_object
from transformers import set_seed

from envtune import bfcl
from envtune.env import recovery, rewards
from envtune.env.episode import EVALUATION, Episode, Limits
from envtune.policy import sampler, vllm_engine
from envtune.record import Ending, EpisodeRecord, Outcome

Generate = Callable[[list[list[int]]], tuple[list[list[int] | None], list[list[float]] | None]]
"""Contexts as ids -> one sampled message each (EOS included where it was sampled) and their
log-probabilities or None. A message that is not complete yet is None: ask for the same context
again."""

_SENTINEL = "\u2042sentinel\u2042"  # replaces a message while the chat template is taken apart


class Chat:
    """A chat template: what comes before and after a user message that follows an answer."""

    def __init__(self, tokenizer, end_ids: Sequence[int] = ()):
        """end_ids: tokens of the model that end a message besides the tokenizer's EOS."""
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self._end_ids = {self.eos_id, *end_ids}
        head, reply = f"{_SENTINEL}a", f"{_SENTINEL}b"
        text = tokenizer.apply_chat_template(
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": head},
                {"role": "user", "content": reply},
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        if text.count(head) != 1 or text.count(reply) != 1:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} changes messages; "
                "choose a model whose template renders user and assistant messages verbatim"
            )
        before, self._after_reply = text.split(head)[1].split(reply)
        eos = tokenizer.eos_token
        self._before_reply = before.removeprefix(eos)
        if before == self._before_reply:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} closes an assistant message with "
                f"{before[:20]!r}, not with the EOS token {eos!r}; set tokenizer.eos_token to match"
            )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def opening(self, messages: list[dict]) -> list[int]:
        """Ids of the opening messages, up to where the agent's first message starts."""
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self._encode(text)

    def reply(self, text: str, closed: bool) -> list[int]:
        """Ids between two agent messages: the environment's text as a user message.

        closed: the agent wrote its EOS.
        """
        eos = [] if closed else [self.eos_id]
        return eos + self._encode(self._before_reply + text + self._after_reply)

    def written(self, text: str) -> list[int]:
        """Ids of a message that a script wrote, EOS included."""
        return [*self._encode(text), self.eos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """A sampled message as text without its end; special tokens, such as tags, are kept."""
        ids = ids[:-1] if ids and ids[-1] in self._end_ids else ids
        return self.tokenizer.decode(ids, skip_special_tokens=False)


@dataclass
class Rollout:
    """One episode as ids. completion_ids, mask and logprobs are equally long (no opening)."""

    episode: Episode
    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 = the policy's, 0 = the environment's
    # 0.0 where the sampler gives none, None where vLLM could not score a token
    logprobs: list[float | None] = field(default_factory=list)

    @property
    def record(self) -> EpisodeRecord:
        return self.episode.record

    def _extend(
        self, ids: list[int], sampled: int, logprobs: Sequence[float | None] | None = None
    ) -> None:
        self.completion_ids += ids
        self.mask += [sampled] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)

    def advance(
        self,
        chat: Chat,
        ids: list[int],
        logprobs: Sequence[float | None] | None,
        budget_tokens: int,
        message_tokens: int,
    ) -> None:
        """Take a sampled message, step the episode, append the environment's reply.

        An episode whose next message would not fit into `budget_tokens` of completion ends here and
        loses its unfinished turns. Its ending says whether the reply alone was already too long.
        """
        self._extend(ids, 1, logprobs)
        reply = self.episode.step(chat.decode(ids))
        if reply is None:
            return
        reply_ids = chat.reply(reply, closed=bool(ids) and ids[-1] == chat.eos_id)
        left_tokens = budget_tokens - len(self.completion_ids) - len(reply_ids)
        if left_tokens < 0:
            self.episode.abort(Ending.OBSERVATION_LIMIT)
        elif left_tokens < message_tokens:
            self.episode.abort(Ending.TOKEN_LIMIT)
        else:
            self._extend(reply_ids, 0)


def play(
    episodes: Sequence[Episode],
    chat: Chat,
    generate: Generate,
    budget_tokens: int,
    message_tokens: int,
    any_running: Callable[[bool], bool] = lambda here: here,
) -> list[Rollout]:
    """Play all episodes to their end, one batched `generate` per wave of those still running.

    budget_tokens: completion length of an episode [tokens].
    message_tokens: the longest message that `generate` samples [tokens].
    any_running: is given whether episodes run in this process, and says whether any run in any
        process. A process without running episodes generates for one opening and drops the message,
        because a generation that several processes share hangs if one of them does not take part.
    """
    rollouts = [Rollout(episode, chat.opening(episode.messages)) for episode in episodes]
    while any_running(bool(running := [r for r in rollouts if not r.episode.done])):
        contexts = [r.prompt_ids + r.completion_ids for r in running] or [rollouts[0].prompt_ids]
        sampled, logprobs = generate(contexts)
        for i, rollout in enumerate(running):
            if (ids := sampled[i]) is not None:
                known = logprobs[i] if logprobs else None
                rollout.advance(chat, list(ids), known, budget_tokens, message_tokens)
    return rollouts


class Engine(Protocol):
    """Samples messages for many contexts at once and returns each when it is complete."""

    def submit(self, number: int, context: list[int]) -> None:
        """Ask for the message that follows a context; `number` names it in `collect`."""
        ...

    def collect(self) -> list[tuple[int, list[int], list[float | None] | None]]:
        """Work on all that was asked for; messages that are complete now: number, ids, logprobs."""
        ...


def play_continuously(
    episodes: Iterable[Episode],
    chat: Chat,
    engine: Engine,
    budget_tokens: int,
    message_tokens: int,
    at_once: int | None = None,
) -> Iterator[tuple[int, Rollout]]:
    """Play episodes, `at_once` of them at a time (None: all), each at its own pace.

    Yields (place of the episode, its rollout) as they end, in the order in which they end.
    """
    waiting = iter(enumerate(episodes))
    running: dict[int, Rollout] = {}

    def start(count: int | None) -> None:
        for number, episode in itertools.islice(waiting, count):
            running[number] = Rollout(episode, chat.opening(episode.messages))
            engine.submit(number, running[number].prompt_ids)

    start(at_once)
    while running:
        for number, ids, logprobs in engine.collect():
            rollout = running[number]
            rollout.advance(chat, ids, logprobs, budget_tokens, message_tokens)
            if rollout.episode.done:
                yield number, running.pop(number)
                start(1)
            else:
                engine.submit(number, rollout.prompt_ids + rollout.completion_ids)


def play_policy(
    model,
    tokenizer,
    episodes: Iterable[Episode],
    batch: int,
    budget_tokens: int,
    message_tokens: int,
    temperature: float,
) -> Iterator[EpisodeRecord]:
    """Records of all episodes, in order, `batch` played at once; temperature 0 is greedy."""
    generate = sampler.Sampler(model, tokenizer, message_tokens, temperature)
    chat, left = Chat(tokenizer, generate.ends), iter(episodes)
    while running := list(itertools.islice(left, batch)):
        for rollout in play(running, chat, generate, budget_tokens, message_tokens):
            yield rollout.record


def prompt_row(task_id: str) -> list[dict]:
    """A dataset prompt for TRL: rollout_func gets only prompts, so it carries the task id."""
    return [{"role": "user", "content": "", "task_id": task_id}]


def metrics(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """What every metrics row says of a batch of episodes: means, unless named otherwise."""
    n = len(records)
    events = recovery.errors(records)
    steps = [step for record in records for step in record.steps]

    def mean(values) -> float:
        return float(sum(values)) / n

    return {
        "format_reward": mean(rewards.format_reward(r) for r in records),
        "tool_call_reward": mean(rewards.tool_call_reward(r) for r in records),
        "progress": mean(rewards.progress_reward(r) for r in records),
        "binary": mean(rewards.binary_reward(r) for r in records),
        "share_with_call": mean(rewards.attempted_call(r) for r in records),
        "steps_per_episode": mean(len(r.steps) for r in records),
        "share_with_hints_on": mean(r.hints_on for r in records),
        "hints_per_episode": mean(
            sum(h is not None for s in r.steps for h in s.hints) for r in records
        ),
        **{
            f"share_ended_by_{ending}": mean(r.ending is ending for r in records)
            for ending in CUT_SHORT
        },
        "share_of_steps_forced": sum(s.outcome is Outcome.FORCED_END for s in steps)
        / max(1, len(steps)),
        "share_of_steps_truncated": sum(s.truncated > 0 for s in steps) / max(1, len(steps)),
        "errors_per_episode": len(events) / n,
        # the recovered share of all errors; a batch without errors has no such number
        **({"recovery_rate": sum(events["recovered"]) / len(events)} if len(events) else {}),
    }


CUT_SHORT = (
    Ending.TURN_STEP_LIMIT,
    Ending.EPISODE_STEP_LIMIT,
    Ending.TOKEN_LIMIT,
    Ending.OBSERVATION_LIMIT,
)
"""The limits that end an episode, each counted in the metrics."""


class Clock:
    """Adds up the seconds that functions take."""

    seconds = 0.0

    def of(self, function: Callable) -> Callable:
        """The same function, its time counted."""

        def timed(*arguments):
            began = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.monotonic() - began

        return timed


def _generate_together(trainer, contexts: list[list[int]]):
    """TRL's generation where several processes take part in one.

    TRL sends the contexts of all processes to a server and gives each as many messages as it sent
    itself, counted from its own index: right only if all send equally many (trl#6673).
    """
    most = len(contexts)
    if trainer.use_vllm and trainer.accelerator.num_processes > 1:
        most = max(gather_object([most]))
    padded = [*contexts, *contexts[:1] * (most - len(contexts))]
    # the last argument is generations per prompt: 1, because contexts differ after a wave
    sampled, logprobs = trainer._generate_single_turn(padded, None, {}, 1)
    return sampled[: len(contexts)], logprobs[: len(contexts)] if logprobs else None


@dataclass
class TRLRollout:
    """`rollout_func` for GRPOTrainer: plays a batch; returns ids, mask, logprobs and rewards.

    In training each task comes `num_generations` times in a row and plays under `training_limits`;
    in evaluation mode it plays under EVALUATION limits, without hints, and the reward is BFCL's
    verdict.
    """

    chat: Chat
    reward: Callable[[EpisodeRecord], float]
    reward_scale: float
    hint_rate_at: Callable[[float], float]
    """Share of the stage that is done -> share of episodes with hints [0..1]."""
    episode: dict  # for every Episode: rules, compact, corruption and the observation limits
    training_limits: Limits
    budget_tokens: int
    message_tokens: int
    temperature: float
    batch: int | None  # episodes that a process plays at once, for its memory; None: all of a step
    seed: int
    on_records: Callable[[str, list[EpisodeRecord], dict[str, float]], None]
    """Called after every batch with "train" or "eval", the records and this process's timings."""

    def _generate(self, trainer) -> Generate:
        """TRL's own generation with weights spread over processes or a server, else our sampler."""
        if trainer.use_vllm or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            return lambda contexts: _generate_together(trainer, contexts)
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokenizer = trainer.processing_class
        return sampler.Sampler(model, tokenizer, self.message_tokens, self.temperature)

    def _play(self, episodes: Sequence[Episode], trainer, seed: int, clock: Clock) -> list[Rollout]:
        """Play the episodes: on a colocated vLLM all at their own pace, else `batch` in waves."""
        accelerator, limits = trainer.accelerator, (self.budget_tokens, self.message_tokens)
        if trainer.use_vllm and trainer.vllm_mode == "colocate":
            # the engine draws from this process's generators; a resumed step draws the same
            set_seed(seed % 2**32)
            with contextlib.ExitStack() as stack:
                # waking it pushes the weights, which is no time of the environment
                wake = clock.of(stack.enter_context)
                llm = wake(vllm_engine.awake(trainer.vllm_generation))
                engine = vllm_engine.VLLMEngine(
                    llm, trainer.eos_token_ids, self.message_tokens, self.temperature
                )
                engine.submit, engine.collect = clock.of(engine.submit), clock.of(engine.collect)
                ended = dict(play_continuously(episodes, self.chat, engine, *limits))
            return [ended[number] for number in range(len(episodes))]

        def any_running(here: bool) -> bool:
            return here if accelerator.num_processes == 1 else any(gather_object([here]))

        rollouts, size = [], self.batch or len(episodes)
        with generating(trainer), accelerator.autocast():
            for start in range(0, len(episodes), size):
                generate, batch = clock.of(self._generate(trainer)), episodes[start : start + size]
                rollouts += play(batch, self.chat, generate, *limits, any_running)
        return rollouts

    def __call__(self, prompts: list, trainer) -> dict:
        """`prompts` are those of `prompt_row`: TRL's own type leaves out chat messages."""
        training = trainer.model.training
        limits = self.training_limits if training else EVALUATION
        # seeded by the step and the place in the batch, so that a resumed run draws the same hints
        step, before = trainer.state.global_step, trainer.accelerator.process_index * len(prompts)
        seed = (self.seed * 100_003 + step) * 100_003 + before
        done = step / max(1, trainer.state.max_steps)
        hint_rate = self.hint_rate_at(done) if training else 0.0
        episodes = [
            Episode(bfcl.load_task(p[0]["task_id"]), limits, hint_rate, seed + i, **self.episode)
            for i, p in enumerate(prompts)
        ]
        clock, began = Clock(), time.monotonic()
        rollouts = self._play(episodes, trainer, seed, clock)
        records = [r.record for r in rollouts]
        timings = {
            "generation_seconds": round(clock.seconds, 4),
            "environment_seconds": round(time.monotonic() - began - clock.seconds, 4),
            "sampled_tokens": sum(sum(r.mask) for r in rollouts),
        }
        self.on_records("train" if training else "eval", records, timings)
        if training:
            scores = [self.reward_scale * self.reward(record) for record in records]
        else:
            scores = [float(bfcl.official_valid(record)) for record in records]
        return {
            "prompt_ids": [r.prompt_ids for r in rollouts],
            "completion_ids": [r.completion_ids for r in rollouts],
            "logprobs": [r.logprobs for r in rollouts] if trainer.use_vllm else None,
            "env_mask": [r.mask for r in rollouts],
            "episode_reward": scores,
            **{name: [part(record) for record in records] for name, part in REPORTED.items()},
        }


@contextlib.contextmanager
def generating(trainer) -> Iterator[None]:
    """Gradient checkpointing off while sampling, because it disables the cache."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    checkpointing = trainer.args.gradient_checkpointing  # what the model calls it has changed
    if checkpointing:
        model.gradient_checkpointing_disable()
    try:
        yield
    finally:
        if checkpointing:
            model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)


REPORTED = {
    "progress": rewards.progress_reward,
    "format_reward": rewards.format_reward,
    "tool_call_reward": rewards.tool_call_reward,
}
"""Logged to TensorBoard and the like besides TRL's own metrics; metrics.jsonl has more."""


def episode_reward(completions, episode_reward, log_metric, **columns) -> list[float | None]:
    """The reward function for TRL, which passes on the rewards that the rollout has computed."""
    for name in REPORTED:
        log_metric(name, sum(columns[name]) / len(columns[name]))
    return episode_reward
