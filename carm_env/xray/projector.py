"""What any projector offers: areal densities along the rays of a cone beam."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import ProjectionGeometry


class Projector(Protocol):
    """A backend that integrates partial densities along rays (CPU, GPU, or an outside renderer).

    A ray starts at the source, goes through the centre of a pixel and does not end there: what
    lies behind the detector plane, which a real C-arm would not allow, counts as well. A source may lie
    inside the patient: what is behind it does not count.

    Attributes:
        materials: the names of the materials, in the order of `path_masses`.
    """

    @property
    def materials(self) -> tuple[str, ...]:
        """The names of the materials."""
        ...

    def path_masses(self, geometry: ProjectionGeometry) -> NDArray[np.float32]:
        """Areal densities ``(materials, height, width)`` in g/cm^2, a fresh array each call."""
        ...
