"""Degenerative changes: narrow discs, osteophytes and plaques in the aortic arch.

`carm_env.anatomy.organs.bones` adds thicker end plates and calcified costal cartilage.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.heart import aorta_path
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Capsule, Ellipsoid, smooth_path, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import THORACOLUMBAR, thoracic
from carm_env.anatomy.skeleton.vertebrae import ModelledVertebra, modelled_vertebrae

_MAX_NARROWING = 0.3
"""Loss of disc height at each end plate, as a fraction of the height, at degeneration 1."""
_MIN_DISC_MM = 1.0
_OSTEOPHYTES_PER_DISC = 5
_MAX_OSTEOPHYTE_MM = 9.0
_THICK_MM, _THIN_MM = 2.6, 1.0
_OSTEOPHYTE_ANGLES = (np.pi * 0.9, np.pi * 2.1)
"""From the right side over the front to the left side; dorsally they would lie in the spinal canal."""
_AORTIC_SIDE_FACTOR = 0.35
"""Osteophytes on the left of the thoracic spine, next to the pulsating aorta, are shorter by this factor."""
_PLAQUE_ONSET = 0.4
_MAX_PLAQUES = 9
_PLAQUE_RADIUS_MM = 0.9
_CALCIFIED_ROWS = slice(1, 9)
"""Rows of the aorta from its ascending part over the arch to the descending aorta behind the heart."""


def paint_degeneration(
    canvas: Canvas,
    body: Body,
    thorax: Thorax,
    parameters: PatientParameters,
    variation: OrganVariation,
    rng: np.random.Generator,
) -> None:
    """Adds calcified degenerative changes in proportion to `PatientParameters.degeneration`.

    The random numbers do not depend on the degree: the changes of a patient grow at fixed sites.
    """
    degeneration, density = parameters.degeneration, parameters.bone_density
    vertebrae = modelled_vertebrae(body)
    first_thoracic = THORACOLUMBAR.index(thoracic(12))
    for number, (below, above) in enumerate(pairwise(vertebrae[name] for name in THORACOLUMBAR)):
        severity = degeneration * rng.uniform(0.5, 1.0)
        distance = float(np.linalg.norm(above.centre_mm - below.centre_mm))
        height = max(distance - below.shape.upper + above.shape.lower, _MIN_DISC_MM)
        _narrow_disc(canvas, below, above, _MAX_NARROWING * severity * height, density)
        _add_osteophytes(canvas, below, above, severity, height, number >= first_thoracic, density, rng)
    for piece in plaques(thorax, variation, degeneration, rng):
        canvas.add_bone_shape(piece, tissue.hu("plaque"))


def _narrow_disc(
    canvas: Canvas, below: ModelledVertebra, above: ModelledVertebra, by_mm: float, density: float
) -> None:
    if by_mm <= 0:
        return
    for vertebra, height in ((below, below.shape.upper), (above, above.shape.lower)):
        radii = np.array([0.85 * vertebra.shape.half_width, 0.85 * vertebra.shape.half_depth, by_mm])
        plate = Ellipsoid(vertebra.outline_mm(0.0, height, 0.0), radii, vertebra.axes)
        canvas.add_bone_shape(plate, tissue.hu("end_plate") * density)


def _add_osteophytes(
    canvas: Canvas,
    below: ModelledVertebra,
    above: ModelledVertebra,
    severity: float,
    disc_mm: float,
    is_thoracic: bool,
    density: float,
    rng: np.random.Generator,
) -> None:
    angles = rng.uniform(*_OSTEOPHYTE_ANGLES, _OSTEOPHYTES_PER_DISC)
    max_lengths = _MAX_OSTEOPHYTE_MM * rng.beta(1.2, 2.0, _OSTEOPHYTES_PER_DISC)
    for angle, max_length in zip(angles, max_lengths, strict=True):
        factor = _AORTIC_SIDE_FACTOR if is_thoracic and np.cos(angle) > 0.3 else 1.0
        length = severity * factor * max_length
        if length < 1.0:
            continue
        # An osteophyte grows outwards from the rim and curves over the disc towards the adjacent vertebra.
        overhang = min(0.7 * length, 0.5 * disc_mm)
        for vertebra, rim, sign in ((below, below.shape.upper, 1.0), (above, above.shape.lower, -1.0)):
            reach = 1 + 0.7 * length / vertebra.shape.half_width
            root = vertebra.outline_mm(angle, rim - 2.5 * sign, 0.92)
            tip = vertebra.outline_mm(angle, rim + overhang * sign, reach)
            canvas.add_bone_shape(Capsule(root, tip, _THICK_MM, _THIN_MM), tissue.hu("osteophyte") * density)


def plaques(thorax: Thorax, variation: OrganVariation, degeneration: float, rng: np.random.Generator) -> list[Capsule]:
    """Returns the calcified plaques in the wall of the thoracic aorta, thin tubes along it."""
    path = smooth_path(thorax.points(aorta_path(variation)[_CALCIFIED_ROWS]), 8)
    draws = rng.uniform(size=(_MAX_PLAQUES, 3))
    count = round(_MAX_PLAQUES * max(degeneration - _PLAQUE_ONSET, 0.0) / (1 - _PLAQUE_ONSET))
    pieces: list[Capsule] = []
    for position, length, turn in draws[:count]:
        middle = int(position * (len(path) - 1))
        reach = 2 + int(3 * length)
        segment = path[max(middle - reach, 0) : middle + reach + 1]
        for offset in (-0.15, 0.0, 0.15):
            pieces.extend(tube(_on_wall(segment, 2 * np.pi * turn + offset), _PLAQUE_RADIUS_MM))
    return pieces


def _on_wall(path: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    # Columns of the path: x, y, z, radius. The angle is about the path, from the most dorsal direction.
    along = np.gradient(path[:, :3], axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    first = np.array([0.0, 1.0, 0.0]) - along * along[:, 1:2]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    return path[:, :3] + path[:, 3:] * (np.cos(angle) * first + np.sin(angle) * second)
