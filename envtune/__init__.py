"""Environment Tuning: multi-turn tool use learned from 400 problems, by tuning the environment.

    import envtune
    episode = envtune.Episode("multi_turn_base_0")           # episode.step(message) -> what the agent reads next
    record = envtune.replay("multi_turn_base_0", messages)   # assistant messages, in order
    record.codes, envtune.rewards.progress_reward(record), envtune.bfcl.official_valid(record)

The flow, one module after the other: bfcl -> splits -> protocol, toolbox -> episode -> rewards ->
rollout -> stages, presets -> training -> evaluation -> figures. Importing this needs no torch.
"""
from envtune import bfcl, rewards
from envtune.episode import Episode, replay
from envtune.record import EpisodeRecord, read_records, write_records

__version__ = "0.1.0"
__all__ = ["Episode", "EpisodeRecord", "bfcl", "read_records", "replay", "rewards", "write_records"]
