"""Steel wires that close the sternum after a sternotomy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.findings.material import STEEL_HU, Site, paint_wire

_WIRES = 6
_HALF_WIDTH_MM = 15.0
_LAYER_MM = 2.8


def paint_sternal_wires(site: Site) -> None:
    """Paints six loops around the sternum, each twisted in front."""
    scale, sizes = site.body.scale, site.sizes
    vertices = site.body.sternum.vertices_mm
    bone = vertices[np.abs(vertices[:, 0] - np.median(vertices[:, 0])) < _HALF_WIDTH_MM * scale]
    low, high = bone[:, 2].min(), bone[:, 2].max()
    for number, height in enumerate(np.linspace(low + 0.18 * (high - low), high - 0.06 * (high - low), _WIRES)):
        nearby = bone[np.abs(bone[:, 2] - height) < 12 * scale]
        front, back = nearby[:, 1].min() - 1.5, nearby[:, 1].max() + 1.5
        x = float(nearby[:, 0].mean())
        angle = np.linspace(-np.pi / 2, 1.5 * np.pi, 25)
        half_width = (_HALF_WIDTH_MM + (number % 2)) * scale
        y = (front + back) / 2 + (back - front) / 2 * np.sin(angle)
        z = height + sizes.wire_tilt_mm * scale * np.sin(angle) + 1.2 * (number % 3 - 1) * np.cos(angle)
        ring = np.stack([x + half_width * np.cos(angle), y, z], axis=1)
        slant = (number % 3 - 1) * 0.5
        knot = np.array([ring[0], ring[0] + [slant * sizes.knot_mm, -1.5, -sizes.knot_mm]])
        for layer in range(sizes.wire_layers):
            behind = np.array([0.0, _LAYER_MM * (layer - (sizes.wire_layers - 1) / 2), 0.0])
            _paint_strand(site, ring + behind, sizes.wire_radius_mm, smooth=True)
            _paint_strand(site, knot + behind, sizes.knot_width * sizes.wire_radius_mm, smooth=False)


def _paint_strand(site: Site, points_mm: NDArray[np.float64], radius_mm: float, smooth: bool) -> None:
    paint_wire(site.canvas, points_mm, radius_mm, STEEL_HU, smooth, site.sizes.wire_bloom_mm)
