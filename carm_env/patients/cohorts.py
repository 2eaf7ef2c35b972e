"""Cohorts: the virtual patients for training, for calibration and for tests.

A cohort is only a definition: ``standard/test`` names the same patients whether or not they have been built. No person
belongs to two splits or two cohorts, but for ``poses``, which shows the people of ``standard/test`` in other poses.

The families ``poses``, ``bodies`` and ``bones`` have a test split only. `carm_env.patients.separation` refuses them,
and the people of every other test split, as training patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from carm_env.patient_store import RESERVED_NAMES, VIRTUAL
from carm_env.system.errors import UnknownNameError

Split = Literal["train", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "test")
N_DEMO_SEEDS = 100
"""``virtual:0`` to ``virtual:99`` are for demonstrations and tests of code; they belong to no cohort."""


@dataclass(frozen=True)
class Cohort:
    """A fixed set of virtual patients.

    Attributes:
        name: as on the command line; one of `carm_env.patient_store.RESERVED_NAMES`.
        version: raised whenever seeds, options or the parameters of the patients change.
        description: one sentence.
        seeds: seeds of the patients of each split.
        options: options of every patient, as in ``virtual:SEED?option=value``.
        variants: further options, which alternate from patient to patient of a split.
        purpose: what the cohort is for, and what it is not for, in sentences.
    """

    name: str
    version: int
    description: str
    seeds: Mapping[Split, Sequence[int]]
    options: Mapping[str, str] = field(default_factory=dict)
    variants: Sequence[Mapping[str, str]] = ({},)
    purpose: str = ""

    def __post_init__(self) -> None:
        if self.name not in RESERVED_NAMES:
            raise ValueError(f"cohort {self.name!r} is not in carm_env.patient_store.RESERVED_NAMES: add it there.")

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have patients."""
        return tuple(split for split in SPLITS if self.seeds.get(split))

    def names(self, split: str | None = None, more_options: str = "") -> tuple[str, ...]:
        """Returns the names of the patients of one split, or of all splits in order.

        Args:
            split: ``"train"``, ``"calibration"`` or ``"test"``; None for all.
            more_options: further options of every patient, e.g. ``"voxel_mm=1.5"``.

        Raises:
            UnknownNameError: unknown split; the message names the nearest one.
        """
        if split is not None and split not in self.splits:
            raise UnknownNameError(f"split of the cohort {self.name}", split, self.splits)
        splits = self.splits if split is None else (split,)
        return tuple(
            self._name(seed, number, more_options) for one in splits for number, seed in enumerate(self.seeds[one])
        )

    def _name(self, seed: int, number: int, more_options: str) -> str:
        given = {**self.options, **self.variants[number % len(self.variants)]}
        options = "&".join([*(f"{key}={value}" for key, value in given.items()), *filter(None, [more_options])])
        return f"{VIRTUAL}:{seed}?{options}" if options else f"{VIRTUAL}:{seed}"


_ARMS = ("sides", "raised", "one_up", "crossed")
_COVERS = ("hips", "thighs", "chest", "hips", "thighs", "head_neck", "thighs", "abdomen")
_BODIES: tuple[Mapping[str, str], ...] = (
    {"weight_kg": "125"},
    {"weight_kg": "41"},
    {"age": "90"},
    {"kyphosis_deg": "34", "scoliosis_mm": "26"},
    {"age": "18", "stature_cm": "136", "weight_kg": "34"},
)
_TEST_ONLY = "Never train on it, never tune on it: it has a test split only, and the training scripts refuse it."


def _in_full(arms: str) -> Mapping[str, str]:
    """Returns options with which the hands of a pose are in the volume."""
    return {"arms": arms} if arms == "raised" else {"arms": arms, "covers": "thighs"}


def _posed(arms: str, covers: str) -> Mapping[str, str]:
    """Returns the options of a pose and a coverage; crossed arms are the default and not named."""
    return {"covers": covers} if arms == "crossed" else {"arms": arms, "covers": covers}


COHORTS: Mapping[str, Cohort] = {
    cohort.name: cohort
    for cohort in (
        Cohort(
            "standard",
            2,
            "Adults of both sexes as the population draws them; 50 to train and 10 to test, as in the paper",
            {"train": range(1000, 1050), "calibration": range(2000, 2010), "test": range(3000, 3010)},
            purpose="Training, calibration and tests in the paper's pose. The suites of the package use its tests.",
        ),
        Cohort(
            "wide",
            2,
            "Further adults of the same population, for networks that should not memorise the patients of standard",
            {"train": range(1050, 1150), "calibration": range(2010, 2030), "test": range(3010, 3030)},
            purpose="For training networks that should not memorise the 50 training patients of standard.",
        ),
        Cohort(
            "broad",
            2,
            "Further adults of the same population, for a second network of an ensemble",
            {"train": range(1150, 1350), "calibration": range(2030, 2050), "test": range(3030, 3050)},
            purpose="For training with still more patients.",
        ),
        Cohort(
            "diverse",
            2,
            "Further adults of the same population: arms at the sides, raised, one up and crossed in equal numbers, "
            "bodies imaged to the hips or to the thighs, or only head and neck, chest or abdomen",
            {"train": range(1400, 1592), "calibration": range(2100, 2132), "test": range(3100, 3132)},
            variants=[_posed(arms, covers) for covers in _COVERS for arms in _ARMS],
            purpose="For training networks that should not take crossed arms and whole bodies for granted. Of every 32 "
            "patients, 8 have each pose; 8 are imaged from the vertex to the hips, 12 to the thighs, and 4 each in a "
            "scan of head and neck, chest or abdomen.",
        ),
        Cohort(
            "poses",
            2,
            "The ten people of standard/test with other arms: at the sides, raised, and one up; where a hand hangs, "
            "the volume extends to the thighs",
            {"test": [seed for seed in range(3000, 3010) for _ in _ARMS[:3]]},
            variants=[_in_full(arms) for arms in _ARMS[:3]],
            purpose="For measuring what the pose of the arms alone changes: people, bones and tissue are those of "
            f"standard/test. {_TEST_ONLY}",
        ),
        Cohort(
            "bodies",
            2,
            "Twenty adults with arms crossed and unusual bodies: obese, thin, old, bent and child-sized, four of each",
            {"test": range(4000, 4020)},
            variants=_BODIES,
            purpose="For measuring what habitus, age and posture of the spine change. The child-sized are small "
            f"adults, with adult proportions and without growth plates. {_TEST_ONLY}",
        ),
        Cohort(
            "bones",
            2,
            "Twenty adults with arms crossed and bones of another family: warped by smooth fields, with other ribs, "
            "vertebrae, scapulae, humeral heads and cortical thickness",
            {"test": range(4100, 4120)},
            variants=[{"warp": str(number + 1)} for number in range(20)],
            purpose="For measuring how far a policy depends on the one skeleton that it was trained on: a step from it "
            f"towards people. It is no sample of people: only real CT is. {_TEST_ONLY}",
        ),
    )
}


def find_cohort(name: str) -> Cohort:
    """Returns the cohort of a name.

    Raises:
        UnknownNameError: unknown cohort; the message names the nearest one.
    """
    if name not in COHORTS:
        raise UnknownNameError("cohort", name, COHORTS)
    return COHORTS[name]


def cohort_references() -> list[str]:
    """Returns every name of a cohort or of one split: ``standard``, ``standard/train`` and so on."""
    return [
        text for name, cohort in COHORTS.items() for text in (name, *(f"{name}/{split}" for split in cohort.splits))
    ]


def is_cohort_reference(text: str) -> bool:
    """Returns whether `text` begins with a cohort's name: ``standard``, ``standard/train?voxel_mm=1.5``."""
    return text.partition("?")[0].partition("/")[0] in COHORTS


def cohort_patients(reference: str) -> tuple[str, ...]:
    """Returns the names of the patients of a reference such as ``standard/test`` or ``standard/test?voxel_mm=1.5``.

    >>> cohort_patients("standard/test?voxel_mm=1.5")[:2]
    ('virtual:3000?voxel_mm=1.5', 'virtual:3001?voxel_mm=1.5')

    Raises:
        UnknownNameError: unknown cohort or split; the message names the nearest one.
    """
    which, _, options = reference.partition("?")
    name, slash, split = which.partition("/")
    return find_cohort(name).names(split if slash else None, options)


def some_of_each_split(cohort: Cohort, patients: int, more_options: str = "") -> tuple[str, ...]:
    """Returns the names of some patients of a cohort, in proportion to the sizes of its splits.

    From three patients on, each split has at least one.

    Args:
        cohort: the cohort.
        patients: number of names.
        more_options: further options of every patient, e.g. ``"voxel_mm=1.5"``.

    Raises:
        ValueError: the cohort has fewer patients.

    >>> some_of_each_split(COHORTS["standard"], 4)
    ('virtual:1000', 'virtual:1001', 'virtual:2000', 'virtual:3000')
    """
    sizes = {split: len(cohort.seeds[split]) for split in cohort.splits}
    total = sum(sizes.values())
    if not 1 <= patients <= total:
        raise ValueError(f"patients is {patients!r}, expected 1 to {total}: the size of the cohort {cohort.name}.")
    counts = dict.fromkeys(cohort.splits, 0)
    for _ in range(patients):
        open_splits = [split for split in cohort.splits if counts[split] < sizes[split]]
        # One of each first; then the split that is farthest behind its share.
        behind = min(open_splits, key=lambda split: (counts[split] > 0, counts[split] / sizes[split]))
        counts[behind] += 1
    return tuple(name for split in cohort.splits for name in cohort.names(split, more_options)[: counts[split]])
