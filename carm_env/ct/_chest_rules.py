"""Landmarks of the chest from masks: the carina from the trachea, the domes of the diaphragm from lungs and abdomen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._bone_rules import Estimate, estimate, lowest_point
from carm_env.ct._label_masks import AbsentError, LabelMasks, Structure

_LEAST_BRANCH_MM2 = 25.0
_LEAST_BRANCH_SHARE = 0.2
"""Least area of a main bronchus relative to the trachea above it."""
_BRANCH_MM = 7.5
"""Distance over which both main bronchi must be seen to part."""
_SHORT_TRACHEA_MM = 20.0

_LOBES = {
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
}
_ABDOMEN = ("liver", "stomach", "spleen", "colon")
_MOST_BETWEEN_MM = 25.0
"""Largest distance of the lung from the organs below it: diaphragm and fat."""
_GAP_MM = 25.0
"""Radius of gaps between these organs, filled with fat."""
_PERICARDIUM_MM = 5.0
_BESIDE_HEART_MM = 10.0
"""Widths around the heart in which the lung lies on pericardium and fat, and in which no dome is looked for."""
_SMOOTHING_MM = 5.0
_SUMMIT_MM = 3.0
"""Depth of the summit whose middle is the landmark: the top of a dome is flat."""
_SUMMIT_REACH_MM = 20.0
_APART_MM = 10.0
"""Radius within which no column beside a summit is higher."""
_LEAST_BASE_MM2 = 1500.0
_BAND = (0.25, 0.9)
"""Part of the lung base, from the mediastinum to the ribs, in which a dome lies."""


def carina(masks: LabelMasks) -> Estimate:
    """Returns the wedge between the main bronchi.

    The lumen is followed from the top of the trachea downwards, so branches of the bronchi that rise beside the trachea
    do not count: they join it only below the carina.
    """
    trachea = masks.structure("trachea")
    split = _first_split(trachea)
    if split is None:
        if trachea.cut[0, 2]:
            raise AbsentError("the trachea is cut by the lower border of the volume")
        return estimate(lowest_point(trachea), 15.0, trachea, "lower end of the class: the main bronchi are not in it")
    height, first, second = split
    # The middle between the nearest points of both lumens.
    gaps = np.linalg.norm((first[:, None] - second[None]) * trachea.spacing_mm[:2], axis=2)
    near = np.unravel_index(int(gaps.argmin()), gaps.shape)
    x, y = (first[near[0]] + second[near[1]]) / 2
    return estimate(trachea.lps(np.array([x, y, height + 0.5])), 4.0, trachea, "where the main bronchi part")


def _first_split(trachea: Structure) -> tuple[int, NDArray[np.int64], NDArray[np.int64]] | None:
    """Returns the highest slice in which the trachea has become two lumens, and the pixels ``(n, 2)`` of both."""
    from scipy import ndimage

    area = float(trachea.spacing_mm[0] * trachea.spacing_mm[1])
    below = max(1, round(_BRANCH_MM / trachea.spacing_mm[2]))
    top = trachea.mask.shape[2] - 1
    labels, count = ndimage.label(trachea.mask[:, :, top])
    tracked = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else labels > 0
    usual: list[float] = []
    for height in range(top - 1, -1, -1):
        labels, _ = ndimage.label(trachea.mask[:, :, height])
        touched = [label for label in np.unique(labels[tracked]) if label]
        parts = [np.argwhere(labels == label) for label in touched]
        least = max(_LEAST_BRANCH_MM2, _LEAST_BRANCH_SHARE * float(np.median(usual)) if usual else 0.0)
        large = sorted((part for part in parts if len(part) * area >= least), key=len, reverse=True)
        if len(large) >= 2 and _stay_apart(trachea, height, large[0], large[1], below):
            return height, large[0], large[1]
        if not touched:
            return None
        tracked = np.isin(labels, touched)
        usual.append(float(np.count_nonzero(tracked)) * area)
    return None


def _stay_apart(
    trachea: Structure, height: int, first: NDArray[np.int64], second: NDArray[np.int64], below: int
) -> bool:
    """Returns whether two lumens stay apart and present over the slices below; at the end of the class one does."""
    from scipy import ndimage

    shape = trachea.mask.shape[:2]
    branches = []
    for part in (first, second):
        branch = np.zeros(shape, bool)
        branch[tuple(part.T)] = True
        branches.append(branch)
    for lower in range(height - 1, max(height - 1 - below, -1), -1):
        labels, _ = ndimage.label(trachea.mask[:, :, lower])
        reached = [set(np.unique(labels[branch])) - {0} for branch in branches]
        if reached[0] & reached[1]:
            return False
        if not all(reached):
            return height - lower > below / 2
        branches = [np.isin(labels, list(found)) for found in reached]
    return True


def dome(masks: LabelMasks, side: str) -> Estimate:
    """Returns the top of a dome: the highest part of the lung base over liver, stomach, spleen and colon.

    Columns of the lung over the heart and beside it do not count. The standard deviation is larger without classes of
    the abdomen, and where the base rises towards the heart without a summit of its own.
    """
    lung = masks.structure(*_LOBES[side], name=f"the {side} lung")
    if lung.cut[0, 2] and np.count_nonzero(lung.mask[:, :, 0]) * lung.spacing_mm[:2].prod() > _LEAST_BASE_MM2:
        raise AbsentError(f"the {side} lung is cut by the lower border of the volume")
    occupied = lung.mask.any(2)
    lower = lung.first_mm[2] + (lung.mask.argmax(2) - 0.5) * lung.spacing_mm[2]
    heart_mm = _distance_mm(_over(masks, lung, lower, ("heart",), np.inf), lung)
    occupied &= heart_mm > _PERICARDIUM_MM
    base = occupied & (heart_mm > _BESIDE_HEART_MM)
    has_heart, has_abdomen = masks.has("heart"), masks.has(*_ABDOMEN)
    if not has_heart and not has_abdomen:
        raise AbsentError(f"neither heart nor {', '.join(_ABDOMEN)} are there, which tell the lung base from the heart")
    base &= _middle_band(lung, side)
    if has_abdomen:
        over_abdomen = _over(masks, lung, lower, _ABDOMEN, _MOST_BETWEEN_MM)
        # Without the class of the heart, a gap between the abdominal organs may be the heart.
        base &= _closed(over_abdomen, lung) if has_heart else over_abdomen
    if np.count_nonzero(base) * lung.spacing_mm[:2].prod() < _LEAST_BASE_MM2:
        raise AbsentError(f"the base of the {side} lung is not in the volume")
    point, is_summit = _summit(lung, lower, occupied, base)
    if not is_summit and not has_heart:
        raise AbsentError(f"the base of the {side} lung has no summit, and the heart is not there to tell it from")
    if not (has_abdomen and has_heart):
        return estimate(point, 15.0, lung, "top of the lung base; the classes of heart or abdomen are not there")
    if not is_summit:
        return estimate(point, 20.0, lung, "highest part of the lung base, which rises towards the heart")
    return estimate(point, 6.0, lung, "top of the lung base over the abdominal organs")


def _over(
    masks: LabelMasks, lung: Structure, lower: NDArray[np.float64], names: tuple[str, ...], most_mm: float
) -> NDArray[np.bool_]:
    """Returns the columns of the lung below which a class begins within a distance, ``(nx, ny)``."""
    over = np.zeros(lower.shape, bool)
    for name in names:
        try:
            organ = masks.structure(name)
        except AbsentError:
            continue
        # Both lie on one grid: the same columns, at other indices.
        offset = np.rint((organ.first_mm - lung.first_mm) / lung.spacing_mm).astype(int)[:2]
        begin = np.maximum(offset, 0)
        end = np.minimum(offset + organ.mask.shape[:2], lower.shape)
        if (end <= begin).any():
            continue
        ours = tuple(slice(int(low), int(high)) for low, high in zip(begin, end, strict=True))
        theirs = tuple(slice(int(low), int(high)) for low, high in zip(begin - offset, end - offset, strict=True))
        column = organ.mask[theirs]
        heights = organ.first_mm[2] + organ.spacing_mm[2] * np.arange(column.shape[2])
        # The highest voxel of the organ that is not above the lower surface of the lung.
        under = column & (heights <= lower[ours][:, :, None] + 2 * organ.spacing_mm[2])
        top = np.where(under, heights, -np.inf).max(2)
        over[ours] |= lower[ours] - top < most_mm
    return over


def _closed(columns: NDArray[np.bool_], lung: Structure) -> NDArray[np.bool_]:
    """Returns columns ``(nx, ny)`` with the gaps between them filled (a morphological closing by a disc)."""
    from scipy import ndimage

    if not columns.any():
        return columns
    step = lung.spacing_mm[:2]
    margin = np.ceil(_GAP_MM / step).astype(int) + 1
    wide = ndimage.distance_transform_edt(~np.pad(columns, [(n, n) for n in margin]), sampling=step) <= _GAP_MM
    closed = ndimage.distance_transform_edt(wide, sampling=step) > _GAP_MM
    return columns | closed[margin[0] : -margin[0], margin[1] : -margin[1]]


def _distance_mm(columns: NDArray[np.bool_], lung: Structure) -> NDArray[np.float64]:
    """Returns the distance of each column ``(nx, ny)`` from the nearest of some columns, mm."""
    from scipy import ndimage

    if not columns.any():
        return np.full(columns.shape, np.inf)
    return ndimage.distance_transform_edt(~columns, sampling=lung.spacing_mm[:2])


def _middle_band(lung: Structure, side: str) -> NDArray[np.bool_]:
    """Returns the columns in the middle of the lung's lower half from the mediastinum to the ribs, ``(nx, ny)``."""
    low_half = np.asarray(lung.mask[:, :, : lung.mask.shape[2] // 2].any(2))
    columns = np.flatnonzero(low_half.any(1))
    if not len(columns):
        return low_half
    along = (np.arange(low_half.shape[0]) - columns[0]) / max(int(columns[-1] - columns[0]), 1)
    from_mediastinum = along if side == "left" else 1 - along
    return low_half & ((from_mediastinum > _BAND[0]) & (from_mediastinum < _BAND[1]))[:, None]


def _summit(
    lung: Structure, lower: NDArray[np.float64], occupied: NDArray[np.bool_], base: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], bool]:
    """Returns the middle of the highest summit of the lung's lower surface on the columns ``base``.

    The surface rises towards the heart; a dome is a summit of its own. Returns whether there is one; else the highest
    column stands for it.
    """
    from scipy import ndimage

    step = lung.spacing_mm[:2]
    weight = ndimage.gaussian_filter(occupied.astype(float), _SMOOTHING_MM / step)
    total = ndimage.gaussian_filter(np.where(occupied, lower, 0.0), _SMOOTHING_MM / step)
    surface = np.where(occupied, total / np.maximum(weight, 1e-6), -np.inf)
    reach = np.ceil(_APART_MM / step).astype(int)
    grid = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    disc = np.hypot(grid[0] * step[0], grid[1] * step[1]) <= _APART_MM
    # Narrow rims beside the ribs do not carry a summit.
    inner = base & (weight > 0.7)
    summits = inner & (surface >= ndimage.maximum_filter(surface, footprint=disc))
    candidates = summits if summits.any() else inner if inner.any() else base
    peak = np.unravel_index(int(np.where(candidates, surface, -np.inf).argmax()), surface.shape)
    top = float(surface[peak])
    labels, _ = ndimage.label(base & (surface > top - _SUMMIT_MM) & (surface < top + 1.0))
    near = np.argwhere(labels == labels[peak])
    near = near[np.linalg.norm((near - np.array(peak)) * step, axis=1) < _SUMMIT_REACH_MM]
    x, y = lung.lps(np.array([*near.mean(0), 0.0]))[:2]
    return np.array([x, y, top]), bool(summits.any())
