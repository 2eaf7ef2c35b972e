"""The rules of an episode: how it begins, what an action does, what the agent is told.

Everything here is deterministic and takes no X-rays: environments draw the random numbers and ask the cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, MoveLattice
from carm_env.envs.rewards import RewardSettings
from carm_env.envs.state import EpisodeState, Rows
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, planar_displacement_mm
from carm_env.landmarks import N_CLOSEST
from carm_env.patient import Patient

_MIN_MOVE_MM = 1e-9
"""Shorter differences are rounding errors."""
_ABSENT_MM = 1e9
"""Coordinates of absent landmarks: farther than all others."""


@dataclass(frozen=True, eq=False)
class Transition:
    """The transition function of ``CArmNav-v0``, for N episodes at once.

    Attributes:
        view: angles and projection of every view; its isocentre is the origin.
        lattice: lengths of the moves.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`). Moves and distances do
            not depend on it: both are across the beam.
    """

    view: CArmPose
    lattice: MoveLattice
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM

    @cached_property
    def moves_mm(self) -> NDArray[np.float64]:
        """``(49, 2)`` displacement of each action, to the patient's left and cranially."""
        return self.lattice.table_mm()

    @cached_property
    def _workspace_shift_mm(self) -> NDArray[np.float64]:
        """``(2,)`` from the point where the central ray meets the mid-depth plane to the isocentre, x and z."""
        return np.asarray(self.view.towards_source(self.isocenter_depth_mm).isocenter_lps_mm)[::2]

    @cached_property
    def _directions(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each action moves each axis in the negative and in the positive direction, ``(49, 2)`` each."""
        return self.moves_mm < 0, self.moves_mm > 0

    def begin(
        self, state: EpisodeState, row: int, patient: Patient, target: int, isocenter_lps_mm: NDArray[np.float64]
    ) -> None:
        """Starts an episode in `row`, before its first X-ray.

        Args:
            state: N episodes.
            row: the episode that begins.
            patient: its patient.
            target: id of the target landmark, which the patient has.
            isocenter_lps_mm: ``(3,)`` where the isocentre starts.
        """
        n = len(patient.landmarks_lps_mm)
        state.patients[row] = patient.id
        state.targets[row] = target
        state.target_points_lps_mm[row] = patient.landmarks_lps_mm[target]
        state.workspaces_mm[row] = patient.workspace_mm + self._workspace_shift_mm
        state.landmark_ids[row] = 0
        state.landmark_ids[row, :n] = list(patient.landmarks_lps_mm)
        state.landmarks_lps_mm[row] = _ABSENT_MM
        state.landmarks_lps_mm[row, :n] = list(patient.landmarks_lps_mm.values())
        state.isocenters_lps_mm[row] = isocenter_lps_mm
        state.moved_mm[row] = 0.0
        state.clipped[row] = state.declared[row] = state.success[row] = False
        state.exposures[row] = 0
        state.dose_mgy[row] = state.dap_mgy_cm2[row] = 0.0
        self._measure(state, slice(row, row + 1))

    def retarget(self, state: EpisodeState, row: int, patient: Patient, target: int) -> None:
        """Changes the target of the running episode in `row` to the id of a landmark that its patient has."""
        state.targets[row] = target
        state.target_points_lps_mm[row] = patient.landmarks_lps_mm[target]
        self._measure(state, slice(row, row + 1))

    def step(
        self, state: EpisodeState, rows: Rows, actions: NDArray[np.int64], rewards: RewardSettings
    ) -> NDArray[np.float64]:
        """Moves the C-arm or declares the view aligned, in each of `rows`.

        An episode whose action is a move needs an X-ray afterwards (`EpisodeState.add_exposures`).

        Args:
            state: N episodes.
            rows: the n episodes that step.
            actions: ``(n,)`` valid actions.
            rewards: how to reward them.

        Returns:
            ``(n,)`` rewards.
        """
        before_mm = state.distances_mm[rows].copy()
        # A declaration is a move by nothing.
        wanted = self.moves_mm[actions]
        limits = state.workspaces_mm[rows]
        here = state.isocenters_lps_mm[rows, ::2]
        there = np.minimum(np.maximum(here + wanted, limits[:, 0]), limits[:, 1])
        moved = there - here
        state.isocenters_lps_mm[rows, ::2] = there
        state.moved_mm[rows] = moved
        state.clipped[rows] = (np.abs(moved - wanted) > _MIN_MOVE_MM).any(axis=1)
        self._measure(state, rows)
        after_mm = state.distances_mm[rows]
        declared = actions == ALIGNED.index
        success = declared & (after_mm <= state.tolerances_mm[rows])
        state.declared[rows] = declared
        state.success[rows] = success
        return rewards.reward(before_mm, after_mm, ~declared, declared, success)

    def action_masks(self, state: EpisodeState) -> NDArray[np.bool_]:
        """``(N, 49)``: whether every axis that the action commands would move."""
        here = state.isocenters_lps_mm[:, ::2]
        lowest = (state.workspaces_mm[:, 0] - here)[:, None]
        highest = (state.workspaces_mm[:, 1] - here)[:, None]
        negative, positive = self._directions
        blocked = (negative & (lowest > -_MIN_MOVE_MM)) | (positive & (highest < _MIN_MOVE_MM))
        return np.logical_not(blocked.any(axis=2))

    def closest_landmarks(self, state: EpisodeState) -> NDArray[np.int64]:
        """``(N, 3)``: ids of the landmarks nearest to the isocentre, nearest first; 0 where there are fewer."""
        offsets = self._planar_mm(state.landmarks_lps_mm - state.isocenters_lps_mm[:, None])
        distances = np.hypot(offsets[..., 0], offsets[..., 1])
        order = np.argsort(distances, axis=1, kind="stable")[:, :N_CLOSEST]
        return state.landmark_ids[np.arange(len(order))[:, None], order]

    def infos(self, state: EpisodeState) -> dict[str, Any]:
        """The values of `info`, each a fresh array ``(N, ...)``; see `carm_env.envs.navigation.CArmNavEnv`."""
        return {
            "distance_mm": state.distances_mm.copy(),
            "displacement_mm": state.displacements_mm.copy(),
            "isocenter_lps_mm": state.isocenters_lps_mm.copy(),
            "closest_landmarks": self.closest_landmarks(state),
            "target_landmark": state.targets.copy(),
            "is_success": state.success.copy(),
            "exposures": state.exposures.copy(),
            "dose_mgy": state.dose_mgy.copy(),
            "dap_mgy_cm2": state.dap_mgy_cm2.copy(),
            "view_quality": state.view_quality.copy(),
            "action_mask": self.action_masks(state).astype(np.int8),
            "move_effective": (state.moved_mm != 0).any(axis=1),
            "move_clipped": state.clipped.copy(),
            "moved_mm": state.moved_mm.copy(),
            "patient": state.patients.copy(),
            **({} if state.domains[0] is None else {"domain": state.domains.copy()}),
        }

    def _measure(self, state: EpisodeState, rows: Rows) -> None:
        """Updates the displacements and distances of `rows` after their isocentres have changed."""
        displacements = self._planar_mm(state.target_points_lps_mm[rows] - state.isocenters_lps_mm[rows])
        state.displacements_mm[rows] = displacements
        state.distances_mm[rows] = np.hypot(displacements[:, 0], displacements[:, 1])

    def _planar_mm(self, offsets_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        # The isocentre of `view` is the origin, so offsets from an isocentre are points of its frame.
        return planar_displacement_mm(self.view, offsets_mm)
