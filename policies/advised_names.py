"""Probability of each landmark being the closest, given a model's own probabilities and a clinician's advice.

Each piece of advice is a likelihood, as in `policies.listening`, which does the same for positions. The constants were
chosen on calibration patients with the simulated clinician (`carm_env.language.clinician`), not with people.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import N_LANDMARKS, landmark, mirrored
from carm_env.language.advice import Advice
from carm_env.language.clinician import MINOR_SHARE

Floats = NDArray[np.float64]

_FALSE = 0.01
"""Likelihood of advice that contradicts a landmark, relative to advice that fits."""
_OTHER_DIRECTION = 0.5
"""The same of a direction to another landmark than the named one, because patients differ from the mean patient."""
_LAYOUT_ERROR_MM = 25.0
"""Standard deviation, mm, of the way between two landmarks of a patient from that of the mean patient."""
_DRAWS = 256
_USED = ("verdict", "confirmation", "direction", "side", "landmark")


def locates(advice: Iterable[Advice]) -> bool:
    """Returns whether advice says anything about which landmark is the closest."""
    return any(one.kind in _USED for one in advice)


def advised_probabilities(probabilities: ArrayLike, named: int, advice: Iterable[Advice]) -> Floats:
    """Combines a model's probabilities with a clinician's words about its answer.

    Args:
        probabilities: ``(14,)`` that each landmark is the closest, before the words.
        named: id of the landmark that the model named first, which the words are about.
        advice: the meanings of the words; kinds that say nothing about names are ignored.

    Returns:
        ``(14,)`` probabilities.

    Raises:
        ValueError: the probabilities have another shape, are negative or all zero.

    >>> unsure = np.full(14, 0.01)
    >>> unsure[[8, 9]] = 0.5, 0.38  # left and right wrist
    >>> int(advised_probabilities(unsure, 9, [Advice("verdict")]).argmax()) + 1
    10
    """
    prior = np.asarray(probabilities, float)
    if prior.shape != (N_LANDMARKS,) or not (prior >= 0).all() or not prior.sum() > 0:
        raise ValueError(f"probabilities has shape {prior.shape}, expected ({N_LANDMARKS},) numbers, not all zero.")
    belief: Floats = prior / prior.sum()
    for one in advice:
        fits = _fits(one, named)
        if fits is not None:
            belief = belief * np.maximum(fits, _FALSE)
    return belief / belief.sum()


def _fits(advice: Advice, named: int) -> Floats | None:
    """Returns how well advice fits each landmark ``(14,)``, 0 to 1; None if it says nothing about names."""
    only = np.zeros(N_LANDMARKS)
    if advice.kind == "landmark":
        only[landmark(advice.landmark).index] = 1
        return only
    if advice.kind == "side" and (other := mirrored(named)) is not None:
        only[landmark(other).index] = 1
        return only
    if advice.kind in ("verdict", "confirmation"):
        only[landmark(advice.landmark or named).index] = 1
        return only if advice.kind == "confirmation" else 1 - only
    if advice.kind == "direction":
        return _in_direction(advice, landmark(named).index)
    return None


def _in_direction(advice: Advice, origin: int) -> Floats:
    """Returns the share of patients in whom the way from a landmark to each other one has the direction."""
    layout_mm = landmark_layout().mean_mm
    noise = np.random.default_rng(0).normal(0, _LAYOUT_ERROR_MM, (_DRAWS, 1, 2))
    way = layout_mm - layout_mm[origin] + noise
    size = np.abs(way)
    signs = np.sign(way) * (size >= MINOR_SHARE * size.max(-1, keepdims=True))
    fits: Floats = np.maximum((signs == (advice.x, advice.y)).all(-1).mean(0), _OTHER_DIRECTION)
    fits[origin] = 0
    return fits
