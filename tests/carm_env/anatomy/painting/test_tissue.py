"""The volume looks like a CT: HU of tissues, positions and sizes of organs."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from carm_env.anatomy.build import ANATOMY_VERSION
from carm_env.volume import AIR_HU


@pytest.fixture(scope="module")
def skin_mask(patient):
    return patient.volume.hu > -500


def values_where(anatomy, coarse_mask: np.ndarray) -> np.ndarray:
    """HU of the volume at the points of a mask on the coarse lattice."""
    index = np.argwhere(coarse_mask)
    return anatomy.volume.hu_at(anatomy.coarse.origin_mm + anatomy.coarse.spacing_mm * index)


def test_the_volume_has_the_documented_type_spacing_and_card(patient):
    volume = patient.volume
    assert volume.hu.dtype == np.int16
    np.testing.assert_allclose(volume.spacing_mm, 2.0)
    assert volume.hu.nbytes < 60e6
    assert patient.id == "virtual:0?table=false"
    assert patient.card["parameters"]["arms"] == "crossed"
    assert "myo-sim" in patient.card["origin"]
    assert "not a medical device" in patient.card["notice"]


@pytest.mark.slow
def test_another_process_builds_the_same_bytes(patient):
    script = (
        "import hashlib; from carm_env.anatomy import VirtualPatient, build_patient\n"
        "patient = build_patient(VirtualPatient(table=False))\n"
        "print(hashlib.sha256(patient.volume.hu.tobytes()).hexdigest(), patient.landmarks_lps_mm[8].tolist())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, encoding="utf-8")
    digest = hashlib.sha256(patient.volume.hu.tobytes()).hexdigest()
    assert run.stdout.split()[0] == digest
    assert str(patient.landmarks_lps_mm[8].tolist()) in run.stdout


def test_the_body_is_surrounded_by_exactly_air(patient):
    hu = patient.volume.hu
    for face in (hu[0], hu[-1], hu[:, 0], hu[:, -1], hu[:, :, -1]):
        assert (face == AIR_HU).all()
    assert (hu == AIR_HU).mean() > 0.35
    body = ndimage.binary_fill_holes(ndimage.binary_dilation(hu > -700, iterations=2))
    outside = ~ndimage.binary_dilation(body, iterations=2)
    assert (hu[outside] == AIR_HU).all()


def test_the_skin_is_one_surface_without_islands(anatomy, skin_mask):
    air, _ = ndimage.label(~skin_mask)
    outside = air == air[0, 0, -1]
    bodies, _ = ndimage.label(~outside)
    sizes = np.bincount(bodies.ravel())
    islands = np.argwhere((bodies > 0) & (bodies != 1 + sizes[1:].argmax()))
    # The airways are open: vessels of the lungs are islands in the air that is connected with that around the body.
    points = anatomy.volume.lps_from_index(islands)
    assert (anatomy.coarse.sample(anatomy.envelope.skin, points) < -4).all()


def test_the_skin_has_no_steps(patient):
    body = ndimage.binary_fill_holes((patient.volume.hu > -500).any(1))
    width = body.sum(0).astype(float)
    # Away from head and shoulders the frontal outline is smooth: no ledge at the waist.
    waist = width[20 : int(0.28 * len(width))]
    assert np.abs(np.diff(waist)).max() <= 4
    assert np.abs(np.diff(waist, 2)).max() <= 4


def test_lungs_are_inside_the_ribs_and_have_the_hu_of_lung(anatomy):
    lungs = anatomy.chest.lungs < -4
    assert (anatomy.chest.cavity[lungs] < 0).all()
    hu = values_where(anatomy, anatomy.chest.lungs < -8)
    assert -900 < np.median(hu) < -700
    assert (hu < -500).mean() > 0.85
    # The annotated patients are decedents, after expiration: above the residual volume (1.2 l of air, and 0.9 l of
    # tissue and blood), and below the total lung capacity of adults.
    litres = (anatomy.chest.lungs < 0).sum() * 4.0**3 / 1e6
    assert 2.1 < litres < 6.5


def test_there_are_two_separate_lungs(anatomy):
    labels, count = ndimage.label(anatomy.chest.lungs < -2)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    assert count >= 2
    assert sizes[:2].sum() > 0.99 * sizes.sum()
    assert sizes[1] > 0.5 * sizes[0]


@pytest.mark.parametrize(
    "name, low, high",
    [("fat", -130, -70), ("muscle", 20, 90), ("liver", 40, 80), ("heart", 25, 70), ("brain", 20, 50)],
)
def test_tissues_have_their_hounsfield_units(anatomy, name, low, high):
    landmarks = anatomy.landmarks_lps_mm
    if name == "fat":
        envelope = anatomy.envelope
        _, _, z = anatomy.coarse.axes()
        deep = (envelope.skin < -6) & (envelope.muscle > 3) & (envelope.arms > 3) & (z < landmarks[14][2] - 40)
        hu = values_where(anatomy, deep)
    elif name == "muscle":
        hu = values_where(anatomy, (anatomy.envelope.arms < -8) & (anatomy.envelope.skin < -20))
    else:
        centre = {
            "liver": landmarks[12] + [0, 5, -60],
            "heart": landmarks[11] + [36, -68, -74],
            "brain": landmarks[1] + [0, 15, 35],
        }[name]
        offsets = np.stack(np.meshgrid(*[np.arange(-10, 11, 2)] * 3), -1).reshape(-1, 3)
        hu = anatomy.volume.hu_at(centre + offsets)
    assert low < np.median(hu) < high


def test_bone_has_a_dense_shell(anatomy):
    body = anatomy.body
    volume = anatomy.volume
    _, _, head, elbow, _ = body.joints_mm("r")
    middle = (head + elbow) / 2
    mesh = body.meshes["humerus_r"].vertices_mm
    shaft = mesh[np.abs(mesh[:, 2] - middle[2]) < 25].mean(0)
    grid = np.stack(np.meshgrid(np.arange(-20, 21, 2), np.arange(-20, 21, 2), [0.0]), -1).reshape(-1, 3)
    assert volume.hu_at(shaft + grid).max() > 900
    ribs = np.concatenate([volume.hu_at(rib.surface_points()) for rib in body.ribs])
    assert np.percentile(ribs, 75) > 300


def test_the_airways_connect_the_larynx_with_both_main_bronchi(anatomy):
    volume = anatomy.volume
    carina = anatomy.landmarks_lps_mm[11]
    lumen = anatomy.airways
    labels, _ = ndimage.label(lumen.values < -0.5)
    points = {
        "larynx": anatomy.body.at(0, 190, 1530),
        "trachea": carina + [0, 0, 40],
        "right": carina + [-17, 3, -22],
        "left": carina + [25, 4, -16],
    }
    found = {
        name: int(labels[tuple(slice(int(i) - 3, int(i) + 4) for i in lumen.lattice.index(point))].max())
        for name, point in points.items()
    }
    assert len(set(found.values())) == 1 and 0 not in found.values(), found
    assert volume.hu_at(points["trachea"]) < -900
    assert max(volume.hu_at(points[side]) for side in ("right", "left")) < -850


def test_the_right_main_bronchus_is_steeper_and_wider(anatomy):
    from carm_env.anatomy.organs.airways import LEFT_MAIN, RIGHT_MAIN

    right, left = np.array(RIGHT_MAIN), np.array(LEFT_MAIN)

    def steepness(rows):
        return (rows[0, 2] - rows[3, 2]) / abs(rows[3, 0] - rows[0, 0])

    assert steepness(right) > 1.4 * steepness(left)
    assert right[2, 3] > left[2, 3]


def test_the_heart_is_mostly_left_of_the_midline(anatomy):
    carina = anatomy.landmarks_lps_mm[11]
    x, _, z = anatomy.coarse.axes()
    heights = np.abs(z - (carina[2] - 75)) < 12
    shadow = ((anatomy.chest.mediastinum < 0) & heights & (anatomy.chest.cavity < 0)).any(1)
    extent = np.broadcast_to(x[:, :, 0], shadow.shape)[shadow]
    assert extent.max() > 1.3 * -extent.min()
    assert -extent.min() > 25


def test_the_body_has_the_volume_of_an_adult(anatomy):
    litres = (anatomy.envelope.skin < -4).sum() * anatomy.coarse.spacing_mm**3 / 1e6
    assert 25 < litres < 80


FACTS = {"5": (11.660944, 12.151743, 2.323971, 0.365706, 0.142954)}
"""By ANATOMY_VERSION: millions of voxels below -950 HU, to -200, 20 to 80, above 200 and 700, without the table."""


def test_a_changed_anatomy_needs_a_new_version(patient):
    # A change of voxels without a new ANATOMY_VERSION would mix cached patients of both.
    hu = patient.volume.hu
    facts = (hu < -950, hu <= -200, (hu >= 20) & (hu <= 80), hu > 200, hu > 700)
    measured = [float(part.sum()) / 1e6 for part in facts]
    np.testing.assert_allclose(measured, FACTS[ANATOMY_VERSION], rtol=2e-3)
