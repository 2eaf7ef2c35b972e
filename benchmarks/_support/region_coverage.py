"""Predictions of displacements on sampled views, and the coverage of their conformal regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.intervals import Estimate, estimate
from carm_env.views.sample import ViewOptions, render_views
from policies.conformal import DisplacementRegressor
from policies.regions import Prediction, nonconformity

LEVEL = 0.9
"""Nominal coverage of the regions that are compared."""
_IMAGE_SIZE = 256


@dataclass(frozen=True, eq=False)
class PatientPrediction:
    """Predictions on ``n`` views of one patient.

    Attributes:
        patient: name of the patient.
        prediction: predicted displacements.
        truth_mm: ``(n, 14, 2)`` true displacements; NaN for a landmark that the patient lacks.
        closest: ``(n,)`` id of the closest landmark.
    """

    patient: str
    prediction: Prediction
    truth_mm: NDArray[np.float64]
    closest: NDArray[np.int64]


def predict_views(
    regressor: DisplacementRegressor, patients: Sequence[str], views: int, seed: int, isocenter_depth_mm: float
) -> Iterator[PatientPrediction]:
    """Yields the predictions of an ensemble on random views of each patient.

    Args:
        regressor: the ensemble.
        patients: names of the patients.
        views: views per patient.
        seed: seed of the views.
        isocenter_depth_mm: depth of the isocentre in the views (`carm_env.geometry.check_isocenter_depth`).
    """
    options = ViewOptions(views, _IMAGE_SIZE, seed=seed, isocenter_depth_mm=isocenter_depth_mm)
    for name in patients:
        rendered = list(render_views(name, options))
        yield PatientPrediction(
            name,
            regressor.predict(np.stack([view.image for view in rendered])),
            np.stack([view.labels.displacement_mm for view in rendered]),
            np.array([view.labels.closest_landmarks[0] for view in rendered]),
        )


def coverage_at(
    level: float,
    regressor: DisplacementRegressor,
    patients: Sequence[str],
    views: int,
    seed: int,
    isocenter_depth_mm: float,
) -> Estimate:
    """Returns the share of true displacements inside the regions of a level, over views and landmarks.

    Args:
        level: nominal coverage.
        regressor: the calibrated ensemble.
        patients: names of the patients.
        views: views per patient.
        seed: seed of the views.
        isocenter_depth_mm: see `predict_views`.

    Raises:
        ValueError: the ensemble was not calibrated at this level.
    """
    radius = regressor.radius_at(level)
    inside: list[float] = []
    owners: list[str] = []
    for found in predict_views(regressor, patients, views, seed, isocenter_depth_mm):
        scores = nonconformity(found.prediction, found.truth_mm)
        present = np.isfinite(scores)
        inside += (scores <= radius)[present].astype(float).tolist()
        owners += [found.patient] * int(present.sum())
    return estimate(inside, owners)
