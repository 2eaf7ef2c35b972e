from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.population import VirtualPatient
from carm_env.anatomy.skeleton.body import Body, pose_body
from carm_env.anatomy.skeleton.model import SIDE_SIGN, SIDES, SKULL
from carm_env.anatomy.skeleton.posture import Posture

SEEDS = range(1, 21)
MEAN_LAYOUT_MM = (np.array([143.5, 7.0]), np.array([116.0, -133.0]))


def shoulders_mm(raised: bool, scale: float = 1.025) -> dict[str, np.ndarray]:
    """Humeral head and scapular angle of twenty people with the mean layout, by side: ``(20, 5)``."""
    return {
        side: np.array(
            [np.concatenate(Posture(seed).shoulder_mm(side, raised, MEAN_LAYOUT_MM, scale)) for seed in SEEDS]
        )
        for side in SIDES
    }


def relative_to_t1_mm(body: Body, name: str) -> np.ndarray:
    return body.landmarks_mm[name] - body.landmarks_mm["T1"]


@pytest.fixture(scope="module")
def average(skeleton) -> dict[str, Body]:
    """The average patient by pose of the arms."""
    poses = ("crossed", "sides", "raised", "one_up")
    return {arms: pose_body(PatientParameters(arms=arms), skeleton) for arms in poses}


def test_shoulders_of_people_spread_as_broadly_as_biacromial_breadths_let_expect():
    sides = shoulders_mm(raised=False)
    breadth = sides["r"][:, 0] + sides["l"][:, 0]
    assert 345 < breadth.mean() < 375
    assert 5 < breadth.std() < 22
    large = shoulders_mm(raised=False, scale=1.1)
    assert (large["r"][:, 0] + large["l"][:, 0]).max() > 380


def test_the_girdle_follows_the_arms_and_differs_between_people_and_sides():
    lowered, raised = shoulders_mm(raised=False), shoulders_mm(raised=True)
    for side in SIDES:
        assert (raised[side][:, 2] - lowered[side][:, 2] > 40).all()
        assert (raised[side][:, 3] - lowered[side][:, 3] > 0).all()
        assert (lowered[side].std(axis=0) > 3).all()
    difference = lowered["r"] - lowered["l"]
    together = np.concatenate([lowered["r"], lowered["l"]])
    assert (difference.std(axis=0) > 1).all()
    assert (difference.std(axis=0) < 1.3 * together.std(axis=0)).all()


def test_arms_point_in_different_directions():
    for raised, up in ((False, -1), (True, 1)):
        uppers, fores = (
            np.array([Posture(seed).arm_mm(side, raised, 1.025)[part] for seed in SEEDS for side in SIDES])
            for part in (0, 1)
        )
        np.testing.assert_allclose(np.linalg.norm(uppers, axis=1), np.linalg.norm(uppers[0]))
        np.testing.assert_allclose(np.linalg.norm(fores, axis=1), np.linalg.norm(fores[0]))
        abduction = np.rad2deg(np.arctan2(uppers[:, 0], up * uppers[:, 2]))
        assert abduction.min() > 3 and abduction.max() < 60 and abduction.std() > 4


def test_a_posture_is_repeatable_and_grows_smoothly_with_the_person():
    head, angle = Posture(5).shoulder_mm("r", False, MEAN_LAYOUT_MM, 1.0)
    again = Posture(5).shoulder_mm("r", False, MEAN_LAYOUT_MM, 1.0)
    np.testing.assert_array_equal(np.concatenate([head, angle]), np.concatenate(again))
    nearly = Posture(5).shoulder_mm("r", False, MEAN_LAYOUT_MM, 1.001)
    assert 0 < np.abs(np.concatenate([head, angle]) - np.concatenate(nearly)).max() < 0.5


def test_the_average_patient_lowers_and_spreads_the_shoulders_with_arms_at_the_sides(average):
    for side, title in zip(SIDES, ("Right", "Left"), strict=True):
        sign = SIDE_SIGN[side]
        heads, angles = (
            {arms: relative_to_t1_mm(body, f"{title} {part}") for arms, body in average.items()}
            for part in ("humeral head", "scapular inferior angle")
        )
        assert sign * (heads["sides"][0] - heads["crossed"][0]) > 25
        assert heads["crossed"][2] - heads["sides"][2] > 30
        assert angles["crossed"][2] - angles["sides"][2] > 20
        assert heads["raised"][2] - heads["sides"][2] > 45
        assert sign * (angles["raised"][0] - angles["sides"][0]) > 5
    # The right arm of `one_up` is raised.
    for title, arms in (("Right", "raised"), ("Left", "sides")):
        one_up = relative_to_t1_mm(average["one_up"], f"{title} humeral head")
        assert np.linalg.norm(one_up - relative_to_t1_mm(average[arms], f"{title} humeral head")) < 1.0


def test_landmarks_change_little_with_a_small_change_of_the_body(average, skeleton):
    for arms in ("sides", "raised"):
        parameters = PatientParameters(arms=arms, fat_mm=14.2, scale=1.026)
        body = pose_body(parameters, skeleton)
        for name, point in average[arms].landmarks_mm.items():
            assert np.linalg.norm(point - body.landmarks_mm[name]) < 4.0, (arms, name)


def test_arms_stay_outside_trunk_and_head(average, skeleton):
    from scipy.spatial import cKDTree

    people = [pose_body(VirtualPatient(seed, arms="raised").parameters, skeleton) for seed in (3, 8)]
    for body in (average["raised"], *people):
        skull = cKDTree(body.meshes[SKULL].vertices_mm)
        for side in SIDES:
            arm = np.concatenate([body.meshes[f"{name}_{side}"].vertices_mm for name in ("humerus", "ulna", "radius")])
            assert skull.query(arm)[0].min() > 20
    for side in SIDES:
        body = average["sides"]
        for name in ("elbow", "wrist"):
            x, _, z = body.arms[side].landmarks_mm[name] * body.scale
            assert abs(x) > body.wall.half_width_mm(z) + 25


def test_the_scapula_stays_on_the_ribs(average):
    from scipy.spatial import cKDTree

    for body in average.values():
        ribs = cKDTree(np.concatenate([rib.vertices_mm for rib in body.ribs]))
        for side in SIDES:
            distance = ribs.query(body.meshes[f"scapula_{side}"].vertices_mm)[0]
            assert distance.min() > 0.3
            assert np.quantile(distance, 0.1) < 25


def test_heads_differ_more_in_posture_and_lie_higher_in_living_people(average):
    crossed, sides = (relative_to_t1_mm(average[arms], "Skull") for arms in ("crossed", "sides"))
    assert 10 < sides[2] - crossed[2] < 30
    shifts = np.array([Posture(seed).skull_mm(False, 1.025) for seed in SEEDS])
    assert (shifts.std(axis=0) > 5).all()
    assert all(Posture(seed).skull_mm(True, 1.025)[1] == 0 for seed in SEEDS)
