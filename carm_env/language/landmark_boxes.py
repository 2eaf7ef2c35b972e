"""Boxes of landmarks in the coordinates of answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.language.answers import BOX_SCALE

_BOX_MM = 60.0


def bounding_box(pixel: NDArray[np.floating], size: int) -> tuple[int, int, int, int]:
    """Returns the box of a landmark, 60 mm wide and clipped to the image, as (left, top, right, bottom) in thousandths.

    Args:
        pixel: ``(2,)`` position of the landmark.
        size: side of the image, pixels.

    >>> bounding_box(np.array([63.5, 0.0]), 128)
    (347, 0, 653, 157)
    """
    middle = (np.asarray(pixel, float) + 0.5) / size
    half = 0.5 * _BOX_MM / DEFAULT_GEOMETRY.field_of_view_at_mm(DEFAULT_ISOCENTER_DEPTH_MM)
    low = np.clip(np.round(BOX_SCALE * (middle - half)), 0, BOX_SCALE - 1).astype(int)
    high = np.clip(np.round(BOX_SCALE * (middle + half)), low + 1, BOX_SCALE).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
