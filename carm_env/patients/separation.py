"""Keeps test patients out of training: the people of every test split, and all bones of other families.

Splits are compared by person: a patient with another pose, other findings or another scan is the same person.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import combinations

from carm_env.patient_store import IMPORTED, VIRTUAL
from carm_env.patients.cohorts import COHORTS
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.randomization.naming import split_scan
from carm_env.system.errors import CArmEnvError

TRAINED_ON = ("train", "calibration")
"""Names of splits that influence a model."""

_SHOWN = 3


class HeldOutPatientError(CArmEnvError, ValueError):
    """A patient is reserved for tests."""


class SharedPersonError(CArmEnvError, ValueError):
    """A person is in two splits."""


def person_of(patient: PatientName) -> str:
    """Returns the name of the person that a patient is: the full name without options and scan.

    Args:
        patient: the full name of a patient, which need not exist on this machine.

    >>> person_of("virtual:1000?arms=sides&scan=7"), person_of("imported:thorax?scan=7")
    ('virtual:1000', 'imported:thorax')
    """
    name = str(patient)
    # The path of a CT file may have question marks.
    return name.partition("?")[0] if name.startswith((f"{VIRTUAL}:", f"{IMPORTED}:")) else split_scan(name)[0]


def check_separate(splits: Mapping[str, Iterable[PatientName]], trained_on: Collection[str] = TRAINED_ON) -> None:
    """Raises if a person is in a split that a model is trained on and in another split.

    Two splits that are only evaluated on may share people, as ``standard/test`` and ``poses/test`` do, but no patient.

    Args:
        splits: from the name of a split to the full names of its patients.
        trained_on: names of the splits that influence a model.

    Raises:
        SharedPersonError: a person, or a patient, is in two splits; the message names both patients.
    """
    names = {split: [str(patient) for patient in patients] for split, patients in splits.items()}
    for one, other in combinations(names, 2):
        identity = person_of if {one, other} & set(trained_on) else str
        first = {identity(name): name for name in reversed(names[one])}
        shared = [(first[identity(name)], name) for name in names[other] if identity(name) in first]
        if shared:
            shown = "; ".join(f"{mine} of {one} and {theirs} of {other}" for mine, theirs in shared[:_SHOWN])
            more = f"; and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
            raise SharedPersonError(
                f"the same person would be in two splits ({shown}{more}), expected each person in one: choose other "
                "patients for one of them."
            )


def held_out_reason(patient: PatientName) -> str | None:
    """Returns why a patient is reserved for tests; None if it may be trained on.

    A patient with another pose, other voxels or findings is the same person. Imported patients and CT files are not
    reserved.

    >>> held_out_reason("virtual:3000?arms=sides")
    'a person of standard/test and poses/test'
    >>> held_out_reason("virtual:0?warp=7")
    'bones of another family (warp), which are for tests only'
    >>> held_out_reason("virtual:1000")

    Raises:
        UnknownNameError: an option does not exist; the message names the nearest one.
    """
    if not str(patient).startswith(f"{VIRTUAL}:"):
        return None
    virtual = PatientRef.parse(patient).virtual
    if virtual is None:
        return None
    cohorts = [name for name, cohort in COHORTS.items() if virtual.seed in cohort.seeds.get("test", ())]
    if cohorts:
        return f"a person of {' and '.join(f'{name}/test' for name in cohorts)}"
    return "bones of another family (warp), which are for tests only" if virtual.parameters.warp else None


def check_trainable(patients: Iterable[PatientName], what: str) -> None:
    """Raises if a patient is reserved for tests.

    Args:
        patients: names of patients.
        what: what they are for, for the message: ``"--train"``.

    Raises:
        HeldOutPatientError: a patient is reserved for tests; the message says why.
    """
    reasons = {str(patient): reason for patient in patients if (reason := held_out_reason(patient))}
    if reasons:
        shown = "; ".join(f"{name} is {reason}" for name, reason in list(reasons.items())[:_SHOWN])
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        raise HeldOutPatientError(
            f"{what} names patients that are reserved for tests ({shown}{more}): choose others, such as standard/train "
            "or diverse/train."
        )
