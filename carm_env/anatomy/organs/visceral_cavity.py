"""The cavity of the abdomen, and the painter of the organs in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.envelope import Envelope
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Field, Shape, smooth_intersection, tube
from carm_env.anatomy.skeleton.body import Body

_WALL_MM = 7.0
"""Thickness of the muscle inside the wall of the trunk."""
_RETROPERITONEUM_MM = 25.0
_FLOOR_MM = 880.0

_PELVIC_FUNNEL = np.array(
    # height, half width, back
    [
        (880, 44, 205), (930, 62, 222), (980, 92, 232), (1020, 112, 240), (1060, 128, 250), (1090, 150, 280),
        (1100, 400, 400),
    ],
    float,
)  # fmt: skip


class AbdomenPainter:
    """Painter of organs that are clipped to the visceral cavity."""

    def __init__(self, canvas: Canvas, cavity: NDArray[np.float32]) -> None:
        self.canvas = canvas
        self.cavity = cavity

    def clip(self, field: Field, inset_mm: float = 0.0) -> Field:
        """Clips a field on a box of the fine lattice to the cavity."""
        origin, spacing = self.canvas.coarse.origin_mm, self.canvas.coarse.spacing_mm
        index = [np.clip((field.lattice.axis(axis) - origin[axis]) / spacing, 0, None) for axis in range(3)]
        limit = _interpolate(self.cavity, index) + np.float32(inset_mm)
        field.values = smooth_intersection(field.values, limit, 6.0)
        return field

    def organ(
        self, shapes: list[Shape], hu: float, texture_hu: float = 6.0, blend_mm: float = 20.0, inset_mm: float = 0.0
    ) -> None:
        """Paints a smooth union of shapes, clipped to the cavity."""
        field, box = Field.around(self.canvas.fine, shapes, blend_mm, margin_mm=max(8.0, blend_mm))
        if field.values.size:
            self.canvas.paint_box(self.clip(field, inset_mm), box, hu, texture_hu)


def _interpolate(coarse: NDArray[np.float32], index: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    values = coarse
    for axis in range(3):
        low = np.minimum(index[axis].astype(int), values.shape[axis] - 2)
        weight = np.expand_dims((index[axis] - low).astype(np.float32), [other for other in range(3) if other != axis])
        values = np.take(values, low, axis) * (1 - weight) + np.take(values, low + 1, axis) * weight
    return values


def visceral_cavity(
    body: Body, envelope: Envelope, below_diaphragm: NDArray[np.float32], canvas: Canvas
) -> NDArray[np.float32]:
    """Returns the signed distance from the surface of the abdominal cavity on the coarse lattice, mm."""
    spine = Field(canvas.coarse).add(tube(body.spine_mm(), _RETROPERITONEUM_MM * body.scale), margin_mm=30.0)
    _, _, z = canvas.coarse.axes()
    floor = (body.frame.height(_FLOOR_MM) - z).astype(np.float32)
    cavity = smooth_intersection(envelope.wall + np.float32(_WALL_MM), below_diaphragm + np.float32(3.0), 6.0)
    cavity = smooth_intersection(cavity, -spine.values, 12.0)
    x, y, _ = canvas.coarse.axes()
    cavity = smooth_intersection(cavity, _pelvic_inlet(x, y, z, body), 20.0)
    return smooth_intersection(cavity, np.broadcast_to(floor, cavity.shape), 12.0)


def _pelvic_inlet(
    x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32], body: Body
) -> NDArray[np.float32]:
    # In the pelvis the cavity narrows like a funnel between the hip bones.
    height = body.frame.level(z)
    half_width = np.interp(height, _PELVIC_FUNNEL[:, 0], _PELVIC_FUNNEL[:, 1]) * body.frame.width
    back = np.interp(height, _PELVIC_FUNNEL[:, 0], _PELVIC_FUNNEL[:, 2]) * body.frame.depth
    return np.maximum(np.abs(x) - half_width, y - back).astype(np.float32)
