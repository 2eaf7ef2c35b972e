import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.intervals import mean_interval, proportion_interval

answers = st.lists(st.integers(0, 1), min_size=1, max_size=60)


@given(answers)
def test_one_cluster_gives_wilsons_interval(values):
    low, high = proportion_interval(values, ["a"] * len(values))
    expected = stats.binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(answers, st.data())
def test_the_interval_holds_the_proportion_and_stays_in_0_1(values, data):
    clusters = data.draw(st.lists(st.sampled_from("abc"), min_size=len(values), max_size=len(values)))
    low, high = proportion_interval(values, clusters)
    assert 0 <= low <= np.mean(values) <= high <= 1


def test_patients_that_disagree_widen_the_interval():
    values = [1] * 20 + [0] * 20
    clustered = proportion_interval(values, ["a"] * 20 + ["b"] * 20)
    mixed = proportion_interval(values, ["a", "b"] * 20)
    assert clustered[1] - clustered[0] > 1.5 * (mixed[1] - mixed[0])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        rates = np.clip(rng.normal(0.6, 0.15, size=12), 0, 1)
        values = np.concatenate([rng.random(10) < rate for rate in rates]).astype(float)
        low, high = proportion_interval(values, [str(k) for k in range(12) for _ in range(10)])
        hits += low <= 0.6 <= high
    assert 0.90 <= hits / 400 <= 0.99


def test_mean_intervals_are_seeded_hold_the_mean_and_widen_with_clusters():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(mean, 1, size=20) for mean in (0, 10, 20)])
    clusters = [c for c in "abc" for _ in range(20)]
    low, high = mean_interval(values, clusters)
    assert (low, high) == mean_interval(values, clusters)
    assert low < values.mean() < high
    alone = mean_interval(values, [str(i) for i in range(60)])
    assert high - low > 1.5 * (alone[1] - alone[0])


def test_empty_or_uneven_input_is_refused():
    for function in (proportion_interval, mean_interval):
        with pytest.raises(ValueError, match="at least one"):
            function([], [])
        with pytest.raises(ValueError, match="as many of both"):
            function([1, 0], ["a"])
    with pytest.raises(ValueError, match="0 or 1"):
        proportion_interval([0.5], ["a"])
