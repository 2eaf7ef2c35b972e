"""Steel wires that hold the sternum together after a sternotomy."""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.findings.material import STEEL_HU, Site, paint_wire

_WIRES = 6
_WIRE_RADIUS_MM = 0.45
_HALF_WIDTH_MM = 15.0
_TILT_MM = 5.0
"""A loop lies a little slanted: from the front it is seen as a flat ring."""
_KNOT_MM = 7.0


def paint_sternal_wires(site: Site) -> None:
    """Paint six loops around the sternum, each twisted in front."""
    scale = site.body.scale
    bone = site.body.sternum.vertices_mm
    middle = bone[np.abs(bone[:, 0] - np.median(bone[:, 0])) < _HALF_WIDTH_MM * scale]
    low, high = middle[:, 2].min(), middle[:, 2].max()
    for number, height in enumerate(np.linspace(low + 0.18 * (high - low), high - 0.06 * (high - low), _WIRES)):
        near = middle[np.abs(middle[:, 2] - height) < 12 * scale]
        front, back = near[:, 1].min() - 1.5, near[:, 1].max() + 1.5
        x = float(near[:, 0].mean())
        turn = np.linspace(-np.pi / 2, 1.5 * np.pi, 25)
        half_width = (_HALF_WIDTH_MM + (number % 2)) * scale
        ring = np.stack(
            [
                x + half_width * np.cos(turn),
                (front + back) / 2 + (back - front) / 2 * np.sin(turn),
                height + _TILT_MM * scale * np.sin(turn) + 1.2 * (number % 3 - 1) * np.cos(turn),
            ],
            axis=1,
        )
        paint_wire(site.canvas, ring, _WIRE_RADIUS_MM, STEEL_HU)
        lean = (number % 3 - 1) * 0.5
        knot = np.array([ring[0], ring[0] + [lean * _KNOT_MM, -1.5, -_KNOT_MM]])
        paint_wire(site.canvas, knot, 1.4 * _WIRE_RADIUS_MM, STEEL_HU, smooth=False)
