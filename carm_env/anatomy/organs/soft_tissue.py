"""Soft tissue of a patient in the version of the anatomy that its parameters name."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs import heart, thorax
from carm_env.anatomy.organs.abdomen import paint_abdomen
from carm_env.anatomy.organs.air_column import paint_air_column
from carm_env.anatomy.organs.airways import paint_airways
from carm_env.anatomy.organs.envelope import Envelope, build_envelope
from carm_env.anatomy.organs.head import HeadSurface
from carm_env.anatomy.organs.heart import paint_heart
from carm_env.anatomy.organs.mediastinum import paint_mediastinum
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.relief import build_relief, paint_relief
from carm_env.anatomy.organs.thorax import ChestFields, Thorax
from carm_env.anatomy.organs.viscera import paint_viscera
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Field
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body


class SoftTissue(Protocol):
    """Builds and paints the soft tissue of one patient, in the order of the methods."""

    def envelope(self, body: Body, lattice: Lattice, head: HeadSurface) -> Envelope:
        """Returns the surfaces of muscle and skin on the coarse lattice."""
        ...

    def paint_envelope(self, canvas: Canvas, envelope: Envelope) -> None:
        """Paints fat, muscle and skin."""
        ...

    def mediastinum(self, chest: Thorax, lattice: Lattice) -> NDArray[np.float32]:
        """Returns the signed distance from the surface of the mediastinum on the coarse lattice, mm."""
        ...

    def paint_abdomen(
        self, canvas: Canvas, body: Body, chest: Thorax, cavity: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        """Fills the abdominal cavity, given as signed distance from its surface on the coarse lattice, mm."""
        ...

    def paint_mediastinum(self, canvas: Canvas, chest: Thorax, fields: ChestFields) -> None:
        """Fills the chest: mediastinum and lungs."""
        ...

    def paint_airways(self, canvas: Canvas, body: Body, chest: Thorax) -> Field:
        """Paints the airways; returns the signed distance from the lumen on a box of the fine lattice."""
        ...


class _Version4:
    """The soft tissue on which the networks that ship were trained."""

    def __init__(self, parameters: PatientParameters) -> None:
        self._parameters = parameters

    def envelope(self, body: Body, lattice: Lattice, head: HeadSurface) -> Envelope:
        return build_envelope(body, self._parameters, lattice, head)

    def paint_envelope(self, canvas: Canvas, envelope: Envelope) -> None:
        canvas.paint(envelope.skin, tissue.hu("fat"), tissue.texture("fat"))
        canvas.paint(envelope.muscle, tissue.hu("muscle"), tissue.texture("muscle"))
        canvas.paint(envelope.arms, tissue.hu("muscle"), tissue.texture("muscle"))
        canvas.paint_shell(envelope.skin, 1.5, 0.6, tissue.hu("skin"))

    def mediastinum(self, chest: Thorax, lattice: Lattice) -> NDArray[np.float32]:
        return thorax.mediastinum_surface(chest, lattice)

    def paint_abdomen(
        self, canvas: Canvas, body: Body, chest: Thorax, cavity: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        paint_abdomen(canvas, body, chest, cavity, self._parameters, rng)

    def paint_mediastinum(self, canvas: Canvas, chest: Thorax, fields: ChestFields) -> None:
        paint_mediastinum(canvas, chest, fields, self._parameters)

    def paint_airways(self, canvas: Canvas, body: Body, chest: Thorax) -> Field:
        return paint_airways(canvas, body, chest)


class _Version5:
    """The soft tissue with an air column, an oblique heart, viscera that vary, and folds of the skin."""

    def __init__(self, parameters: PatientParameters) -> None:
        self._parameters = parameters
        self._variation = OrganVariation(parameters.seed)

    def envelope(self, body: Body, lattice: Lattice, head: HeadSurface) -> Envelope:
        return build_relief(body, self._parameters, lattice, head, self._variation)

    def paint_envelope(self, canvas: Canvas, envelope: Envelope) -> None:
        paint_relief(canvas, envelope)

    def mediastinum(self, chest: Thorax, lattice: Lattice) -> NDArray[np.float32]:
        return heart.mediastinum_surface(chest, lattice, self._variation)

    def paint_abdomen(
        self, canvas: Canvas, body: Body, chest: Thorax, cavity: NDArray[np.float32], rng: np.random.Generator
    ) -> None:
        paint_viscera(canvas, body, chest, cavity, self._parameters, self._variation, rng)

    def paint_mediastinum(self, canvas: Canvas, chest: Thorax, fields: ChestFields) -> None:
        paint_heart(canvas, chest, fields, self._parameters, self._variation)

    def paint_airways(self, canvas: Canvas, body: Body, chest: Thorax) -> Field:
        return paint_air_column(canvas, body, chest, self._parameters, self._variation)


def soft_tissue(parameters: PatientParameters) -> SoftTissue:
    """Returns the soft tissue of a patient."""
    return _Version5(parameters) if parameters.anatomy == "5" else _Version4(parameters)
