"""The paper's moves: a direction and an extent on each of two axes, as ``Discrete(49)``.

| axis | directions | moves the isocentre |
|---|---|---|
| x | LEFT, CENTER, RIGHT | towards the patient's left (LPS +x) or right |
| y | UP, CENTER, DOWN | cranially (LPS +z) or caudally |

Extents are NONE, SMALL, MODERATE, LARGE. CENTER and NONE only occur together, so an axis has 7 tokens.
``CENTER/CENTER`` declares the view aligned.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.system.errors import UnknownNameError

N_TOKENS = 7
N_ACTIONS = N_TOKENS * N_TOKENS
DEFAULT_EXTENTS_MM = (30.0, 60.0, 90.0)


class Extent(str, Enum):
    """Length of a move along one axis."""

    NONE = "NONE"
    SMALL = "SMALL"
    MODERATE = "MODERATE"
    LARGE = "LARGE"


_EXTENTS = tuple(Extent)
X_DIRECTIONS = ("RIGHT", "CENTER", "LEFT")
Y_DIRECTIONS = ("DOWN", "CENTER", "UP")


def _signed_step(axis: str, direction: str, extent: str, directions: Sequence[str]) -> int:
    if direction not in directions:
        raise UnknownNameError(f"{axis} direction", direction, directions)
    try:
        size = _EXTENTS.index(Extent(extent))
    except ValueError:
        raise UnknownNameError("extent", extent, [item.value for item in Extent]) from None
    sign = directions.index(direction) - 1
    if (sign == 0) != (size == 0):
        raise ValueError(
            f"{axis} axis: got direction {direction} with extent {Extent(extent).value}, "
            "expected CENTER with NONE or a direction with SMALL, MODERATE or LARGE."
        )
    return sign * size


@dataclass(frozen=True)
class Move:
    """A move of the C-arm, or the declaration that the view is aligned.

    Attributes:
        x_step: signed extent along x, -3 (RIGHT LARGE) to 3 (LEFT LARGE).
        y_step: signed extent along y, -3 (DOWN LARGE) to 3 (UP LARGE).

    Raises:
        ValueError: a step is not an integer from -3 to 3.

    >>> Move.from_words("LEFT", "SMALL", "UP", "LARGE")
    Move(x_step=1, y_step=3)
    >>> Move.from_index(24).is_aligned
    True
    >>> str(Move(-2, 0))
    'RIGHT MODERATE / CENTER NONE'
    """

    x_step: int
    y_step: int

    def __post_init__(self) -> None:
        for axis, step in (("x", self.x_step), ("y", self.y_step)):
            if step not in range(-3, 4):
                raise ValueError(f"{axis}_step is {step!r}, expected an integer from -3 to 3.")

    @classmethod
    def from_words(cls, x: str, extent_x: str, y: str, extent_y: str) -> Move:
        """Returns the move of the paper's four words (upper case).

        Raises:
            UnknownNameError: an unknown word; the message names the nearest one.
            ValueError: CENTER with an extent, or a direction with NONE.
        """
        return cls(_signed_step("x", x, extent_x, X_DIRECTIONS), _signed_step("y", y, extent_y, Y_DIRECTIONS))

    @classmethod
    def from_index(cls, index: int) -> Move:
        """Returns the move of an action of ``Discrete(49)``: ``7 * (x_step + 3) + y_step + 3``.

        Raises:
            ValueError: `index` is not an integer from 0 to 48.
        """
        scalar = np.asarray(index)
        if scalar.shape != () or scalar.dtype.kind not in "iu" or not 0 <= scalar < N_ACTIONS:
            raise ValueError(
                f"action is {index!r}, expected an integer from 0 to {N_ACTIONS - 1}; "
                "Move.from_words builds one from directions and extents."
            )
        x, y = divmod(int(scalar), N_TOKENS)
        return cls(x - 3, y - 3)

    @property
    def index(self) -> int:
        """Action of this move in ``Discrete(49)``."""
        return N_TOKENS * (self.x_step + 3) + self.y_step + 3

    @property
    def is_aligned(self) -> bool:
        """Whether this is CENTER/CENTER, which declares the view aligned and ends the episode."""
        return self.x_step == 0 and self.y_step == 0

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Arguments of `from_words`: ``(x, extent_x, y, extent_y)``."""
        x, y = self.x_step, self.y_step
        return (X_DIRECTIONS[_sign(x) + 1], _EXTENTS[abs(x)].value, Y_DIRECTIONS[_sign(y) + 1], _EXTENTS[abs(y)].value)

    def __str__(self) -> str:
        """Returns the four words, e.g. ``LEFT SMALL / UP LARGE``."""
        x, extent_x, y, extent_y = self.words
        return f"{x} {extent_x} / {y} {extent_y}"


def _sign(step: int) -> int:
    return (step > 0) - (step < 0)


ALIGNED = Move(0, 0)


@dataclass(frozen=True)
class MoveLattice:
    """The lengths of the extents, and so the lattice on which the C-arm moves.

    The published frames of the paper show a ratio of about 1 : 2 : 2.8; the default is 30/60/90 mm.

    Attributes:
        extents_mm: lengths of SMALL, MODERATE and LARGE, mm.

    Raises:
        ValueError: the lengths are not three finite, positive, increasing numbers.
    """

    extents_mm: tuple[float, float, float] = DEFAULT_EXTENTS_MM

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.extents_mm)
        increasing = len(values) == 3 and 0 < values[0] < values[1] < values[2]
        if not increasing or not all(map(math.isfinite, values)):
            raise ValueError(f"extents_mm is {self.extents_mm!r}, expected three finite, positive, increasing lengths.")
        object.__setattr__(self, "extents_mm", values)

    def displacement_mm(self, move: Move) -> NDArray[np.float64]:
        """Returns the displacement ``(2,)`` of the isocentre by `move`, to the patient's left and cranially, mm.

        >>> MoveLattice().displacement_mm(Move.from_words("LEFT", "SMALL", "DOWN", "LARGE")).tolist()
        [30.0, -90.0]
        """
        return np.array([self._length(move.x_step), self._length(move.y_step)])

    def _length(self, step: int) -> float:
        return 0.0 if step == 0 else math.copysign(self.extents_mm[abs(step) - 1], step)

    def table_mm(self) -> NDArray[np.float64]:
        """Returns the displacements ``(49, 2)`` of all actions, mm."""
        return np.stack([self.displacement_mm(Move.from_index(i)) for i in range(N_ACTIONS)])

    def closest_move(self, displacement_mm: ArrayLike, action_mask: ArrayLike | None = None) -> Move:
        """Returns the move whose displacement is nearest to `displacement_mm`; `ALIGNED` if no move comes nearer.

        Args:
            displacement_mm: ``(2,)`` wanted displacement, to the patient's left and cranially, mm.
            action_mask: ``(49,)`` the environment's ``action_mask``: an axis along which the C-arm is at the end of its
                workspace is not moved further. None for no limits.
        """
        wanted = np.asarray(displacement_mm, dtype=float)
        if wanted.shape != (2,) or not np.isfinite(wanted).all():
            raise ValueError(f"displacement_mm is {displacement_mm!r}, expected two finite lengths (left, cranial).")
        allowed = np.ones(N_ACTIONS, bool) if action_mask is None else np.asarray(action_mask, bool)
        steps = range(-3, 4)
        x = self._closest_step(wanted[0], [step for step in steps if allowed[Move(step, 0).index]])
        y = self._closest_step(wanted[1], [step for step in steps if allowed[Move(0, step).index]])
        return Move(x, y)

    def _closest_step(self, length_mm: float, steps: Iterable[int]) -> int:
        return min(steps, key=lambda step: (abs(self._length(step) - length_mm), abs(step)))
