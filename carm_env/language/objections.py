"""What follows from a clinician's words for a policy that declares an alignment against them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from carm_env.actions import Move, MoveLattice
from carm_env.language.advice import Advice

_ELSEWHERE = ("direction", "distance", "side")
"""Kinds of advice that say that the target is not in the middle of the view."""


def objects(advice: Iterable[Advice], target: int, has_declared: bool) -> bool:
    """Returns whether words say that the target is not in the middle of the view.

    Args:
        advice: the meanings of the words.
        target: id of the target.
        has_declared: whether the words answer a declaration or a question; elsewhere a verdict is about a move.
    """
    return any(
        one.kind in _ELSEWHERE
        or (one.kind == "landmark" and one.landmark != target)
        or (one.kind == "verdict" and has_declared and one.landmark in (0, target))
        for one in advice
    )


def advised_move(advice: Iterable[Advice], lattice: MoveLattice) -> Move | None:
    """Returns the move that fits the direction and distance in a clinician's words; None without a direction.

    A direction without a distance is the smallest move.

    >>> str(advised_move([Advice("direction", y=1, distance_mm=60)], MoveLattice()))
    'CENTER NONE / UP MODERATE'
    """
    smallest, largest = lattice.extents_mm[0], lattice.extents_mm[-1]
    for one in advice:
        if one.kind == "direction":
            length_mm = float(np.clip(one.distance_mm or smallest, smallest, largest))
            return lattice.closest_move((length_mm * one.x, length_mm * one.y))
    return None
