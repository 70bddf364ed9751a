"""The environment as an OpenEnv server: reset, step and state over a WebSocket.

    python -m envtune.env.interop.openenv_environment --port 8000

>>> with GenericEnvClient(base_url="http://127.0.0.1:8000").sync() as client:
...     opening = client.reset(task_id="multi_turn_base_3").observation["messages"]
...     client.step({"message": "<think>x</think><answer>Done.</answer>"}).reward
0.0

A session is a WebSocket connection and has an episode of its own. Rewards are those of env/gym.py:
1/T when one of the T turns is won, so they add up to the progress reward. OpenEnv's plain HTTP
keeps no session: a POST to /step meets an environment that was never reset, and fails.
Needs the extra `openenv`.
"""

import argparse
import random

import uvicorn  # pyright: ignore[reportMissingImports]
from openenv.core.env_server.http_server import create_app  # pyright: ignore[reportMissingImports]
from openenv.core.env_server.interfaces import Environment  # pyright: ignore[reportMissingImports]
from openenv.core.env_server.types import Action, EnvironmentMetadata, Observation, State  # pyright: ignore[reportMissingImports]
from pydantic import Field

from envtune import bfcl
from envtune.env import rewards
from envtune.env.episode import LIMITS, Episode
from envtune.env.interop.played import clean

SESSIONS = 64  # at once; one more is refused


class Message(Action):
    """What the agent writes: a thought, and then calls or an answer."""

    message: str = Field(max_length=1_000_000, description="<think>…</think> and one other block")


class Reply(Observation):
    """What the agent reads next; done and reward come beside it."""

    messages: list[dict[str, str]] = Field(default=[], description="chat messages that are new")
    progress: float = Field(default=0.0, description="turns won so far / turns")
    ending: str = Field(default="running", description="why the episode is over")


class EpisodeState(State):
    """Where the episode stands. Ground truth is not part of it."""

    task_id: str | None = None
    turn: int = 0
    turns: int = 0


class EpisodeEnvironment(Environment[Message, Reply, EpisodeState]):
    """One session: an episode at a time."""

    SUPPORTS_CONCURRENT_SESSIONS = True  # two episodes share nothing that a call can change

    def __init__(self):
        super().__init__()
        self._episode: Episode | None = None
        self._id: str | None = None

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        task_id: str | None = None,
        hint_rate: float = 0.0,
        rules: bool = False,
        limits: str = "training",
    ) -> Reply:
        """Begin a task: the one named, or one of BFCL's drawn from the seed."""
        if limits not in LIMITS:
            raise ValueError(f"limits is one of {', '.join(LIMITS)}, got {limits!r}")
        draw = random.Random(seed)
        task_id = task_id or draw.choice(list(bfcl.load_tasks()))
        settings = {"hint_rate": hint_rate, "rules": rules}
        number = draw.randrange(2**31) if seed is None else seed
        self._episode = Episode(task_id, LIMITS[limits], seed=number, **settings)
        self._id = episode_id
        return Reply(messages=clean(self._episode.messages), done=False, reward=None)

    def step(self, action: Message, timeout_s: float | None = None) -> Reply:
        """Play one agent message. RuntimeError before a reset and after the end."""
        if self._episode is None:
            raise RuntimeError("reset comes first, in the same WebSocket session")
        before = rewards.progress_reward(self._episode.record)
        text = self._episode.step(action.message)
        record = self._episode.record
        progress = rewards.progress_reward(record)
        return Reply(
            messages=[] if text is None else clean([{"role": "user", "content": text}]),
            progress=progress,
            ending=str(record.ending),
            done=self._episode.done,
            reward=progress - before,
        )

    @property
    def state(self) -> EpisodeState:
        if self._episode is None:
            return EpisodeState()
        task, count = self._episode.task, len(self._episode.record.steps)
        place = {"task_id": task.id, "turn": self._episode.turn, "turns": task.turns}
        return EpisodeState(episode_id=self._id, step_count=count, **place)

    def get_metadata(self) -> EnvironmentMetadata:
        about = "Multi-turn tool use: the tasks of BFCL V3, with hints and a reward for each turn."
        return EnvironmentMetadata(name="envtune", description=about, version="0.1.0")


app = create_app(
    EpisodeEnvironment,
    Message,
    Reply,
    env_name="envtune",
    max_concurrent_envs=SESSIONS,
    state_cls=EpisodeState,
)


def main(arguments: list[str] | None = None) -> None:
    """Serve on this machine alone unless --host says otherwise: there is no password."""
    parser = argparse.ArgumentParser(description="envtune as an OpenEnv server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
