"""Materials of implants and tubes, and painters that preserve the mass of thin wires.

Metal exceeds the range of a 12-bit scanner: by the mass attenuation coefficients of NIST (Hubbell and Seltzer, NISTIR
5632, 1995) between 60 and 80 keV, steel has about 33,000 HU and titanium 11,600. The volume is limited to
`tissue.HIGHEST`, 3,000 HU. A wire is therefore widened until it attenuates a beam about as much as the real one, plus
the blooming of metal in CT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.organs.envelope import Envelope
from carm_env.anatomy.organs.thorax import ChestFields, Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Field, Shape, smooth_path, tube
from carm_env.anatomy.skeleton.body import Body

STEEL_HU = 33000.0
TITANIUM_HU = 11600.0
BATTERY_HU = 5000.0
PLASTIC_HU = 300.0
"""Soft polyvinyl chloride and epoxy."""
BARIUM_HU = 4000.0
"""The radiopaque stripe of a tube: polymer filled with barium sulphate."""
BLOOM_MM = 1.0
"""Apparent extension of metal beyond its surface in a reconstructed CT."""


@dataclass(frozen=True, eq=False)
class Site:
    """The volume that a finding is painted on and the structures around it."""

    canvas: Canvas
    body: Body
    thorax: Thorax
    envelope: Envelope
    chest: ChestFields


def surface_point(
    lattice: Lattice, distance: NDArray[np.float32], start_mm: ArrayLike, direction: ArrayLike
) -> NDArray[np.float64]:
    """Returns the first point ``(3,)`` (LPS mm) on a ray that is on a surface or inside it.

    Args:
        lattice: lattice of the distances.
        distance: signed distances from the surface, mm.
        start_mm: ``(3,)`` start of the ray, outside the surface, LPS mm.
        direction: ``(3,)`` direction of the ray, of any length.

    Raises:
        ValueError: the ray leaves the lattice before it meets the surface.
    """
    unit = np.asarray(direction, float) / np.linalg.norm(direction)
    steps = np.arange(0.0, float(np.linalg.norm(lattice.end_mm - lattice.origin_mm)), 0.5)
    points = np.asarray(start_mm, float) + steps[:, None] * unit
    points = points[np.all((points >= lattice.origin_mm) & (points <= lattice.end_mm), axis=1)]
    i, j, k = lattice.index(points).T
    met = np.flatnonzero(distance[i, j, k] <= 0)
    if not len(met):
        raise ValueError(f"the ray from {start_mm!r} mm along {direction!r} meets no surface in the volume.")
    return points[met[0]]


def front_point(site: Site, distance: NDArray[np.float32], x_mm: float, z_mm: float) -> NDArray[np.float64]:
    """Returns the point ``(3,)`` where a ray from the front at ``x_mm``, ``z_mm`` meets a surface, LPS mm."""
    coarse = site.canvas.coarse
    return surface_point(coarse, distance, [x_mm, coarse.origin_mm[1], z_mm], [0, 1, 0])


def paint_solid(canvas: Canvas, shapes: Sequence[Shape], hu: float) -> None:
    """Paints shapes that are thicker than a voxel."""
    canvas.paint_box(*Field.around(canvas.fine, shapes), hu)


def paint_wire(
    canvas: Canvas,
    points_mm: ArrayLike,
    radius_mm: float,
    hu: float,
    smooth: bool = True,
    bloom_mm: float = BLOOM_MM,
) -> None:
    """Paints a metal wire through points ``(n, 3)``, widened as the module docstring describes."""
    radius = radius_mm * float(np.sqrt(max(hu / tissue.HIGHEST, 1.0))) + bloom_mm
    path = smooth_path(points_mm) if smooth else np.asarray(points_mm, float)
    field, box = Field.around(canvas.fine, tube(path, radius), margin_mm=4.0)
    if not field.values.size:
        return
    voxel = canvas.fine.spacing_mm
    # The painted profile is a cone if the wire is thinner than a voxel, else a truncated cone.
    painted = (radius + voxel / 2) ** 3 / (3 * voxel) if radius < voxel / 2 else radius**2 + voxel**2 / 12
    fraction = np.clip(0.5 - field.values / voxel, 0, 1) * np.float32(min(1.0, radius**2 / painted))
    canvas.paint_fraction(box, fraction, min(hu, tissue.HIGHEST))


def paint_tube(canvas: Canvas, points_mm: ArrayLike, radius_mm: float, wall_mm: float) -> None:
    """Paints an air-filled plastic tube with a radiopaque stripe along its wall."""
    path = smooth_path(points_mm)
    paint_solid(canvas, tube(path, radius_mm), PLASTIC_HU)
    if radius_mm - wall_mm > 0.8:
        paint_solid(canvas, tube(path, radius_mm - wall_mm), tissue.hu("airway"))
    paint_wire(canvas, path + [0.7 * radius_mm, -0.7 * radius_mm, 0], 0.9, BARIUM_HU, smooth=False)
