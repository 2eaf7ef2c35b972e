"""Larynx, trachea and bronchi of anatomy version 5: a lumen of adult width, with the cartilages around the larynx.

The lumen is on the axis of `carm_env.anatomy.organs.airways`, so that the carina and the tips of tubes do not move.
Tracheal diameters: men 13 to 25 mm coronal and 13 to 27 mm sagittal, women 10 to 21 and 10 to 23 mm (E. Breatnach,
G. C. Abbott, R. G. Fraser, AJR 142 (1984) 903). Main bronchi: about 15 mm on the right and 13 mm on the left (men).
"""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.organs import airways
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Ellipsoid, Field, Shape, smooth_path, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body

_TRACHEA_RADIUS_MM = (5.2, 9.2, 9.8, 9.9, 10.2)
"""Coronal radius at the five points of the axis, from the glottis to the end of the trachea, men."""
_SAGITTAL_EXCESS_MM = 1.6
"""Half the difference of the sagittal and the coronal diameter."""
_FEMALE_FRACTION = 0.15
"""Fraction by which a woman's trachea is narrower than a man's of equal stature."""
_TRACHEA_STD = 0.07
_BRONCHUS_FACTOR = 1.07
_BRONCHI_SHIFT_MM = (-2.9, 0.0, 7.5)
"""From the tables of version 4, whose inner walls meet below the carina and to its left."""
_WALL_MM = 1.4
_PHARYNX_RADIUS_MM = (5.0, 9.0, 8.5, 7.0, 9.0)
_PIRIFORM_MM = ((11.0, 9.0, 8.0), (5.0, 5.5, 11.0))
"""Position relative to the glottis (lateral, dorsal, cranial) and radii of the piriform sinuses."""
_THYROID_LOBE_MM = ((18.0, 6.0, -38.0), (8.5, 11.0, 24.0))
_THYROID_HU = 100.0
"""Unenhanced thyroid: 80 to 120 HU, from its iodine (M. Prokop, M. Galanski 2003)."""


def _width(parameters: PatientParameters, variation: OrganVariation) -> float:
    return (1 - _FEMALE_FRACTION * parameters.female) * variation.size("trachea", _TRACHEA_STD)


def trachea_shapes(body: Body, thorax: Thorax, parameters: PatientParameters, variation: OrganVariation) -> list[Shape]:
    """Returns the lumen from the glottis to the end of the trachea, deeper than wide."""
    axis = airways.trachea_axis(body, thorax)
    radius = smooth_path(np.array(_TRACHEA_RADIUS_MM)[:, None])[:, 0] * thorax.scale * _width(parameters, variation)
    depth = np.array([0.0, _SAGITTAL_EXCESS_MM * thorax.scale, 0.0])
    return [*tube(axis - depth, radius), *tube(axis + depth, radius)]


def bronchi_shapes(thorax: Thorax, parameters: PatientParameters, variation: OrganVariation) -> list[Shape]:
    """Returns the lumen of main and lobar bronchi."""
    factor = _BRONCHUS_FACTOR * _width(parameters, variation)
    shapes: list[Shape] = []
    for table in (airways.RIGHT_MAIN, airways.LEFT_MAIN, *airways.LOBAR):
        rows = np.array(table, float) * thorax.scale
        rows[:, :3] += thorax.carina_mm + np.array(_BRONCHI_SHIFT_MM) * thorax.scale
        curve = smooth_path(rows)
        shapes += tube(curve[:, :3], curve[:, 3] * factor)
    return shapes


def _pharynx_shapes(body: Body) -> list[Shape]:
    points, scale = airways.pharynx_axis(body), body.scale
    (lateral, dorsal, cranial), radii = _PIRIFORM_MM
    sinuses = [
        Ellipsoid(points[0] + scale * np.array([sign * lateral, dorsal, cranial]), scale * np.array(radii))
        for sign in (-1, 1)
    ]
    return [*tube(points, np.array(_PHARYNX_RADIUS_MM) * scale), *sinuses]


def paint_air_column(
    canvas: Canvas, body: Body, thorax: Thorax, parameters: PatientParameters, variation: OrganVariation
) -> Field:
    """Paints thyroid gland, walls and lumen; returns the distance from the lumen on a box of the fine lattice, mm."""
    glottis, scale = airways.pharynx_axis(body)[0], body.scale
    (lateral, dorsal, cranial), radii = _THYROID_LOBE_MM
    size = variation.size("thyroid", 0.12)
    for sign in (-1, 1):
        centre = glottis + scale * np.array([sign * lateral, dorsal, cranial])
        lobe, box = Field.around(canvas.fine, [Ellipsoid(centre, scale * size * np.array(radii))])
        canvas.paint_box(lobe, box, _THYROID_HU, 8.0)
    lumen = [
        *trachea_shapes(body, thorax, parameters, variation),
        *bronchi_shapes(thorax, parameters, variation),
        *_pharynx_shapes(body),
    ]
    field, box = Field.around(canvas.fine, lumen, 3.0, margin_mm=6.0)
    wall = Field(field.lattice, field.values - np.float32(_WALL_MM))
    canvas.paint_box(wall, box, tissue.hu("airway_wall"))
    canvas.paint_box(field, box, tissue.hu("airway"))
    return field
