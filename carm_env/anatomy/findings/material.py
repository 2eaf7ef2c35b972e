"""What implants and tubes are made of, and painting them so that thin wires keep their mass.

Metal is painted with the HU that an extended CT scale would show (Coolens and Childs, Phys. Med. Biol. 48
(2003) 1591: titanium about 8,000, steel well above 10,000) and cut to `tissue.HIGHEST` at the end, as a
12-bit scanner does: the volume never holds more than 3,000 HU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy import tissue
from carm_env.anatomy.body import Body
from carm_env.anatomy.canvas import Canvas
from carm_env.anatomy.envelope import Envelope
from carm_env.anatomy.lattice import Lattice
from carm_env.anatomy.shapes import Field, Shape, smooth_path, tube
from carm_env.anatomy.thorax import ChestFields, Thorax

STEEL_HU = 13000.0
TITANIUM_HU = 8000.0
BATTERY_HU = 5000.0
PLASTIC_HU = 180.0
"""Polyvinyl chloride and epoxy without filler."""
BARIUM_LINE_HU = 6000.0
"""The stripe that makes a tube visible: polymer filled with barium sulphate."""


@dataclass(frozen=True, eq=False)
class Site:
    """Where a finding is painted: the volume and the structures around it."""

    canvas: Canvas
    body: Body
    thorax: Thorax
    envelope: Envelope
    chest: ChestFields


def surface_point(
    lattice: Lattice, distance: NDArray[np.float32], start_mm: ArrayLike, towards: ArrayLike, level_mm: float = 0.0
) -> NDArray[np.float64]:
    """``(3,)`` the first point on a line whose signed distance falls to `level_mm`; LPS mm.

    Args:
        lattice: where the distances are known.
        distance: signed distances, mm.
        start_mm: ``(3,)`` a point outside.
        towards: ``(3,)`` the direction to go.
        level_mm: below 0, that far inside the surface.

    Raises:
        ValueError: the line leaves the lattice before.
    """
    direction = np.asarray(towards, float) / np.linalg.norm(towards)
    steps = np.arange(0.0, float(np.linalg.norm(lattice.end_mm - lattice.origin_mm)), 0.5)
    points = np.asarray(start_mm, float) + steps[:, None] * direction
    within = ((points >= lattice.origin_mm) & (points <= lattice.end_mm)).all(1)
    inside = within & (lattice.sample(distance, points) <= level_mm)
    if not inside.any():
        raise ValueError(f"the line from {np.round(start_mm, 1).tolist()} mm meets no surface in the volume")
    return points[int(np.argmax(inside))]


def front_point(site: Site, distance: NDArray[np.float32], x_mm: float, z_mm: float) -> NDArray[np.float64]:
    """``(3,)`` where a line from the front meets a surface of the coarse lattice at ``x_mm``, ``z_mm``."""
    coarse = site.canvas.coarse
    return surface_point(coarse, distance, [x_mm, coarse.origin_mm[1], z_mm], [0, 1, 0])


def paint_solid(canvas: Canvas, shapes: Sequence[Shape], hu: float, blend_mm: float = 0.0) -> None:
    """Paint shapes that are thicker than a voxel."""
    field, box = Field.around(canvas.fine, shapes, blend_mm)
    canvas.paint_box(field, box, hu)


def paint_wire(canvas: Canvas, points_mm: ArrayLike, radius_mm: float, hu: float, smooth: bool = True) -> None:
    """Paint a wire through points ``(n, 3)``; thinner than a voxel, it keeps its mass by partial volume."""
    path = smooth_path(points_mm) if smooth else np.asarray(points_mm, float)
    field, box = Field.around(canvas.fine, tube(path, radius_mm), margin_mm=4.0)
    if not field.values.size:
        return
    voxel = canvas.fine.spacing_mm
    reach = radius_mm + voxel / 2
    # Over its cross-section the fraction is a cone where the wire is thinner than a voxel, else a cut one.
    painted = reach**3 / (3 * voxel) if radius_mm < voxel / 2 else radius_mm**2 + voxel**2 / 12
    fraction = np.clip(0.5 - field.values / voxel, 0, 1) * np.float32(min(1.0, radius_mm**2 / painted))
    canvas.paint_fraction(box, fraction, hu)


def paint_hose(canvas: Canvas, points_mm: ArrayLike, radius_mm: float, wall_mm: float) -> None:
    """Paint a tube of plastic with air in it and a radiopaque line along its wall."""
    path = smooth_path(points_mm)
    paint_solid(canvas, tube(path, radius_mm), PLASTIC_HU)
    if radius_mm - wall_mm > 0.8:
        paint_solid(canvas, tube(path, radius_mm - wall_mm), tissue.AIRWAY)
    paint_wire(canvas, path + [0.7 * radius_mm, -0.7 * radius_mm, 0], 0.45, BARIUM_LINE_HU, smooth=False)
