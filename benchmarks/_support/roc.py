"""The area under the ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def area_under_curve(familiar: ArrayLike, other: ArrayLike) -> float:
    """Returns the probability that a random other image scores higher than a random familiar one; ties count half.

    >>> area_under_curve([1.0, 2.0], [2.0, 3.0])
    0.875
    """
    known, scores = np.sort(np.asarray(familiar, float)), np.asarray(other, float)
    lower, not_higher = np.searchsorted(known, scores, "left"), np.searchsorted(known, scores, "right")
    return float((lower + not_higher).mean() / (2 * len(known)))
