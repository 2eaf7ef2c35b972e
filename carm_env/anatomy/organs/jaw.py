"""Teeth and dense bone of the jaws, added to the mandible of `carm_env.anatomy.organs.face`.

Positions are in skeleton coordinates of the head (mm); `Body.head_point` maps them to the patient. Sizes and HU were
chosen by hand, beside published DRRs of real patients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Capsule, tube
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import MANDIBLE

_HALF_ARCH = (
    # Width along the arch, length of the crown, length of the root, from the central incisor to the second molar.
    (8.0, 10.0, 12.5), (6.5, 9.0, 12.5), (7.5, 10.0, 16.0), (7.0, 8.0, 13.5), (6.8, 8.0, 13.5), (10.2, 7.5, 12.5),
    (9.8, 7.0, 12.0),
)  # fmt: skip
_LOWER_INCISOR_WIDTH = 0.7
_ARCH_HALF_WIDTH_MM, _ARCH_DEPTH_MM, _ARCH_FRONT_MM = 25.5, 44.0, 128.0
_EDGES_MM = {"upper": (1.0, 1593.0, 0.0), "lower": (-1.0, 1589.5, 2.0)}
"""Of each jaw: direction of the roots, height of the edges, dorsal offset."""
_CROWN, _NECK, _APEX = 0.42, 0.32, 0.15
"""Radii of a tooth relative to its width; the space between two teeth parts them in views."""
_ENAMEL_HU, _DENTINE_HU, _FILLING_HU = 2500.0, 1650.0, 3000.0
_MISSING, _FILLED = 0.06, 0.15
"""Probabilities that a tooth is missing, and that a molar or premolar is filled."""

_SECTORS = 22
_BORDER_MM, _BORDER_HU = 2.6, 1350.0


def paint_jaw(canvas: Canvas, body: Body, density: float, rng: np.random.Generator) -> None:
    """Adds enamel, dentine and fillings of each tooth, and the dense lower border of the mandible."""
    for jaw in _EDGES_MM:
        for sign in (-1.0, 1.0):
            _paint_half(canvas, body, jaw, sign, rng)
    path = _lower_border(body)
    for piece in tube(path, _BORDER_MM * body.frame.head_size):
        canvas.add_bone_shape(piece, _BORDER_HU * density)


def _paint_half(canvas: Canvas, body: Body, jaw: str, sign: float, rng: np.random.Generator) -> None:
    up, edge_mm, dorsal = _EDGES_MM[jaw]
    size, along = body.frame.head_size, 0.0
    for number, (width, crown, root) in enumerate(_HALF_ARCH):
        missing, filled = rng.uniform(size=2)
        tilt, height = rng.normal(0, 1.2), rng.normal(0, 0.5)
        width *= _LOWER_INCISOR_WIDTH if jaw == "lower" and number < 2 else 1.0
        x, y = _on_arch(along + width / 2)
        along += width
        if missing < _MISSING:
            continue
        edge = edge_mm + height
        neck, tip = edge + up * crown, edge + up * (crown + root)

        def at(lateral: float, depth: float, z: float) -> NDArray[np.float64]:
            return body.head_point(sign * lateral, depth + dorsal, z)  # noqa: B023

        at_neck = at(x, y, neck)
        canvas.add_bone_shape(
            Capsule(at(x, y, edge + up * 2.0), at_neck, _CROWN * width * size, _NECK * width * size), _ENAMEL_HU
        )
        canvas.add_bone_shape(
            Capsule(at_neck, at(0.95 * x + 0.3 * tilt, y + 1.5, tip), _NECK * width * size, _APEX * width * size),
            _DENTINE_HU,
        )
        if number > 2 and filled < _FILLED:
            canvas.add_bone_shape(
                Capsule(at(x, y, edge + up * 2.0), at(x, y, edge + up * 4.0), 2.4 * size), _FILLING_HU
            )


def _on_arch(length_mm: float) -> tuple[float, float]:
    """Returns the distance from the midline and y at a length along the dental arch from its middle."""
    angles = np.linspace(0, 1.45, 60)
    x, y = _ARCH_HALF_WIDTH_MM * np.sin(angles), _ARCH_FRONT_MM + _ARCH_DEPTH_MM * (1 - np.cos(angles))
    reached = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    return float(np.interp(length_mm, reached, x)), float(np.interp(length_mm, reached, y))


def _lower_border(body: Body) -> NDArray[np.float64]:
    """Returns points ``(n, 3)`` along the lower border of the mandible from the right angle to the left, LPS mm."""
    vertices = body.meshes[MANDIBLE].vertices_mm
    x, y, z = body.frame.head_from_patient(tuple(vertices[:, axis].astype(np.float32) for axis in range(3)))
    middle, back = float(np.mean(x)), float(np.quantile(y, 0.6))
    angle = np.arctan2(x - middle, back - y)
    edges = np.linspace(-1.45, 1.45, _SECTORS + 1)
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        sector = np.flatnonzero((angle >= low) & (angle < high))
        if len(sector):
            rows.append(sector[np.argmin(z[sector])])
    raised = vertices[rows] + body.frame.head_rotation @ np.array([0.0, 0.0, 0.8 * _BORDER_MM])
    smooth = np.apply_along_axis(
        lambda row: np.convolve(np.pad(row, 1, mode="edge"), np.ones(3) / 3, "valid"), 0, raised
    )
    return np.asarray(smooth, float)
