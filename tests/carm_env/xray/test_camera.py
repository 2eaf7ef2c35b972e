import dataclasses
import threading

import numpy as np
import pytest

from carm_env.geometry import CArmGeometry, CArmPlace
from carm_env.volume import Volume
from carm_env.xray import XRayCamera, XRaySettings
from carm_env.xray.reference import MarchProjector


@pytest.fixture(scope="module")
def camera(phantom):
    return XRayCamera(phantom)


@pytest.fixture
def place(centre):
    return CArmPlace(tuple(centre))


@pytest.mark.parametrize("size", [16, 17, 256])
def test_a_picture_is_square_and_uses_the_greys(camera, place, size):
    picture = camera.image(place, size)
    assert picture.shape == (size, size)
    assert picture.dtype == np.uint8
    assert picture.min() == 0
    assert picture.max() == 255


@pytest.mark.parametrize("size", [15, 2049, 0, -4, 63.5, "many", None])
def test_other_sizes_are_errors(camera, place, size):
    with pytest.raises(ValueError, match="image size"):
        camera.image(place, size)


def test_air_is_black_and_bone_is_white(camera, place):
    # The phantom fills the middle: open field beside it, lung on its right, spine in the middle.
    picture = camera.image(place, 128).astype(int)
    air, lung, soft, spine = picture[64, :3], picture[64, 34:42], picture[64, 84:92], picture[64, 60:67]
    assert air.max() < 5
    assert air.max() < lung.mean() < soft.mean() < spine.mean()
    assert 60 < soft.mean() < 220


def test_every_picture_is_a_fresh_array(camera, place):
    first, second = camera.image(place, 64), camera.image(place, 64)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, second)
    first[:] = 7
    np.testing.assert_array_equal(camera.image(place, 64), second)


def test_noise_repeats_with_its_seed(camera, place):
    clean = camera.image(place, 128)
    noisy = camera.image(place, 128, noise_seed=5)
    np.testing.assert_array_equal(noisy, camera.image(place, 128, noise_seed=5))
    assert (noisy != camera.image(place, 128, noise_seed=6)).any()
    # Faint: a few greys at most on the average.
    assert 0 < np.abs(noisy.astype(int) - clean).mean() < 3


def test_without_photons_a_seed_changes_nothing(phantom, place):
    camera = XRayCamera(phantom, settings=XRaySettings(photons=0))
    np.testing.assert_array_equal(camera.image(place, 64, noise_seed=1), camera.image(place, 64))


def test_an_empty_view_is_black(camera, centre):
    away = CArmPlace(tuple(centre + [2000, 0, 0]))
    assert not camera.image(away, 64).any()
    assert camera.image(away, 64, noise_seed=3).max() < 30


def test_any_projector_of_soft_tissue_and_bone_will_do(phantom, camera, place):
    slow = XRayCamera(phantom, projector=MarchProjector(phantom, step_mm=0.5))
    difference = slow.image(place, 48).astype(int) - camera.image(place, 48)
    assert np.abs(difference).max() <= 4


def test_a_projector_of_other_materials_is_an_error(phantom):
    class Other:
        materials = ("wood",)

        def path_masses(self, geometry):
            return np.zeros((1, geometry.height, geometry.width), np.float32)

    with pytest.raises(ValueError, match="wood"):
        XRayCamera(phantom, projector=Other())


def test_the_picture_is_larger_when_the_detector_is_farther(phantom, place):
    near = XRayCamera(phantom, CArmGeometry(source_detector_mm=900)).log_image(place, 64)
    far = XRayCamera(phantom, CArmGeometry(source_detector_mm=1200)).log_image(place, 64)
    assert (near > 0.05).sum() < (far > 0.05).sum()


@pytest.mark.parametrize(
    "values",
    [
        {"kvp": 5},
        {"kvp": "90"},
        {"photons": -1},
        {"photons": float("inf")},
        {"gamma": -1},
        {"dark_percent": 100},
        {"aluminium_mm": None},
        {"min_range": True},
    ],
)
def test_impossible_settings_are_errors(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        XRaySettings(**values)


def test_settings_are_frozen_and_know_no_other_keys():
    with pytest.raises(TypeError):
        XRaySettings(kilovolts=90)
    with pytest.raises(dataclasses.FrozenInstanceError):
        XRaySettings().kvp = 70


def test_threads_share_a_camera(phantom, camera, centre):
    places = [CArmPlace(tuple(centre + [dx, 0, 0]), alpha) for dx in (-20, 0, 20) for alpha in (0, 30)]
    expected = [camera.image(place, 96, noise_seed=1) for place in places]
    shared = XRayCamera(phantom)
    results = {}

    def work(numbers):
        for number in numbers:
            results[number] = shared.image(places[number], 96, noise_seed=1)

    threads = [threading.Thread(target=work, args=(range(start, len(places), 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, picture in results.items():
        np.testing.assert_array_equal(picture, expected[number])
    assert len(results) == len(places)


def test_a_volume_of_air_gives_a_black_picture(place):
    volume = Volume.from_origin(np.full((4, 4, 4), -1000, np.int16), 2.0, place.isocenter_lps_mm)
    assert not XRayCamera(volume).image(place, 32).any()
