"""Fluid and air in the pleural space of a supine patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.findings.material import Site
from carm_env.anatomy.skeleton.model import SIDE_SIGN

EFFUSION_HU = 12.0
"""Median of exudates: Cullu et al., Diagn. Interv. Radiol. 20 (2014) 116 (transudates: 5 HU)."""
PLEURAL_AIR_HU = -995.0
_PLEURAL_AIR_MM = (46.0, 46.0, 50.0)
"""Depth of the air ventral, lateral and apical to the lung in a pneumothorax."""
_SULCUS_MM = 30.0
"""Depth of the air below the ventral lung (deep sulcus sign)."""
_PLEURA_HALF_MM, _PLEURA_HU = 1.5, 0.0
"""Half the thickness, and HU, of the visceral pleura."""
_ATELECTASIS_HU = -250.0

_EFFUSION_SHARE = 0.42
"""Fraction of the pleural space: a large effusion of about a litre."""
_EFFUSION_SLOPE = 0.22
"""Slope of the fluid level (y per z): higher at the base, where the recess is deepest."""
_RIM_MM = 10.0
_ATELECTASIS_MM = 12.0


def _pleural_space(site: Site, side: str) -> NDArray[np.float32]:
    x, _, _ = site.canvas.coarse.axes()
    return np.maximum(site.chest.lungs, np.float32(-SIDE_SIGN[side]) * x)


def paint_effusion(site: Site, side: str) -> None:
    """Paints fluid dorsal to the lung and a thin layer lateral to it; the adjacent lung is airless."""
    space = _pleural_space(site, side)
    _, y, z = site.canvas.coarse.axes()
    inside = space < 0
    depth = np.broadcast_to(y - _EFFUSION_SLOPE * (z - site.thorax.carina_mm[2]), space.shape)
    level = float(np.quantile(depth[inside], 1 - _EFFUSION_SHARE))
    dorsal = (level - depth).astype(np.float32)
    rim = -site.chest.cavity - np.float32(_RIM_MM) * np.clip((depth - level + 70) / 70, 0, 1).astype(np.float32)
    fluid = np.minimum(dorsal, np.where(depth > level - 70, rim, np.float32(99)))
    fading = (dorsal - np.float32(_ATELECTASIS_MM)) * np.float32(site.canvas.fine.spacing_mm / _ATELECTASIS_MM)
    site.canvas.paint(np.maximum(space, fading), _ATELECTASIS_HU, 60.0)
    site.canvas.paint(np.maximum(space, fluid), EFFUSION_HU, 5.0)


def paint_pneumothorax(site: Site, side: str) -> None:
    """Paints air ventral, lateral and apical to the retracted lung and in the deep sulcus."""
    space = _pleural_space(site, side)
    x, y, z = site.canvas.coarse.axes()
    scale = site.thorax.scale
    front_gap, lateral_gap, apical_gap = _PLEURAL_AIR_MM
    inside = np.broadcast_to(y, space.shape)[space < 0]
    front, middle, back = np.quantile(inside, [0.02, 0.6, 0.75])
    anterior = np.clip((middle - y) / (middle - front), 0, 1)
    lateral = np.clip((np.abs(x) - 50 * scale) / (40 * scale), 0, 1)
    apical = np.clip((z - site.thorax.carina_mm[2] - 25 * scale) / (60 * scale), 0, 1)
    # In a supine patient the air rises: dorsally the lung stays at the wall.
    floating = np.clip((back - y) / 30, 0, 1)
    gap = np.maximum(
        np.maximum(front_gap * anterior, lateral_gap * lateral * floating),
        apical_gap * apical * floating,
    )
    from_wall = -site.chest.cavity - (gap * scale).astype(np.float32)
    sulcus = site.chest.below_diaphragm - (_SULCUS_MM * scale * anterior).astype(np.float32)
    air = np.minimum(from_wall, sulcus)
    site.canvas.paint(np.maximum(space, np.abs(air) - np.float32(_PLEURA_HALF_MM)), _PLEURA_HU)
    site.canvas.paint(np.maximum(space, air), PLEURAL_AIR_HU)
