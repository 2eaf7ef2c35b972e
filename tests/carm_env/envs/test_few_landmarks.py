"""Patients with one, two or three landmarks."""

from __future__ import annotations

from itertools import permutations

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from carm_env import patient_store as store
from carm_env.cli import main
from carm_env.envs.episode import EpisodeSpec
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.runner import run_tasks
from carm_env.evaluation.suite import Suite
from carm_env.patient import Patient
from carm_env.volume import Volume
from policies import make_policy

POINTS = {1: (5.0, 0.0, 700.0), 10: (0.0, 20.0, 500.0), 11: (-10.0, 0.0, 400.0)}
ABSENT = 13


@pytest.fixture(params=[(10,), (1, 10), (1, 10, 11)], ids=["one", "two", "three"])
def patient(request, monkeypatch, tmp_path):
    """A box of water with a few landmarks, imported as ``few``."""
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    hu = np.full((24, 16, 40), -1000, np.int16)
    hu[4:20, 4:12] = 40
    points = {key: np.array(POINTS[key]) for key in request.param}
    made = Patient("imported:few", Volume.from_origin(hu, 20.0, (-230, -150, 0)), points)
    store.save_imported(made)
    return made


def test_a_target_that_the_patient_lacks_changes_nothing(patient):
    env = CArmNavEnv(patients="imported:few", image_size=16)
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match="Left hemidiaphragm"):
        env.set_target(ABSENT)
    assert env.episode.target == info["target_landmark"]


def test_the_workspace_has_a_minimum_size(patient):
    low, high = patient.workspace_mm
    first, last = (corner[[0, 2]] for corner in patient.volume.corners_lps_mm)
    points = np.stack(list(patient.landmarks_lps_mm.values()))[:, [0, 2]]
    middle = (points.min(0) + points.max(0)) / 2
    assert (low <= np.maximum(middle - 150, first)).all() and (high >= np.minimum(middle + 150, last)).all()
    assert (low >= first).all() and (high <= last).all()


def test_the_environment_draws_only_known_targets(patient):
    env = CArmNavEnv(patients="few", image_size=16)
    known = set(patient.landmarks_lps_mm)
    seen = set()
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        assert env.observation_space.contains(observation)
        seen.add(info["target_landmark"])
        closest = info["closest_landmarks"]
        assert set(closest) - {0} <= known and (closest > 0).sum() == min(3, len(known))
    assert seen == known
    for action in range(env.action_space.n):
        env.reset(seed=action)
        env.step(action)


@pytest.mark.parametrize("key", ["target", "start"])
def test_errors_for_absent_landmarks_list_the_known_ones(patient, key):
    env = CArmNavEnv(patients="few", image_size=16)
    with pytest.raises(ValueError, match="has no landmark.*It has: .*T1"):
        env.reset(options={"patient": "few", "target": 10, key: ABSENT})


def test_vector_environments_draw_only_known_targets(patient):
    env = gym.make_vec("CArmNav-v0", num_envs=2, patients="few", image_size=16)
    _, info = env.reset(seed=0)
    assert set(info["target_landmark"]) <= set(patient.landmarks_lps_mm)
    for action in (0, 30, 48, 5):
        observations, *_, info = env.step(np.full(2, action))
        assert observations["image"].shape == (2, 16, 16, 1)
        assert set(info["target_landmark"]) <= set(patient.landmarks_lps_mm)
    env.close()


@pytest.mark.parametrize("policy", ["oracle", "atlas", "random"])
def test_policies_run_uniform_draws_and_all_routes(patient, policy):
    drawn, _ = suite_on("uniform", {"imported:few": patient})
    assert {episode.target for episode in drawn.episodes} == set(patient.landmarks_lps_mm)
    routes = [EpisodeSpec("imported:few", goal, start) for start, goal in permutations(patient.landmarks_lps_mm, 2)]
    episodes = (*drawn.episodes[:6], *routes)
    suite = Suite(f"few-{len(routes)}", 1, "few landmarks", 20, episodes, {"image_size": 16})
    results = list(run_tasks([EpisodeTask(suite, n, policy, n) for n in range(len(episodes))], 1, make_policy))
    assert [result.error for result in results] == [""] * len(episodes)
    if policy == "oracle":
        assert all(result.success for result in results)


def test_routes_with_absent_landmarks_are_refused(patient):
    with pytest.raises(ValueError, match="lacks .*Right scapular inferior angle"):
        suite_on("paper-routes", {"imported:few": patient})


def test_the_command_line_renders_and_shows_the_patient(patient, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(["render", "--patient", "few", "--landmark", "T1", "--size", "64", "--out", str(out)]) == 0
    assert Image.open(out).size == (64, 64)
    assert main(["patients", "show", "few", "--out", str(tmp_path / "sheet.png")]) == 0
    capsys.readouterr()
    assert main(["render", "--patient", "few", "--landmark", "T12", "--size", "64", "--out", str(out)]) == 2
    assert "has no landmark 'T12'" in capsys.readouterr().err
