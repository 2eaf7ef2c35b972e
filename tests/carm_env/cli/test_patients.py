"""``carm-env patients`` from end to end, with a builder of very small patients."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from carm_env import patient_store as store
from carm_env.anatomy import build
from carm_env.cli import main
from carm_env.patient import Patient, load_saved_patient, save_patient
from carm_env.patients import cohorts
from carm_env.patients.reference import PatientRef
from carm_env.system.files import content_hash
from carm_env.volume import Volume


def tiny_volume(hu: int = 40) -> Volume:
    values = np.full((24, 16, 40), -1000, np.int16)
    values[4:20, 4:12] = hu
    return Volume.from_origin(values, 20.0, (-230, -150, 0))


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Empty folders for cache and data, and a builder that counts its calls."""
    calls = []

    def fake(parameters):
        calls.append(parameters.seed)
        points = {key: np.array([10.0 * key - 70, 0.0, 40.0 * key]) for key in range(1, 15)}
        made_of = {
            "seed": parameters.seed,
            "fat_mm": 10.0 + parameters.seed % 7,
            "arms": "crossed",
            "layout": [1.0, 2.0],
        }
        card = {"parameters": made_of, "anatomy_version": build.ANATOMY_VERSION, "person": {"age": 40.5}}
        return Patient(build.patient_id(parameters), tiny_volume(parameters.seed % 1000), points, card)

    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(build, "build_patient", fake)
    return calls


def _folder(name):
    return PatientRef.parse(name).folder


BUILD = ["patients", "build", "--cohort", "standard", "--workers", "1"]


def manifest_of(tmp_path):
    return json.loads((tmp_path / "cache" / "cohorts" / "standard" / "manifest.json").read_text(encoding="utf-8"))


def test_a_cohort_is_built_described_and_verified(builds, tmp_path, capsys):
    assert main([*BUILD, "--patients", "4"]) == 0
    assert builds == [1000, 1001, 2000, 3000]
    manifest = manifest_of(tmp_path)
    assert manifest["built"] == {"train": 2, "calibration": 1, "test": 1}
    first = manifest["patients"][0]
    assert (first["name"], first["split"], first["shape"]) == ("virtual:1000", "train", [24, 16, 40])
    assert first["parameters"]["seed"] == 1000 and len(first["volume_sha256"]) == 64
    assert first["landmarks_lps_mm"]["carina"] == [40.0, 0.0, 440.0]
    card = (tmp_path / "cache" / "cohorts" / "standard" / "README.md").read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "mit"
    assert "2 of 50 train, 1 of 10 calibration" in text and "Research use only" in text
    assert "| age | 40.5 ± 0 (40.5 to 40.5)" in text and "| fat_mm |" in text and "layout |" not in text
    assert main(["patients", "verify"]) == 0
    assert "no differences" in capsys.readouterr().out


def test_patients_that_exist_are_not_built_again(builds, tmp_path, capsys):
    main([*BUILD, "--patients", "3"])
    builds.clear()
    main([*BUILD, "--patients", "4"])
    assert builds == [1001]
    assert "4, 1 to build" in capsys.readouterr().out
    assert manifest_of(tmp_path)["built"] == {"train": 2, "calibration": 1, "test": 1}


def test_an_interrupted_build_is_continued(builds, monkeypatch, tmp_path, capsys):
    fake = build.build_patient

    def stop_at_the_third(parameters):
        if parameters.seed == 2000:
            raise KeyboardInterrupt
        return fake(parameters)

    monkeypatch.setattr(build, "build_patient", stop_at_the_third)
    assert main([*BUILD, "--patients", "4"]) == 130
    assert "Interrupted: finished patients are kept" in capsys.readouterr().out
    assert manifest_of(tmp_path)["built"] == {"train": 2, "calibration": 0, "test": 0}
    monkeypatch.setattr(build, "build_patient", fake)
    builds.clear()
    assert main([*BUILD, "--patients", "4"]) == 0
    assert builds == [2000, 3000]


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("name", ["volume.npy", "patient.json"])
def test_damaged_patients_are_listed_and_break_no_command(builds, tmp_path, capsys, name, data):
    main([*BUILD, "--patients", "3"])
    folder = store.save_imported(Patient("imported:thorax", tiny_volume(), {}))
    store.save_imported(Patient("imported:whole", tiny_volume(), {}))
    damaged = _folder("virtual:2000")
    for damaged_folder in (folder, damaged):
        (damaged_folder / name).write_bytes(data)
    capsys.readouterr()
    assert main(["patients"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"imported:thorax +damaged", output) and re.search(rf"{damaged.name} +damaged", output)
    assert re.search(r"imported:whole +imported", output) and re.search(r"virtual:1000 +virtual", output)
    assert "2 patient(s) are damaged" in output and "built again when it is used" in output
    assert "Import imported:thorax again with `carm-env import CT --name NAME --replace`" in output
    assert main(["patients", "verify"]) == 1
    assert "virtual:2000: damaged" in capsys.readouterr().out
    assert main(["patients", "card", "thorax"]) == 2
    assert "carm-env patients remove thorax" in capsys.readouterr().err
    # Builds only the first patient: the damaged one is left out of the manifest.
    assert main([*BUILD, "--patients", "1"]) == 0
    assert "virtual:2000 is damaged and left out of the manifest" in capsys.readouterr().err
    assert [entry["name"] for entry in manifest_of(tmp_path)["patients"]] == ["virtual:1000", "virtual:3000"]
    assert main(["patients", "remove", "thorax"]) == 0 and not folder.exists()
    builds.clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert main([*BUILD, "--patients", "3"]) == 0
    assert builds == [2000] and main(["patients", "verify"]) == 0


DAMAGED_MANIFESTS = ["", "[" * 100_000, "[]", "null", '{"manifest_sha256": 1}', "\udcff"]
WRONG_MANIFESTS = [
    {"patients": 3}, {"patients": [3]}, {"patients": [{}]}, {"patients": [{"name": 1, "split": "train"}]},
    {"patients": [{"name": "virtual:x", "split": "train"}]}, {"patients": [{"name": "imported:x", "split": "train"}]},
    {"patients": [{"name": "virtual:0?a=b", "split": "train"}]}, {"cohort": []}, {"format": "x"}, {"version": None},
]  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGED_MANIFESTS, *WRONG_MANIFESTS], ids=str)
def test_a_damaged_manifest_is_one_sentence_or_a_difference(builds, tmp_path, capsys, damage):
    main([*BUILD, "--patients", "1"])
    path = tmp_path / "cache" / "cohorts" / "standard" / "manifest.json"
    if isinstance(damage, str):
        path.write_text(damage, encoding="utf-8", errors="surrogateescape")
    else:
        manifest = {**json.loads(path.read_text(encoding="utf-8")), **damage}
        del manifest["manifest_sha256"]
        path.write_text(json.dumps({**manifest, "manifest_sha256": content_hash(manifest)}), encoding="utf-8")
    assert main(["patients", "verify"]) in (1, 2)
    output = capsys.readouterr()
    assert "not a valid manifest" in output.err or "unknown cohort" in output.err or "difference(s)" in output.out
    assert main([*BUILD, "--patients", "1"]) == 0 and main(["patients", "verify"]) == 0


def test_a_damaged_patient_is_built_again(builds):
    main([*BUILD, "--patients", "3"])
    volume = _folder("virtual:2000") / "volume.npy"
    volume.write_bytes(volume.read_bytes()[:-1])
    builds.clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert main([*BUILD, "--patients", "3"]) == 0
    assert builds == [2000]


def test_several_workers_build_nothing_twice(builds, tmp_path):
    main([*BUILD, "--patients", "3"])
    assert main(["patients", "build", "--patients", "3", "--workers", "2"]) == 0
    assert len(builds) == 3


def test_verify_reports_differences(builds, capsys):
    main([*BUILD, "--patients", "4"])
    truncated = _folder("virtual:1000") / "volume.npy"
    truncated.write_bytes(truncated.read_bytes()[:-2])
    folder = _folder("virtual:1001")
    original = load_saved_patient(folder)
    moved = {**original.landmarks_lps_mm, 11: np.array([1.0, 2.0, 3.0])}
    save_patient(Patient(original.id, tiny_volume(7), moved, original.card), folder)
    gone = _folder("virtual:2000")
    gone.rename(gone.with_name("aside"))
    assert main(["patients", "verify", "--cohort", "standard"]) == 1
    output = capsys.readouterr().out
    assert "virtual:1000: damaged" in output
    assert re.search("virtual:1001: differs from the manifest in .*volume_sha256.*landmarks", output)
    assert "virtual:2000: not found" in output
    assert ": 3 difference(s)." in output


def test_an_altered_manifest_is_refused(builds, tmp_path, capsys):
    main([*BUILD, "--patients", "1"])
    path = tmp_path / "cache" / "cohorts" / "standard" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"train": 1', '"train": 2'), encoding="utf-8")
    assert main(["patients", "verify"]) == 2
    assert "does not match its own hash" in capsys.readouterr().err


def test_verify_reports_another_version_of_the_cohort(builds, monkeypatch, capsys):
    main([*BUILD, "--patients", "1"])
    monkeypatch.setitem(cohorts.COHORTS, "standard", dataclasses.replace(cohorts.COHORTS["standard"], version=99))
    assert main(["patients", "verify"]) == 1
    assert "cohort: version 2 in the manifest, 99 now" in capsys.readouterr().out


def test_manifest_and_card_are_written_to_a_given_folder(builds, tmp_path):
    out = tmp_path / "elsewhere"
    assert main([*BUILD, "--patients", "1", "--split", "test", "--out", str(out)]) == 0
    assert builds == [3000]
    assert {item.name for item in out.iterdir()} == {"manifest.json", "README.md"}
    assert main(["patients", "verify", "--out", str(out)]) == 0


def test_the_list_shows_cohorts_virtual_and_imported_patients(builds, monkeypatch, capsys):
    assert main(["patients"]) == 0
    assert "No patient is installed yet" in capsys.readouterr().out
    main([*BUILD, "--patients", "3"])
    store.save_imported(Patient("imported:thorax", tiny_volume(), {10: np.zeros(3)}))
    (store.save_imported(Patient("imported:broken", tiny_volume(), {})) / "patient.json").write_text(
        "{", encoding="utf-8"
    )
    capsys.readouterr()
    # The list reads no volume.
    monkeypatch.setattr("carm_env.patient.file_hash", None)
    assert main(["patients", "list"]) == 0
    output = capsys.readouterr().out
    assert "standard (version 2): train 1/50, calibration 1/10, test 1/10 built" in output
    assert re.search(r"virtual:1000 +virtual +20 +24 x 16 x 40 +14/14 +T12 to Skull, 48 x 32 x 80 cm", output)
    assert re.search(r"imported:thorax +imported +20 +24 x 16 x 40 +1/14 +T1, 48", output)
    assert re.search(r"imported:broken +damaged", output)


def test_patients_of_an_older_anatomy_are_only_counted(builds, monkeypatch, capsys):
    main([*BUILD, "--patients", "1"])
    monkeypatch.setattr(build, "ANATOMY_VERSION", "another")
    assert main(["patients"]) == 0
    output = capsys.readouterr().out
    assert "train 0/50" in output and "1 virtual patient(s) of other versions of the anatomy" in output
    assert "virtual:1000" not in output


@pytest.mark.parametrize("landmarks", [(), (1,), (1, 10, 11), tuple(range(1, 15))])
def test_a_sheet_is_drawn_for_any_number_of_landmarks(builds, tmp_path, landmarks):
    points = {key: np.array([10.0 * key - 70, 0.0, 40.0 * key]) for key in landmarks}
    store.save_imported(Patient("imported:p", tiny_volume(), points))
    out = tmp_path / "sheet.png"
    assert main(["patients", "show", "p", "--out", str(out)]) == 0
    sheet = np.asarray(Image.open(out)).astype(int)
    assert sheet.shape[0] > 700 and sheet.shape[1] > 1000
    # Only marks are yellow below the captions.
    yellow = (sheet[80:, :, 0] - sheet[80:, :, 2]) > 100
    assert (yellow.sum() > 50) == bool(landmarks)


def test_the_card_of_a_cohort_says_what_it_is_for_and_builds_nothing(builds, capsys):
    assert main(["patients", "card", "bones"]) == 0
    text = capsys.readouterr().out
    assert builds == []
    assert "Never train on it" in text and "0 of 20 test" in text and "0 train" not in text
    assert "| warp | 10.5 " in text and "| test |" in text
    assert 'patients="bones/test"' in text and "smoothly deformed" in text


def test_the_card_of_a_cohort_to_train_on_shows_its_poses(builds, capsys):
    assert main(["patients", "card", "diverse"]) == 0
    text = capsys.readouterr().out
    assert "| arms | crossed 48, one_up 48, raised 48, sides 48 |" in text
    assert 'patients="diverse/train"' in text and "Never train" not in text


def test_the_card_shows_the_patients_data(builds, capsys):
    store.save_imported(Patient("imported:p", tiny_volume(), {11: np.ones(3)}, {"origin": "DICOM", "table": False}))
    assert main(["patients", "card", "p"]) == 0
    output = capsys.readouterr().out
    for text in ("# imported:p", "Research use only", "fingerprint: ", "24 x 16 x 40 of 20", "- origin: DICOM"):
        assert text in output
    assert "| 11 | Carina | 1.0 | 1.0 | 1.0 |" in output and "| 1 | Skull | absent |" in output
    assert re.search(r"volume 0 MB \(mapped from the disk\), frontal X-rays 0 MB", output)


def test_an_imported_patient_is_removed(builds, capsys):
    store.save_imported(Patient("imported:p", tiny_volume(), {}))
    assert main(["patients", "remove", "imported:p"]) == 0
    assert store.imported_names() == []
    assert main(["patients", "remove", "p"]) == 2
    assert "unknown imported patient 'p'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--cohort", "standart"], "Did you mean 'standard'"),
        (["build", "--split", "tset"], "Did you mean 'test'"),
        (["build", "--patients", "0"], "expected 1 to 70"),
        (["build", "--split", "test", "--patients", "11"], "expected 1 to 10"),
        (["build", "--workers", "0"], "--workers is 0"),
        (["build", "--voxel-mm", "3"], "expected one of 2, 1.5, 1"),
        (["verify"], "make one with `carm-env patients build`"),
        (["show", "torax", "--out", "x.png"], "unknown patient 'torax'"),
        (["show", "virtual:0", "--out", "x.xyz"], "expected an image file"),
        (["card", "standard/test"], "names a cohort"),
        (["remove", "absent"], "unknown imported patient"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_built(builds, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["patients", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not builds and not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_stops_the_build_at_once(builds, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "file"))
    assert main([*BUILD, "--patients", "1"]) == 2
    assert "file" in capsys.readouterr().err and not builds
