import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from carm_env import patient_store as store
from carm_env.envs.navigation import CArmNavEnv
from carm_env.patient import Patient
from carm_env.patients.catalogue import expand_patients, load_patient
from carm_env.patients.reference import PatientRef
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume


@pytest.fixture(autouse=True)
def imported(monkeypatch, tmp_path):
    """A data folder with one imported patient called thorax."""
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    hu = np.full((20, 20, 40), -1000, np.int16)
    hu[4:16, 4:16] = 40
    volume = Volume.from_origin(hu, 10.0, (-100, -100, 0))
    store.save_imported(Patient("imported:thorax", volume, {10: np.array([0.0, 0, 300]), 11: np.array([0.0, 0, 200])}))


def test_an_imported_patient_is_found_with_and_without_its_kind():
    assert load_patient("thorax").id == load_patient("imported:thorax").id == "imported:thorax"
    assert PatientRef.parse("thorax") == PatientRef.parse("imported:thorax")
    assert PatientRef.parse("thorax").folder == store.imported_folder("thorax")


@pytest.mark.parametrize(
    "name", ["virtual:0", "virtual:3?weight_kg=80&arms=sides", "virtual:1?findings=pacemaker+pneumothorax:right"]
)
def test_a_reference_is_the_name_parsed_once(name):
    ref = PatientRef.parse(name)
    assert str(ref) == name and ref.kind == "virtual"
    assert PatientRef.parse(ref) is ref and PatientRef.parse(name) == ref and pickle.loads(pickle.dumps(ref)) == ref
    # A virtual patient is built from these two.
    assert type(ref.virtual)(ref.virtual.seed, **ref.virtual.given) == ref.virtual


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("virtual:6?anatomy=5", "virtual:6"),
        ("virtual:6?arms=sides&anatomy=5&findings=pacemaker", "virtual:6?arms=sides&findings=pacemaker"),
        ("virtual:6?anatomy=5&scan=3", "virtual:6?scan=3"),
    ],
)
def test_a_full_name_omits_the_version_of_the_anatomy(name, full):
    assert PatientRef.parse(name) == PatientRef.parse(full)
    assert str(PatientRef.parse(name)) == full
    assert PatientRef.parse(name).folder == PatientRef.parse(full).folder
    assert expand_patients("standard/test?anatomy=5") == expand_patients("standard/test")


@pytest.mark.parametrize("version", ["4", "6", "", "five"])
def test_another_version_of_the_anatomy_is_refused(version):
    with pytest.raises(ValueError, match=f"anatomy is '{version}', but this version of carm-env builds anatomy 5 only"):
        PatientRef.parse(f"virtual:6?anatomy={version}")


def test_references_and_names_are_exchangeable():
    refs = PatientRef.expand(["thorax", "standard/test"])
    assert expand_patients(refs) == expand_patients(["thorax", "standard/test"])
    assert load_patient(refs[0]).id == "imported:thorax"


def test_a_removed_patient_is_unknown():
    ref = PatientRef.parse("thorax")
    edition = ref.edition
    store.remove_imported("thorax")
    assert ref.edition != edition
    with pytest.raises(UnknownNameError, match="unknown imported patient 'thorax'"):
        ref.load()


def test_cohorts_and_patients_become_names():
    assert len(expand_patients("standard/train")) == 50
    assert expand_patients("virtual:0") == ("virtual:0",)
    assert expand_patients(["thorax", "standard/test", "virtual:3000"]) == (
        "imported:thorax",
        *(f"virtual:{seed}" for seed in range(3000, 3010)),
    )
    assert expand_patients("standard/test?arms=sides")[1] == "virtual:3001?arms=sides"


def test_a_path_is_a_patient(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(b"")
    assert expand_patients(path) == (str(path),)
    ref = PatientRef.parse(str(path))
    assert (ref.kind, ref.name, ref.path) == ("file", str(path), path)
    with pytest.raises(ValueError, match="import it first"):
        _ = ref.folder
    assert PatientRef.parse(Path("virtual:0")) == PatientRef.parse("virtual:0")


@pytest.mark.parametrize(
    ("patients", "message"),
    [
        ("torax", "Did you mean 'thorax'"),
        ("imported:torax", "Did you mean 'thorax'"),
        ("standard/tset", "Did you mean 'test'"),
        ("standart/test", "Did you mean 'standard/test'"),
        ("standard/test?arm=sides", "Did you mean 'arms'"),
        (["virtual:0", "virtual:x"], "expected a whole number"),
        ("virtual:0?age=old", "age is 'old', expected a number"),
        ("virtual:0?table=yes", "table is 'yes', expected true or false"),
        ("virtual:0?age=40&age=41", "age is given twice"),
        ([], "patients is empty"),
        ([3], "patient is 3"),
        ("", "patient is '', expected a name"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(patients, message):
    with pytest.raises(ValueError, match=message):
        expand_patients(patients)


def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        expand_patients(tmp_path / "absent.nii")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="not a CT that can be read"):
        expand_patients(tmp_path / "notes.txt")


def test_a_cohort_is_not_one_patient():
    with pytest.raises(ValueError, match=r"names a cohort, expected one patient, e\.g\. 'virtual:3000'"):
        load_patient("standard/test")


def test_gym_makes_an_environment_of_a_split_without_building_anyone(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "cache"))
    env = gym.make("CArmNav-v0", patients="standard/train")
    assert len(env.unwrapped.patients) == 50
    many = gym.make_vec("CArmNav-v0", num_envs=2, patients=["standard/test", "thorax"])
    assert [len(patients) for patients in many.get_attr("patients")] == [11, 11]
    assert not (tmp_path / "cache").exists()


def test_environments_take_the_same_names():
    env = CArmNavEnv(patients=["thorax", "standard/test"], image_size=16)
    assert env.patients[:2] == ("imported:thorax", "virtual:3000")
    _, info = env.reset(seed=0, options={"patient": "thorax"})
    assert info["patient"] == "imported:thorax" and env.episode.patient == "imported:thorax"
    with pytest.raises(UnknownNameError, match="Did you mean 'thorax'"):
        env.reset(options={"patient": "torax"})
