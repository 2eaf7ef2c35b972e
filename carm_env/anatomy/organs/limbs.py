"""Muscle and skin of the arms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Capsule, Ellipsoid, Field, Shape
from carm_env.anatomy.skeleton.body import Body

_ELBOW_MM = (21.0, 20.0)
"""Radius of the muscle at the end of the upper arm and at the beginning of the forearm; bone is close to the skin."""
_ELBOW_BLEND_MM = (22.0, 16.0)
"""Width over which the creases between upper arm and forearm are rounded."""
_FOREARM_BULGE_MM = 0.93 * 31.0
"""Largest radius of the muscle of the forearm."""
_FINGER_MM, _FINGER_BLEND_MM = 6.8, 3.0
"""Radius of a finger without fat, and the width over which the creases between fingers are rounded."""
_FINGER_BONES = ("proxph", "midph", "dist", "thumb", "1mc", "2mc", "3mc", "4mc", "5mc")


def _upper_arm(
    head: NDArray[np.float64],
    elbow: NDArray[np.float64],
    forward: NDArray[np.float64],
    scale: float,
    muscle: float,
    fat_mm: float,
) -> list[tuple[Shape, float]]:
    end, blend = _ELBOW_MM[0], _ELBOW_BLEND_MM[0]
    down = scale * (elbow - head) / float(np.linalg.norm(elbow - head))
    forward = scale * forward
    belly = head + 0.55 * (elbow - head)
    muscle = muscle * scale
    return [
        (Ellipsoid(head + 18 * down, np.array([30, 34, 46]) * muscle + fat_mm + 3), 0.0),
        (Capsule(head + 8 * down, head + 60 * down, 31 * muscle + fat_mm, 35 * muscle + fat_mm), 25.0),
        (Capsule(head + 70 * down, elbow - 12 * down, 31 * muscle + fat_mm, end * muscle + fat_mm), blend),
        (Capsule(belly - 25 * down + 9 * forward, belly + 40 * down + 8 * forward, 23 * muscle + fat_mm), 30.0),
        (Capsule(belly - 35 * down - 9 * forward, belly + 55 * down - 7 * forward, 22 * muscle + fat_mm), 30.0),
    ]


def _forearm(
    elbow: NDArray[np.float64],
    wrist: NDArray[np.float64],
    scale: float,
    muscle: float,
    fat_mm: float,
) -> list[tuple[Shape, float]]:
    begin, blend = _ELBOW_MM[1], _ELBOW_BLEND_MM[1]
    along = scale * (wrist - elbow) / float(np.linalg.norm(wrist - elbow))
    thick = elbow + 0.24 * (wrist - elbow)
    bulge = _FOREARM_BULGE_MM * muscle * scale + 0.8 * fat_mm
    return [
        (Capsule(elbow - 4 * along, thick, begin * scale + 0.7 * fat_mm, bulge), blend),
        (Capsule(thick, wrist - 30 * along, bulge, 20 * scale + 0.45 * fat_mm), 30.0),
        (Capsule(wrist - 32 * along, wrist, 20 * scale + 0.4 * fat_mm, 19 * scale + 0.35 * fat_mm), 15.0),
    ]


def _palm(wrist: NDArray[np.float64], hand: dict[str, NDArray[np.float64]], scale: float, fat_mm: float) -> list[Shape]:
    rays = [
        (wrist, hand["thirdmc"], 18, 14),
        (wrist, hand["secondmc"], 16, 12),
        (wrist, hand["fifthmc"], 15, 11),
        (hand["secondmc"], hand["2proxph"], 12, 10),
        (hand["thirdmc"], hand["3proxph"], 12, 10),
        (hand["fifthmc"], hand["5proxph"], 11, 9),
        (hand["secondmc"], hand["fifthmc"], 12, 11),
    ]
    return [Capsule(start, end, r0 * scale + 0.15 * fat_mm, r1 * scale + 0.15 * fat_mm) for start, end, r0, r1 in rays]


def _fingers(body: Body, side: str, fat_mm: float) -> list[Shape]:
    shapes: list[Shape] = []
    radius = _FINGER_MM * body.scale + 0.15 * fat_mm
    for mesh in body.meshes.values():
        if mesh.name.endswith(f"_{side}") and any(part in mesh.name for part in _FINGER_BONES):
            centre, direction, begin, end = mesh.long_axis()
            shapes.append(Capsule(centre + begin * direction, centre + end * direction, radius))
    return shapes


def arm_field(body: Body, lattice: Lattice, side: str, muscle: float, fat_mm: float) -> Field:
    """Returns the signed distance from the surface of an arm.

    Args:
        body: the posed skeleton.
        lattice: lattice of the field.
        side: ``"r"`` or ``"l"``.
        muscle: thickness of the muscle relative to an average adult.
        fat_mm: thickness of the layer on the muscle; 0 gives the surface of the muscle.
    """
    _, _, head, elbow, wrist = body.joints_mm(side)
    hand = body.hand_mm(side)
    bend = np.cross(elbow - head, wrist - elbow)
    forward = np.cross(bend, elbow - head)
    forward /= max(float(np.linalg.norm(forward)), 1e-6)
    field = Field(lattice)
    shoulder_to_wrist = [
        *_upper_arm(head, elbow, forward, body.scale, muscle, fat_mm),
        *_forearm(elbow, wrist, body.scale, muscle, fat_mm),
    ]
    for shape, blend in shoulder_to_wrist:
        field.add(shape, blend)
    field.add(_palm(wrist, hand, body.scale, fat_mm), 14.0, margin_mm=24.0)
    field.add(_fingers(body, side, fat_mm), _FINGER_BLEND_MM, margin_mm=16.0)
    return field
