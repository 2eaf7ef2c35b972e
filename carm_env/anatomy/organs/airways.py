"""Larynx, trachea, carina and bronchi: a lumen of adult width, with the cartilages around the larynx.

Heights in the tables are relative to the carina; lengths are in skeleton size (mm).
Tracheal diameters: men 13 to 25 mm coronal and 13 to 27 mm sagittal, women 10 to 21 and 10 to 23 mm (E. Breatnach,
G. C. Abbott, R. G. Fraser, AJR 142 (1984) 903). Main bronchi: about 15 mm on the right and 13 mm on the left (men).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Ellipsoid, Field, Shape, smooth_path, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body

_JUNCTION_ABOVE_CARINA_MM = 10.0
"""The axes of the main bronchi meet above the carina, which is the wedge between their inner walls."""

# Rows: x and y relative to the carina, height, radius.
RIGHT_MAIN = ((0, 0, 10, 9.0), (-9, 1, -5, 8.5), (-18, 3, -22, 8.2), (-25, 6, -38, 7.2), (-31, 12, -60, 6.0))
LEFT_MAIN = ((0, 0, 10, 9.0), (11, 1, -2, 7.9), (25, 4, -16, 7.5), (39, 7, -30, 7.0), (46, 11, -42, 6.0))
_LOBAR = (
    ((-13, 2, -12, 5.4), (-27, 3, -11, 4.9), (-40, 3, -5, 3.8), (-50, 0, 8, 2.6)),
    ((-32, 12, -58, 5.2), (-38, 20, -78, 4.0), (-46, 26, -104, 2.6)),
    ((-29, 8, -48, 4.2), (-40, -6, -64, 3.2), (-50, -22, -80, 2.2)),
    ((43, 9, -34, 5.0), (55, 4, -34, 4.2), (64, -2, -24, 3.2), (68, -6, -10, 2.2)),
    ((46, 11, -40, 5.4), (52, 19, -62, 4.4), (59, 27, -90, 2.8)),
)

_TRACHEA_RADIUS_MM = (5.2, 9.2, 9.8, 9.9, 10.2)
"""Coronal radius at the five points of the axis, from the glottis to the end of the trachea, men."""
_SAGITTAL_EXCESS_MM = 1.6
"""Half the difference of the sagittal and the coronal diameter."""
_FEMALE_FRACTION = 0.15
"""Fraction by which a woman's trachea is narrower than a man's of equal stature."""
_TRACHEA_STD = 0.07
_BRONCHUS_FACTOR = 1.07
"""Factor of the radii in the tables."""
_BRONCHI_SHIFT_MM = (-2.9, 0.0, 7.5)
"""Displacement of the tables of main and lobar bronchi that brings the junction of the inner walls to the carina."""
_WALL_MM = 1.4
_PHARYNX_RADIUS_MM = (5.0, 9.0, 8.5, 7.0, 9.0)
_PIRIFORM_MM = ((11.0, 9.0, 8.0), (5.0, 5.5, 11.0))
"""Position relative to the glottis (lateral, dorsal, cranial) and radii of the piriform sinuses."""
_THYROID_LOBE_MM = ((18.0, 6.0, -38.0), (8.5, 11.0, 24.0))
_THYROID_HU = 100.0
"""Unenhanced thyroid: 80 to 120 HU, from its iodine (M. Prokop, M. Galanski 2003)."""


def trachea_axis(body: Body, thorax: Thorax) -> NDArray[np.float64]:
    """Returns the axis ``(n, 3)`` of larynx and trachea from the glottis down, LPS mm."""
    at, carina, scale = body.at, thorax.carina_mm, thorax.scale
    glottis = at(0, 186, 1542)
    path = [
        glottis,
        glottis + [0, 3, -12],
        at(0, 196, 1508),
        carina + [1, -4, 40 * scale],
        carina + [0, 0, _JUNCTION_ABOVE_CARINA_MM * scale],
    ]
    return smooth_path(np.array(path))


def pharynx_axis(body: Body) -> NDArray[np.float64]:
    """Returns the axis ``(5, 3)`` of the airway from the glottis up to the soft palate, LPS mm."""
    glottis = body.at(0, 186, 1542)
    upper = [body.head_point(0, 190, 1572), body.head_point(0, 189, 1604), body.head_point(0, 184, 1626)]
    return np.array([glottis, glottis + [0, 4, 12], *upper])


def _width(parameters: PatientParameters, variation: OrganVariation) -> float:
    return (1 - _FEMALE_FRACTION * parameters.female) * variation.size("trachea", _TRACHEA_STD)


def trachea_shapes(body: Body, thorax: Thorax, parameters: PatientParameters, variation: OrganVariation) -> list[Shape]:
    """Returns the lumen from the glottis to the end of the trachea, deeper than wide."""
    axis = trachea_axis(body, thorax)
    radius = smooth_path(np.array(_TRACHEA_RADIUS_MM)[:, None])[:, 0] * thorax.scale * _width(parameters, variation)
    depth = np.array([0.0, _SAGITTAL_EXCESS_MM * thorax.scale, 0.0])
    return [*tube(axis - depth, radius), *tube(axis + depth, radius)]


def bronchi_shapes(thorax: Thorax, parameters: PatientParameters, variation: OrganVariation) -> list[Shape]:
    """Returns the lumen of main and lobar bronchi."""
    factor = _BRONCHUS_FACTOR * _width(parameters, variation)
    shapes: list[Shape] = []
    for table in (RIGHT_MAIN, LEFT_MAIN, *_LOBAR):
        rows = np.array(table, float) * thorax.scale
        rows[:, :3] += thorax.carina_mm + np.array(_BRONCHI_SHIFT_MM) * thorax.scale
        curve = smooth_path(rows)
        shapes += tube(curve[:, :3], curve[:, 3] * factor)
    return shapes


def _pharynx_shapes(body: Body) -> list[Shape]:
    points, scale = pharynx_axis(body), body.scale
    (lateral, dorsal, cranial), radii = _PIRIFORM_MM
    sinuses = [
        Ellipsoid(points[0] + scale * np.array([sign * lateral, dorsal, cranial]), scale * np.array(radii))
        for sign in (-1, 1)
    ]
    return [*tube(points, np.array(_PHARYNX_RADIUS_MM) * scale), *sinuses]


def paint_airways(
    canvas: Canvas, body: Body, thorax: Thorax, parameters: PatientParameters, variation: OrganVariation
) -> Field:
    """Paints thyroid gland, walls and lumen; returns the distance from the lumen on a box of the fine lattice, mm."""
    glottis, scale = pharynx_axis(body)[0], body.scale
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
