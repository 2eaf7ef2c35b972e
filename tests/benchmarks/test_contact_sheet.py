import numpy as np
import pytest
from PIL import Image

from benchmarks import contact_sheet
from benchmarks._support.sample_views import VIEWS
from carm_env.system.command_line import run_script


def script(*words):
    return run_script(contact_sheet.run, contact_sheet.Arguments, given=[str(word) for word in words])


def test_the_sheet_holds_every_view(tmp_path):
    out = tmp_path / "sheet.png"
    assert script("--size", 64, "--out", out) == 0
    sheet = np.asarray(Image.open(out))
    rows = -(-len(VIEWS) // 4)
    assert sheet.shape == (rows * (64 + 22), 4 * 64)
    tiles = [sheet[r * 86 + 22 : (r + 1) * 86, c * 64 : (c + 1) * 64] for r in range(rows) for c in range(4)]
    assert all(tile.std() > 10 for tile in tiles[: len(VIEWS)])


def test_the_sheet_of_randomised_views(small_patients, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "DOMAIN_PATIENTS", small_patients[:2])
    out = tmp_path / "sheet.png"
    assert script("--domain", "--size", 48, "--out", out) == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (48 + 22), 4 * 48)
    assert len({sheet[22:70, c * 48 : (c + 1) * 48].tobytes() for c in range(4)}) == 4
    with pytest.raises(SystemExit):
        script("--domain", "--findings", "--out", out)


def test_views_of_absent_landmarks_are_omitted(small_patients, tmp_path, capsys):
    from carm_env import patient_store as store
    from carm_env.envs.scene import load_scene
    from carm_env.patient import Patient

    volume = load_scene(small_patients[0]).patient.volume
    store.save_imported(Patient("imported:few", volume, {10: (200.0, 90.0, 300.0)}))
    store.save_imported(Patient("imported:bare", volume, {}))
    out = tmp_path / "sheet.png"
    assert script("--patient", "few", "--size", 32, "--out", out) == 0
    assert np.asarray(Image.open(out)).shape == (32 + 22, 4 * 32)
    assert script("--patient", "bare", "--size", 32, "--out", out) == 2
    assert "none of the landmarks" in capsys.readouterr().err


def test_the_sheet_of_families_shows_a_patient_of_each_split(small_patients, tmp_path, monkeypatch):
    for split, numbers in contact_sheet.FAMILIES.items():
        assert max(numbers) < len(contact_sheet.cohort_patients(split))
    monkeypatch.setattr(contact_sheet, "FAMILIES", {"standard/test": (0,), "poses/test": (0, 1)})
    monkeypatch.setattr(contact_sheet, "cohort_patients", lambda split: small_patients)
    out = tmp_path / "sheet.png"
    assert script("--families", "--out", out) == 0
    width, height = contact_sheet.FAMILY_TILE
    assert np.asarray(Image.open(out)).shape == (height + 22, 4 * width)
    with pytest.raises(ValueError, match="--findings and --families were both given"):
        contact_sheet.Arguments(out, findings=True, families=True)


def test_the_sheet_of_bones_shows_each_view_of_the_patient(small_patients, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "BONE_VIEWS", VIEWS[4:5])
    out = tmp_path / "sheet.png"
    assert script("--bones", "--patient", small_patients[0], "--size", 32, "--out", out) == 0
    assert np.asarray(Image.open(out)).shape == (32 + 22, 4 * 32)


def test_the_sheet_of_organs_shows_each_patient(small_patients, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ORGAN_VIEWS", ((small_patients[0], VIEWS[0]), (small_patients[1], VIEWS[1])))
    out = tmp_path / "sheet.png"
    assert script("--organs", "--size", 32, "--out", out) == 0
    assert np.asarray(Image.open(out)).shape == (32 + 22, 4 * 32)
