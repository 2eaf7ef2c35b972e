import re

import numpy as np
import pytest

from carm_env.actions import ALIGNED, N_ACTIONS, MoveLattice
from carm_env.anatomy.layout import landmark_layout
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.policy import PUBLIC_INFO, TASK_INFO, Policy
from carm_env.evaluation.reference import RandomPolicy
from carm_env.landmarks import landmark
from carm_env.system.errors import CArmEnvError, UnknownNameError
from policies import POLICIES, Decision, make_policy, registry
from policies.checkpoint import SHIPPED
from policies.registry import CHECKPOINTS, LEARNED
from policies.swapped_images import SwappedImagesPolicy

SHIPPED_WEIGHTS = {"cnn", "conformal", "ppo", "maskable_ppo", "ppo_pixels"}


def drive(policy, env, seed, **options):
    """Run one episode; returns the last info and the number of decisions."""
    observation, info = env.reset(seed=seed, options=options)
    policy.reset(seed)
    done, steps = False, 0
    while not done and steps < 20:
        steps += 1
        decision = policy.act(observation, policy.visible_info(info))
        observation, _, done, _, info = env.step(decision.move.index)
    return info, steps


@pytest.fixture(scope="module")
def env():
    return CArmNavEnv(image_size=16)


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in CHECKPOINTS or name in SHIPPED_WEIGHTS])
def test_every_policy_is_deterministic(name, env):
    if name in LEARNED:
        pytest.importorskip("transformers")
    runs = []
    for _ in range(2):
        policy = make_policy(name)
        info, steps = drive(policy, env, seed=5)
        runs.append((steps, info["distance_mm"]))
    assert runs[0] == runs[1]


def test_shipped_weights_are_small_and_have_a_model_card():
    assert {path.name for path in SHIPPED.iterdir()} == SHIPPED_WEIGHTS | {
        "mllm",
        "mllm_grpo",
        "out_of_distribution",
        "router",
    }
    files = [path for name in SHIPPED_WEIGHTS for path in (SHIPPED / name).rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in files) < 15e6
    for name in ("mllm", "mllm_grpo", "router"):
        language_model = list((SHIPPED / name).iterdir())
        assert {path.suffix for path in language_model} == {".md", ".json", ".jinja", ".safetensors"}
        assert sum(path.stat().st_size for path in language_model) < 15e6
    for path in SHIPPED.glob("*/README.md"):
        card = path.read_text(encoding="utf-8")
        assert "not a medical device" in card and "## Limits" in card
        assert re.search("commands?[^`]*: `python training/", card)


def test_swapped_images_are_those_of_another_patient(env, monkeypatch):
    seen = []

    class Watching(RandomPolicy):
        def act(self, observation, info):
            seen.append(observation["image"].copy())
            assert observation["target"] == env_observation["target"] and "distance_mm" not in info
            return super().act(observation, info)

    monkeypatch.setattr(registry, "make_policy", lambda name: Watching())
    policy = SwappedImagesPolicy("watching")
    env_observation, info = env.reset(seed=3)
    for _ in range(2):
        policy.reset(7)
        for _ in range(2):
            policy.act(env_observation, policy.visible_info(info))
    assert all(image.shape == env_observation["image"].shape for image in seen)
    assert all((image != env_observation["image"]).any() for image in seen)
    assert (seen[0] != seen[1]).any() and (seen[0] == seen[2]).all() and (seen[1] == seen[3]).all()


def test_only_a_policy_that_looks_has_its_images_swapped():
    assert type(make_policy("swapped_images:random")).__name__ == "SwappedImagesPolicy"
    with pytest.raises(CArmEnvError, match="reads the true state"):
        make_policy("swapped_images:oracle")


def test_a_policy_without_shipped_weights_is_reported():
    with pytest.raises(FileNotFoundError, match="Train it, or give the folder"):
        make_policy("dqn")


def test_the_oracle_always_succeeds(env):
    policy = make_policy("oracle")
    for seed in range(40):
        info, steps = drive(policy, env, seed)
        assert info["is_success"] and info["distance_mm"] <= 21.3
        assert steps <= 10


def test_the_atlas_is_better_than_chance_and_worse_than_the_oracle(env):
    success = {
        name: np.mean([drive(make_policy(name), env, seed)[0]["is_success"] for seed in range(40)])
        for name in ("random", "atlas", "oracle")
    }
    assert success["random"] < 0.1 < success["atlas"] < success["oracle"] == 1


def test_the_atlas_knows_the_mean_patient():
    # Told that the skull is closest, with T12 as the target, it must go down.
    policy = make_policy("atlas")
    info = {"closest_landmarks": np.array([1, 10, 2]), "target_landmark": 14, "moved_mm": np.zeros(2)}
    decision = policy.act(None, info)
    assert decision.move.y_step == -3 and decision.closest_landmarks == (1,)
    assert "Skull is closest" in decision.rationale


def test_the_atlas_reaches_the_target_of_the_mean_patient():
    # In the mean patient, the closest landmarks and the moves suffice to come close to the target.
    layout = landmark_layout().mean_mm
    policy = make_policy("atlas")
    position, goal = layout[landmark(1).index].copy(), layout[landmark(4).index]
    moved = np.zeros(2)
    for _ in range(15):
        closest = int(np.linalg.norm(layout - position, axis=1).argmin()) + 1
        decision = policy.act(None, {"closest_landmarks": np.array([closest]), "target_landmark": 4, "moved_mm": moved})
        if decision.move == ALIGNED:
            break
        moved = MoveLattice().displacement_mm(decision.move)
        position = position + moved
    assert decision.move == ALIGNED
    assert np.linalg.norm(position - goal) < 60


def test_random_draws_every_action():
    policy = make_policy("random")
    policy.reset(0)
    drawn = {policy.act(None, {}).move.index for _ in range(2000)}
    assert drawn == set(range(N_ACTIONS))


def test_policies_see_only_public_info(env):
    _, info = env.reset(seed=0)
    assert set(make_policy("random").visible_info(info)) == PUBLIC_INFO - TASK_INFO
    truth = {"distance_mm", "displacement_mm", "closest_landmarks", "isocenter_lps_mm", "is_success", "patient"}
    assert not PUBLIC_INFO & truth
    assert set(make_policy("atlas").visible_info(info)) == PUBLIC_INFO - TASK_INFO | {"closest_landmarks"}


def test_act_batch_calls_act_for_each_episode():
    class Fixed(Policy):
        keeps_state = False

        def reset(self, seed=None):
            pass

        def act(self, observation, info):
            return Decision(ALIGNED, confidence=observation)

    assert [d.confidence for d in Fixed().act_batch([0.1, 0.2], [{}, {}])] == [0.1, 0.2]
    with pytest.raises(RuntimeError, match="AtlasPolicy keeps state between the steps of an episode"):
        make_policy("atlas").act_batch([0.1, 0.2], [{}, {}])


def test_the_error_for_an_unknown_policy_names_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'oracle'"):
        make_policy("orakel")
