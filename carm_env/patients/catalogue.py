"""Patients by name; see `carm_env.patients.reference` for the names."""

from __future__ import annotations

from collections.abc import Iterable

from carm_env.patient import Patient
from carm_env.patient_outline import PatientOutline
from carm_env.patients.reference import PatientName, PatientRef


def load_patient(patient: PatientName) -> Patient:
    """Loads a patient by name; a virtual patient that is not in the cache is built.

    Raises:
        UnknownNameError: no patient, or no option, has that name; the message names the nearest one.
        ValueError: an option has a bad value, or the name is a cohort's, which has many patients.
        FileNotFoundError: the file does not exist.
    """
    return PatientRef.parse(patient).load()


def load_outlines(patients: Iterable[str]) -> dict[str, PatientOutline]:
    """Returns the outlines of patients by name; one patient at a time is in memory. For errors see `load_patient`."""
    return {name: load_patient(name).outline() for name in patients}


def expand_patients(patients: PatientName | Iterable[PatientName]) -> tuple[str, ...]:
    """Returns the full names of all patients that `patients` names, in order and without duplicates.

    See `carm_env.patients.reference.PatientRef.expand` for arguments and errors. Nothing is loaded or built.

    >>> expand_patients(["virtual:0", "standard/test"])[:3]
    ('virtual:0', 'virtual:3000', 'virtual:3001')
    """
    return tuple(str(ref) for ref in PatientRef.expand(patients))
