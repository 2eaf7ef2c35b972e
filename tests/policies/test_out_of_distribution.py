"""The out-of-distribution score: distances, p-values, and the detector that ships."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.checkpoint import SHIPPED, CheckpointError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from policies.out_of_distribution import (  # noqa: E402
    KIND,
    Backbone,
    FeatureDistribution,
    OutOfDistributionDetector,
    p_values,
)


def test_the_distance_is_that_of_mahalanobis():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    features = rng.normal(size=(20_000, 3)) @ mixing + 5
    fitted = FeatureDistribution.fit(features)
    assert fitted.shrinkage < 0.01
    difference = features[:50] - features.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", difference, np.linalg.inv(np.cov(features.T)), difference))
    assert fitted.distance(features[:50]) == pytest.approx(expected, rel=0.02, abs=0.05)


def test_few_views_are_shrunk_and_a_constant_feature_does_no_harm():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(30, 60)), np.ones((30, 1))], 1)
    fitted = FeatureDistribution.fit(features)
    assert 0.5 < fitted.shrinkage <= 1
    assert np.isfinite(fitted.distance(features)).all()
    with pytest.raises(ValueError, match="1 rows, expected at least 2"):
        FeatureDistribution.fit(features[:1])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 100))
def test_p_values_are_ranks(calibration, score):
    found = p_values([score], calibration)[0]
    assert found == (1 + sum(value >= score for value in calibration)) / (1 + len(calibration))


def test_p_values_of_equal_views_are_at_most_as_often_low_as_promised():
    rng = np.random.default_rng(0)
    rates = [(p_values(rng.normal(size=200), rng.normal(size=99)) <= 0.05).mean() for _ in range(200)]
    assert 0.035 < np.mean(rates) < 0.06


@pytest.fixture(scope="module")
def detector():
    return OutOfDistributionDetector()


def test_the_detector_that_ships_fits_the_networks_that_ship(detector):
    assert sum(file.stat().st_size for file in (SHIPPED / KIND).iterdir()) < 700_000
    assert detector.threshold(0.05) < detector.threshold(0.01)


def test_the_threshold_has_the_largest_p_value_that_is_allowed(detector):
    for rate in (0.05, 0.01, 0.3):
        threshold = detector.threshold(rate)
        assert detector.p_value([threshold])[0] <= rate < detector.p_value([threshold - 0.1])[0] + 0.01
        assert detector.p_value([np.nextafter(threshold, 0)])[0] > rate
    for rate in (0.0, 1.0, 1e-6):
        with pytest.raises(ValueError, match=r"false_alarm_rate is .*, expected"):
            detector.threshold(rate)


def test_noise_and_blank_images_are_far_away(detector):
    rng = np.random.default_rng(0)
    images = np.stack([rng.integers(0, 256, (64, 64), np.uint8), np.full((64, 64), 90, np.uint8)])
    assert (detector.p_value(detector.score(images)) <= 0.001).all()
    assert detector.score(images[..., None]) == pytest.approx(detector.score(images))


def test_another_backbone_is_refused(tmp_path, detector):
    from policies.checkpoint import load_checkpoint, save_checkpoint
    from policies.conformal import KIND as CONFORMAL

    config, tensors = load_checkpoint(SHIPPED / CONFORMAL, CONFORMAL)
    name = next(name for name in tensors if name.startswith("0."))
    save_checkpoint(tmp_path / "other", config, {**tensors, name: tensors[name] + 1}, "#")
    assert Backbone(tmp_path / "other").fingerprint != Backbone().fingerprint
    with pytest.raises(CheckpointError, match=r"fitted to another network.*training/out_of_distribution\.py"):
        OutOfDistributionDetector(backbone=tmp_path / "other")


def test_missing_tensors_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(SHIPPED / KIND, tmp_path / KIND)
    tensors = load_file(tmp_path / KIND / "model.safetensors")
    save_file({**tensors, "std": tensors["std"][:5].clone()}, tmp_path / KIND / "model.safetensors")
    with pytest.raises(CheckpointError, match="576 features need"):
        OutOfDistributionDetector(tmp_path / KIND)
    del tensors["whitening"]
    save_file(tensors, tmp_path / KIND / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no whitening"):
        OutOfDistributionDetector(tmp_path / KIND)
