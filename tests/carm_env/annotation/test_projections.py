"""Projections for annotation: pixels and points are an inverse pair, and images show what they claim to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.annotation import projections
from carm_env.annotation.depth import bone_depth_mm
from carm_env.annotation.projections import DEPTH_AXIS, PLANES, XRayProjection, intensity_projection
from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, ProjectionGeometry
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume

SPACING_MM = (2.0, 3.0, 4.0)


def volume():
    """Air with a bone of 3 x 3 x 3 voxels around voxel (5, 6, 7), and a thinner, denser one behind it."""
    hu = np.full((12, 20, 16), -1000, np.int16)
    hu[4:7, 5:8, 6:9] = 600
    hu[4:7, 15, 6:9] = 900
    return Volume.from_origin(hu, SPACING_MM, (-30.0, 40.0, 900.0))


BOX = volume().corners_lps_mm
POINTS = st.tuples(*(st.floats(low, high) for low, high in zip(*(corner.tolist() for corner in BOX), strict=True)))


def xray(plane, point=(0.0, 60.0, 930.0)):
    pose = CArmPose(point, 90.0 if plane == "lateral" else 0.0)
    return XRayProjection(plane, np.zeros((64, 64), np.uint8), ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, 64))


def overview(plane):
    return XRayProjection(plane, np.zeros((64, 64), np.uint8), projections._overview_geometry(volume(), plane, 64))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("make", [lambda plane: intensity_projection(volume(), plane), xray, overview])
@settings(max_examples=30)
@given(point=POINTS)
def test_unproject_is_the_inverse_of_project(make, plane, point):
    projection = make(plane)
    pixel = projection.project(point)
    np.testing.assert_allclose(projection.unproject(pixel, point[DEPTH_AXIS[plane]]), point, atol=1e-6)


@pytest.mark.parametrize("plane", PLANES)
@settings(max_examples=30)
@given(u=st.floats(0, 63), v=st.floats(0, 63), depth=st.floats(-20, 90))
def test_project_is_the_inverse_of_unproject(plane, u, v, depth):
    projection = xray(plane)
    np.testing.assert_allclose(projection.project(projection.unproject((u, v), depth)), (u, v), atol=1e-6)


def test_a_pixel_of_the_maximum_projection_is_a_voxel():
    ct = volume()
    frontal, lateral = (intensity_projection(ct, plane) for plane in PLANES)
    assert frontal.image.shape == (16, 12) and lateral.image.shape == (16, 20)
    bone = ct.lps_from_index((5, 6, 7))
    assert frontal.project(bone).tolist() == [5.0, 8.0] and lateral.project(bone).tolist() == [6.0, 8.0]
    assert frontal.image[8, 5] > frontal.image[0, 0] == 0 and lateral.image[8, 6] > lateral.image[8, 10] == 0


def test_sides_are_as_on_a_film():
    for make in (lambda plane: intensity_projection(volume(), plane), xray, overview):
        frontal, lateral = make("frontal"), make("lateral")
        here, left, back, up = np.array([[0, 60, 930], [5, 60, 930], [0, 65, 930], [0, 60, 935]], float)
        assert frontal.project(left)[0] > frontal.project(here)[0] and frontal.project(up)[1] < frontal.project(here)[1]
        assert lateral.project(back)[0] > lateral.project(here)[0] and lateral.project(up)[1] < lateral.project(here)[1]


@pytest.mark.parametrize("plane", PLANES)
def test_the_overview_shows_all_of_the_ct(plane):
    corners = np.array([[BOX[i][0], BOX[j][1], BOX[k][2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    pixels = overview(plane).project(corners)
    assert (pixels >= 0).all() and (pixels <= 63).all()
    assert np.ptp(pixels, axis=0).max() > 50


def test_an_unknown_plane_is_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'frontal'"):
        intensity_projection(volume(), "front")


def test_the_depth_is_that_of_the_strongest_bone():
    ct = volume()
    projection = intensity_projection(ct, "frontal")
    # Three voxels of 600 HU hold more bone than one of 900 HU.
    assert bone_depth_mm(ct, projection, (5, 8)) == pytest.approx(ct.lps_from_index((5, 6, 7))[1], abs=0.8)
    assert bone_depth_mm(ct, projection, (0, 0)) is None
    assert bone_depth_mm(ct, intensity_projection(ct, "lateral"), (6, 8)) == pytest.approx(-20.0, abs=0.6)


def test_bones_on_both_sides_of_marrow_are_one():
    hu = np.full((3, 40, 3), -1000, np.int16)
    hu[1, [10, 14], 1] = 800
    ct = Volume.from_origin(hu, 1.0, (0.0, 0.0, 0.0))
    assert bone_depth_mm(ct, intensity_projection(ct, "frontal"), (1, 1)) == pytest.approx(12.0, abs=0.3)
