"""Relief of skin, fat and muscle: folds, breasts with a crease, planes of fat between muscles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.envelope import Envelope, build_envelope
from carm_env.anatomy.organs.head import HeadSurface
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Ellipsoid, Field, smooth_intersection, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import SIDE_SIGN, SIDES

_COVER_MM = 1.0
"""Minimum thickness of skin and fat on muscle."""
_RIPPLES_MM = ((1.6, 85.0), (0.7, 32.0), (0.4, 17.0))
"""Standard deviation and wavelength of the unevenness of the skin."""
_SKIN_SEED = 0x736B696E
"""Added to the seed of a patient: the skin of the average patient is uneven, too."""
_BREAST_MM = ((90.0, 124.0, -150.0), (60.0, 44.0, 58.0))
"""Position (x and y in the skeleton, height relative to T1) and radii."""
_BREAST_BLEND_MM = 9.0
_MALE_BREAST_FROM_FAT_MM = 16.0
_GROOVE_MM, _GROOVE_BLEND_MM = 4.5, 5.0
_PANNICULUS_FROM_FAT_MM = 17.0

_FAT_TEXTURE_HU = 24.0
"""Lobules and septa."""
_MUSCLE_TEXTURE_HU = 28.0
"""Fascicles with fat between them."""
_FAT_PLANES_MM = (8.0, 17.0)
"""Depths of the planes of fat between layers of muscle."""
_FAT_PLANE_HALF_MM, _FAT_PLANE_HU = 0.8, -60.0


def _front_line(
    skin: NDArray[np.float32], lattice: Lattice, x_mm: NDArray[np.float64], z_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns points ``(n, 3)`` on the ventral skin at ``x_mm``, ``z_mm``; points beside the body are left out."""
    i, _, k = lattice.index(np.stack([x_mm, np.zeros_like(x_mm), z_mm], axis=-1)).T
    inside = skin[i, :, k] < 0
    hit = inside.any(axis=1)
    return np.stack([x_mm, lattice.axis(1)[inside.argmax(axis=1)], z_mm], axis=-1)[hit]


def _folds(body: Body, parameters: PatientParameters, variation: OrganVariation) -> list[NDArray[np.float64]]:
    """Returns the skin folds of neck and belly as points ``(n, 2)``: x and height, mm."""
    scale, folds = body.scale, []
    t1 = float(body.landmarks_mm["T1"][2])
    x = np.linspace(-44, 44, 12) * scale
    for height in (34.0, 52.0):
        level = t1 + scale * (height + float(variation.normal(f"neck fold {height}", 5.0)))
        folds.append(np.column_stack([x, level + 0.004 * x * x]))
    if parameters.fat_mm > _PANNICULUS_FROM_FAT_MM:
        x = np.linspace(-115, 115, 24) * scale
        level = body.frame.height(955.0 + float(variation.normal("panniculus", 8.0)))
        folds.append(np.column_stack([x, level + 0.0028 * x * x]))
        level = body.frame.height(1075.0 + float(variation.normal("waist fold", 10.0)))
        folds.append(np.column_stack([x, level - 0.0012 * x * x]))
    return folds


def _breasts(body: Body, parameters: PatientParameters, variation: OrganVariation, field: Field) -> None:
    male = np.clip((parameters.fat_mm - _MALE_BREAST_FROM_FAT_MM) / 25.0, 0, 1)
    fullness = max(parameters.female, 0.5 * float(male))
    if fullness <= 0:
        return
    (x, y, height), radii = _BREAST_MM
    level = float(body.landmarks_mm["T1"][2]) + height * body.scale
    for side in SIDES:
        size = (0.62 + 0.38 * fullness) * variation.size(f"breast {side}", 0.06)
        # In a supine patient the breasts sink laterally, the more the larger they are.
        centre = body.frame.at_height(SIDE_SIGN[side] * (x + 10 * fullness), y, level)
        field.add(Ellipsoid(centre, np.array(radii) * size * (0.6 + 0.4 * body.scale)), _BREAST_BLEND_MM)


def build_relief(
    body: Body, parameters: PatientParameters, lattice: Lattice, head: HeadSurface, variation: OrganVariation
) -> Envelope:
    """Returns the surfaces of muscle and skin with folds, creased breasts and uneven skin."""
    envelope = build_envelope(body, parameters, lattice, head)
    field = Field(lattice, envelope.skin)
    _breasts(body, parameters, variation, field)
    uneven = OrganVariation(parameters.seed + _SKIN_SEED)
    for amplitude, wavelength in _RIPPLES_MM:
        uneven.ripple(f"skin {wavelength}", field, amplitude, wavelength)
    grooves = Field(lattice)
    for fold in _folds(body, parameters, variation):
        points = _front_line(field.values, lattice, fold[:, 0], fold[:, 1])
        if len(points) > 1:
            grooves.add(tube(points, _GROOVE_MM), 2.0, margin_mm=16.0)
    skin = smooth_intersection(field.values, -grooves.values, _GROOVE_BLEND_MM)
    covered = np.minimum(envelope.muscle, envelope.arms) - np.float32(_COVER_MM)
    return replace(envelope, skin=np.minimum(skin, covered))


def paint_relief(canvas: Canvas, envelope: Envelope) -> None:
    """Paints fat, muscle with planes of fat between its layers, and the skin."""
    canvas.paint(envelope.skin, tissue.hu("fat"), _FAT_TEXTURE_HU)
    for muscle in (envelope.muscle, envelope.arms):
        canvas.paint(muscle, tissue.hu("muscle"), _MUSCLE_TEXTURE_HU)
        for depth in _FAT_PLANES_MM:
            canvas.paint_shell(muscle, depth, _FAT_PLANE_HALF_MM, _FAT_PLANE_HU)
    canvas.paint_shell(envelope.skin, 1.5, 0.7, tissue.hu("skin"))
