"""Name the closest landmark, then reason about the way: the reference for the paper's two steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import landmark
from policies.base import Decision, Policy

GRID_STEP_MM = 10.0
GRID_MARGIN_MM = 90.0
SOFTNESS_MM = 25.0


class AtlasPolicy(Policy):
    """Knows only the closest landmark and where landmarks lie in the mean patient.

    It keeps a belief over the places of the mean patient where the C-arm may stand, as a grid. The
    closest landmark of each X-ray makes the places near that landmark likelier; each move shifts the
    belief. It moves towards the target from the mean of the belief, and declares "aligned" where no
    move of the lattice would come nearer.

    This is the paper's two-step reasoning (section 2.3) with a perfect first step and a memory of the
    earlier ones: the reference for policies that name the closest landmark and reason by anatomy.

    Args:
        lattice: what the extents mean, as in the environment.
    """

    privileged_info = frozenset({"closest_landmarks"})

    def __init__(self, lattice: MoveLattice | None = None) -> None:
        self._lattice = lattice or MoveLattice()
        self._layout_mm = landmark_layout().mean_mm
        low = self._layout_mm.min(0) - GRID_MARGIN_MM
        high = self._layout_mm.max(0) + GRID_MARGIN_MM
        axes = [np.arange(a, b, GRID_STEP_MM) for a, b in zip(low, high, strict=True)]
        self._start_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Every place is equally likely again."""
        self._log_belief = np.zeros(len(self._start_mm))
        self._places_mm = self._start_mm

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Update the belief with the closest landmark and go on towards the target."""
        closest, target = int(info["closest_landmarks"][0]), int(info["target_landmark"])
        # The C-arm's own encoders tell how far it went, also where the workspace stopped it.
        self._places_mm = self._places_mm + np.asarray(info["moved_mm"])
        self._log_belief = self._log_belief + self._log_likelihood(closest)
        belief = np.exp(self._log_belief - self._log_belief.max())
        here_mm = belief @ self._places_mm / belief.sum()
        wanted_mm = self._layout_mm[landmark(target).index] - here_mm
        return Decision(
            self._lattice.closest_move(wanted_mm),
            closest_landmarks=(closest,),
            rationale=f"{landmark(closest).name} is closest, so {landmark(target).name} should lie "
            f"{wanted_mm[0]:.0f} mm to the left and {wanted_mm[1]:.0f} mm cranially.",
        )

    def _log_likelihood(self, closest: int) -> NDArray[np.float64]:
        """Log-likelihood that `closest` is the nearest landmark, at each place ``(n,)``.

        A soft Voronoi cell: patients differ from the mean by some centimetres, so the border between
        two landmarks' cells is uncertain by as much.
        """
        distances = np.linalg.norm(self._places_mm[:, None, :] - self._layout_mm[None], axis=-1)
        scores = -distances / SOFTNESS_MM
        scores -= scores.max(axis=1, keepdims=True)
        return scores[:, landmark(closest).index] - np.log(np.exp(scores).sum(axis=1))
