import numpy as np
import pytest

from carm_env.xray.detector import MAX_LOG_NOISE, add_quantum_noise


def flat(value, size=512):
    return np.full((size, size), value, np.float32)


@pytest.mark.parametrize(("depth", "photons", "factor"), [(0, 1e4, 1), (3, 1e6, 1.08), (6, 1e6, 1.0), (2, 1e3, 1.2)])
def test_the_variance_is_that_of_the_photons_left(depth, photons, factor):
    noise = add_quantum_noise(flat(depth), photons, seed=1, noise_factor=factor) - depth
    expected = factor * np.exp(depth) / photons
    assert noise.var() == pytest.approx(expected, rel=0.02)
    assert abs(noise.mean()) < 4 * np.sqrt(expected) / 512


def test_the_noise_is_white_and_nearly_normal():
    noise = add_quantum_noise(flat(0), 1e4, seed=3)
    noise /= noise.std()
    for shift, axis in ((1, 0), (1, 1), (2, 1)):
        assert abs((noise * np.roll(noise, shift, axis)).mean()) < 0.01
    assert abs((noise**3).mean()) < 0.02
    assert (noise**4).mean() == pytest.approx(2.7, abs=0.05)


def test_a_seed_repeats_and_neighbouring_seeds_have_nothing_in_common():
    image = flat(1)
    first = add_quantum_noise(image, 1e4, seed=7)
    np.testing.assert_array_equal(first, add_quantum_noise(image, 1e4, seed=7))
    other = add_quantum_noise(image, 1e4, seed=8)
    assert abs(np.corrcoef(first.ravel() - 1, other.ravel() - 1)[0, 1]) < 0.01


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**200])
def test_any_integer_is_a_seed(seed):
    assert np.isfinite(add_quantum_noise(flat(1, 16), 1e4, seed)).all()


def test_no_photons_stated_is_no_noise():
    image = flat(1, 16)
    result = add_quantum_noise(image, 0, seed=1)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_the_noise_stays_bounded_where_no_photon_arrives():
    noisy = add_quantum_noise(flat(50, 64), 10, seed=1)
    assert np.abs(noisy - 50).max() <= 4 * MAX_LOG_NOISE


@pytest.mark.parametrize("photons", [-1, float("nan"), float("inf")])
def test_impossible_photons_are_an_error(photons):
    with pytest.raises(ValueError, match="photons"):
        add_quantum_noise(flat(1, 16), photons, 0)
