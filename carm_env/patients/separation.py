"""Keeps test patients out of training: the people of every test split, and all bones of other families."""

from __future__ import annotations

from collections.abc import Iterable

from carm_env.patient_store import VIRTUAL
from carm_env.patients.cohorts import COHORTS
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.system.errors import CArmEnvError

TRAINED_ON = ("train", "calibration")
"""Names of splits that influence a model."""

_SHOWN = 3


class HeldOutPatientError(CArmEnvError, ValueError):
    """A patient is reserved for tests."""


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
