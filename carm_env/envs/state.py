"""The state of N episodes as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.landmarks import N_LANDMARKS
from carm_env.xray.physics.exposure import Exposure

Rows = slice | NDArray[np.int64]
"""Episodes of a state: a slice or an array of row numbers."""


@dataclass(frozen=True, eq=False)
class EpisodeState:
    """N episodes, one row each; a single environment has N = 1. The arrays are updated in place.

    All points are in LPS mm. `carm_env.envs.transition.Transition` gives the rules.

    Attributes:
        patients: ``(N,)`` ids of the patients (object).
        targets: ``(N,)`` ids of the target landmarks.
        target_points_lps_mm: ``(N, 3)`` the target landmarks.
        tolerances_mm: ``(N,)`` a declaration within this distance is a success.
        workspaces_mm: ``(N, 2, 2)`` lowest and highest isocentre, each ``(x, z)``.
        landmark_ids: ``(N, 14)`` ids of the patient's landmarks, filled up with 0.
        landmarks_lps_mm: ``(N, 14, 3)`` the patient's landmarks, in the order of `landmark_ids`.
        isocenters_lps_mm: ``(N, 3)`` the isocentres.
        displacements_mm: ``(N, 2)`` from the isocentre to the target in the image plane, right and up.
        distances_mm: ``(N,)`` the lengths of `displacements_mm`.
        moved_mm: ``(N, 2)`` displacement by the last action, to the patient's left and cranially.
        clipped: ``(N,)`` whether the workspace shortened the last move.
        declared: ``(N,)`` whether the view was declared aligned, which ends the episode.
        success: ``(N,)`` whether it was declared within the tolerance.
        exposures: ``(N,)`` X-rays taken.
        dose_mgy: ``(N,)`` reference air kerma of all X-rays, mGy.
        dap_mgy_cm2: ``(N,)`` air kerma-area product of all X-rays, mGy cm^2.
        view_quality: ``(N,)`` `carm_env.xray.physics.quality.ViewQuality` of the last X-ray (object).
        domains: ``(N,)`` X-ray systems as JSON texts (object), None for the camera as it is.
    """

    patients: NDArray[np.object_]
    targets: NDArray[np.int64]
    target_points_lps_mm: NDArray[np.float64]
    tolerances_mm: NDArray[np.float64]
    workspaces_mm: NDArray[np.float64]
    landmark_ids: NDArray[np.int64]
    landmarks_lps_mm: NDArray[np.float64]
    isocenters_lps_mm: NDArray[np.float64]
    displacements_mm: NDArray[np.float64]
    distances_mm: NDArray[np.float64]
    moved_mm: NDArray[np.float64]
    clipped: NDArray[np.bool_]
    declared: NDArray[np.bool_]
    success: NDArray[np.bool_]
    exposures: NDArray[np.int64]
    dose_mgy: NDArray[np.float64]
    dap_mgy_cm2: NDArray[np.float64]
    view_quality: NDArray[np.object_]
    domains: NDArray[np.object_]

    @classmethod
    def allocate(cls, n: int) -> EpisodeState:
        """Returns a state of `n` episodes that have not begun."""
        return cls(
            patients=np.full(n, None, dtype=object),
            targets=np.zeros(n, dtype=np.int64),
            target_points_lps_mm=np.zeros((n, 3)),
            tolerances_mm=np.zeros(n),
            workspaces_mm=np.zeros((n, 2, 2)),
            landmark_ids=np.zeros((n, N_LANDMARKS), dtype=np.int64),
            landmarks_lps_mm=np.zeros((n, N_LANDMARKS, 3)),
            isocenters_lps_mm=np.zeros((n, 3)),
            displacements_mm=np.zeros((n, 2)),
            distances_mm=np.zeros(n),
            moved_mm=np.zeros((n, 2)),
            clipped=np.zeros(n, dtype=bool),
            declared=np.zeros(n, dtype=bool),
            success=np.zeros(n, dtype=bool),
            exposures=np.zeros(n, dtype=np.int64),
            dose_mgy=np.zeros(n),
            dap_mgy_cm2=np.zeros(n),
            view_quality=np.full(n, None, dtype=object),
            domains=np.full(n, None, dtype=object),
        )

    def row(self, i: int) -> EpisodeState:
        """Returns episode `i` as a state with N = 1 that shares memory with this one."""
        views: dict[str, Any] = {item.name: getattr(self, item.name)[i : i + 1] for item in fields(self)}
        return EpisodeState(**views)

    def add_exposures(
        self, rows: Rows, exposures: Sequence[Exposure], quality: Sequence[str] | NDArray[np.object_]
    ) -> None:
        """Counts one X-ray in each of `rows`.

        Args:
            rows: n episodes.
            exposures: ``(n,)`` dose of each X-ray.
            quality: ``(n,)`` view quality of each.
        """
        self.exposures[rows] += 1
        self.dose_mgy[rows] += [exposure.air_kerma_mgy for exposure in exposures]
        self.dap_mgy_cm2[rows] += [exposure.dap_mgy_cm2 for exposure in exposures]
        self.view_quality[rows] = quality
