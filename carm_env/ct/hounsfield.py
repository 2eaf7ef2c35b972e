"""Judge whether the values of a CT are Hounsfield units, from their distribution.

Air, fat and soft tissue of a person have known values, so their modes show an offset, a cut to a window, another scale
or an inversion. Extremes show none of these: one voxel of metal or padding sets them. Values outside the scan (padding)
are constant, fill corners of the volume and reach inwards from its border.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._distribution import (
    AIR,
    LEAST_SHARE,
    NO_AIR_HU,
    SAMPLE,
    goes_on,
    is_spike,
    is_textured,
    most_frequent,
    sampled,
    share_between,
)
from carm_env.ct._padding import (
    HIGHEST_VALUE,
    INT16_MAX,
    LOWEST_HU,
    blank_slices,
    border_constants,
    replace_padding,
    restore_signs,
)
from carm_env.ct.errors import CTImportError
from carm_env.ct.grid import HIGHEST_HU
from carm_env.volume import AIR_HU

_LEAST_RANGE, _GREY_MAX, _UNIT_MAX = 30.0, 255.0, 1.5
_MOST_METAL, _MOST_BLURRED = 0.02, 1e-3
_TISSUE = (-200.0, 200.0)
_DENSE = (850.0, 1250.0)
"""Soft tissue in a file that stores HU + 1000 or + 1024; in a person, dense bone only."""
_LOWEST_WINDOW_HU, _HIGHEST_WINDOW_HU = -900.0, 1500.0
_LEAST_CORRELATION = 0.1
_CLIPPED_ABOVE, _CLIPPED_BELOW = 1e-3, 0.02

_EXPORT = "Export the original CT, or use --assume-hu if the values are right."


class _Fault(NamedTuple):
    """Why values do not look like Hounsfield units, and what to do."""

    finding: str
    remedy: str = _EXPORT


@dataclass(frozen=True, eq=False)
class JudgedValues:
    """Values that may be taken for Hounsfield units.

    Attributes:
        hu: ``(i, j, k)`` float32; padding is replaced by air.
        assumptions: what was decided about the values, one line each.
    """

    hu: NDArray[np.float32]
    assumptions: list[str]


def judge_values(values: NDArray[np.float32], path: Path, *, assume_hu: bool = False) -> JudgedValues:
    """Checks that values are Hounsfield units of a person, and replaces padding outside the scan by air.

    Args:
        values: ``(i, j, k)``, finite; may be changed.
        path: the file or folder, for messages.
        assume_hu: take the values for Hounsfield units although they do not look like them.

    Raises:
        CTImportError: the values are not Hounsfield units; the message says what they seem to be and what to do.
    """
    assumptions: list[str] = []
    low, high = float(values.min()), float(values.max())
    fault = _scale_fault(low, high)
    if fault is None:
        if high > INT16_MAX:
            restore_signs(values, assumptions)
        constants = border_constants(values)
        fault = _distribution_fault(values, constants) or _blank_fault(values)
        replace_padding(values, constants, assumptions)
        fault = fault or _extreme_fault(values)
    if fault is not None and not assume_hu:
        raise CTImportError(
            f"{path} holds values from {low:g} to {high:g}, expected Hounsfield units: {fault.finding}. {fault.remedy}"
        )
    if fault is not None:
        assumptions.append(f"values: taken for Hounsfield units as requested, although {fault.finding}")
    elif share_between(sampled(values), -np.inf, NO_AIR_HU) < LEAST_SHARE:
        assumptions.append("values: no air (nothing below -500 HU); taken as a CT that was cropped inside the body")
    _report_clipping(values, assumptions)
    return JudgedValues(values, assumptions)


def _scale_fault(low: float, high: float) -> _Fault | None:
    if low == high:
        return _Fault("every voxel is the same")
    if high - low <= _LEAST_RANGE:
        if low >= 0 and high <= _UNIT_MAX:
            return _Fault("it is an image scaled to 0 to 1")
        return _Fault("they were normalised, or are densities or attenuations")
    if low >= 0 and high <= _GREY_MAX:
        return _Fault("it is an image scaled to 0 to 255")
    return None


def _distribution_fault(values: NDArray[np.float32], constants: list[float]) -> _Fault | None:
    everything = sampled(values)
    # A constant that may be tissue stays: corners of a phantom without noise are constant, too.
    padding = [value for value in constants if not _TISSUE[0] <= value <= _TISSUE[1]]
    inside = everything[~np.isin(everything, padding)]
    if inside.size < LEAST_SHARE * everything.size or not inside.size:
        return _Fault("hardly any voxel differs from the corners of the volume")
    if _is_inverted(everything, inside, constants):
        return _Fault("they are inverted, with air at high values")
    if _is_too_high(inside):
        offset = _air_offset(everything)
        return _Fault(
            f"soft tissue seems to be near {offset + 40} instead of 40, so they are {offset} too high",
            f"Use --hu-offset -{offset}, or --assume-hu if they are right.",
        )
    if _is_rescaled_twice(constants, inside) or not _has_tissue(inside):
        return _no_tissue_fault(everything, inside)
    return _window_fault(everything, inside) or _other_scale_fault(everything, inside) or _noise_fault(values)


def _is_inverted(everything: NDArray[np.float32], inside: NDArray[np.float32], constants: list[float]) -> bool:
    """Returns whether air seems to be near 1000, and bone below soft tissue."""
    around = any(_DENSE[0] <= value <= _DENSE[1] for value in constants) or share_between(inside, *_DENSE) > 0.2
    bone = share_between(inside, -1500, -200) > 5e-3 and inside.min() > -2500
    air = share_between(everything, *AIR) < 0.05 < share_between(everything, *_DENSE)
    return bool(around and bone and air and share_between(inside, *_TISSUE) > 0.05)


def _is_too_high(inside: NDArray[np.float32]) -> bool:
    """Returns whether soft tissue seems to be near 1040 or 1064, and air near 0 or 24."""
    tissue, dense = share_between(inside, *_TISSUE), share_between(inside, *_DENSE)
    if dense > max(0.2, 0.5 * tissue):
        return True
    if not is_textured(inside):
        # A phantom without noise: a mode of air at 0 or 24, and one of soft tissue 1020 to 1090 above it.
        air, body = most_frequent(inside, -60, 110), most_frequent(inside, *_DENSE)
        return dense > 0.02 and min(abs(air), abs(air - 24)) <= 2 and 1020 <= body - air <= 1090
    # A small body in much air. Real soft tissue near 0 comes with fat, and real bone has fewer voxels the denser it is.
    return (
        dense > max(0.02, share_between(inside, _TISSUE[1], _DENSE[0]))
        and share_between(inside, -np.inf, NO_AIR_HU) < 0.03
        and share_between(inside, _TISSUE[0], -60) < 0.1 * tissue
    )


def _is_rescaled_twice(constants: list[float], inside: NDArray[np.float32]) -> bool:
    """Returns whether air is a constant near -2000 or -2024, and most other voxels are 1025 to 1080 above it."""
    body = most_frequent(inside, -1100, -900)
    return share_between(inside, -1100, -900) > 0.2 and any(
        -2034 <= value <= -1990 and 1025 <= body - value <= 1080 for value in constants
    )


def _air_offset(everything: NDArray[np.float32]) -> int:
    """Returns 1000 or 1024: by the mode of air near 0 or 24, or of soft tissue if only padding is near 0."""
    counts = np.bincount(np.rint(everything[(everything > -60) & (everything < 110)]).astype(int) + 60, minlength=170)
    zero, counts[60] = counts[60], 0
    air = np.convolve(counts, [1, 2, 3, 4, 3, 2, 1], "same")
    if air.max() > 0.4 * zero:
        return 1000 if int(np.argmax(air)) - 60 < 8 else 1024
    tissue = np.convolve(np.histogram(everything, np.arange(1000, 1130))[0], np.ones(15) / 15, "same")
    return 1000 if int(np.argmax(tissue)) < 55 and tissue.max() > 2 * tissue.mean() else 1024


def _has_tissue(inside: NDArray[np.float32]) -> bool:
    """Returns whether soft tissue or fat is a mode of the distribution."""
    counts, _ = np.histogram(inside, np.arange(-600, 510, 10))
    if counts[40:80].sum() < 0.01 * inside.size:
        return False
    peak = np.convolve(counts, np.ones(3) / 3, "same")[45:75].max()
    return bool(peak > 1.2 * max(counts[:30].mean(), counts[80:].mean()))


def _no_tissue_fault(everything: NDArray[np.float32], inside: NDArray[np.float32]) -> _Fault:
    if share_between(everything, -2400, -1500) > 0.02 or share_between(inside, -1200, -850) > 0.2:
        return _Fault(
            "soft tissue seems to be near -984 instead of 40: they may have been rescaled twice",
            "Use --hu-offset 1024 if they were, or --assume-hu if they are right.",
        )
    return _Fault("expected soft tissue and bone among them, but no mode is between -200 and 200")


def _window_fault(everything: NDArray[np.float32], inside: NDArray[np.float32]) -> _Fault | None:
    """Returns a fault if many voxels are exactly at an end of the values, which was then cut."""
    ends = []
    for values in (everything, inside) if is_textured(inside) else (everything,):
        rounded = np.rint(values)
        low, high = float(rounded.min()), float(rounded.max())
        if values is everything:
            cut_low = low > _LOWEST_WINDOW_HU and is_spike(rounded, low, 1)
        else:
            cut_low = low > NO_AIR_HU and is_spike(rounded, low, 1) and goes_on(rounded, low, 1)
        if cut_low:
            ends.append(low)
        if high < _HIGHEST_WINDOW_HU and is_spike(rounded, high, -1) and goes_on(rounded, high, -1):
            ends.append(high)
    if not ends:
        return None
    text = " and ".join(f"{end:g}" for end in sorted(set(ends)))
    return _Fault(f"they were cut to a window, with many voxels exactly at {text}")


def _other_scale_fault(everything: NDArray[np.float32], inside: NDArray[np.float32]) -> _Fault | None:
    """Returns a fault if air is not at -1000, or the values spread too little or too much for a person."""
    if everything.min() > -780 and share_between(everything, -780, -300) > 0.1:
        return _Fault(f"air is near {np.median(everything[everything < -300]):.0f} instead of -1000")
    if share_between(inside, -2400, -1300) > 0.02:
        return _Fault("many are between -2400 and -1300, lower than air")
    if share_between(everything, -np.inf, NO_AIR_HU) < 0.01:
        low, high = np.percentile(inside, [0.1, 99.9])
        if high - low < 300:
            return _Fault(f"nearly all are between {low:.0f} and {high:.0f}, a narrower range than in a person")
        # What looks like soft tissue may be air, and the soft tissue another mode above it.
        counts, _ = np.histogram(inside, np.arange(120, 3000, 10))
        mode = counts[13:].sum() > 0.05 * inside.size and counts[13:].max() > 3 * counts[:13].mean()
        if mode or share_between(inside, 600, np.inf) > 0.3 * share_between(inside, *_TISSUE):
            return _Fault("there is no air, and a mode far above that of soft tissue: they may be on another scale")
    # A phantom of water in air has no bone.
    water = share_between(everything, *AIR) > 0.01 and share_between(inside, -60, 150) > 0.3
    if everything.min() > 500 or (everything.max() < 150 and not water):
        return _Fault("expected soft tissue and bone among them")
    return None


def _blank_fault(values: NDArray[np.float32]) -> _Fault | None:
    """Returns a fault if slices between others hold one value only: the file may be complete, but not the image."""
    # Converted files may have other axes. A phantom without noise may have planes of air between its parts.
    for axis in (2, 1, 0) if is_textured(sampled(values)) else (2,):
        blank = blank_slices(values, axis)
        images = np.flatnonzero(~blank)
        count = np.count_nonzero(blank[images[0] : images[-1]]) if len(images) else 0
        if count:
            return _Fault(
                f"{count} of {len(blank)} slices, between others, hold one value only, as where the image is missing"
            )
    return None


def _noise_fault(values: NDArray[np.float32]) -> _Fault | None:
    """Returns a fault if neighbouring voxels are unrelated along every axis."""
    step = max(1, round((values.size / SAMPLE) ** (1 / 3)))
    for axis in range(3):
        moved = np.moveaxis(values, axis, 0)
        first, second = moved[:-1:step, ::step, ::step], moved[1::step, ::step, ::step]
        if first.size < 100 or not first.std() or not second.std():
            return None
        if np.corrcoef(first.ravel(), second.ravel())[0, 1] > _LEAST_CORRELATION:
            return None
    return _Fault("neighbouring voxels are unrelated, as in noise or with a wrong size or byte order")


def _extreme_fault(values: NDArray[np.float32]) -> _Fault | None:
    low, high = float(values.min()), float(values.max())
    if low < LOWEST_HU and float(np.count_nonzero(values < LOWEST_HU)) > _MOST_BLURRED * values.size:
        return _Fault(f"many are below {LOWEST_HU:g} inside the scan")
    if high > INT16_MAX:
        return _Fault(f"some are above {INT16_MAX:g} inside the scan")
    if high > HIGHEST_VALUE and float(np.count_nonzero(values > HIGHEST_VALUE)) > _MOST_METAL * values.size:
        return _Fault(
            f"more than {100 * _MOST_METAL:g} % are above {HIGHEST_VALUE:g}, which metal alone does not explain"
        )
    return None


def _report_clipping(values: NDArray[np.float32], assumptions: list[str]) -> None:
    above = np.count_nonzero(values > HIGHEST_HU) / values.size
    below = np.count_nonzero(values < AIR[0]) / values.size
    if above > _CLIPPED_ABOVE:
        assumptions.append(f"values: {100 * above:.2g} % of the voxels are above {HIGHEST_HU} HU and were set to it")
    if below > _CLIPPED_BELOW:
        assumptions.append(
            f"values: {100 * below:.2g} % of the voxels are below {AIR[0]:g} HU and were set to {AIR_HU} HU"
        )
