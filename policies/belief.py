"""Where the C-arm may stand over the mean patient: a grid of places, made likelier or less likely by what is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import landmark

GRID_STEP_MM = 10.0
GRID_MARGIN_MM = 90.0
SOFTNESS_MM = 25.0


class AtlasBelief:
    """A belief over the places of the mean patient.

    The closest landmark of each X-ray makes the places near that landmark likelier; each move shifts the belief.
    """

    def __init__(self) -> None:
        self._layout_mm = landmark_layout().mean_mm
        low = self._layout_mm.min(0) - GRID_MARGIN_MM
        high = self._layout_mm.max(0) + GRID_MARGIN_MM
        axes = [np.arange(a, b, GRID_STEP_MM) for a, b in zip(low, high, strict=True)]
        self._start_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.reset()

    def reset(self) -> None:
        """Every place is equally likely again."""
        self._log_belief = np.zeros(len(self._start_mm))
        self._places_mm = self._start_mm

    def move(self, moved_mm: ArrayLike) -> None:
        """The C-arm went ``(2,)`` mm to the left and cranially, by its encoders: a move may have been cut short."""
        self._places_mm = self._places_mm + np.asarray(moved_mm)

    def see(self, probabilities: ArrayLike) -> None:
        """An X-ray shows each landmark to be the closest with probabilities ``(14,)``."""
        # A soft Voronoi cell: patients differ from the mean by some centimetres, so the border between two landmarks'
        # cells is uncertain by as much.
        distances = np.linalg.norm(self._places_mm[:, None, :] - self._layout_mm[None], axis=-1)
        scores = -distances / SOFTNESS_MM
        scores -= scores.max(axis=1, keepdims=True)
        cells = np.exp(scores)
        cells /= cells.sum(axis=1, keepdims=True)
        self._log_belief = self._log_belief + np.log(cells @ np.asarray(probabilities, float) + 1e-300)

    def displacement_mm(self, target: int) -> NDArray[np.float64]:
        """``(2,)`` how far the landmark `target` should lie to the left and cranially of where the C-arm stands."""
        belief = np.exp(self._log_belief - self._log_belief.max())
        here_mm = belief @ self._places_mm / belief.sum()
        wanted: NDArray[np.float64] = self._layout_mm[landmark(target).index] - here_mm
        return wanted
