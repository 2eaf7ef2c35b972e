"""What a clinician's words say about the position of the target, for policies that predict it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.landmarks import landmark, mirrored
from carm_env.language.advice import Advice

Floats = NDArray[np.float64]
_LEAST_MM, _MOST_MM = 15.0, 500.0
"""A direction without a distance says that the target lies at least and at most this far in it."""
_DISTANCE_SHARE = 0.5
"""A stated distance is right within this share of it."""
_OFFSET_MM = 50.0
"""Relative to a landmark that the clinician names, the prediction of the target is right within this distance."""
_CONFIRMED_MM = 15.0


class AdvisedBounds:
    """Bounds of the displacement to the target along each axis, from what a clinician said.

    Predictions are clipped to them. They move with the C-arm, and hold until the clinician says something else.

    Attributes:
        low_mm: ``(2,)`` smallest displacement to the left and cranially.
        high_mm: ``(2,)`` largest displacement.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what was said."""
        self.low_mm, self.high_mm = np.full(2, -np.inf), np.full(2, np.inf)

    def hear(self, advice: Iterable[Advice], target: int, predicted_mm: ArrayLike, believed_mm: ArrayLike) -> bool:
        """Takes advice about the current view.

        Args:
            advice: what the words mean.
            target: id of the target.
            predicted_mm: ``(14, 2)`` displacements to all landmarks as predicted from the view.
            believed_mm: ``(2,)`` displacement to the target as the policy believes it.

        Returns:
            Whether the advice says where the target is; a verdict alone does not.
        """
        predicted, believed = np.asarray(predicted_mm, float), np.asarray(believed_mm, float)
        found = [bounds for one in advice if (bounds := _bounds(one, target, predicted, believed)) is not None]
        for low, high in found:
            named = np.isfinite(low)
            self.low_mm = np.where(named, low, self.low_mm)
            self.high_mm = np.where(named, high, self.high_mm)
        return bool(found)

    def move(self, moved_mm: ArrayLike) -> None:
        """Follows a move ``(2,)`` of the C-arm, to the left and cranially."""
        moved = np.asarray(moved_mm, float)
        self.low_mm, self.high_mm = self.low_mm - moved, self.high_mm - moved

    def clip(self, displacement_mm: ArrayLike) -> Floats:
        """Returns a displacement ``(2,)`` within the bounds."""
        return np.minimum(np.maximum(np.asarray(displacement_mm, float), self.low_mm), self.high_mm)


def _bounds(advice: Advice, target: int, predicted_mm: Floats, believed_mm: Floats) -> tuple[Floats, Floats] | None:
    if advice.kind == "direction":
        return _in_direction(np.array([advice.x, advice.y], float), advice.distance_mm)
    if advice.kind == "distance" and advice.distance_mm is not None:
        length = float(np.hypot(*believed_mm))
        if length == 0:
            return None
        return _around(believed_mm / length * advice.distance_mm, _DISTANCE_SHARE * advice.distance_mm)
    if advice.kind == "landmark":
        offset = predicted_mm[landmark(target).index] - predicted_mm[landmark(advice.landmark).index]
        return _around(offset, _OFFSET_MM)
    if advice.kind == "side" and (other := mirrored(target)) is not None:
        offset = predicted_mm[landmark(target).index] - predicted_mm[landmark(other).index]
        side = np.array([1.0 if landmark(target).name.startswith("Left") else -1.0, 0.0])
        return _in_direction(side, abs(float(offset[0])) or None)
    if advice.kind == "confirmation" and advice.landmark in (0, target):
        return _around(np.zeros(2), _CONFIRMED_MM)
    return None


def _in_direction(direction: Floats, distance_mm: float | None) -> tuple[Floats, Floats]:
    least, most = _LEAST_MM, _MOST_MM
    if distance_mm is not None:
        least, most = (1 - _DISTANCE_SHARE) * distance_mm, (1 + _DISTANCE_SHARE) * distance_mm
    named = direction != 0
    ends = np.stack([direction * least, direction * most])
    return np.where(named, ends.min(0), -np.inf), np.where(named, ends.max(0), np.inf)


def _around(middle_mm: Floats, within_mm: float) -> tuple[Floats, Floats]:
    return middle_mm - within_mm, middle_mm + within_mm
