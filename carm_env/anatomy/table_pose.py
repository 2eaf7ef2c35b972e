"""The pose of a patient on the table: a rigid motion of the finished volume, and the table itself.

Patients are built upright (T12 below T1); on the table they are askew, rolled and off centre. The volume is resampled
once, which replaces the blur of `Canvas.finish`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.frame import table_rotation
from carm_env.system.compilation import compiled

MATTRESS_MM, TABLE_TOP_MM, TABLE_WALL_MM = 25.0, 40.0, 2.0
_TABLE_HALF_WIDTH_MM = 215.0
_TABLE_CURVE_MM = 26.0
"""Height of the sides of the cradle above its middle."""
_MATTRESS_HU, _CARBON_HU, _FOAM_HU = -910.0, 250.0, -940.0
"""Polyurethane foam, carbon-fibre shell and rigid-foam core."""


@dataclass(frozen=True, eq=False)
class TablePose:
    """A rigid motion: a rotation about a pivot, then a translation.

    Attributes:
        rotation: ``(3, 3)`` rotation matrix.
        pivot_mm: ``(3,)`` fixed point of the rotation, LPS mm.
        shift_mm: ``(3,)`` translation, mm.
    """

    rotation: NDArray[np.float64]
    pivot_mm: NDArray[np.float64]
    shift_mm: NDArray[np.float64]

    @property
    def rotates(self) -> bool:
        """Whether the volume must be resampled; a translation only moves its origin."""
        return not np.allclose(self.rotation, np.eye(3), atol=1e-9)

    def apply(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the upright patient to the table, LPS mm."""
        return (points_mm - self.pivot_mm) @ self.rotation.T + self.pivot_mm + self.shift_mm

    def undo(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` on the table to the upright patient; the inverse of `apply`."""
        return (points_mm - self.pivot_mm - self.shift_mm) @ self.rotation + self.pivot_mm


def make_table_pose(body: Body, parameters: PatientParameters) -> TablePose:
    """Returns the table pose of a patient: askew, rolled, off centre."""
    matrix = table_rotation(parameters.askew_deg, parameters.roll_deg)
    pivot = (body.landmarks_mm["T1"] + body.landmarks_mm["T12"]) / 2
    return TablePose(matrix, pivot, np.array([parameters.off_centre_mm, 0.0, 0.0]))


@compiled
def _resample(
    hu: NDArray[np.float32], out: NDArray[np.float32], matrix: NDArray[np.float64], offset: NDArray[np.float64]
) -> None:
    nx, ny, nz = hu.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x = matrix[0, 0] * i + matrix[0, 1] * j + matrix[0, 2] * k + offset[0]
                y = matrix[1, 0] * i + matrix[1, 1] * j + matrix[1, 2] * k + offset[1]
                z = matrix[2, 0] * i + matrix[2, 1] * j + matrix[2, 2] * k + offset[2]
                if not (0.0 <= x < nx - 1 and 0.0 <= y < ny - 1 and 0.0 <= z < nz - 1):
                    continue
                a, b, c = int(x), int(y), int(z)
                u, v, w = x - a, y - b, z - c
                low = (hu[a, b, c] * (1 - w) + hu[a, b, c + 1] * w) * (1 - v) + (
                    hu[a, b + 1, c] * (1 - w) + hu[a, b + 1, c + 1] * w
                ) * v
                high = (hu[a + 1, b, c] * (1 - w) + hu[a + 1, b, c + 1] * w) * (1 - v) + (
                    hu[a + 1, b + 1, c] * (1 - w) + hu[a + 1, b + 1, c + 1] * w
                ) * v
                out[i, j, k] = np.float32(low * (1 - u) + high * u)


def apply_table_pose(hu: NDArray[np.int16], lattice: Lattice, pose: TablePose) -> tuple[NDArray[np.int16], Lattice]:
    """Moves a volume to the table; the new lattice contains all of it but the corners below the hips."""
    moved = Lattice(lattice.origin_mm + pose.shift_mm, lattice.spacing_mm, lattice.shape)
    if not pose.rotates:
        return hu, moved
    ends = np.stack([lattice.origin_mm, lattice.end_mm])
    corners = np.array([[ends[a, 0], ends[b, 1], ends[c, 2]] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    corners_mm = pose.apply(corners)
    low, high = corners_mm.min(0), corners_mm.max(0)
    # The lower end is cut perpendicular to the table, without a wedge of air at the hips.
    low[2] = corners_mm[corners[:, 2] == ends[0, 2]][:, 2].max()
    step = lattice.spacing_mm
    count = np.ceil((high - low) / step).astype(int) + 1
    moved = Lattice(low, step, (int(count[0]), int(count[1]), int(count[2])))
    first = (pose.undo(low) - lattice.origin_mm) / step
    resampled = np.full(moved.shape, np.float32(tissue.AIR))
    _resample(hu.astype(np.float32), resampled, np.ascontiguousarray(pose.rotation.T), first)
    return np.rint(resampled).astype(np.int16), moved


def add_table(hu: NDArray[np.int16], lattice: Lattice) -> tuple[NDArray[np.int16], Lattice]:
    """Adds a carbon-fibre cradle and a mattress, as wide as a CT table, below the patient; extends the volume."""
    step = lattice.spacing_mm
    body_rows = np.flatnonzero((hu > -500).any(axis=(0, 2)))
    back = float(lattice.axis(1)[body_rows[-1]])
    depth = MATTRESS_MM + TABLE_TOP_MM + 3 * step
    x_low = min(float(lattice.origin_mm[0]), -_TABLE_HALF_WIDTH_MM - 3 * step)
    x_high = max(float(lattice.end_mm[0]), _TABLE_HALF_WIDTH_MM + 3 * step)
    before = int(np.ceil((lattice.origin_mm[0] - x_low) / step))
    after = int(np.ceil((x_high - lattice.end_mm[0]) / step))
    below = max(0, int(np.ceil((back + depth - lattice.end_mm[1]) / step)))
    extended = np.pad(hu, ((before, after), (0, below), (0, 0)), constant_values=np.int16(tissue.AIR))
    origin = lattice.origin_mm - [before * step, 0, 0]
    wide = Lattice(origin, step, (extended.shape[0], extended.shape[1], extended.shape[2]))
    x, y, _ = wide.axes()
    rise = _TABLE_CURVE_MM * (x / _TABLE_HALF_WIDTH_MM) ** 2
    under = (y - back + rise)[:, :, 0]
    across = (np.abs(x) - _TABLE_HALF_WIDTH_MM)[:, :, 0]
    section = np.full(under.shape, tissue.AIR)
    section[(under > 0) & (under <= MATTRESS_MM) & (across < -4)] = _MATTRESS_HU
    top = (under > MATTRESS_MM) & (under <= MATTRESS_MM + TABLE_TOP_MM) & (across < 0)
    wall = (under <= MATTRESS_MM + TABLE_WALL_MM) | (under > MATTRESS_MM + TABLE_TOP_MM - TABLE_WALL_MM)
    wall |= across > -TABLE_WALL_MM
    section[top] = _FOAM_HU
    section[top & wall] = _CARBON_HU
    # The body sinks into the mattress.
    with_table = np.maximum(extended, section[:, :, None].astype(np.int16))
    return np.where(extended > -500, extended, with_table), wide
