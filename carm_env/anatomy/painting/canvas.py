"""The volume during the build: tissues are painted over one another by volume fraction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.lattice import Box, Lattice
from carm_env.anatomy.painting.shapes import Field, Shape
from carm_env.system.compilation import compiled

TILE = 96
"""Period of the textures, in voxels or in samples of bone."""

SAMPLES_PER_VOXEL = 2
"""Samples of bone per voxel along each axis; a cortex is thinner than a voxel."""

_AVERAGING, _INTERPOLATION = 1 / 24, 1 / 12
"""Half the variance, in squared voxels, of the average over a voxel and of a linear interpolation."""
_NOISE_HU, _NOISE_VOXEL_MM = 6.0, 2.0
"""Standard noise_std of the noise at this voxel size. At equal dose it grows with voxel volume to the power -1/2."""
_COARSE_GRAIN_MM, _FINE_GRAIN_MM = 5.0, 1.0
_CLEAR_AIR_MM = 3.0
"""Farther from the skin the volume holds exactly air, so that projectors can skip empty rows."""
_QUIET_SKIN_MM = 1.0
"""Noise starts at this depth, so that the edge of the skin stays smooth."""


@compiled
def _coarse_distance(distance: NDArray[np.float32], i: int, j: int, k: int) -> float:
    # Linear interpolation of a coarse field at a point of the fine lattice.
    i0, i1, j0, j1, k0, k1 = i >> 1, (i + 1) >> 1, j >> 1, (j + 1) >> 1, k >> 1, (k + 1) >> 1
    return 0.125 * (
        distance[i0, j0, k0] + distance[i0, j0, k1] + distance[i0, j1, k0] + distance[i0, j1, k1]
        + distance[i1, j0, k0] + distance[i1, j0, k1] + distance[i1, j1, k0] + distance[i1, j1, k1]
    )  # fmt: skip


@compiled
def _paint_coarse(
    hu: NDArray[np.float32], distance: NDArray[np.float32], value: NDArray[np.float32], tile: NDArray[np.float32],
    amplitude: float, edge: float, reach: float,
) -> None:  # fmt: skip
    nx, ny, nz = hu.shape
    size = tile.shape[0]
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                near = distance[i >> 1, j >> 1, k >> 1]
                if near > reach:
                    continue
                if near > -reach:
                    near = _coarse_distance(distance, i, j, k)
                fraction = 0.5 - near / edge
                if fraction <= 0.0:
                    continue
                fraction = min(fraction, 1.0)
                target = value[j] + amplitude * tile[i % size, j % size, k % size]
                hu[i, j, k] += np.float32(fraction * (target - hu[i, j, k]))


@compiled
def _paint_fine(
    hu: NDArray[np.float32], distance: NDArray[np.float32], value: float, tile: NDArray[np.float32], amplitude: float,
    edge: float,
) -> None:  # fmt: skip
    nx, ny, nz = hu.shape
    size = tile.shape[0]
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                fraction = 0.5 - distance[i, j, k] / edge
                if fraction > 0.0:
                    target = value + amplitude * tile[i % size, j % size, k % size]
                    hu[i, j, k] += np.float32(min(fraction, 1.0) * (target - hu[i, j, k]))


@compiled
def _merge_bone(hu: NDArray[np.float32], fraction: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    for i in range(hu.shape[0]):
        for j in range(hu.shape[1]):
            for k in range(hu.shape[2]):
                share = fraction[i, j, k]
                if share > 0.0:
                    target = total[i, j, k] / max(share, np.float32(1e-3))
                    hu[i, j, k] += min(share, np.float32(1.0)) * (target - hu[i, j, k])


def _grains(rng: np.random.Generator, width: float) -> NDArray[np.float32]:
    from scipy import ndimage

    grain = ndimage.gaussian_filter(rng.standard_normal((TILE,) * 3).astype(np.float32), width, mode="wrap")
    return (grain / grain.std()).astype(np.float32)


class Canvas:
    """Hounsfield units on the fine lattice, and the bone collected for `merge_bone`.

    Attributes:
        coarse: lattice of large structures.
        fine: lattice of the volume.
        hu: float32 on the fine lattice, initially air.
        bone_fraction: volume fraction of bone in each voxel.
        bone_hu: sum of bone fraction times its HU.
        coarse_texture: periodic noise of unit variance on the fine lattice, grains of about 5 mm.
        sample_texture: periodic noise of unit variance on the samples of bone, grains of about 1 mm.
    """

    def __init__(self, coarse: Lattice, fine: Lattice, rng: np.random.Generator) -> None:
        self.coarse, self.fine = coarse, fine
        self.hu = np.full(fine.shape, tissue.AIR, np.float32)
        self.bone_fraction = np.zeros(fine.shape, np.float32)
        self.bone_hu = np.zeros(fine.shape, np.float32)
        self.coarse_texture = _grains(rng, _COARSE_GRAIN_MM / fine.spacing_mm)
        self.sample_texture = _grains(rng, _FINE_GRAIN_MM / (fine.spacing_mm / SAMPLES_PER_VOXEL))

    def paint(
        self,
        distance: NDArray[np.float32],
        hu: float | NDArray[np.float32],
        texture_hu: float = 0.0,
        edge_mm: float | None = None,
    ) -> None:
        """Paints a tissue.

        Args:
            distance: signed distance from its surface on the coarse lattice, mm.
            hu: HU, one value or one per y of the fine lattice.
            texture_hu: standard noise_std of the texture, HU.
            edge_mm: width over which the volume fraction falls from one to zero at the surface; by default one
                voxel, which is the partial volume effect.
        """
        value = np.full(self.fine.shape[1], hu, np.float32)
        edge = self.fine.spacing_mm if edge_mm is None else edge_mm
        reach = max(2.0 * self.coarse.spacing_mm, edge)
        solid = np.ascontiguousarray(distance, dtype=np.float32)
        _paint_coarse(self.hu, solid, value, self.coarse_texture, texture_hu, edge, reach)

    def paint_shell(self, distance: NDArray[np.float32], depth_mm: float, half_width_mm: float, hu: float) -> None:
        """Paints a thin layer `depth_mm` below a surface that is given on the coarse lattice."""
        self.paint(
            np.abs(distance + np.float32(depth_mm)) - np.float32(half_width_mm), hu, edge_mm=1.5 * self.fine.spacing_mm
        )

    def paint_box(self, field: Field, box: Box, hu: float, texture_hu: float = 0.0) -> None:
        """Paints a tissue in a box of the volume, given its field on that box of the fine lattice."""
        if field.values.size:
            _paint_fine(self.hu[box], field.values, hu, self.coarse_texture, texture_hu, self.fine.spacing_mm)

    def paint_fraction(self, box: Box, fraction: NDArray[np.float32], hu: float) -> None:
        """Paints a tissue in a box of the volume, given its volume fraction."""
        self.hu[box] += fraction * (np.float32(hu) - self.hu[box])

    def add_bone_shape(self, shape: Shape, hu: float) -> None:
        """Adds a small solid piece of bone; where it meets other bone, the denser one remains."""
        field, box = Field.around(self.fine, [shape], margin_mm=4.0)
        fraction = np.clip(0.5 - field.values / self.fine.spacing_mm, 0, 1)
        total, share = self.bone_hu[box], self.bone_fraction[box]
        self.bone_hu[box] = np.where(fraction > 0.02, np.maximum(total, fraction * np.float32(hu)), total)
        self.bone_fraction[box] = np.maximum(share, fraction)

    def merge_bone(self) -> None:
        """Paints the collected bone over all other tissue."""
        _merge_bone(self.hu, self.bone_fraction, self.bone_hu)

    def sharpen(self, interpolations: int) -> None:
        """Compensates the blur by the average over a voxel and by linear interpolation; edges may overshoot.

        The kernel ``(-w, 1 + 2 w, -w)`` along each axis has the sum one, which preserves mass, and the variance
        ``-2 w``, which is added to those of the average and of the interpolations.

        Args:
            interpolations: number of linear interpolations of the volume, by renderers and by resampling.
        """
        from scipy import ndimage

        weight = _AVERAGING + interpolations * _INTERPOLATION
        kernel = np.array([-weight, 1 + 2 * weight, -weight])
        for axis in range(3):
            ndimage.correlate1d(self.hu, kernel, axis=axis, output=self.hu, mode="nearest")

    def finish(self, skin: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int16]:
        """Returns the volume with noise in the body and clear air around it, as int16.

        Args:
            skin: signed distance from the skin on the coarse lattice, mm.
            rng: draws the noise.
        """
        noise = np.full(self.fine.shape, np.float32(0.0))
        rng.standard_normal(out=noise, dtype=np.float32)
        noise_std = _NOISE_HU * (_NOISE_VOXEL_MM / self.fine.spacing_mm) ** 1.5
        _finish(self.hu, noise, np.ascontiguousarray(skin), noise_std)
        return np.rint(self.hu, out=self.hu).astype(np.int16)


@compiled
def _finish(hu: NDArray[np.float32], noise: NDArray[np.float32], skin: NDArray[np.float32], noise_std: float) -> None:
    nx, ny, nz = hu.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                depth = _coarse_distance(skin, i, j, k)
                if depth > _CLEAR_AIR_MM:
                    hu[i, j, k] = tissue.AIR
                    continue
                if depth < -_QUIET_SKIN_MM:
                    hu[i, j, k] += np.float32(noise_std * noise[i, j, k])
                hu[i, j, k] = min(max(hu[i, j, k], tissue.AIR), tissue.HIGHEST)
