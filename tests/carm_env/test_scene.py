import numpy as np

from carm_env.geometry import CArmGeometry
from carm_env.scene import _SceneStore, load_scene
from carm_env.xray.settings import XRaySettings


def test_scenes_of_one_patient_share_volume_and_projector():
    plain = load_scene("virtual:0")
    assert load_scene("virtual:0") is plain
    faint = load_scene("virtual:0", settings=XRaySettings(mas=0.01, kvp=70.0))
    assert faint is not plain
    assert faint.patient is plain.patient
    assert faint.camera.projector is plain.camera.projector
    reference = load_scene("virtual:0", settings=XRaySettings(fidelity="reference"))
    assert reference.patient is plain.patient
    assert type(reference.camera.projector) is not type(plain.camera.projector)


def test_an_outside_renderer_is_shared_by_its_beam(monkeypatch):
    class Outside:
        def log_image(self, geometry):
            return np.zeros((geometry.height, geometry.width), np.float32)

    monkeypatch.setattr("carm_env.xray.camera.make_backend", lambda volume, settings: Outside())
    store, arm = _SceneStore(capacity=3), CArmGeometry()
    first, faint = (store.get("virtual:0", arm, XRaySettings(mas=mas)) for mas in (0.5, 0.1))
    assert faint.camera.projector is first.camera.projector
    harder = store.get("virtual:0", arm, XRaySettings(kvp=70.0))
    assert harder.camera.projector is not first.camera.projector
