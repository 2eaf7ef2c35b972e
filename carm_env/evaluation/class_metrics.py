"""F1 of one class per image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def f1_scores(predicted: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Returns the mean of F1 over the classes, and the mean weighted by the frequency of the classes.

    The classes are those of the true labels. Any other answer, such as -1 for none, is wrong.

    Args:
        predicted: ``(n,)`` class of each answer.
        true: ``(n,)`` class of each image.

    Raises:
        ValueError: the lengths differ, or there is no image.

    >>> [round(score, 3) for score in f1_scores([0, 0, 1, -1], [0, 0, 0, 1])]
    [0.4, 0.6]
    """
    given, labels = np.asarray(predicted), np.asarray(true)
    if given.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"got {given.shape} answers and {labels.shape} labels, expected as many, at least one.")
    classes, counts = np.unique(labels, return_counts=True)
    right = np.array([((labels == one) & (given == one)).sum() for one in classes])
    named = np.array([(given == one).sum() for one in classes])
    scores = 2 * right / (named + counts)
    return float(scores.mean()), float(np.average(scores, weights=counts))
