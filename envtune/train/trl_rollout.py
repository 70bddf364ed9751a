"""Rollouts for TRL's trainer: plays a batch of prompts and returns ids, mask, logprobs, rewards.

    trainer = GRPOTrainer(..., rollout_func=play, reward_funcs=episode_reward)   # play: TRLRollout
    dataset = Dataset.from_list([{"prompt": prompt_row("multi_turn_base_3")}])

This is the only file that uses TRL's internals for rollouts (TRL 1.16: rollout_func, env_mask,
_generate_single_turn, vllm_generation).
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from accelerate.utils import gather_object
from transformers import set_seed

from envtune import bfcl
from envtune.env import rewards
from envtune.env.episode import EVALUATION, Episode
from envtune.hints import Corruption
from envtune.policy import sampler, vllm_engine
from envtune.policy.rollout import Chat, Generate, Rollout, play, play_continuously
from envtune.record import EpisodeRecord
from envtune.train.presets import Preset
from envtune.train.stages import Stage


def prompt_row(task_id: str) -> list[dict]:
    """A dataset prompt for TRL: rollout_func gets only prompts, so it carries the task id."""
    return [{"role": "user", "content": "", "task_id": task_id}]


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


@dataclass
class TRLRollout:
    """`rollout_func` for GRPOTrainer: plays a batch; returns ids, mask, logprobs and rewards.

    In training each task comes `num_generations` times in a row, under the preset's limits; in
    evaluation mode it plays under EVALUATION limits, without hints, and the reward is BFCL's
    verdict.
    """

    chat: Chat
    stage: Stage
    preset: Preset
    seed: int
    on_records: Callable[[str, list[EpisodeRecord], dict[str, float], list[dict]], None]
    """Called after every batch with "train" or "eval", the records, this process's timings, and of
    every record its tags: its reward, and in training its tokens if they are kept."""

    def __post_init__(self):
        stage, preset = self.stage, self.preset
        corruption = Corruption(stage.corruption, stage.corruption_rate)
        self.episode = {"rules": stage.rules, "corruption": corruption, **preset.episode}
        self.budgets = preset.completion_tokens or stage.completion_tokens, preset.message_tokens
        self.sampling = preset.message_tokens, preset.temperature
        self.reward = rewards.reward_of(stage.reward)

    def _generate(self, trainer) -> Generate:
        """TRL's own generation with weights spread over processes or a server, else our sampler."""
        if trainer.use_vllm or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            return lambda contexts: _generate_together(trainer, contexts)
        model = trainer.accelerator.unwrap_model(trainer.model)
        tokenizer = trainer.processing_class
        keep = self.preset.keep_tokens
        return sampler.Sampler(model, tokenizer, *self.sampling, logprobs=keep)

    def _play(self, episodes: Sequence[Episode], trainer, seed: int, clock: Clock) -> list[Rollout]:
        """Play the episodes: on a colocated vLLM all at their own pace, else batches in waves."""
        accelerator, limits = trainer.accelerator, self.budgets
        if trainer.use_vllm and trainer.vllm_mode == "colocate":
            # the engine draws from this process's generators; a resumed step draws the same
            set_seed(seed % 2**32)
            with contextlib.ExitStack() as stack:
                # waking it pushes the weights, which is no time of the environment
                wake = clock.of(stack.enter_context)
                llm = wake(vllm_engine.awake(trainer.vllm_generation))
                engine = vllm_engine.VLLMEngine(llm, trainer.eos_token_ids, *self.sampling)
                engine.submit, engine.collect = clock.of(engine.submit), clock.of(engine.collect)
                ended = dict(play_continuously(episodes, self.chat, engine, *limits))
            return [ended[number] for number in range(len(episodes))]

        def any_running(here: bool) -> bool:
            return here if accelerator.num_processes == 1 else any(gather_object([here]))

        rollouts, size = [], self.preset.rollout_batch or len(episodes)
        with generating(trainer), accelerator.autocast():
            for start in range(0, len(episodes), size):
                generate, batch = clock.of(self._generate(trainer)), episodes[start : start + size]
                rollouts += play(batch, self.chat, generate, *limits, any_running)
        return rollouts

    def __call__(self, prompts: list, trainer) -> dict:
        """`prompts` are those of `prompt_row`: TRL's own type leaves out chat messages."""
        training = trainer.model.training
        limits = self.preset.training_limits if training else EVALUATION
        # seeded by the step and the place in the batch, so that a resumed run draws the same hints
        step, before = trainer.state.global_step, trainer.accelerator.process_index * len(prompts)
        seed = (self.seed * 100_003 + step) * 100_003 + before
        done = step / max(1, trainer.state.max_steps)
        hint_rate = self.stage.hint_rate_at(done) if training else 0.0
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
        if training:
            scores = [self.stage.reward_scale * self.reward(record) for record in records]
        else:
            scores = [float(bfcl.official_valid(record)) for record in records]
        tags: list[dict] = [{"reward": score} for score in scores]
        if training and self.preset.keep_tokens:
            for tag, rollout in zip(tags, rollouts, strict=True):
                tag["tokens"] = rollout.tokens(self.chat)
        self.on_records("train" if training else "eval", records, timings, tags)
        return {
            "prompt_ids": [r.prompt_ids for r in rollouts],
            "completion_ids": [r.completion_ids for r in rollouts],
            "logprobs": [r.logprobs for r in rollouts] if trainer.use_vllm else None,
            "env_mask": [r.mask for r in rollouts],
            "episode_reward": scores,
            **{name: [part(record) for record in records] for name, part in REPORTED.items()},
        }


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
