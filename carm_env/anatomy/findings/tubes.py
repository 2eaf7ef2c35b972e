"""Tubes and lines of intensive care: endotracheal, central venous, nasogastric, chest."""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.findings.material import Site, paint_tube, paint_wire
from carm_env.anatomy.organs.airways import pharynx_axis, trachea_axis
from carm_env.anatomy.organs.heart import OESOPHAGUS
from carm_env.anatomy.skeleton.model import SIDE_SIGN

_TIP_ABOVE_CARINA_MM = 42.0
_IN_PLEURA_MM = 5.0
_CATHETER_HU = 2000.0
"""Polyurethane filled with barium sulphate."""
# Rows: lateral x, y, height relative to the carina, in skeleton coordinates (mm).
_JUGULAR = ((40, 196, 150), (36, 200, 118), (32, 194, 88))
_VENA_CAVA = ((-31, 184, 50), (-30, 178, 10), (-27, 174, -28))
_STOMACH = ((26, 190, -8), (60, 192, -40), (70, 182, -72), (58, 164, -98))
"""Rows: x, y, height relative to the left dome."""


def paint_endotracheal_tube(site: Site) -> None:
    """Paints a tube from the lips into the trachea; its tip ends four centimetres above the carina."""
    mouth = [site.body.head_point(0, y, z) for y, z in ((112, 1591), (140, 1592), (168, 1590))]
    pharynx = pharynx_axis(site.body)[1:3][::-1]
    trachea = trachea_axis(site.body, site.thorax)
    tip = trachea[-1] + [0, 0, (_TIP_ABOVE_CARINA_MM - 10) * site.thorax.scale]
    inner = [point for point in trachea if point[2] > tip[2] + 8]
    paint_tube(site.canvas, [*mouth, *pharynx, *inner, tip], 5.2, 1.7)


def paint_central_line(site: Site, side: str) -> None:
    """Paints a catheter from the jugular vein to the junction of superior vena cava and right atrium."""
    entry = np.array(_JUGULAR) * [SIDE_SIGN[side], 1, 1]
    crossing = [] if side == "r" else [(8, 170, 52)]
    path = site.thorax.points(np.array([*entry, *crossing, *_VENA_CAVA], float))
    paint_wire(site.canvas, path, 1.2, _CATHETER_HU)


def paint_nasogastric_tube(site: Site) -> None:
    """Paints a tube through nose, pharynx and oesophagus into the stomach."""
    thorax, head = site.thorax, site.body.head_point
    nose = [head(5, 112, 1619), head(5, 130, 1627), head(5, 165, 1628), head(2, 190, 1610)]
    pharynx = [site.body.at(0, 203, 1560), site.body.at(0, 213, 1525)]
    oesophagus = thorax.points(np.array(OESOPHAGUS)[1:, :3])
    dome = thorax.diaphragm.apex_z_mm["l"]
    stomach = np.array(_STOMACH, float) * thorax.scale + [0, 0, dome]
    paint_tube(site.canvas, [*nose, *pharynx, *oesophagus, *stomach], 2.2, 1.2)


def paint_chest_tube(site: Site, side: str) -> None:
    """Paints a drain from a lateral intercostal space, dorsal to the lung, to the apex of the pleural space."""
    coarse, sign, scale = site.canvas.coarse, SIDE_SIGN[side], site.thorax.scale
    x, y, z = (axis.ravel() for axis in coarse.axes())
    lung = (site.chest.lungs < -_IN_PLEURA_MM) & (sign * x > 0)[:, None, None]
    carina = site.thorax.carina_mm[2]
    top = z[lung.any((0, 1))].max()

    def lateral_point(height: float, fraction: float) -> np.ndarray:
        # The most lateral point of the lung at a height and at a fraction of its depth from front to back.
        section = lung[:, :, int(np.argmin(np.abs(z - height)))]
        row = int(np.round(np.quantile(np.nonzero(section.any(0))[0], fraction)))
        column = np.flatnonzero(section[:, row])
        return np.array([x[column[-1] if sign > 0 else column[0]], y[row], height])

    rise = top - carina
    heights = ((-62 * scale, 0.5), (-30 * scale, 0.58), (0.25 * rise, 0.62), (0.55 * rise, 0.6), (0.78 * rise, 0.5))
    inner = [lateral_point(carina + height, fraction) for height, fraction in heights]
    skin = inner[0] + np.array([sign * 34, -6, -20]) * scale
    paint_tube(site.canvas, [skin, *inner], 4.6, 1.6)
