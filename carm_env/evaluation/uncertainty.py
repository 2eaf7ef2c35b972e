"""Metrics of uncertainty: coverage of conformal regions, and risk-coverage curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from carm_env.evaluation.intervals import Estimate, estimate, mean_interval
from carm_env.evaluation.metrics import Flags, Floats, Ids, estimates_by_landmark
from carm_env.evaluation.plots import new_figure, save_figure

ECE_BINS = 10


def inside_regions(
    displacements_mm: ArrayLike, centres_mm: ArrayLike, covariances_mm2: ArrayLike, radii: ArrayLike
) -> Flags:
    """Returns whether true displacements are inside elliptical regions, including the boundary.

    A region holds every d with ``(d - centre)' covariance^-1 (d - centre) <= radius^2``.

    Args:
        displacements_mm: true displacements ``(n, L, 2)`` from the view's centre to L landmarks. A landmark that the
            patient lacks is NaN, which is inside no region; `region_coverage` excludes it.
        centres_mm: predicted displacements ``(n, L, 2)``.
        covariances_mm2: shapes of the ellipses ``(n, L, 2, 2)``, positive definite.
        radii: radii in standard deviations, ``(levels, L)``, or ``(levels, 1)`` for one radius for all landmarks, from
            chi-square quantiles or conformal calibration.

    Returns:
        Flags ``(levels, n, L)``.

    Source: regions as in Arrabi et al., "Automated C-arm positioning via conformal landmark localization",
    ICCV workshops 2025, the paper's reference [5].
    """
    error = np.asarray(displacements_mm, dtype=float) - np.asarray(centres_mm, dtype=float)
    scaled = np.linalg.solve(np.asarray(covariances_mm2, dtype=float), error[..., None])[..., 0]
    return (error * scaled).sum(axis=-1) <= np.asarray(radii, dtype=float)[:, None, :] ** 2


def region_coverage(inside: ArrayLike, present: ArrayLike) -> Floats:
    """Returns the share of true displacements inside their regions, per level and landmark ``(levels, L)``.

    Args:
        inside: flags ``(levels, n, L)`` from `inside_regions`.
        present: flags ``(n, L)``: the view's patient has the landmark. A landmark of no patient gives NaN.
    """
    flags, there = np.asarray(inside, dtype=bool), np.asarray(present, dtype=bool)
    views = there.sum(axis=0)
    return np.where(views > 0, (flags & there).sum(axis=1) / np.maximum(views, 1), np.nan)


def coverage_estimates(inside: ArrayLike, present: ArrayLike, patients: Sequence[str]) -> list[dict[int, Estimate]]:
    """Returns `region_coverage` with intervals: for each level, by landmark id (column + 1)."""
    flags, there = np.asarray(inside, dtype=bool), np.asarray(present, dtype=bool)
    views, columns = np.nonzero(there)
    names = np.asarray(patients)[views].tolist()
    return [estimates_by_landmark(level[views, columns], columns + 1, names) for level in flags]


def reliability_curve(confidence: ArrayLike, correct: ArrayLike, bins: int = ECE_BINS) -> tuple[Floats, Floats, Ids]:
    """Returns mean confidence and accuracy in bins of equal width, closed on the right; the first also holds 0.

    Args:
        confidence: ``(n,)`` probability of each answer, 0 to 1.
        correct: ``(n,)`` 1 or True for a correct answer.
        bins: number of bins.

    Returns:
        Mean confidence ``(bins,)`` and accuracy ``(bins,)``, NaN for an empty bin, and the number of answers
        ``(bins,)``.

    >>> reliability_curve([0.9, 1.0, 0.2], [1, 0, 0], bins=2)
    (array([0.2 , 0.95]), array([0. , 0.5]), array([1, 2]))
    """
    probability, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if probability.ndim != 1 or probability.shape != right.shape or len(probability) == 0:
        raise ValueError(f"got shapes {probability.shape} and {right.shape}, expected (n,) for both, n at least 1.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("confidence has values that are not from 0 to 1.")
    if not np.isin(right, (0.0, 1.0)).all():
        raise ValueError("correct must be 0 or 1.")
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1.")
    edges = np.arange(1, bins) / bins
    at = np.searchsorted(edges, probability, side="left")
    counts = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = (np.bincount(at, weights, bins) / counts for weights in (probability, right))
        mean_confidence, accuracy = means
    return mean_confidence, accuracy, counts


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = ECE_BINS) -> float:
    """Returns ECE: the mean distance of accuracy from confidence over the bins of `reliability_curve`, by their size.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.

    >>> round(expected_calibration_error([0.9, 1.0, 0.2], [1, 0, 0], bins=2), 3)
    0.367
    """
    mean_confidence, accuracy, counts = reliability_curve(confidence, correct, bins)
    filled = counts > 0
    return float((np.abs(mean_confidence - accuracy)[filled] * counts[filled]).sum() / counts.sum())


def risk_coverage(uncertainty: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    """Returns the risk-coverage curve: the mean loss of the most certain share of the views.

    Views of equal uncertainty have no order: each counts with their mean loss.

    Args:
        uncertainty: ``(n,)``, larger is less certain.
        losses: ``(n,)``, errors in mm, or 1 for a wrong answer and 0 for a correct one.

    Returns:
        Coverage ``1/n, 2/n, ..., 1`` and the risk at each, both ``(n,)``.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 11 (2010).

    >>> risk_coverage([0.1, 0.9, 0.4, 0.4], [0.0, 1.0, 0.0, 1.0])
    (array([0.25, 0.5 , 0.75, 1.  ]), array([0.        , 0.25      , 0.33333333, 0.5       ]))
    """
    order, ties, ordered = _by_certainty(uncertainty, losses)
    ranks = np.arange(1, len(order) + 1)
    return ranks / len(order), np.cumsum(_mean_of_ties(ordered, ties)) / ranks


def area_under_risk_coverage(uncertainty: ArrayLike, losses: ArrayLike) -> float:
    """Returns AURC, the mean of the risk over all coverages ``1/n`` to 1; lower is better.

    Source: Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers",
    ICLR 2019.
    """
    return float(risk_coverage(uncertainty, losses)[1].mean())


def risk_estimate(uncertainty: ArrayLike, losses: ArrayLike, patients: Sequence[str], coverage: float) -> Estimate:
    """Returns the risk of the most certain share of the views, with its interval for a fixed threshold.

    All views that are at least as certain as the last one of the share are included.

    Args:
        uncertainty: ``(n,)``.
        losses: ``(n,)``.
        patients: patient of each view.
        coverage: the share, in (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, expected more than 0 and at most 1.")
    unsure, loss = _checked(uncertainty, losses)
    last = np.sort(unsure)[int(np.ceil(round(coverage * len(unsure), 9))) - 1]
    kept = unsure <= last
    return estimate(loss[kept], np.asarray(patients)[kept].tolist())


def area_estimate(uncertainty: ArrayLike, losses: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Returns AURC with its interval.

    The area is not a mean of independent views, because each view also changes the ranks of the others. To first order
    it is the mean of influences: with rank r of n and risk R_k among the first k,
    ``loss * sum_{k >= r} 1/k - sum_{k >= r} R_k/k + R_r``, whose mean is exactly the area.
    """
    order, ties, ordered = _by_certainty(uncertainty, losses)
    ranks = np.arange(1, len(order) + 1)
    risk = np.cumsum(_mean_of_ties(ordered, ties)) / ranks
    weight = np.cumsum((1 / ranks)[::-1])[::-1]
    shift = risk - np.cumsum((risk / ranks)[::-1])[::-1]
    influence = ordered * _mean_of_ties(weight, ties) + _mean_of_ties(shift, ties)
    low, high = mean_interval(influence, [patients[i] for i in order])
    return Estimate(float(risk.mean()), low, high, len(order), len(set(patients)))


def save_risk_coverage(path: Path, coverage: ArrayLike, risk: ArrayLike, x_label: str, y_label: str) -> None:
    """Saves a risk-coverage curve as PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = new_figure(5, 3.4, dpi=120)
    axes.plot(100 * np.asarray(coverage), risk, linewidth=2)
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, None))
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _by_certainty(uncertainty: ArrayLike, losses: ArrayLike) -> tuple[Ids, Ids, Floats]:
    """Returns the order from certain to uncertain, and in that order the group of ties and the loss of each view."""
    unsure, loss = _checked(uncertainty, losses)
    order = np.argsort(unsure, kind="stable")
    return order, np.unique(unsure[order], return_inverse=True)[1], loss[order]


def _checked(uncertainty: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    unsure, loss = np.asarray(uncertainty, dtype=float), np.asarray(losses, dtype=float)
    if unsure.ndim != 1 or unsure.shape != loss.shape or len(unsure) == 0:
        raise ValueError(f"got uncertainty {unsure.shape} and losses {loss.shape}, expected (n,) for both, n > 0.")
    if np.isnan(unsure).any() or np.isnan(loss).any():
        raise ValueError("uncertainty and losses must not be NaN: remove views without them.")
    return unsure, loss


def _mean_of_ties(values: Floats, ties: Ids) -> Floats:
    return (np.bincount(ties, weights=values) / np.bincount(ties))[ties]
