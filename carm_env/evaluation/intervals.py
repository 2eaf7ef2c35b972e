"""Two-sided 95 % confidence intervals with episodes or views clustered by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
MIN_PATIENTS = 5
"""Fewest patients whose interval is shown: with fewer, their number says too little about other patients."""

_NO_SPREAD = 1e-24
"""Variances of rounding errors."""


class Estimate(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        value: the mean.
        low: lower bound.
        high: upper bound.
        views: number of values.
        patients: number of their patients.
    """

    value: float
    low: float
    high: float
    views: int
    patients: int


def estimate(values: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Returns the mean of values ``(n,)`` with its interval.

    Values that are all 0 or 1 are a proportion and get `proportion_interval`, others `mean_interval`.

    >>> estimate([0.5, 1.0, 0.5, 1.0], ["a", "a", "b", "b"])
    Estimate(value=0.75, low=0.75, high=0.75, views=4, patients=2)
    """
    array = np.asarray(values, dtype=float)
    interval = proportion_interval if np.isin(array, (0.0, 1.0)).all() else mean_interval
    low, high = interval(array, patients)
    return Estimate(float(array.mean()), low, high, len(array), len(set(patients)))


def proportion_interval(successes: ArrayLike, clusters: Sequence[str]) -> tuple[float, float]:
    """Returns the Wilson interval of a proportion for the effective sample size of clustered data.

    The sample size is divided by the design effect, which is the ratio of the between-cluster variance of the mean to
    the variance of independent samples (at least 1), and by ``(t(k - 1) / t(n - 1))^2``, because the design effect is
    estimated from only k clusters. With two patients the interval is therefore wide.

    Args:
        successes: ``(n,)`` values 0 or 1.
        clusters: cluster of each value.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24 (1998), with Wilson's interval.

    >>> low, high = proportion_interval([1] * 20, [str(i // 4) for i in range(20)])
    >>> round(low, 2), high
    (0.75, 1.0)
    """
    groups = _by_cluster(successes, clusters)
    values = np.concatenate(groups)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("successes must be 0 or 1.")
    n, k, p = len(values), len(groups), float(values.mean())
    size = float(n)
    if k > 1:
        size *= (_t(1, n) / _t(k, n)) ** 2
        if 0 < p < 1:
            size /= max(1.0, _clustered_variance(groups) / (p * (1 - p) / n))
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    centre = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(p * (1 - p) / size + z**2 / (4 * size**2))
    # At p = 0 and p = 1 the bound is exactly p; rounding must not exclude it.
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return float(low), float(high)


def mean_interval(values: ArrayLike, clusters: Sequence[str]) -> tuple[float, float]:
    """Returns Student's t interval of a mean, with the variance between clusters.

    With one cluster the variance is taken between its values. A single value gives two bounds equal to it.

    Args:
        values: ``(n,)``.
        clusters: cluster of each value.
    """
    groups = _by_cluster(values, clusters)
    pooled = np.concatenate(groups)
    if len(pooled) == 1:
        return float(pooled[0]), float(pooled[0])
    if len(groups) == 1:
        groups = [pooled[i : i + 1] for i in range(len(pooled))]
    half = _t(len(groups), len(pooled)) * np.sqrt(_clustered_variance(groups))
    return float(pooled.mean() - half), float(pooled.mean() + half)


def mean_p_value(values: ArrayLike, clusters: Sequence[str]) -> float | None:
    """Returns the two-sided p value of the hypothesis that a mean is 0: it is below 0.05 if `mean_interval` excludes 0.

    Args:
        values: ``(n,)``.
        clusters: cluster of each value.

    Returns:
        The p value; None for one cluster. If the clusters do not differ, 1 for a mean of 0 and 0 for any other.
    """
    groups = _by_cluster(values, clusters)
    if len(groups) < 2:
        return None
    mean, variance = float(np.concatenate(groups).mean()), _clustered_variance(groups)
    if variance <= _NO_SPREAD:
        return float(abs(mean) <= _NO_SPREAD)
    return float(2 * stats.t.sf(abs(mean) / np.sqrt(variance), len(groups) - 1))


def bootstrap_interval(
    values: ArrayLike, clusters: Sequence[str], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile interval of a mean from a hierarchical bootstrap: clusters, then values within each.

    A check of the other intervals (`benchmarks/interval_coverage.py`): with few clusters it is too narrow.

    Args:
        values: ``(n,)``.
        clusters: cluster of each value.
        resamples: number of resamples.
        seed: seed of the resampling.

    Source: Davison and Hinkley, "Bootstrap methods and their application" (1997), section 3.8.
    """
    groups = _by_cluster(values, clusters)
    rng = np.random.default_rng(seed)
    sums, sizes = np.zeros(resamples), np.zeros(resamples)
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    for number, group in enumerate(groups):
        rows = np.repeat(np.arange(resamples), (drawn == number).sum(1))
        picked = group[rng.integers(len(group), size=(len(rows), len(group)))].sum(1)
        sums += np.bincount(rows, picked, resamples)
        sizes += np.bincount(rows, minlength=resamples) * len(group)
    low, high = np.quantile(sums / sizes, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)


def _by_cluster(values: ArrayLike, clusters: Sequence[str]) -> list[NDArray[np.float64]]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) == 0 or len(array) != len(clusters):
        raise ValueError(
            f"got values of shape {array.shape} and {len(clusters)} clusters, expected (n,) values and n clusters, "
            "n at least 1."
        )
    names = np.asarray(clusters)
    return [array[names == name] for name in dict.fromkeys(clusters)]


def _t(clusters: int, values: int) -> float:
    """Quantile of Student's t, with k - 1 degrees of freedom for k clusters, or n - 1 for n values of one cluster."""
    freedom = (clusters if clusters > 1 else values) - 1
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) if freedom > 0 else float("inf")


def _clustered_variance(groups: Sequence[NDArray[np.float64]]) -> float:
    """Variance of the mean over all values, as the ratio of two sums over clusters."""
    pooled = np.concatenate(groups)
    excess = np.array([group.sum() - pooled.mean() * len(group) for group in groups])
    k = len(groups)
    return k / (k - 1) * float((excess**2).sum()) / len(pooled) ** 2
