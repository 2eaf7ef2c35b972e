"""The parameters of virtual patients, with units and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from carm_env.anatomy.finding_names import canonical_findings
from carm_env.landmarks import N_LANDMARKS
from carm_env.system.errors import UnknownNameError

Arms = Literal["crossed", "sides", "one_up", "raised"]
Side = Literal["right", "left"]
Coverage = Literal["whole", "hips", "thighs", "head_neck", "chest", "abdomen"]

LIMITS: dict[str, tuple[float, float]] = {
    "scale": (0.85, 1.2),
    "thorax_width": (0.82, 1.25),
    "thorax_depth": (0.82, 1.35),
    "head_size": (0.85, 1.15),
    "kyphosis_deg": (-15.0, 40.0),
    "scoliosis_mm": (-35.0, 35.0),
    "head_turn_deg": (-45.0, 45.0),
    "head_nod_deg": (-20.0, 25.0),
    "askew_deg": (-20.0, 20.0),
    "roll_deg": (-12.0, 12.0),
    "off_centre_mm": (-60.0, 60.0),
    "fat_mm": (5.0, 45.0),
    "belly_mm": (0.0, 80.0),
    "muscle": (0.75, 1.25),
    "breath_mm": (-15.0, 15.0),
    "bone_density": (0.5, 1.3),
    "degeneration": (0.0, 1.0),
    "lung_hu": (-900.0, -600.0),
    "female": (0.0, 1.0),
    "bowel_gas": (0.0, 2.0),
    "heart": (0.8, 1.25),
}
"""Lowest and highest valid value of each number; see `PatientParameters` for units."""

VOXEL_SIZES_MM = (2.0, 1.5, 1.0)
"""Valid voxel sizes; docs/reference/patients.md lists build time and memory."""


@dataclass(frozen=True)
class PatientParameters:
    """The parameters of a virtual patient. Together with `ANATOMY_VERSION` they determine every voxel.

    Attributes:
        seed: seed of texture, bowel loops and lung vessels; an integer from 0.
        arms: ``"crossed"`` over the abdomen, as in the paper; straight at the ``"sides"``; both ``"raised"`` beside the
            head; or ``"one_up"``, one raised and the other at the side.
        side: the upper forearm of crossed arms, or the raised arm.
        scale: body size relative to the skeleton of myo-sim; 1.025 is the mean of the annotated patients.
        layout_mm: 28 numbers, left and cranial coordinates of the fourteen landmarks relative to T1 with T12 below it,
            mm; empty for the scaled mean of the annotated patients. Elbows and wrists follow it only with crossed arms.
        thorax_width, thorax_depth: width and depth of the trunk relative to an average trunk of that scale.
        head_size: size of the head relative to an average head.
        kyphosis_deg: additional flexion between T12 and T1, degrees.
        scoliosis_mm: lateral displacement of the middle of the thoracic spine, positive to the left, mm.
        head_turn_deg: rotation of the head, positive with the face to the left, degrees.
        head_nod_deg: flexion of the head, positive with the chin towards the chest, degrees.
        askew_deg: rotation on the table, positive with the head to the left, degrees.
        roll_deg: rotation about the long axis, positive with the right side raised, degrees.
        off_centre_mm: displacement from the middle of the table, positive to the left, mm.
        fat_mm: thickness of the subcutaneous fat over the chest, mm.
        belly_mm: ventral bulge of the abdomen, mm.
        muscle: thickness of muscle relative to an average adult.
        breath_mm: displacement of the hemidiaphragms, positive (caudal) by inspiration, mm.
        bone_density: bone mineral density relative to a healthy young adult.
        degeneration: 0 (none) to 1 (severe): narrow discs, osteophytes, calcified cartilage and aorta.
        lung_hu: mean HU of the lung parenchyma.
        female: 0 (no) to 1 (full) breast tissue.
        bowel_gas: amount of bowel gas relative to an average patient.
        heart: width of the heart relative to an average patient.
        table: include table top and mattress in the volume.
        findings: implants, tubes and disease, as names or as one text with plus signs; see
            `carm_env.anatomy.finding_names`.
        voxel_mm: edge length of the voxels, one of `VOXEL_SIZES_MM`.
        covers: part of the body in the volume: ``"hips"`` or ``"thighs"``, from the vertex to the hips or to the middle
            of the thighs; ``"head_neck"``, ``"chest"`` or ``"abdomen"`` for a scan of this region, whose ends vary
            with the seed. Landmarks outside the volume are absent. ``"whole"`` is ``"hips"`` with all landmarks, even
            of a hanging hand that is cut.
        warp: seed of another family of bones, see `carm_env.anatomy.warp`; 0 for the bones of myo-sim.

    Raises:
        ValueError: a value is not finite or outside `LIMITS`, or a finding is given twice.
        UnknownNameError: the arm pose, the coverage, a finding or the voxel size does not exist.
    """

    seed: int = 0
    arms: Arms = "crossed"
    side: Side = "right"
    scale: float = 1.025
    layout_mm: tuple[float, ...] = ()
    thorax_width: float = 1.0
    thorax_depth: float = 1.0
    head_size: float = 1.0
    kyphosis_deg: float = 0.0
    scoliosis_mm: float = 0.0
    head_turn_deg: float = 0.0
    head_nod_deg: float = 0.0
    askew_deg: float = 0.0
    roll_deg: float = 0.0
    off_centre_mm: float = 0.0
    fat_mm: float = 14.0
    belly_mm: float = 10.0
    muscle: float = 1.0
    breath_mm: float = 0.0
    bone_density: float = 1.0
    degeneration: float = 0.0
    lung_hu: float = -800.0
    female: float = 0.0
    bowel_gas: float = 1.0
    heart: float = 1.0
    table: bool = False
    findings: tuple[str, ...] = ()
    voxel_mm: float = 2.0
    covers: Coverage = "whole"
    warp: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "warp"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} is {value!r}, expected an integer from 0.")
            object.__setattr__(self, name, int(value))
        if self.arms not in get_args(Arms):
            raise UnknownNameError("arm pose", self.arms, get_args(Arms))
        if self.side not in get_args(Side):
            raise UnknownNameError("side", self.side, get_args(Side))
        if self.covers not in get_args(Coverage):
            raise UnknownNameError("coverage", self.covers, get_args(Coverage))
        if not isinstance(self.table, bool):
            raise ValueError(f"table is {self.table!r}, expected True or False.")
        object.__setattr__(self, "layout_mm", _checked_layout(self.layout_mm))
        for name, limits in LIMITS.items():
            object.__setattr__(self, name, checked_number(name, getattr(self, name), limits))
        object.__setattr__(self, "findings", canonical_findings(self.findings))
        if isinstance(self.voxel_mm, bool) or self.voxel_mm not in VOXEL_SIZES_MM:
            raise UnknownNameError("voxel size (mm)", self.voxel_mm, VOXEL_SIZES_MM)
        object.__setattr__(self, "voxel_mm", float(self.voxel_mm))

    def to_json(self) -> dict[str, Any]:
        """Returns the parameters as JSON values."""
        return asdict(self)


def checked_number(name: str, value: Any, limits: tuple[float, float]) -> float:
    """Returns a value as a float; raises ValueError if it is not a number within the limits."""
    number = float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan
    if isinstance(value, bool) or not limits[0] <= number <= limits[1]:
        raise ValueError(f"{name} is {value!r}, expected a number from {limits[0]:g} to {limits[1]:g}.")
    return number


def _checked_layout(values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if len(numbers) not in (0, 2 * N_LANDMARKS) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"layout_mm is {values!r}, expected {2 * N_LANDMARKS} finite numbers, or none.")
    return numbers
