"""The map from skeleton coordinates (myo-sim at rest) to patient coordinates, both LPS mm.

The trunk is scaled and bent along the spine, the head is rotated on the neck. Every point of the trunk (bones,
landmarks, tables of organs) goes through `Frame.to_patient`, of the head through `Frame.head_to_patient` and of the
neck through `Frame.neck_to_patient`. `Frame.at_height` takes a height in the patient. Radii are multiplied by
`Frame.size`.
The patient is upright with T12 below T1; `carm_env.anatomy.table_pose` moves the finished volume to the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.painting.shapes import rotation

_LEVELS_MM = np.arange(780.0, 1841.0, 4.0)
_NECK_MM = (1500.0, 1596.0)
"""Between these heights the neck follows the trunk less and the head more."""
_ITERATIONS = 6


@dataclass(frozen=True, eq=False)
class Spine:
    """The spine of the skeleton at rest, LPS mm.

    Attributes:
        points_mm: ``(17, 3)`` centres of the vertebral bodies from L5 up to T1.
    """

    points_mm: NDArray[np.float64]

    @property
    def heights_mm(self) -> tuple[float, float, float]:
        """Heights of L5, T12 and T1."""
        return float(self.points_mm[0, 2]), float(self.points_mm[5, 2]), float(self.points_mm[-1, 2])

    def depth_mm(self, heights_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the LPS y of the spine at heights; constant beyond the ends."""
        return np.interp(heights_mm, self.points_mm[:, 2], self.points_mm[:, 1])


@dataclass(frozen=True, eq=False)
class Frame:
    """The map from skeleton coordinates to patient coordinates, both LPS mm.

    Attributes:
        size: scale of radii and short distances.
        width, depth: scale of the trunk along x and y.
        levels_mm: ``(n,)`` heights in the skeleton at which the next three arrays are sampled.
        spine_y_mm: ``(n,)`` y of the spine in the skeleton.
        centres_mm: ``(n, 3)`` spine in the patient.
        rotations: ``(n, 3, 3)`` rotation of each level of the trunk.
        head_matrix: ``(3, 3)`` rotation times scale of the head.
        head_offset_mm: ``(3,)`` translation of the head.
    """

    size: float
    width: float
    depth: float
    levels_mm: NDArray[np.float64]
    spine_y_mm: NDArray[np.float64]
    centres_mm: NDArray[np.float64]
    rotations: NDArray[np.float64]
    head_matrix: NDArray[np.float64]
    head_offset_mm: NDArray[np.float64]

    @property
    def head_size(self) -> float:
        """Scale of the head."""
        return float(np.cbrt(np.linalg.det(self.head_matrix)))

    @property
    def head_rotation(self) -> NDArray[np.float64]:
        """``(3, 3)`` rotation of the head."""
        return self.head_matrix / self.head_size

    def to_patient(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the trunk; each level moves rigidly with its vertebra."""
        points = np.asarray(points_mm, float)
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        left = self.width * x
        dorsal = self.depth * (y - np.interp(z, self.levels_mm, self.spine_y_mm))
        mapped = np.empty_like(points)
        for axis in range(3):
            centre = _extended(z, self.levels_mm, self.centres_mm[:, axis])
            left_axis = np.interp(z, self.levels_mm, self.rotations[:, axis, 0])
            dorsal_axis = np.interp(z, self.levels_mm, self.rotations[:, axis, 1])
            mapped[..., axis] = centre + left_axis * left + dorsal_axis * dorsal
        return mapped

    def level(self, heights_mm: ArrayLike) -> NDArray[np.float64]:
        """Maps heights in the patient, along the spine, to heights in the skeleton."""
        return _extended(np.asarray(heights_mm, float), self.centres_mm[:, 2], self.levels_mm)

    def height(self, level_mm: float, y_mm: float = 200.0) -> float:
        """Maps a point of the midplane, given by height and y in the skeleton, to its height in the patient."""
        return float(self.to_patient([0.0, y_mm, level_mm])[2])

    def at_height(self, x_mm: float, y_mm: float, height_mm: float) -> NDArray[np.float64]:
        """Returns the point ``(3,)`` in the patient at ``x``, ``y`` in the skeleton and a height in the patient."""
        level = float(self.level(height_mm))
        for _ in range(_ITERATIONS):
            level += (height_mm - float(self.to_patient([x_mm, y_mm, level])[2])) / self._stretch(level)
        point = self.to_patient([x_mm, y_mm, level])
        point[2] = height_mm
        return point

    def _stretch(self, level_mm: float) -> float:
        above, below = _extended(np.array([level_mm + 4.0, level_mm - 4.0]), self.levels_mm, self.centres_mm[:, 2])
        return float(above - below) / 8.0

    def head_to_patient(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the head."""
        return np.asarray(points_mm, float) @ self.head_matrix.T + self.head_offset_mm

    def head_from_patient(
        self, axes_mm: tuple[NDArray[np.floating], ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Maps patient coordinates to skeleton coordinates of the head; the inverse of `head_to_patient`.

        Args:
            axes_mm: broadcastable x, y and z in the patient.
        """
        inverse = np.linalg.inv(self.head_matrix)
        moved = [axis - offset for axis, offset in zip(axes_mm, self.head_offset_mm, strict=True)]
        x, y, z = ((row[0] * moved[0] + row[1] * moved[1] + row[2] * moved[2]).astype(np.float32) for row in inverse)
        return x, y, z

    def neck_to_patient(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Maps points ``(..., 3)`` of the neck, a blend of the maps of trunk and head."""
        points = np.asarray(points_mm, float)
        weight = _smoothstep((points[..., 2:3] - _NECK_MM[0]) / (_NECK_MM[1] - _NECK_MM[0]))
        return (1 - weight) * self.to_patient(points) + weight * self.head_to_patient(points)


def _extended(
    values: NDArray[np.float64], known: NDArray[np.float64], result: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolates linearly and extrapolates with the slopes at the ends."""
    inside = np.interp(values, known, result)
    first = (result[1] - result[0]) / (known[1] - known[0])
    last = (result[-1] - result[-2]) / (known[-1] - known[-2])
    return inside + np.minimum(values - known[0], 0) * first + np.maximum(values - known[-1], 0) * last


def _smoothstep(t: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def make_frame(
    spine: Spine,
    *,
    size: float,
    width: float,
    depth: float,
    t1_above_t12_mm: float,
    kyphosis_deg: float,
    scoliosis_mm: float,
) -> Frame:
    """Scales and bends the trunk. `with_head` places the head.

    Args:
        spine: spine of the skeleton.
        size: scale of radii and of everything but the trunk.
        width: scale of the trunk along x.
        depth: scale of the trunk along y.
        t1_above_t12_mm: height of T1 above T12 in the patient, mm; determines the scale along z.
        kyphosis_deg: additional flexion between T12 and T1, degrees, compensated by lumbar spine and neck.
        scoliosis_mm: lateral displacement of the middle of the thoracic spine from the line from T12 to T1, mm,
            positive to the left.
    """
    low, t12, t1 = spine.heights_mm
    levels = _LEVELS_MM
    y = spine.depth_mm(levels)
    half = np.deg2rad(kyphosis_deg) / 2
    flexion = half * (2 * _smoothstep((levels - t12) / (t1 - t12)) - _smoothstep((levels - low) / (t12 - low)))
    fraction = np.clip((levels - t12) / (t1 - t12), 0, 1)
    height = t1_above_t12_mm / (t1 - t12)
    anchor = np.array([0.0, depth * float(np.interp(t12, levels, y)), t12 * size])
    for _ in range(_ITERATIONS):
        lateral = np.arctan(scoliosis_mm * np.pi * np.sin(2 * np.pi * fraction) / (height * (t1 - t12)))
        rotations = _rotations(flexion, lateral)
        tangent = np.stack([np.zeros_like(y), depth * np.gradient(y, levels), np.full_like(y, height)], axis=-1)
        steps = np.einsum("nij,nj->ni", rotations, tangent)
        middle = 0.5 * (steps[1:] + steps[:-1]) * np.diff(levels)[:, None]
        centres = np.concatenate([np.zeros((1, 3)), np.cumsum(middle, axis=0)])
        centres += anchor - _at(levels, centres, t12)
        reached = _at(levels, centres, t1) - _at(levels, centres, t12)
        height *= t1_above_t12_mm / float(reached[2])
    # Removes the rounding error that leaves T1 slightly lateral to T12.
    centres[:, 0] -= reached[0] * fraction
    return Frame(size, width, depth, levels, y, centres, rotations, size * np.eye(3), np.zeros(3))


def _at(levels: NDArray[np.float64], rows: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    return np.array([np.interp(level, levels, rows[:, axis]) for axis in range(3)])


def _rotations(flexion: NDArray[np.float64], lateral: NDArray[np.float64]) -> NDArray[np.float64]:
    # Flexion moves the parts above towards -y, lateral bending towards +x.
    rotations = np.empty((len(flexion), 3, 3))
    for number, (forwards, leftwards) in enumerate(zip(np.rad2deg(flexion), np.rad2deg(lateral), strict=True)):
        rotations[number] = rotation(1, leftwards) @ rotation(0, forwards)
    return rotations


def with_head(
    frame: Frame,
    *,
    scale: float,
    centre_mm: NDArray[np.float64],
    target_mm: NDArray[np.float64],
    turn_deg: float,
    nod_deg: float,
    tilt_deg: float,
) -> Frame:
    """Returns the frame with the head scaled, rotated and moved.

    Args:
        frame: frame of the trunk.
        scale: scale of the head.
        centre_mm: ``(3,)`` a point of the head in the skeleton.
        target_mm: ``(3,)`` position of that point in the patient.
        turn_deg: rotation about the long axis, positive to the patient's left.
        nod_deg: flexion, positive with the chin towards the chest.
        tilt_deg: lateral tilt, positive with the vertex towards the patient's left.
    """
    matrix = scale * rotation(2, turn_deg) @ rotation(1, tilt_deg) @ rotation(0, nod_deg)
    offset = target_mm - matrix @ centre_mm
    return replace(frame, head_matrix=matrix, head_offset_mm=offset)


def table_rotation(askew_deg: float, roll_deg: float) -> NDArray[np.float64]:
    """Returns the rotation ``(3, 3)`` from the upright patient to the patient on the table.

    Args:
        askew_deg: rotation on the table, positive with the head to the left.
        roll_deg: rotation about the long axis, positive with the right side raised.
    """
    return rotation(1, askew_deg) @ rotation(2, roll_deg)
