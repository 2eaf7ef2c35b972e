"""From the logarithmic image to the grey picture: a robust stretch for each image.

The darkest and the brightest share of the pixels set black and white, as an automatic display does,
so lungs, soft tissue and bone are visible in every view. Air stays black and bone is white, as in
the published frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from carm_env.xray.compiled import compiled

_BINS = 2048
_LEVELS = 4096


@dataclass(frozen=True)
class Window:
    """How a logarithmic image becomes grey.

    Attributes:
        dark_percent: percentile of the image that becomes black.
        bright_percent: percentile that becomes white.
        gamma: exponent of the curve between them; below 1 it lifts the dark parts.
        min_range: least difference of -ln I between black and white. An image with less contrast
            (an empty view) is not stretched until only noise is left.
    """

    dark_percent: float = 0.3
    bright_percent: float = 99.8
    gamma: float = 0.75
    min_range: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.dark_percent < self.bright_percent <= 100:
            raise ValueError(
                f"dark_percent is {self.dark_percent!r} and bright_percent {self.bright_percent!r}, "
                "expected 0 <= dark < bright <= 100."
            )
        for name in ("gamma", "min_range"):
            value = getattr(self, name)
            if not np.isfinite(value) or value <= 0:
                raise ValueError(f"{name} is {value!r}, expected a positive number.")

    @cached_property
    def _curve(self) -> NDArray[np.uint8]:
        return np.rint(255 * np.linspace(0, 1, _LEVELS) ** self.gamma).astype(np.uint8)

    def apply(self, log_image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Grey values of a logarithmic image of any shape, a new uint8 array.

        Raises:
            ValueError: the image is empty or holds NaN or infinity.
        """
        image = np.ascontiguousarray(log_image, dtype=np.float32)
        if image.size == 0:
            raise ValueError(f"the image has shape {image.shape}, expected at least one pixel.")
        flat = image.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the image holds NaN or infinity, expected finite values of -ln I.")
        black, white = _percentiles(flat, low, high, self.dark_percent / 100, self.bright_percent / 100)
        contrast = max(white - black, self.min_range)
        grey = np.empty(flat.shape, np.uint8)
        _apply(flat, black, contrast, self._curve, grey)
        return grey.reshape(image.shape)


@compiled
def _percentiles(flat: NDArray[np.float32], low: float, high: float, dark: float, bright: float) -> tuple[float, float]:
    """The values below which the shares `dark` and `bright` of the pixels lie, to 1/2048 of the range."""
    counts = np.zeros(_BINS, np.int64)
    scale = _BINS / (high - low) if high > low else 0.0
    for value in flat:
        counts[min(int((value - low) * scale), _BINS - 1)] += 1
    width = (high - low) / _BINS
    black, white = low, high
    below = 0
    found_black = False
    for n in range(_BINS):
        below += counts[n]
        if not found_black and below > dark * len(flat):
            black = low + n * width
            found_black = True
        if below >= bright * len(flat):
            white = low + (n + 1) * width
            break
    return black, white


@compiled
def _apply(
    flat: NDArray[np.float32], black: float, contrast: float, curve: NDArray[np.uint8], grey: NDArray[np.uint8]
) -> None:
    scale = (_LEVELS - 1) / contrast
    for i in range(len(flat)):
        level = min(max((flat[i] - black) * scale, 0.0), _LEVELS - 1.0)
        grey[i] = curve[int(level + 0.5)]
