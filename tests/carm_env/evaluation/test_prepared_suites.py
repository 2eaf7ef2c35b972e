"""Suites with their shifts and patients, ready to run."""

import weakref

import pytest

from carm_env import patient_store as store
from carm_env.evaluation.prepared_suites import prepare_suites
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.shifts import Shift, patient_names, shifted_suite
from carm_env.patient import Patient
from carm_env.patients.catalogue import load_patient
from carm_env.patients.reference import PatientRef

SHIFTS = *Shift.parse("askew"), Shift("collimation", 1), Shift("truncated", 3)


@pytest.fixture
def loads(monkeypatch):
    """The name of every patient that is loaded, with the number of others that are still in memory."""
    found, patients, load = [], weakref.WeakSet(), PatientRef.load

    def recorded(ref, **options):
        found.append((str(ref), len(patients)))
        patient = load(ref, **options)
        patients.add(patient)
        return patient

    monkeypatch.setattr(PatientRef, "load", recorded)
    return found


def test_each_patient_is_loaded_once_and_one_at_a_time_is_in_memory(small_patients, loads):
    prepared = prepare_suites(["uniform", "smoke"], small_patients, SHIFTS, 1)
    assert len(loads) == len(prepared.patients) == 4 * 5
    assert {name for name, _ in loads} == {str(PatientRef.parse(name)) for name in prepared.patients}
    assert not any(others for _, others in loads)
    outline = prepared.patients[small_patients[0]]
    assert outline.silhouette.mask.nbytes < load_patient(small_patients[0]).volume.hu.nbytes / 100


def test_outlines_give_the_suites_of_whole_patients(small_patients, small_patient):
    bare = small_patient("imported:bare", 9)
    points = {key: point for key, point in bare.landmarks_lps_mm.items() if key in (1, 10)}
    store.save_imported(Patient("imported:bare", bare.volume, points))
    names = [*small_patients[:2], "imported:bare"]
    prepared = prepare_suites(["smoke"], names, SHIFTS, 1)

    patients = {name: load_patient(name) for name in names}
    clean, _ = suite_on("smoke", patients)
    assert prepared.suites[0] == clean
    for shift, suite in zip(SHIFTS, prepared.suites[1:], strict=True):
        shifted = {name: load_patient(name) for name in patient_names(clean, shift).values()}
        expected, left_out = shifted_suite(clean, shift, {**patients, **shifted})
        assert (suite, suite.hash) == (expected, expected.hash)
        assert prepared.kept[suite.name] == [n for n in range(len(clean.episodes)) if n not in left_out]
    assert len(prepared.kept["smoke-custom-truncated-3"]) < len(clean.episodes)
    fingerprints = {name: outline.fingerprint for name, outline in prepared.patients.items()}
    assert fingerprints == {name: load_patient(name).fingerprint for name in prepared.patients}
