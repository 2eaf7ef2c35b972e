"""A function as a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from carm_env.actions import Move
from carm_env.evaluation.policy import Decision, Policy


class FunctionPolicy(Policy):
    """A policy that calls a function of the observation, or of observation and info.

    Args:
        function: returns an action of ``Discrete(49)``, a `Move` or a `Decision`. It keeps no state between episodes
            that the evaluation could reset.

    Raises:
        TypeError: the function takes neither one argument nor two.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._takes_info = _accepts(function, 2)
        if not (self._takes_info or _accepts(function, 1)):
            name = getattr(function, "__name__", type(function).__name__)
            raise TypeError(
                f"{name} is {name}{inspect.signature(function)}, expected a function of the observation, or of "
                "observation and info."
            )

    def reset(self, seed: int | None = None) -> None:
        """Does nothing."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Calls the function."""
        return as_decision(self._function(observation, info) if self._takes_info else self._function(observation))


def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        # Some compiled functions do not tell their arguments.
        return count == 1
    return True


def as_decision(action: Any) -> Decision:
    """Returns the decision of an action of ``Discrete(49)``, a `Move` or a `Decision`.

    Raises:
        TypeError: `action` is something else.
        ValueError: the number is not an action.

    >>> as_decision(24).move.is_aligned
    True
    """
    if isinstance(action, Decision):
        return action
    if isinstance(action, Move):
        return Decision(action)
    array = np.asarray(action)
    if array.size == 1 and array.dtype.kind in "iu":
        return Decision(Move.from_index(array.item()))
    raise TypeError(f"the policy returned {action!r:.200}, expected an action of Discrete(49), a Move or a Decision.")
