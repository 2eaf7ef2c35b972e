"""Vertebrae C3 to L5 from signed distances: waisted bodies with concave end plates, arch and processes.

Bone tissue depends on the distance from the surface: a thin shell and graded trabecular bone in the body, a thick
cortex in pedicles, laminae and processes, which is what frontal views show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.bone_samples import BoneSamples, add_bone
from carm_env.anatomy.painting.canvas import SAMPLES_PER_VOXEL, TILE, Canvas
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Capsule, Field, smooth_union
from carm_env.anatomy.skeleton.vertebrae import ModelledVertebra
from carm_env.anatomy.skeleton.vertebral_shapes import VertebraShape

_MARGIN_MM = 4.0
_SQUARENESS = 2.4
"""Exponent of the superellipse that outlines a vertebral body."""
_WAIST = 0.16
"""Loss of width halfway between the end plates."""
_DORSAL_HOLLOW = 0.16
_EDGE_MM, _ARCH_BLEND_MM = 2.5, 3.0

_ROUGHNESS_MM = 0.45
"""Standard deviation of the irregularities of the surface, grains of several millimetres."""

_WALL_MM, _WALL_HU = 0.8, 900.0
_PLATE_MM, _PLATE_HU, _RIM_HU = 0.4, 460.0, 100.0
_CORE_HU, _NEAR_PLATE_HU, _CENTRE_HU, _CORE_TEXTURE_HU = 285.0, 90.0, -30.0, 70.0
_ARCH_WALL_MM, _ARCH_WALL_HU = (0.8, 1.25), (900.0, 1220.0)
"""Thickness and HU of the cortex of the pedicles, and of the spinous process."""
_ARCH_CORE_HU, _ARCH_TEXTURE_HU = (300.0, 700.0), 60.0
"""Mean HU inside the cortex of the pedicles, and of the narrow spinous process; texture."""
_PLATE_GRADIENT_MM = 4.0


def vertebra_distance(vertebra: ModelledVertebra, lattice: Lattice) -> NDArray[np.float32]:
    """Returns the signed distance from the surface of a vertebra, without its irregularities, on a lattice, mm."""
    shape = vertebra.shape
    pieces = [_placed(piece, vertebra) for piece in (*shape.arch(), *shape.spinous_process())]
    arch = Field(lattice).add(pieces, 1.5, margin_mm=6.0).values
    return smooth_union(_body_distance(_local(lattice, vertebra), shape)[0], arch, _ARCH_BLEND_MM)


def paint_vertebra(
    canvas: Canvas, vertebra: ModelledVertebra, density: float, degeneration: float, rng: np.random.Generator
) -> None:
    """Builds one vertebra.

    Args:
        canvas: volume to add the bone to.
        vertebra: shape and position.
        density: factor of the HU of bone.
        degeneration: degree of degeneration, which thickens the end plates.
        rng: draws the texture.
    """
    shape = vertebra.shape
    pieces = [_placed(piece, vertebra) for piece in (*shape.arch(), *shape.spinous_process())]
    low, high = _bounds(vertebra, pieces)
    box = canvas.fine.box(low, high)
    start = rng.integers(TILE, size=3)
    if any(part.stop - part.start < 2 for part in box):
        return
    coarse = canvas.fine.within(box)
    sample = coarse.spacing_mm / SAMPLES_PER_VOXEL
    count = tuple(SAMPLES_PER_VOXEL * n for n in coarse.shape)
    lattice = Lattice(coarse.origin_mm - sample / 2, sample, (count[0], count[1], count[2]))
    arch = Field(lattice).add(pieces, 1.5, margin_mm=6.0).values
    local = _local(lattice, vertebra)
    body, rho = _body_distance(local, shape)
    rough = _ROUGHNESS_MM * _voxel_texture(canvas, lattice.shape, start)
    whole = smooth_union(body, arch, _ARCH_BLEND_MM) + rough
    i, j, k = np.nonzero(whole < 0)
    inside = (i, j, k)
    depth = -whole[inside]
    tile = tuple((indices + offset) % TILE for indices, offset in zip(inside, start, strict=True))
    # Trabeculae of a vertebral body run along the spine.
    grain = canvas.sample_texture[tile[0], tile[1], tile[2] // 3]
    samples = BoneSamples(lattice, box, inside, depth, canvas.sample_texture[tile])
    in_arch = np.clip(0.5 + (body - arch)[inside] / 2.0, 0, 1)
    height = np.broadcast_to(local[2], whole.shape)[inside]
    hu = (1 - in_arch) * _body_hu(depth, height, rho[inside], grain, shape, degeneration)
    dorsal = np.broadcast_to(local[1], whole.shape)[inside] - (shape.half_depth + shape.sizes["canal_depth"] - 5.0)
    hu += in_arch * _arch_hu(depth, np.clip(dorsal / 6.0, 0, 1), samples.texture)
    add_bone(canvas, samples, (density * hu).astype(np.float32))


def _voxel_texture(canvas: Canvas, shape: tuple[int, ...], start: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the coarse texture, which is periodic on voxels, on samples."""
    rows = [(np.arange(size) // SAMPLES_PER_VOXEL + offset) % TILE for size, offset in zip(shape, start, strict=True)]
    return canvas.coarse_texture[np.ix_(*rows)]


def _placed(piece: Capsule, vertebra: ModelledVertebra) -> Capsule:
    start, end = (vertebra.centre_mm + vertebra.axes @ np.asarray(point) for point in (piece.start_mm, piece.end_mm))
    return Capsule(start, end, *piece.radii_mm)


def _bounds(vertebra: ModelledVertebra, pieces: list[Capsule]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shape = vertebra.shape
    reach = np.hypot(shape.half_width, shape.half_depth) + 2.0
    ends = [vertebra.centre_mm - reach, vertebra.centre_mm + reach]
    ends += [vertebra.centre_mm + h * vertebra.axes[:, 2] for h in (shape.lower - 4.0, shape.upper + 4.0)]
    for piece in pieces:
        ends += list(piece.bounds(0.0))
    return np.min(ends, axis=0) - _MARGIN_MM, np.max(ends, axis=0) + _MARGIN_MM


def _local(lattice: Lattice, vertebra: ModelledVertebra) -> list[NDArray[np.float32]]:
    """Returns coordinates to the left, to the back and up along the spine, relative to the centre of the body."""
    parts = [axis - np.float32(centre) for axis, centre in zip(lattice.axes(), vertebra.centre_mm, strict=True)]
    columns = vertebra.axes.T.astype(np.float32)
    return [row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2] for row in columns]


def _body_distance(
    local: list[NDArray[np.float32]], shape: VertebraShape
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the signed distance from the body and the radius relative to the outline of its end plates."""
    left, dorsal, height = local
    middle, half = (shape.upper + shape.lower) / 2, (shape.upper - shape.lower) / 2
    across, along = np.abs(left) / np.float32(shape.half_width), dorsal / np.float32(shape.half_depth)
    # The dorsal face is hollow towards the spinal canal.
    hollow = 1 + np.float32(_DORSAL_HOLLOW) * np.clip(along, 0, 1) * np.clip(1 - across, 0, 1)
    radius = ((across**_SQUARENESS + (np.abs(along) * hollow) ** _SQUARENESS) ** (1 / _SQUARENESS)).astype(np.float32)
    radius = np.maximum(radius, np.float32(1e-3))
    level = np.clip((height - np.float32(middle)) / np.float32(half), -1, 1)
    waist = 1 - np.float32(_WAIST) * (1 - level**2)
    length = np.sqrt(left**2 + dorsal**2)
    side = length * (1 - waist / radius)
    dip = np.float32(shape.concavity) * np.clip(1 - (radius / 0.85) ** 2, 0, 1)
    end = np.abs(height - np.float32(middle)) - np.float32(half) + dip
    return -smooth_union(-side, -end, _EDGE_MM), radius


def _body_hu(
    depth: NDArray[np.float32],
    height: NDArray[np.float32],
    rho: NDArray[np.float32],
    grain: NDArray[np.float32],
    shape: VertebraShape,
    degeneration: float,
) -> NDArray[np.float32]:
    middle, half = (shape.upper + shape.lower) / 2, (shape.upper - shape.lower) / 2
    dip = shape.concavity * np.clip(1 - (rho / 0.85) ** 2, 0, 1)
    below_plate = np.clip(half - dip - np.abs(height - middle), 0, None)
    core = _CORE_HU + _NEAR_PLATE_HU * np.exp(-below_plate / _PLATE_GRADIENT_MM) + _CORE_TEXTURE_HU * grain
    core += _CENTRE_HU * np.clip(1 - rho, 0, 1)
    wall = np.clip(_WALL_MM - depth + 0.5, 0, 1)
    plate = np.clip(_PLATE_MM + 1.2 * degeneration - below_plate + 0.5, 0, 1)
    plate_hu = _PLATE_HU + _RIM_HU * np.clip((rho - 0.7) / 0.2, 0, 1)
    hu = core + wall * (_WALL_HU - core)
    return np.asarray(hu + plate * (plate_hu - hu), np.float32)


def _arch_hu(
    depth: NDArray[np.float32], spinous: NDArray[np.float32], texture: NDArray[np.float32]
) -> NDArray[np.float32]:
    # `spinous` is 0 in the pedicles and 1 in the spinous process.
    thickness, wall_hu, core_hu = (
        low + spinous * (high - low) for low, high in (_ARCH_WALL_MM, _ARCH_WALL_HU, _ARCH_CORE_HU)
    )
    wall = np.clip(thickness - depth + 0.5, 0, 1)
    core = core_hu + _ARCH_TEXTURE_HU * texture
    return np.asarray(core + wall * (wall_hu - core), np.float32)
