"""What may vary between virtual patients, in units, with limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from carm_env.anatomy.findings.kinds import canonical_findings
from carm_env.errors import UnknownNameError, check_keys

Arms = Literal["crossed", "sides"]

LIMITS: dict[str, tuple[float, float]] = {
    "scale": (0.85, 1.2),
    "fat_mm": (5.0, 45.0),
    "belly_mm": (0.0, 80.0),
    "muscle": (0.75, 1.25),
    "breath_mm": (-15.0, 15.0),
    "bone_density": (0.6, 1.3),
    "lung_hu": (-900.0, -600.0),
    "female": (0.0, 1.0),
    "bowel_gas": (0.0, 2.0),
    "heart": (0.8, 1.25),
}
"""Lowest and highest accepted value of each number; see `PatientParameters` for units."""

VOXEL_SIZES_MM = (2.0, 1.5, 1.0)
"""Voxel sizes that a patient may be built with; see docs/patients.md for time and memory."""


@dataclass(frozen=True)
class PatientParameters:
    """The parameters of one virtual patient; together with the anatomy's version they fix every voxel.

    Attributes:
        seed: draws texture, bowel loops and lung vessels; a whole number from 0.
        arms: ``"crossed"`` over the abdomen, as in the paper, or straight at the ``"sides"``.
        scale: body size relative to myo-sim's skeleton; 1.025 gives the mean size of the annotated patients.
        fat_mm: thickness of subcutaneous fat over the chest, mm.
        belly_mm: how far the abdomen bulges forwards beyond a flat one, mm.
        muscle: thickness of muscle relative to an average adult.
        breath_mm: lowering of both hemidiaphragms by inspiration (positive) or raising (negative), mm.
        bone_density: bone mineral relative to a healthy adult.
        lung_hu: mean HU of lung parenchyma.
        female: 0 none to 1 full breast tissue.
        bowel_gas: amount of gas in the bowel relative to an average patient.
        heart: width of the heart relative to an average patient.
        findings: implants, tubes and disease, see `carm_env.anatomy.findings.kinds`; names or one text
            with plus signs.
        voxel_mm: edge of the volume's voxels, one of `VOXEL_SIZES_MM`.

    Raises:
        ValueError: a value that is not finite or outside `LIMITS`, a finding given twice.
        UnknownNameError: an arm pose, a finding or a voxel size that does not exist.
    """

    seed: int = 0
    arms: Arms = "crossed"
    scale: float = 1.025
    fat_mm: float = 14.0
    belly_mm: float = 10.0
    muscle: float = 1.0
    breath_mm: float = 0.0
    bone_density: float = 1.0
    lung_hu: float = -800.0
    female: float = 0.0
    bowel_gas: float = 1.0
    heart: float = 1.0
    findings: tuple[str, ...] = ()
    voxel_mm: float = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}, expected a whole number from 0.")
        object.__setattr__(self, "seed", int(self.seed))
        if self.arms not in get_args(Arms):
            raise UnknownNameError("arm pose", self.arms, get_args(Arms))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            number = float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan
            if isinstance(value, bool) or not low <= number <= high:
                raise ValueError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}.")
            object.__setattr__(self, name, number)
        object.__setattr__(self, "findings", canonical_findings(self.findings))
        if isinstance(self.voxel_mm, bool) or self.voxel_mm not in VOXEL_SIZES_MM:
            raise UnknownNameError("voxel size (mm)", self.voxel_mm, VOXEL_SIZES_MM)
        object.__setattr__(self, "voxel_mm", float(self.voxel_mm))

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of everything that may be set beside the seed."""
        return tuple(item.name for item in fields(cls) if item.name != "seed")

    @classmethod
    def from_seed(cls, seed: int, **options: Any) -> PatientParameters:
        """The patient of a seed: 0 is the default patient, other seeds vary mildly and plausibly.

        Args:
            seed: a whole number from 0.
            **options: values that replace the drawn ones.

        Raises:
            UnknownNameError: an option that does not exist; the message names the nearest one.
            ValueError: a value outside `LIMITS`.
        """
        check_keys("patient option", options, cls.option_names())
        plain = cls(seed=seed)
        drawn = {} if plain.seed == 0 else _draw(plain.seed)
        return cls(**{"seed": plain.seed, **drawn, **options})

    def to_json(self) -> dict[str, Any]:
        """All parameters as JSON values."""
        return asdict(self)


def _draw(seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, 0x70617469])
    female = float(rng.random() < 0.45)
    size = 1.0 if female else 1.035
    drawn = {
        "scale": np.clip(rng.normal(size, 0.03), 0.92, 1.1),
        "fat_mm": np.clip(14.0 * np.exp(rng.normal(0.0, 0.35)), 7.0, 30.0),
        "belly_mm": np.clip(rng.normal(14.0, 12.0), 0.0, 40.0),
        "muscle": np.clip(rng.normal(1.0 - 0.06 * female, 0.06), 0.85, 1.15),
        "breath_mm": np.clip(rng.normal(0.0, 5.0), -10.0, 10.0),
        "bone_density": np.clip(rng.normal(1.0, 0.1), 0.75, 1.2),
        "lung_hu": np.clip(rng.normal(-800.0, 35.0), -870.0, -700.0),
        "female": female * rng.uniform(0.5, 1.0),
        "bowel_gas": rng.uniform(0.6, 1.4),
        "heart": np.clip(rng.normal(1.0, 0.05), 0.9, 1.12),
    }
    # Rounded so that the card, the hash and the volume agree on the very same number.
    return {name: round(float(value), 4) for name, value in drawn.items()}
