"""Shifts of suites: what they change, what they keep, and what they refuse."""

import numpy as np
import pytest

from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.episodes import make_suite_environment
from carm_env.evaluation.shifts import SEVERITIES, SHIFTS, Change, Shift, ShiftError, patient_names, shifted_suite
from carm_env.evaluation.suite import Suite, load_suite, suite_names
from carm_env.patient import Patient
from carm_env.patients.catalogue import load_patient
from carm_env.patients.reference import PatientRef
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume


def suite_on(patient, **changes):
    episodes = (EpisodeSpec(patient, 1, 4), EpisodeSpec(patient, 4, 1))
    return Suite(**{"name": "s", "version": 1, "description": "d", "max_steps": 5, "episodes": episodes, **changes})


@pytest.mark.parametrize("name", SHIFTS)
def test_every_severity_makes_an_environment_and_names_patients(name):
    assert len(SHIFTS[name]) == len(SEVERITIES)
    suite = load_suite("smoke")
    seen = []
    for severity in SEVERITIES:
        shift = Shift(name, severity)
        assert Shift.parse(str(shift)) == (shift,)
        names = patient_names(suite, shift)
        assert all(str(PatientRef.parse(new)) != old for old, new in names.items()) == shift.change.renames
        for new in names.values():
            PatientRef.parse(new)
        make_suite_environment(Suite("s", 1, "d", 5, suite.episodes, shift.change.environment))
        seen.append((tuple(names.values()), str(shift.change.environment)))
    assert len(set(seen)) == len(SEVERITIES)


@pytest.mark.parametrize("name", [name for name, changes in SHIFTS.items() if changes[0].patient])
def test_the_patients_of_every_suite_can_be_built_under_every_shift(name):
    # A fixed weight was too much for the shortest patients of a suite.
    for suite in map(load_suite, suite_names()):
        for severity in SEVERITIES:
            for patient in patient_names(suite, Shift(name, severity)).values():
                virtual = PatientRef.parse(patient).virtual
                assert virtual is not None and virtual.parameters.seed == virtual.seed


@pytest.mark.parametrize("name", ["virtual:1?weight_kg=48", "virtual:1?bmi=48"])
def test_a_weight_that_was_given_is_not_set_again(name):
    for shift in ("obese:1", "child_sized:1"):
        with pytest.raises(ShiftError, match="has the option (weight_kg|bmi), but the shift sets"):
            Shift.parse(shift)[0].change.patient_name(name)


def test_the_documentation_lists_every_shift():
    import carm_env.evaluation.shifts as module

    listed = [row.split("|")[1] for row in module.__doc__.splitlines() if row.startswith("| ``")]
    assert [name for row in listed for name in row.replace("`", "").replace(",", "").split()] == list(SHIFTS)


def test_a_shift_of_the_x_ray_system_keeps_patients_and_episodes(small_patients):
    patient = small_patients[0]
    suite = suite_on(patient, environment={"xray": {"kvp": 80.0}})
    patients = {patient: load_patient(patient)}
    found, left_out = shifted_suite(suite, Shift("collimation", 2), patients)
    assert (found.name, found.version, left_out) == ("s-collimation-2", 1, {})
    assert found.episodes == suite.episodes and found.hash != suite.hash
    assert found.environment == {"xray": {"kvp": 80.0, "collimation": 0.8}}
    assert Suite.from_json(found.to_json(), "x") == found


def test_a_shift_of_the_scan_keeps_targets_and_relative_starts(small_patients):
    patient = small_patients[0]
    before = load_patient(patient)
    low, high = before.workspace_mm
    middle = tuple(np.round((low + high) / 2, 1).tolist())
    suite = suite_on(patient, episodes=(EpisodeSpec(patient, 1, 4), EpisodeSpec(patient, 2, middle)))
    shift = Shift("askew", 3)
    (name,) = patient_names(suite, shift).values()
    patients = {patient: before, name: load_patient(name)}
    found, left_out = shifted_suite(suite, shift, patients)
    assert left_out == {} and [episode.patient for episode in found.episodes] == [name, name]
    assert [episode.target for episode in found.episodes] == [1, 2] and found.episodes[0].start == 4
    new_low, new_high = patients[name].workspace_mm
    np.testing.assert_allclose(found.episodes[1].start, (new_low + new_high) / 2, atol=0.2)


def test_a_start_beside_the_body_moves_onto_it(small_patients):
    patient = small_patients[0]
    before = load_patient(patient)
    low, _ = before.workspace_mm
    suite = suite_on(patient, episodes=(EpisodeSpec(patient, 1, tuple(low.tolist())),))
    shift = Shift("rolled", 1)
    (name,) = patient_names(suite, shift).values()
    goal = before.landmarks_lps_mm[1]
    hu = np.full_like(before.volume.hu, -1000)
    column = np.rint(before.volume.index_from_lps(goal[None])[0]).astype(int)
    hu[column[0] - 3 : column[0] + 4] = 0
    after = Patient(name, Volume(hu, before.volume.affine_lps_mm), before.landmarks_lps_mm)
    found, _ = shifted_suite(suite, shift, {patient: before, name: after})
    start = found.episodes[0].start
    assert not after.covers(*low) and after.covers(*start)
    assert np.linalg.norm(np.array(start) - goal[[0, 2]]) < np.linalg.norm(low - goal[[0, 2]])


def test_episodes_without_their_landmark_are_left_out(small_patients):
    patient = small_patients[0]
    before = load_patient(patient)
    shift = Shift("couch", 1)
    suite = suite_on(patient)
    (name,) = patient_names(suite, shift).values()
    points = {key: point for key, point in before.landmarks_lps_mm.items() if key != 4}
    patients = {patient: before, name: Patient(name, before.volume, points)}
    with pytest.raises(ShiftError, match=r"leaves no episode of the suite s: .* lacks the target"):
        shifted_suite(suite, shift, patients)
    longer = suite_on(patient, episodes=(*suite.episodes, EpisodeSpec(patient, 2, 1)))
    found, left_out = shifted_suite(longer, shift, patients)
    assert [episode.target for episode in found.episodes] == [2] and list(left_out) == [0, 1]


def test_wrong_shifts_are_refused():
    with pytest.raises(UnknownNameError, match="collimation"):
        Shift.parse("colimation:2")
    for text in ("blur:4", "blur:", "blur:x"):
        with pytest.raises(ShiftError, match="expected 1, 2 or 3, as in blur:2"):
            Shift.parse(text)
    assert len(Shift.parse("all")) == 3 * len(SHIFTS)
    with pytest.raises(ShiftError, match="has the option arms, but the shift sets arms"):
        Change(patient={"arms": "sides"}).patient_name("virtual:3?arms=raised")
    with pytest.raises(ShiftError, match="has a scan already"):
        Change(scan={"slice_mm": "3"}).patient_name("virtual:3?scan=7")


def test_a_real_ct_has_no_options(monkeypatch):
    monkeypatch.setattr("carm_env.patients.reference.imported_names", lambda: ["ct"])
    with pytest.raises(ShiftError, match="'ct' is no virtual patient, and the shift sets arms"):
        Change(patient={"arms": "sides"}).patient_name("ct")
    assert Change(scan={"slice_mm": "3"}).patient_name("ct") == "ct?scan=slice_mm:3"
