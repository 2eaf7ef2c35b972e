from carm_env.scene import load_scene
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
