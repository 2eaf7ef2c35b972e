"""Values outside the scan: constants that fill corners of a volume and reach inwards from its border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._distribution import AIR, FEW_VALUES, NO_AIR_HU, SAMPLE, is_spike, is_textured, sampled, share_between
from carm_env.ct.grid import HIGHEST_HU
from carm_env.volume import AIR_HU

LOWEST_HU, HIGHEST_VALUE, INT16_MAX = -5000.0, 20_000.0, 32_767.0
"""Values beyond the first two are padding, or metal if they are few; none is beyond the last."""
_WRAPPED_MIN, _WRAPPED_MAX = 61_440.0, 65_535.0
"""Negative 16-bit numbers that were stored without a sign."""
_LEAST_PADDING, _MOST_ENCLOSED = 1e-3, 0.01


def restore_signs(values: NDArray[np.float32], assumptions: list[str]) -> None:
    """Restores negative numbers that were stored without a sign: air at -1000 is then at 64536."""
    wrapped = values > INT16_MAX
    numbers = values[wrapped]
    constant = len(np.unique(numbers[:SAMPLE])) < FEW_VALUES and np.median(numbers) > _WRAPPED_MAX + NO_AIR_HU
    if constant or numbers.min() < _WRAPPED_MIN or numbers.max() > _WRAPPED_MAX:
        return
    values[wrapped] = numbers - (_WRAPPED_MAX + 1)
    assumptions.append(
        f"values: {100 * wrapped.mean():.2g} % of them are negative numbers stored without sign; the sign was restored"
    )


def border_constants(values: NDArray[np.float32]) -> list[float]:
    """Returns the values that may be padding: those of the corners and extreme ones, if many voxels have them."""
    corners = values[::, ::, :: values.shape[2] - 1 or 1][:: values.shape[0] - 1 or 1, :: values.shape[1] - 1 or 1]
    candidates = {float(value) for value in corners.ravel()}
    candidates |= {value for value in (float(values.min()),) if value < LOWEST_HU}
    candidates |= {value for value in (float(values.max()),) if value > HIGHEST_VALUE}
    sample = sampled(values)
    return sorted(value for value in candidates if np.count_nonzero(sample == value) >= _LEAST_PADDING * sample.size)


def replace_padding(values: NDArray[np.float32], constants: list[float], assumptions: list[str]) -> None:
    """Replaces constants outside the scan by air, unless they are air already or may be tissue."""
    _replace_blank_ends(values, assumptions)
    air = share_between(sampled(values), -np.inf, NO_AIR_HU)
    for constant in constants:
        # In a scan with noise, no tissue has exactly one value; a phantom without noise may reach the corners.
        if AIR[0] <= constant < AIR[1]:
            continue
        if AIR[1] <= constant < HIGHEST_HU and not (air > 0.03 and _is_alone(values, constant)):
            continue
        mask = values == constant
        enclosed = 1 - float(np.count_nonzero(_reached_from_border(mask))) / np.count_nonzero(mask)
        if enclosed > _MOST_ENCLOSED:
            continue
        values[mask] = AIR_HU
        share = f"{100 * mask.mean():.2g} % of the voxels"
        assumptions.append(f"values: {share} are {constant:g}, outside the scan; replaced by {AIR_HU} HU")


def blank_slices(values: NDArray[np.float32], axis: int = 2) -> NDArray[np.bool_]:
    """Returns which slices across an axis hold one value only."""
    others = (axis - 2, axis - 1)
    return np.asarray(values.min(axis=others) == values.max(axis=others))


def _replace_blank_ends(values: NDArray[np.float32], assumptions: list[str]) -> None:
    """Replaces slices of zeros before the first image and after the last one by air: they would be water.

    In a scan with noise, slices of one value that is air are stated, too: the file may have been filled up.
    """
    images = np.flatnonzero(~blank_slices(values))
    if not len(images):
        return
    ends = np.r_[0 : images[0], images[-1] + 1 : values.shape[2]]
    zeros = ends[values[0, 0, ends] == 0]
    others = ends[(values[0, 0, ends] != 0) & (values[0, 0, ends] < AIR[1])]
    if len(others) and is_textured(sampled(values)):
        assumptions.append(
            f"values: {len(others)} of {values.shape[2]} slices, at the ends, hold one value only; taken as air"
        )
    if len(zeros):
        values[:, :, zeros] = AIR_HU
        assumptions.append(
            f"values: {len(zeros)} of {values.shape[2]} slices, at the ends, hold zeros only; replaced by {AIR_HU} HU"
        )


def _is_alone(values: NDArray[np.float32], constant: float) -> bool:
    """Returns whether far more voxels have exactly this value than those next to it."""
    sample = sampled(values)
    return is_spike(sample, constant, 1) and is_spike(sample, constant, -1) and is_textured(sample)


def _reached_from_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the voxels of a mask that a straight line through the mask joins to the border."""
    reached = np.zeros_like(mask)
    for axis in range(3):
        reached |= np.logical_and.accumulate(mask, axis)
        reached |= np.flip(np.logical_and.accumulate(np.flip(mask, axis), axis), axis)
    return reached
