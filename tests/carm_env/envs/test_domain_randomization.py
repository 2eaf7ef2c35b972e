"""`domain_randomization` of CArmNav-v0: drawn at each reset from the environment's seed, recorded in info."""

import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from carm_env.randomization.chain import ImageChain
from carm_env.randomization.draw import CHAIN_GROUPS
from carm_env.system.errors import UnknownNameError

SIZE = 48
SCANS = (
    "",
    *(f"?scan={seed}" for seed in range(4)),
    "?scan=slice_mm:8+pixel_mm:8+hu_offset:20+kernel:sharp",
    "?scan=above_t1_mm:20+below_t12_mm:20+field_of_view_mm:450+couch:true+metal:3",
)


def make(patient, **options):
    return gym.make("CArmNav-v0", patients=patient, image_size=SIZE, **options)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("randomization", [0.0, 1.0, {"severity": 0.5, "groups": ["geometry", "polarity"]}], ids=str)
def test_gymnasiums_checker_accepts_it(small_patients, scan, randomization):
    env = make(f"{small_patients[0]}{scan}", domain_randomization=randomization)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_every_reset_draws_an_x_ray_system_from_the_seed(small_patients):
    env, again = (make(small_patients[0], domain_randomization=1.0) for _ in range(2))
    seen = set()
    for seed in (3, None, None, None):
        (first, info), (second, same) = env.reset(seed=seed), again.reset(seed=seed)
        np.testing.assert_array_equal(first["image"], second["image"])
        assert info["domain"] == same["domain"]
        assert ImageChain.from_json(json.loads(info["domain"])) == env.unwrapped.scene.camera.chain
        seen.add(info["domain"])
        assert env.step(0)[4]["domain"] == info["domain"] == again.step(0)[4]["domain"]
    assert len(seen) == 4


def test_the_episode_is_the_one_without_randomisation(small_patients):
    plain, randomised = make(small_patients[0]), make(small_patients[0], domain_randomization=1.0)
    observation, info = plain.reset(seed=5)
    changed, other = randomised.reset(seed=5)
    assert "domain" not in info
    assert plain.unwrapped.episode == randomised.unwrapped.episode
    assert (observation["image"] != changed["image"]).any()
    for action in (0, 9, 40, 24):
        one, two = plain.step(action), randomised.step(action)
        assert one[1:4] == two[1:4]
        np.testing.assert_array_equal(one[4]["displacement_mm"], two[4]["displacement_mm"])
        np.testing.assert_array_equal(one[4]["closest_landmarks"], two[4]["closest_landmarks"])
    assert other["distance_mm"] == info["distance_mm"]


def test_severity_0_changes_nothing(small_patients):
    plain, zero = make(small_patients[0]), make(small_patients[0], domain_randomization=0.0)
    for seed in (1, None):
        (first, info), (second, same) = plain.reset(seed=seed), zero.reset(seed=seed)
        np.testing.assert_array_equal(first["image"], second["image"])
        assert repr(info) == repr(same)


def test_a_vector_environment_equals_single_ones(small_patients):
    names = [f"{small_patients[0]}?scan=1", small_patients[1]]
    options = dict(patients=names, image_size=SIZE, domain_randomization=1.0)
    ours = gym.make_vec("CArmNav-v0", num_envs=3, **options)
    singles = [gym.make("CArmNav-v0", **options) for _ in range(3)]
    observations, infos = ours.reset(seed=7)
    for row, env in enumerate(singles):
        observation, info = env.reset(seed=7 + row)
        np.testing.assert_array_equal(observations["image"][row], observation["image"])
        assert infos["domain"][row] == info["domain"]
    assert infos["_domain"].all() and len(set(infos["domain"])) == 3
    observations, *_, infos = ours.step(np.array([0, 8, 16]))
    for row, (env, action) in enumerate(zip(singles, (0, 8, 16), strict=True)):
        observation, *_, info = env.step(action)
        np.testing.assert_array_equal(observations["image"][row], observation["image"])
        assert infos["domain"][row] == info["domain"]
    ours.close()


def test_a_pickled_environment_keeps_its_x_ray_system(small_patients):
    env = make(small_patients[0], domain_randomization=1.0)
    env.reset(seed=2)
    copy = pickle.loads(pickle.dumps(env))
    for action in (5, 40):
        first, second = env.step(action), copy.step(action)
        np.testing.assert_array_equal(first[0]["image"], second[0]["image"])


def test_the_spec_survives_json(small_patients):
    env = make(small_patients[0], domain_randomization={"severity": 0.4, "groups": list(CHAIN_GROUPS)})
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.domain_randomization == env.unwrapped.domain_randomization
    np.testing.assert_array_equal(again.reset(seed=1)[0]["image"], env.reset(seed=1)[0]["image"])


def test_the_cameras_own_settings_stay(small_patients):
    env = make(small_patients[0], xray={"exposure_control": True, "polarity": "bone_dark"}, domain_randomization=1.0)
    env.reset(seed=0)
    settings = env.unwrapped.scene.camera.settings
    assert settings.exposure_control
    assert (settings.polarity == "bone_dark") != env.unwrapped.scene.camera.chain.inverted


def test_one_x_ray_system_for_all_episodes(small_patients):
    system = {"rotation_deg": 10.0, "shutters": [0.1, 0.0, 0.0, 0.2], "inverted": True}
    env = make(small_patients[0], image_chain=system)
    again, plain = gym.make(EnvSpec.from_json(env.spec.to_json())), make(small_patients[0])
    for seed in (1, None):
        observation, info = env.reset(seed=seed)
        np.testing.assert_array_equal(again.reset(seed=seed)[0]["image"], observation["image"])
        assert (plain.reset(seed=seed)[0]["image"] != observation["image"]).any()
        assert plain.unwrapped.episode == env.unwrapped.episode
        assert json.loads(info["domain"]) == system


def test_a_system_is_not_given_twice(small_patients):
    with pytest.raises(ValueError, match="domain_randomization and image_chain are both given"):
        make(small_patients[0], image_chain={"crop": 0.9}, domain_randomization=0.5)
    with pytest.raises(ValueError, match="crop is 0.2, expected 0.5 to 1"):
        make(small_patients[0], image_chain={"crop": 0.2})
    with pytest.raises(UnknownNameError, match="rotation"):
        make(small_patients[0], image_chain={"rotation": 3})


def test_wrong_values_are_refused(small_patients):
    for value in (2.0, ["window"]):
        with pytest.raises(ValueError, match="^domain_randomization is .* expected a severity"):
            make(small_patients[0], domain_randomization=value)
    with pytest.raises(ValueError, match="couch of the CT scanner"):
        make(small_patients[0], domain_randomization={"groups": ["couch"]})
    with pytest.raises(UnknownNameError, match="geometry"):
        make(small_patients[0], domain_randomization={"groups": ["geometri"]})


def test_a_device_has_one_x_ray_system(small_patients):
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="leave out device"):
        gym.make_vec("CArmNav-v0", patients=small_patients[0], device="cpu", domain_randomization=0.5)
