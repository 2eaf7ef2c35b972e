"""The part of the body that a CT shows: scans end at anatomical levels that vary from patient to patient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.parameters import PatientParameters
from carm_env.landmarks import landmark

_PURPOSE = 0x636F7665
_Cut = tuple[str, float, float]

_CUTS: Mapping[str, tuple[_Cut | None, _Cut | None]] = {
    "hips": (None, None),
    "thighs": (None, None),
    "head_neck": (None, ("T1", -120.0, -40.0)),
    "chest": (("T1", 10.0, 70.0), ("T12", -90.0, -20.0)),
    "abdomen": (("T12", 70.0, 150.0), None),
}
"""Upper and lower end: a landmark, and the range of the height above it, mm; None where the volume is not cut."""


def imaged_part(
    hu: NDArray[np.int16],
    lattice: Lattice,
    landmarks_mm: Mapping[int, NDArray[np.float64]],
    parameters: PatientParameters,
) -> tuple[NDArray[np.int16], Lattice, dict[int, NDArray[np.float64]]]:
    """Cuts a volume perpendicular to the table, and leaves out the landmarks that are outside it then.

    Args:
        hu: the volume.
        lattice: its lattice.
        landmarks_mm: landmark positions ``(3,)`` by id, LPS mm.
        parameters: parameters of the patient: `covers`, and the seed that draws the levels.
    """
    if parameters.covers == "whole":
        # The patients of existing cohorts keep their landmarks.
        return hu, lattice, dict(landmarks_mm)
    rng = np.random.default_rng([parameters.seed, _PURPOSE])
    heights = lattice.axis(2)
    limits = [float(heights[-1]) + 1.0, float(heights[0]) - 1.0]
    for end, cut in enumerate(_CUTS[parameters.covers]):
        if cut is not None:
            name, low, high = cut
            limits[end] = float(landmarks_mm[landmark(name).id][2]) + rng.uniform(low, high)
    kept = np.flatnonzero((heights <= limits[0]) & (heights >= limits[1]))
    box = (slice(0, hu.shape[0]), slice(0, hu.shape[1]), slice(int(kept[0]), int(kept[-1]) + 1))
    part = lattice.within(box)
    low, high = part.origin_mm[2], part.end_mm[2]
    inside = {key: point for key, point in landmarks_mm.items() if low <= point[2] <= high}
    return hu[box], part, inside
