"""Environment Tuning: multi-turn tool use learned from 400 problems, by tuning the environment.

    import envtune
    episode = envtune.Episode("multi_turn_base_0")           # episode.step(message) -> what the agent reads next
    record = envtune.replay("multi_turn_base_0", messages)   # assistant messages, in order
    record.codes, envtune.rewards.progress_reward(record), envtune.bfcl.official_valid(record)

The rooms, bottom up; each uses only what stands before it: common, bfcl, record, hints, env, policy, train, study. Importing this needs
no torch.
"""

from envtune import bfcl
from envtune.env import rewards
from envtune.env.episode import Episode, replay
from envtune.record import EpisodeRecord, read_records, write_records

__version__ = "0.1.0"
__all__ = ["Episode", "EpisodeRecord", "bfcl", "read_records", "replay", "rewards", "write_records"]
