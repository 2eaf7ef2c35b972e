"""Beer-Lambert's law for a whole spectrum, by a lookup table over the areal densities of soft tissue and bone.

Square-root axes put the nodes where the logarithm bends most, near zero. With 256 x 128 nodes and bilinear
interpolation, the largest error is 2.5e-4 of the intensity and the mean error 9e-5.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.system.compilation import compiled_fast
from carm_env.xray.physics.spectrum import Beam

SOFT_NODES, BONE_NODES = 256, 128
MAX_SOFT_G_CM2, MAX_BONE_G_CM2 = 64.0, 24.0
"""Ends of the table: 62 cm of soft tissue and 12 cm of solid cortical bone. Larger values are clipped."""

_F = np.float32
_SOFT_SCALE, _SOFT_END = _F((SOFT_NODES - 1) / np.sqrt(MAX_SOFT_G_CM2)), _F(SOFT_NODES - 1.001)
_BONE_SCALE, _BONE_END = _F((BONE_NODES - 1) / np.sqrt(MAX_BONE_G_CM2)), _F(BONE_NODES - 1.001)


@dataclass(frozen=True, eq=False)
class AttenuationTable:
    """``-ln`` of the transmitted fraction of the energy, by areal density of soft tissue and bone.

    Attributes:
        values: ``(256, 128)`` float32, nodes evenly spaced in the square roots of both densities.
    """

    values: NDArray[np.float32]

    @classmethod
    def of_beam(cls, beam: Beam) -> AttenuationTable:
        """Returns the table of a beam; the tables of the beams used last are kept."""
        return _tabulate(beam)

    def log_image(self, masses_g_cm2: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns ``-ln I``, ``(H, W)`` float32, for areal densities ``(2, H, W)`` of soft tissue and bone in g/cm^2.

        I is the energy behind the patient relative to the open field.

        Raises:
            ValueError: the masses have another shape.
        """
        if masses_g_cm2.ndim != 3 or masses_g_cm2.shape[0] != 2:
            raise ValueError(f"masses have shape {masses_g_cm2.shape}, expected (2, H, W): soft tissue and bone.")
        out = np.empty(masses_g_cm2.shape[1:], np.float32)
        _look_up(np.ascontiguousarray(masses_g_cm2, dtype=np.float32), self.values, out)
        return out


@functools.lru_cache(maxsize=16)
def _tabulate(beam: Beam) -> AttenuationTable:
    soft = np.linspace(0, 1, SOFT_NODES)[:, None] ** 2 * MAX_SOFT_G_CM2
    bone = np.linspace(0, 1, BONE_NODES)[None, :] ** 2 * MAX_BONE_G_CM2
    masses = np.stack(np.broadcast_arrays(soft, bone))
    return AttenuationTable(-np.log(beam.transmission(masses)).astype(np.float32))


@compiled_fast
def _look_up(masses: NDArray[np.float32], table: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    height, width = out.shape
    flat = table.ravel()
    # Two loops per row: the first one vectorises, the second one looks up the table.
    soft_part = np.empty(width, np.float32)
    bone_part = np.empty(width, np.float32)
    node = np.empty(width, np.int32)
    for j in range(height):
        for i in range(width):
            u = min(np.sqrt(max(masses[0, j, i], _F(0))) * _SOFT_SCALE, _SOFT_END)
            v = min(np.sqrt(max(masses[1, j, i], _F(0))) * _BONE_SCALE, _BONE_END)
            a, b = np.int32(u), np.int32(v)
            soft_part[i] = u - _F(a)
            bone_part[i] = v - _F(b)
            node[i] = a * np.int32(BONE_NODES) + b
        for i in range(width):
            q = np.int64(node[i])
            f = bone_part[i]
            near = flat[q] + f * (flat[q + 1] - flat[q])
            far = flat[q + BONE_NODES] + f * (flat[q + BONE_NODES + 1] - flat[q + BONE_NODES])
            out[j, i] = near + soft_part[i] * (far - near)
