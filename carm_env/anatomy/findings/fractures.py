"""Rib fracture: the ventral part is displaced laterally and caudally, with a gap at the break."""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.fracture import Fracture
from carm_env.anatomy.skeleton.model import SIDE_SIGN

_BELOW_CARINA_MM = 55.0
"""Height of the break: over the lung, where the diaphragm does not hide it."""
_BREAK = 0.86
"""Distance of the break from the midline, as a share of the distance of the most lateral point of the rib."""
_DISPLACEMENT_MM = 12.0
_NEIGHBOURHOOD_MM = 22.0


def break_rib(body: Body, thorax: Thorax, side: str) -> Fracture:
    """Returns a fracture dorsal to the lateral arc of the rib that is nearest to the height of the break."""
    sign = SIDE_SIGN[side]
    height = thorax.carina_mm[2] - _BELOW_CARINA_MM * body.scale
    lateral_points = {}
    for index, rib in enumerate(body.ribs):
        lateral = rib.vertices_mm[np.argmax(sign * rib.vertices_mm[:, 0])]
        if sign * lateral[0] > 60 * body.scale:
            lateral_points[index] = lateral
    index = min(lateral_points, key=lambda number: abs(lateral_points[number][2] - height))
    vertices = body.ribs[index].vertices_mm
    dorsal = vertices[vertices[:, 1] > lateral_points[index][1]]
    break_mm = dorsal[np.argmin(np.abs(dorsal[:, 0] - _BREAK * lateral_points[index][0]))]
    nearby = vertices[np.linalg.norm(vertices - break_mm, axis=1) < _NEIGHBOURHOOD_MM * body.scale]
    centre = nearby.mean(0)
    direction = np.linalg.svd(nearby - centre, full_matrices=False)[2][0]
    direction *= np.sign(direction[0]) * sign
    return Fracture(index, centre, direction, np.array([0.8 * sign, 0.0, -0.6]) * _DISPLACEMENT_MM)
