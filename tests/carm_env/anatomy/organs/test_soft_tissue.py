"""What the soft tissue shows in frontal views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from carm_env.anatomy.assembly import Anatomy, build_anatomy
from carm_env.anatomy.organs.heart import mediastinum_surface
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import landmark_points
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Ellipsoid, Field
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.plausibility import check_landmarks
from carm_env.anatomy.population import VirtualPatient
from carm_env.geometry import CArmGeometry, CArmPose, ProjectionGeometry
from carm_env.landmarks import landmark
from carm_env.volume import Volume
from carm_env.xray.camera import XRayCamera

AVERAGE = PatientParameters()
SIZE = 256


@pytest.fixture(scope="module")
def another() -> Anatomy:
    """The average body with the organs of another seed."""
    return build_anatomy(dataclasses.replace(AVERAGE, seed=7))


@pytest.fixture(scope="module")
def with_findings() -> Anatomy:
    return build_anatomy(dataclasses.replace(AVERAGE, findings=("sternal_wires", "pneumothorax", "rib_fracture")))


class View:
    """A frontal view without noise, in grey levels of the display."""

    def __init__(self, volume: Volume, centre_mm: np.ndarray) -> None:
        rows = np.flatnonzero((volume.hu > -300).any(axis=(0, 2)))
        depth = float(volume.lps_from_index([[0, rows.mean(), 0]])[0, 1])
        pose = CArmPose((float(centre_mm[0]), depth, float(centre_mm[2])))
        self.image = XRayCamera(volume).image(pose, SIZE).squeeze().astype(float)
        self.projection = ProjectionGeometry.from_pose(pose, CArmGeometry(), SIZE)

    def grey(self, points_mm: np.ndarray) -> np.ndarray:
        u, v = np.moveaxis(np.rint(self.projection.project(points_mm)).astype(int), -1, 0)
        return self.image[v, u]


def trachea_contrast(anatomy: Anatomy) -> np.ndarray:
    """Grey levels right and left of the trachea minus those of its lumen ``(heights, 2)``, up to T1."""
    carina, t1 = (anatomy.landmarks_lps_mm[landmark(name).id] for name in ("Carina", "T1"))
    view = View(anatomy.volume, carina + [0, 0, 20])
    heights = np.arange(12.0, t1[2] - carina[2], 4.0)
    axis = carina + np.column_stack([0 * heights + 1, 0 * heights - 4, heights])

    def band(offset_mm: float, half_mm: float) -> np.ndarray:
        across = np.linspace(-half_mm, half_mm, 7)[:, None, None] * [1, 0, 0]
        return view.grey(axis + [offset_mm, 0, 0] + across).mean(axis=0)

    return np.stack([band(side * 19.0, 3.0) - band(0.0, 5.0) for side in (-1, 1)], axis=1)


def test_the_trachea_is_a_dark_column_over_the_spine(anatomy):
    contrast = trachea_contrast(anatomy)
    assert contrast.mean() > 8
    assert (contrast.mean(axis=0) > 4).all()


@pytest.mark.parametrize(("side", "middle_mm"), [("right", (-17, 3, -14)), ("left", (25, 4, -8))])
def test_main_bronchi_can_be_seen(anatomy, side, middle_mm):
    # The same patient with soft tissue in the airways.
    carina, lumen = anatomy.landmarks_lps_mm[11], anatomy.airways
    points = lumen.lattice.origin_mm + lumen.lattice.spacing_mm * np.argwhere(lumen.values < 0)
    hu = anatomy.volume.hu.copy()
    i, j, k = np.rint(anatomy.volume.index_from_lps(points)).astype(int).T
    hu[i, j, k] = 40
    filled = Volume.from_origin(hu, 2.0, anatomy.volume.lps_from_index([[0, 0, 0]])[0])
    centre = carina + np.array(middle_mm) * AVERAGE.scale
    around = centre + np.stack(np.meshgrid([-2, 0, 2], [0], [-2, 0, 2]), -1).reshape(-1, 3)
    difference = View(filled, carina).grey(around) - View(anatomy.volume, carina).grey(around)
    assert difference.mean() > 6


def test_the_heart_is_within_adult_limits(anatomy, another):
    for built in (anatomy, another):
        x, _, z = built.coarse.axes()
        carina = built.thorax.carina_mm[2]
        inside = (built.chest.cavity < 0) & (built.chest.below_diaphragm > 0)
        heart = (built.chest.mediastinum < 0) & inside & (np.abs(z - carina + 85) < 20)
        above_diaphragm = inside & (z > carina - 100)
        widths = [np.ptp(x.ravel()[mask.any(axis=(1, 2))]) for mask in (heart, above_diaphragm)]
        # Supine, from the front: up to about 0.55.
        assert 0.40 < widths[0] / widths[1] < 0.55
        extent = x.ravel()[heart.any(axis=(1, 2))]
        assert extent.max() > 1.4 * -extent.min()


def test_the_left_border_of_the_mediastinum_is_one_contour(anatomy):
    x, _, z = anatomy.coarse.axes()
    shadow = ((anatomy.chest.mediastinum < 0) & (anatomy.chest.cavity < 0)).any(axis=1)
    heights = z.ravel() - anatomy.thorax.carina_mm[2]
    border = np.array([x.ravel()[column].max() for column in shadow[:, (heights > -90) & (heights < 20)].T])
    # From the aortic arch to the apex it runs to the left, with steps of a few millimetres.
    assert border[0] > border[-1] + 25
    assert np.abs(np.diff(border)).max() <= 12


def test_gas_in_the_stomach_is_a_bubble(anatomy):
    dome = anatomy.landmarks_lps_mm[landmark("Left hemidiaphragm").id]
    low, high = dome + [-70, -90, -150], dome + [50, 90, -14]
    first, last = (np.rint(anatomy.volume.index_from_lps(corner)).astype(int) for corner in (low, high))
    part = anatomy.volume.hu[tuple(slice(a, b) for a, b in zip(np.maximum(first, 0), last, strict=True))]
    # The whole gut of a fasting adult holds 100 to 200 ml of gas (Levitt, N Engl J Med 284:1394, 1971).
    assert 10 < ((part > -990) & (part < -900)).sum() * 8 / 1000 < 100


def test_organs_of_two_seeds_differ(anatomy, another):
    first = anatomy.chest.mediastinum
    second = mediastinum_surface(anatomy.thorax, anatomy.coarse, OrganVariation(7))
    assert 0.4 < np.abs(first - second)[np.abs(first) < 4].mean() < 8
    t12 = anatomy.landmarks_lps_mm[landmark("T12").id]
    axes = [np.arange(low, high, 6.0) for low, high in ((-90, 90), (-90, 10), (-160, -10))]
    grid = t12 + np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    difference = np.abs(anatomy.volume.hu_at(grid).astype(float) - another.volume.hu_at(grid))
    assert (difference > 90).mean() > 0.1


def test_carina_and_domes_are_on_their_surfaces(another):
    points = landmark_points(another.body, another.thorax)
    lumen = another.airways
    carina = points[landmark("Carina").id]
    heights = np.arange(-12.0, 12.5, 0.5)
    midline = carina + heights[:, None] * [0, 0, 1]
    inside = lumen.lattice.sample(lumen.values, midline) < 0
    assert abs(heights[inside].min()) < 4
    for side in ("Right", "Left"):
        dome = points[landmark(f"{side} hemidiaphragm").id]
        above, under = (another.volume.hu_at(dome + [0, 0, shift]) for shift in (10.0, -12.0))
        assert above < -600 < under


def test_the_build_is_deterministic(anatomy):
    again = build_anatomy(AVERAGE)
    np.testing.assert_array_equal(again.volume.hu, anatomy.volume.hu)


def test_findings_can_be_seen(anatomy, with_findings):
    carina = anatomy.thorax.carina_mm
    shift = anatomy.landmarks_lps_mm[11] - carina

    def change(centre: np.ndarray) -> np.ndarray:
        return View(with_findings.volume, centre).image - View(anatomy.volume, centre).image

    wires = change(carina + shift + [2, 0, -50])[:, 70:186]
    assert (wires > 14).mean() > 0.015
    chest = change(carina + shift + [100, 0, -45])
    assert (chest < -14).mean() > 0.04
    assert (chest > 14).mean() > 0.002


def test_variation_is_limited_smooth_and_absent_in_the_average_adult():
    assert OrganVariation(0).size("liver", 0.2) == 1.0
    np.testing.assert_array_equal(OrganVariation(0).normal("liver", [3.0, 3.0]), 0.0)
    sizes = [OrganVariation(seed).size("liver", 0.1) for seed in range(1, 200)]
    assert np.exp(-0.2) - 1e-9 <= min(sizes) < 0.9 and 1.1 < max(sizes) <= np.exp(0.2) + 1e-9
    assert OrganVariation(3).size("liver") != OrganVariation(3).size("spleen")
    lattice = Lattice(np.zeros(3), 4.0, (30, 30, 30))
    plain = Field(lattice).add(Ellipsoid([58, 58, 58], [40, 40, 40]))
    rippled = OrganVariation(3).ripple("liver", Field(lattice, plain.values.copy()), 2.0)
    moved = rippled.values - plain.values
    assert 0.8 < moved.std() < 4
    assert max(np.abs(np.diff(moved, axis=axis)).max() for axis in range(3)) < 2.5


@pytest.mark.slow
def test_landmarks_of_ten_patients_are_plausible():
    for seed in range(1, 11):
        built = build_anatomy(VirtualPatient(seed).parameters)
        report = check_landmarks(built.landmarks_lps_mm, built.volume)
        assert not report.errors, (seed, str(report))
