"""Variation of soft organs between patients: size, position and a smooth ripple of the surface, drawn from the seed.

The standard deviations are given where organs are made. They were chosen by eye so that patients differ as people do;
sources of absolute sizes stand beside them.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.painting.shapes import Field

_PURPOSE = 0x6F72676E
_LIMIT = 2.0
"""Draws are limited to this many standard deviations."""
_RIPPLES = 4


class OrganVariation:
    """Draws the variation of organs by name, so that a change of one organ does not affect the others.

    Seed 0, the average adult, has none.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, organ: str) -> np.random.Generator:
        """Returns the random numbers of an organ."""
        return np.random.default_rng([self._seed, _PURPOSE, crc32(organ.encode())])

    def normal(self, organ: str, std: ArrayLike) -> NDArray[np.float64]:
        """Returns draws with standard deviations `std`, limited to two of them, in the shape of `std`."""
        width = np.asarray(std, float)
        if self._seed == 0:
            return np.zeros(width.shape)
        return width * np.clip(self.stream(organ).normal(size=width.shape), -_LIMIT, _LIMIT)

    def size(self, organ: str, std: float = 0.06) -> float:
        """Returns a factor of the size of an organ."""
        return float(np.exp(self.normal(f"{organ} size", std)))

    def path(self, organ: str, table: ArrayLike, std_mm: float, radius_std: float = 0.05) -> NDArray[np.float64]:
        """Returns rows ``(x, y, z, radius)`` of a tube with smooth offsets and a common factor of the radius."""
        rows = np.array(table, float)
        if self._seed == 0:
            return rows
        raw = np.clip(self.stream(organ).normal(size=(len(rows) + 2, 3)), -_LIMIT, _LIMIT)
        rows[:, :3] += std_mm * (raw[:-2] + raw[1:-1] + raw[2:]) / np.sqrt(3.0)
        rows[:, 3] *= self.size(organ, radius_std)
        return rows

    def ripple(self, organ: str, field: Field, amplitude_mm: float, wavelength_mm: float = 60.0) -> Field:
        """Displaces the surface of a field by smooth waves with a standard deviation of `amplitude_mm`."""
        if self._seed == 0 or not field.values.size:
            return field
        rng = self.stream(f"{organ} ripple")
        direction = rng.normal(size=(_RIPPLES, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        waves = 2 * np.pi * direction / (wavelength_mm * rng.uniform(0.7, 1.6, (_RIPPLES, 1)))
        phases = rng.uniform(0, 2 * np.pi, _RIPPLES)
        amplitude = amplitude_mm * np.sqrt(2.0 / _RIPPLES)
        x, y, z = field.lattice.axes()
        for wave, phase in zip(waves, phases, strict=True):
            # sin(a + b) of broadcast coordinates, without a sine per voxel.
            across, along = wave[0] * x + wave[1] * y + phase, wave[2] * z
            values = np.sin(across) * np.cos(along) + np.cos(across) * np.sin(along)
            field.values += np.float32(amplitude) * values.astype(np.float32)
        return field
