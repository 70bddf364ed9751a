"""Plays many episodes at once as token ids. Only the environment's text is tokenised.

    message 1:  [system, user] -> generate -> ids of an episode's first message
    message 2:  prompt ids + message ids + ids of the environment's reply -> generate -> ...

With our sampler and with generation that several processes share, the episodes go in waves: one
batched `generate` for all that still run (play). With a vLLM engine an episode goes on as soon as
its own message is there (play_continuously).

The tokens trained are the tokens sampled: ids are concatenated; a message is decoded once for the
environment and never encoded again. `mask` is 1 for a token that the policy sampled and 0 for one
that the environment wrote.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from envtune.env.episode import Episode
from envtune.policy import sampler
from envtune.record import Ending, EpisodeRecord

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

    def tokens(self, chat: Chat) -> dict[str, list]:
        """The completion to be looked at: texts, ids, mask, and logprobs of what was sampled.

        logprobs are None where there are none: without a sampler that gives them all are 0.
        """
        given = any(self.logprobs)
        known = [
            round(logprob, 4) if given and sampled and logprob is not None else None
            for logprob, sampled in zip(self.logprobs, self.mask, strict=True)
        ]
        texts = [chat.tokenizer.decode([token]) for token in self.completion_ids]
        return {"texts": texts, "ids": self.completion_ids, "mask": self.mask, "logprobs": known}

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
