"""Steel wires that close the sternum after a sternotomy."""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.findings.material import STEEL_HU, Site, paint_wire

_WIRES = 6
_HALF_WIDTH_MM = 15.0
_RADIUS_MM, _BLOOM_MM = 0.45, 0.1
"""Radius of a wire, and its apparent extension beyond its surface in the CT."""
_TILT_MM = 11.0
"""Tilt of a loop, which the frontal view shows as a flat ring."""
_KNOT_MM, _KNOT_RADIUS_MM = 12.0, 0.9
"""Length and radius of the twisted end of a wire."""
_STRANDS, _STRAND_SPACING_MM = (-1, 0, 1), 2.8
"""Parallel strands, one behind the other in a frontal view, stand for one wire: 0.9 mm of steel attenuate 70 keV by a
factor of about two, three times as much as a strand that is limited to 3,000 HU."""


def paint_sternal_wires(site: Site) -> None:
    """Paints six loops around the sternum, each twisted in front."""
    scale = site.body.scale
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
        z = height + _TILT_MM * scale * np.sin(angle) + 1.2 * (number % 3 - 1) * np.cos(angle)
        ring = np.stack([x + half_width * np.cos(angle), y, z], axis=1)
        slant = (number % 3 - 1) * 0.5
        knot = np.array([ring[0], ring[0] + [slant * _KNOT_MM, -1.5, -_KNOT_MM]])
        for strand in _STRANDS:
            behind = np.array([0.0, _STRAND_SPACING_MM * strand, 0.0])
            paint_wire(site.canvas, ring + behind, _RADIUS_MM, STEEL_HU, bloom_mm=_BLOOM_MM)
            paint_wire(site.canvas, knot + behind, _KNOT_RADIUS_MM, STEEL_HU, smooth=False, bloom_mm=_BLOOM_MM)
