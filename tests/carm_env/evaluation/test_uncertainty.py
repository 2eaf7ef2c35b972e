import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.evaluation import uncertainty


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_regions_match_a_rotated_and_stretched_circle(seed, n):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 50, (n, 14, 2))
    angle, sizes = rng.uniform(0, np.pi, (n, 14)), rng.uniform(1, 30, (n, 14, 2))
    axes = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(n, 14, 2, 2)
    covariances = axes @ (sizes[..., :, None] ** 2 * np.swapaxes(axes, -1, -2))
    true = centres + rng.normal(0, 25, (n, 14, 2))
    present = rng.random((n, 14)) < 0.8
    true[~present] = np.nan
    radii = rng.uniform(0.5, 3, (3, 14))
    inside = uncertainty.inside_regions(true, centres, covariances, radii)
    coverage = uncertainty.region_coverage(inside, present)
    for level in range(3):
        for landmark in range(14):
            hits = []
            for view in range(n):
                along = axes[view, landmark].T @ (true - centres)[view, landmark] / sizes[view, landmark]
                hit = bool(np.hypot(*along) <= radii[level, landmark])
                assert inside[level, view, landmark] == hit
                hits += [hit] if present[view, landmark] else []
            expected = np.mean(hits) if hits else np.nan
            np.testing.assert_allclose(coverage[level, landmark], expected)


def test_chi_square_radii_have_their_nominal_coverage():
    rng = np.random.default_rng(0)
    covariance = np.array([[400.0, 150.0], [150.0, 100.0]])
    true = rng.multivariate_normal([5, -3], covariance, size=(4000, 14))
    inside = uncertainty.inside_regions(
        true, np.full((4000, 14, 2), [5.0, -3.0]), np.broadcast_to(covariance, (4000, 14, 2, 2)), [[1.1774], [2.1460]]
    )
    assert (inside[0] <= inside[1]).all()
    coverage = uncertainty.region_coverage(inside, np.ones((4000, 14), bool))
    np.testing.assert_allclose(coverage.mean(axis=1), [0.5, 0.9], atol=0.01)


def test_coverage_estimates_exclude_absent_landmarks():
    inside = np.array([[[True, False, False], [False, True, False]]])
    present = np.array([[True, True, False], [True, True, False]])
    (level,) = uncertainty.coverage_estimates(inside, present, ["a", "b"])
    assert set(level) == {1, 2} and level[1].value == 0.5 and level[1].views == 2
    assert level[1].low <= 0.5 <= level[1].high
    np.testing.assert_array_equal(uncertainty.region_coverage(inside, present), [[0.5, 0.5, np.nan]])


def losses_by_uncertainty(numbers):
    return st.lists(st.tuples(st.integers(0, 4), numbers), min_size=1, max_size=12)


@given(losses_by_uncertainty(st.floats(0, 100)), st.randoms())
def test_the_risk_is_the_mean_loss_over_all_orders_of_ties(pairs, random):
    unsure, losses = zip(*pairs, strict=True)
    coverage, risk = uncertainty.risk_coverage(unsure, losses)
    np.testing.assert_allclose(coverage, np.arange(1, len(pairs) + 1) / len(pairs))
    for count in range(1, len(pairs) + 1):
        last = sorted(unsure)[count - 1]
        surer = [loss for u, loss in pairs if u < last]
        equal = [loss for u, loss in pairs if u == last]
        expected = (sum(surer) + (count - len(surer)) * np.mean(equal)) / count
        np.testing.assert_allclose(risk[count - 1], expected, atol=1e-9)
    assert uncertainty.area_under_risk_coverage(unsure, losses) == pytest.approx(risk.mean())
    shuffled = random.sample(pairs, len(pairs))
    np.testing.assert_allclose(uncertainty.risk_coverage(*zip(*shuffled, strict=True))[1], risk, atol=1e-9)


@given(losses_by_uncertainty(st.integers(0, 1)), st.floats(0.01, 1), st.randoms())
def test_risk_and_area_estimates_do_not_depend_on_the_order(pairs, coverage, random):
    rows = [(*pair, random.choice("abc")) for pair in pairs]
    unsure, losses, patients = zip(*rows, strict=True)
    kept = uncertainty.risk_estimate(unsure, losses, patients, coverage)
    enough = [u for u in sorted(unsure) if sum(v <= u for v in unsure) >= coverage * len(rows) - 1e-6][0]
    expected = [loss for u, loss in pairs if u <= enough]
    assert kept.value == pytest.approx(np.mean(expected)) and kept.views == len(expected)
    area = uncertainty.area_estimate(unsure, losses, patients)
    assert area.value == pytest.approx(uncertainty.area_under_risk_coverage(unsure, losses))
    assert area.low - 1e-9 <= area.value <= area.high + 1e-9
    assert (area.low + area.high) / 2 == pytest.approx(area.value, abs=1e-9)
    shuffled = random.sample(rows, len(rows))
    assert uncertainty.area_estimate(*zip(*shuffled, strict=True)) == pytest.approx(area)


def test_the_interval_of_the_area_has_its_nominal_coverage():
    """Errors grow with uncertainty: mean error u for u uniform in 0..1, so the area is the mean of u/2, 0.25."""
    rng = np.random.default_rng(0)
    patients = [str(i // 20) for i in range(300)]
    hits = 0
    for _ in range(400):
        unsure = rng.random(300)
        errors = unsure * rng.exponential(size=300)
        low, high = uncertainty.area_estimate(unsure, errors, patients)[1:3]
        hits += low <= 0.25 <= high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("unsure", "losses"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_invalid_losses_are_refused(unsure, losses):
    with pytest.raises(ValueError, match="expected|must not be NaN"):
        uncertainty.risk_coverage(unsure, losses)


@pytest.mark.parametrize("coverage", [0.0, 1.01])
def test_a_coverage_outside_0_to_1_is_refused(coverage):
    with pytest.raises(ValueError, match="more than 0 and at most 1"):
        uncertainty.risk_estimate([0.1], [1.0], ["a"], coverage)


def test_a_better_order_lowers_the_area():
    unsure = np.arange(20.0)
    losses = (unsure > 14).astype(float)
    good, bad = (uncertainty.area_under_risk_coverage(sign * unsure, losses) for sign in (1, -1))
    assert good < 0.1 < losses.mean() < bad


def test_the_curve_is_saved(tmp_path):
    pytest.importorskip("matplotlib")
    uncertainty.save_risk_coverage(tmp_path / "c.png", [0.5, 1.0], [1.0, 2.0], "coverage", "risk")
    assert (tmp_path / "c.png").stat().st_size > 5_000


@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), st.floats(0, 1)), st.booleans()), min_size=1
    ),
    st.integers(1, 12),
)
def test_the_calibration_error_matches_a_plain_count(answers, bins):
    confidence, correct = zip(*answers, strict=True)
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        own = [(c, r) for c, r in answers if (low < c <= high) or (number == 0 and c == 0)]
        if own:
            error += len(own) * abs(np.mean([c for c, _ in own]) - np.mean([r for _, r in own]))
    assert uncertainty.expected_calibration_error(confidence, correct, bins) == pytest.approx(error / len(answers))
    counts = uncertainty.reliability_curve(confidence, correct, bins)[2]
    assert counts.sum() == len(answers) and len(counts) == bins


def test_a_bin_is_closed_on_the_right_and_may_be_empty():
    confidence, accuracy, counts = uncertainty.reliability_curve([0.1, 0.1000001, 1.0], [1, 0, 1])
    assert counts.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert np.isnan(confidence[2]) and accuracy[0] == 1 and accuracy[1] == 0


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [([], [], "n at least 1"), ([0.5], [1, 0], "expected .n,. for both"), ([1.1], [1], "not from 0 to 1"),
     ([float("nan")], [1], "not from 0 to 1"), ([0.5], [2], "must be 0 or 1")],
)  # fmt: skip
def test_wrong_confidences_are_refused(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        uncertainty.reliability_curve(confidence, correct)
