"""Probability of the target's position, given a network's prediction and a clinician's advice.

The belief is a grid of displacements. The prior is a mixture of Gaussians around the prediction: a network can miss the
target of one patient in all views, so that advice outweighs the prediction. Each piece of advice is a likelihood. The
constants follow the habits of the simulated clinician (`carm_env.language.clinician`), such as when a direction names
one axis only; they were not fitted to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, signal, special

from carm_env.landmarks import landmark, mirrored
from carm_env.language.advice import Advice
from carm_env.language.clinician import MINOR_SHARE

Floats = NDArray[np.float64]
Likelihood = Callable[[Floats], Floats]

_GRID_MM, _REACH_MM, _FARTHEST_MM = 10.0, 600.0, 800.0
"""Step of the grid, its reach beyond the predicted displacement along each axis, and the longest way to a target."""
_MISSES = ((0.2, 50.0), (0.1, 250.0))
"""Shares of patients whose target the network misses, and the error in mm: a neighbouring part, another structure."""
_WRONG = 0.0003
"""Likelihood of advice at displacements that contradict it."""
_CONTRADICTION = 0.1
"""Two pieces of advice contradict each other if their joint likelihood nowhere exceeds this."""
_DISTANCE_SHARE, _LEAST_ERROR_MM = 0.2, 5.0
"""Relative and least error of a stated distance."""
_FAR_MM, _FARTHER = 75.0, 4.0
"""A distance above the first may be a reading of "far"; the error of larger distances is multiplied by the second."""
_USUAL_MM = 80.0
"""Mean distance, mm, if a direction comes without a distance."""
_HERE_MM, _BESIDE_MM, _BORDER_MM = 18.0, 5.0, 3.0
"""Smallest distance to the target at which a clinician gives a direction, smallest distance along a named axis, and the
softness of both limits, mm."""
_LANDMARK_ERROR_MM, _SIDE_ERROR_MM, _CONFIRMED_ERROR_MM = 40.0, 50.0, 12.0
"""Standard deviations, mm, of the position after advice of the kinds landmark, side and confirmation."""


class AdvisedBelief:
    """A belief over the displacement to the target, from a prediction and from a clinician's words.

    Advice is kept until `reset`, and moves with the C-arm.

    Args:
        tolerance_mm: distance at which the C-arm is at the target.

    Attributes:
        says_where: whether any advice locates the target; a verdict alone does not.
    """

    def __init__(self, tolerance_mm: float) -> None:
        self._tolerance_mm = tolerance_mm
        self.reset()

    def reset(self) -> None:
        """Forgets what was said."""
        self._said: list[tuple[Likelihood, Floats]] = []
        self._position_mm = np.zeros(2)
        self.says_where = False

    def hear(self, advice: Iterable[Advice], target: int, predicted_mm: ArrayLike) -> bool:
        """Takes advice about the current view.

        Earlier advice that contradicts it is dropped.

        Args:
            advice: what the words mean. A verdict is taken for one about a declaration.
            target: id of the target.
            predicted_mm: ``(14, 2)`` displacements to all landmarks as predicted from the view.

        Returns:
            Whether this advice locates the target.
        """
        predicted = np.asarray(predicted_mm, float)
        meant = [(one.kind, self._likelihood(one, target, predicted)) for one in advice]
        known = [likelihood for _, likelihood in meant if likelihood is not None]
        said_before = [one for one in self._said if all(self._agrees(*one, likelihood) for likelihood in known)]
        self._said = [*said_before, *((likelihood, self._position_mm) for likelihood in known)]
        tells = any(kind != "verdict" and likelihood is not None for kind, likelihood in meant)
        self.says_where = self.says_where or tells
        return tells

    def move(self, moved_mm: ArrayLike) -> None:
        """Follows a move ``(2,)`` of the C-arm, to the left and cranially."""
        self._position_mm = self._position_mm + np.asarray(moved_mm, float)

    def locate(self, mean_mm: ArrayLike, std_mm: ArrayLike) -> tuple[Floats, float]:
        """Combines the advice with a prediction.

        Args:
            mean_mm: ``(2,)`` predicted displacement to the target, to the left and cranially.
            std_mm: ``(2,)`` its standard deviation.

        Returns:
            ``(2,)`` the most probable displacement, mm, to the left and cranially, and the probability that the target
            is within the tolerance of the isocentre.
        """
        mean, std = np.asarray(mean_mm, float), np.asarray(std_mm, float)
        low, high = np.minimum(mean, 0.0) - _REACH_MM, np.maximum(mean, 0.0) + _REACH_MM
        # The grid holds the origin, where the C-arm is.
        first, last = np.floor(low / _GRID_MM), np.ceil(high / _GRID_MM)
        axes = [_GRID_MM * np.arange(first[axis], last[axis] + 1) for axis in (0, 1)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        errors = ((1 - sum(share for share, _ in _MISSES), 0.0), *_MISSES)
        densities = [share * _density(points - mean, np.hypot(std, error_mm)) for share, error_mm in errors]
        belief: Floats = np.sum(densities, 0)
        for likelihood, position_mm in self._said:
            belief = belief * np.maximum(likelihood(points + self._position_mm - position_mm), _WRONG)
        belief /= belief.sum()
        offsets = _GRID_MM * np.arange(-(self._tolerance_mm // _GRID_MM), self._tolerance_mm // _GRID_MM + 1)
        disc = (np.hypot(*np.meshgrid(offsets, offsets)) <= self._tolerance_mm).astype(float)
        middle = tuple(int(np.argmin(np.abs(axis))) for axis in axes)
        within = float(signal.fftconvolve(belief, disc, mode="same")[middle])
        smooth = ndimage.gaussian_filter(belief, self._tolerance_mm / 2 / _GRID_MM, mode="constant")
        return points[np.unravel_index(np.argmax(smooth), smooth.shape)], min(max(within, 0.0), 1.0)

    def _agrees(self, before: Likelihood, position_mm: Floats, now: Likelihood) -> bool:
        axis = np.arange(-_FARTHEST_MM, _FARTHEST_MM + 1, _GRID_MM)
        points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
        both = now(points) * before(points + self._position_mm - position_mm)
        return bool(both.max() > _CONTRADICTION)

    def _likelihood(self, advice: Advice, target: int, predicted_mm: Floats) -> Likelihood | None:
        if advice.kind == "direction":
            return _in_direction(np.array([advice.x, advice.y], float), advice.distance_mm)
        if advice.kind == "distance" and advice.distance_mm is not None:
            return _at_distance(advice.distance_mm)
        if advice.kind == "landmark":
            offset = predicted_mm[landmark(target).index] - predicted_mm[landmark(advice.landmark).index]
            return _around(offset, (_LANDMARK_ERROR_MM, _LANDMARK_ERROR_MM))
        if advice.kind == "side" and (other := mirrored(target)) is not None:
            offset = predicted_mm[landmark(target).index] - predicted_mm[landmark(other).index]
            side = 1.0 if landmark(target).name.startswith("Left") else -1.0
            return _around(np.array([side * abs(offset[0]), 0.0]), (_SIDE_ERROR_MM, np.inf))
        if advice.kind == "confirmation" and advice.landmark in (0, target):
            return _around(np.zeros(2), (_CONFIRMED_ERROR_MM, _CONFIRMED_ERROR_MM))
        if advice.kind == "verdict" and advice.landmark in (0, target):
            return lambda points: (np.hypot(*np.moveaxis(points, -1, 0)) > self._tolerance_mm).astype(float)
        return None


def _density(offset_mm: Floats, std_mm: Floats) -> Floats:
    scaled: Floats = offset_mm / std_mm
    density: Floats = np.exp(-0.5 * (scaled**2).sum(-1)) / float(std_mm.prod())
    return density


def _beyond(lengths_mm: Floats, border_mm: float) -> Floats:
    beyond: Floats = special.expit((lengths_mm - border_mm) / _BORDER_MM)
    return beyond


def _distance_likelihood(lengths_mm: Floats, distance_mm: float) -> Floats:
    error_mm = np.full(lengths_mm.shape, _DISTANCE_SHARE * distance_mm + _LEAST_ERROR_MM)
    if distance_mm > _FAR_MM:
        error_mm[lengths_mm > distance_mm] *= _FARTHER
    return np.exp(-0.5 * ((lengths_mm - distance_mm) / error_mm) ** 2)


def _at_distance(distance_mm: float) -> Likelihood:
    return lambda points: _distance_likelihood(np.hypot(*np.moveaxis(points, -1, 0)), distance_mm)


def _around(middle_mm: Floats, error_mm: tuple[float, float]) -> Likelihood:
    return lambda points: np.exp(-0.5 * (((points - middle_mm) / np.array(error_mm)) ** 2).sum(-1))


def _in_direction(direction: Floats, distance_mm: float | None) -> Likelihood:
    named = direction != 0

    def likelihood(points: Floats) -> Floats:
        along = points * direction
        longest = np.where(named, along, 0.0).max(-1)
        on_side = _beyond(longest, _HERE_MM) * _beyond(np.where(named, along, np.inf).min(-1), _BESIDE_MM)
        # The way along an axis that is not named is short.
        across = np.where(named, 0.0, np.abs(points)).max(-1) - MINOR_SHARE * longest
        error_mm = _DISTANCE_SHARE * np.abs(longest) + _LEAST_ERROR_MM
        straight = np.exp(-0.5 * (across.clip(min=0) / error_mm) ** 2)
        if distance_mm is None:
            return on_side * straight * np.exp(-np.abs(longest) / _USUAL_MM)
        return on_side * straight * _distance_likelihood(longest, distance_mm)

    return likelihood
