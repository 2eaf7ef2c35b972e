"""The separable projector's two loops: slices to a virtual plane, and the plane to the detector.

Joseph's method (IEEE TMI 1, 1982) walks a ray through the volume slice by slice, along the axis
nearest to the ray, and interpolates bilinearly in every slice. On a plane *parallel* to the slices
the picture of a slice is only scaled and shifted: row j of the plane falls on one row coordinate of
the slice, column i on one column coordinate. So bilinear interpolation separates. `project_slices`

1. finds, for every slice, where the plane's columns and rows fall (a line each);
2. resamples every voxel row that is needed along the columns, once (`resample_row`);
3. adds to every row of the plane the weighted sum of two resampled rows (`accumulate_rows`).

Rows, slices and column groups without matter are skipped. `to_detector` then multiplies by the
length of the ray between two slices and brings the plane to the detector: a copy if the detector is
parallel to the slices (the result *is* Joseph's), else a bicubic warp.

Index coordinates are (c, r, k), voxels from the centre of the layout's first voxel: c along a row, r
across the rows, k across the slices. ``view`` (float32, 8 numbers) is the source ``c, r, k``, the
plane's k, and the plane's grid: first row, row step, first column, column step; the steps are
positive. Beware in these kernels: numba promotes int64 * float32 to float64, hence the int32.
"""

from __future__ import annotations

import numpy as np

from carm_env.xray.compiled import compiled_fast
from carm_env.xray.row_vectors import (
    QUAD,
    RING_ROWS,
    SLICES_PER_PASS,
    WINDOW,
    accumulate_rows,
    resample_rows,
)
from carm_env.xray.vectors import cubic_patch, lanes_of, prefetch, shuffles

PADDING = 12
"""Zero columns on either side of every row: a window of 8 voxels lies within them beside the row."""
MAX_COLUMN_STEP = 1.9
"""Largest distance of two columns of the plane in any slice, voxels: four of them fit in a window."""

_F = np.float32
_G = SLICES_PER_PASS
NEAREST_SLICE = _F(0.002)
_ROWS_PER_BLOCK = 8
_WEIGHT_BITS = 14
WEIGHT_ONE = 1 << _WEIGHT_BITS
_VOXELS_PER_LINE = 32


@compiled_fast
def place_columns(mode, first, step, voxels, base, pick, weights):
    """Where the columns ``first + i * step`` of one slice fall, as `resample_row` wants it."""
    for quad in range(len(base)):
        start = first + _F(np.int32(quad * QUAD)) * step
        # Windows outside the row are moved to where all their voxels are padding.
        whole = np.int32(np.floor(min(max(start, _F(-1 - WINDOW)), _F(voxels + 1))))
        base[quad] = whole + np.int32(PADDING)
        start -= _F(whole)
        for lane in range(QUAD):
            x = min(max(start + _F(np.int32(lane)) * step, _F(0)), _F(WINDOW - 1.001))
            i = np.int32(x)
            upper = np.int32((x - _F(i)) * _F(WEIGHT_ONE) + _F(0.5))
            column = quad * QUAD + lane
            weights[column] = (np.int32(WEIGHT_ONE) - upper) | (upper << np.int32(16))
            if shuffles(mode):
                pick[column] = np.int32(0x03020100) + i * np.int32(0x02020202)
            else:
                pick[column] = base[quad] + i


@compiled_fast
def place_rows(first, step, voxels, one, g, width, lower, places, weights):
    """Split the rows ``first + j * step`` of slice g of a pass into the lower voxel row and two weights.

    Row numbers count the zero row in front, so 0 stands for row -1. `places` tells where in the ring of
    `project_slices` both rows begin; their weights sum up to `one`, or to zero where the slice has no row.
    """
    for j in range(len(lower)):
        row = first + _F(np.int32(j)) * step
        x = min(max(row, _F(-1)), _F(voxels)) + _F(1)
        i = min(np.int32(x), np.int32(voxels))
        share = one if row > _F(-1) and row < _F(voxels) else _F(0)
        f = (x - _F(i)) * share
        lower[j, g] = i
        weights[j, 2 * g] = share - f
        weights[j, 2 * g + 1] = f
        places[j, 2 * g] = (np.int32(g * RING_ROWS) + (i & np.int32(RING_ROWS - 1))) * np.int32(width)
        places[j, 2 * g + 1] = (np.int32(g * RING_ROWS) + ((i + np.int32(1)) & np.int32(RING_ROWS - 1))) * np.int32(
            width
        )


@compiled_fast
def groups_with_matter(first, last, first_column, per_voxel, lanes, groups):
    """First and one past the last column group that the voxels ``first <= c < last`` can reach."""
    if last <= first:
        return groups, np.int64(0)
    # Clamped before the cast: a tiny step makes them overflow an integer.
    width = _F(np.int32(groups * lanes))
    low = min(max((_F(first) - _F(1) - first_column) * per_voxel, _F(0)), width)
    high = min(max((_F(last) - first_column) * per_voxel, _F(-1)), width)
    if high < 0:
        return groups, np.int64(0)
    return np.int64(low) // lanes, min(groups, np.int64(high) // lanes + 1)


@compiled_fast
def rows_in_ring(source_k, plane_k, row_step, slices):
    """Rows of the plane that are done together: so many that their voxel rows fit in the ring."""
    farthest = max(-source_k / (plane_k - source_k), (_F(slices - 1) - source_k) / (plane_k - source_k))
    voxels_per_row = row_step * max(farthest, _F(0)) + _F(0.01)
    return max(1, min(_ROWS_PER_BLOCK, 1 + int(_F(RING_ROWS - 3) / voxels_per_row)))


@compiled_fast
def project_slices(mode, layout, extent, view, out):
    """Sum the slices of every material at the points of a virtual plane.

    Args:
        mode: one of `carm_env.xray.simd.available_modes`.
        layout: ``(materials, K, R + 2, C + 2 * PADDING)`` int16, zero in the padding.
        extent: ``(materials, K, R + 2, 2)`` int32, first and one past the last column with matter (0, 0: none).
        view: source, plane and grid, see the module's text.
        out: ``(materials, H, W)`` float32, W a multiple of the lanes; overwritten with the sums.
    """
    materials, slices, padded_rows, padded_columns = layout.shape
    rows, columns = padded_rows - 2, padded_columns - 2 * PADDING
    height, width = out.shape[1], out.shape[2]
    lanes = lanes_of(mode)
    groups = width // lanes
    source_c, source_r, source_k, plane_k, row0, row_step, column0, column_step = view

    rows_per_block = rows_in_ring(source_k, plane_k, row_step, slices)

    ring = np.zeros((_G, RING_ROWS, width), np.float32)
    base = np.zeros((_G, width // QUAD), np.int32)
    pick = np.zeros((_G, width), np.int32)
    column_weights = np.zeros((_G, width), np.int32)
    lower = np.zeros((height, _G), np.int32)
    places = np.zeros((height, 2 * _G), np.int32)
    row_weights = np.zeros((height, 2 * _G), np.float32)
    first_column = np.zeros(_G, np.float32)
    per_voxel = np.zeros(_G, np.float32)
    held = np.zeros(_G, np.int64)
    out[:] = 0

    for k0 in range(0, slices, _G):
        for g in range(_G):
            scale = (_F(np.int32(k0 + g)) - source_k) / (plane_k - source_k)
            # Past the last slice, or behind the source or within a millimetre of it: without weight.
            seen = k0 + g < slices and scale >= NEAREST_SLICE
            if seen:
                one = _F(1 / WEIGHT_ONE)
                step = column_step * scale
                per_voxel[g] = _F(1) / step
            else:
                one = _F(0)
                step = _F(0)
                scale = _F(0)
                per_voxel[g] = _F(0)
            first_row = source_r + (row0 - source_r) * scale
            first_column[g] = source_c + (column0 - source_c) * scale
            place_rows(first_row, row_step * scale, rows, one, g, width, lower, places, row_weights)
            place_columns(mode, first_column[g], step, columns, base[g], pick[g], column_weights[g])

        for material in range(materials):
            first_held, last_held = groups, 0
            for j0 in range(0, height, rows_per_block):
                j1 = min(height, j0 + rows_per_block)
                first_group, last_group = groups, 0
                for g in range(_G):
                    if per_voxel[g] == 0:
                        continue
                    first, last = columns, 0
                    for r in range(lower[j0, g], lower[j1 - 1, g] + 2):
                        if extent[material, k0 + g, r, 1] > 0:
                            first = min(first, extent[material, k0 + g, r, 0])
                            last = max(last, extent[material, k0 + g, r, 1])
                    low, high = groups_with_matter(first, last, first_column[g], per_voxel[g], lanes, groups)
                    first_group, last_group = min(first_group, low), max(last_group, high)
                if first_group < first_held or last_group > last_held:
                    held[:] = -1
                first_held, last_held = first_group, last_group
                if first_group >= last_group:
                    continue
                for g in range(_G):
                    if per_voxel[g] == 0:
                        continue
                    start = (np.int64(material) * slices + k0 + g) * padded_rows * padded_columns
                    low_row, high_row = max(np.int64(lower[j0, g]), held[g] + 1), np.int64(lower[j1 - 1, g]) + 1
                    held[g] = high_row
                    resample_rows(
                        mode,
                        layout,
                        start,
                        padded_columns,
                        low_row,
                        high_row,
                        base,
                        pick,
                        column_weights,
                        g,
                        ring,
                        g,
                        first_group,
                        last_group,
                    )
                    if k0 + g + _G < slices:
                        quads = lanes // QUAD
                        first_voxel = base[g, first_group * quads]
                        voxels = base[g, last_group * quads - 1] + WINDOW - first_voxel
                        ahead = start + _G * padded_rows * padded_columns + first_voxel
                        for r in range(low_row, high_row + 1):
                            for voxel in range(0, voxels, _VOXELS_PER_LINE):
                                prefetch(layout, ahead + r * padded_columns + voxel)
                for j in range(j0, j1):
                    target = (np.int64(material) * height + j) * width
                    accumulate_rows(mode, out, target, ring, places, row_weights, j, first_group, last_group)


@compiled_fast
def copy_to_detector(sums, view, copied, unit, out):
    """Areal densities at the detector where every pixel lies on a point of the plane's grid.

    Args:
        sums: ``(materials, HV, WV)`` float32 from `project_slices`.
        view: source, plane and grid, see the module's text.
        copied: the grid's row of the first pixel, rows to the next pixel's, column of the first pixel, columns to
            the next pixel's.
        unit: ``(3,)`` float32: voxel size along (c, r, k) in the unit wanted for the ray's length, times the value
            of one step of the layout.
        out: ``(materials, H, W)`` float32, overwritten.
    """
    materials, height, width = out.shape
    source_c, source_r, source_k, plane_k, row0, row_step, column0, column_step = view
    first_row, next_row, first_column, next_column = copied
    depth = plane_k - source_k
    across = np.empty(width, np.float32)
    for i in range(width):
        slope = (column0 + _F(np.int32(first_column + i * next_column)) * column_step - source_c) / depth * unit[0]
        across[i] = slope * slope + unit[2] * unit[2]
    for j in range(height):
        row = first_row + j * next_row
        slope = (row0 + _F(np.int32(row)) * row_step - source_r) / depth * unit[1]
        along = slope * slope
        for material in range(materials):
            plane_row = sums[material, row]
            target = out[material, j]
            if next_column == 1:
                for i in range(width):
                    target[i] = plane_row[i] * np.sqrt(across[i] + along)
            else:
                for i in range(width):
                    target[i] = plane_row[first_column + i * next_column] * np.sqrt(across[i] + along)


@compiled_fast
def warp_to_detector(sums, view, pixels, unit, zoom, out):
    """Areal densities at the detector by a bicubic warp of the plane.

    Between two slices an oblique ray moves on across them, so that it sees every slice smeared along its way,
    which Joseph's method leaves out. Two samples for each slice, a part of a slice before and behind it, have
    about the same effect; and as seen from the source that is the mean of the plane's picture slightly enlarged
    and slightly reduced. It lowers the error of oblique views to a third.

    Args:
        sums: ``(materials, HV, WV)`` float32 from `project_slices`.
        view: source, plane and grid, see the module's text.
        pixels: ``(3, 3)`` float32, rows: the first pixel, a column step and a row step, in (c, r, k).
        unit: as for `copy_to_detector`.
        zoom: how much larger and smaller the two pictures are.
        out: ``(materials, H, W)`` float32, overwritten; never negative.
    """
    materials, plane_height, plane_width = sums.shape
    height, width = out.shape[1], out.shape[2]
    source_c, source_r, source_k, plane_k, row0, row_step, column0, column_step = view
    depth = plane_k - source_k
    columns = np.empty((2, width), np.float32)
    rows = np.empty((2, width), np.float32)
    lengths = np.empty(width, np.float32)
    last_column, last_row = _F(plane_width - 1), _F(plane_height - 1)
    for j in range(height):
        down = _F(np.int32(j))
        start_c = pixels[0, 0] + pixels[2, 0] * down - source_c
        start_r = pixels[0, 1] + pixels[2, 1] * down - source_r
        start_k = pixels[0, 2] + pixels[2, 2] * down - source_k
        for i in range(width):
            right = _F(np.int32(i))
            per_slice = _F(1) / (start_k + pixels[1, 2] * right)
            slope_c = (start_c + pixels[1, 0] * right) * per_slice
            slope_r = (start_r + pixels[1, 1] * right) * per_slice
            for side in range(2):
                reach = depth * (_F(1) + zoom * _F(np.int32(2 * side - 1)))
                columns[side, i] = min(max((source_c + slope_c * reach - column0) / column_step, _F(0)), last_column)
                rows[side, i] = min(max((source_r + slope_r * reach - row0) / row_step, _F(0)), last_row)
            across, along = slope_c * unit[0], slope_r * unit[1]
            lengths[i] = np.sqrt(across * across + along * along + unit[2] * unit[2])
        for material in range(materials):
            plane = np.int64(material) * plane_height
            target = out[material, j]
            for i in range(width):
                value = _F(0)
                for side in range(2):
                    column = min(max(np.int32(columns[side, i]), np.int32(1)), np.int32(plane_width - 3))
                    row = min(max(np.int32(rows[side, i]), np.int32(1)), np.int32(plane_height - 3))
                    corner = (plane + row - 1) * plane_width + column - 1
                    value += cubic_patch(
                        sums, corner, plane_width, columns[side, i] - _F(column), rows[side, i] - _F(row)
                    )
                # A cubic undershoots beside an edge; matter does not.
                target[i] = max(value * _F(0.5) * lengths[i], _F(0))
