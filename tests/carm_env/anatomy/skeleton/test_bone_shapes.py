from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.organs.bones import HUMERUS
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body, pose_body
from carm_env.anatomy.skeleton.bone_shapes import make_bone_shapes
from carm_env.anatomy.skeleton.model import SIDES, THORACOLUMBAR
from carm_env.anatomy.skeleton.vertebrae import modelled_vertebrae


@pytest.fixture(scope="module")
def pair(skeleton) -> tuple[Body, Body]:
    """The average patient, and the same with the bones of another family."""
    return pose_body(PatientParameters(), skeleton), pose_body(PatientParameters(warp=4), skeleton)


def test_seed_zero_is_no_family():
    assert make_bone_shapes(0) is None


def test_families_differ_from_each_other_and_are_repeatable():
    first, again, other = (make_bone_shapes(seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.humeral_head == again.humeral_head != other.humeral_head
    assert (first.vertebral_height == again.vertebral_height).all()


def test_the_factors_of_the_family_are_within_their_limits():
    for seed in range(1, 60):
        shapes = make_bone_shapes(seed)
        assert shapes is not None
        assert 0.65 <= shapes.cortex <= 1.45
        assert 0.85 < shapes.vertebral_height.min() <= shapes.vertebral_height.max() < 1.15
        for factors in (shapes.scapular_length, shapes.humeral_head, shapes.shaft_width):
            assert set(factors) == set(SIDES)
            assert 0.75 < min(factors.values()) <= max(factors.values()) < 1.25


def test_vertebrae_change_their_height_about_their_centres(pair):
    plain, other = pair
    before, after = modelled_vertebrae(plain), modelled_vertebrae(other)
    for number, name in enumerate(THORACOLUMBAR):
        assert np.linalg.norm(before[name].centre_mm - after[name].centre_mm) < 2.5
        heights = [found[name].shape.upper - found[name].shape.lower for found in (before, after)]
        assert abs(heights[1] / heights[0] - other.shapes.vertebral_height[number]) < 0.06


def test_a_larger_humeral_head_keeps_its_centre(pair):
    plain, other = pair
    for side in SIDES:
        centre = other.arms[side].landmarks_mm["head"] * other.scale
        near = []
        for body in (plain, other):
            points = body.meshes[f"humerus_{side}"].vertices_mm - body.arms[side].landmarks_mm["head"] * body.scale
            near.append(np.sort(np.linalg.norm(points, axis=1))[:80].mean())
        factor = other.shapes.humeral_head[side]
        assert (near[1] > near[0]) == (factor > 1)
        title = "Right" if side == "r" else "Left"
        assert np.linalg.norm(other.landmarks_mm[f"{title} humeral head"] - centre) < 15.0


def test_the_scapula_changes_its_length_and_the_landmark_is_its_tip(pair):
    plain, other = pair
    for side, title in (("r", "Right"), ("l", "Left")):
        tip = other.landmarks_mm[f"{title} scapular inferior angle"]
        assert tip[2] == other.meshes[f"scapula_{side}"].vertices_mm[:, 2].min()
        lengths = [np.ptp(body.meshes[f"scapula_{side}"].vertices_mm[:, 2]) for body in (plain, other)]
        assert (lengths[1] > lengths[0]) == (other.shapes.scapular_length[side] > 1)


def test_ribs_change_and_their_heads_stay_at_the_spine(pair):
    plain, other = pair
    moved = [np.linalg.norm(a.vertices_mm - b.vertices_mm, axis=1) for a, b in zip(plain.ribs, other.ribs, strict=True)]
    assert max(part.max() for part in moved) > 4.0
    for rib, distance in zip(plain.ribs, moved, strict=True):
        dorsal = rib.vertices_mm[:, 1].argmax()
        assert distance[dorsal] < 12.0


def test_a_style_with_a_thicker_cortex_differs_in_nothing_else():
    thick = HUMERUS.with_cortex(1.5)
    assert thick.cortex_mm == 1.5 * HUMERUS.cortex_mm
    assert thick.core_hu == HUMERUS.core_hu
    assert thick.ends_mm == tuple(1.5 * end for end in HUMERUS.ends_mm)
    assert HUMERUS.with_cortex(1.0) == HUMERUS
