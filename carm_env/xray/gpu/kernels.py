"""The Triton kernels: what `carm_env.xray.gpu.grid_sample` does, in one pass over the slices.

One program takes a tile of pixels of one view through the slices and keeps both sums in registers. A
voxel is one int16 whose sign is its material, so four loads a slice fetch both materials; the zero rim
of `carm_env.xray.gpu.packing` spares every bounds check but a clamp. A tile walks only the slices in which
one of its rays is inside the volume. Each view brings the address of its own volume, so one launch
renders views of any patients along any axes.

Small launches leave a GPU idle, so the slices may be split among `split` programs a tile; their partial
sums are added afterwards, in a fixed order, and a picture repeats bit by bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    # Torch without CUDA: `carm_env.xray.gpu.projector` then takes grid_sample.
    triton = None

from carm_env.xray.gpu.packing import PackedVolume
from carm_env.xray.gpu.rays import RayGrid

TILE_HEIGHT, TILE_WIDTH = 8, 16
_WARPS = 4
_PROGRAMS_TO_FILL_A_GPU = 2048
_MIN_SLICES_A_PART = 16


def _jit(function: Callable[..., None]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _inside(origin, slope, voxels, lowest, highest):
    """First and last slice, as floats, in which ``origin + slope * k`` is within a voxel of ``0 .. voxels - 1``."""
    safe = tl.where(tl.abs(slope) < 1e-9, 1e-9, slope)
    a = (-1.0 - origin) / safe
    b = (voxels - origin) / safe
    low = tl.minimum(tl.maximum(tl.minimum(a, b), lowest), highest)
    high = tl.minimum(tl.maximum(tl.maximum(a, b), lowest), highest)
    return low, high


@_jit
def _sample_kernel(
    volumes_ptr,
    lines_ptr,
    bounds_ptr,
    out_ptr,
    views,
    out_height,
    out_width,
    tiles_across,
    tiles,
    WITH_LENGTH: tl.constexpr,
    SPLIT: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Sum bilinear samples along rays.

    ``volumes_ptr`` (B,) int64 addresses of `PackedVolume.density`; ``lines_ptr`` (B, 15) and ``bounds_ptr``
    (B, 6) as in `RayGrid`; ``out_ptr`` (SPLIT, B, 2, out_height, out_width) float32. WITH_LENGTH: times the
    ray's length between two slices.
    """
    program = tl.program_id(0)
    part = program % SPLIT
    tile = (program // SPLIT) % tiles
    view = program // (SPLIT * tiles)
    bounds = bounds_ptr + view * 6
    columns = tl.load(bounds + 0)
    rows = tl.load(bounds + 1)
    from_slice = tl.load(bounds + 2)
    to_slice = tl.load(bounds + 3)
    height = tl.load(bounds + 4)
    width = tl.load(bounds + 5)
    lanes = tl.arange(0, TILE_H * TILE_W)
    j = (tile // tiles_across) * TILE_H + lanes // TILE_W
    i = (tile % tiles_across) * TILE_W + lanes % TILE_W
    wanted = (j < height) & (i < width)

    line = lines_ptr + view * 15
    source_c = tl.load(line + 0)
    source_r = tl.load(line + 1)
    source_k = tl.load(line + 2)
    right = i.to(tl.float32)
    down = j.to(tl.float32)
    ray_c = tl.load(line + 3) + right * tl.load(line + 6) + down * tl.load(line + 9)
    ray_r = tl.load(line + 4) + right * tl.load(line + 7) + down * tl.load(line + 10)
    ray_k = tl.load(line + 5) + right * tl.load(line + 8) + down * tl.load(line + 11)
    # Pixels past the edge of the image go along with its first ray: theirs might run along the slices.
    ray_c = tl.where(wanted, ray_c, tl.load(line + 3))
    ray_r = tl.where(wanted, ray_r, tl.load(line + 4))
    ray_k = tl.where(wanted, ray_k, tl.load(line + 5))
    slope_c = ray_c / ray_k
    slope_r = ray_r / ray_k

    # Where this tile's rays are inside the volume, from the source on: k = source_k + step.
    lowest = from_slice - source_k
    highest = to_slice - source_k
    columns_f = columns.to(tl.float32)
    rows_f = rows.to(tl.float32)
    low_c, high_c = _inside(source_c, slope_c, columns_f, lowest, highest)
    low_r, high_r = _inside(source_r, slope_r, rows_f, lowest, highest)
    low = tl.maximum(low_c, low_r)
    high = tl.minimum(high_c, high_r)
    hits = wanted & (low <= high)
    # A slice more on either side for what float32 rounds away: samples outside are zero anyway.
    first = tl.min(tl.where(hits, low, highest), axis=0) + source_k - 1.0
    last = tl.max(tl.where(hits, high, lowest), axis=0) + source_k + 2.0
    first = tl.maximum(tl.floor(first).to(tl.int32), from_slice)
    last = tl.minimum(tl.floor(last).to(tl.int32), to_slice)
    each = (tl.maximum(last - first, 0) + SPLIT - 1) // SPLIT
    first = first + part * each
    last = tl.minimum(first + each, last)

    stride = columns + 3
    slice_stride = (rows + 3) * stride
    volume = tl.load(volumes_ptr + view).to(tl.pointer_type(tl.int16))
    # In the array with its rim voxel 0 is at 1.
    start_c = source_c + 1.0
    start_r = source_r + 1.0
    end_c = columns_f + 1.0
    end_r = rows_f + 1.0
    # A sum of the values and one of their magnitudes: soft tissue and bone are half their sum and
    # difference, exactly zero where there is none, and the GPU takes a magnitude for free.
    signed = tl.zeros([TILE_H * TILE_W], dtype=tl.float32)
    unsigned = tl.zeros([TILE_H * TILE_W], dtype=tl.float32)
    for k in range(first, last):
        step = k - source_k
        c = tl.minimum(tl.maximum(start_c + slope_c * step, 0.0), end_c)
        r = tl.minimum(tl.maximum(start_r + slope_r * step, 0.0), end_r)
        column = c.to(tl.int32)
        row = r.to(tl.int32)
        f = c - column.to(tl.float32)
        g = r - row.to(tl.float32)
        corner = volume + k * slice_stride + row * stride + column
        v00 = tl.load(corner).to(tl.float32)
        v01 = tl.load(corner + 1).to(tl.float32)
        v10 = tl.load(corner + stride).to(tl.float32)
        v11 = tl.load(corner + stride + 1).to(tl.float32)
        w11 = f * g
        w01 = f - w11
        w10 = g - w11
        w00 = 1.0 - f - w10
        signed += w00 * v00 + w01 * v01 + w10 * v10 + w11 * v11
        unsigned += w00 * tl.abs(v00) + w01 * tl.abs(v01) + w10 * tl.abs(v10) + w11 * tl.abs(v11)
    soft = 0.5 * (unsigned + signed)
    bone = 0.5 * (unsigned - signed)

    if WITH_LENGTH:
        across = slope_c * tl.load(line + 12)
        along = slope_r * tl.load(line + 13)
        between = tl.load(line + 14)
        length = tl.sqrt(across * across + along * along + between * between)
        soft = soft * length
        bone = bone * length
    picture = out_height * out_width
    target = out_ptr + ((part * views + view) * 2).to(tl.int64) * picture + j * out_width + i
    tl.store(target, soft, mask=wanted)
    tl.store(target + picture, bone, mask=wanted)


@_jit
def _cubic_weight(t, q):
    """Weight of neighbour `q` (0 to 3) for the fraction `t` between the middle two (Keys 1981, a = -1/2)."""
    outer_left = ((1.0 - 0.5 * t) * t - 0.5) * t
    left = (1.5 * t - 2.5) * t * t + 1.0
    right = ((2.0 - 1.5 * t) * t + 0.5) * t
    outer_right = (0.5 * t - 0.5) * t * t
    return tl.where(q == 0, outer_left, tl.where(q == 1, left, tl.where(q == 2, right, outer_right)))


@_jit
def _warp_kernel(
    sums_ptr,
    lines_ptr,
    bounds_ptr,
    detector_ptr,
    numbers_ptr,
    out_ptr,
    plane_height,
    plane_width,
    height,
    width,
    tiles_across,
    tiles,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Bring virtual planes ``sums_ptr`` (B, 2, plane_height, plane_width) to the detector, as areal densities.

    ``numbers_ptr`` (B,) int64: the picture of `out_ptr` (all views, 2, height, width) that each plane becomes.
    """
    program = tl.program_id(0)
    tile = program % tiles
    view = program // tiles
    lanes = tl.arange(0, TILE_H * TILE_W)
    j = (tile // tiles_across) * TILE_H + lanes // TILE_W
    i = (tile % tiles_across) * TILE_W + lanes % TILE_W
    wanted = (j < height) & (i < width)
    rows = tl.load(bounds_ptr + view * 6 + 4)
    columns = tl.load(bounds_ptr + view * 6 + 5)
    line = lines_ptr + view * 15
    pixel = detector_ptr + view * 9
    right = i.to(tl.float32)
    down = j.to(tl.float32)
    ray_c = tl.load(pixel + 0) + right * tl.load(pixel + 3) + down * tl.load(pixel + 6)
    ray_r = tl.load(pixel + 1) + right * tl.load(pixel + 4) + down * tl.load(pixel + 7)
    ray_k = tl.load(pixel + 2) + right * tl.load(pixel + 5) + down * tl.load(pixel + 8)
    ray_k = tl.where(wanted, ray_k, tl.load(pixel + 2))
    slope_c = ray_c / ray_k
    slope_r = ray_r / ray_k
    depth = tl.load(line + 5)
    c = (slope_c * depth - tl.load(line + 3)) / tl.load(line + 6)
    r = (slope_r * depth - tl.load(line + 4)) / tl.load(line + 10)
    c = tl.minimum(tl.maximum(c, 0.0), columns - 1.0)
    r = tl.minimum(tl.maximum(r, 0.0), rows - 1.0)
    column = tl.minimum(tl.maximum(c.to(tl.int32), 1), columns - 3)
    row = tl.minimum(tl.maximum(r.to(tl.int32), 1), rows - 3)
    f = c - column
    g = r - row
    plane = plane_height * plane_width
    corner = sums_ptr + (view * 2).to(tl.int64) * plane + (row - 1) * plane_width + (column - 1)
    soft = tl.zeros([TILE_H * TILE_W], dtype=tl.float32)
    bone = tl.zeros([TILE_H * TILE_W], dtype=tl.float32)
    for q in tl.static_range(4):
        row_weight = _cubic_weight(g, q)
        for p in tl.static_range(4):
            weight = row_weight * _cubic_weight(f, p)
            neighbour = corner + q * plane_width + p
            soft += weight * tl.load(neighbour, mask=wanted, other=0.0)
            bone += weight * tl.load(neighbour + plane, mask=wanted, other=0.0)
    across = slope_c * tl.load(line + 12)
    along = slope_r * tl.load(line + 13)
    between = tl.load(line + 14)
    length = tl.sqrt(across * across + along * along + between * between)
    picture = height * width
    target = out_ptr + tl.load(numbers_ptr + view) * 2 * picture + j * width + i
    # A cubic undershoots beside an edge; matter does not.
    tl.store(target, tl.maximum(soft, 0.0) * length, mask=wanted)
    tl.store(target + picture, tl.maximum(bone, 0.0) * length, mask=wanted)


def sample_slices(volumes: Sequence[PackedVolume], grid: RayGrid, out: torch.Tensor) -> None:
    """Write the areal densities of the grid's views, g/cm^2, into ``out`` (all views, 2, H, W) float32."""
    device = out.device
    numbers = torch.from_numpy(grid.views).to(device)
    addresses = torch.tensor([volumes[view].density.data_ptr() for view in grid.views.tolist()]).to(device)
    lines = torch.from_numpy(grid.lines).to(device)
    bounds = torch.from_numpy(grid.bounds).to(device)
    count, height, width = len(grid.views), grid.height, grid.width
    across, tiles = _tiles(height, width)
    split = split_of(count * tiles, int((grid.bounds[:, 3] - grid.bounds[:, 2]).max()))
    whole = grid.detector is None and split == 1 and count == len(out)
    sums = out if whole else torch.empty(split, count, 2, height, width, device=device)
    with _on(device):
        _sample_kernel[(count * tiles * split,)](
            addresses,
            lines,
            bounds,
            sums,
            count,
            height,
            width,
            across,
            tiles,
            WITH_LENGTH=grid.detector is None,
            SPLIT=split,
            TILE_H=TILE_HEIGHT,
            TILE_W=TILE_WIDTH,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
        if whole:
            return
        sums = sums[0] if split == 1 else sums.sum(dim=0)
        if grid.detector is None:
            out[numbers] = sums
            return
        across, tiles = _tiles(*out.shape[2:])
        _warp_kernel[(count * tiles,)](
            sums,
            lines,
            bounds,
            torch.from_numpy(grid.detector).to(device),
            numbers,
            out,
            height,
            width,
            *out.shape[2:],
            across,
            tiles,
            TILE_H=TILE_HEIGHT,
            TILE_W=TILE_WIDTH,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    # Triton launches on torch's current device, which need not be the tensors'.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def split_of(programs: int, slices: int) -> int:
    """Among how many programs the slices of a tile are split: 1, 2, 4 or 8.

    >>> split_of(400, 200), split_of(100_000, 200), split_of(400, 20)
    (4, 1, 1)
    """
    split = 1
    while split < 8 and programs * split < _PROGRAMS_TO_FILL_A_GPU // 2 and slices // (2 * split) >= _MIN_SLICES_A_PART:
        split *= 2
    return split


def _tiles(height: int, width: int) -> tuple[int, int]:
    """Tiles across an image, and in all of it."""
    across = -(-width // TILE_WIDTH)
    return across, across * -(-height // TILE_HEIGHT)
