"""The environment as a Gymnasium environment: text in, text out.

    >>> env = EpisodeEnv(["multi_turn_base_3"])
    >>> opening, info = env.reset(seed=0)
    >>> env.step("<think>x</think><answer>Done.</answer>")[1:4]    # reward, terminated, truncated
    (0.0, False, False)

One episode of Gymnasium is one task. The action is a whole agent message, the observation what the
agent reads next. Rewards come with verdicts: 1/T when one of the T turns is won, so that an
episode's return is its progress reward (rewards.py). `terminated` means that every turn was played,
`truncated` that a limit ended the episode before. Needs the extra `gym`; importing this module
registers the id "envtune/Episode-v0" for gymnasium.make.
"""

from collections.abc import Sequence

import gymnasium

from envtune.env.episode import TRAINING, Episode, Limits
from envtune.record import Ending


class Text(gymnasium.spaces.Space[str]):
    """Any text up to a length. Gymnasium's own Text space needs a list of the characters."""

    def __init__(self, max_chars: int, seed: int | None = None):
        super().__init__((), str, seed)
        self.max_chars = max_chars

    def sample(self, mask=None, probability=None) -> str:
        """A well-formed message that does little: a call without arguments, or an answer."""
        name = self.np_random.choice(["ls", "pwd", "get_watchlist", "list_users"])
        call = f'<tool_call>[{{"name": "{name}", "arguments": {{}}}}]</tool_call>'
        return "<think>sampled</think>" + (
            call if self.np_random.random() < 0.5 else "<answer>Done.</answer>"
        )

    def contains(self, x) -> bool:
        return isinstance(x, str) and len(x) <= self.max_chars

    def __eq__(self, other) -> bool:
        return isinstance(other, Text) and self.max_chars == other.max_chars

    def __repr__(self) -> str:
        return f"Text(max_chars={self.max_chars})"

    @property
    def is_np_flattenable(self) -> bool:
        return False


class EpisodeEnv(gymnasium.Env[str, str]):
    """Episodes of some tasks, drawn from the seed; `reset(options={"task_id": …})` names one.

    `episode_settings` are those of Episode, such as hint_rate, rules and max_result_chars.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}

    def __init__(
        self,
        task_ids: Sequence[str],
        limits: Limits = TRAINING,
        render_mode: str | None = None,
        **episode_settings,
    ):
        if not task_ids:
            raise ValueError("expected at least one task id, got none")
        self.task_ids, self.limits, self.render_mode = tuple(task_ids), limits, render_mode
        self.episode_settings = episode_settings
        self.observation_space = Text(2_000_000)
        self.action_space = Text(200_000)
        self.episode: Episode | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[str, dict]:
        """The opening as one text, and in `info` as chat messages. KeyError for an unknown task."""
        super().reset(seed=seed)
        task_id = (options or {}).get("task_id") or self.task_ids[
            int(self.np_random.integers(len(self.task_ids)))
        ]
        self.episode = Episode(
            task_id, self.limits, seed=int(self.np_random.integers(2**31)), **self.episode_settings
        )
        messages = self.episode.messages
        opening = "\n\n".join(message["content"] for message in messages)
        return opening, {"task_id": task_id, "messages": messages}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """Play one agent message. `info["record"]` is what happened; the last observation is ''.

        RuntimeError before the first reset and after the end.
        """
        if self.episode is None:
            raise RuntimeError("reset() comes before the first step()")
        won = sum(verdict.success for verdict in self.episode.record.verdicts)
        reply = self.episode.step(action)
        record = self.episode.record
        reward = (sum(verdict.success for verdict in record.verdicts) - won) / record.turns
        terminated = record.ending is Ending.COMPLETED
        truncated = self.episode.done and not terminated
        return reply or "", reward, terminated, truncated, {"record": record}

    def render(self) -> str | None:
        """The agent's messages and what it read, as text."""
        if self.render_mode != "ansi" or self.episode is None:
            return None
        return "\n".join(
            f"agent: {step.message}\nenvironment: {step.feedback}"
            for step in self.episode.record.steps
        )


gymnasium.register(id="envtune/Episode-v0", entry_point=EpisodeEnv)
