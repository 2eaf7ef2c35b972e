"""Patients that the tests of the package share."""

from __future__ import annotations

import pytest

from carm_env.anatomy.assembly import Anatomy, build_anatomy
from carm_env.anatomy.build import as_patient
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.population import VirtualPatient
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import Skeleton
from carm_env.patient import Patient


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    """The average patient without the table, with degeneration 0, and its structures."""
    return build_anatomy(PatientParameters())


@pytest.fixture(scope="session")
def patient(anatomy: Anatomy) -> Patient:
    return as_patient(VirtualPatient(table=False), anatomy)


@pytest.fixture(scope="session")
def body(anatomy: Anatomy) -> Body:
    """The posed skeleton of the average patient."""
    return anatomy.body


@pytest.fixture(scope="session")
def skeleton() -> Skeleton:
    """A skeleton to reuse; its pose is undefined."""
    return Skeleton()


@pytest.fixture(scope="session")
def patient_with_arms_at_sides() -> Patient:
    virtual = VirtualPatient(arms="sides", table=False)
    return as_patient(virtual, build_anatomy(virtual.parameters))
