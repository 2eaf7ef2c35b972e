"""The vertebrae of a patient from L5 up to C3: position, direction and shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import CERVICAL_SPINE, THORACOLUMBAR
from carm_env.anatomy.skeleton.vertebral_shapes import CERVICAL_LEVELS, LEVELS, VertebraShape, vertebra_shape

_FEWEST_CERVICAL_FACES = 100
"""The cervical mesh contains seven vertebrae and five discs, which have fewer faces."""
_CERVICAL_BODY_DEPTH_MM = 15.0


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

    def outline_mm(self, angle: float, height_mm: float, fraction: float = 1.0) -> NDArray[np.float64]:
        """Returns a point ``(3,)`` on or inside the elliptical outline of the body at a height, LPS mm.

        Args:
            angle: radians; 0 points to the patient's left, pi / 2 to the back, 3 / 2 pi to the front.
            height_mm: height relative to the centre, along the spine.
            fraction: 1 on the outline, 0 on the axis.
        """
        left = fraction * self.shape.half_width * np.cos(angle)
        dorsal = fraction * self.shape.half_depth * np.sin(angle)
        return self.centre_mm + self.axes @ [left, dorsal, height_mm]


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
    """Returns the vertebrae of a body from L5 up to C3, by mesh name or ``C7`` to ``C3``."""
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
        if name in THORACOLUMBAR:
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
