"""What an agent knows of its target: a tracked displacement, and the features made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.actions import DEFAULT_EXTENTS_MM
from carm_env.envs.registration import MAX_EPISODE_STEPS

N_FEATURES = 12
LIMIT = 10.0
"""Features are clipped to this absolute value."""
_UNIT_MM, _MIN_STD_MM = 100.0, 1.0


class DisplacementTracker:
    """The displacement to one landmark, estimated from all X-rays of an episode.

    Errors of views of one patient are correlated, so they are not averaged as if they were independent: with every
    X-ray the earlier estimate keeps only a share of its weight. Errors that all views of a patient share are never
    averaged.

    Args:
        memory: share of its weight that an earlier estimate keeps.
        shared_error_mm: standard deviation of the errors that all views share, a part of every prediction's.

    Attributes:
        mean_mm: ``(2,)`` displacement to the left and cranially.
    """

    def __init__(self, memory: float = 0.5, shared_error_mm: float = 0.0) -> None:
        self._memory, self._shared_error_mm = memory, shared_error_mm
        self.reset()

    @property
    def std_mm(self) -> NDArray[np.float64]:
        """``(2,)`` standard deviation of `mean_mm`; infinite before the first X-ray."""
        std: NDArray[np.float64] = np.hypot(self._own_std_mm, self._shared_error_mm)
        return std

    def reset(self) -> None:
        """Forgets all X-rays."""
        self.mean_mm = np.zeros(2)
        self._own_std_mm = np.full(2, np.inf)

    def update(self, mean_mm: ArrayLike, std_mm: ArrayLike, moved_mm: ArrayLike) -> None:
        """Shifts the estimate by the last move and combines it with a new prediction.

        Args:
            mean_mm: ``(2,)`` displacement predicted from the new X-ray.
            std_mm: ``(2,)`` its standard deviation, with the shared error.
            moved_mm: ``(2,)`` the last move.
        """
        predicted = np.asarray(mean_mm, float)
        own_variance = np.maximum(np.square(np.asarray(std_mm, float)) - self._shared_error_mm**2, _MIN_STD_MM**2)
        before = self._memory / self._own_std_mm**2
        now = 1 / own_variance
        self.mean_mm = (before * (self.mean_mm - np.asarray(moved_mm, float)) + now * predicted) / (before + now)
        self._own_std_mm = 1 / np.sqrt(before + now)


class TargetFeatures:
    """The features of one running episode.

    In hundreds of millimetres: the tracked displacement to the target and its standard deviation (2 + 2), the same from
    the newest X-ray alone (2 + 2). Then the last move in LARGE moves (2), whether the workspace clipped it, and the
    share of the episode's steps that is used up.
    """

    def __init__(self) -> None:
        self._tracker = DisplacementTracker()
        self.reset()

    def reset(self) -> None:
        """Starts a new episode."""
        self._tracker.reset()
        self._steps = 0

    def update(self, mean_mm: ArrayLike, std_mm: ArrayLike, info: Mapping[str, Any]) -> NDArray[np.float32]:
        """Returns the features ``(N_FEATURES,)`` after an X-ray.

        Args:
            mean_mm: ``(2,)`` predicted displacement to the target.
            std_mm: ``(2,)`` its standard deviation.
            info: information of the environment; ``moved_mm`` and ``move_clipped`` are used.
        """
        moved = np.asarray(info["moved_mm"], float)
        self._tracker.update(mean_mm, std_mm, moved)
        parts = [
            self._tracker.mean_mm / _UNIT_MM,
            self._tracker.std_mm / _UNIT_MM,
            np.asarray(mean_mm, float) / _UNIT_MM,
            np.asarray(std_mm, float) / _UNIT_MM,
            moved / DEFAULT_EXTENTS_MM[-1],
            np.array([float(info["move_clipped"]), self._steps / MAX_EPISODE_STEPS]),
        ]
        self._steps += 1
        return np.clip(np.concatenate(parts), -LIMIT, LIMIT).astype(np.float32)
