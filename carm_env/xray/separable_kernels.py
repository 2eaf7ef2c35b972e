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
from carm_env.xray.simd import SLICES_PER_PASS, accumulate_rows, cubic_patch, lanes_of, resample_row

PADDING = 40
"""Zero columns on either side of every row: a group reads twice 16 voxels, from up to 4 beyond the row."""
MAX_COLUMN_STEP = 1.8
"""Largest distance of two columns of the plane in any slice, voxels: ``lanes`` of them fit in a window."""

_F = np.float32
_G = SLICES_PER_PASS
_ROWS_PER_BLOCK = 64
_NEAREST_SLICE = _F(0.002)
_OUTSIDE = _F(-9)


@compiled_fast
def _place_columns(mode, first, step, voxels, base, index, fraction):
    """Split the columns ``first + i * step`` of one slice into window bases, indices and fractions."""
    lanes = lanes_of(mode)
    for group in range(len(base)):
        start = first + _F(np.int32(group * lanes)) * step
        # Windows outside the row are moved to where all their voxels are padding.
        whole = np.int32(np.floor(min(max(start, _F(4 - PADDING)), _F(voxels + 4))))
        base[group] = whole + np.int32(PADDING)
        start -= _F(whole)
        for lane in range(lanes):
            x = min(max(start + _F(np.int32(lane)) * step, _F(0)), _F(2 * lanes - 2))
            i = np.int32(x)
            index[group * lanes + lane] = i
            fraction[group * lanes + lane] = x - _F(i)


@compiled_fast
def _place_rows(first, step, voxels, slice_in_pass, lower, weights):
    """Split the rows ``first + j * step`` of one slice into the lower voxel row and two weights.

    Row numbers count the zero row in front, so 0 stands for row -1.
    """
    for j in range(len(lower)):
        x = min(max(first + _F(np.int32(j)) * step, _F(-1)), _F(voxels)) + _F(1)
        i = min(np.int32(x), np.int32(voxels))
        f = x - _F(i)
        lower[j] = i
        weights[j, 2 * slice_in_pass] = _F(1) - f
        weights[j, 2 * slice_in_pass + 1] = f


@compiled_fast
def _groups_with_matter(extent, first_column, step, lanes, width):
    """First and one past the last column group that the matter of one slice can reach; ``(groups, 0)`` for none."""
    groups = width // lanes
    if step <= 0 or extent[1] == 0:
        return groups, 0
    # Clamped before the cast: a tiny step makes them overflow an integer.
    low = min(max((_F(extent[0] - 1) - first_column) / step, _F(0)), _F(width))
    high = min(max((_F(extent[1]) - first_column) / step, _F(-1)), _F(width))
    if high < 0:
        return groups, 0
    return np.int64(np.floor(low)) // lanes, min(groups, np.int64(np.ceil(high)) // lanes + 1)


@compiled_fast
def _resample_rows(
    mode, layout, material, k, occupied, lowest, highest, columns, first_group, last_group, resampled, filled, where
):
    """Resample the occupied voxel rows ``lowest..highest`` of one slice along the columns.

    They go to the rows of `resampled` from `filled` on; ``where[r + 1]`` becomes the place of voxel
    row r, 0 for an empty row. Returns the next free row.
    """
    base, index, fraction = columns
    slices, padded_rows, padded_columns = layout.shape[1:]
    width = resampled.shape[1]
    for r in range(lowest, highest + 1):
        if not occupied[material, k, r]:
            where[r + 1] = 0
            continue
        voxel_row = (np.int64(material) * slices + k) * padded_rows + r + 1
        resample_row(
            mode,
            layout,
            voxel_row * padded_columns,
            base,
            index,
            fraction,
            resampled,
            filled * width,
            first_group,
            last_group,
        )
        where[r + 1] = filled
        filled += 1
    return filled


@compiled_fast
def project_slices(mode, layout, occupied, extent, view, out):
    """Sum the slices of every material at the points of a virtual plane.

    Args:
        mode: one of `carm_env.xray.simd.available_modes`.
        layout: ``(materials, K, R + 2, C + 2 * PADDING)`` int16, zero in the padding.
        occupied: ``(materials, K, R)`` uint8, 1 where a row has matter.
        extent: ``(materials, K, 2)`` int32, first and one past the last column with matter (0, 0: none).
        view: source, plane and grid, see the module's text.
        out: ``(materials, H, W)`` float32, W a multiple of the lanes; overwritten with the sums.
    """
    materials, slices, padded_rows, padded_columns = layout.shape
    rows, columns = padded_rows - 2, padded_columns - 2 * PADDING
    height, width = out.shape[1], out.shape[2]
    lanes = lanes_of(mode)
    source_c, source_r, source_k, plane_k, row0, row_step, column0, column_step = view
    farthest = max(-source_k / (plane_k - source_k), (_F(slices - 1) - source_k) / (plane_k - source_k))
    most_rows = 4 + int(_F(_ROWS_PER_BLOCK) * row_step * max(farthest, _F(0)))

    # Row 0 of `resampled` stays zero: it stands for every empty row.
    resampled = np.zeros((_G * most_rows + 1, width), np.float32)
    base = np.zeros((_G, width // lanes), np.int32)
    index = np.zeros((_G, width), np.int32)
    fraction = np.zeros((_G, width), np.float32)
    lower = np.zeros((_G, height), np.int32)
    weights = np.zeros((height, 2 * _G), np.float32)
    where = np.zeros((_G, rows + 2), np.int32)
    pair_rows = np.zeros(2 * _G, np.int32)
    first_column = np.zeros(_G, np.float32)
    step = np.zeros(_G, np.float32)
    out[:] = 0

    for k0 in range(0, slices, _G):
        pass_slices = min(_G, slices - k0)
        if not np.any(extent[:, k0 : k0 + pass_slices, 1]):
            continue

        for g in range(_G):
            scale = (_F(np.int32(k0 + g)) - source_k) / (plane_k - source_k)
            # Past the last slice, or behind the source or within a millimetre of it: outside every row and column.
            seen = g < pass_slices and scale >= _NEAREST_SLICE
            first_row = source_r + (row0 - source_r) * scale if seen else _OUTSIDE
            first_column[g] = source_c + (column0 - source_c) * scale if seen else _OUTSIDE
            step[g] = column_step * scale if seen else _F(0)
            _place_rows(first_row, row_step * scale if seen else _F(0), rows, g, lower[g], weights)
            _place_columns(mode, first_column[g], step[g], columns, base[g], index[g], fraction[g])

        for material in range(materials):
            first_group, last_group = width // lanes, 0
            for g in range(pass_slices):
                low, high = _groups_with_matter(extent[material, k0 + g], first_column[g], step[g], lanes, width)
                first_group, last_group = min(first_group, low), max(last_group, high)
            if first_group >= last_group:
                continue

            for j0 in range(0, height, _ROWS_PER_BLOCK):
                j1 = min(height, j0 + _ROWS_PER_BLOCK)
                filled = 1
                for g in range(pass_slices):
                    filled = _resample_rows(
                        mode,
                        layout,
                        material,
                        k0 + g,
                        occupied,
                        max(0, lower[g, j0] - 1),
                        min(rows - 1, lower[g, j1 - 1]),
                        (base[g], index[g], fraction[g]),
                        first_group,
                        last_group,
                        resampled,
                        filled,
                        where[g],
                    )
                if filled == 1:
                    continue
                # A slice past the last one may find old rows here; their weight is zero.
                for j in range(j0, j1):
                    used = 0
                    for g in range(_G):
                        pair_rows[2 * g] = where[g, lower[g, j]]
                        pair_rows[2 * g + 1] = where[g, lower[g, j] + 1]
                        used += pair_rows[2 * g] + pair_rows[2 * g + 1]
                    if used > 0:
                        target = (np.int64(material) * height + j) * width
                        at = j * 2 * _G
                        accumulate_rows(
                            mode, out, target, resampled, pair_rows, weights, at, width, first_group, last_group
                        )


@compiled_fast
def to_detector(sums, view, pixels, spacing, interpolate, out):
    """Bring the sums on the virtual plane to the detector, as areal densities.

    Args:
        sums: ``(materials, HV, WV)`` float32 from `project_slices`.
        view: source, plane and grid, see the module's text.
        pixels: ``(3, 3)`` float32, rows: the first pixel, a column step and a row step, in (c, r, k).
        spacing: ``(3,)`` float32: voxel size along (c, r, k) in the unit wanted for the ray's length,
            times the value of one step of the layout.
        interpolate: False where every pixel falls on a point of the grid.
        out: ``(materials, H, W)`` float32, overwritten; never negative.
    """
    materials, plane_height, plane_width = sums.shape
    height, width = out.shape[1], out.shape[2]
    source_c, source_r, source_k, plane_k, row0, row_step, column0, column_step = view
    depth = plane_k - source_k
    columns = np.empty(width, np.float32)
    rows = np.empty(width, np.float32)
    lengths = np.empty(width, np.float32)
    flat = sums.ravel()
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
            c = (source_c + slope_c * depth - column0) / column_step
            r = (source_r + slope_r * depth - row0) / row_step
            columns[i] = min(max(c, _F(0)), last_column)
            rows[i] = min(max(r, _F(0)), last_row)
            across = slope_c * spacing[0]
            along = slope_r * spacing[1]
            lengths[i] = np.sqrt(across * across + along * along + spacing[2] * spacing[2])
        for material in range(materials):
            plane = np.int64(material) * plane_height
            target = out[material, j]
            if interpolate:
                for i in range(width):
                    column = min(max(np.int32(columns[i]), np.int32(1)), np.int32(plane_width - 3))
                    row = min(max(np.int32(rows[i]), np.int32(1)), np.int32(plane_height - 3))
                    corner = (plane + row - 1) * plane_width + column - 1
                    value = cubic_patch(sums, corner, plane_width, columns[i] - _F(column), rows[i] - _F(row))
                    # A cubic undershoots beside an edge; matter does not.
                    target[i] = max(value * lengths[i], _F(0))
            else:
                for i in range(width):
                    point = (plane + np.int64(rows[i] + _F(0.5))) * plane_width + np.int64(columns[i] + _F(0.5))
                    target[i] = flat[point] * lengths[i]
