"""Every landmark is in or on its anatomical structure."""

from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.assembly import Anatomy
from carm_env.anatomy.layout import landmark_layout
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.voxelise import fill
from carm_env.anatomy.skeleton.model import thoracic
from carm_env.landmarks import LANDMARKS, landmark

SIDES = (("Right", "r", -1), ("Left", "l", 1))


def point(anatomy: Anatomy, name: str) -> np.ndarray:
    return anatomy.landmarks_lps_mm[landmark(name).id]


def inside_mesh(mesh, position: np.ndarray) -> bool:
    lattice = Lattice(position - 1.0, 1.0, (3, 3, 3))
    low, high = mesh.bounds_mm
    first = np.minimum(low - 2, lattice.origin_mm)
    count = np.ceil(np.maximum(high + 2, position + 2) - first).astype(int)
    whole = Lattice(first, 1.0, (int(count[0]), int(count[1]), int(count[2])))
    return bool(whole.sample(fill(mesh.vertices_mm, mesh.faces, whole), position))


def test_all_fourteen_landmarks_are_there_and_inside_the_volume(anatomy):
    low, high = anatomy.volume.corners_lps_mm
    points = np.array([anatomy.landmarks_lps_mm[item.id] for item in LANDMARKS])
    assert (points > low).all() and (points < high).all()


def test_the_layout_agrees_with_that_of_the_annotated_patients(anatomy):
    points = np.array([anatomy.landmarks_lps_mm[item.id][[0, 2]] for item in LANDMARKS])
    points -= points.mean(0)
    distances = np.linalg.norm(points - landmark_layout().mean_mm, axis=1)
    assert distances.max() < 10.5, dict(zip([item.name for item in LANDMARKS], distances.round(1), strict=True))


@pytest.mark.parametrize("name", ["humeral head", "scapular inferior angle", "elbow", "hemidiaphragm"])
def test_right_is_right_and_left_is_left(anatomy, name):
    assert point(anatomy, f"Right {name}")[0] < -30 < 30 < point(anatomy, f"Left {name}")[0]


def test_crossed_wrists_are_on_the_opposite_side(anatomy):
    assert point(anatomy, "Left wrist")[0] < -30 < 30 < point(anatomy, "Right wrist")[0]


def test_the_skull_centre_is_in_the_brain_in_the_midline(anatomy):
    position = point(anatomy, "Skull")
    assert anatomy.brain.lattice.sample(anatomy.brain.values, position) < 0
    assert abs(position[0] - anatomy.body.head_point(0, 205, 1664)[0]) < 2
    hu = anatomy.volume.hu_at(position + np.array([[0, 0, 0], [0, 8, 8], [4, 10, 10]]))
    assert (np.abs(hu - 34) < 40).all()


@pytest.mark.parametrize("name, side, sign", SIDES)
def test_the_humeral_head_is_bone_within_bone(anatomy, name, side, sign):
    position = point(anatomy, f"{name} humeral head")
    mesh = anatomy.body.meshes[f"humerus_{side}"]
    assert inside_mesh(mesh, position)
    assert mesh.bounds_mm[1][2] - position[2] < 32
    assert anatomy.volume.hu_at(position) > 100


@pytest.mark.parametrize("name, side, sign", SIDES)
def test_the_scapular_angle_is_the_lowest_point_of_the_scapula(anatomy, name, side, sign):
    position = point(anatomy, f"{name} scapular inferior angle")
    vertices = anatomy.body.meshes[f"scapula_{side}"].vertices_mm
    assert position[2] == pytest.approx(vertices[:, 2].min(), abs=0.01)
    assert np.linalg.norm(vertices - position, axis=1).min() < 0.01
    volume = anatomy.volume
    around = volume.hu_at(position + np.stack(np.meshgrid(*[np.arange(-4, 5, 2)] * 3), -1).reshape(-1, 3))
    assert around.max() > 250


@pytest.mark.parametrize("name, side, sign", SIDES)
def test_the_elbow_is_on_the_olecranon_next_to_the_humerus(anatomy, name, side, sign):
    position = point(anatomy, f"{name} elbow")
    # Known defect: the landmark is the olecranon before the ulna gets the person's own shape. It is 1.7 and 3.2 mm off
    # here, and up to 5 mm in other patients and poses.
    assert np.linalg.norm(anatomy.body.meshes[f"ulna_{side}"].vertices_mm - position, axis=1).min() < 3.5
    assert np.linalg.norm(anatomy.body.meshes[f"humerus_{side}"].vertices_mm - position, axis=1).min() < 25.0


@pytest.mark.parametrize("name, side, sign", SIDES)
def test_the_wrist_is_between_radius_and_carpals(anatomy, name, side, sign):
    position = point(anatomy, f"{name} wrist")
    meshes = anatomy.body.meshes
    radius = meshes[f"radius_{side}"].vertices_mm
    carpals = np.concatenate([meshes[f"{bone}_{side}"].vertices_mm for bone in ("lunate", "scaphoid")])
    knuckles = meshes[f"3mc_{side}"].vertices_mm
    elbow = anatomy.body.joints_mm(side)[3]
    along = (carpals.mean(0) - elbow) / np.linalg.norm(carpals.mean(0) - elbow)
    assert np.linalg.norm(radius - position, axis=1).min() < 16
    assert np.linalg.norm(carpals - position, axis=1).min() < 16
    assert np.median((radius - elbow) @ along) < (position - elbow) @ along < np.median((knuckles - elbow) @ along)


@pytest.mark.parametrize("name, number", [("T1", 1), ("T12", 12)])
def test_vertebral_landmarks_are_in_the_vertebral_body(anatomy, name, number):
    position = point(anatomy, name)
    mesh = anatomy.body.meshes[thoracic(number)]
    assert inside_mesh(mesh, position)
    assert abs(position[0]) < 3
    assert position[1] < mesh.centre_mm[1], "the body is the front part of a vertebra"
    assert anatomy.volume.hu_at(position) > 80


def test_the_carina_is_at_the_bifurcation_of_the_trachea(anatomy):
    position = point(anatomy, "Carina")
    lumen = anatomy.airways
    # Lateral of these 25 mm the right upper lobar bronchus rises to the height of the carina.
    x = np.arange(-25, 26, 1.0)

    def openings(height: float) -> int:
        row = np.column_stack([position[0] + x, np.full_like(x, position[1]), np.full_like(x, position[2] + height)])
        inside = (lumen.lattice.sample(lumen.values, row) < 0).astype(int)
        return int(np.count_nonzero(np.diff(inside) == 1) + inside[0])

    assert openings(12) == openings(6) == openings(1) == 1
    assert openings(-4) == openings(-11) == 2
    assert lumen.lattice.sample(lumen.values, position + [0, 0, -4.0]) > 0, "the wedge between the bronchi"
    assert abs(float(lumen.lattice.sample(lumen.values, position))) < 2.5


@pytest.mark.parametrize("name, side, sign", SIDES)
def test_a_hemidiaphragm_is_the_highest_point_below_its_lung(anatomy, name, side, sign):
    position = point(anatomy, f"{name} hemidiaphragm")
    volume = anatomy.volume
    above = volume.hu_at(position + np.array([[0, 0, height] for height in range(3, 13)]))
    assert np.median(above) < -700, "lung above, in which a vessel may lie"
    assert volume.hu_at(position - [0, 0, 8]) > -150, "liver, stomach or fat below"
    x, y, z = anatomy.coarse.axes()
    below = anatomy.chest.below_diaphragm
    own_side = (np.sign(x) == sign) & (np.abs(x) > 40) & (anatomy.chest.cavity < -6) & (z < position[2] + 60)
    highest = np.broadcast_to(z, below.shape)[own_side & (below < 0)].max()
    assert abs(highest - position[2]) < 5


def test_the_right_hemidiaphragm_is_higher(anatomy):
    difference = point(anatomy, "Right hemidiaphragm")[2] - point(anatomy, "Left hemidiaphragm")[2]
    assert 5 < difference < 35


def test_elbows_and_wrists_of_arms_at_the_sides_are_lateral_to_the_body(patient_with_arms_at_sides, anatomy):
    landmarks = patient_with_arms_at_sides.landmarks_lps_mm
    for right, left in ((6, 7), (8, 9)):
        assert landmarks[right][0] < -170 and landmarks[left][0] > 170
    for elbow, wrist, t12 in ((6, 8, 14), (7, 9, 14)):
        assert landmarks[elbow][2] < landmarks[t12][2]
        assert landmarks[wrist][2] < landmarks[elbow][2] - 200
    # The skull is higher over T1 with the arms at the sides: the layout of crossed arms is that of decedents.
    for key in (10, 11, 12, 13, 14):
        np.testing.assert_allclose(landmarks[key], anatomy.landmarks_lps_mm[key], atol=1e-6)
    hu = patient_with_arms_at_sides.volume.hu_at(np.array([landmarks[key] for key in (6, 7, 8, 9)]))
    # Within the body, in fat (-130 to -70 HU and its texture) at the least: each olecranon is 5 mm beside its landmark.
    assert (hu > -200).all()
