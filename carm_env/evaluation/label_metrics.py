"""Metrics of images with several labels: how well the two likeliest body parts that are named match them.

With the first two answers ``A`` and the labels ``L`` of an image:

    H@2 = 1 if A and L have a label in common, else 0
    R@2 = |A and L| / |L|
    P@2 = |A and L| / 2
    F1@2 = 2 |A and L| / (2 + |L|), the harmonic mean of P@2 and R@2

Each is computed for every image and averaged over images. With one label P@2 is at most 1/2 and F1@2 at most 2/3, with
three labels R@2 at most 2/3. An answer that names a label twice has found it once; the denominators stay.

Labels are numbered from 0 (`carm_env.body_parts`), and -1 stands for "no answer". An image whose answer cannot be read
has a row of -1. It counts as wrong in the metrics over all answers, and is left out of those over valid answers, the
paper's way. No metric is defined for an image without labels: its values are NaN, and `summarise` leaves it out and
counts it.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 3.3 and table 2 (H@2 and R@2
of real X-rays). F1 averaged over images is what the competition of the data ranks by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.evaluation import metrics
from carm_env.evaluation.intervals import Estimate

K = 2
"""Number of answers that count, as in the paper."""
NAMES = ("h_at_2", "r_at_2", "p_at_2", "f1_at_2")
NO_ANSWER = -1

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


def likeliest(scores: ArrayLike, count: int = K) -> Numbers:
    """Returns the numbers of the labels with the highest scores, ``(n, count)``, the highest first.

    Of labels with equal scores the one with the lower number comes first, so that ties are decided without the truth.

    Args:
        scores: ``(n, labels)``, such as probabilities or logits.
        count: number of labels.

    Raises:
        ValueError: a score is NaN, or there are fewer labels.

    >>> likeliest([[0.1, 0.7, 0.7, 0.2]]).tolist()
    [[1, 2]]
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or values.shape[1] < count or np.isnan(values).any():
        raise ValueError(f"scores are {values.shape}, expected numbers (n, labels), at least {count} labels, no NaN.")
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def label_values(answers: ArrayLike, labels: ArrayLike) -> dict[str, Floats]:
    """Returns the metrics `NAMES` of every image, ``(n,)`` each; NaN for an image without labels.

    Args:
        answers: numbers of labels ``(n, K)``, best first; `NO_ANSWER` where none was given. The first two count.
        labels: whether each image has each label, bool ``(n, labels)``.

    Raises:
        ValueError: the shapes or types are others, or an answer is not the number of a label.

    >>> values = label_values([[3, 14]], [[number in (3, 4) for number in range(22)]])
    >>> {name: float(value[0]) for name, value in values.items()}
    {'h_at_2': 1.0, 'r_at_2': 0.5, 'p_at_2': 0.5, 'f1_at_2': 0.5}
    """
    given, true = _checked(answers, labels)
    count = true.sum(axis=1)
    has_labels = count > 0
    values = {name: np.full(len(true), np.nan) for name in NAMES}
    if has_labels.any():
        # Ids of `carm_env.evaluation.metrics` count from 1, and 0 stands for none.
        found, relevant = given[has_labels] + 1, _ids(true[has_labels])
        values["h_at_2"][has_labels] = metrics.hit_at(found, relevant, K)
        values["r_at_2"][has_labels] = metrics.recall_at(found, relevant, K)
        precision = metrics.precision_at(found, relevant, K)
        values["p_at_2"][has_labels] = precision
        values["f1_at_2"][has_labels] = 2 * K * precision / (K + count[has_labels])
    return values


def is_valid(answers: ArrayLike) -> NDArray[np.bool_]:
    """Returns whether two labels were named, ``(n,)``."""
    return np.asarray((np.asarray(answers)[:, :K] >= 0).all(axis=1))


@dataclass(frozen=True)
class LabelScores:
    """The metrics over several images.

    Attributes:
        images: number of images with labels.
        valid: number of them whose answer is valid.
        without_labels: number of images without labels, which no metric counts.
        over_valid: estimate of each metric over valid answers, as in the paper; empty if no answer is valid.
        over_all: estimate of each metric over all answers; an invalid one counts as wrong.
    """

    images: int
    valid: int
    without_labels: int
    over_valid: dict[str, Estimate]
    over_all: dict[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        """Returns the scores as JSON."""
        return {
            "images": self.images,
            "valid": self.valid,
            "without_labels": self.without_labels,
            "over_valid": {name: value._asdict() for name, value in self.over_valid.items()},
            "over_all": {name: value._asdict() for name, value in self.over_all.items()},
        }


def summarise(answers: ArrayLike, labels: ArrayLike, patients: Sequence[str]) -> LabelScores:
    """Returns the mean of each metric with its interval, clustered by patient.

    Args:
        answers: see `label_values`.
        labels: see `label_values`.
        patients: patient of each image.

    Raises:
        ValueError: see `label_values`; or no image has labels, or there is not one patient for each image.
    """
    given, true = _checked(answers, labels)
    if len(patients) != len(true):
        raise ValueError(f"got {len(patients)} patients for {len(true)} images, expected one for each.")
    counted: NDArray[np.bool_] = np.asarray(true.any(axis=1))
    if not counted.any():
        raise ValueError(f"none of {len(true)} images has labels, expected at least one: no metric is defined.")
    valid: NDArray[np.bool_] = np.logical_and(is_valid(given), counted)
    values, owners = label_values(given, true), np.asarray(patients)
    # An answer with one label is not valid: it counts as wrong, as one that cannot be read.
    wrong = {name: np.where(valid, column, 0.0) for name, column in values.items()}
    return LabelScores(
        images=int(counted.sum()),
        valid=int(valid.sum()),
        without_labels=int((~counted).sum()),
        over_valid=_estimates(values, valid, owners) if valid.any() else {},
        over_all=_estimates(wrong, counted, owners),
    )


def recall_by_label(answers: ArrayLike, labels: ArrayLike) -> tuple[Numbers, Floats]:
    """Returns the number of images with each label, and the share of them in whose first two answers it is.

    Args:
        answers: see `label_values`; an invalid answer names nothing.
        labels: see `label_values`.

    Returns:
        Two arrays ``(labels,)``; the share is NaN for a label that no image has.
    """
    given, true = _checked(answers, labels)
    named = np.zeros((len(true), true.shape[1] + 1), bool)
    np.put_along_axis(named, np.where(is_valid(given)[:, None], given[:, :K], NO_ANSWER), True, axis=1)
    count = true.sum(axis=0)
    found = (named[:, :-1] & true).sum(axis=0)
    return count, np.where(count > 0, found / np.maximum(count, 1), np.nan)


def _estimates(values: dict[str, Floats], rows: NDArray[np.bool_], patients: NDArray[np.str_]) -> dict[str, Estimate]:
    return {name: metrics.share_estimate(column[rows], patients[rows].tolist()) for name, column in values.items()}


def _checked(answers: ArrayLike, labels: ArrayLike) -> tuple[Numbers, NDArray[np.bool_]]:
    given, true = np.asarray(answers), np.asarray(labels)
    if true.ndim != 2 or true.dtype != bool:
        raise ValueError(f"labels are {true.dtype} {true.shape}, expected bool (n, labels).")
    if given.ndim != 2 or given.shape[1] < K or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"answers are {given.dtype} {given.shape}, expected integers (n, at least {K}).")
    if len(given) != len(true):
        raise ValueError(f"got {len(given)} answers and the labels of {len(true)} images, expected equal numbers.")
    if ((given < NO_ANSWER) | (given >= true.shape[1])).any():
        raise ValueError(
            f"answers are {given.min()} to {given.max()}, expected 0 to {true.shape[1] - 1}, and {NO_ANSWER} for none."
        )
    return given.astype(np.int64), true


def _ids(labels: NDArray[np.bool_]) -> Numbers:
    """Returns the numbers of the labels plus 1, ``(n, most labels of an image)``, with zeros at the end of rows."""
    order = np.argsort(~labels, axis=1, kind="stable")[:, : int(labels.sum(axis=1).max())]
    return np.where(np.take_along_axis(labels, order, axis=1), order + 1, 0)
