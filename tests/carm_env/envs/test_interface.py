"""CArmNavEnv as a Gymnasium environment: checkers, seeds, specs, copies, wrappers, frames."""

import multiprocessing
import pickle
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pygame
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, RecordVideo, TimeLimit

from carm_env import patient_store as store
from carm_env.actions import ALIGNED, Move
from carm_env.envs import display
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.patient import Patient

SIZE = 64
OBSERVATIONS = [{}, {"obs_type": "image"}, {"target_encoding": "one_hot"}]


def rollout(seed, steps=12, **kwargs):
    """Everything that a seeded run with random moves returns, as bytes."""
    env = gym.make("CArmNav-v0", image_size=SIZE, **kwargs)
    observation, info = env.reset(seed=seed)
    actions = np.random.default_rng(seed).integers(48, size=steps)
    record = [observation["image"].tobytes(), int(observation["target"]), repr(info)]
    for action in actions + (actions >= ALIGNED.index):
        observation, reward, terminated, truncated, info = env.step(action)
        record += [observation["image"].tobytes(), int(observation["target"])]
        record += [float(reward).hex(), terminated, truncated, repr(info)]
    env.close()
    return record


def put_rollout(queue, seed):
    import carm_env  # noqa: F401  (a spawned process has not registered the environment)

    queue.put(rollout(seed))


@pytest.mark.parametrize("kwargs", OBSERVATIONS, ids=str)
def test_gymnasiums_checker_accepts_it(kwargs):
    env = gym.make("carm_env:CArmNav-v0", image_size=SIZE, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("kwargs", OBSERVATIONS, ids=str)
def test_stable_baselines3s_checker_accepts_it(kwargs):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.make("CArmNav-v0", image_size=SIZE, **kwargs))


def test_default_spaces():
    env = gym.make("CArmNav-v0")
    assert env.action_space == gym.spaces.Discrete(49)
    assert env.observation_space["image"] == gym.spaces.Box(0, 255, (256, 256, 1), np.uint8)
    assert env.observation_space["target"] == gym.spaces.Discrete(14)
    image_only = gym.make("CArmNav-v0", obs_type="image", image_size=100)
    assert image_only.observation_space == gym.spaces.Box(0, 255, (100, 100, 1), np.uint8)


def test_a_one_hot_target_has_a_one_at_the_index():
    env = gym.make("CArmNav-v0", image_size=SIZE, target_encoding="one_hot")
    observation, info = env.reset(seed=0)
    assert env.observation_space["target"] == gym.spaces.Box(0.0, 1.0, (14,), np.float32)
    assert observation["target"].dtype == np.float32
    assert observation["target"].tolist() == [float(i == info["target_landmark"] - 1) for i in range(14)]


def test_a_one_hot_target_can_be_stacked():
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    make_vec_env = pytest.importorskip("stable_baselines3.common.env_util").make_vec_env
    envs = make_vec_env("CArmNav-v0", n_envs=2, env_kwargs={"image_size": SIZE, "target_encoding": "one_hot"})
    observation = vec_env.VecFrameStack(envs, n_stack=3).reset()
    assert observation["target"].shape == (2, 3 * 14) and observation["image"].shape == (2, SIZE, SIZE, 3)


def test_the_same_seed_gives_the_same_bytes():
    assert rollout(3) == rollout(3)
    assert rollout(3) != rollout(4)


def test_a_spawned_process_gives_the_same_bytes():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=put_rollout, args=(queue, 3))
    process.start()
    try:
        assert queue.get(timeout=300) == rollout(3)
    finally:
        process.join(timeout=60)


def test_a_pickled_environment_continues_where_the_original_is(env):
    env.reset(seed=1)
    env.step(0)
    copy = pickle.loads(pickle.dumps(env))
    for action in (5, 40):
        first, second = env.step(action), copy.step(action)
        np.testing.assert_array_equal(first[0]["image"], second[0]["image"])
        assert first[1:4] == second[1:4]


def test_the_spec_survives_json(env):
    spec = EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    assert again.observation_space == env.observation_space
    assert again.unwrapped.image_size == SIZE


@pytest.mark.parametrize("several", [False, True])
def test_the_spec_with_paths_survives_json(small_patients, tmp_path, several):
    path = Path(small_patients[0])
    env = gym.make("CArmNav-v0", image_size=SIZE, patients=[path, "imported:two"] if several else path)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.patients == env.unwrapped.patients == small_patients[: 1 + several]


def test_the_spec_with_arrays_survives_json():
    arguments = {"extents_mm": np.array([20.0, 40.0, 80.0]), "tolerance_mm": np.float32(12), "targets": range(1, 4)}
    env = gym.make("CArmNav-v0", image_size=np.int64(SIZE), xray={"mas": np.float64(0.25)}, **arguments)
    again = gym.make(EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert (again.lattice, again.tolerance_mm, again.targets) == (env.unwrapped.lattice, 12.0, (1, 2, 3))


def test_wrappers_work():
    stacked = FrameStackObservation(gym.make("CArmNav-v0", image_size=SIZE, obs_type="image"), 3)
    assert stacked.reset(seed=0)[0].shape == (3, SIZE, SIZE, 1)
    flat = FlattenObservation(gym.make("CArmNav-v0", image_size=SIZE))
    assert flat.reset(seed=0)[0].shape == (SIZE * SIZE + 14,)
    short = TimeLimit(CArmNavEnv(image_size=SIZE), 2)
    short.reset(seed=0)
    assert [short.step(0)[3], short.step(0)[3]] == [False, True]


def test_record_video_writes_a_video(tmp_path):
    env = RecordVideo(gym.make("CArmNav-v0", image_size=SIZE, render_mode="rgb_array"), str(tmp_path))
    env.reset(seed=0)
    env.step(0)
    env.close()
    assert list(tmp_path.glob("*.mp4"))


def test_the_docstring_names_the_extra_that_record_video_needs():
    assert "carm-env[video]" in CArmNavEnv.__doc__
    assert 'video = ["moviepy' in (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")


def test_episodes_are_truncated_after_the_time_limit(env):
    env.reset(seed=0)
    truncations = [env.step(Move(0, 1 if i % 2 else -1).index)[3] for i in range(MAX_EPISODE_STEPS)]
    assert truncations == [False] * (MAX_EPISODE_STEPS - 1) + [True]


@pytest.fixture
def captions(monkeypatch):
    """The captions of the frames, in order."""
    seen = []
    draw_view = display.draw_view

    def spy(image, top, bottom):
        seen.append((top, bottom))
        return draw_view(image, top, bottom)

    monkeypatch.setattr(display, "draw_view", spy)
    return seen


def test_rgb_array_frames(captions):
    env = gym.make("CArmNav-v0", image_size=SIZE, render_mode="rgb_array")
    env.reset(seed=0, options={"target": "skull"})
    env.step(0)
    frame = env.render()
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    assert captions[-1][0] == "find: Skull" and captions[-1][1].startswith("exposure 2 ")


@pytest.mark.parametrize("show_distance", [False, True])
def test_frames_show_the_distance_only_if_asked(captions, show_distance):
    env = gym.make("CArmNav-v0", image_size=SIZE, render_mode="rgb_array", show_distance=show_distance)
    _, info = env.reset(seed=0)
    env.render()
    assert (f" {info['distance_mm']:.0f} mm " in captions[-1][1]) is show_distance
    assert (" mm" in captions[-1][1]) is show_distance


@pytest.mark.parametrize("render_mode", ["rgb_array", "human"])
def test_frames_do_not_depend_on_where_the_target_is(small_patients, monkeypatch, render_mode):
    # The same CT, with the target 20 mm farther away: whoever sees the frames must not be able to tell.
    shown = []
    monkeypatch.setattr(display.Screen, "show", lambda self, frame: shown.append(frame))
    patient = store.load_imported("one")
    moved = {**patient.landmarks_lps_mm, 11: patient.landmarks_lps_mm[11] + [20.0, 0.0, 0.0]}
    store.save_imported(Patient("imported:moved", patient.volume, moved))
    distances = set()
    for name in ("imported:one", "imported:moved"):
        env = CArmNavEnv(image_size=SIZE, render_mode=render_mode)
        env.reset(seed=0, options={"patient": name, "target": 11, "start": 1})
        for move in (Move(0, -1), Move(1, -2), ALIGNED):
            *_, info = env.step(move.index)
            shown += [env.render()] if render_mode == "rgb_array" else []
            distances.add(info["distance_mm"])
        env.close()
    half = len(shown) // 2
    assert len(distances) > 3 and half >= 3
    assert all((one == other).all() for one, other in zip(shown[:half], shown[half:], strict=True))


def test_human_mode_shows_every_step(captions):
    env = gym.make("CArmNav-v0", image_size=SIZE, render_mode="human")
    env.reset(seed=0)
    env.step(0)
    assert len(captions) == 2
    assert env.unwrapped.render() is None
    assert pygame.display.get_init()
    env.close()
    assert not pygame.display.get_init()
    env.close()
    env.reset(seed=0)
    assert pygame.display.get_init(), "a closed window opens again"
    env.close()


def test_render_without_a_mode_warns(env):
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.unwrapped.render() is None
