"""The depth of a landmark that was clicked in one image: the strongest bone along the line of the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.annotation.projections import DEPTH_AXIS, Projection
from carm_env.volume import Volume

BONE_HU = 150.0
"""Voxels above are bone."""
MARROW_GAP_MM = 6.0
"""Shorter gaps between two pieces of bone are marrow of one bone."""


def bone_depth_mm(volume: Volume, projection: Projection, pixel: ArrayLike) -> float | None:
    """Returns the depth of the strongest bone along the line of a pixel.

    The line is sampled twice per voxel. Of its bones, the strongest is the one with the largest integral of HU above
    `BONE_HU`; its depth is the mean of its samples, weighted by their HU above `BONE_HU`.

    Args:
        volume: the CT.
        projection: the image that was clicked.
        pixel: ``(2,)`` column and row.

    Returns:
        LPS y (frontal image) or x (lateral image), mm; None if the line meets no bone.
    """
    axis = DEPTH_AXIS[projection.plane]
    first, last = volume.corners_lps_mm
    step = float(volume.spacing_mm[axis]) / 2
    depths = np.arange(first[axis], last[axis] + step / 2, step)
    points = projection.unproject(np.broadcast_to(np.asarray(pixel, float), (len(depths), 2)), depths)
    excess = np.maximum(volume.hu_at(points) - BONE_HU, 0.0)
    bones = _bones(excess, max(1, round(MARROW_GAP_MM / step)))
    if not bones:
        return None
    strongest = max(bones, key=lambda part: float(excess[part].sum()))
    return float(np.average(depths[strongest], weights=excess[strongest]))


def _bones(excess: NDArray[np.float64], gap: int) -> list[slice]:
    """Returns the runs of positive values; runs with at most `gap` zeros between them are one.

    >>> _bones(np.array([0.0, 1, 0, 2, 0, 0, 0, 3]), 2)
    [slice(1, 4, None), slice(7, 8, None)]
    """
    inside = np.flatnonzero(excess > 0)
    if not len(inside):
        return []
    breaks = np.flatnonzero(np.diff(inside) > gap + 1)
    starts = inside[np.concatenate([[0], breaks + 1])]
    ends = inside[np.concatenate([breaks, [len(inside) - 1]])] + 1
    return [slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]
