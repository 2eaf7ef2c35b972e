"""The smooth deformation of a patient with bones of another family: a diffeomorphism of the finished body.

A few waves of low spatial frequency displace bones, organs, skin and landmarks alike. The displacement is scaled so
that its strain stays below `MAX_STRAIN` everywhere. It is then a contraction: no two points meet, the Jacobian is
positive, and fixed-point iteration finds the inverse. `carm_env.anatomy.skeleton.bone_shapes` changes single bones
before.

Number and length of the waves and both bounds were chosen by hand, so that deformed bodies look like people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.table_pose import TablePose
from carm_env.system.compilation import compiled

MAX_STRAIN = 0.4
"""Largest spectral norm of the displacement's gradient; below 1 the deformation is invertible."""
MAX_SHIFT_MM = 28.0
"""Largest displacement."""

_WAVES = 9
_WAVELENGTH_MM = (200.0, 520.0)
_ASYMMETRY = 0.3
"""Amplitude of the part that deforms right and left differently, relative to the symmetric part."""
_PURPOSE = 0x77617270
_REACH_MM = np.array([330.0, 220.0, 700.0])
"""Half the size of the box, centred on the pivot, in which the bounds are checked."""
_STEP_MM = 30.0
_GRID_MM = 12.0
_ITERATIONS = 16
_ROUNDED_MM = 3
"""Decimals of the inverse displacement, which removes the last bits that differ between processors."""


@dataclass(frozen=True, eq=False)
class Warp:
    """A smooth, invertible deformation: a sum of waves.

    Attributes:
        pivot_mm: ``(3,)`` point that the waves refer to, LPS mm; in the midplane of the upright patient.
        waves: ``(n, 3)`` wave vectors, radians per mm.
        phases: ``(n, 2)`` phase of the symmetric and of the asymmetric part.
        amplitudes_mm: ``(n, 2, 3)`` amplitude of both parts along x, y and z.
    """

    pivot_mm: NDArray[np.float64]
    waves: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitudes_mm: NDArray[np.float64]

    def displacement(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the displacement ``(..., 3)`` of points ``(..., 3)`` of the upright patient, mm."""
        x, y, z = np.moveaxis(points_mm - self.pivot_mm, -1, 0)
        total = np.zeros(points_mm.shape)
        for wave, phases, amplitudes in zip(self.waves, self.phases, self.amplitudes_mm, strict=True):
            odd, even = np.sin(wave[0] * x), np.cos(wave[0] * x)
            along = wave[1] * y + wave[2] * z
            # The mirror image of a symmetric displacement is the displacement of the mirror image.
            for across, rest, phase, amplitude in zip((odd, even), (even, odd), phases, amplitudes, strict=True):
                level = np.sin(along + phase)
                total[..., 0] += amplitude[0] * across * level
                total[..., 1] += amplitude[1] * rest * level
                total[..., 2] += amplitude[2] * rest * level
        return total

    def apply(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the upright patient to the deformed patient, LPS mm."""
        return points_mm + self.displacement(points_mm)

    def undo(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the deformed patient to the upright patient; the inverse of `apply`."""
        found = points_mm
        for _ in range(_ITERATIONS):
            found = points_mm - self.displacement(found)
        return found

    def gradient(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the derivative ``(..., 3, 3)`` of the displacement: row = component, column = direction."""
        columns = []
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 0.5
            columns.append(self.displacement(points_mm + step) - self.displacement(points_mm - step))
        return np.stack(columns, axis=-1)


def make_warp(seed: int, pivot_mm: NDArray[np.float64]) -> Warp:
    """Draws the deformation of a seed.

    Args:
        seed: the patient's ``warp``, from 1.
        pivot_mm: ``(3,)`` point between T1 and T12 of the patient.
    """
    rng = np.random.default_rng([seed, _PURPOSE])
    length = rng.uniform(*_WAVELENGTH_MM, _WAVES)
    direction = rng.normal(size=(_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, (_WAVES, 2))
    amplitudes = rng.normal(size=(_WAVES, 2, 3)) * [[1.0], [_ASYMMETRY]]
    # Equal strain of long and short waves.
    amplitudes *= length[:, None, None] / _WAVELENGTH_MM[1]
    raw = Warp(pivot_mm, 2 * np.pi / length[:, None] * direction, phases, amplitudes)
    axes = [np.arange(-reach, reach + 1, _STEP_MM) for reach in _REACH_MM]
    points = pivot_mm + np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    strain = float(np.linalg.norm(raw.gradient(points), ord=2, axis=(-2, -1)).max())
    shift = float(np.linalg.norm(raw.displacement(points), axis=-1).max())
    factor = min(MAX_STRAIN / strain, MAX_SHIFT_MM / shift)
    return Warp(pivot_mm, raw.waves, phases, (factor * amplitudes).round(4))


def body_warp(body: Body, seed: int) -> Warp | None:
    """Returns the deformation of a patient; None for seed 0."""
    return make_warp(seed, (body.landmarks_mm["T1"] + body.landmarks_mm["T12"]) / 2) if seed else None


@compiled
def _resample(
    hu: NDArray[np.float32], out: NDArray[np.float32], shift: NDArray[np.float32], matrix: NDArray[np.float64],
    offset: NDArray[np.float64], coarse: NDArray[np.float64],
) -> None:  # fmt: skip
    # A voxel of `out` is at `matrix @ (i, j, k) + offset` voxels of `hu`, plus the interpolated inverse displacement
    # `shift`, in voxels; `coarse` is origin and spacing of `shift`, in voxels of `hu`.
    nx, ny, nz = hu.shape
    at = np.empty(3)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for axis in range(3):
                    at[axis] = matrix[axis, 0] * i + matrix[axis, 1] * j + matrix[axis, 2] * k + offset[axis]
                u, v, w = (
                    (at[0] - coarse[0]) / coarse[3],
                    (at[1] - coarse[1]) / coarse[3],
                    (at[2] - coarse[2]) / coarse[3],
                )
                u = min(max(u, 0.0), shift.shape[0] - 1.001)
                v = min(max(v, 0.0), shift.shape[1] - 1.001)
                w = min(max(w, 0.0), shift.shape[2] - 1.001)
                a, b, c = int(u), int(v), int(w)
                u, v, w = u - a, v - b, w - c
                for axis in range(3):
                    low = (shift[a, b, c, axis] * (1 - w) + shift[a, b, c + 1, axis] * w) * (1 - v) + (
                        shift[a, b + 1, c, axis] * (1 - w) + shift[a, b + 1, c + 1, axis] * w
                    ) * v
                    high = (shift[a + 1, b, c, axis] * (1 - w) + shift[a + 1, b, c + 1, axis] * w) * (1 - v) + (
                        shift[a + 1, b + 1, c, axis] * (1 - w) + shift[a + 1, b + 1, c + 1, axis] * w
                    ) * v
                    at[axis] += low * (1 - u) + high * u
                x, y, z = at[0], at[1], at[2]
                if not (0.0 <= x < nx - 1 and 0.0 <= y < ny - 1 and 0.0 <= z < nz - 1):
                    continue
                a, b, c = int(x), int(y), int(z)
                u, v, w = x - a, y - b, z - c
                near = (hu[a, b, c] * (1 - w) + hu[a, b, c + 1] * w) * (1 - v) + (
                    hu[a, b + 1, c] * (1 - w) + hu[a, b + 1, c + 1] * w
                ) * v
                far = (hu[a + 1, b, c] * (1 - w) + hu[a + 1, b, c + 1] * w) * (1 - v) + (
                    hu[a + 1, b + 1, c] * (1 - w) + hu[a + 1, b + 1, c + 1] * w
                ) * v
                out[i, j, k] = np.float32(near * (1 - u) + far * u)


def warp_to_table(
    hu: NDArray[np.int16], lattice: Lattice, warp: Warp, pose: TablePose
) -> tuple[NDArray[np.int16], Lattice]:
    """Deforms a volume and moves it to the table, in one resampling.

    Args:
        hu: volume of the upright patient.
        lattice: its lattice.
        warp: the deformation.
        pose: the table pose.

    Returns:
        The volume and its lattice, which contains all of the body but a wedge below the hips.
    """
    step = lattice.spacing_mm
    surface = _box_surface(lattice)
    on_table = pose.apply(warp.apply(surface))
    low, high = on_table.min(0), on_table.max(0)
    # The lower end is cut perpendicular to the table, without a wedge of air at the hips.
    low[2] = on_table[surface[:, 2] == lattice.origin_mm[2]][:, 2].max()
    count = np.ceil((high - low) / step).astype(int) + 1
    moved = Lattice(low, step, (int(count[0]), int(count[1]), int(count[2])))

    deformed = warp.apply(surface)
    first = deformed.min(0) - _GRID_MM
    axes = [np.arange(a, b + 2 * _GRID_MM, _GRID_MM) for a, b in zip(first, deformed.max(0), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    shift = ((warp.undo(grid) - grid).round(_ROUNDED_MM) / step).astype(np.float32)
    coarse = np.array([*((first - lattice.origin_mm) / step), _GRID_MM / step])
    offset = (pose.undo(low) - lattice.origin_mm) / step
    out = np.full(moved.shape, np.float32(tissue.AIR))
    _resample(hu.astype(np.float32), out, shift, np.ascontiguousarray(pose.rotation.T), offset, coarse)
    return np.rint(out).astype(np.int16), moved


def _box_surface(lattice: Lattice) -> NDArray[np.float64]:
    """Returns points ``(n, 3)`` on the faces of a lattice's box, LPS mm."""
    ends = np.stack([lattice.origin_mm, lattice.end_mm])
    axes = [np.linspace(a, b, max(int((b - a) / _STEP_MM), 2)) for a, b in ends.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid[((grid == ends[0]) | (grid == ends[1])).any(axis=1)]
