"""Every finding changes the voxels in its region only."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from carm_env.anatomy.assembly import build_anatomy, lattices
from carm_env.anatomy.finding_names import DEFAULT_SIDES, parse_finding
from carm_env.anatomy.findings.material import Site, surface_point
from carm_env.anatomy.findings.paint import fractures, paint_foreign_bodies, paint_pleural_findings, resolve
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.parameters import PatientParameters

ALL = tuple(DEFAULT_SIDES)
METAL_HU = 2500

# Lowest and highest x (towards the finding's side), and z, relative to a landmark, mm.
REGIONS = {
    "pacemaker": ("Carina", (-65, 150), (-125, 110)),
    "sternal_wires": ("Carina", (-25, 30), (-150, 60)),
    "humeral_nail": ("humeral head", (-60, 60), (-310, 40)),
    "hip_screw": ("T12", (40, 150), (-400, -290)),
    "ecg_leads": ("Carina", (-130, 130), (-190, 90)),
    "endotracheal_tube": ("Carina", (-15, 15), (25, 220)),
    "central_line": ("Carina", (-45, 60), (-45, 175)),
    "nasogastric_tube": ("Carina", (-15, 100), (-240, 230)),
    "chest_tube": ("Carina", (20, 190), (-110, 90)),
    "pleural_effusion": ("Carina", (-12, 160), (-230, 110)),
    "pneumothorax": ("Carina", (-12, 160), (-230, 110)),
}


@pytest.fixture(scope="module")
def with_all():
    # Without the ECG cables, which would enlarge the volume.
    return build_anatomy(PatientParameters(findings=[name for name in ALL if name != "ecg_leads"]))


def site_of(anatomy) -> Site:
    """An empty canvas with the structures of a patient."""
    canvas = Canvas(*lattices(anatomy.body, PatientParameters()), np.random.default_rng(0))
    return Site(canvas, anatomy.body, anatomy.thorax, anatomy.envelope, anatomy.chest)


def painted(anatomy, text: str) -> tuple[Canvas, np.ndarray]:
    """Paints a finding on a canvas of 0 HU; returns the canvas and the changed points ``(n, 3)``."""
    site = site_of(anatomy)
    canvas = site.canvas
    canvas.hu[:] = 0
    paint_pleural_findings(site, resolve([text]))
    paint_foreign_bodies(site, resolve([text]))
    return canvas, canvas.fine.origin_mm + canvas.fine.spacing_mm * np.argwhere(np.abs(canvas.hu) > 1)


def region_of(anatomy, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of the region of a finding, of any depth."""
    finding = parse_finding(text)
    name, across, heights = REGIONS[finding.name]
    sign = -1 if finding.side == "right" else 1
    if name == "humeral head":
        name = f"{(finding.side or '').title()} humeral head"
    points = {**anatomy.body.landmarks_mm, "Carina": anatomy.thorax.carina_mm}
    x = sorted(points[name][0] + sign * np.array(across))
    z = points[name][2] + np.array(heights)
    return np.array([x[0], -np.inf, z[0]]), np.array([x[1], np.inf, z[1]])


@pytest.mark.parametrize("name", sorted(REGIONS))
def test_a_finding_is_in_its_region_on_either_side(anatomy, name):
    for side in [":left", ":right"] if DEFAULT_SIDES[name] else [""]:
        _, points = painted(anatomy, name + side)
        low, high = region_of(anatomy, name + side)
        assert len(points) > 50
        assert (points >= low).all() and (points <= high).all(), (points.min(0), points.max(0), low, high)


@pytest.mark.parametrize("name", ["pacemaker", "sternal_wires", "humeral_nail", "hip_screw", "ecg_leads"])
def test_metal_reaches_the_upper_limit_of_a_scanner(anatomy, name):
    canvas, _ = painted(anatomy, name)
    assert (canvas.hu > METAL_HU).sum() > 20


def test_fluid_is_dorsal_and_air_ventral_in_a_supine_patient(anatomy):
    coarse = anatomy.coarse
    for name, hu in (("pleural_effusion:left", 12), ("pneumothorax:left", -995)):
        canvas, _ = painted(anatomy, name)
        found = canvas.fine.origin_mm + canvas.fine.spacing_mm * np.argwhere(np.abs(canvas.hu - hu) < 8)
        lung = coarse.origin_mm + coarse.spacing_mm * np.argwhere(anatomy.chest.lungs < 0)
        middle = np.median(lung[lung[:, 0] > 0][:, 1])
        litres = len(found) * canvas.fine.spacing_mm**3 / 1e6
        assert 0.3 < litres < 1.8
        assert np.mean(coarse.sample(anatomy.chest.lungs, found) < coarse.spacing_mm) > 0.99
        assert (np.median(found[:, 1]) - middle) * np.sign(hu) > 20


def test_a_broken_rib_has_a_gap_and_a_step(anatomy, with_all):
    (fracture,) = fractures(site_of(anatomy), [parse_finding("rib_fracture")])
    before, after = anatomy.volume, with_all.volume
    rib = fracture.displaced(anatomy.body.ribs[fracture.rib]).surface_points()
    displaced = rib[fracture.in_displaced_part(rib) & (np.linalg.norm(rib - fracture.point_mm, axis=1) < 45)]
    assert after.hu_at(displaced).mean() > before.hu_at(displaced).mean() + 50


def test_landmarks_and_voxels_outside_the_findings_do_not_change(anatomy, with_all):
    for number, point in anatomy.landmarks_lps_mm.items():
        np.testing.assert_array_equal(with_all.landmarks_lps_mm[number], point)
    before, after = anatomy.volume, with_all.volume
    assert before.hu.shape == after.hu.shape
    assert after.hu.max() == tissue.HIGHEST
    points = before.lps_from_index(np.argwhere(before.hu != after.hu))
    explained = np.zeros(len(points), bool)
    for text in ALL:
        if text in REGIONS:
            low, high = region_of(anatomy, text)
            explained |= ((points >= low - 8) & (points <= high + 8)).all(1)
    (fracture,) = fractures(site_of(anatomy), [parse_finding("rib_fracture")])
    explained |= np.linalg.norm(points - fracture.point_mm, axis=1) < 180
    assert explained.all()


def test_the_name_tubes_stands_for_the_four_tubes():
    assert resolve(["tubes"]) == resolve(["endotracheal_tube", "central_line", "nasogastric_tube", "chest_tube"])
    assert resolve(["chest_tube", "tubes"])[0].name == "chest_tube"
    assert len(resolve(["chest_tube", "tubes"])) == 4


@pytest.mark.slow
def test_findings_fit_a_large_and_a_thin_patient():
    body = PatientParameters(scale=1.15, fat_mm=40, belly_mm=70, female=1.0, arms="sides", findings=ALL)
    thin = dataclasses.replace(body, scale=0.9, fat_mm=6, belly_mm=0)
    for parameters in (body, thin):
        assert build_anatomy(parameters).volume.hu.max() == tissue.HIGHEST


def test_a_ray_that_misses_the_surface_is_an_error(anatomy):
    start = anatomy.coarse.origin_mm
    with pytest.raises(ValueError, match="meets no surface"):
        surface_point(anatomy.coarse, anatomy.envelope.skin, start, [-1, 0, 0])
