import pickle
import sys

import numpy as np
import pytest

from carm_env.envs import scene as scenes
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.scene import _SceneStore, load_scene, scene_budget
from carm_env.geometry import CArmGeometry, CArmPose
from carm_env.patient import Patient
from carm_env.patient_store import save_imported
from carm_env.patients.reference import PatientRef
from carm_env.volume import Volume
from carm_env.xray.protocols import Renderer
from carm_env.xray.settings import XRaySettings

ARM = CArmGeometry()


def test_scenes_of_one_patient_share_volume_and_projector():
    plain = load_scene("virtual:0")
    assert load_scene("virtual:0") is plain
    faint = load_scene("virtual:0", settings=XRaySettings(mas=0.01, kvp=70.0))
    assert faint is not plain
    assert faint.patient is plain.patient
    assert faint.camera.renderer.memory_owner is plain.camera.renderer.memory_owner
    reference = load_scene("virtual:0", settings=XRaySettings(fidelity="reference"))
    assert reference.patient is plain.patient
    assert reference.camera.renderer.memory_owner is not plain.camera.renderer.memory_owner


def test_external_renderers_are_shared_by_scenes_with_the_same_beam(monkeypatch):
    class Outside(Renderer):
        def __init__(self, volume, beam):
            self.beam = beam

        def with_settings(self, settings):
            return self if settings.beam is self.beam else None

    monkeypatch.setattr("carm_env.xray.deepdrr.DeepDRRRenderer", Outside)
    store = _SceneStore()
    first, faint = (store.get("virtual:0", ARM, XRaySettings(backend="deepdrr", mas=mas)) for mas in (0.5, 0.1))
    assert faint.camera.renderer is first.camera.renderer
    harder = store.get("virtual:0", ARM, XRaySettings(backend="deepdrr", kvp=70.0))
    assert harder.camera.renderer is not first.camera.renderer


@pytest.fixture
def loads(monkeypatch):
    """Patients of 1 MB; the names loaded, in order."""
    names = []

    def load(name):
        names.append(str(name))
        hu = np.full((100, 50, 100), 40, np.int16)
        return Patient(str(name), Volume.from_origin(hu, 4.0, (0, 0, 0)), {})

    monkeypatch.setattr(scenes, "load_patient", load)
    return names


def visit(store, *seeds):
    return [store.get(f"virtual:{seed}", ARM, XRaySettings()) for seed in seeds]


def test_all_scenes_stay_if_there_is_room(loads, monkeypatch):
    monkeypatch.setattr(scenes, "available_bytes", lambda: 2_000_000_000)
    store = _SceneStore()
    visit(store, *range(50), *range(50))
    assert len(loads) == 50


def test_the_scenes_used_last_stay_if_there_is_little_room(loads, monkeypatch):
    one = _SceneStore()
    visit(one, 0)
    monkeypatch.setenv("CARM_ENV_SCENE_MB", str(3.5 * one.nbytes() / 1e6))
    store = _SceneStore()
    visit(store, 0, 1, 2, 0, 3)
    loads.clear()
    visit(store, 0, 2, 3)
    assert loads == []
    visit(store, 1)
    assert loads == ["virtual:1"]
    assert store.nbytes() <= 3.5 * one.nbytes()


def test_two_scenes_stay_without_any_memory(loads, monkeypatch):
    monkeypatch.setattr(scenes, "available_bytes", lambda: 0)
    store = _SceneStore()
    visit(store, 0, 1, 0, 1)
    assert len(loads) == 2
    visit(store, 2, 0)
    assert len(loads) == 4


def test_what_a_projector_holds_is_counted(loads):
    store = _SceneStore()
    (scene,) = visit(store, 0)
    expected = store.nbytes()
    scene.camera.image(CArmPose((200.0, 100.0, 200.0)), 64)
    assert store.nbytes() == expected, "a volume without air: the layout is as large as expected"
    scene.camera.image(CArmPose((200.0, 100.0, 200.0), alpha_deg=90.0), 64)
    assert store.nbytes() > 1.5 * expected


def test_a_replaced_import_is_loaded_again(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path))
    volume = Volume.from_origin(np.full((20, 20, 20), 40, np.int16), 10.0, (0, 0, 0))
    save_imported(Patient("imported:p", volume, {}))
    first = load_scene("p")
    assert load_scene("imported:p") is first
    save_imported(Patient("imported:p", volume, {11: np.ones(3)}), replace=True)
    assert list(load_scene("p").patient.landmarks_lps_mm) == [11]


@pytest.fixture
def read_hu(monkeypatch):
    """CT files hold one number, the HU of the whole volume."""
    monkeypatch.setattr(scenes, "_store", _SceneStore())

    def load_ct(path):
        hu = np.full((20, 20, 20), int(path.read_text(encoding="utf-8")), np.int16)
        return Patient("ct:0", Volume.from_origin(hu, 10.0, (0, 0, 0)), {})

    monkeypatch.setattr("carm_env.ct.importer.load_ct", load_ct)
    return lambda name: int(load_scene(name).patient.volume.hu.max())


def test_a_relative_path_names_the_file_of_the_working_folder(read_hu, monkeypatch, tmp_path):
    for number in (1000, 2500):
        (tmp_path / f"p{number}").mkdir()
        (tmp_path / f"p{number}" / "ct.nii").write_text(f"{number}", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "p1000")
    ref = PatientRef.parse("ct.nii")
    assert read_hu("ct.nii") == 1000
    monkeypatch.chdir(tmp_path / "p2500")
    assert read_hu("ct.nii") == 2500 and read_hu(ref) == 1000
    assert str(ref) == str(PatientRef.parse("ct.nii")) == "ct.nii" and ref != PatientRef.parse("ct.nii")


def test_an_overwritten_file_is_loaded_again_and_forgotten(read_hu, tmp_path):
    path = tmp_path / "ct.nii"
    for number in (1000, 2500, 1234):
        path.write_text(f"{number}", encoding="utf-8")
        assert read_hu(path) == number
        first = load_scene(path)
        assert load_scene(path) is first
        assert len(scenes._store._scenes) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_a_link_names_the_file_that_it_points_to_now(read_hu, tmp_path):
    link = tmp_path / "ct.nii"
    for number in (1000, 2500):
        (tmp_path / f"{number}").write_text(f"{number}", encoding="utf-8")
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"{number}")
        assert read_hu(link) == number


def test_an_environment_keeps_the_file_it_was_made_with(read_hu, monkeypatch, tmp_path, small_patient):
    (tmp_path / "ct.nii").touch()
    monkeypatch.setattr("carm_env.ct.importer.load_ct", lambda path: small_patient(f"ct:{path.parent.name}", 0))
    monkeypatch.chdir(tmp_path)
    env = CArmNavEnv(patients="ct.nii", image_size=16)
    monkeypatch.chdir("/")
    env.reset(seed=0)
    again = pickle.loads(pickle.dumps(env))
    assert again.scene.patient.id == f"ct:{tmp_path.name}" and again.step(3)[0]["image"].any()


def test_the_budget_is_half_of_the_free_and_occupied_memory(monkeypatch):
    monkeypatch.setattr(scenes, "available_bytes", lambda: 6_000_000_000)
    assert scene_budget(2_000_000_000) == 4_000_000_000
    monkeypatch.setenv("CARM_ENV_SCENE_MB", "250")
    assert scene_budget(2_000_000_000) == 250_000_000
    monkeypatch.setenv("CARM_ENV_SCENE_MB", "much")
    with pytest.raises(ValueError, match="CARM_ENV_SCENE_MB is 'much'"):
        scene_budget(0)
