import hashlib
import json

import numpy as np
import pytest

from carm_env.patient import CorruptPatientError, Patient, load_saved_patient, read_description, save_patient
from carm_env.system.files import file_hash
from carm_env.volume import Volume


@pytest.fixture
def patient():
    hu = np.full((40, 30, 60), -1000, np.int16)
    hu[8:32, 10:24, 5:55] = 40
    volume = Volume.from_origin(hu, 5.0, (-100, -50, 0))
    return Patient("test:1", volume, {1: np.array([0.0, 20, 200]), 14: np.array([10.0, 20, 100])}, {"origin": "test"})


def test_a_saved_patient_is_loaded_unchanged(patient, tmp_path):
    save_patient(patient, tmp_path / "p")
    again = load_saved_patient(tmp_path / "p")
    assert again.id == patient.id and dict(again.card) == patient.card
    np.testing.assert_array_equal(again.volume.hu, patient.volume.hu)
    np.testing.assert_array_equal(again.volume.affine_lps_mm, patient.volume.affine_lps_mm)
    assert again.landmarks_lps_mm.keys() == patient.landmarks_lps_mm.keys()
    for key, point in patient.landmarks_lps_mm.items():
        np.testing.assert_array_equal(again.landmarks_lps_mm[key], point)


@pytest.mark.parametrize(
    "damage", ["truncated", "flip", "no volume", "no description", "half description", "moved landmark"]
)
def test_a_damaged_patient_is_refused(patient, tmp_path, damage):
    folder = tmp_path / "p"
    save_patient(patient, folder)
    volume, description = folder / "volume.npy", folder / "patient.json"
    data = volume.read_bytes()
    if damage == "truncated":
        volume.write_bytes(data[:-100])
    elif damage == "flip":
        volume.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no volume":
        volume.unlink()
    elif damage == "no description":
        description.unlink()
    elif damage == "half description":
        description.write_text(description.read_text(encoding="utf-8")[:50], encoding="utf-8")
    else:
        value = json.loads(description.read_text(encoding="utf-8"))
        value["landmarks_lps_mm"]["1"] = [1.0, 2.0, 3.0]
        description.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(CorruptPatientError):
        load_saved_patient(folder)


def rewritten(folder, **changes):
    """Changes values of a saved patient and makes their hash right."""
    path = folder / "patient.json"
    value = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    del value["description_sha256"]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    path.write_text(
        json.dumps({**value, "description_sha256": hashlib.sha256(text.encode()).hexdigest()}), encoding="utf-8"
    )


DAMAGED_FILES = {
    "empty volume": ("volume.npy", b""),
    "flipped magic": ("volume.npy", lambda data: b"\x00" + data[1:]),
    "flipped header": ("volume.npy", lambda data: data.replace(b"'shape': (", b"'shape': ((")),
    "huge shape": ("volume.npy", lambda data: data.replace(b"(40, 30, 60)", b"(99999999999999999999, 30, 60)")),
    "other type": ("volume.npy", lambda data: data.replace(b"<i2", b"<f2")),
    "null bytes": ("volume.npy", lambda data: bytes(len(data))),
    "a zip": ("volume.npy", b"PK\x05\x06" + bytes(18)),
    "empty description": ("patient.json", b""),
    "nested arrays": ("patient.json", b"[" * 100_000),
    "nested objects": ("patient.json", b'{"a":' * 100_000),
    "not a mapping": ("patient.json", b"[1, 2]"),
    "not UTF-8": ("patient.json", b"\xff\xfe{}"),
    "a long number": ("patient.json", b'{"description_sha256": ' + b"9" * 5000 + b"}"),
}
WRONG_VALUES = {
    "NaN": {"landmarks_lps_mm": {"1": [float("nan"), 0, 0]}},
    "infinity": {"affine_lps_mm": [[float("inf"), 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]]},
    "400 digits": {"landmarks_lps_mm": {"1": [10**400, 0, 0]}},
    "two numbers": {"landmarks_lps_mm": {"1": [1.0, 2.0]}},
    "text": {"landmarks_lps_mm": {"1": "here"}},
    "unknown landmark": {"landmarks_lps_mm": {"99": [1.0, 2.0, 3.0]}},
    "list of landmarks": {"landmarks_lps_mm": [[1.0, 2.0, 3.0]]},
    "list as card": {"card": []},
    "number as id": {"id": 7},
    "null as affine": {"affine_lps_mm": None},
    "other format": {"format": 2},
    "no hash": {"volume_sha256": None},
}


@pytest.mark.parametrize("damage", [*DAMAGED_FILES, *WRONG_VALUES])
def test_any_damage_is_a_corrupt_patient(patient, tmp_path, damage):
    folder = tmp_path / "p"
    save_patient(patient, folder)
    if damage in WRONG_VALUES:
        rewritten(folder, **WRONG_VALUES[damage])
    else:
        name, change = DAMAGED_FILES[damage]
        before = (folder / name).read_bytes()
        after = change(before) if callable(change) else change
        assert after != before
        (folder / name).write_bytes(after)
    with pytest.raises(CorruptPatientError):
        load_saved_patient(folder)
    if damage != "no hash":
        with pytest.raises(CorruptPatientError):
            read_description(folder)


def test_a_pickle_is_not_loaded(patient, tmp_path):
    folder = tmp_path / "p"
    save_patient(patient, folder)
    np.save(folder / "volume.npy", np.array([1, "x"], object), allow_pickle=True)
    rewritten(folder, volume_sha256=file_hash(folder / "volume.npy"))
    with pytest.raises(CorruptPatientError, match="Python objects"):
        load_saved_patient(folder)


@pytest.mark.parametrize("read", [load_saved_patient, read_description])
def test_a_patient_that_is_replaced_while_it_is_read_is_read_again(patient, tmp_path, monkeypatch, read):
    folder, once = tmp_path / "p", iter([True])
    save_patient(patient, folder)
    other = Patient("test:2", Volume.from_origin(np.zeros((4, 5, 6), np.int16), 1.0, (0, 0, 0)), {})
    real = np.load

    def load(*arguments, **options):
        if next(once, False):
            save_patient(other, folder)
            (folder / "absent").open(encoding="utf-8")
        return real(*arguments, **options)

    monkeypatch.setattr(np, "load", load)
    assert read(folder).id == "test:2"


def test_a_full_disk_leaves_the_earlier_patient(patient, tmp_path, monkeypatch):
    folder = tmp_path / "p"
    save_patient(patient, folder)
    other = Patient("test:2", patient.volume, {})

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    for name in ("numpy.save", "os.fsync", "carm_env.patient.write_json"):
        with monkeypatch.context() as patches:
            patches.setattr(name, full)
            with pytest.raises(OSError, match=f"the disk is full: {folder} could not be written"):
                save_patient(other, folder)
        assert load_saved_patient(folder).id == "test:1" and list(tmp_path.iterdir()) == [folder]


def test_an_absent_patient_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_saved_patient(tmp_path / "absent")


def test_mid_depth_is_half_way_through_the_body(patient):
    assert patient.mid_depth_mm == pytest.approx((-50 + 10 * 5 + -50 + 23 * 5) / 2)


def test_the_workspace_contains_the_landmarks_and_is_inside_the_volume(patient):
    low, high = patient.workspace_mm
    first, last = patient.volume.corners_lps_mm
    assert (low >= first[[0, 2]]).all() and (high <= last[[0, 2]]).all()
    np.testing.assert_allclose(
        [low, high], [np.maximum([-145, 0], first[[0, 2]]), np.minimum([155, 300], last[[0, 2]])]
    )


def test_covers_is_true_over_the_body_only(patient):
    assert patient.covers(0, 150)
    assert not patient.covers(95, 150)
    assert not patient.covers(5000, 150)


def test_an_outline_says_the_same_as_its_patient(patient):
    outline = patient.outline()
    assert (outline.id, outline.fingerprint) == (patient.id, patient.fingerprint)
    assert outline.mid_depth_mm == patient.mid_depth_mm and outline.landmarks_lps_mm == patient.landmarks_lps_mm
    np.testing.assert_array_equal(outline.workspace_mm, patient.workspace_mm)
    np.testing.assert_array_equal(outline.corners_lps_mm, patient.volume.corners_lps_mm)
    points = [(x, z) for x in range(-150, 151, 30) for z in range(-30, 331, 30)]
    covered = [outline.covers(*point) for point in points]
    assert covered == [patient.covers(*point) for point in points] and 0 < sum(covered) < len(points)


def test_landmarks_with_bad_numbers_or_ids_are_refused(patient):
    with pytest.raises(ValueError, match="T1"):
        Patient("x", patient.volume, {10: np.array([0, np.nan, 0])})
    with pytest.raises(ValueError, match="landmark id"):
        Patient("x", patient.volume, {15: np.zeros(3)})


def test_the_workspace_of_one_landmark_has_the_least_size():
    volume = Volume.from_origin(np.zeros((100, 50, 200), np.int16), 4.0, (-200, 0, 0))
    low, high = Patient("a", volume, {10: np.array([0.0, 100, 400])}).workspace_mm
    np.testing.assert_allclose([low, high], [[-150, 250], [150, 550]])
    low, high = Patient("a", volume, {10: np.array([150.0, 100, 780])}).workspace_mm
    assert (high <= [196, 796]).all(), "inside the volume"
