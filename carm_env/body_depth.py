"""Where the body lies from front to back in a CT volume, which may also hold the couch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.volume import Volume

SKIN_HU = -400
_LEAST_SHARE = 0.02
"""Rows with fewer voxels, relative to the fullest row, hold fingers, the tip of the nose and cables."""
_WIDE_MM, _THICK_MM = 24.0, 10.0
"""Extents along x and y that shells and walls of a couch do not have, but trunk, head, limbs and chest wall do."""
_STEPS_MM = (8.0, 2.0, 8.0)
"""Distances between the voxels that the search for the couch looks at."""


def front_and_back_mm(volume: Volume) -> tuple[float, float]:
    """Returns the LPS y of the front and the back of everything denser than air; of the volume if that is nothing."""
    # Every fourth voxel is accurate to a millimetre and avoids reading the whole volume.
    rows = _rows(volume.hu[::4, :, ::4] > SKIN_HU)
    return _y_mm(volume, rows[0]), _y_mm(volume, rows[-1])


def front_and_back_without_couch_mm(volume: Volume) -> tuple[float, float]:
    """Returns the LPS y of the front and the back of a supine body that may lie on a couch.

    Shells and walls of a couch are thinner than a body, and its rails lie behind the body. A cushion as dense as tissue
    counts as body where they touch.
    """
    steps = np.maximum((np.array(_STEPS_MM) / volume.spacing_mm + 1e-6).astype(int), 1)
    spacing = steps * volume.spacing_mm
    thick = volume.hu[tuple(slice(None, None, int(step)) for step in steps)] > SKIN_HU
    for axis, least_mm in ((0, _WIDE_MM), (1, _THICK_MM)):
        thick = _eroded(thick, axis, least_mm / spacing[axis])
    for axis, least_mm in ((0, _WIDE_MM), (1, _THICK_MM)):
        thick = _dilated(thick, axis, least_mm / spacing[axis])
    if not thick.any():
        return front_and_back_mm(volume)
    front, back = _rows(thick)[0], _rows(_largest(thick))[-1]
    return _y_mm(volume, front * steps[1]), _y_mm(volume, back * steps[1])


def _y_mm(volume: Volume, row: Any) -> float:
    return float(volume.origin_lps_mm[1] + row * volume.spacing_mm[1])


def _rows(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the rows along y that hold the mask; all rows if none does."""
    counts = mask.sum(axis=(0, 2))
    return np.flatnonzero(counts > _LEAST_SHARE * counts.max()) if mask.any() else np.arange(len(counts))


def _reach(voxels: float) -> int:
    """Returns half the length of an odd window of about so many voxels, at least three."""
    return max(round((voxels - 1) / 2), 1)


def _eroded(mask: NDArray[np.bool_], axis: int, voxels: float) -> NDArray[np.bool_]:
    return ~_dilated(~mask, axis, voxels)


def _dilated(mask: NDArray[np.bool_], axis: int, voxels: float) -> NDArray[np.bool_]:
    along = np.moveaxis(mask, axis, 0)
    found = along.copy()
    for shift in range(1, _reach(voxels) + 1):
        found[shift:] |= along[:-shift]
        found[:-shift] |= along[shift:]
    return np.moveaxis(found, 0, axis)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))
