"""Localisers of the user: constructed without arguments, and what they return is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.evaluation.localization import Localization, Localizer, LocatingLocalizer, RankedLocalizer
from carm_env.evaluation.policy_loading import PolicyLoadingError, describe_error
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS
from carm_env.system.errors import shortened

_Answer = TypeVar("_Answer")


def make_own_localizer(found: Any, name: str) -> Localizer:
    """Constructs a localiser of the user.

    Args:
        found: a class whose constructor needs no arguments, or an instance, with a method ``closest(images)``. A method
            ``locate(images)`` is asked for more than names (`carm_env.evaluation.localization.LocatingLocalizer`).
        name: what the user wrote, such as ``mine.py:Mine``, for messages.

    Returns:
        A localiser that raises PolicyLoadingError if a method of the user's raises, or returns anything but ids
        ``(n, 3)`` or a `Localization` of the right shapes.

    Raises:
        PolicyLoadingError: the class cannot be constructed, or has no method ``closest``.
    """
    own = _constructed(found, name) if isinstance(found, type) else found
    if not callable(getattr(own, "closest", None)):
        raise PolicyLoadingError(
            f"--policy is {name!r}, expected a class with a method closest(images) that returns ids (n, {N_CLOSEST})."
        )

    def closest(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        return _asked(name, own, "closest", images, _checked_ids)

    def locate(images: NDArray[np.uint8]) -> Localization:
        return _asked(name, own, "locate", images, _checked_localization)

    return RankedLocalizer(closest, locate if isinstance(own, LocatingLocalizer) else None)


def _constructed(kind: type, name: str) -> Any:
    try:
        return kind()
    except Exception as error:
        raise PolicyLoadingError(
            f"--policy is {name!r}, but constructing {kind.__name__} failed: {_one_line(error)}, expected a class that "
            "can be constructed without arguments: give the arguments of __init__ defaults."
        ) from error


def _asked(
    name: str, own: Any, method: str, images: NDArray[np.uint8], checked: Callable[[Any, int], _Answer]
) -> _Answer:
    called = f"--policy is {name!r}, but {method}(images) of {type(own).__name__}"
    try:
        answer = getattr(own, method)(images)
    except Exception as error:
        raise PolicyLoadingError(f"{called} failed: {_one_line(error)}.") from error
    try:
        return checked(answer, len(images))
    except _WrongAnswerError as error:
        raise PolicyLoadingError(f"{called} returned {error}.") from None


class _WrongAnswerError(ValueError):
    """What was returned, and what was expected."""


def _checked_ids(answer: ArrayLike, n_images: int) -> NDArray[np.int64]:
    expected = (
        f"expected {N_CLOSEST} different landmark ids, 1 to {N_LANDMARKS}, for each of {n_images} image(s): integers "
        f"({n_images}, {N_CLOSEST}), with 0 for none"
    )
    ids = _array(answer, expected)
    if ids.shape != (n_images, N_CLOSEST):
        raise _WrongAnswerError(f"an array of shape {ids.shape}, {expected}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise _WrongAnswerError(f"values of type {ids.dtype}, {expected}")
    for row in ids.tolist():
        given = [key for key in row if key != 0]
        if any(not 1 <= key <= N_LANDMARKS for key in given) or len(set(given)) < len(given):
            raise _WrongAnswerError(f"the ids {row}, {expected}")
    return ids.astype(np.int64)


def _checked_localization(answer: Any, n_images: int) -> Localization:
    if not isinstance(answer, Localization):
        raise _WrongAnswerError(f"{shortened(answer)}, expected a carm_env.evaluation.localization.Localization")
    each = (n_images, N_LANDMARKS)
    return Localization(
        _checked_ids(answer.closest_landmarks, n_images),
        _checked_values("probabilities", answer.probabilities, each, 0.0, 1.0),
        _checked_values("displacement_mm", answer.displacement_mm, (*each, 2), -np.inf, np.inf),
        _checked_values("region_mm", answer.region_mm, (*each, 2), 0.0, np.inf),
    )


def _checked_values(
    field: str, values: ArrayLike | None, shape: tuple[int, ...], low: float, high: float
) -> NDArray[np.float64] | None:
    if values is None:
        return None
    expected = f"expected None or finite numbers {shape} from {low:g} to {high:g}"
    array = _array(values, expected)
    if array.shape != shape or not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise _WrongAnswerError(f"{field} of shape {array.shape} and type {array.dtype}, {expected}")
    if not (np.isfinite(array) & (array >= low) & (array <= high)).all():
        raise _WrongAnswerError(f"{field} from {array.min():g} to {array.max():g}, {expected}")
    return array.astype(np.float64)


def _array(answer: ArrayLike, expected: str) -> NDArray[Any]:
    try:
        return np.asarray(answer)
    except Exception as error:  # rows of different lengths, or a tensor on a GPU
        raise _WrongAnswerError(f"{shortened(answer)}, which is no array ({_one_line(error)}), {expected}") from error


def _one_line(error: Exception) -> str:
    return " ".join(describe_error(error).split())
