"""What moves, declarations, rewards and infos of CArmNavEnv are."""

import gymnasium as gym
import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM

SIZE = 64
ROUTE = {"patient": "virtual:0", "start": "right scapular inferior angle", "target": "skull"}


def test_moves_shift_the_view_in_the_patients_frame(env):
    _, info = env.reset(seed=0, options={**ROUTE, "start": "T1"})
    start = info["isocenter_lps_mm"]
    for words, expected in (
        (("LEFT", "SMALL", "CENTER", "NONE"), [30, 0, 0]),
        (("RIGHT", "MODERATE", "DOWN", "LARGE"), [-60, 0, -90]),
        (("CENTER", "NONE", "UP", "MODERATE"), [0, 0, 60]),
    ):
        _, _, _, _, info = env.step(Move.from_words(*words).index)
        np.testing.assert_allclose(info["isocenter_lps_mm"] - start, expected, atol=1e-9)
        np.testing.assert_allclose(info["moved_mm"], np.array(expected)[[0, 2]], atol=1e-9)
        assert info["move_effective"] and not info["move_clipped"]
        start = info["isocenter_lps_mm"]


def test_moving_the_view_left_shifts_the_anatomy_to_the_images_left(env):
    env.reset(seed=0, options={**ROUTE, "start": "T12"})
    camera, pose = env.unwrapped.scene.camera, env.unwrapped.pose
    before = camera.log_image(pose, 256)
    env.step(Move.from_words("LEFT", "SMALL", "CENTER", "NONE").index)
    after = camera.log_image(env.unwrapped.pose, 256)
    shift = round(30 * camera.geometry.magnification / camera.geometry.detector_mm * 256)

    def similarity(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    assert similarity(before[:, shift:], after[:, :-shift]) > similarity(before[:, :-shift], after[:, shift:])
    assert similarity(before[:, shift:], after[:, :-shift]) > similarity(before, after)


def test_progress_rewards_the_decrease_of_the_distance(env):
    _, info = env.reset(seed=0, options=ROUTE)
    before = info["distance_mm"]
    _, reward, _, _, info = env.step(Move.from_words("LEFT", "MODERATE", "UP", "LARGE").index)
    assert type(reward) is float
    assert reward == pytest.approx((before - info["distance_mm"]) / 100 - 0.02)
    assert reward > 0.9


@pytest.mark.parametrize("reward_type", ["distance", "sparse"])
def test_other_rewards(reward_type):
    env = gym.make("CArmNav-v0", image_size=SIZE, reward_type=reward_type)
    env.reset(seed=0, options={**ROUTE, "start": "skull"})
    _, reward, _, _, info = env.step(ALIGNED.index)
    assert reward == pytest.approx(1.0 if reward_type == "sparse" else -info["distance_mm"] / 100)


@pytest.mark.parametrize(("start", "success"), [("skull", True), ("carina", False)])
def test_declarations_end_the_episode_and_are_judged(env, start, success):
    env.reset(seed=0, options={**ROUTE, "start": start})
    _, reward, terminated, truncated, info = env.step(ALIGNED.index)
    assert terminated and not truncated
    assert info["is_success"] is success
    assert reward == pytest.approx(1.0 if success else -1.0)


@pytest.mark.parametrize(("offset_mm", "success"), [(24.9, True), (25.1, False)])
def test_a_declaration_within_the_tolerance_is_a_success(env, offset_mm, success):
    env.reset(seed=0, options=ROUTE)
    x, _, z = env.unwrapped.scene.patient.landmarks_lps_mm[1]
    env.reset(options={**ROUTE, "start": (x, z - offset_mm)})
    *_, info = env.step(ALIGNED.index)
    assert info["is_success"] is success and info["distance_mm"] == pytest.approx(offset_mm)


def test_declarations_take_no_x_ray_and_show_the_last_image_again(env, monkeypatch):
    env.reset(seed=0, options=ROUTE)
    before, _, _, _, info = env.step(Move(0, -1).index)
    assert info["move_effective"] and info["exposures"] == 2
    monkeypatch.setattr(
        type(env.unwrapped.scene.camera), "log_image", lambda *_: pytest.fail("an X-ray was taken at a declaration")
    )
    after, _, _, _, end = env.step(ALIGNED.index)
    np.testing.assert_array_equal(after["image"], before["image"])
    assert end["exposures"] == 2 and end["dose_mgy"] == info["dose_mgy"]
    assert end["moved_mm"].tolist() == [0, 0] and not end["move_effective"] and not end["move_clipped"]
    assert end["distance_mm"] == info["distance_mm"]


def test_infos_describe_the_state(env):
    _, info = env.reset(seed=0, options={**ROUTE, "start": "carina"})
    assert info["closest_landmarks"][0] == 11 and info["target_landmark"] == 1 and info["patient"] == "virtual:0"
    np.testing.assert_allclose(info["distance_mm"], np.linalg.norm(info["displacement_mm"]))
    patient = env.unwrapped.scene.patient
    offset = patient.landmarks_lps_mm[1] - info["isocenter_lps_mm"]
    np.testing.assert_allclose(info["displacement_mm"], offset[[0, 2]])
    assert info["isocenter_lps_mm"][1] == pytest.approx(patient.mid_depth_mm - DEFAULT_ISOCENTER_DEPTH_MM)
    assert info["view_quality"] == "ok" and info["is_success"] is False
    assert info["moved_mm"].tolist() == [0, 0] and info["move_effective"] is info["move_clipped"] is False
    dose, product = info["dose_mgy"], info["dap_mgy_cm2"]
    _, _, _, _, info = env.step(0)
    assert info["exposures"] == 2 and info["dose_mgy"] == pytest.approx(2 * dose) and dose > 0
    assert info["dap_mgy_cm2"] == pytest.approx(2 * product) and product > 0
    # Half a mAs at 90 kV and 4 mm Al, 38 cm from the focus; the field there is 11.1 cm wide.
    assert dose == pytest.approx(0.0684 * 0.5 / 0.38**2, rel=0.01)
    assert product == pytest.approx(dose * 11.1**2, rel=0.01)


def test_infos_hold_plain_python_scalars(env):
    _, info = env.reset(seed=0)
    assert {key: type(value) for key, value in info.items() if not isinstance(value, np.ndarray)} == {
        "distance_mm": float, "target_landmark": int, "is_success": bool, "exposures": int, "dose_mgy": float,
        "dap_mgy_cm2": float, "view_quality": str, "move_effective": bool, "move_clipped": bool, "patient": str,
    }  # fmt: skip


def test_a_reset_forgets_the_last_episode(env):
    env.reset(seed=0, options={**ROUTE, "start": "skull"})
    env.step(Move(3, 3).index)
    *_, before = env.step(ALIGNED.index)
    _, info = env.reset(seed=0, options={**ROUTE, "start": "skull"})
    assert before["exposures"] == 2 and info["exposures"] == 1
    assert 0 < info["dose_mgy"] < before["dose_mgy"] and 0 < info["dap_mgy_cm2"] < before["dap_mgy_cm2"]
    assert info["is_success"] is info["move_clipped"] is info["move_effective"] is False
    assert not info["moved_mm"].any()


def test_closest_landmarks_are_sorted_by_planar_distance(env):
    _, info = env.reset(seed=0, options={**ROUTE, "start": "T12"})
    points = env.unwrapped.scene.patient.landmarks_lps_mm
    offsets = {key: np.linalg.norm((point - info["isocenter_lps_mm"])[[0, 2]]) for key, point in points.items()}
    assert info["closest_landmarks"].tolist() == sorted(offsets, key=offsets.get)[:3]


def test_a_view_beside_the_patient_is_reported(env):
    env.reset(seed=0)
    low, high = env.unwrapped.scene.patient.workspace_mm
    _, info = env.reset(seed=0, options={**ROUTE, "start": (float(low[0]), float(high[1]))})
    # A ray beside the patient passes the table.
    assert info["view_quality"] == "empty"


def test_exposure_control_gives_thick_views_more_dose():
    env = gym.make("CArmNav-v0", image_size=SIZE, xray={"exposure_control": True})
    doses = {
        start: env.reset(seed=0, options={**ROUTE, "start": start})[1]["dose_mgy"] for start in ("left wrist", "T12")
    }
    assert doses["T12"] != pytest.approx(doses["left wrist"], rel=0.05)
    env.reset(seed=0, options={**ROUTE, "start": "T12"})
    _, _, _, _, info = env.step(Move(0, 3).index)
    assert info["dose_mgy"] > doses["T12"]


def test_the_workspace_clips_moves_and_the_mask_forbids_blocked_ones(env):
    env.reset(seed=0, options=ROUTE)
    left = Move.from_words("LEFT", "LARGE", "CENTER", "NONE").index
    high = env.unwrapped.scene.patient.workspace_mm[1]
    clipped = []
    for _ in range(10):
        _, _, _, _, info = env.step(left)
        clipped.append((info["move_clipped"], info["move_effective"]))
    assert info["isocenter_lps_mm"][0] == pytest.approx(high[0])
    assert clipped[0] == (False, True) and (True, True) in clipped and clipped[-1] == (True, False)
    mask = info["action_mask"]
    assert mask.dtype == np.int8
    assert (env.unwrapped.action_masks() == mask.astype(bool)).all()
    assert mask.tolist() == [Move.from_index(index).x_step <= 0 for index in range(49)]


def test_the_mask_forbids_blocked_moves_in_a_corner(env):
    env.reset(seed=0)
    low = env.unwrapped.scene.patient.workspace_mm[0]
    _, info = env.reset(seed=0, options={**ROUTE, "start": tuple(low.tolist())})
    moves = [Move.from_index(index) for index in range(49)]
    assert info["action_mask"].tolist() == [move.x_step >= 0 and move.y_step >= 0 for move in moves]


def test_observations_are_fresh_arrays(env):
    first, _ = env.reset(seed=0)
    second = env.step(0)[0]
    kept = first["image"].copy()
    second["image"][:] = 7
    third = env.step(ALIGNED.index)[0]
    np.testing.assert_array_equal(first["image"], kept)
    assert not np.shares_memory(second["image"], third["image"])
    assert (third["image"] != 7).any()


def test_infos_are_fresh_arrays(env):
    _, info = env.reset(seed=0)
    kept = {key: np.copy(value) for key, value in info.items()}
    env.step(Move(1, 1).index)
    for key, value in kept.items():
        np.testing.assert_array_equal(info[key], value, err_msg=key)


def test_every_exposure_has_new_noise():
    env = gym.make("CArmNav-v0", image_size=SIZE, xray={"photons": 3e5})
    env.reset(seed=0, options={**ROUTE, "start": "T12"})
    first = env.step(Move(0, 1).index)[0]["image"].astype(int)
    env.step(Move(0, -1).index)
    again = env.step(Move(0, 1).index)[0]["image"].astype(int)
    assert 0 < np.abs(first - again).mean() < 20


def test_angles_and_projection_change_the_image_and_keep_the_isocentre():
    images = []
    for kwargs in ({}, {"alpha_deg": 30.0}, {"beta_deg": 20.0}, {"projection": "PA"}):
        env = gym.make("CArmNav-v0", image_size=SIZE, **kwargs)
        observation, info = env.reset(seed=0, options={**ROUTE, "start": "carina"})
        images.append(observation["image"].astype(float))
        pose = env.unwrapped.pose
        assert pose.isocenter_lps_mm[0] == pytest.approx(info["isocenter_lps_mm"][0])
        assert (pose.alpha_deg, pose.beta_deg, pose.projection) == tuple(
            {"alpha_deg": 0.0, "beta_deg": 0.0, "projection": "AP", **kwargs}.values()
        )
    for other in images[1:]:
        assert np.abs(images[0] - other).mean() > 2


def test_oblique_distances_are_measured_across_the_beam():
    env = gym.make("CArmNav-v0", image_size=SIZE, alpha_deg=30.0, beta_deg=-20.0)
    _, info = env.reset(seed=0, options=ROUTE)
    ray = env.unwrapped.pose.axes_lps()[2]
    offset = env.unwrapped.scene.patient.landmarks_lps_mm[1] - info["isocenter_lps_mm"]
    assert info["distance_mm"] == pytest.approx(np.linalg.norm(offset - (offset @ ray) * ray))


def test_resets_without_options_draw_different_episodes(env):
    seen = {
        (int(env.reset(seed=s)[1]["target_landmark"]), round(env.unwrapped.pose.isocenter_lps_mm[0])) for s in range(8)
    }
    assert len(seen) > 5


@pytest.mark.parametrize("targets", [[11, "skull"], ("Carina", 1, "cranium")])
def test_targets_are_drawn_among_those_given(targets):
    env = gym.make("CArmNav-v0", image_size=SIZE, targets=targets)
    assert env.unwrapped.targets == (1, 11)
    assert {env.reset(seed=seed)[1]["target_landmark"] for seed in range(12)} == {1, 11}
    assert env.reset(options={"target": "T12"})[1]["target_landmark"] == 14


def test_the_episode_tells_what_was_drawn(env):
    _, info = env.reset(seed=5)
    episode = env.unwrapped.episode
    assert (episode.patient, episode.target) == ("virtual:0", info["target_landmark"])
    assert np.allclose(np.array(episode.start), info["isocenter_lps_mm"][[0, 2]])
    _, again = env.reset(options=episode.to_json())
    np.testing.assert_array_equal(again["isocenter_lps_mm"], info["isocenter_lps_mm"])
