"""Conformal regions around predicted displacements, calibrated by patient.

The regions are ellipses in the shape of the predicted Gaussian. They are scaled so that on calibration patients they
contain the truth as often as promised (split-conformal prediction, Vovk et al. 2005). Each calibration patient has the
same weight, however many views it has (Dunn, Wasserman, Ramdas: Distribution-free prediction sets for two-layer
hierarchical models, JASA 2023, pooled distribution functions), at a level that covers a left-out patient as promised.
The coverage of a new patient varies about the level: the promise holds on average over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.landmarks import N_LANDMARKS, landmark

LEVELS = (0.90, 0.95, 0.97)
_MIN_LEFT_OUT, _TRIED_LEVELS = 3, 40


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted displacements from the middle of ``n`` views to the landmarks.

    Attributes:
        mean_mm: ``(n, 14, 2)`` displacement to the left and cranially.
        std_mm: ``(n, 14, 2)`` standard deviation of the Gaussian along both axes.
    """

    mean_mm: NDArray[np.float64]
    std_mm: NDArray[np.float64]

    def with_error_floor(self, error_floor_mm: float) -> Prediction:
        """Returns the prediction with an independent error of this standard deviation added along both axes, mm.

        Networks learn how precisely the landmarks of their training patients can be found. In other people the same
        landmarks differ in shape and are annotated by readers, which no single image shows.
        """
        return Prediction(self.mean_mm, np.hypot(self.std_mm, error_floor_mm))


def mixture(means: ArrayLike, stds: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns mean and standard deviation of the mixture of Gaussians along the first axis."""
    mean, std = np.asarray(means, float), np.asarray(stds, float)
    mixed = mean.mean(0)
    return mixed, np.sqrt((std**2 + mean**2).mean(0) - mixed**2)


def nonconformity(prediction: Prediction, truth_mm: ArrayLike) -> NDArray[np.float64]:
    """Returns ``(n, 14)`` distances of the truth from the mean in standard deviations.

    Args:
        prediction: the prediction.
        truth_mm: ``(n, 14, 2)`` true displacements; NaN for an absent landmark gives NaN.
    """
    scaled = (np.asarray(truth_mm, float) - prediction.mean_mm) / prediction.std_mm
    return np.hypot(scaled[..., 0], scaled[..., 1])


def calibrate(scores: ArrayLike, patients: ArrayLike, levels: Sequence[float] = LEVELS) -> NDArray[np.float64]:
    """Returns ``(levels, 14)`` radii of the regions, in standard deviations.

    Args:
        scores: ``(n, 14)`` `nonconformity` on patients that no network was trained on; NaN where absent.
        patients: ``(n,)`` number of the patient of each view; all patients have the same weight.
        levels: wanted coverage.

    Raises:
        ValueError: a level out of range, or a landmark that no calibration patient has.
    """
    values, groups = np.asarray(scores, float), np.asarray(patients)
    radius = np.empty((len(levels), N_LANDMARKS))
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"level is {level}, expected between 0 and 1.")
    for index in range(N_LANDMARKS):
        known = np.isfinite(values[:, index])
        if not known.any():
            raise ValueError(
                f"no calibration patient has {landmark(index + 1).name}, expected every landmark in at least one: "
                "calibrate with other patients."
            )
        group, counts = np.unique(groups[known], return_inverse=True, return_counts=True)[1:]
        weights = 1 / (counts[group] * len(counts))
        order = np.argsort(values[known, index], kind="stable")
        cumulative = np.cumsum(weights[order])
        at = np.minimum(np.searchsorted(cumulative, np.asarray(levels) - 1e-12), len(order) - 1)
        radius[:, index] = values[known, index][order][at]
    return radius


def levels_for_new_patients(
    scores: ArrayLike, patients: ArrayLike, levels: Sequence[float] = LEVELS
) -> tuple[float, ...]:
    """Returns the levels to calibrate at so that a new patient is covered as often as `levels` promise.

    With few patients the radius that covers the calibration patients covers a new one less often: with `n` independent
    scores, the share of covered new ones is about ``n / (n + 1)`` of the wanted share. How strongly views of one
    patient depend on each other is estimated from the data: each patient in turn is left out, and the lowest level is
    chosen at which the radii of the others cover the left-out patient as promised, on average over patients and
    landmarks.

    Args:
        scores: see `calibrate`.
        patients: see `calibrate`; with fewer than three patients the levels do not change.
        levels: wanted coverage of a new patient.
    """
    values, groups = np.asarray(scores, float), np.asarray(patients)
    tried = [np.append(np.linspace(level, 1, _TRIED_LEVELS, endpoint=False), 1 - 1e-9) for level in levels]
    coverage_of_patients = []
    for patient in np.unique(groups):
        left_out, others = values[groups == patient], values[groups != patient]
        known = np.isfinite(left_out).any(0) & np.isfinite(others).any(0)
        if not known.any():
            continue
        # A landmark that the others lack cannot be calibrated; any number stands in for it.
        radius = calibrate(np.where(known, others, 0.0), groups[groups != patient], np.concatenate(tried).tolist())
        inside = np.where(np.isfinite(left_out), left_out <= radius[:, None], np.nan)
        coverage_of_patients.append(np.nanmean(inside[:, :, known], axis=(1, 2)))
    if len(coverage_of_patients) < _MIN_LEFT_OUT:
        return tuple(levels)
    coverage = np.mean(coverage_of_patients, 0).reshape(len(levels), -1)
    # If even the highest level does not suffice, the highest level is taken.
    first = [int(np.argmax(row >= level)) if (row >= level).any() else _TRIED_LEVELS
             for row, level in zip(coverage, levels, strict=True)]  # fmt: skip
    return tuple(float(tried[number][index]) for number, index in enumerate(first))


def rank_by_distance(prediction: Prediction) -> NDArray[np.int64]:
    """Returns ``(n, 14)`` ids sorted by the expected squared distance; uncertain landmarks rank lower."""
    expected = (prediction.mean_mm**2 + prediction.std_mm**2).sum(-1)
    return np.argsort(expected, axis=1, kind="stable") + 1


def probability_closest(prediction: Prediction, samples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Returns ``(n, 14)`` probabilities that each landmark is the closest to the middle of the view.

    The positions of the landmarks are drawn from the predicted Gaussians, independently of each other.

    Args:
        prediction: the prediction.
        samples: draws of the positions; all views have the same draws.
        seed: seed of the draws.
    """
    draws = np.random.default_rng(seed).standard_normal((samples, N_LANDMARKS, 2))
    counts = np.empty(prediction.mean_mm.shape[:2])
    for row, (mean, std) in enumerate(zip(prediction.mean_mm, prediction.std_mm, strict=True)):
        nearest = ((mean + draws * std) ** 2).sum(-1).argmin(1)
        counts[row] = np.bincount(nearest, minlength=N_LANDMARKS)
    return counts / samples


def probability_within(mean_mm: ArrayLike, std_mm: ArrayLike, tolerance_mm: float) -> float:
    """Returns the probability that a Gaussian with independent axes is within a distance of the origin."""
    angles = (np.arange(24) + 0.5) * 2 * np.pi / 24
    radii = np.sqrt((np.arange(24) + 0.5) / 24)
    points = tolerance_mm * (radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)[None])
    scaled = (points - np.asarray(mean_mm, float)) / np.asarray(std_mm, float)
    density = np.exp(-0.5 * (scaled**2).sum(-1)) / (2 * np.pi * float(np.asarray(std_mm, float).prod()))
    return float(min(density.mean() * np.pi * tolerance_mm**2, 1.0))
