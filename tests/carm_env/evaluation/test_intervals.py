import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from carm_env.evaluation.intervals import bootstrap_interval, mean_interval, proportion_interval

answers = st.lists(st.integers(0, 1), min_size=1, max_size=60)


@given(answers)
def test_one_cluster_gives_wilsons_interval(values):
    low, high = proportion_interval(values, ["a"] * len(values))
    expected = stats.binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(answers, st.data())
def test_the_interval_contains_the_proportion_and_stays_within_0_and_1(values, data):
    clusters = data.draw(st.lists(st.sampled_from("abc"), min_size=len(values), max_size=len(values)))
    low, high = proportion_interval(values, clusters)
    assert 0 <= low <= np.mean(values) <= high <= 1


def test_variation_between_patients_widens_the_interval():
    values = [1] * 40 + [0] * 40
    clustered = proportion_interval(values, [str(i // 10) for i in range(80)])
    mixed = proportion_interval(values, [str(i % 8) for i in range(80)])
    assert clustered[1] - clustered[0] > 1.5 * (mixed[1] - mixed[0])


@pytest.mark.parametrize(("patients", "episodes"), [(5, 4), (5, 20), (12, 10)])
def test_the_intervals_have_their_nominal_coverage(patients, episodes):
    rng = np.random.default_rng(0)
    clusters = [str(k) for k in range(patients) for _ in range(episodes)]
    hits = np.zeros(2)
    for _ in range(600):
        rates = np.clip(rng.normal(0.6, 0.15, size=patients), 0, 1)
        values = np.concatenate([rng.random(episodes) < rate for rate in rates]).astype(float)
        for i, interval in enumerate((proportion_interval, mean_interval)):
            low, high = interval(values, clusters)
            hits[i] += low <= 0.6 <= high
    assert (hits / 600 >= 0.93).all()


def test_two_patients_give_a_wide_interval():
    low, high = proportion_interval([1] * 20, ["a"] * 10 + ["b"] * 10)
    assert low < 0.3 and high == 1


def test_mean_intervals_contain_the_mean_and_widen_with_clusters():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(mean, 1, size=20) for mean in (0, 10, 20)])
    low, high = mean_interval(values, [c for c in "abc" for _ in range(20)])
    assert low < values.mean() < high
    alone = mean_interval(values, [str(i) for i in range(60)])
    assert high - low > 1.5 * (alone[1] - alone[0])
    assert mean_interval([3.0], ["a"]) == (3.0, 3.0)


def test_the_mean_interval_of_one_cluster_is_students():
    values = [1.0, 2.0, 4.0, 9.0]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values, ["a"] * 4) == pytest.approx(expected)


def test_empty_or_unequal_input_is_refused():
    for function in (proportion_interval, mean_interval):
        with pytest.raises(ValueError, match="n at least 1"):
            function([], [])
        with pytest.raises(ValueError, match="n clusters"):
            function([1, 0], ["a"])
    with pytest.raises(ValueError, match="0 or 1"):
        proportion_interval([0.5], ["a"])


def test_the_bootstrap_resamples_patients_and_their_values():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, 200)
    single = [str(number) for number in range(200)]
    low, high = bootstrap_interval(values, single, resamples=4000)
    expected = mean_interval(values, single)
    np.testing.assert_allclose([low, high], expected, atol=0.06)
    # Values that are alike within a patient: as wide as the patients' means say.
    means = rng.normal(0.0, 1.0, 40)
    names = np.repeat([str(number) for number in range(40)], 5).tolist()
    found = bootstrap_interval(np.repeat(means, 5), names, resamples=4000)
    np.testing.assert_allclose(found, mean_interval(means, [str(number) for number in range(40)]), atol=0.1)
    assert bootstrap_interval(values, single, 50, seed=1) == bootstrap_interval(values, single, 50, seed=1)
    assert bootstrap_interval(values, single, 50, seed=1) != bootstrap_interval(values, single, 50, seed=2)
