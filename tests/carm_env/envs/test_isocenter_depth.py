"""The depth of the isocentre changes what the image shows, and nothing of the task."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.actions import MoveLattice
from carm_env.envs.episode import EpisodeSpec, start_isocenter_lps_mm
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.state import EpisodeState
from carm_env.envs.transition import Transition
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.results import EpisodeResult, append_result, read_results
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.evaluation.suite import Suite, SuiteError
from carm_env.geometry import (
    DEFAULT_GEOMETRY,
    DEFAULT_ISOCENTER_DEPTH_MM,
    CArmPose,
    ProjectionGeometry,
    planar_displacement_mm,
)
from carm_env.language.prompts import TaskFacts, system_prompt
from carm_env.patients.catalogue import load_patient
from tests.conftest import small_patient

PATIENT = small_patient("imported:depth", 0)
LANDMARKS = sorted(PATIENT.landmarks_lps_mm)
FRONTAL = CArmPose((0.0, 0.0, 0.0))
MIDDLE = {"isocenter_depth_mm": 0.0}
"""The isocentre at mid-depth of the body."""
depths = st.floats(-250, 250)
views = st.builds(
    CArmPose, st.just((0.0, 0.0, 0.0)), st.floats(-45, 45), st.floats(-45, 45), st.sampled_from(["AP", "PA"])
)


def begin(view, depth, target, start):
    """The transition and the state of one episode at its start."""
    transition, state = Transition(view, MoveLattice(), depth), EpisodeState.allocate(1)
    transition.begin(state, 0, PATIENT, target, start_isocenter_lps_mm(start, PATIENT, view, depth))
    return transition, state


@given(views, depths, st.sampled_from(LANDMARKS), st.sampled_from(LANDMARKS))
def test_distances_masks_and_closest_landmarks_do_not_depend_on_the_depth(view, depth, start, target):
    transition, state = begin(view, depth, target, start)
    plain, expected = begin(view, 0.0, target, start)
    np.testing.assert_allclose(state.displacements_mm, expected.displacements_mm, atol=1e-9)
    np.testing.assert_array_equal(transition.action_masks(state), plain.action_masks(expected))
    pose = CArmPose(tuple(state.isocenters_lps_mm[0]), view.alpha_deg, view.beta_deg, view.projection)
    points = np.stack([PATIENT.landmarks_lps_mm[key] for key in LANDMARKS])
    distances = np.hypot(*planar_displacement_mm(pose, points).T)
    chosen = [LANDMARKS.index(key) for key in transition.closest_landmarks(state)[0]]
    np.testing.assert_allclose(distances[chosen], np.sort(distances)[:3])


@given(views, depths, st.sampled_from(LANDMARKS))
def test_a_landmark_at_distance_0_is_in_the_middle_of_the_image(view, depth, target):
    pose = CArmPose(tuple(PATIENT.landmarks_lps_mm[target]), view.alpha_deg, view.beta_deg, view.projection)
    shifted = pose.towards_source(depth)
    projection = ProjectionGeometry.from_pose(shifted, DEFAULT_GEOMETRY, 64)
    np.testing.assert_allclose(projection.project(PATIENT.landmarks_lps_mm[target]), [31.5, 31.5], atol=1e-6)
    displacement = planar_displacement_mm(shifted, PATIENT.landmarks_lps_mm[target])
    np.testing.assert_allclose(displacement, [0, 0], atol=1e-9)


@given(depths, st.sampled_from(LANDMARKS))
def test_the_workspace_holds_the_isocentre_over_each_landmark(depth, target):
    _, state = begin(FRONTAL, depth, target, target)
    x, _, z = PATIENT.landmarks_lps_mm[target]
    low, high = state.workspaces_mm[0]
    assert (low <= (x, z)).all() and ((x, z) <= high).all()
    assert state.isocenters_lps_mm[0].tolist() == [x, PATIENT.mid_depth_mm - depth, z]


@given(views, depths)
def test_an_isocentre_is_a_start_that_returns_to_itself(view, depth):
    _, state = begin(view, depth, 1, 10)
    again = start_isocenter_lps_mm(tuple(state.isocenters_lps_mm[0].tolist()), PATIENT, view, depth)
    np.testing.assert_array_equal(again, state.isocenters_lps_mm[0])


def test_the_isocentre_is_in_front_of_the_middle_in_ap_and_behind_it_in_pa():
    for projection, sign in (("AP", -1), ("PA", 1)):
        view = CArmPose((0, 0, 0), projection=projection)
        y = start_isocenter_lps_mm(10, PATIENT, view, 100.0)[1]
        assert y == pytest.approx(PATIENT.mid_depth_mm + sign * 100)


def test_images_show_more_of_the_body_and_moves_stay_the_same(small_patients):
    options = {"patient": small_patients[0], "start": 10, "target": 1}
    made = [CArmNavEnv(image_size=64, **keywords) for keywords in (MIDDLE, {})]
    for env in made:
        env.reset(seed=0, options=options)
    points = np.stack(list(made[0].scene.patient.landmarks_lps_mm.values()))
    offsets = []
    for env in made:
        projection = ProjectionGeometry.from_pose(env.pose, DEFAULT_GEOMETRY, 64)
        offsets.append(projection.project(points) - 31.5)
    # The landmarks of these patients are at mid-depth.
    middle = made[0].scene.patient.mid_depth_mm - points[:, 1]
    share = (530 - middle) / (530 + DEFAULT_ISOCENTER_DEPTH_MM - middle)
    np.testing.assert_allclose(offsets[1], offsets[0] * share[:, None], atol=1e-9)
    infos = [env.step(0)[4] for env in made]
    for key in ("distance_mm", "displacement_mm", "closest_landmarks", "moved_mm", "action_mask", "dose_mgy"):
        np.testing.assert_allclose(infos[0][key], infos[1][key])
    depth = infos[0]["isocenter_lps_mm"] - infos[1]["isocenter_lps_mm"]
    np.testing.assert_allclose(depth, [0, DEFAULT_ISOCENTER_DEPTH_MM, 0])
    assert not np.array_equal(made[0]._shown_image(), made[1]._shown_image())


def test_the_prompt_says_how_much_of_the_body_the_image_shows():
    for keywords, width in ((MIDDLE, 155), ({}, 196)):
        env = CArmNavEnv(**keywords)
        assert env.field_of_view_mm == pytest.approx(width, abs=0.5)
        facts = TaskFacts(env.field_of_view_mm, env.tolerance_mm)
        assert f"The image shows {width} mm of the patient" in system_prompt("navigate", facts=facts)
    assert TaskFacts().field_of_view_mm == CArmNavEnv().field_of_view_mm


def test_vector_environments_have_the_depth_too(small_patients):
    keywords = {"patients": small_patients[0], "image_size": 32, "alpha_deg": 30.0, "isocenter_depth_mm": 100.0}
    vector = gym.make_vec("CArmNav-v0", num_envs=2, **keywords)
    single = gym.make("CArmNav-v0", **keywords)
    images, _ = vector.reset(seed=[4, 5])
    image, info = single.reset(seed=4)
    np.testing.assert_array_equal(images["image"][0], image["image"])
    images, *_, infos = vector.step(np.array([0, 0]))
    image, *_, info = single.step(0)
    np.testing.assert_array_equal(images["image"][0], image["image"])
    np.testing.assert_array_equal(infos["isocenter_lps_mm"][0], info["isocenter_lps_mm"])
    vector.close()


@pytest.mark.parametrize("angles", [{}, {"alpha_deg": 30.0, "beta_deg": -20.0}, {"projection": "PA"}])
def test_the_oracle_reaches_every_landmark(small_patients, angles, tmp_path):
    episodes = tuple(EpisodeSpec(small_patients[0], key, 10 if key != 10 else 1) for key in LANDMARKS)
    suite = Suite("depth", 1, "every landmark", 20, episodes, {"image_size": 16, **angles})
    suite.check({small_patients[0]: load_patient(small_patients[0])})
    results = [
        run_episode(OraclePolicy(), suite_environment(suite), EpisodeTask(suite, i, "oracle", i))
        for i in range(len(episodes))
    ]
    if "alpha_deg" not in angles:
        # In oblique views a move is not along the image, and the oracle plans for frontal ones.
        assert all(result.success for result in results)
    for result in results:
        assert result.isocenter_depth_mm == DEFAULT_ISOCENTER_DEPTH_MM
        append_result(tmp_path / "r.jsonl", result)
    read, errors = read_results(tmp_path / "r.jsonl")
    assert read == results and not errors


def test_suites_and_results_tell_depths_apart(small_patients):
    spec = EpisodeSpec(small_patients[0], 1, 4)
    plain, deep = (Suite("s", 1, "d", 5, (spec,), environment) for environment in (MIDDLE, {}))
    assert plain.hash != deep.hash
    assert plain.isocenter_depth_mm == 0
    assert deep.isocenter_depth_mm == DEFAULT_ISOCENTER_DEPTH_MM
    lines = [
        run_episode(OraclePolicy(), suite_environment(suite), EpisodeTask(suite, 0, "oracle", 0))
        for suite in (plain, deep)
    ]
    assert [line.isocenter_depth_mm for line in lines] == [0, DEFAULT_ISOCENTER_DEPTH_MM]
    assert lines[0].moves == lines[1].moves
    # The field has a default, so that lines of earlier commits are read.
    assert EpisodeResult.isocenter_depth_mm == 0


@pytest.mark.parametrize("value", [251, -251, float("nan"), float("inf"), "deep", None])
def test_depths_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="isocenter_depth_mm is"):
        CArmNavEnv(isocenter_depth_mm=value)
    spec = {"patient": "virtual:0", "target": 1, "start": 4}
    suite = {"name": "s", "version": 1, "description": "d", "max_steps": 5, "episodes": [spec]}
    with pytest.raises(SuiteError, match="isocenter_depth_mm is"):
        Suite.from_json({**suite, "environment": {"isocenter_depth_mm": value}}, "s.yaml")
