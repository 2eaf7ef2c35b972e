"""The individual shapes of the bones of one person: each bone is bent and bulged smoothly, right and left apart.

A few waves about as long as the bone displace its vertices. Both bones of a pair share most of the displacement and
differ in the rest, as the sides of a person do. Joints stay together, because amplitudes are small against their gaps.
Amplitudes, wavelengths and the difference between the sides were chosen by hand, so that two patients differ visibly
and no bone looks deformed; the spread of the humeral head stays below that of Iannotti et al. (J Bone Joint Surg Am
74:491-500, 1992).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.skeleton.bone_shapes import BoneShapes
from carm_env.anatomy.skeleton.model import SIDES

_PURPOSE = 0x706572736F6E
_LIMIT = 2.0
"""Normal deviates are clipped to this number of standard deviations."""

_WAVES = 4
_WAVELENGTH = (0.7, 1.6)
"""Length of the waves relative to the largest extent of the bone."""
_AMPLITUDE, _MAX_AMPLITUDE_MM = 0.014, 1.5
"""Standard deviation of the displacement relative to the largest extent of the bone, and its limit."""
_SIDE_FRACTION = 0.6
"""Amplitude of the part in which right and left differ, relative to the part that they share."""

_RIB_SLOPE, _RIB_SLOPE_STD, _RIB_BULGE_STD, _RIB_TAPER_STD = 0.08, 0.03, 0.03, 0.02
_SCAPULAR_STD, _HUMERAL_HEAD_STD, _SHAFT_WIDTH_STD, _BOW_STD_MM = 0.02, 0.04, 0.05, 1.5
_SIDE_STD = 0.5
"""Standard deviation of one side from the mean of both, relative to the spread of the mean."""


@dataclass(frozen=True)
class BoneVariation:
    """Draws the shape of each bone of a person.

    Attributes:
        seed: seed of the patient.
    """

    seed: int

    def normal(self, purpose: str, size: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Returns standard normal deviates that depend on the seed and a name only, clipped to two."""
        rng = np.random.default_rng([self.seed, _PURPOSE, zlib.crc32(purpose.encode())])
        return np.clip(rng.normal(size=size), -_LIMIT, _LIMIT).round(4)

    def shaped(self, mesh: Mesh, name: str | None = None) -> Mesh:
        """Returns a bone with its own shape.

        Args:
            mesh: the bone in the patient.
            name: name of the bone; by default that of the mesh.
        """
        name = mesh.name if name is None else name
        stem, sign = _stem_and_sign(name)
        extent = float(np.ptp(mesh.vertices_mm, axis=0).max())
        offsets = (mesh.vertices_mm - mesh.centre_mm) * [sign, 1.0, 1.0] / extent
        displacement = self._waves(stem, offsets)
        if stem != name:
            displacement = (displacement + _SIDE_FRACTION * self._waves(name, offsets)) / np.hypot(1, _SIDE_FRACTION)
        amplitude = min(_AMPLITUDE * extent, _MAX_AMPLITUDE_MM)
        return mesh.moved(mesh.vertices_mm + amplitude * displacement * [sign, 1.0, 1.0])

    def _waves(self, name: str, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
        draws = self.normal(f"waves of {name}", (_WAVES, 8))
        total = np.zeros(offsets.shape)
        for row in draws:
            direction = row[:3] / max(float(np.linalg.norm(row[:3])), 1e-6)
            # From a normal deviate within its limits to the range of wavelengths.
            share = (row[3] + _LIMIT) / (2 * _LIMIT)
            length = _WAVELENGTH[0] + share * (_WAVELENGTH[1] - _WAVELENGTH[0])
            level = np.sin(2 * np.pi / length * (offsets @ direction) + np.pi * row[4])
            total += level[:, None] * row[5:]
        return total * np.sqrt(2.0 / _WAVES)

    def arm_and_chest_shapes(self) -> BoneShapes:
        """Returns factors of the bones of both arms and of the rib cage."""

        def factors(name: str, std: float) -> dict[str, float]:
            mean, *sides = self.normal(name, 3)
            return {side: float(1 + std * (mean + _SIDE_STD * own)) for side, own in zip(SIDES, sides, strict=True)}

        slope, bulge, taper = self.normal("rib cage", 3)
        bows = self.normal("bow", 4)
        bow_mm = {
            side: (sign * _BOW_STD_MM * float(bows[0] + _SIDE_STD * bows[2]), _BOW_STD_MM * float(bows[1]))
            for side, sign in (("r", -1.0), ("l", 1.0))
        }
        return BoneShapes(
            rib_slope=_RIB_SLOPE + _RIB_SLOPE_STD * float(slope),
            rib_bulge=_RIB_BULGE_STD * float(bulge),
            rib_taper=_RIB_TAPER_STD * float(taper),
            scapular_length=factors("scapular length", _SCAPULAR_STD),
            scapular_breadth=factors("scapular breadth", _SCAPULAR_STD),
            humeral_head=factors("humeral head", _HUMERAL_HEAD_STD),
            shaft_width=factors("shaft width", _SHAFT_WIDTH_STD),
            bow_mm=bow_mm,
            cortex=float(1 + 0.1 * self.normal("cortex", 1)[0]),
        )


def _stem_and_sign(name: str) -> tuple[str, float]:
    """Returns the name that both bones of a pair share, and -1 for the right one, 1 for all others."""
    for side, sign in (("r", -1.0), ("l", 1.0)):
        if name.endswith(f"_{side}"):
            return name[:-2], sign
        if name.startswith(f"{side}_"):
            return name[2:], sign
    return name, 1.0
