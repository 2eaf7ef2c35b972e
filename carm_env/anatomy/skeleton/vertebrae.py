"""Geometry of the thoracic and lumbar vertebral bodies and their end plates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import CERVICAL_SPINE, THORACOLUMBAR
from carm_env.anatomy.skeleton.vertebral_shapes import CERVICAL_LEVELS, LEVELS, VertebraShape, vertebra_shape

_CORE_MM = 14.0
"""Within this distance from the midline the end plates are the highest and lowest points of a vertebral body."""


_FEWEST_CERVICAL_FACES = 100
"""The cervical mesh contains seven vertebrae and five discs, which have fewer faces."""
_CERVICAL_BODY_DEPTH_MM = 15.0


@dataclass(frozen=True, eq=False)
class VertebralBody:
    """The ventral part of a vertebra, LPS mm.

    Attributes:
        centre_mm: ``(3,)`` centre.
        axes: ``(3, 3)`` unit vectors to the left, to the back and up along the spine, as columns.
        lower_mm: height of the lower end plate relative to the centre, along the spine (negative).
        upper_mm: height of the upper end plate relative to the centre, along the spine.
        half_width_mm: distance from the centre to the side.
        half_depth_mm: distance from the centre to the front.
    """

    centre_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    lower_mm: float
    upper_mm: float
    half_width_mm: float
    half_depth_mm: float

    def height_mm(self, points_mm: NDArray[np.floating]) -> NDArray[np.floating]:
        """Returns the height ``(n,)`` of points ``(n, 3)`` relative to the centre, along the spine."""
        return (points_mm - self.centre_mm) @ self.axes[:, 2]

    def outline_mm(self, angle: float, height_mm: float, fraction: float = 1.0) -> NDArray[np.float64]:
        """Returns a point ``(3,)`` on or inside the elliptical outline at a height, LPS mm.

        Args:
            angle: radians; 0 points to the patient's left, pi / 2 to the back, 3 / 2 pi to the front.
            height_mm: height relative to the centre, along the spine.
            fraction: 1 on the outline, 0 on the axis.
        """
        left = fraction * self.half_width_mm * np.cos(angle)
        dorsal = fraction * self.half_depth_mm * np.sin(angle)
        return self.centre_mm + self.axes @ [left, dorsal, height_mm]


@dataclass(frozen=True, eq=False)
class ModelledVertebra:
    """A vertebra with its shape in the patient.

    Attributes:
        centre_mm: ``(3,)`` centre of the body, LPS mm.
        axes: ``(3, 3)`` unit vectors to the left, to the back and up along the spine, as columns.
        shape: its sizes.
    """

    centre_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    shape: VertebraShape


def _axes(tangent: NDArray[np.float64]) -> NDArray[np.float64]:
    up = tangent / np.linalg.norm(tangent)
    back = np.array([0.0, 1.0, 0.0]) - up[1] * up
    back /= np.linalg.norm(back)
    return np.column_stack([np.cross(back, up), back, up])


def cervical_meshes(body: Body) -> list[Mesh]:
    """Returns the meshes of the cervical vertebrae from C1 down to C7."""
    shells = [shell for shell in body.meshes[CERVICAL_SPINE].shells() if len(shell.faces) > _FEWEST_CERVICAL_FACES]
    return sorted(shells, key=lambda shell: -float(shell.vertices_mm[:, 2].mean()))


def modelled_vertebrae(body: Body) -> dict[str, ModelledVertebra]:
    """Returns the vertebrae of a body of anatomy 5 from L5 up to C3, by mesh name or ``C7`` to ``C3``."""
    assert body.variation is not None
    cervical = cervical_meshes(body)[2:]
    front = [_cervical_centre(mesh, body.scale) for mesh in cervical]
    centres = np.array([*body.spine_mm(), *front[::-1]])
    names = [*THORACOLUMBAR, *(f"C{number}" for number in range(7, 7 - CERVICAL_LEVELS, -1))]
    tangents = np.gradient(centres, axis=0)
    gaps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    # Discs are of even height; the centres of the meshes are not.
    gaps = np.convolve(np.pad(gaps, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    below, above = np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])
    found = {}
    for number, (name, centre, tangent) in enumerate(zip(names, centres, tangents, strict=True)):
        wider = higher = 1.0
        if body.shapes is not None and name in THORACOLUMBAR:
            wider, higher = body.shapes.vertebral_width[number], body.shapes.vertebral_height[number]
        shape = vertebra_shape(
            LEVELS - 1 - number, float(below[number]), float(above[number]), body.scale, body.variation, wider, higher
        )
        found[name] = ModelledVertebra(centre, _axes(tangent), shape)
    return found


def _cervical_centre(mesh: Mesh, scale: float) -> NDArray[np.float64]:
    vertices = mesh.vertices_mm
    front = vertices[vertices[:, 1] < vertices[:, 1].min() + _CERVICAL_BODY_DEPTH_MM * scale]
    return (front.min(0) + front.max(0)) / 2


def vertebral_bodies(body: Body) -> dict[str, VertebralBody]:
    """Returns the vertebral bodies from L5 up to T1 by mesh name, in that order."""
    if body.variation is not None:
        return {
            name: VertebralBody(
                vertebra.centre_mm,
                vertebra.axes,
                vertebra.shape.lower,
                vertebra.shape.upper,
                vertebra.shape.half_width,
                vertebra.shape.half_depth,
            )
            for name, vertebra in modelled_vertebrae(body).items()
            if name in THORACOLUMBAR
        }
    centres = body.spine_mm()
    tangents = np.gradient(centres, axis=0)
    found = {}
    for name, centre, tangent in zip(THORACOLUMBAR, centres, tangents, strict=True):
        axes = _axes(tangent)
        local = (body.meshes[name].vertices_mm - centre) @ axes
        front = -float(local[:, 1].min())
        # In the dorsal half the articular processes rise above the end plates.
        core = local[(np.abs(local[:, 0]) < _CORE_MM * body.scale) & (local[:, 1] < 0.5 * front)]
        level = local[np.abs(local[:, 1]) < 0.5 * front]
        found[name] = VertebralBody(
            centre, axes, float(core[:, 2].min()), float(core[:, 2].max()), float(np.abs(level[:, 0]).max()), front
        )
    return found
