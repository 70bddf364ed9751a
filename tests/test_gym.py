import warnings

import gymnasium
import pytest
from conftest import ANSWER, ground_truth_messages, tool_call
from gymnasium.utils.env_checker import check_env

from envtune import bfcl
from envtune.env import rewards
from envtune.env.episode import EVALUATION
from envtune.env.gym import EpisodeEnv

BASE = "multi_turn_base_3"


@pytest.mark.parametrize(
    "settings",
    [{}, {"hint_rate": 1.0, "compact": True, "limits": EVALUATION, "render_mode": "ansi"}],
)
def test_gymnasiums_checker_passes(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(
            "envtune/Episode-v0",
            task_ids=[t for t in bfcl.load_tasks() if t.endswith("_3")],
            **settings,
        )
        check_env(env.unwrapped)


@pytest.mark.parametrize(
    "task_id",
    [BASE, "multi_turn_miss_func_3", "multi_turn_miss_param_3", "multi_turn_long_context_3"],
)
def test_the_return_of_an_episode_is_its_progress_reward(task_id):
    env = EpisodeEnv([task_id])
    _, info = env.reset(seed=1)
    assert info["task_id"] == task_id
    total = 0.0
    for message in ground_truth_messages(task_id):
        observation, reward, terminated, truncated, info = env.step(message)
        total += reward
    assert terminated and not truncated and observation == ""
    assert total == pytest.approx(rewards.progress_reward(info["record"])) == 1.0
    with pytest.raises(RuntimeError, match="start a new one"):
        env.step(ANSWER)


def test_a_limit_truncates():
    env = EpisodeEnv([BASE], limits=EVALUATION)
    env.reset(seed=0)
    ends = [env.step(tool_call(("ls", {})))[2:4] for _ in range(21)]
    assert ends[-1] == (False, True) and ends[-2] == (False, False)


def test_a_task_can_be_named_and_the_seed_draws_the_rest():
    env = EpisodeEnv(list(bfcl.load_tasks()))
    assert env.reset(options={"task_id": BASE})[1]["task_id"] == BASE
    drawn = [env.reset(seed=s)[1]["task_id"] for s in range(20)]
    assert drawn == [env.reset(seed=s)[1]["task_id"] for s in range(20)] and len(set(drawn)) > 10
    with pytest.raises(KeyError, match="no task"):
        env.reset(options={"task_id": "nothing"})
    with pytest.raises(ValueError, match="at least one task"):
        EpisodeEnv([])
    with pytest.raises(RuntimeError, match="reset"):
        EpisodeEnv([BASE]).step(ANSWER)
