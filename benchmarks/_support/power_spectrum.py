"""The power spectrum of an image, and its mean over the directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def power_spectrum(image: ArrayLike) -> tuple[Floats, Floats]:
    """Returns the power ``(n, n)`` of an image ``(n, n)`` behind a Hann window, and the frequencies of its values.

    Args:
        image: square image; its mean is subtracted.

    Returns:
        The power, in the order of `numpy.fft.fft2`, and the radial frequency of each value, cycles per pixel.
    """
    grey = np.asarray(image, float)
    side = len(grey)
    hann = np.hanning(side)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * hann * hann[:, None])) ** 2
    power[0, 0] = 0
    frequency = np.fft.fftfreq(side)
    return power, np.hypot(frequency, frequency[:, None])


def radial_mean(power: Floats, radius: Floats) -> tuple[Floats, Floats]:
    """Averages a power spectrum over rings.

    Args:
        power: ``(n, n)`` of `power_spectrum`.
        radius: ``(n, n)`` of `power_spectrum`.

    Returns:
        The frequencies of the rings, cycles per pixel, and the mean power of each.
    """
    side = len(power)
    ring = np.rint(radius * side).astype(int).ravel()
    mean = np.bincount(ring, power.ravel()) / np.maximum(np.bincount(ring), 1)
    return np.arange(len(mean)) / side, mean
