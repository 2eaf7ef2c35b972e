import gymnasium as gym
import numpy as np
import pytest

from carm_env.actions import ALIGNED
from carm_env.envs.navigation import CArmNavEnv
from carm_env.system.errors import UnknownNameError


@pytest.fixture
def env(small_patients):
    return CArmNavEnv(patients=small_patients[0], image_size=16)


def test_the_target_of_a_running_episode_can_change(env):
    first, _ = env.reset(seed=0, options={"target": "Carina", "start": "T1"})
    observation, info = env.set_target("Skull")
    assert observation["target"] == 0 and info["target_landmark"] == 1 and info["exposures"] == 1
    assert np.array_equal(observation["image"], first["image"])
    _, fresh = env.reset(seed=0, options={"target": "Skull", "start": "T1"})
    assert info["distance_mm"] == fresh["distance_mm"] and env.episode.target == 1
    assert np.array_equal(info["displacement_mm"], fresh["displacement_mm"])


def test_rewards_are_about_the_new_target(env):
    env.reset(seed=0, options={"target": "Carina", "start": "T1"})
    env.set_target("T1")
    _, reward, terminated, _, info = env.step(ALIGNED.index)
    assert reward == 1 and terminated and info["is_success"]


def test_a_target_cannot_change_outside_an_episode(env):
    with pytest.raises(gym.error.ResetNeeded):
        env.set_target(1)
    env.reset(seed=0, options={"target": "Carina"})
    env.step(ALIGNED.index)
    with pytest.raises(gym.error.ResetNeeded, match="set_target"):
        env.set_target(1)


def test_a_wrong_target_changes_nothing(env):
    env.reset(seed=0, options={"target": "Carina"})
    with pytest.raises(UnknownNameError):
        env.set_target("Heart")
    assert env.episode.target == 11
