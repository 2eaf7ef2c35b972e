"""The outline of a patient: landmarks and extents, a few kilobytes, which suffice to draw and check episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.body_depth import SKIN_HU
from carm_env.volume import Volume

_STEP = 4
"""Every fourth voxel is accurate enough for a silhouette and avoids reading the whole volume."""


class PatientGeometry(Protocol):
    """Landmarks and extent of a patient: a `carm_env.patient.Patient` or a `PatientOutline`."""

    @property
    def id(self) -> str:
        """Name of the patient in results."""

    @property
    def landmarks_lps_mm(self) -> Mapping[int, NDArray[np.float64]]:
        """From landmark id (1-14) to a point ``(3,)``, LPS mm."""

    @property
    def corners_lps_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of the first and the last voxel of the volume, each ``(3,)``, LPS mm."""

    @property
    def mid_depth_mm(self) -> float:
        """LPS y half way between the front and the back of the body."""

    @property
    def workspace_mm(self) -> NDArray[np.float64]:
        """``(2, 2)``: lowest and highest isocentre, each ``(x, z)`` in LPS mm."""

    def covers(self, x_mm: float, z_mm: float) -> bool:
        """Returns whether the line through ``(x, z)`` (LPS mm) from front to back meets the body."""


@dataclass(frozen=True, eq=False)
class Silhouette:
    """The body as seen from the front.

    Attributes:
        mask: ``(n, m)``, along x and z: whether the line from front to back meets the body, for every fourth voxel.
        origin_lps_mm: ``(x, z)`` of ``mask[0, 0]``.
        spacing_mm: voxel size ``(x, z)`` of the volume.
    """

    mask: NDArray[np.bool_]
    origin_lps_mm: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Silhouette:
        """Returns the silhouette of everything in a volume that is denser than air."""
        mask = np.any(volume.hu[::_STEP, ::_STEP, ::_STEP] > SKIN_HU, axis=1)
        return cls(mask, volume.origin_lps_mm[[0, 2]], volume.spacing_mm[[0, 2]])

    def covers(self, x_mm: float, z_mm: float) -> bool:
        """Returns whether the line through ``(x, z)`` (LPS mm) from front to back meets the body."""
        i, k = np.rint((np.array([x_mm, z_mm]) - self.origin_lps_mm) / self.spacing_mm / _STEP).astype(int)
        shape = self.mask.shape
        return bool(0 <= i < shape[0] and 0 <= k < shape[1] and self.mask[i, k])


@dataclass(frozen=True, eq=False)
class PatientOutline:
    """What `carm_env.patient.Patient.outline` keeps of a patient.

    Attributes:
        id: name of the patient in results.
        landmarks_lps_mm: from landmark id (1-14) to a point ``(3,)``, LPS mm.
        corners_lps_mm: centres of the first and the last voxel of the volume, each ``(3,)``, LPS mm.
        mid_depth_mm: LPS y half way between the front and the back of the body.
        workspace_mm: ``(2, 2)``: lowest and highest isocentre, each ``(x, z)`` in LPS mm.
        silhouette: the body as seen from the front.
        fingerprint: see `carm_env.patient.Patient.fingerprint`.
    """

    id: str
    landmarks_lps_mm: Mapping[int, NDArray[np.float64]]
    corners_lps_mm: tuple[NDArray[np.float64], NDArray[np.float64]]
    mid_depth_mm: float
    workspace_mm: NDArray[np.float64]
    silhouette: Silhouette
    fingerprint: str

    def covers(self, x_mm: float, z_mm: float) -> bool:
        """Returns whether the line through ``(x, z)`` (LPS mm) from front to back meets the body."""
        return self.silhouette.covers(x_mm, z_mm)
