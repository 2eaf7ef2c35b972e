"""Archives of stable-baselines3 as policies."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import carm_env  # noqa: F401  registers the environment
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.policy_specification import PolicyLoadingError
from carm_env.evaluation.sb3_policy import Sb3Policy, suggested_algorithm
from carm_env.system.errors import UnknownNameError

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO  # noqa: E402
from stable_baselines3 import A2C, DQN, PPO  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import VecFrameStack  # noqa: E402

ENVIRONMENT = {"image_size": 40, "patients": "virtual:0"}
SMALL = {"net_arch": [4], "features_extractor_kwargs": {"cnn_output_dim": 4}}


def saved(folder, algorithm, policy="MultiInputPolicy", stack=0, net=SMALL, **environment):
    envs = make_vec_env("CArmNav-v0", n_envs=1, env_kwargs={**ENVIRONMENT, **environment})
    settings = {"n_steps": 8} if algorithm in (PPO, A2C, MaskablePPO, RecurrentPPO) else {"buffer_size": 10}
    settings |= {"batch_size": 8} if algorithm in (PPO, MaskablePPO, RecurrentPPO) else {}
    model = algorithm(policy, VecFrameStack(envs, stack) if stack else envs, policy_kwargs=net, **settings)
    model.save(folder / "agent.zip")
    return folder / "agent.zip"


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("ppo"), PPO)


def actions(policy, seed=0, steps=4):
    env = CArmNavEnv(patients="virtual:0", image_size=64)
    observation, info = env.reset(seed=seed)
    policy.reset(seed)
    found = []
    for _ in range(steps):
        found.append(policy.act(observation, policy.visible_info(info)).move.index)
        observation, _, _, _, info = env.step(max(found[-1], 1) if found[-1] != 24 else 25)
    return found


def test_archive_acts_like_the_model(ppo):
    policy = make_policy(f"{ppo}?trust_pickle=true")
    env = gym.make("CArmNav-v0", **ENVIRONMENT)
    observation, info = env.reset(seed=3)
    policy.reset(3)
    expected = int(PPO.load(ppo).predict(observation, deterministic=True)[0])
    assert policy.act(observation, info).move.index == expected
    assert actions(policy) == actions(policy)


@pytest.mark.parametrize(
    ("algorithm", "name", "policy", "stack", "environment"),
    [
        (A2C, "a2c", "MultiInputPolicy", 0, {"target_encoding": "one_hot"}),
        (PPO, "ppo", "MultiInputPolicy", 3, {"target_encoding": "one_hot"}),
        (PPO, "ppo", "CnnPolicy", 0, {"obs_type": "image", "targets": ["skull"]}),
        (MaskablePPO, "maskable_ppo", "MultiInputPolicy", 0, {}),
        (RecurrentPPO, "recurrent_ppo", "MultiInputLstmPolicy", 0, {}),
        (DQN, "dqn", "MultiInputPolicy", 0, {}),
        (QRDQN, "qrdqn", "MultiInputPolicy", 0, {}),
    ],
)
def test_algorithms_and_observations(tmp_path, algorithm, name, policy, stack, environment):
    net = {"features_extractor_kwargs": {"features_dim": 4}} if policy == "CnnPolicy" else SMALL
    path = saved(tmp_path, algorithm, policy, stack, net, **environment)
    assert suggested_algorithm(path) == name
    assert len(actions(Sb3Policy(path, trust_pickle=True))) == 4


def test_newest_frame_is_last(tmp_path):
    policy = Sb3Policy(saved(tmp_path, PPO, stack=3, target_encoding="one_hot"), trust_pickle=True)
    for value in (10, 20):
        stacked = policy._stacked(np.full((64, 64, 1), value, np.uint8))
    assert stacked.shape == (40, 40, 3) and stacked[0, 0].tolist() == [0, 10, 20]


def test_archive_that_is_not_trusted_is_not_loaded(ppo, monkeypatch):
    monkeypatch.setattr(PPO, "load", lambda *args, **options: pytest.fail("the archive was loaded"))
    for text in (f"{ppo}", f"sb3:{ppo}", f"{ppo}?trust_pickle=false", f"{ppo}?trust_pickle=1"):
        with pytest.raises(PolicyLoadingError, match="add --trust-pickle"):
            make_policy(text)


def test_archive_that_does_not_fit_is_named(ppo, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.zip"):
        make_policy("absent.zip?trust_pickle=true")
    with pytest.raises(UnknownNameError, match="Did you mean 'ppo'"):
        make_policy(f"{ppo}?trust_pickle=true&algorithm=pp")
    with pytest.raises(PolicyLoadingError, match="cannot be loaded as dqn"):
        make_policy(f"{ppo}?trust_pickle=true&algorithm=dqn")
    (tmp_path / "text.zip").write_text("no archive", encoding="utf-8")
    with pytest.raises(PolicyLoadingError, match="is not an archive"):
        make_policy(f"{tmp_path / 'text.zip'}?trust_pickle=true")
    model = PPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=8, batch_size=8)
    model.save(tmp_path / "cart.zip")
    with pytest.raises(PolicyLoadingError, match="was trained on Box"):
        make_policy(f"{tmp_path / 'cart.zip'}?trust_pickle=true")
