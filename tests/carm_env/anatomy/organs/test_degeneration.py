"""Degeneration of spine and aorta, end plates, sutures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from carm_env.anatomy.assembly import Anatomy, build_anatomy
from carm_env.anatomy.organs.degeneration import plaques
from carm_env.anatomy.organs.heart import aorta_path
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import make_thorax
from carm_env.anatomy.painting.shapes import smooth_path
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.population import VirtualPatient
from carm_env.anatomy.skeleton.body import pose_body
from carm_env.anatomy.skeleton.model import THORACOLUMBAR, lumbar, thoracic
from carm_env.anatomy.skeleton.vertebrae import ModelledVertebra, modelled_vertebrae


@pytest.fixture(scope="module")
def degenerated() -> Anatomy:
    return build_anatomy(PatientParameters(degeneration=1.0))


def vertebral_bodies(anatomy: Anatomy) -> dict[str, ModelledVertebra]:
    """The vertebrae from L5 up to T1."""
    vertebrae = modelled_vertebrae(anatomy.body)
    return {name: vertebrae[name] for name in THORACOLUMBAR}


def along_axis(anatomy: Anatomy, vertebra, heights):
    return anatomy.volume.hu_at(np.array([vertebra.outline_mm(0.0, height, 0.0) for height in heights]))


def test_vertebral_bodies_follow_the_spine(anatomy):
    vertebrae = vertebral_bodies(anatomy)
    assert list(vertebrae)[0] == lumbar(5)
    assert list(vertebrae)[-1] == thoracic(1)
    for vertebra in vertebrae.values():
        np.testing.assert_allclose(vertebra.axes.T @ vertebra.axes, np.eye(3), atol=1e-12)
        assert np.linalg.det(vertebra.axes) == pytest.approx(1.0)
        assert vertebra.axes[2, 2] > 0.8
        assert 15 < vertebra.shape.upper - vertebra.shape.lower < 35
        # The narrowest bodies, those of T2 to T4, are 26 mm wide on average (Panjabi et al., Spine 16:888, 1991).
        assert 12 < vertebra.shape.half_width < 30
        outline = vertebra.axes.T @ (vertebra.outline_mm(1.0, 7.0) - vertebra.centre_mm)
        assert outline[2] == pytest.approx(7.0)
    for below, above in pairwise(vertebrae.values()):
        disc = np.linalg.norm(above.centre_mm - below.centre_mm) - below.shape.upper + above.shape.lower
        assert 0.5 < disc < 16


@pytest.mark.parametrize("name", [lumbar(n) for n in (2, 3, 4)])
def test_end_plates_are_denser_than_the_trabecular_bone_between_them(anatomy, name):
    vertebra = vertebral_bodies(anatomy)[name]
    middle = along_axis(anatomy, vertebra, np.linspace(-4, 4, 9)).mean()
    for end in (vertebra.shape.lower, vertebra.shape.upper):
        plate = along_axis(anatomy, vertebra, np.linspace(end - 4, end + 4, 17)).max()
        assert plate > middle + 60


def test_degeneration_narrows_discs_and_adds_osteophytes(degenerated, anatomy):
    vertebrae = list(vertebral_bodies(anatomy).values())[:6]
    narrower, osteophytes = [], []
    for below, above in pairwise(vertebrae):
        gap = float(np.linalg.norm(above.centre_mm - below.centre_mm)) + above.shape.lower
        heights = np.linspace(below.shape.upper, gap, 25)
        soft = [int((along_axis(one, below, heights) < 200).sum()) for one in (anatomy, degenerated)]
        narrower.append(soft[1] < soft[0])
        angles = np.linspace(np.pi * 0.9, np.pi * 2.1, 40)
        around = np.array([below.outline_mm(angle, height, 1.12) for angle in angles for height in heights])
        hard = [int((one.volume.hu_at(around) > 250).sum()) for one in (anatomy, degenerated)]
        osteophytes.append(hard[1] - hard[0])
    assert sum(narrower) >= 4
    assert sum(count > 5 for count in osteophytes) >= 3


def test_degeneration_calcifies_the_aortic_arch(degenerated, anatomy):
    path = smooth_path(anatomy.thorax.points(aorta_path(OrganVariation(0))[1:9]), 8)
    index = np.argwhere(np.ones((13, 13, 13), bool)) - 6
    near = (path[:, None, :3] + 3.0 * index[None]).reshape(-1, 3)
    distance = np.linalg.norm(near[:, None] - path[None, ::4, :3], axis=2).min(1)
    near = near[distance < 18]
    calcium = [(one.volume.hu_at(near) > 150).sum() for one in (anatomy, degenerated)]
    assert calcium[1] > calcium[0] + 20


@pytest.mark.parametrize("seed", [0, 7, 3000])
def test_plaques_lie_in_the_wall_of_the_patients_own_aorta(seed):
    parameters = VirtualPatient(seed).parameters
    thorax, variation = make_thorax(pose_body(parameters), parameters), OrganVariation(seed)
    path = smooth_path(thorax.points(aorta_path(variation)), 32)
    pieces = plaques(thorax, variation, 1.0, np.random.default_rng(1))
    assert len(pieces) > 50
    for piece in pieces:
        distance = np.linalg.norm(path[:, :3] - piece.start_mm, axis=1)
        nearest = int(np.argmin(distance))
        assert distance[nearest] == pytest.approx(path[nearest, 3], abs=1.5)


def test_degeneration_moves_no_landmark_and_changes_few_voxels(degenerated, anatomy):
    for key, point in anatomy.landmarks_lps_mm.items():
        np.testing.assert_array_equal(point, degenerated.landmarks_lps_mm[key])
    changed = np.abs(degenerated.volume.hu.astype(int) - anatomy.volume.hu) > 50
    assert 0.0003 < changed.mean() < 0.01


def test_the_sagittal_suture_is_the_thinnest_part_of_the_vault(anatomy):
    # Along a path over the vault from right to left, dorsal to the vertex.
    head, volume = anatomy.body.head_point, anatomy.volume
    sides = np.linspace(-30, 30, 61)
    bone = []
    for x in sides:
        points = np.array([head(x, 225, z) for z in np.arange(1722.0, 1756.0, 0.5)])
        bone.append(np.clip(volume.hu_at(points), 200, None).sum())
    bone = np.array(bone)
    smooth = np.polyval(np.polyfit(sides, bone, 4), sides)
    assert abs(sides[np.argmin(bone - smooth)]) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("voxel_mm", [1.5, 1.0])
def test_smaller_voxels_show_the_same_patient(anatomy, voxel_mm):
    finer = build_anatomy(PatientParameters(voxel_mm=voxel_mm))
    for key, point in anatomy.landmarks_lps_mm.items():
        np.testing.assert_allclose(finer.landmarks_lps_mm[key], point, atol=1.0)
    rng = np.random.default_rng(0)
    low, high = anatomy.volume.corners_lps_mm
    points = rng.uniform(low + 20, high - 20, (200_000, 3))
    first, second = (one.volume.hu_at(points).astype(float) for one in (anatomy, finer))
    assert np.corrcoef(first, second)[0, 1] > 0.97
    assert abs(first[first > -900].mean() - second[first > -900].mean()) < 8
