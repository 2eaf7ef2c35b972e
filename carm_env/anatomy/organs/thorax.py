"""The chest: diaphragm, mediastinum and outlines of the lungs.

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
    Ellipsoid,
    Field,
    Shape,
    rotation,
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
    slope: tuple[float, float] = (0.0, 0.0)

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
            if any(self.slope):
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
        above = heights - self.slope[0] * x - self.slope[1] * y if any(self.slope) else heights
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
    slope = _level_on_table(parameters) if parameters.anatomy == "5" else (0.0, 0.0)
    diaphragm = Diaphragm(apex_x, apex_z, (float(apex[0]), float(apex[1])), scale, slope)
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


def heart_shapes(thorax: Thorax) -> list[tuple[Shape, float]]:
    """Returns the chambers of the heart, each with the width of the crease between it and the previous ones."""
    scale = thorax.scale
    wide = np.array([thorax.heart_size, 1.0, 1.0]) * scale
    tilt = rotation(2, -32) @ rotation(1, 30)

    def at(x: float, y: float, height: float) -> NDArray[np.float64]:
        return thorax.points([x * thorax.heart_size, y, height])

    return [
        (Ellipsoid(at(30, 148, -72), np.array([64, 43, 40]) * wide, tilt), 0.0),
        (Ellipsoid(at(62, 138, -84), np.array([30, 31, 27]) * wide, tilt), 20.0),
        (Ellipsoid(at(-21, 166, -64), np.array([30, 36, 40]) * wide), 18.0),
        (Ellipsoid(at(6, 134, -66), np.array([40, 30, 42]) * wide), 20.0),
        (Ellipsoid(at(4, 196, -46), np.array([36, 21, 26]) * wide), 18.0),
        (Capsule(at(36, 158, -36), at(46, 152, -54), 11 * scale, 14 * scale), 14.0),
    ]


_Path = tuple[tuple[float, float, float, float], ...]

AORTA: _Path = (
    (-8, 160, -42, 15.0), (-18, 152, -12, 16.0), (-15, 158, 8, 15.0), (-1, 172, 20, 14.0), (18, 193, 24, 13.0),
    (32, 213, 17, 13.0), (31, 230, -4, 12.0), (27, 236, -45, 12.0), (23, 234, -90, 12.0), (15, 224, -135, 11.5),
    (6, 202, -175, 10.5), (3, 180, -210, 10.0), (2, 164, -250, 9.5), (1, 158, -300, 9.0),
)  # fmt: skip
SUPERIOR_VENA_CAVA: _Path = ((-31, 186, 62, 8.0), (-31, 182, 40, 9.5), (-30, 178, 10, 10.5), (-26, 172, -30, 11.5))
INFERIOR_VENA_CAVA: _Path = (
    (-22, 172, -80, 13.0), (-23, 182, -120, 12.5), (-20, 178, -180, 11.0), (-17, 168, -300, 10.0),
)  # fmt: skip
BRACHIOCEPHALIC_VEIN: _Path = ((-28, 180, 45, 7.0), (0, 166, 50, 6.5), (22, 178, 66, 5.5))
BRACHIOCEPHALIC_ARTERY: _Path = ((-4, 172, 28, 7.0), (-14, 190, 58, 6.5), (-22, 202, 82, 6.0), (-20, 208, 108, 4.5))
LEFT_CAROTID: _Path = ((6, 180, 30, 5.0), (12, 194, 58, 4.5), (19, 204, 90, 4.0), (20, 206, 120, 3.5))
LEFT_SUBCLAVIAN: _Path = ((16, 202, 28, 5.0), (17, 214, 50, 5.0), (22, 217, 74, 5.0), (56, 206, 86, 5.0))
PULMONARY_TRUNK: _Path = ((20, 146, -46, 13.0), (25, 156, -26, 14.0), (24, 178, -10, 13.5))
LEFT_PULMONARY_ARTERY: _Path = ((24, 178, -12, 12.0), (34, 200, -10, 10.5), (42, 216, -18, 9.0), (47, 224, -38, 7.5))
RIGHT_PULMONARY_ARTERY: _Path = (
    (22, 176, -12, 11.5), (-6, 190, -20, 11.0), (-34, 198, -22, 10.5), (-46, 208, -34, 8.5),
)  # fmt: skip
RIGHT_DESCENDING_ARTERY: _Path = ((-42, 204, -28, 8.5), (-52, 212, -50, 7.5), (-57, 220, -78, 5.5))
LEFT_DESCENDING_ARTERY: _Path = ((46, 222, -32, 7.5), (52, 226, -56, 6.5), (58, 230, -82, 5.0))
PULMONARY_VEINS: tuple[_Path, ...] = (
    ((-12, 198, -46, 7.5), (-34, 194, -48, 6.5), (-52, 186, -40, 4.5)),
    ((-12, 200, -60, 7.5), (-34, 206, -72, 6.5), (-54, 216, -88, 4.5)),
    ((20, 198, -46, 7.5), (40, 190, -44, 6.5), (56, 180, -34, 4.5)),
    ((20, 200, -60, 7.5), (42, 206, -72, 6.5), (60, 216, -88, 4.5)),
)
_HILAR_TISSUE: tuple[_Path, ...] = (
    ((-21, 206, -12, 15), (-31, 208, -40, 15)),
    ((26, 210, -14, 14), (38, 212, -38, 14)),
)
"""Fat and lymph nodes around both main bronchi."""
OESOPHAGUS: _Path = (
    (0, 222, 100, 6.5), (2, 224, 40, 6.5), (6, 226, -20, 6.5), (8, 220, -80, 7.0), (18, 196, -130, 8.0),
)  # fmt: skip

GREAT_VESSELS: tuple[_Path, ...] = (
    AORTA, SUPERIOR_VENA_CAVA, INFERIOR_VENA_CAVA, BRACHIOCEPHALIC_VEIN, BRACHIOCEPHALIC_ARTERY, LEFT_CAROTID,
    LEFT_SUBCLAVIAN, PULMONARY_TRUNK, LEFT_PULMONARY_ARTERY, RIGHT_PULMONARY_ARTERY, RIGHT_DESCENDING_ARTERY,
    LEFT_DESCENDING_ARTERY, *PULMONARY_VEINS,
)  # fmt: skip


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


def mediastinum_surface(thorax: Thorax, lattice: Lattice) -> NDArray[np.float32]:
    """Returns the signed distance from the surface of the mediastinum on the coarse lattice, mm."""
    scale = thorax.scale
    field = Field(lattice)
    for shape, blend in heart_shapes(thorax):
        field.add(grown(shape, 3.0), blend)
    for table in (SUPERIOR_VENA_CAVA, PULMONARY_TRUNK, LEFT_PULMONARY_ARTERY, RIGHT_PULMONARY_ARTERY):
        field.add(thorax.curved_tube(table, 1.0), 4.0, margin_mm=26.0)
    for table in (LEFT_SUBCLAVIAN, BRACHIOCEPHALIC_ARTERY, BRACHIOCEPHALIC_VEIN, INFERIOR_VENA_CAVA, OESOPHAGUS):
        field.add(thorax.curved_tube(table, 1.0), 5.0, margin_mm=26.0)
    field.add(tube(thorax.spine_mm, 23.0 * scale), 16.0, margin_mm=34.0)
    field.add(thorax.curved_tube(AORTA, 1.0), 4.0, margin_mm=26.0)
    centre = thorax.carina_mm
    # Fat around the trachea, and the junctions ventral and dorsal to the heart.
    field.add(Capsule(centre + [1, -4, -10 * scale], centre + [0, -14, 75 * scale], 14 * scale, 17 * scale), 8.0)
    field.add(Ellipsoid(thorax.points([4, 140, 0]), np.array([13, 46, 70]) * scale), 18.0)
    field.add(Ellipsoid(thorax.points([8, 210, -80]), np.array([18, 40, 60]) * scale), 18.0)
    for table in _HILAR_TISSUE:
        field.add(thorax.curved_tube(table), 10.0, margin_mm=26.0)
    for table in (RIGHT_DESCENDING_ARTERY, LEFT_DESCENDING_ARTERY):
        field.add(thorax.curved_tube(table[:2], 1.0), 6.0, margin_mm=20.0)
    return field.values


def grown(shape: Shape, by_mm: float) -> Shape:
    """Returns a shape with its radii increased."""
    if isinstance(shape, Capsule):
        first, last = shape.radii_mm
        return Capsule(shape.start_mm, shape.end_mm, first + by_mm, last + by_mm)
    return Ellipsoid(shape.centre_mm, np.asarray(shape.radii_mm, float) + by_mm, shape.axes)


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
