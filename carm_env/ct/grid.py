"""Resample voxels of any grid to an isotropic volume along the LPS axes, and remove the table."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carm_env.ct.errors import CTImportError
from carm_env.system.memory import check_memory
from carm_env.volume import AIR_HU, Volume

HIGHEST_HU = 3071
DEFAULT_SPACING_MM = 1.5
SPACINGS_MM = (0.5, 6.0)
LARGEST_MM = 3000.0
"""Largest extent of a CT: longer than any person with the table."""
_BYTES_PER_VOXEL = 12
_SLAB = 32
_BODY_HU = -300
_COARSE_MM = 4.0
_BODY_MARGIN_MM = 8.0


def to_isotropic(hu: NDArray[np.float32], affine_lps_mm: NDArray[np.float64], spacing_mm: float) -> Volume:
    """Resamples linearly to cubic voxels along the LPS axes, with air outside.

    Args:
        hu: ``(i, j, k)`` Hounsfield units.
        affine_lps_mm: ``(4, 4)`` from index to LPS mm; may be oblique or sheared (tilted gantry).
        spacing_mm: edge of the voxels.

    Raises:
        CTImportError: the affine is singular or not finite, or spacing or extent are out of range.
        MemoryError: the result does not fit in free memory.
    """
    from scipy import ndimage

    if not SPACINGS_MM[0] <= spacing_mm <= SPACINGS_MM[1]:
        raise CTImportError(f"the spacing is {spacing_mm!r} mm, expected {SPACINGS_MM[0]} to {SPACINGS_MM[1]} mm.")
    matrix, offset = affine_lps_mm[:3, :3], affine_lps_mm[:3, 3]
    steps: NDArray[np.float64] = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine_lps_mm).all() or steps.min() <= 0 or abs(np.linalg.det(matrix / steps)) < 1e-3:
        raise CTImportError(
            f"the axes of the voxels are {matrix.tolist()}, expected three independent directions in mm: export the CT "
            "again with its geometry."
        )
    last = np.array(hu.shape) - 1
    corners = np.array([matrix @ (last * pick) + offset for pick in np.ndindex(2, 2, 2)])
    low, high = corners.min(0), corners.max(0)
    if (high - low).max() > LARGEST_MM:
        raise CTImportError(
            f"the CT measures {np.round(high - low).tolist()} mm, expected at most {LARGEST_MM:g} mm: check that its "
            "voxel sizes are in mm."
        )
    count = np.floor((high - low) / spacing_mm + 1e-6).astype(int) + 1
    check_memory(
        f"a volume of {' x '.join(map(str, count))} voxels",
        math.prod(count.tolist()) * 2 + hu.size * _BYTES_PER_VOXEL,
        "Use a larger spacing, or free memory.",
    )
    if count.min() < 2:
        raise CTImportError(
            f"the CT measures {np.round(high - low, 1).tolist()} mm, expected at least two voxels of {spacing_mm:g} mm "
            "along each axis: use a smaller spacing, or import the whole CT."
        )
    # Axes that become coarser are smoothed first; otherwise thin bone would fall between the samples.
    widths = [0.4 * spacing_mm / step if spacing_mm > 1.3 * step else 0.0 for step in steps]
    smooth = ndimage.gaussian_filter(hu, widths, truncate=3.0, mode="nearest") if any(widths) else hu
    inverse = np.linalg.inv(matrix)
    out = np.empty(count, np.int16)
    for first in range(0, int(count[2]), _SLAB):
        stop = min(first + _SLAB, int(count[2]))
        begin = inverse @ (low + [0.0, 0.0, first * spacing_mm] - offset)
        shape = int(count[0]), int(count[1]), stop - first
        # "grid-constant": a sample that rounding puts 1e-12 voxels outside is not air.
        slab = ndimage.affine_transform(
            smooth, inverse * spacing_mm, begin, shape, order=1, mode="grid-constant", cval=AIR_HU
        )
        out[:, :, first:stop] = np.rint(np.clip(slab, AIR_HU, HIGHEST_HU)).astype(np.int16)
    return Volume.from_origin(out, spacing_mm, low)


def without_table(volume: Volume) -> tuple[Volume, float]:
    """Replaces everything around the body by air.

    The body is the largest connected component above -300 HU after thin bridges are cut, with its cavities filled.

    Returns:
        The volume, and the share of its voxels above -300 HU that was removed.

    Raises:
        CTImportError: the volume holds no body.
    """
    from scipy import ndimage

    step = max(1, round(_COARSE_MM / float(volume.spacing_mm.min())))
    dense = volume.hu[::step, ::step, ::step] > _BODY_HU
    core = ndimage.binary_opening(dense, iterations=2)
    labels, number = ndimage.label(core)
    if not number:
        raise CTImportError(
            f"the CT holds no body: no voxel is above {_BODY_HU} HU. Check its values, or import it without "
            "--remove-table."
        )
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    body = ndimage.binary_dilation(largest, iterations=3) & ndimage.binary_dilation(dense)
    body = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
    margin = max(1, round(_BODY_MARGIN_MM / (step * float(volume.spacing_mm.min()))))
    mask = ndimage.binary_dilation(body, iterations=margin)
    full = mask.repeat(step, 0).repeat(step, 1).repeat(step, 2)[tuple(slice(0, n) for n in volume.hu.shape)]
    hu = np.where(full, volume.hu, np.int16(AIR_HU))
    before = int(np.count_nonzero(volume.hu > _BODY_HU))
    return Volume(hu, volume.affine_lps_mm), 1 - int(np.count_nonzero(hu > _BODY_HU)) / max(before, 1)
