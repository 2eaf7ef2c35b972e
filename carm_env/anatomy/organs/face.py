"""The face: eyes, nasal airway, mandible and hyoid bone.

Positions are in skeleton coordinates of the head (mm); `Body.head_point` maps them to the patient.
"""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.organs.bone_samples import BoneStyle, add_bone, sample_bone
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Capsule, Ellipsoid, Field, Shape, tube
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import MANDIBLE

_MANDIBLE = BoneStyle(2.3, 1350.0, 330.0, 90.0, smoothing_mm=0.6)


def paint_face(canvas: Canvas, body: Body, density: float, rng: np.random.Generator) -> None:
    """Paints eyes and nasal airway, and builds mandible and hyoid bone; teeth are in `carm_env.anatomy.organs.jaw`."""
    _paint_orbits(canvas, body)
    _paint_nose_airway(canvas, body)
    _paint_mandible(canvas, body, density, rng)
    for shape in _hyoid(body):
        canvas.add_bone_shape(shape, tissue.hu("hyoid") * density)


def _hyoid(body: Body) -> list[Capsule]:
    arch = [body.at(x, 158 + 0.065 * x * x, 1549 + 0.25 * abs(x)) for x in (-20, -14, -8, 0, 8, 14, 20)]
    radii = np.array([1.4, 1.9, 2.6, 3.0, 2.6, 1.9, 1.4]) * body.scale
    return tube(arch, radii)


def _paint_orbits(canvas: Canvas, body: Body) -> None:
    at, size, axes = body.head_point, body.frame.head_size, body.frame.head_rotation
    for sign in (-1, 1):
        shapes: dict[str, Shape] = {
            "orbital_fat": Ellipsoid(at(sign * 31, 150, 1658), np.array([16, 20, 15]) * size, axes),
            "globe": Ellipsoid(at(sign * 31, 139, 1658), np.array([12, 12, 12]) * size, axes),
            "brain": Capsule(at(sign * 30, 151, 1658), at(sign * 14, 178, 1660), 2.2 * size),
        }
        for name, shape in shapes.items():
            canvas.paint_box(*Field.around(canvas.fine, [shape]), tissue.hu(name))


def _paint_nose_airway(canvas: Canvas, body: Body) -> None:
    size = body.frame.head_size
    at = body.head_point
    shapes: list[Shape] = []
    for sign in (-1, 1):
        shapes.append(Capsule(at(sign * 5, 111, 1619), at(sign * 5, 122, 1628), 2.6 * size, 3.4 * size))
        shapes.append(Capsule(at(sign * 5, 122, 1628), at(sign * 5, 172, 1628), 3.4 * size))
        shapes.append(Capsule(at(sign * 4.5, 128, 1638), at(sign * 4.5, 166, 1640), 2.2 * size))
    shapes.append(Ellipsoid(at(0, 184, 1627), np.array([12, 8, 13]) * size, body.frame.head_rotation))
    canvas.paint_box(*Field.around(canvas.fine, shapes, 2.0), tissue.hu("airway"))


def _paint_mandible(canvas: Canvas, body: Body, density: float, rng: np.random.Generator) -> None:
    samples = sample_bone(canvas, body.meshes[MANDIBLE], _MANDIBLE, rng)
    assert samples is not None, "the mandible is outside the volume"
    wall = np.clip(_MANDIBLE.cortex_mm - samples.depth_mm + 0.8, 0, 1)
    core = _MANDIBLE.core_hu + _MANDIBLE.core_texture_hu * samples.texture
    add_bone(canvas, samples, ((wall * _MANDIBLE.cortex_hu + (1 - wall) * core) * density).astype(np.float32))
