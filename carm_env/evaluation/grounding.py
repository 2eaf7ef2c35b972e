"""Phrase grounding: boxes of a phrase against its true boxes.

Precision, recall and F at an intersection over union of 0.5, without confidences, and RoDeO's scores of localisation
and shape, as in LoFi, section 3.2. All are ratios of sums over phrases, with intervals clustered by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from carm_env.evaluation.intervals import CONFIDENCE, Estimate
from carm_env.system.extras import require
from carm_env.xray_datasets.grounded import Box

IOU = 0.5
_CLASSES = ("phrase", "none")
"""RoDeO expects two classes; all boxes are of the first, as in the paper's single-class setting."""


def overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> NDArray[np.float64]:
    """Returns intersections over unions ``(n, m)``.

    >>> overlaps([(0.0, 0.0, 0.5, 1.0)], [(0.0, 0.0, 1.0, 1.0)]).tolist()
    [[0.5]]
    """
    a, b = np.asarray(boxes, float).reshape(-1, 1, 4), np.asarray(others, float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.clip(sides, 0, None), -1)
    areas = [np.prod(each[..., 2:] - each[..., :2], -1) for each in (a, b)]
    return np.asarray(intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-12))


def matched_boxes(predicted: Sequence[Box], true: Sequence[Box], iou: float = IOU) -> int:
    """Returns the largest number of pairs of a predicted and a true box that overlap by at least `iou`."""
    if not predicted or not true:
        return 0
    from scipy.optimize import linear_sum_assignment

    fits = overlaps(predicted, true) >= iou
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return int(fits[rows, columns].sum())


def rodeo_sums(predicted: Sequence[Box], true: Sequence[Box]) -> tuple[float, float, int]:
    """Returns RoDeO's sums of localisation and of shape over the boxes of one phrase, and the number of boxes.

    The scores of many phrases are the sums of these divided by the number of boxes: matched, surplus and missed ones.

    Raises:
        MissingExtraError: rodeometric is not installed.
    """
    if not predicted or not true:
        return 0.0, 0.0, len(predicted) + len(true)
    metric: Any = require("rodeo", "lofi", "The metric RoDeO").RoDeO(class_names=list(_CLASSES))
    match = require("rodeo.utils", "lofi", "The metric RoDeO").hungarian_matching
    parts = match(_corner_and_size(predicted), _corner_and_size(true))
    count = max(len(predicted), len(true))
    # `compute` also scores the classes, which fails with scikit-learn 1.9; there is one class here.
    return count * metric._localization_score(*parts), count * metric._shape_matching_score(*parts), count


def _corner_and_size(boxes: Sequence[Box]) -> NDArray[np.float64]:
    array = np.asarray(boxes, float)
    return np.concatenate([array[:, :2], array[:, 2:] - array[:, :2], np.zeros((len(array), 1))], 1)


def grounding_estimates(
    predicted: Sequence[Sequence[Box]], true: Sequence[Sequence[Box]], patients: Sequence[str], rodeo: bool = True
) -> dict[str, Estimate]:
    """Returns ``p_at_50``, ``r_at_50``, ``f_at_50``, ``rodeo_localization`` and ``rodeo_shape`` with intervals.

    Args:
        predicted: boxes of each phrase; none if the answer was no boxes.
        true: true boxes of each phrase, at least one.
        patients: patient of each phrase.
        rodeo: whether to compute RoDeO's scores.

    Raises:
        ValueError: there is no phrase, or a phrase has no true box.
        MissingExtraError: rodeometric is not installed.
    """
    if not true or not len(predicted) == len(true) == len(patients):
        raise ValueError(f"got {len(predicted)} answers and {len(true)} phrases, expected as many, at least one.")
    if not all(true):
        raise ValueError("a phrase has no true box, expected at least one: leave such phrases out.")
    matched = np.array([matched_boxes(*pair) for pair in zip(predicted, true, strict=True)], float)
    found, boxes = (np.array(list(map(len, each)), float) for each in (predicted, true))
    estimates = {
        "p_at_50": ratio_estimate(matched, found, patients),
        "r_at_50": ratio_estimate(matched, boxes, patients),
        "f_at_50": ratio_estimate(2 * matched, found + boxes, patients),
    }
    if rodeo:
        sums = np.array([rodeo_sums(*pair) for pair in zip(predicted, true, strict=True)])
        estimates["rodeo_localization"] = ratio_estimate(sums[:, 0], sums[:, 2], patients)
        estimates["rodeo_shape"] = ratio_estimate(sums[:, 1], sums[:, 2], patients)
    return estimates


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Returns a ratio of two sums with Student's t interval, linearised and clustered by patient.

    A ratio without a denominator is 0: nothing was answered. With one patient each value is a cluster.

    Args:
        numerators: ``(n,)``.
        denominators: ``(n,)``, 0 or more.
        patients: ``(n,)`` patient of each.

    Source: Cochran, "Sampling Techniques" (1977), section 6.3, for clusters section 9A.

    >>> ratio_estimate([1, 1, 2, 2], [2, 2, 4, 4], ["a", "a", "b", "b"])
    Estimate(value=0.5, low=0.5, high=0.5, views=4, patients=2)
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    names = list(dict.fromkeys(patients))
    total = float(bottom.sum())
    value = float(top.sum()) / total if total else 0.0
    rows = [np.asarray(patients) == name for name in names] if len(names) > 1 else np.eye(len(top), dtype=bool)
    k = len(rows)
    if k < 2 or not total:
        return Estimate(value, value, value, len(top), len(names))
    residuals = np.array([float((top[row] - value * bottom[row]).sum()) for row in rows])
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, k - 1) * np.sqrt(k / (k - 1) * (residuals**2).sum()) / total)
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), len(top), len(names))
