"""Environment Tuning: multi-turn tool use learned from 400 problems, by tuning the environment.

    import envtune
    episode = envtune.Episode("multi_turn_base_0")   # episode.step(message) -> the reply
    record = envtune.replay("multi_turn_base_0", messages)           # assistant messages, in order
    record.codes, envtune.rewards.progress_reward(record), envtune.bfcl.official_valid(record)
    envtune.browse("quickstart")                     # in a notebook: the episodes of a run

The layers, bottom up, each importing only those before it: common, bfcl, record, hints, env,
policy, train, study. Importing envtune needs no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from envtune import bfcl
from envtune.env import rewards
from envtune.env.episode import Episode, replay
from envtune.record import EpisodeRecord, read_records, write_records

if TYPE_CHECKING:
    from envtune.study.browse import browse

__version__ = "0.1.0"
__all__ = [
    "Episode",
    "EpisodeRecord",
    "bfcl",
    "browse",
    "read_records",
    "replay",
    "rewards",
    "write_records",
]


def __getattr__(name: str):
    """`browse`, which needs pandas; else AttributeError that says where a module is."""
    if name == "browse":
        return import_module("envtune.study.browse").browse
    found = [path.parent.name for path in Path(__file__).parent.glob(f"*/{name}.py")]
    advice = f"; it has moved: from envtune.{found[0]} import {name}" if found else ""
    raise AttributeError(f"module 'envtune' has no attribute {name!r}{advice}")
