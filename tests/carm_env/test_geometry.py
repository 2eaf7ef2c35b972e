import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.geometry import (
    CArmGeometry,
    CArmPose,
    ProjectionGeometry,
    angles_from_positioner,
    check_image_size,
    planar_displacement_mm,
    positioner_angles_deg,
)
from carm_env.system.errors import UnknownNameError

poses = st.builds(
    CArmPose,
    st.tuples(*[st.floats(-300, 300)] * 3),
    st.floats(-90, 90),
    st.floats(-45, 45),
    st.sampled_from(["AP", "PA"]),
)


@given(poses)
def test_image_axes_are_orthonormal(pose):
    axes = np.stack(pose.axes_lps())
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


@given(poses, st.tuples(st.floats(-5, 260), st.floats(-5, 260)), st.floats(50, 1500))
def test_project_and_ray_are_inverses(pose, pixel, distance):
    view = ProjectionGeometry.from_pose(pose, CArmGeometry(), 256)
    source, direction = view.ray(pixel)
    assert np.linalg.norm(direction) == pytest.approx(1)
    np.testing.assert_allclose(view.project(source + distance * direction), pixel, atol=1e-6)


@given(poses)
def test_the_isocentre_is_in_the_middle_of_the_image(pose):
    view = ProjectionGeometry.from_pose(pose, CArmGeometry(), 128)
    np.testing.assert_allclose(view.project(pose.isocenter_lps_mm), [63.5, 63.5], atol=1e-6)


@given(poses, st.floats(-250, 250), st.tuples(*[st.floats(-200, 200)] * 3))
def test_a_c_arm_shifted_along_the_beam_sees_the_same_displacements(pose, distance, point):
    shifted = pose.towards_source(distance)
    np.testing.assert_allclose(
        planar_displacement_mm(shifted, point), planar_displacement_mm(pose, point), rtol=0, atol=1e-9
    )
    step = np.subtract(pose.isocenter_lps_mm, shifted.isocenter_lps_mm)
    np.testing.assert_allclose(step, distance * pose.axes_lps()[2], atol=1e-9)
    np.testing.assert_allclose(
        shifted.towards_source(-distance).isocenter_lps_mm, pose.isocenter_lps_mm, rtol=0, atol=1e-9
    )


@given(poses, st.floats(-250, 250))
def test_the_field_of_view_at_a_distance_ends_at_the_edges_of_the_image(pose, behind):
    side = CArmGeometry().field_of_view_at_mm(behind)
    columns, rows, ray = pose.axes_lps()
    middle = np.array(pose.isocenter_lps_mm) + behind * ray
    view = ProjectionGeometry.from_pose(pose, CArmGeometry(), 64)
    np.testing.assert_allclose(view.project(middle - side / 2 * (columns + rows)), [-0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(view.project(middle + side / 2 * (columns + rows)), [63.5, 63.5], atol=1e-6)


def test_the_field_of_view_at_the_isocentre_is_that_of_the_c_arm():
    assert CArmGeometry().field_of_view_at_mm(0.0) == CArmGeometry().field_of_view_mm


@pytest.mark.parametrize("projection", ["AP", "PA"])
def test_patients_right_is_on_the_images_left_and_cranial_is_up(projection):
    view = ProjectionGeometry.from_pose(CArmPose((0, 0, 0), projection=projection), CArmGeometry(), 256)
    middle = view.project([0, 0, 0])
    right, head = view.project([[-50, 0, 0], [0, 0, 50]])
    assert right[0] < middle[0] and right[1] == pytest.approx(middle[1])
    assert head[1] < middle[1] and head[0] == pytest.approx(middle[0])


def test_ap_magnifies_what_is_in_front_and_pa_what_is_behind():
    front, back = [[30, -80, 0], [30, 80, 0]]
    for projection, larger, smaller in (("AP", front, back), ("PA", back, front)):
        view = ProjectionGeometry.from_pose(CArmPose((0, 0, 0), projection=projection), CArmGeometry(), 256)
        assert view.project(larger)[0] > view.project(smaller)[0]


@pytest.mark.parametrize("projection", ["AP", "PA"])
def test_positive_alpha_moves_the_detector_right_and_positive_beta_caudally(projection):
    def detector_centre(**angles):
        view = ProjectionGeometry.from_pose(CArmPose((0, 0, 0), projection=projection, **angles), CArmGeometry(), 64)
        return view.pixel_lps_mm([31.5, 31.5])

    assert detector_centre(alpha_deg=20)[0] < -100
    assert detector_centre(alpha_deg=-20)[0] > 100
    assert detector_centre(beta_deg=20)[2] < -100
    assert detector_centre(beta_deg=-20)[2] > 100


def test_magnification_and_pixel_size_equal_deepdrrs_mobile_c_arm():
    geometry = CArmGeometry()
    view = ProjectionGeometry.from_pose(CArmPose((0, 0, 0)), geometry, 1536)
    assert np.linalg.norm(view.column_step_lps_mm) == pytest.approx(0.194)
    assert np.linalg.norm(view.pixel_lps_mm([767.5, 767.5]) - view.source_lps_mm) == pytest.approx(1020)
    pixels = view.project([[10, 0, 0], [0, 0, 0]])
    assert (pixels[0] - pixels[1])[0] == pytest.approx(10 * geometry.magnification / 0.194)


def test_points_behind_the_source_project_to_nan():
    view = ProjectionGeometry.from_pose(CArmPose((0, 0, 0)), CArmGeometry(), 64)
    assert np.isnan(view.project([0, -600, 0])).all()


directions = st.tuples(st.floats(-180, 180), st.floats(-90, 90))
projections = st.sampled_from(["AP", "PA"])


def towards_detector(primary_deg, secondary_deg):
    """DICOM's definition: longitude and latitude, from the front of the patient to the left and to the head."""
    primary, secondary = np.deg2rad([primary_deg, secondary_deg])
    return [np.sin(primary) * np.cos(secondary), -np.cos(primary) * np.cos(secondary), np.sin(secondary)]


@given(directions, projections)
def test_positioner_angles_give_the_direction_of_the_detector(angles, projection):
    alpha, beta = angles_from_positioner(*angles, projection)
    ray = CArmPose((0, 0, 0), alpha, beta, projection).axes_lps()[2]
    np.testing.assert_allclose(ray, towards_detector(*angles), atol=1e-9)


@given(st.floats(-89, 89), st.floats(-89, 89), projections)
def test_positioner_angles_are_inverses(alpha, beta, projection):
    pose = CArmPose((0, 0, 0), alpha, beta, projection)
    np.testing.assert_allclose(
        angles_from_positioner(*positioner_angles_deg(pose), projection), [alpha, beta], atol=1e-6
    )


@given(st.floats(-179, 179), st.floats(-89, 89), projections)
def test_positioner_angles_are_inverses_the_other_way(primary, secondary, projection):
    pose = CArmPose((0, 0, 0), *angles_from_positioner(primary, secondary, projection), projection)
    np.testing.assert_allclose(positioner_angles_deg(pose), [primary, secondary], atol=1e-6)


@pytest.mark.parametrize(
    ("angles", "projection", "expected"),
    [
        ({}, "PA", (0, 0)),
        ({}, "AP", (180, 0)),
        ({"alpha_deg": 30}, "PA", (-30, 0)),
        ({"alpha_deg": -30}, "PA", (30, 0)),
        ({"beta_deg": 20}, "PA", (0, -20)),
        ({"beta_deg": -20}, "PA", (0, 20)),
        ({"alpha_deg": 30}, "AP", (-150, 0)),
        ({"beta_deg": 20}, "AP", (180, -20)),
    ],
)
def test_positioner_angles_of_single_rotations(angles, projection, expected):
    pose = CArmPose((0, 0, 0), projection=projection, **angles)
    np.testing.assert_allclose(positioner_angles_deg(pose), expected, atol=1e-9)


@pytest.mark.parametrize(("angles", "difference_deg"), [((30, 20), 3.1), ((45, 45), 16.8), ((30, 0), 0), ((0, 45), 0)])
def test_compound_angles_taken_for_positioner_angles_miss_the_direction(angles, difference_deg):
    ours = CArmPose((0, 0, 0), *angles, "PA").axes_lps()[2]
    cosine = np.clip(ours @ towards_detector(-angles[0], -angles[1]), -1, 1)
    assert np.rad2deg(np.arccos(cosine)) == pytest.approx(difference_deg, abs=0.05)


@pytest.mark.parametrize("angles", [(181, 0), (0, -91), (float("nan"), 0), ("30", 0)])
def test_positioner_angles_out_of_range_are_errors(angles):
    with pytest.raises(ValueError, match="_deg is"):
        angles_from_positioner(*angles)


@given(poses, st.tuples(*[st.floats(-300, 300)] * 3))
def test_planar_displacement_ignores_depth_along_the_beam(pose, point):
    ray = pose.axes_lps()[2]
    near = planar_displacement_mm(pose, point)
    np.testing.assert_allclose(planar_displacement_mm(pose, np.array(point) + 70 * ray), near, atol=1e-6)


def test_planar_displacement_is_left_and_cranial_in_a_frontal_view():
    np.testing.assert_allclose(planar_displacement_mm(CArmPose((1, 2, 3)), (11, 99, 23)), [10, 20])


def test_invalid_values_are_named():
    with pytest.raises(ValueError, match="isocenter_lps_mm"):
        CArmPose((0, 0, float("nan")))
    with pytest.raises(ValueError, match="alpha_deg"):
        CArmPose((0, 0, 0), alpha_deg=float("inf"))
    with pytest.raises(UnknownNameError, match="Did you mean 'AP'"):
        CArmPose((0, 0, 0), projection="APP")
    with pytest.raises(ValueError, match="source_isocenter_mm"):
        CArmGeometry(source_isocenter_mm=2000)
    with pytest.raises(ValueError, match="detector_mm is 0"):
        CArmGeometry(detector_mm=0)


@pytest.mark.parametrize("size", [15, 2049, 0, -5, 100.5, float("nan"), None, "big"])
def test_image_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="from 16 to 2048"):
        check_image_size(size)


@pytest.mark.parametrize(("angles", "message"), [({"alpha_deg": 181}, "alpha_deg is 181"), ({"beta_deg": -91}, "-90")])
def test_angles_out_of_range_are_errors(angles, message):
    with pytest.raises(ValueError, match=message):
        CArmPose((0, 0, 0), **angles)
    CArmPose((0, 0, 0), alpha_deg=-180, beta_deg=90)
