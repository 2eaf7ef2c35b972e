from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body, pose_body
from carm_env.anatomy.skeleton.bone_variation import BoneVariation
from carm_env.anatomy.skeleton.model import PELVIS, SIDES, THORACOLUMBAR, Skeleton, thoracic, vertebral_body_centre
from carm_env.anatomy.skeleton.vertebrae import modelled_vertebrae


@pytest.fixture(scope="module")
def bodies(skeleton) -> tuple[Body, Body]:
    """The average patient and another person in the same pose."""
    return pose_body(PatientParameters(), skeleton), pose_body(PatientParameters(seed=1), skeleton)


@pytest.fixture(scope="module")
def rest() -> dict[str, Mesh]:
    """The bones of myo-sim by name."""
    return {mesh.name: mesh for mesh in Skeleton().meshes()}


def mirror_difference_mm(meshes: dict[str, Mesh]) -> float:
    """Mean distance of the right half of the pelvis from the mirrored left half."""
    right, left = (meshes[name].vertices_mm for name in PELVIS)
    nearest = np.linalg.norm(right[:, None] - (left * [-1, 1, 1])[None], axis=2).min(axis=1)
    return float(nearest.mean())


def test_right_and_left_differ_as_the_sides_of_a_person_do(bodies, rest):
    assert mirror_difference_mm(rest) < 0.2
    assert 0.5 < mirror_difference_mm(bodies[0].meshes) < 4.0
    sides = np.array([vertebra.shape.sides for vertebra in modelled_vertebrae(bodies[0]).values()])
    assert 0.01 < np.abs(sides[:, 0] - sides[:, 1]).mean() < 0.15


def test_both_bones_of_a_pair_are_more_alike_than_those_of_two_people(rest):
    mesh = rest["r_pelvis"]
    own, pair, others = [], [], []
    for seed in range(12):
        right = BoneVariation(seed).shaped(mesh).vertices_mm - mesh.vertices_mm
        mirrored = mesh.moved(mesh.vertices_mm * [-1, 1, 1])
        left = BoneVariation(seed).shaped(mirrored, "l_pelvis").vertices_mm - mirrored.vertices_mm
        other = BoneVariation(seed + 100).shaped(mesh).vertices_mm - mesh.vertices_mm
        own.append(np.linalg.norm(right, axis=1).mean())
        pair.append(np.linalg.norm(right - left * [-1, 1, 1], axis=1).mean())
        others.append(np.linalg.norm(right - other, axis=1).mean())
    assert 0.5 < np.mean(own) < 4.0
    assert 0.2 < np.mean(pair) < 0.8 * np.mean(others)


def test_a_bone_is_repeatable_and_differs_between_people(rest):
    for name in ("clavicle_r", "scapula_l", "humerus_r", "r_femur"):
        mesh = rest[name]
        first, again, other = (BoneVariation(seed).shaped(mesh).vertices_mm for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert 0.3 < np.linalg.norm(first - other, axis=1).mean() < 6.0


def test_two_people_of_one_pose_differ_in_bones_and_little_in_landmarks(bodies):
    first, second = bodies
    for name in first.landmarks_mm:
        # How far the head is in front of the trunk is part of the posture of a person.
        axes = [0, 2] if name == "Skull" else [0, 1, 2]
        assert np.linalg.norm((first.landmarks_mm[name] - second.landmarks_mm[name])[axes]) < 9.0, name
    for name in ("humerus_r", "scapula_l", *PELVIS):
        distances = np.linalg.norm(first.meshes[name].vertices_mm - second.meshes[name].vertices_mm, axis=1)
        assert 0.3 < distances.mean() < 15.0, name


def test_landmarks_are_those_of_the_shaped_bones(bodies):
    body = bodies[0]
    np.testing.assert_allclose(body.landmarks_mm["T1"], modelled_vertebrae(body)[thoracic(1)].centre_mm)
    np.testing.assert_allclose(body.landmarks_mm["T12"], vertebral_body_centre(body.meshes[thoracic(12)]))
    for side, title in zip(SIDES, ("Right", "Left"), strict=True):
        tip = body.landmarks_mm[f"{title} scapular inferior angle"]
        assert tip[2] == body.meshes[f"scapula_{side}"].vertices_mm[:, 2].min()


def test_vertebrae_grow_downwards_and_leave_room_for_discs(bodies):
    vertebrae = modelled_vertebrae(bodies[0])
    assert list(vertebrae) == [*THORACOLUMBAR, "C7", "C6", "C5", "C4", "C3"]
    widths = np.array([vertebra.shape.half_width for vertebra in vertebrae.values()])
    assert widths[:3].mean() > 1.15 * widths[6:9].mean() > 1.15 * 1.1 * widths[12:15].mean()
    assert widths[12:17].mean() > 1.15 * widths[-3:].mean()
    listed = list(vertebrae.values())
    for below, above in zip(listed[:-1], listed[1:], strict=True):
        gap = float(np.linalg.norm(above.centre_mm - below.centre_mm))
        disc = gap - below.shape.upper + above.shape.lower
        assert 1.0 < disc < 16.0


def test_a_family_of_bones_has_its_own_vertebrae(skeleton):
    plain, family = (pose_body(PatientParameters(warp=warp), skeleton) for warp in (0, 4))
    before, after = modelled_vertebrae(plain), modelled_vertebrae(family)
    for number, name in enumerate(THORACOLUMBAR):
        factor = after[name].shape.half_width / before[name].shape.half_width
        assert factor == pytest.approx(family.shapes.vertebral_width[number])
