"""An energy-integrating detector's quantum noise.

Behind attenuation N = -ln I a pixel that meets n photons in the open field meets about ``n exp(-N)``
of them, so the logarithm of its signal scatters with variance ``f exp(N) / n``, where f >= 1 tells
how unlike the photons' energies are (`carm_env.xray.spectrum.Beam.noise_factor`).

The noise of a pixel is a function of the seed and the pixel's number (a counter-based hash), so it
needs no state, does not depend on threads and repeats on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.xray.compiled import compiled_fast

MAX_LOG_NOISE = 0.5
"""Largest standard deviation of the logarithm: beyond, a pixel has met hardly a photon."""

_F, _U = np.float32, np.uint32
_SUM_MEAN = 131070  # of four numbers from 0 to 65535
_SUM_TO_UNIT = 1 / np.sqrt(4 * (2.0**32 - 1) / 12)
_TWO_LN_2 = 1.3862943611198906


def add_quantum_noise(
    log_image: NDArray[np.float32], photons: float, seed: int, noise_factor: float = 1.0
) -> NDArray[np.float32]:
    """`log_image` with quantum noise, a new array.

    Args:
        log_image: ``(H, W)`` float32, -ln of the transmitted share.
        photons: photons a pixel meets in the open field; 0 for no noise.
        seed: any integer; the same seed gives the same noise.
        noise_factor: f in the module's text, at least 1.

    Raises:
        ValueError: `photons` is negative or not finite.
    """
    if not np.isfinite(photons) or photons < 0:
        raise ValueError(f"photons is {photons!r}, expected a finite number, 0 for no noise.")
    noisy = np.array(log_image, dtype=np.float32, order="C")
    if photons > 0:
        _add_noise(noisy, _F(np.sqrt(noise_factor / photons)), _U(_mix_seed(seed)))
    return noisy


def _mix_seed(seed: int) -> int:
    """32 bits in which neighbouring seeds have nothing in common (the finaliser of SplitMix64)."""
    mask = (1 << 64) - 1
    value = (int(seed) + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 32


@compiled_fast
def _add_noise(image: NDArray[np.float32], amplitude: np.float32, seed: np.uint32) -> None:
    height, width = image.shape
    normal = np.empty(width, np.float32)
    for j in range(height):
        row = image[j]
        for i in range(width):
            # Two rounds of a 32-bit mixer (Wellons' lowbias32) give four 16-bit uniforms; their
            # sum is normal enough for noise (kurtosis 2.7) and never an outlier.
            x = _U(_U(_U(i + j * width) * _U(2654435761)) ^ seed)
            x = _U(_U(x ^ (x >> _U(16))) * _U(0x7FEB352D))
            x = _U(_U(x ^ (x >> _U(15))) * _U(0x846CA68B))
            x = _U(x ^ (x >> _U(16)))
            y = _U(_U(x * _U(0x9E3779B1)) + _U(0x85EBCA6B))
            y = _U(_U(y ^ (y >> _U(15))) * _U(0x2C1B3C6D))
            y = _U(y ^ (y >> _U(13)))
            total = np.int32((x & _U(0xFFFF)) + (x >> _U(16)) + (y & _U(0xFFFF)) + (y >> _U(16)))
            normal[i] = _F(total - np.int32(_SUM_MEAN)) * _F(_SUM_TO_UNIT)
        for i in range(width):
            # 2**(whole + part) = exp(row / 2): the whole goes into the exponent bits, the part into a
            # polynomial, so that the loop vectorises (there is no vector libm here).
            power = min(max(row[i], _F(0)), _F(80)) * _F(1 / _TWO_LN_2)
            whole = np.int32(power)
            part = power - _F(whole)
            growth = _F(1) + part * (
                _F(0.69314718) + part * (_F(0.2402265) + part * (_F(0.0555041) + part * _F(0.0096181)))
            )
            scale = np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)
            deviation = min(amplitude * growth * scale, _F(MAX_LOG_NOISE))
            row[i] += deviation * normal[i]
