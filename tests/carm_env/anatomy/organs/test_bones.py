"""Bone tissue, measured on the volume of the average patient."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from carm_env.anatomy.assembly import Anatomy, build_anatomy
from carm_env.anatomy.organs.scapular_borders import border_shapes
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.voxelise import fill
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.plausibility import check_landmarks
from carm_env.anatomy.skeleton.model import SIDES, lumbar, thoracic
from carm_env.anatomy.skeleton.vertebrae import modelled_vertebrae
from carm_env.geometry import CArmGeometry, CArmPose, ProjectionGeometry
from carm_env.xray.camera import XRayCamera

SIZE = 320


@pytest.fixture(scope="module")
def hanging() -> Anatomy:
    return build_anatomy(PatientParameters(arms="sides", covers="thighs"))


@pytest.fixture(params=["crossed", "sides"])
def posed(request) -> Anatomy:
    return request.getfixturevalue("anatomy" if request.param == "crossed" else "hanging")


class View:
    """A view without noise, in grey levels of the display."""

    def __init__(self, anatomy: Anatomy, centre_mm: np.ndarray, alpha_deg: float = 0.0) -> None:
        volume = anatomy.volume
        rows = np.flatnonzero((volume.hu > -300).any(axis=(0, 2)))
        depth = float(volume.lps_from_index([[0, rows.mean(), 0]])[0, 1])
        pose = CArmPose((float(centre_mm[0]), depth, float(centre_mm[2])), alpha_deg)
        self.image = XRayCamera(volume).image(pose, SIZE).squeeze().astype(float)
        self.projection = ProjectionGeometry.from_pose(pose, CArmGeometry(), SIZE)

    def grey(self, points_mm: np.ndarray) -> np.ndarray:
        """Grey levels at points, NaN outside the view."""
        u, v = np.moveaxis(np.rint(self.projection.project(points_mm)).astype(int), -1, 0)
        inside = (u >= 0) & (u < SIZE) & (v >= 0) & (v < SIZE)
        return np.where(inside, self.image[np.clip(v, 0, SIZE - 1), np.clip(u, 0, SIZE - 1)], np.nan)

    def ridge(self, path_mm: np.ndarray, beside_mm: float) -> float:
        """Mean grey level along a path minus that at both sides of it, in a frontal view."""
        steps = np.linspace(0, len(path_mm) - 1, 8 * len(path_mm))
        path = np.stack([np.interp(steps, np.arange(len(path_mm)), column) for column in path_mm.T], axis=1)
        along = np.gradient(path, axis=0)
        across = np.cross(along, [0.0, 1.0, 0.0])
        across *= beside_mm / np.linalg.norm(across, axis=1, keepdims=True)
        own = np.max([self.grey(path + shift * across) for shift in (-0.3, -0.15, 0.0, 0.15, 0.3)], axis=0)
        return float(np.nanmean(own - (self.grey(path - across) + self.grey(path + across)) / 2))


def outline_contrast(view: View, vertices_mm: np.ndarray) -> float:
    """Mean grey level just inside the outline of a bone in a frontal view minus that just outside it."""
    from scipy.spatial import ConvexHull

    flat = vertices_mm[:, [0, 2]]
    hull = flat[ConvexHull(flat).vertices]
    middle = hull.mean(0)
    outwards = (hull - middle) / np.linalg.norm(hull - middle, axis=1, keepdims=True)

    def band(shift_mm: float) -> np.ndarray:
        points = hull + shift_mm * outwards
        return view.grey(np.column_stack([points[:, 0], np.full(len(points), vertices_mm[:, 1].mean()), points[:, 1]]))

    inside, outside = (np.nanmean([band(shift) for shift in shifts], axis=0) for shifts in ((-3, -2), (3, 4)))
    return float(np.nanmean(inside - outside))


def on_axis(mesh, fraction: float) -> np.ndarray:
    """The centre of a cross-section of a long bone, which may be bowed."""
    centre, direction, begin, end = mesh.long_axis()
    along = ((mesh.vertices_mm - centre) @ direction - begin) / (end - begin)
    weight = np.exp(-0.5 * ((along - fraction) / 0.06) ** 2)
    return (mesh.vertices_mm * weight[:, None]).sum(0) / weight.sum()


def wall_mm(anatomy: Anatomy, mesh, fraction: float) -> float:
    """Thickness of bone denser than 750 HU on rays from the axis of a long bone, mean over directions."""
    middle, direction = on_axis(mesh, fraction), mesh.long_axis()[1]
    across = np.linalg.svd(np.eye(3) - np.outer(direction, direction))[0][:, :2]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    steps = np.arange(0, 32, 0.5)
    rays = np.cos(angles)[:, None] * across[:, 0] + np.sin(angles)[:, None] * across[:, 1]
    points = middle + steps[None, :, None] * rays[:, None, :]
    # Only this bone: the rays through an elbow meet the ulna.
    lattice = Lattice(middle - 40.0, 1.0, (81, 81, 81))
    own = ndimage.binary_dilation(fill(mesh.vertices_mm, mesh.faces, lattice))
    inside = own[tuple(np.moveaxis(np.rint(points - lattice.origin_mm).astype(int), -1, 0))]
    return float(((anatomy.volume.hu_at(points) > 750) & inside).sum(axis=1).mean() * 0.5)


@pytest.mark.parametrize("side", SIDES)
def test_the_cortex_of_the_humerus_is_thick_in_the_middle_and_thin_at_the_joints(anatomy, side):
    mesh = anatomy.body.meshes[f"humerus_{side}"]
    middle = np.mean([wall_mm(anatomy, mesh, fraction) for fraction in (0.42, 0.5, 0.58)])
    between = np.mean([wall_mm(anatomy, mesh, fraction) for fraction in (0.2, 0.8)])
    joints = np.mean([wall_mm(anatomy, mesh, fraction) for fraction in (0.05, 0.95)])
    assert 2.5 < middle < 7.0
    assert joints < 0.35 * middle
    assert joints < between < middle


@pytest.mark.parametrize("side", SIDES)
def test_trabecular_bone_fills_the_humeral_head_densest_below_the_surface(anatomy, side):
    centre = anatomy.body.joints_mm(side)[2]
    mesh = anatomy.body.meshes[f"humerus_{side}"]
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(400, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hu = anatomy.volume.hu_at(centre + np.arange(0.0, 32.0, 1.0)[None, :, None] * rays[:, None, :])
    inner = hu[:, :10]
    assert 150 < inner.mean() < 420
    assert inner.std() > 30
    # The shaft holds marrow instead.
    around = np.stack(np.meshgrid(*[np.arange(-6.0, 7.0, 2.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    assert anatomy.volume.hu_at(on_axis(mesh, 0.5) + around).min() < 150


def test_spinous_processes_are_dense_and_stand_in_the_midline(anatomy):
    vertebrae = modelled_vertebrae(anatomy.body)
    contrast = []
    for number in range(1, 11):
        vertebra = vertebrae[thoracic(number)]
        shape = vertebra.shape
        tip = np.array([0.0, shape.sizes["tip_dorsal"], -shape.sizes["tip_drop"]]) + shape.tip
        assert abs((vertebra.centre_mm + vertebra.axes @ tip)[0] - vertebra.centre_mm[0]) < 6.0
        root = np.array([0.0, shape.half_depth + shape.sizes["canal_depth"] + 4.0, -3.0])
        path = root + np.linspace(0.4, 1.0, 12)[:, None] * (tip - root)
        own, beside = (
            anatomy.volume.hu_at(vertebra.centre_mm + (path + [lateral, 0, 0]) @ vertebra.axes.T).mean()
            for lateral in (0.0, 13.0)
        )
        contrast.append(own - beside)
        assert 250 < own < 1200
    assert np.mean(contrast) > 300


def test_the_tips_of_the_spinous_processes_lie_below_the_skin(anatomy):
    for vertebra in modelled_vertebrae(anatomy.body).values():
        shape = vertebra.shape
        tip = np.array([0.0, shape.sizes["tip_dorsal"], -shape.sizes["tip_drop"]]) + shape.tip
        point = vertebra.centre_mm + vertebra.axes @ tip
        assert anatomy.coarse.sample(anatomy.envelope.skin, point) < -4.0


@pytest.mark.parametrize("name", [thoracic(12), lumbar(1), lumbar(3)])
def test_a_vertebral_body_is_denser_than_muscle_between_its_end_plates(anatomy, name):
    vertebra = modelled_vertebrae(anatomy.body)[name]
    shape = vertebra.shape
    grid = np.stack(np.meshgrid([-0.5, 0.0, 0.5], [-0.5, 0.0, 0.4], [-0.5, 0.0, 0.5], indexing="ij"), -1).reshape(-1, 3)
    inside = grid * [shape.half_width, shape.half_depth, shape.upper]
    core = anatomy.volume.hu_at(vertebra.centre_mm + inside @ vertebra.axes.T)
    assert 180 < core.mean() < 330
    heights = np.linspace(shape.upper - 5, shape.upper + 2, 15)
    plate = anatomy.volume.hu_at(vertebra.centre_mm + heights[:, None] * vertebra.axes[:, 2]).max()
    # The end plate is denser than the core, but does not outshine it.
    assert 20 < plate - core.mean() < 450
    disc = vertebra.centre_mm + (shape.upper + 3.5) * vertebra.axes[:, 2]
    assert anatomy.volume.hu_at(disc[None]).max() < 200


def test_the_spinal_canal_is_open(anatomy):
    for name, vertebra in modelled_vertebrae(anatomy.body).items():
        shape = vertebra.shape
        middle = [0.0, shape.half_depth + 0.45 * shape.sizes["canal_depth"], 0.0]
        assert anatomy.volume.hu_at((vertebra.centre_mm + vertebra.axes @ middle)[None]).max() < 320, name


def test_the_borders_of_the_scapula_are_denser_than_its_blade(anatomy):
    for side in SIDES:
        tip = anatomy.body.meshes[f"scapula_{side}"].vertices_mm
        tip = tip[tip[:, 2].argmin()]
        around = tip + np.stack(np.meshgrid(*[np.arange(-5.0, 6.0, 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
        assert anatomy.volume.hu_at(around).max() > 450


def test_there_are_teeth_in_both_jaws(anatomy):
    for height in (1598.0, 1584.0):
        rows = np.array(
            [anatomy.body.head_point(x, y, height) for x in np.arange(-28, 29, 2.0) for y in range(122, 172, 2)]
        )
        hu = anatomy.volume.hu_at(rows)
        assert (hu > 1500).sum() > 20


def test_the_landmarks_are_plausible(anatomy):
    assert not check_landmarks(anatomy.landmarks_lps_mm, anatomy.volume).findings


@pytest.mark.parametrize("side", SIDES)
def test_the_borders_of_the_scapula_are_lines_in_a_frontal_view(posed, side):
    tip = posed.body.meshes[f"scapula_{side}"].vertices_mm
    tip = tip[tip[:, 2].argmin()]
    view = View(posed, tip)
    contrast = []
    shapes = [shape for shape, _ in border_shapes(posed.body, side)]
    # Three pieces lie behind one another along each border.
    count = len(shapes) // 6
    for first in (0, 3 * count):
        path = np.array([shape.start_mm for shape in shapes[first : first + count]])
        contrast.append(view.ridge(path, 5.0))
    assert 3 < contrast[0] < 25
    assert 1 < contrast[1] < 15


@pytest.mark.parametrize("side", SIDES)
def test_the_parts_of_the_elbow_are_outlined(posed, side):
    meshes, elbow = posed.body.meshes, posed.body.joints_mm(side)[3]
    view = View(posed, elbow)
    for name in ("humerus", "ulna"):
        vertices = meshes[f"{name}_{side}"].vertices_mm
        near = vertices[np.linalg.norm(vertices - elbow, axis=1) < 32]
        assert 3 < outline_contrast(view, near) < 52, name


@pytest.mark.parametrize("side", SIDES)
def test_carpal_bones_are_outlined(posed, side):
    wrist = posed.body.joints_mm(side)[4]
    view = View(posed, wrist)
    for name in ("lunate", "scaphoid"):
        assert 4 < outline_contrast(view, posed.body.meshes[f"{name}_{side}"].vertices_mm) < 35, name


@pytest.mark.parametrize("side", SIDES)
def test_hanging_hands_show_metacarpals_and_fingers_beyond_the_flank(hanging, side):
    meshes = hanging.body.meshes
    view = View(hanging, meshes[f"3mc_{side}"].centre_mm)
    bones = [on_axis(meshes[f"{ray}mc_{side}"], 0.5) for ray in (2, 3, 4, 5)]
    flesh = [(first + second) / 2 for first, second in zip(bones[:-1], bones[1:], strict=True)]
    fingers = [on_axis(meshes[f"{ray}proxph_{side}"], 0.5) for ray in (2, 3, 4, 5)]
    grey = {
        name: np.nanmean(view.grey(np.array(points)))
        for name, points in (("bones", bones), ("flesh", flesh), ("fingers", fingers))
    }
    # The lateral border of the view is beyond the hand.
    grey["air"] = view.image[SIZE // 2, -1 if side == "l" else 0]
    assert grey["bones"] > grey["flesh"] + 8
    assert min(grey["flesh"], grey["fingers"]) > grey["air"] + 40


@pytest.mark.parametrize("name", [thoracic(12), lumbar(1)])
def test_vertebral_bodies_stand_out_in_a_lateral_view(anatomy, name):
    vertebra = modelled_vertebrae(anatomy.body)[name]
    shape, view = vertebra.shape, View(anatomy, vertebra.centre_mm, 90.0)

    def grey(forward: float, height: float) -> float:
        points = [[0.0, -forward * shape.half_depth + shift, height] for shift in (-2, -1, 0, 1, 2)]
        return float(view.grey(vertebra.centre_mm + np.array(points) @ vertebra.axes.T).mean())

    body = np.mean([grey(forward, height) for forward in (-0.4, 0.0, 0.4) for height in (-4.0, 0.0, 4.0)])
    assert 8 < body - grey(0.0, shape.upper + 3.0) < 60


def test_neighbouring_teeth_are_apart(anatomy):
    hu = []
    for x in np.arange(-12.0, 12.5, 0.5):
        column = [anatomy.body.head_point(x, y, 1585.0) for y in np.arange(126.0, 140.0, 1.0)]
        hu.append(float(anatomy.volume.hu_at(np.array(column)).max()))
    # Teeth, one after the other from the midline, with a gap on each side.
    teeth = ndimage.label(np.array(hu) > 2300)[1]
    assert teeth >= 4
    assert min(hu) < 1700
