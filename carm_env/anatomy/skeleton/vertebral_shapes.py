"""The shapes of single vertebrae from C3 to L5: sizes by level, pedicles, laminae and processes.

Widths and depths of the bodies are close to the means of M. M. Panjabi et al. (Spine 16:861, 1991, cervical; Spine
16:888, 1991, thoracic; Spine 17:299, 1992, lumbar). The arch and its processes, and the spread between people, were
chosen by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.shapes import Capsule
from carm_env.anatomy.skeleton.bone_variation import BoneVariation

_HALF_WIDTH_MM = np.array(
    [9.0, 9.5, 10.0, 10.6, 12.0]
    + [13.2, 13.0, 13.0, 13.1, 13.4, 14.1, 14.8, 15.5, 16.2, 17.2, 18.6, 20.2]
    + [21.2, 22.0, 22.8, 23.8, 24.6]
)
_HALF_DEPTH_MM = np.array(
    [7.7, 7.9, 8.0, 8.3, 9.0]
    + [9.3, 9.9, 11.1, 11.7, 12.2, 13.0, 13.7, 14.1, 14.7, 15.3, 16.0, 16.5]
    + [17.1, 17.3, 17.6, 17.8, 17.4]
)
CERVICAL_LEVELS = 5
"""Number of levels, C3 to C7, before T1."""
LEVELS = len(_HALF_WIDTH_MM)
_MEAN_SCALE = 1.025

_AT = np.array([0, 4, 5, 8, 12, 15, 16, 17, 19, 21], float)
"""Levels of the columns below: C3, C7, T1, T4, T8, T11, T12, L1, L3, L5."""
_ROWS: dict[str, tuple[float, ...]] = {
    "height_fraction": (0.74, 0.76, 0.80, 0.82, 0.82, 0.80, 0.79, 0.76, 0.74, 0.72),
    "canal_half_width": (11.5, 12.0, 10.5, 8.5, 8.5, 9.5, 10.5, 11.0, 11.5, 13.0),
    "canal_depth": (13.0, 13.5, 14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 16.0, 16.0),
    "pedicle_width": (5.2, 6.2, 7.5, 5.2, 6.0, 7.5, 8.0, 8.5, 10.0, 14.0),
    "pedicle_height": (6.5, 7.0, 9.5, 11.0, 12.0, 14.0, 15.0, 15.0, 14.5, 14.0),
    "tip_dorsal": (38.0, 52.0, 51.0, 49.0, 51.0, 52.0, 54.0, 57.0, 59.0, 51.0),
    "tip_drop": (7.0, 12.0, 14.0, 27.0, 32.0, 15.0, 10.0, 8.0, 8.0, 9.0),
    "spinous_height": (4.5, 8.0, 8.5, 9.0, 10.0, 12.0, 15.0, 18.0, 19.0, 14.0),
    "spinous_radius": (2.3, 3.0, 3.2, 2.9, 2.8, 3.0, 3.1, 3.2, 3.3, 3.2),
    "transverse_reach": (22.0, 31.0, 36.0, 31.0, 30.0, 24.0, 23.0, 33.0, 42.0, 38.0),
    "transverse_dorsal": (3.0, 9.0, 13.0, 17.0, 19.0, 17.0, 16.0, 12.0, 11.0, 10.0),
    "transverse_radius": (3.0, 3.6, 4.0, 3.9, 3.8, 3.4, 3.2, 2.9, 2.9, 3.6),
    "facet_offset": (17.5, 17.0, 15.0, 13.0, 13.0, 13.5, 14.0, 15.0, 16.5, 18.5),
    "facet_radius": (4.6, 4.4, 3.8, 3.4, 3.4, 3.7, 4.2, 4.6, 5.2, 5.4),
}

_SIZE_STD, _PEDICLE_STD, _TRANSVERSE_STD = 0.025, 0.06, 0.05
_SPINOUS_LATERAL_STD_MM, _SPINOUS_DROP_STD_MM, _SPINOUS_LENGTH_STD_MM = 1.4, 2.0, 1.5


@dataclass(frozen=True, eq=False)
class VertebraShape:
    """Sizes of one vertebra, mm; local axes point to the patient's left, to the back and up along the spine.

    Attributes:
        half_width, half_depth: half the width and depth of the body at its end plates.
        lower, upper: height of the rims of the end plates relative to the centre (lower is negative).
        concavity: depth of the end plates below their rim.
        sizes: sizes of arch and processes by name.
        sides: ``(2, 2)`` factors of pedicle width and transverse process, right and left.
        tip: ``(3,)`` displacement of the tip of the spinous process.
        bifid: whether the spinous process ends in two tubercles.
    """

    half_width: float
    half_depth: float
    lower: float
    upper: float
    concavity: float
    sizes: dict[str, float]
    sides: NDArray[np.float64]
    tip: NDArray[np.float64]
    bifid: bool

    def spinous_process(self) -> list[Capsule]:
        """Returns the plate of the spinous process in local coordinates."""
        size = self.sizes
        radius, height = size["spinous_radius"], size["spinous_height"]
        root_dorsal = self.half_depth + size["canal_depth"] + radius
        drop = size["tip_drop"]
        root = np.array([0.0, root_dorsal, -1.0 - 0.1 * drop])
        tip = np.array([0.0, size["tip_dorsal"], -drop]) + self.tip
        count = max(int(np.ceil(height / (1.4 * radius))), 2)
        heights = (np.linspace(-0.5, 0.5, count)) * max(height - 2 * radius, 1.0)
        # The plate is thicker below than above, which gives the shape of a drop in frontal views.
        plate = []
        for share, h in zip(np.linspace(1.0, 0.0, count), heights, strict=True):
            below = 1 if self.bifid else 0.85 + 0.4 * share
            plate.append(Capsule(root + [0, 0, h], tip + [0, 0, 0.9 * h], 0.9 * radius, below * radius))
        if self.bifid:
            fork = tip - [0.0, 6.0, 0.0]
            plate += [Capsule(fork, tip + [sign * 4.0, 1.0, -2.0], radius) for sign in (-1, 1)]
        return plate

    def arch(self) -> list[Capsule]:
        """Returns pedicles, laminae, articular and transverse processes in local coordinates."""
        size, capsules = self.sizes, []
        dorsal = self.half_depth + 0.62 * size["canal_depth"]
        root = np.array([0.0, self.half_depth + size["canal_depth"] + 2.0, -1.0 - 0.1 * size["tip_drop"]])
        for sign, (pedicle, transverse) in zip((-1.0, 1.0), self.sides, strict=True):
            mirror = np.array([sign, 1.0, 1.0])
            width = pedicle * size["pedicle_width"]
            lateral = size["canal_half_width"] + width / 2
            level = 0.25 * (self.upper + self.lower) + 0.22 * (self.upper - self.lower)
            spread = max(size["pedicle_height"] - width, 0.0) / 2
            for h in (-spread, 0.0, spread):
                start = np.array([min(lateral, 0.8 * self.half_width), 0.55 * self.half_depth, level + h])
                capsules.append(Capsule(mirror * start, mirror * [lateral, dorsal, level + h], width / 2))
            junction = np.array([lateral, dorsal + 1.0, level - 1.0])
            for h in (0.5, -4.5):
                capsules.append(Capsule(mirror * (junction + [0, 0, h]), root + [0, 0, h], 2.9, 2.7))
            reach = transverse * size["transverse_reach"]
            process = np.array([reach, self.half_depth + size["transverse_dorsal"], level + 1.0])
            radius = size["transverse_radius"]
            # Flat from front to back and higher towards the tip, most of all in the lumbar spine.
            flare = 0.6 * radius
            for h in (-flare, flare):
                capsules.append(
                    Capsule(mirror * junction, mirror * (process + [0, 0, 1.5 * h]), 0.9 * radius, 0.85 * radius)
                )
            facet = np.array([size["facet_offset"], dorsal + 2.5, 0.0])
            radius = size["facet_radius"]
            top, bottom = [0, -0.5, 0.75 * self.upper + 1.5], [0, 2.0, 0.95 * self.lower - 2.0]
            capsules.append(Capsule(mirror * (facet + bottom), mirror * (facet + top), radius, 0.9 * radius))
        return capsules


def vertebra_shape(
    level: int,
    below_mm: float,
    above_mm: float,
    scale: float,
    variation: BoneVariation,
    wider: float = 1.0,
    higher: float = 1.0,
) -> VertebraShape:
    """Returns the shape of a vertebra.

    Args:
        level: number of the vertebra, 0 for C3, 5 for T1, 21 for L5.
        below_mm: distance to the centre of the vertebral body below.
        above_mm: distance to the centre of the vertebral body above.
        scale: scale of the body (`Body.scale`).
        variation: draws the person's own sizes.
        wider: factor of the width and depth of the body.
        higher: factor of its height.
    """
    size = scale / _MEAN_SCALE
    sizes = {name: float(np.interp(level, _AT, row)) for name, row in _ROWS.items()}
    fraction = sizes.pop("height_fraction")
    sizes = {name: size * value for name, value in sizes.items()}
    draws = variation.normal(f"vertebra {level}", 12)
    width, depth, height = (1 + _SIZE_STD * draws[:3]) * [wider, wider, higher]
    lower, upper = -0.5 * fraction * height * below_mm, 0.5 * fraction * height * above_mm
    cervical = level < CERVICAL_LEVELS
    tip = np.array(
        [_SPINOUS_LATERAL_STD_MM * draws[3], _SPINOUS_LENGTH_STD_MM * draws[4], _SPINOUS_DROP_STD_MM * draws[5]]
    )
    return VertebraShape(
        float(size * width * _HALF_WIDTH_MM[level]), float(size * depth * _HALF_DEPTH_MM[level]), float(lower),
        float(upper), size * (0.9 if cervical else 1.8 + 1.2 * level / LEVELS), sizes,
        np.column_stack([1 + _PEDICLE_STD * draws[6:8], 1 + _TRANSVERSE_STD * draws[8:10]]), size * tip,
        level < CERVICAL_LEVELS - 1,
    )  # fmt: skip
