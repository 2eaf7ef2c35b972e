"""The chest: diaphragm and outlines of the lungs.

Heights in the tables are relative to the carina; lengths are in skeleton size (mm). `Thorax.points` maps them to the
patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import (
    Capsule,
    smooth_intersection,
    smooth_path,
    tube,
)
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import MEAN_SCALE, Body
from carm_env.anatomy.skeleton.frame import Frame, table_rotation
from carm_env.anatomy.skeleton.model import SIDES
from carm_env.landmarks import LANDMARKS

_CARINA_MM = (-3.5, 1434.6)
"""x and height of the carina of the mean patient, in skeleton coordinates."""
_CARINA_TO_SPINE_MM = 31.0
"""Distance of the carina from the centre of the vertebral body dorsal to it."""

_RIB_HALF_MM = 6.0
"""Distance from the middle of the ribs to the pleura."""
_APEX_MM = 1508.0

_DOME_Y_MM = 172.0
_DOME_DROP_MM = 38.0
_DOME_RADII_MM = {"medial": 80.0, "lateral": 58.0, "front": 98.0, "back": 84.0}
_RECESS_DEPTH_MM = {"front": 38.0, "back": 98.0}
_RECESS_CURVE = 0.0065
_CENTRAL_TENDON_MM = (12.0, 150.0, -24.0)
"""Centre of the flat part below the heart: x, y, height relative to the right dome."""


Move = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Diaphragm:
    """The diaphragm as a height z(x, y) in the patient, LPS mm.

    Attributes:
        apex_x_mm, apex_z_mm: x and z of the apex of each dome by side.
        middle_mm: x of the midplane and y of the apices.
        scale: scale of the body relative to the skeleton.
        slope: slope of each dome at its apex along x and y. It makes the apex the highest point on the table, where the
            annotators of the layout saw the patient, rather than in the upright body.
    """

    apex_x_mm: dict[str, float]
    apex_z_mm: dict[str, float]
    middle_mm: tuple[float, float]
    scale: float
    slope: tuple[float, float]

    def height_mm(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        """Returns the height (z) of the upper surface at broadcastable ``x``, ``y``, LPS mm."""
        scale = self.scale
        middle, summit_y = self.middle_mm
        x = x - middle
        dy = y - summit_y
        skeleton_y = dy / scale + _DOME_Y_MM
        depth = np.where(dy > 0, dy / (_DOME_RADII_MM["back"] * scale), dy / (_DOME_RADII_MM["front"] * scale))
        surface = None
        for side in SIDES:
            apex_x, apex_z = self.apex_x_mm[side] - middle, self.apex_z_mm[side]
            dx = x - apex_x
            lateral = dx * np.sign(apex_x) > 0
            radius = np.where(lateral, _DOME_RADII_MM["lateral"], _DOME_RADII_MM["medial"]) * scale
            level = (dx / radius) ** 2 + depth**2
            steepness = np.where(level > 1, 1 + 0.35 * (level - 1), 1.0)
            dome = apex_z - _DOME_DROP_MM * scale * level**1.15 * steepness
            dome = dome + self.slope[0] * dx + self.slope[1] * dy
            # The lower edge of the costophrenic recess is deepest dorsally, lateral to the spine.
            dorsal = np.clip((skeleton_y - 105.0) / 150.0, 0, 1)
            recess = _RECESS_DEPTH_MM["front"] + (_RECESS_DEPTH_MM["back"] - _RECESS_DEPTH_MM["front"]) * dorsal
            bend = _RECESS_CURVE / scale * (np.abs(x) - 78.0 * scale) ** 2
            floor = apex_z - recess * scale + bend
            dome = _smooth_maximum(dome, np.minimum(floor, apex_z - 14 * scale), 14.0)
            side_weight = 1 / (1 + np.exp(-np.sign(apex_x) * x / 8.0))
            surface = dome * side_weight if surface is None else surface + dome * side_weight
        assert surface is not None
        tx, ty, drop = _CENTRAL_TENDON_MM
        from_centre = (x - tx * scale) ** 2 + ((skeleton_y - ty) * scale) ** 2
        tendon = self.apex_z_mm["r"] + drop * scale - 0.006 / scale * from_centre
        return _smooth_maximum(surface, tendon, 12.0)

    def apex_mm(self, side: str, move: Move | None = None) -> NDArray[np.float64]:
        """Returns the highest point ``(3,)`` of a dome on the table, LPS mm of the upright body.

        Args:
            side: ``"r"`` or ``"l"``.
            move: deformation of the body, which maps points ``(..., 3)``.
        """
        x = self.apex_x_mm[side] + np.arange(-25, 25.5, 0.5)[:, None]
        y = self.middle_mm[1] + np.arange(-25, 25.5, 0.5)[None, :]
        heights = self.height_mm(x, y)
        if move is not None:
            surface = move(np.stack(np.broadcast_arrays(x, y, heights), axis=-1)).reshape(-1, 3)
            return surface[(surface[:, 2] - surface[:, :2] @ self.slope).argmax()]
        above = heights - self.slope[0] * x - self.slope[1] * y
        i, j = np.unravel_index(int(np.argmax(above)), heights.shape)
        return np.array([x[i, 0], y[0, j], heights[i, j]])


def _smooth_maximum(first: NDArray[np.floating], second: NDArray[np.floating], blend: float) -> NDArray[np.floating]:
    overlap = np.maximum(blend - np.abs(first - second), 0) / blend
    return np.maximum(first, second) + overlap * overlap * (blend / 4)


@dataclass(frozen=True, eq=False)
class Thorax:
    """Reference points and surfaces of the chest, LPS mm.

    Attributes:
        frame: map from skeleton coordinates to patient coordinates.
        shift_mm: ``(3,)`` displacement of the mediastinum relative to `frame`.
        carina_mm: ``(3,)`` bifurcation of the trachea.
        spine_mm: ``(17, 3)`` centres of the vertebral bodies from L5 up to T1.
        diaphragm: the diaphragm.
        heart_size: width of the heart relative to an average heart.
    """

    frame: Frame
    shift_mm: NDArray[np.float64]
    carina_mm: NDArray[np.float64]
    spine_mm: NDArray[np.float64]
    diaphragm: Diaphragm
    heart_size: float

    @property
    def scale(self) -> float:
        """Scale of radii relative to the skeleton."""
        return self.frame.size

    def points(self, table: ArrayLike) -> NDArray[np.float64]:
        """Maps rows ``(x, y, height above the carina[, radius])`` to the patient, LPS mm."""
        rows = np.array(table, float)
        skeleton_mm = rows[..., :3] + [0.0, 0.0, _CARINA_MM[1]]
        # The shift vanishes below the heart: abdominal organs do not follow the carina.
        weight = np.clip((rows[..., 2:3] + 170.0) / 120.0, 0, 1)
        rows[..., :3] = self.frame.to_patient(skeleton_mm) + weight * self.shift_mm
        rows[..., 3:] *= self.scale
        return rows

    def curved_tube(self, table: ArrayLike, grow_mm: float = 0.0) -> list[Capsule]:
        """Returns a smooth tube through rows ``(x, y, height above the carina, radius)``, widened by `grow_mm`."""
        path = smooth_path(self.points(table))
        return tube(path[:, :3], path[:, 3] + grow_mm)


def make_thorax(body: Body, parameters: PatientParameters) -> Thorax:
    """Returns the chest with carina and hemidiaphragms at the targets of the layout."""
    frame, scale = body.frame, body.scale
    spine = body.spine_mm()
    mean_carina = frame.to_patient([_CARINA_MM[0], 0.0, _CARINA_MM[1]])
    carina_x, carina_z = body.target_mm("Carina")
    spine_y = float(np.interp(carina_z, spine[:, 2], spine[:, 1]))
    carina = np.array([carina_x, spine_y - _CARINA_TO_SPINE_MM * frame.depth, carina_z])
    shift = carina - mean_carina
    # The frame has bent the spine, and with it the depth of the mediastinum.
    shift[1] = 0.0
    apex_x, apex_z = {}, {}
    for side, name in (("r", "Right"), ("l", "Left")):
        apex_x[side], z = body.target_mm(f"{name} hemidiaphragm")
        apex_z[side] = z - parameters.breath_mm * scale / MEAN_SCALE
    apex = frame.at_height(0.0, _DOME_Y_MM, (apex_z["r"] + apex_z["l"]) / 2)
    middle = (float(apex[0]), float(apex[1]))
    diaphragm = Diaphragm(apex_x, apex_z, middle, scale, _level_on_table(parameters))
    return Thorax(frame, shift, carina, spine, diaphragm, parameters.heart)


def _level_on_table(parameters: PatientParameters) -> tuple[float, float]:
    """Returns the slope along x and y of a surface in the upright body that is level on the table."""
    up = table_rotation(parameters.askew_deg, parameters.roll_deg)[2]
    return -float(up[0] / up[2]), -float(up[1] / up[2])


def landmark_points(body: Body, thorax: Thorax, move: Move | None = None) -> dict[int, NDArray[np.float64]]:
    """Returns all landmarks of the upright body by id, LPS mm.

    Args:
        body: the posed skeleton.
        thorax: the chest.
        move: deformation of the body, which maps points ``(..., 3)``; the landmarks are found by the same rules on the
            deformed anatomy.
    """
    points = {
        **(body.landmarks_mm if move is None else body.moved_landmarks_mm(move)),
        "Carina": thorax.carina_mm if move is None else move(thorax.carina_mm),
        "Right hemidiaphragm": thorax.diaphragm.apex_mm("r", move),
        "Left hemidiaphragm": thorax.diaphragm.apex_mm("l", move),
    }
    return {item.id: points[item.name] for item in LANDMARKS}


@dataclass(frozen=True, eq=False)
class ChestFields:
    """Signed distances on the coarse lattice, mm.

    Attributes:
        cavity: inner surface of the ribs.
        below_diaphragm: diaphragm, negative below it.
        mediastinum: surface of the mediastinum.
        lungs: surface of both lungs.
    """

    cavity: NDArray[np.float32]
    below_diaphragm: NDArray[np.float32]
    mediastinum: NDArray[np.float32]
    lungs: NDArray[np.float32]


def chest_fields(body: Body, thorax: Thorax, lattice: Lattice, mediastinum: NDArray[np.float32]) -> ChestFields:
    """Returns cavity, diaphragm, mediastinum and lungs on the coarse lattice.

    Args:
        body: the posed skeleton.
        thorax: the chest.
        lattice: the coarse lattice.
        mediastinum: signed distance from the surface of the mediastinum on the lattice, mm.
    """
    scale = thorax.scale
    cavity = body.cavity_wall.distance(lattice) + np.float32(_RIB_HALF_MM)
    x, y, z = lattice.axes()
    height = thorax.diaphragm.height_mm(x[:, :, 0], y[:, :, 0])
    slope = np.hypot(*np.gradient(height, lattice.spacing_mm))
    steepness = 1 / np.sqrt(1 + np.minimum(slope, 4.0) ** 2)
    below = ((z - height[:, :, None]) * steepness[:, :, None]).astype(np.float32)
    apex_x, apex_y, top = thorax.frame.to_patient([37.0, 222.0, _APEX_MM])
    around_apex = (np.abs(x) - apex_x) ** 2 + (y - apex_y) ** 2
    apex = (z - top + around_apex / (62 * scale)).astype(np.float32)
    lungs = smooth_intersection(cavity, -mediastinum, 7.0)
    lungs = smooth_intersection(lungs, -below, 6.0)
    lungs = smooth_intersection(lungs, apex, 10.0)
    return ChestFields(cavity, below, mediastinum, lungs)
