"""What the keys mean, independent of the window.

| key | command |
|---|---|
| arrows | move the view: SMALL; with Shift MODERATE, with Ctrl LARGE |
| c, then arrows, then Space | set one step per axis, then take one X-ray for both |
| Enter | declare the view aligned |
| b, n | hand the episode back; next episode |
| w, s | wider and narrower window; steps of 4, with Shift 16, with Ctrl 64 grey levels |
| d, a | higher and lower level; the same steps |
| i, x, m, z, h | polarity, cross-hair, side markers, zoom, legend |
| r | reset the display |
| Esc | quit |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carm_env.actions import Move

Kind = Literal[
    "move", "aligned", "hand_back", "next", "combine", "expose", "window", "level", "polarity", "cross", "markers",
    "zoom", "legend", "reset", "quit",
]  # fmt: skip

_ARROWS = {"right": (1, 0), "left": (-1, 0), "up": (0, 1), "down": (0, -1)}
"""Steps along x and y. The patient's left is on the right of the image."""
_GREY_STEPS = (4, 16, 64)
_CHANGES: dict[str, tuple[Kind, int]] = {"w": ("window", 1), "s": ("window", -1), "d": ("level", 1), "a": ("level", -1)}
_SINGLE: dict[str, Kind] = {
    "return": "aligned", "enter": "aligned", "b": "hand_back", "n": "next", "c": "combine", "space": "expose",
    "i": "polarity", "x": "cross", "m": "markers", "z": "zoom", "h": "legend", "r": "reset", "escape": "quit",
}  # fmt: skip

LEGEND = (
    "arrows: move SMALL",
    "Shift + arrows: MODERATE",
    "Ctrl + arrows: LARGE",
    "c, arrows, Space: both axes",
    "Enter: aligned",
    "b: hand back   n: next",
    "w/s: window   d/a: level",
    "  (Shift, Ctrl: larger steps)",
    "i: polarity   r: reset",
    "x: cross-hair   m: R/L",
    "z: zoom   h: this legend",
    "Esc: quit",
)
"""The lines of the legend on the screen."""


@dataclass(frozen=True)
class Command:
    """What a key press asks for.

    Attributes:
        kind: what to do.
        move: the move of an arrow key; None for other keys.
        change: signed change of window or level, grey levels.
    """

    kind: Kind
    move: Move | None = None
    change: int = 0


def read_key(key: str, shift: bool = False, ctrl: bool = False) -> Command | None:
    """Returns the command of a key; None if the key has no meaning.

    Args:
        key: name of the key as of ``pygame.key.name``, such as ``"left"``.
        shift: whether Shift is pressed.
        ctrl: whether Ctrl is pressed; it counts if both are.

    >>> read_key("right", shift=True).move
    Move(x_step=2, y_step=0)
    >>> read_key("a", ctrl=True)
    Command(kind='level', move=None, change=-64)
    """
    size = 2 if ctrl else int(shift)
    if key in _ARROWS:
        x, y = _ARROWS[key]
        return Command("move", Move(x * (size + 1), y * (size + 1)))
    if key in _CHANGES:
        kind, sign = _CHANGES[key]
        return Command(kind, change=sign * _GREY_STEPS[size])
    return Command(_SINGLE[key]) if key in _SINGLE else None


def combined(pending: Move, move: Move) -> Move:
    """Returns the pending move with the axis of an arrow key replaced; the opposite step takes an axis back.

    >>> combined(combined(Move(0, 0), Move(2, 0)), Move(0, -1))
    Move(x_step=2, y_step=-1)
    >>> combined(Move(2, -1), Move(-2, 0))
    Move(x_step=0, y_step=-1)
    """
    x = pending.x_step if move.x_step == 0 else 0 if move.x_step == -pending.x_step else move.x_step
    y = pending.y_step if move.y_step == 0 else 0 if move.y_step == -pending.y_step else move.y_step
    return Move(x, y)
