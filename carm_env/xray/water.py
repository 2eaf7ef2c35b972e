"""The smallest patient: a cube of water, to try a backend on."""

from __future__ import annotations

import numpy as np

from carm_env.volume import Volume

CUBE_G_CM2 = 10.3
"""Areal density along the middle of the cube: 10 cm at the 1.03 g/cm^3 of 0 HU."""


def water_cube(bone_inside: bool = False) -> Volume:
    """A cube of water, 10 cm wide, in the middle of 20 cm of air around the world's origin; voxels of 5 mm.

    Args:
        bone_inside: put a bar of bone through it, along the patient.
    """
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[10:30, 10:30, 10:30] = 0
    if bone_inside:
        hu[18:22, 18:22, 10:30] = 1000
    return Volume.from_origin(hu, 5.0, (-97.5, -97.5, -97.5))
