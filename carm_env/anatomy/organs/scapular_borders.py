"""The thick borders of the scapula, which outline its thin blade in frontal views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.shapes import Capsule, tube
from carm_env.anatomy.skeleton.body import Body

_BINS = 9
_LATERAL_RADIUS_MM, _MEDIAL_RADIUS_MM = (1.7, 1.9), (1.5, 1.1)
"""Half the width in the plane of the blade at the inferior angle and at the upper end: a cortex seen edge on."""
_LATERAL_HALF_DEPTH_MM, _MEDIAL_HALF_DEPTH_MM = 4.5, 2.8
"""Distance of the outer pieces of a border from the middle of the blade, along its normal."""
_UPPER_END = (0.78, 0.86)
"""Upper ends of the lateral and of the medial border, as fractions of the length of the blade."""
_LATERAL_HU, _MEDIAL_HU = 1350.0, 1250.0


def border_shapes(body: Body, side: str) -> list[tuple[Capsule, float]]:
    """Returns the lateral and the medial border of a scapula, each piece with its HU.

    Args:
        body: the posed skeleton.
        side: ``"r"`` or ``"l"``.
    """
    vertices = body.meshes[f"scapula_{side}"].vertices_mm
    tip = vertices[vertices[:, 2].argmin()]
    glenoid = body.joints_mm(side)[2]
    normal = np.linalg.svd(vertices - vertices.mean(0), full_matrices=False)[2][2]
    # Along the medial border: from the inferior angle to the point of the blade that is farthest from it medially.
    towards_glenoid = glenoid - tip
    towards_glenoid -= (towards_glenoid @ normal) * normal
    length = float(np.linalg.norm(towards_glenoid))
    up = towards_glenoid / length
    across = np.cross(up, normal)
    across *= np.sign(across[0]) * (-1.0 if side == "r" else 1.0)
    along, sideways = (vertices - tip) @ up / length, (vertices - tip) @ across
    near_blade = np.abs((vertices - tip) @ normal - np.median((vertices - tip) @ normal)) < 30.0 * body.scale
    shapes: list[tuple[Capsule, float]] = []
    for sign, radii, half_depth, end, hu in (
        (1.0, _LATERAL_RADIUS_MM, _LATERAL_HALF_DEPTH_MM, _UPPER_END[0], _LATERAL_HU),
        (-1.0, _MEDIAL_RADIUS_MM, _MEDIAL_HALF_DEPTH_MM, _UPPER_END[1], _MEDIAL_HU),
    ):
        path = _outermost(vertices, along, sign * sideways, near_blade, end, end * length / _BINS)
        radius = np.linspace(*radii, len(path)) * body.scale
        # The border lies just inside the outline.
        path = path - sign * across * 0.7 * radius[:, None]
        path[0] = tip + up * 1.2 * radius[0]
        for depth in (-half_depth, 0.0, half_depth):
            shapes += [(piece, hu) for piece in tube(path + depth * body.scale * normal, radius)]
    return shapes


def _outermost(
    vertices: NDArray[np.float64],
    along: NDArray[np.float64],
    outwards: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    end: float,
    step_mm: float,
) -> NDArray[np.float64]:
    edges = np.linspace(0.0, end, _BINS + 1)
    points: list[NDArray[np.float64]] = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        rows = np.flatnonzero(allowed & (along >= low) & (along < high))
        if len(rows):
            point = vertices[rows[np.argsort(outwards[rows])[-3:]]].mean(0)
            # Beyond the superior angle and at the glenoid the outline turns: the border ends there.
            if points and np.linalg.norm(point - points[-1]) > 2.5 * step_mm:
                break
            points.append(point)
    return np.array(points)
