"""Objections of a clinician to a declared alignment, and the moves that they ask for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from carm_env.actions import Move, MoveLattice
from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import landmark, mirrored
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


def advised_move(
    advice: Iterable[Advice], target: int, lattice: MoveLattice, action_mask: ArrayLike | None = None
) -> Move | None:
    """Returns the move that a clinician's words ask for; None if they do not say which way.

    A direction without a distance gives the smallest move. The way from a named landmark, or from the other side of the
    body, is the way between the two landmarks in the mean patient.

    Args:
        advice: the meanings of the words.
        target: id of the target.
        lattice: the moves of the environment.
        action_mask: ``(49,)`` the environment's mask, so that no move goes past the end of the workspace; None for no
            limits.

    >>> str(advised_move([Advice("direction", y=1, distance_mm=60)], 7, MoveLattice()))
    'CENTER NONE / UP MODERATE'
    >>> str(advised_move([Advice("landmark", 11)], 1, MoveLattice()))
    'CENTER NONE / UP LARGE'
    """
    smallest, largest = lattice.extents_mm[0], lattice.extents_mm[-1]
    layout_mm = landmark_layout().mean_mm
    for one in advice:
        if one.kind == "direction":
            length_mm = float(np.clip(one.distance_mm or smallest, smallest, largest))
            move = lattice.closest_move((length_mm * one.x, length_mm * one.y), action_mask)
            return None if move.is_aligned else move
        beside = one.landmark if one.kind == "landmark" else mirrored(target) if one.kind == "side" else None
        if beside:
            way_mm = layout_mm[landmark(target).index] - layout_mm[landmark(beside).index]
            move = lattice.closest_move(way_mm, action_mask)
            if not move.is_aligned:
                return move
    return None
