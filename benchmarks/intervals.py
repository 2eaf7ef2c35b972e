"""Confidence intervals that respect that episodes of one patient are alike.

Two-sided, 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


def _by_cluster(values: ArrayLike, clusters: Sequence[str]) -> list[NDArray[np.float64]]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) == 0 or len(array) != len(clusters):
        raise ValueError(
            f"got {array.shape} values and {len(clusters)} clusters, expected as many of both and at least one."
        )
    names = np.asarray(clusters)
    return [array[names == name] for name in dict.fromkeys(clusters)]


def proportion_interval(successes: ArrayLike, clusters: Sequence[str]) -> tuple[float, float]:
    """Wilson interval of a proportion, with the sample size divided by the design effect of the clusters.

    The design effect is the ratio of the between-cluster variance of the mean to that of independent
    episodes, at least 1; it is 1 for a single cluster, or where all episodes agree.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24 (1998), with Wilson's interval.

    >>> low, high = proportion_interval([1] * 20, ["a"] * 10 + ["b"] * 10)
    >>> round(low, 2), high
    (0.84, 1.0)
    """
    groups = _by_cluster(successes, clusters)
    values = np.concatenate(groups)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("successes must be 0 or 1.")
    n, p = len(values), float(values.mean())
    effect = 1.0
    if len(groups) > 1 and 0 < p < 1:
        # Variance of the ratio estimator over clusters, against that of n independent draws.
        excess = np.array([group.sum() - p * len(group) for group in groups])
        k = len(groups)
        clustered = k / (k - 1) * float((excess**2).sum()) / n**2
        effect = max(1.0, clustered / (p * (1 - p) / n))
    size = n / effect
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    centre = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(p * (1 - p) / size + z**2 / (4 * size**2))
    # At p = 0 or 1 the bound is exact; rounding must not leave it a hair outside.
    low = 0.0 if p == 0 else max(0.0, centre - half)
    high = 1.0 if p == 1 else min(1.0, centre + half)
    return float(low), float(high)


def mean_interval(values: ArrayLike, clusters: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean: patients are drawn with replacement, then episodes within each."""
    groups = _by_cluster(values, clusters)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = [groups[k] for k in rng.integers(len(groups), size=len(groups))]
        means[i] = np.concatenate([group[rng.integers(len(group), size=len(group))] for group in drawn]).mean()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
