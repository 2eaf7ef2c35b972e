"""The exact cost of each move in exposures: the fewest moves to the target, by dynamic programming on the lattice.

A move shifts both axes, the workspace clips each axis for itself, and an axis may stay. So the axes are independent:
within n moves the C-arm can be at every pair of a position that x reaches and a position that y reaches within n
moves, and the fewest moves are the first n whose best pair is within the tolerance. Positions on an axis are sums of
extents, counted from the start or from a limit of the workspace, where every excess was clipped. In a workspace that is
narrower than two LARGE moves, sums that would fit may be cut short on the way; there the positions are searched one
move after the other.

All displacements are to the patient's left and cranially, mm, in frontal views.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, N_ACTIONS, N_TOKENS, MoveLattice
from carm_env.envs.registration import MAX_EPISODE_STEPS

MOST_MOVES = MAX_EPISODE_STEPS
"""A target that takes more moves than this counts as out of reach, and costs this number of moves."""
_SAME_MM = 1e-6
"""Positions that are closer than this are one position: sums of the same extents differ by rounding errors."""


def move_costs(
    displacement_mm: NDArray[np.float64],
    limits_mm: NDArray[np.float64],
    tolerance_mm: NDArray[np.float64],
    lattice: MoveLattice,
) -> NDArray[np.int64]:
    """Returns the exposures that each move leads to, ``(N, 49)``: its own and the fewest that follow it.

    The column of `ALIGNED` is the cost of taking one more X-ray without a move.

    Args:
        displacement_mm: ``(N, 2)`` from the isocentre to the target.
        limits_mm: ``(N, 2, 2)`` lowest and highest displacement of the isocentre in the workspace.
        tolerance_mm: ``(N,)`` largest distance at which "aligned" is right.
        lattice: the moves.
    """
    steps_mm = lattice.table_mm()[:N_TOKENS, 1]
    low, high = limits_mm[:, 0, :, None], limits_mm[:, 1, :, None]
    # After each of the 7 steps along each axis, (N, 2, 7).
    moved = np.clip(steps_mm, low, high)
    shape = moved.shape
    residuals = _residuals_mm(
        (displacement_mm[:, :, None] - moved).ravel(), (low - moved).ravel(), (high - moved).ravel(), lattice.extents_mm
    )
    fewest = np.full((len(displacement_mm), N_TOKENS, N_TOKENS), MOST_MOVES)
    for moves, residual in zip(range(MOST_MOVES), residuals, strict=False):
        x, y = residual.reshape(shape)[:, 0, :, None], residual.reshape(shape)[:, 1, None, :]
        aligned = np.hypot(x, y) <= tolerance_mm[:, None, None]
        fewest[aligned] = np.minimum(fewest[aligned], moves)
        if (fewest < MOST_MOVES).all():
            break
    return 1 + fewest.reshape(-1, N_ACTIONS)


def action_regrets(
    displacement_mm: NDArray[np.float64],
    limits_mm: NDArray[np.float64],
    tolerance_mm: NDArray[np.float64],
    failure_cost: NDArray[np.int64],
    lattice: MoveLattice,
) -> NDArray[np.int64]:
    """Returns the regret of each action in exposures, ``(N, 49)``: its cost beyond the cost of the best action.

    A right declaration costs nothing. A wrong one ends the episode as a failure, and costs at least one exposure more
    than the worst move.

    Args:
        displacement_mm: ``(N, 2)`` from the isocentre to the target.
        limits_mm: ``(N, 2, 2)`` lowest and highest displacement of the isocentre in the workspace.
        tolerance_mm: ``(N,)`` largest distance at which "aligned" is right.
        failure_cost: ``(N,)`` cost of a wrong declaration, such as the number of answers that are left.
        lattice: the moves.
    """
    costs = move_costs(displacement_mm, limits_mm, tolerance_mm, lattice)
    is_aligned = np.hypot(displacement_mm[:, 0], displacement_mm[:, 1]) <= tolerance_mm
    # No declaration counts as a move.
    costs[:, ALIGNED.index] = 0
    costs[:, ALIGNED.index] = np.where(is_aligned, 0, np.maximum(costs.max(1) + 1, failure_cost))
    return costs - costs.min(1, keepdims=True)


def _residuals_mm(
    target: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    extents_mm: tuple[float, float, float],
) -> Iterator[NDArray[np.float64]]:
    """Yields the smallest distances to M targets within 0, 1, 2, .. moves along an axis, ``(M,)`` each.

    Args:
        target: ``(M,)`` displacement from the isocentre to the target along the axis.
        low: ``(M,)`` lowest displacement of the isocentre, at most 0.
        high: ``(M,)`` highest displacement of the isocentre, at least 0.
        extents_mm: lengths of the moves.
    """
    longest = extents_mm[-1]
    narrow = np.flatnonzero(high - low < 2 * longest)
    searches = [_reached_mm(low[row], high[row], extents_mm) for row in narrow]
    # Positions are counted from the start, or from the limit that was reached first after this number of moves.
    origins = np.stack([np.zeros_like(low), low, high])
    first_moves = np.ceil(np.abs(origins) / longest).astype(int)
    rows = np.broadcast_to(np.arange(len(target)), origins.shape)
    nearest: list[NDArray[np.float64]] = []
    for moves in range(MOST_MOVES + 1):
        nearest.append(_nearest_mm(target, low, high, origins, _sums_mm(extents_mm, moves)))
        left = moves - first_moves
        stacked = np.stack(nearest)[np.maximum(left, 0), np.arange(len(origins))[:, None], rows]
        residual = np.where(left >= 0, stacked, np.inf).min(0)
        for row, reached in zip(narrow, searches, strict=True):
            residual[row] = np.abs(next(reached) - target[row]).min()
        yield residual


@lru_cache(maxsize=256)
def _sums_mm(extents_mm: tuple[float, float, float], moves: int) -> NDArray[np.float64]:
    """Returns the displacements by up to `moves` moves along an axis without limits, in ascending order."""
    if moves == 0:
        return np.zeros(1)
    return _different((_sums_mm(extents_mm, moves - 1)[:, None] + _signed_mm(extents_mm)).ravel())


def _signed_mm(extents_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.array([0.0, *extents_mm, *(-extent for extent in extents_mm)])


def _different(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    ordered = np.sort(positions)
    return ordered[np.diff(ordered, prepend=-np.inf) > _SAME_MM]


def _nearest_mm(
    target: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    origins: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Returns the distances of the targets ``(M,)`` to the nearest ``origin + sum`` within the limits, ``(3, M)``."""
    below = np.searchsorted(sums, np.minimum(target, high) - origins + _SAME_MM, "right") - 1
    above = np.searchsorted(sums, np.maximum(target, low) - origins - _SAME_MM, "left")
    distances = np.full(origins.shape, np.inf)
    for index in (below, above):
        positions = origins + sums[np.clip(index, 0, len(sums) - 1)]
        inside = (positions >= low - _SAME_MM) & (positions <= high + _SAME_MM)
        distances = np.minimum(distances, np.where(inside, np.abs(target - positions), np.inf))
    return distances


def _reached_mm(low: float, high: float, extents_mm: tuple[float, float, float]) -> Iterator[NDArray[np.float64]]:
    """Yields the positions within 0, 1, 2, .. moves along an axis, as the environment clips them."""
    positions = np.zeros(1)
    while True:
        yield positions
        positions = _different(np.clip(positions[:, None] + _signed_mm(extents_mm), low, high).ravel())
