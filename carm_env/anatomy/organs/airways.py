"""Larynx, trachea, carina and bronchi.

Heights in the tables are relative to the carina; lengths are in skeleton size (mm).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Capsule, Field, Shape, smooth_path, tube
from carm_env.anatomy.skeleton.body import Body

WALL_MM = 1.6
_JUNCTION_ABOVE_CARINA_MM = 10.0
"""The axes of the main bronchi meet above the carina, which is the wedge between their inner walls."""

# Rows: x and y relative to the carina, height, radius.
RIGHT_MAIN = ((0, 0, 10, 9.0), (-9, 1, -5, 8.5), (-18, 3, -22, 8.2), (-25, 6, -38, 7.2), (-31, 12, -60, 6.0))
LEFT_MAIN = ((0, 0, 10, 9.0), (11, 1, -2, 7.9), (25, 4, -16, 7.5), (39, 7, -30, 7.0), (46, 11, -42, 6.0))
LOBAR = (
    ((-13, 2, -12, 5.4), (-27, 3, -11, 4.9), (-40, 3, -5, 3.8), (-50, 0, 8, 2.6)),
    ((-32, 12, -58, 5.2), (-38, 20, -78, 4.0), (-46, 26, -104, 2.6)),
    ((-29, 8, -48, 4.2), (-40, -6, -64, 3.2), (-50, -22, -80, 2.2)),
    ((43, 9, -34, 5.0), (55, 4, -34, 4.2), (64, -2, -24, 3.2), (68, -6, -10, 2.2)),
    ((46, 11, -40, 5.4), (52, 19, -62, 4.4), (59, 27, -90, 2.8)),
)


def _trachea_path(body: Body, thorax: Thorax) -> NDArray[np.float64]:
    at, carina, scale = body.at, thorax.carina_mm, thorax.scale
    glottis = at(0, 186, 1542)
    return np.array(
        [
            [*glottis, 5.0],
            [*(glottis + [0, 3, -12]), 7.6],
            [*at(0, 196, 1508), 9.0],
            [*(carina + [1, -4, 40 * scale]), 9.4],
            [*(carina + [0, 0, _JUNCTION_ABOVE_CARINA_MM * scale]), 9.6],
        ]
    )


def trachea_axis(body: Body, thorax: Thorax) -> NDArray[np.float64]:
    """Returns the axis ``(n, 3)`` of larynx and trachea from the glottis down, LPS mm."""
    return smooth_path(_trachea_path(body, thorax))[:, :3]


def trachea_shapes(body: Body, thorax: Thorax) -> list[Shape]:
    """Returns the lumen from the glottis to the end of the trachea."""
    curve = smooth_path(_trachea_path(body, thorax))
    return list(tube(curve[:, :3], curve[:, 3] * thorax.scale))


def bronchi_shapes(thorax: Thorax) -> list[Shape]:
    """Returns the lumen of main and lobar bronchi."""
    shapes: list[Shape] = []
    for table in (RIGHT_MAIN, LEFT_MAIN, *LOBAR):
        rows = np.array(table, float) * thorax.scale
        rows[:, :3] += thorax.carina_mm
        curve = smooth_path(rows)
        shapes += tube(curve[:, :3], curve[:, 3])
    return shapes


def pharynx_axis(body: Body) -> NDArray[np.float64]:
    """Returns the axis ``(5, 3)`` of the airway from the glottis up to the soft palate, LPS mm."""
    glottis = body.at(0, 186, 1542)
    upper = [body.head_point(0, 190, 1572), body.head_point(0, 189, 1604), body.head_point(0, 184, 1626)]
    return np.array([glottis, glottis + [0, 4, 12], *upper])


def pharynx_shapes(body: Body) -> list[Shape]:
    """Returns the lumen from the glottis up to the soft palate."""
    points = pharynx_axis(body)
    upright = tube(points, np.array([4.0, 7.0, 7.5, 6.0, 9.0]) * body.scale)
    return [*upright, Capsule(points[3] + [-6, 0, 0], points[3] + [6, 0, 0], 5.0 * body.scale)]


def paint_airways(canvas: Canvas, body: Body, thorax: Thorax) -> Field:
    """Paints walls and lumen; returns the signed distance from the lumen on a box of the fine lattice."""
    lumen = [*trachea_shapes(body, thorax), *bronchi_shapes(thorax), *pharynx_shapes(body)]
    field, box = Field.around(canvas.fine, lumen, 3.0, margin_mm=6.0)
    wall = Field(field.lattice, field.values - np.float32(WALL_MM))
    canvas.paint_box(wall, box, tissue.hu("airway_wall"))
    canvas.paint_box(field, box, tissue.hu("airway"))
    return field
