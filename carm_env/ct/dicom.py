"""Read a DICOM series as Hounsfield units on a grid whose geometry is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._acquisitions import acquisitions_of, joined_acquisitions
from carm_env.ct._dicom_headers import quiet_pydicom
from carm_env.ct._pixels import read_pixels
from carm_env.ct._rescale import hounsfield
from carm_env.ct._set_aside import without_copies, without_extra, without_localizers
from carm_env.ct._slice_grid import SliceGrid, fill_missing, fit_grid, interpolate
from carm_env.ct._slices import Slice
from carm_env.ct.errors import DicomError
from carm_env.ct.grid import LARGEST_MM
from carm_env.ct.series import Series
from carm_env.system.memory import check_memory

_GAP_FACTOR = 1.5
_TILT_DEG, _MOST_TILT_DEG = 0.3, 45.0
_SNAPPED_MM = 0.01
_OFF_LINE_MM, _MOST_OFF_LINE_MM = 0.2, 1.0
_SKEW_DEG = 0.1
_OTHER_STEP_SHARE = 0.05
_BYTES_PER_VOXEL = 12
_MOST_IMAGES = 20_000
"""Larger numbers count no images of a series; they may be anything, and are not printed."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The voxels of a series.

    Attributes:
        hu: ``(columns, rows, slices)`` float32 Hounsfield units.
        affine_lps_mm: ``(4, 4)`` from index to LPS mm; sheared if the gantry was tilted.
        assumptions: what the files do not state or contradict, and the decisions; without personal data.
        notes: findings, without personal data.
    """

    hu: NDArray[np.float32]
    affine_lps_mm: NDArray[np.float64]
    assumptions: list[str]
    notes: list[str]


@quiet_pydicom()
def read_stack(
    series: Series, accept_gaps: bool = False, assume_hu: bool = False, acquisition: int | None = None
) -> Stack:
    """Reads a series: sorts the slices along their normal, checks the geometry, rescales to Hounsfield units.

    Args:
        series: the series.
        accept_gaps: fill missing slices by linear interpolation, and drop extra ones.
        assume_hu: take stored values for Hounsfield units although the header does not say so.
        acquisition: number (from 1) among the acquisitions of the series; None if there is one.

    Raises:
        DicomError: the slices are of several acquisitions, or differ in orientation, size or spacing; slices are
            missing or the rescale slope is (unless accepted); values are not Hounsfield units; pixels cannot be read.
        UnknownNameError: the series has no such acquisition.
        MemoryError: the series does not fit in free memory.
    """
    assumptions: list[str] = []
    notes: list[str] = []
    slices = _one_acquisition(series, accept_gaps, acquisition, assumptions)
    normal = slices[0].normal
    slices = sorted(slices, key=lambda item: float(item.position_mm @ normal))
    positions = np.array([item.position_mm for item in slices])
    extent = float(np.ptp(positions, axis=0).max())
    if extent > LARGEST_MM:
        raise DicomError(
            f"{slices[0].path.parent}: the positions of the slices extend over {extent:.4g} mm, expected at most "
            f"{LARGEST_MM:g} mm: remove the slice that does not belong to the series (e.g. {slices[-1].path})."
        )
    grid = fit_grid(positions, normal)
    _check_complete(slices, grid, accept_gaps, assumptions)
    _check_straight(slices, grid, assumptions, notes)
    _note_contradictions(slices, grid, assumptions)
    heights = positions @ normal
    even = heights[0] + np.arange(1 + max(1, round(np.ptp(heights) / grid.step_mm))) * grid.step_mm
    count = grid.count if grid.is_regular else len(slices) + len(even)
    shape = slices[0].shape
    check_memory(
        f"a CT of {shape[1]} x {shape[0]} x {count} voxels",
        shape[0] * shape[1] * count * _BYTES_PER_VOXEL,
        "Choose a series with thicker slices, or free memory.",
    )
    hu = np.zeros((shape[1], shape[0], grid.count if grid.is_regular else len(slices)), np.float32)
    # Every frame of a multi-frame file asks for its pixels.
    pixels = lru_cache(maxsize=2)(read_pixels)
    rescales: set[tuple[float, float]] = set()
    for number, item in zip(grid.index if grid.is_regular else range(len(slices)), slices, strict=True):
        hu[:, :, number] = hounsfield(item, pixels(item.path), assume_hu, assumptions, rescales).T
    if len(rescales) > 1:
        assumptions.append(
            f"values: the slices state {len(rescales)} different pairs of RescaleSlope and RescaleIntercept; each "
            "slice was read by its own"
        )
    if grid.is_regular:
        fill_missing(hu, grid)
    else:
        hu = interpolate(hu, heights, even)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].orientation[:3] * slices[0].spacing_mm[1]
    affine[:3, 1] = slices[0].orientation[3:] * slices[0].spacing_mm[0]
    affine[:3, 2] = grid.travel_mm
    affine[:3, 3] = grid.origin_mm if grid.is_regular else positions[0]
    return Stack(hu, affine, assumptions, notes)


def _one_acquisition(series: Series, accept_gaps: bool, acquisition: int | None, assumptions: list[str]) -> list[Slice]:
    """Returns the slices of one acquisition, each at a position of its own."""
    slices = without_localizers(without_copies(series.slices, assumptions), assumptions)
    numbers = sorted({item.number for item in slices if item.number is not None})
    if len(numbers) == len(slices) and 1 < numbers[0] <= _MOST_IMAGES:
        assumptions.append(f"slices: InstanceNumber begins at {numbers[0]}; slices may be missing at one end")
    images = max(item.images for item in slices)
    if len(slices) < images <= _MOST_IMAGES:
        assumptions.append(
            f"slices: ImagesInAcquisition states {images}, {len(slices)} are here; others may be missing"
        )
    found = acquisitions_of(slices)
    if acquisition is None and accept_gaps and found.has_few_extra:
        chosen = without_extra(slices, assumptions)
    else:
        chosen = found.chosen(acquisition)
        if len(found.groups) == 1:
            assumptions += joined_acquisitions(chosen)
        if len(found.groups) > 1:
            by = found.mark or "the order of the files"
            assumptions.append(f"acquisition: {acquisition} of {len(found.groups)}, told apart by {by}")
    if len(chosen) < 2:
        raise DicomError(f"{chosen[0].path} is a single slice, expected a series: import its folder.")
    return chosen


def _check_complete(slices: list[Slice], grid: SliceGrid, accept_gaps: bool, assumptions: list[str]) -> None:
    """Raises if positions of the grid are missing or slices are off the grid, unless gaps are accepted."""
    gaps = np.diff([item.position_mm @ slices[0].normal for item in slices])
    thickness = float(np.median([item.thickness_mm for item in slices]))
    missing = grid.missing
    fault = ""
    if missing or not grid.is_regular:
        worst = int(np.argmax(np.abs(gaps - grid.step_mm)))
        lost = f"; {missing} of {grid.count} slices are missing" if grid.is_regular else ""
        uneven = int(np.count_nonzero(np.abs(gaps - grid.step_mm) > 2 * grid.tolerance_mm))
        fault = (
            f"slices are {grid.step_mm:.2f} mm apart, but {gaps[worst]:.2f} mm between {slices[worst].path} and "
            f"{slices[worst + 1].path} ({max(uneven, 1)} uneven gap(s){lost})"
        )
        accepted = f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart"
    elif thickness > 0 and grid.step_mm > _GAP_FACTOR * thickness:
        per_slice = round(grid.step_mm / thickness)
        accepted = f"about {per_slice - 1} of {per_slice} slices are missing"
        fault = (
            f"{len(slices)} slices of {thickness:.2f} mm are {grid.step_mm:.2f} mm apart in {slices[0].path.parent}: "
            f"{accepted}"
        )
    if fault and not accept_gaps:
        raise DicomError(f"{fault}. Complete the series, or fill the gaps by interpolation (--accept-gaps).")
    if fault:
        assumptions.append(f"gaps accepted: {accepted}; interpolated linearly")
    if not grid.is_regular:
        assumptions.append(f"all slices were interpolated to a grid of {grid.step_mm:.3f} mm")
    elif missing:
        assumptions.append(f"{missing} of {grid.count} slices were filled by linear interpolation")
    snapped = float(np.abs(grid.off_grid_mm).max())
    if grid.is_regular and snapped > _SNAPPED_MM:
        assumptions.append(f"positions: slices lie up to {snapped:.2f} mm off a regular grid; moved onto it")
    if not thickness:
        assumptions.append(
            "slices: SliceThickness is missing or out of range; slices missing at regular intervals would not be "
            "noticed"
        )


def _check_straight(slices: list[Slice], grid: SliceGrid, assumptions: list[str], notes: list[str]) -> None:
    """Raises if the positions are not on one line; notes a tilted gantry."""
    tilt = float(np.rad2deg(np.arccos(np.clip(grid.step_mm / np.linalg.norm(grid.travel_mm), -1, 1))))
    worst = int(np.argmax(grid.off_line_mm))
    off_line = float(grid.off_line_mm[worst])
    if off_line > _MOST_OFF_LINE_MM:
        raise DicomError(
            f"{slices[worst].path} is {off_line:.1f} mm off the line through the positions of its series: separate the "
            "acquisitions into folders."
        )
    if tilt > _MOST_TILT_DEG:
        raise DicomError(
            f"{slices[0].path.parent}: the positions of the slices move {tilt:.0f} degrees off their normal, expected "
            f"at most {_MOST_TILT_DEG:g}: export the series again with its geometry."
        )
    if off_line > _OFF_LINE_MM:
        assumptions.append(f"positions: slices lie up to {off_line:.2f} mm beside a straight line; moved onto it")
    if tilt > _TILT_DEG:
        notes.append(f"the gantry was tilted by {tilt:.1f} degrees; the stack was sheared back")
    turned = max(float(np.abs(item.orientation - slices[0].orientation).max()) for item in slices)
    if np.rad2deg(turned) > _SKEW_DEG:
        assumptions.append(
            f"orientation: it differs by up to {np.rad2deg(turned):.1f} degrees between slices; that of one was used"
        )
    skew = max(item.skew_deg for item in slices)
    if skew > _SKEW_DEG:
        assumptions.append(f"orientation: rows and columns are {skew:.1f} degrees off perpendicular; corrected")


def _note_contradictions(slices: Sequence[Slice], grid: SliceGrid, assumptions: list[str]) -> None:
    """Notes headers that contradict the positions of the slices."""
    between = float(np.median([item.between_mm for item in slices]))
    apart = float(np.linalg.norm(grid.travel_mm))
    if between and min(abs(between - grid.step_mm), abs(between - apart)) > _OTHER_STEP_SHARE * grid.step_mm:
        assumptions.append(
            f"positions: SpacingBetweenSlices states {between:.2f} mm, the positions {grid.step_mm:.2f} mm; "
            "the positions were used"
        )
    locations = [item.location_mm for item in slices if item.location_mm is not None]
    if len(locations) == len(slices):
        extents = abs(locations[-1] - locations[0]), abs(grid.index[-1]) * grid.step_mm, abs(grid.index[-1]) * apart
        if min(abs(extents[0] - extents[1]), abs(extents[0] - extents[2])) > max(grid.step_mm, 0.01 * extents[1]):
            assumptions.append("positions: SliceLocation contradicts ImagePositionPatient; the latter was used")
