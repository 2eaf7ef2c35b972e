"""X-ray systems: images and labels under rotation, crop, shutters, polarity and density curve."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carm_env.geometry import CArmPose, ProjectionGeometry
from carm_env.landmarks import landmark
from carm_env.randomization.chain import ChainCamera, ImageChain
from carm_env.randomization.draw import draw_domain
from carm_env.system.errors import UnknownNameError
from carm_env.views.sample import label_camera_view, label_view
from carm_env.xray.camera import XRayCamera
from carm_env.xray.settings import XRaySettings

SIZE = 128
POSE = CArmPose((5.0, 60.0, 230.0))


@pytest.fixture(scope="module")
def camera(phantom):
    return XRayCamera(phantom.volume)


def seen_at(image, pixel, reach=14):
    """Centroid of what is brighter than its surroundings near a pixel."""
    u, v = np.rint(pixel).astype(int)
    part = image[v - reach : v + reach + 1, u - reach : u + reach + 1].astype(float)
    weight = np.maximum(part - np.percentile(part, 60), 0)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.array([u + (weight * x).sum() / weight.sum(), v + (weight * y).sum() / weight.sum()])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotation=st.floats(-20, 20), crop=st.floats(0.7, 1.0))
def test_labels_stay_on_the_anatomy_under_rotation_and_crop(camera, phantom, rotation, crop):
    turned = ChainCamera(camera, ImageChain(rotation_deg=rotation, crop=crop))
    image = turned.log_image(POSE, SIZE)
    labels = label_camera_view(phantom, turned, POSE, SIZE)
    for name in ("T1", "Carina"):
        pixel = labels.pixels[landmark(name).index]
        if (np.abs(pixel - SIZE / 2) < SIZE / 2 - 16).all():
            assert np.abs(seen_at(image, pixel) - pixel).max() < 1.0
    plain = label_camera_view(phantom, camera, POSE, SIZE)
    np.testing.assert_array_equal(labels.displacement_mm, plain.displacement_mm)
    assert labels.closest_landmarks == plain.closest_landmarks
    # An oracle of its own: rotate and magnify the plain pixels about the middle of the image.
    middle, angle = (SIZE - 1) / 2, np.deg2rad(rotation)
    u, v = (plain.pixels - middle).T / crop
    expected = np.stack([u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)], 1) + middle
    np.testing.assert_allclose(labels.pixels, expected, atol=1e-6)


@given(st.integers(0, 10_000))
def test_nothing_is_mirrored_and_the_middle_stays(seed):
    plain = ProjectionGeometry.from_pose(POSE, XRayCamera.__init__.__defaults__[0], SIZE)
    turned = draw_domain(seed).chain.project(plain)
    np.testing.assert_allclose(turned.project(POSE.isocenter_lps_mm), [(SIZE - 1) / 2] * 2, atol=1e-9)
    normal = np.cross(plain.column_step_lps_mm, plain.row_step_lps_mm)
    assert normal @ np.cross(turned.column_step_lps_mm, turned.row_step_lps_mm) > 0


def test_a_rotation_is_clockwise(camera):
    right = np.array([40.0, 60.0, 230.0])
    plain = camera.projection(POSE, SIZE).project(right)
    turned = ChainCamera(camera, ImageChain(rotation_deg=10)).projection(POSE, SIZE).project(right)
    assert turned[1] > plain[1] and turned[0] < plain[0]


@pytest.mark.parametrize("noise_seed", [None, 3])
def test_the_default_chain_changes_no_byte(camera, noise_seed):
    same = ChainCamera(camera, ImageChain()).image(POSE, SIZE, noise_seed)
    np.testing.assert_array_equal(same, camera.image(POSE, SIZE, noise_seed))


def test_images_are_reproducible_and_the_given_camera_stays(camera):
    before = camera.image(POSE, SIZE, 1)
    for seed in range(6):
        chain = draw_domain(seed).chain
        first, second = (ChainCamera(camera, chain).image(POSE, SIZE, 1) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.shape == before.shape and first.dtype == np.uint8 and (first != before).any()
    np.testing.assert_array_equal(camera.image(POSE, SIZE, 1), before)


@pytest.mark.parametrize("grey", [0, 90])
def test_shutters_cover_image_and_landmarks(camera, phantom, grey):
    closed = ChainCamera(camera, ImageChain(shutters=(0.1, 0.25, 0.2, 0.05), border_grey=grey))
    image = closed.image(POSE, 100)
    inside = np.zeros((100, 100), bool)
    inside[20:95, 10:75] = True
    assert (image[~inside] == grey).all() and len(np.unique(image[inside])) > 30
    labels, plain = (label_camera_view(phantom, one, POSE, 100) for one in (closed, camera))
    for index in np.flatnonzero(plain.visible):
        u, v = np.rint(plain.pixels[index]).astype(int)
        assert labels.visible[index] == inside[v, u]
    assert not labels.visible[~plain.visible].any()
    assert plain.visible.sum() > labels.visible.sum() > 0


def test_labels_of_a_plain_camera_are_those_of_label_view(camera, phantom):
    ours = label_camera_view(phantom, camera, POSE, SIZE)
    theirs = label_view(phantom, POSE, ProjectionGeometry.from_pose(POSE, camera.geometry, SIZE))
    for name in ("displacement_mm", "pixels", "visible"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_an_inverted_image_is_the_negative(camera):
    inverted = ChainCamera(camera, ImageChain(inverted=True))
    np.testing.assert_array_equal(inverted.image(POSE, SIZE), 255 - camera.image(POSE, SIZE))
    dark = camera.with_settings(XRaySettings(polarity="bone_dark"))
    np.testing.assert_array_equal(ChainCamera(dark, ImageChain(inverted=True)).image(POSE, SIZE),
                                  camera.image(POSE, SIZE))  # fmt: skip


@pytest.mark.parametrize("curve", [-0.5, 0.4, 1.0])
def test_a_density_curve_keeps_black_white_and_order(curve):
    levels = ImageChain(curve=curve).grey_levels.astype(int)
    assert levels[0] == 0 and levels[255] == 255 and (np.diff(levels) >= 0).all()
    assert (levels[64] < 64) == (curve > 0)


def test_the_exposure_of_a_camera_that_controls_it_stays(camera):
    controlled = camera.with_settings(XRaySettings(exposure_control=True))
    chain = ImageChain(xray={"mas": 2.0, "gamma": 0.6})
    assert ChainCamera(controlled, chain).settings.exposure_control
    assert ChainCamera(camera, chain).settings.mas == 2.0
    assert ChainCamera(camera, chain).with_settings(XRaySettings(kvp=70.0)).settings.gamma == 0.6


def test_chains_survive_json_and_pickling():
    for seed in range(10):
        chain = draw_domain(seed).chain
        assert ImageChain.from_json(chain.to_json()) == pickle.loads(pickle.dumps(chain)) == chain


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0.1}, "crop is 0.1, expected 0.5 to 1"),
        ({"rotation_deg": 90}, "rotation_deg is 90"),
        ({"shutters": (0.5, 0, 0, 0)}, "shutters are"),
        ({"shutters": (0.1, 0.1)}, "shutters are"),
        ({"border_grey": 256}, "border_grey is 256"),
        ({"curve": 2}, "curve is 2"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ImageChain(**values)


def test_unknown_settings_are_refused():
    with pytest.raises(UnknownNameError, match="gamma"):
        ImageChain(xray={"gama": 1.0})
    with pytest.raises(UnknownNameError, match="crop"):
        ImageChain.from_json({"crops": 1.0})
