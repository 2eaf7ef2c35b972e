from __future__ import annotations

import json
import os
import stat
import zipfile
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from carm_env import patient_store as store
from carm_env.cli import main
from carm_env.ct._identity import case_id, create_key
from carm_env.ct.errors import ArchiveError, CTImportError, DicomError, LandmarkFileError
from carm_env.ct.grid import to_isotropic, without_table
from carm_env.ct.importer import ImportOptions, import_ct, load_ct, read_ct
from carm_env.patients.catalogue import load_patient
from carm_env.volume import Volume

pytest.importorskip("pydicom")
sitk = pytest.importorskip("SimpleITK")

_SPEC = util.spec_from_file_location("dicom_series", Path(__file__).with_name("dicom_series.py"))
assert _SPEC is not None and _SPEC.loader is not None
dicom_series = util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dicom_series)
write_enhanced = dicom_series.write_enhanced
write_series, BALL_MM, RADIUS_MM = dicom_series.write_series, dicom_series.BALL_MM, dicom_series.RADIUS_MM

SHARED = Path(__file__).parents[4] / "shared/data"
FINE = ImportOptions(spacing_mm=1.5)


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def ball_centre(volume: Volume) -> np.ndarray:
    return volume.lps_from_index(np.argwhere(volume.hu > 500)).mean(0)


def changed(name: str, value, only: int | None = None):
    def change(data, number):
        if only is not None and number != only:
            return
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)

    return change


def test_slices_are_sorted_by_position_and_rescaled(tmp_path):
    write_series(tmp_path / "a")
    read = read_ct(tmp_path / "a", FINE)
    np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.0)
    assert {40, -1000} <= set(np.unique(read.volume.hu))
    assert "the only one" in " ".join(read.notes)
    np.testing.assert_allclose(read.volume.spacing_mm, 1.5)


def test_slices_in_descending_order_are_sorted(tmp_path):
    write_series(tmp_path / "a", heights_mm=[45.0 - 3 * number for number in range(16)])
    np.testing.assert_allclose(ball_centre(read_ct(tmp_path / "a", FINE).volume), BALL_MM, atol=1.0)


def test_a_tilted_gantry_is_sheared_back(tmp_path):
    write_series(tmp_path / "a", tilt_mm_per_mm=0.3)
    read = read_ct(tmp_path / "a", FINE)
    np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.2)
    extent = np.ptp(read.volume.lps_from_index(np.argwhere(read.volume.hu > 500)), axis=0)
    np.testing.assert_allclose(extent, 2 * RADIUS_MM, atol=3.5)
    assert any("tilted by 16.7 degrees" in note for note in read.notes)


def test_a_gap_is_refused_and_filled_only_on_request(tmp_path):
    heights = [3.0 * number for number in range(16) if number not in (9, 10)]
    write_series(tmp_path / "a", heights_mm=heights)
    with pytest.raises(DicomError, match=r"3\.00 mm apart, but 9\.00 mm between .*--accept-gaps"):
        read_ct(tmp_path / "a", FINE)
    read = read_ct(tmp_path / "a", ImportOptions(accept_gaps=True))
    assert any("2 of 16 slices were filled" in line for line in read.assumptions)
    np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.5)


def test_missing_slices_are_recognised_by_the_slice_thickness(tmp_path):
    write_series(tmp_path / "a", count=5, step_mm=18.0, thickness_mm=3.0)
    with pytest.raises(DicomError, match="about 5 of 6 slices are missing"):
        read_ct(tmp_path / "a")


FAULTS = {
    "no slope": (changed("RescaleSlope", None), "lacks RescaleSlope.*--assume-hu"),
    "slope zero": (changed("RescaleSlope", 0), "slope > 0"),
    "8 bit": (changed("BitsAllocated", 8), "8 bits per pixel|cannot be read"),
    "colour": (changed("SamplesPerPixel", 3), "colour image|cannot be read"),
    "no spacing": (changed("PixelSpacing", None, 3), "PixelSpacing"),
    "mixed spacing": (changed("PixelSpacing", [1.0, 1.0], 3), "mixed PixelSpacing.*--acquisition N.*2: 1 slice"),
    "spacing nan": (changed("PixelSpacing", ["0", "1"], 3), "expected 0.01 to 20"),
    "mixed orientation": (changed("ImageOrientationPatient", [0.8, 0.6, 0, -0.6, 0.8, 0], 4), "mixed orientations"),
    "bad orientation": (changed("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], 4), "perpendicular unit vectors"),
    "no position": (changed("ImagePositionPatient", None, 2), "ImagePositionPatient"),
    "two patients": (changed("PatientID", "other", 2), "2 patients"),
    "truncated": (changed("PixelData", b"\0" * 100, 5), "cannot be read.*truncated"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_series_is_refused_and_its_file_named(tmp_path, fault):
    change, message = FAULTS[fault]
    write_series(tmp_path / "a", change=change)
    with pytest.raises(DicomError, match=message) as error:
        import_ct(tmp_path / "a", "x")
    assert str(tmp_path) in str(error.value)
    assert store.imported_names() == []


def test_mixed_sizes_are_refused(tmp_path):
    def smaller(data, number):
        if number == 3:
            data.Rows = 20
            data.PixelData = data.PixelData[: 20 * data.Columns * 2]

    write_series(tmp_path / "a", change=smaller)
    with pytest.raises(DicomError, match="mixed image sizes.*--acquisition N.*1: 15 slices"):
        read_ct(tmp_path / "a")


def test_a_missing_slope_may_be_waived(tmp_path):
    def raw(data, number):
        del data.RescaleSlope
        data.PixelRepresentation = 1
        data.PixelData = (np.frombuffer(data.PixelData, "<u2").astype(np.int32) - 1024).astype("<i2").tobytes()

    write_series(tmp_path / "a", change=raw)
    read = read_ct(tmp_path / "a", ImportOptions(assume_hu=True))
    np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.0)


def test_the_frames_of_an_enhanced_ct_are_its_slices(tmp_path):
    path = write_enhanced(tmp_path / "a")
    for source in (path, path.parent):
        read = read_ct(source, FINE)
        np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.0)
        assert read.volume.hu.max() == 1000


def _without(sequence: str):
    def change(data):
        del data.SharedFunctionalGroupsSequence[0][sequence]

    return change


def _one_position_less(data):
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("PlaneOrientationSequence"), "lacks PlaneOrientationSequence"),
        (_without("PixelMeasuresSequence"), "lacks PixelMeasuresSequence"),
        (_without("PixelValueTransformationSequence"), "lacks RescaleSlope"),
        (_one_position_less, "positions of 15 frames, but another NumberOfFrames"),
    ],
)
def test_an_incomplete_enhanced_ct_is_refused(tmp_path, change, message):
    path = write_enhanced(tmp_path / "a", change=change)
    with pytest.raises(DicomError, match=message) as caught:
        read_ct(path, FINE)
    assert "enhanced.dcm" in str(caught.value)


def test_duplicate_slices_are_refused(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a" / "again", heights_mm=[9.0], change=changed("SOPInstanceUID", "1.2.3.99"))
    with pytest.raises(DicomError, match="have the same position.*1 such pair"):
        read_ct(tmp_path / "a")


def test_two_patients_in_one_folder_are_refused(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "a" / "b", series=2, change=changed("PatientID", "P-2"))
    with pytest.raises(DicomError, match="belong to 2 patients"):
        read_ct(tmp_path / "a")


def test_a_series_that_has_changed_is_read_again(tmp_path):
    options = ImportOptions(spacing_mm=1.5, assume_hu=True)
    write_series(tmp_path / "a", count=3)
    assert read_ct(tmp_path / "a", options).volume.hu.min() == -1000
    write_series(tmp_path / "a", count=3, change=changed("RescaleIntercept", 0))
    assert read_ct(tmp_path / "a", options).volume.hu.min() == 24


def test_of_several_series_the_thinnest_bone_or_soft_one_is_chosen_and_the_reason_noted(tmp_path):
    write_series(tmp_path / "thick", count=8, step_mm=6.0, series=1)
    write_series(tmp_path / "lung", series=2, count=24, step_mm=2.0, change=changed("ConvolutionKernel", "Bl57f"))
    write_series(tmp_path / "bone", series=3, change=changed("ConvolutionKernel", "B70s"))
    write_series(tmp_path / "soft", series=4)
    write_series(tmp_path / "short", series=5, count=6, step_mm=1.0)
    write_series(
        tmp_path / "scout", series=6, count=1, change=changed("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    write_series(tmp_path / "dose", series=7, count=1, change=changed("Modality", "SR"))
    read = read_ct(tmp_path)
    notes = "\n".join(read.notes)
    assert (
        "chose 16 slices, 3.00 mm apart" in notes
        and "kernel B70s (bone): the thinnest of a bone or soft kernel" in notes
    )
    assert "skipped 1 file(s): localizer" in notes and "modality SR" in notes
    assert notes.count("series ") >= 5
    chosen = read_ct(tmp_path, ImportOptions(series="1.2.3.1"))
    assert any("requested" in note for note in chosen.notes)
    with pytest.raises(ValueError, match="unknown series '9'"):
        read_ct(tmp_path, ImportOptions(series="9"))


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4"])
def test_a_dose_page_of_modality_ct_is_skipped(tmp_path, sop_class):
    def page(data, number):
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing

    write_series(tmp_path / "a/slices")
    write_series(tmp_path / "a/dose", count=1, change=page, series=2)
    read = read_ct(tmp_path / "a", FINE)
    np.testing.assert_allclose(ball_centre(read.volume), BALL_MM, atol=1.0)
    assert "skipped 1 file(s): secondary capture" in read.notes
    with pytest.raises(CTImportError, match="secondary capture"):
        read_ct(tmp_path / "a/dose")


def test_a_series_without_any_position_does_not_stop_the_others(tmp_path):
    write_series(tmp_path / "a/slices")
    write_series(tmp_path / "a/rendering", count=3, change=changed("ImagePositionPatient", None), series=2)
    assert any("a series of 3 images without position" in line for line in read_ct(tmp_path / "a", FINE).assumptions)
    with pytest.raises(DicomError, match="lacks ImagePositionPatient"):
        read_ct(tmp_path / "a/rendering", FINE)


def test_a_zip_in_a_folder_is_suggested(tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr("a", b"x")
    with pytest.raises(CTImportError, match=r"import the archive itself \(.*study\.zip"):
        read_ct(tmp_path)


def test_a_text_file_with_the_suffix_dcm_is_refused(tmp_path):
    write_series(tmp_path / "a")
    (tmp_path / "a" / "notes.dcm").write_text("no image", encoding="utf-8")
    with pytest.raises(DicomError, match=r"notes\.dcm is damaged or not a DICOM file"):
        read_ct(tmp_path / "a")


def test_a_truncated_file_is_refused(tmp_path):
    paths = write_series(tmp_path / "a")
    paths[4].write_bytes(paths[4].read_bytes()[:700])
    with pytest.raises(DicomError, match=paths[4].name):
        read_ct(tmp_path / "a")


def test_lossless_jpeg_needs_no_extra_decoder(tmp_path):
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, generate_frames

    for path in write_series(tmp_path / "a"):
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "compressed.dcm"))
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.ReadImage(str(path), sitk.sitkInt16))
        packed, data = dcmread(tmp_path / "compressed.dcm"), dcmread(path)
        data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        for name in ("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"):
            setattr(data, name, packed[name].value)
        data.PixelData = encapsulate(list(generate_frames(packed.PixelData, number_of_frames=1)))
        data["PixelData"].is_undefined_length = True
        data.save_as(path, enforce_file_format=True)
    assert data.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    volume = read_ct(tmp_path / "a", FINE).volume
    np.testing.assert_allclose(ball_centre(volume), BALL_MM, atol=1.0)
    assert {40, 1000, -1000} <= set(np.unique(volume.hu))


def test_padding_is_air(tmp_path):
    def padded(data, number):
        values = np.frombuffer(data.PixelData, "<u2").reshape(dicom_series.SHAPE).copy()
        values[:3] = 63536 % 65536
        data.PixelData, data.PixelPaddingValue = values.tobytes(), 63536
        data["PixelPaddingValue"].VR = "US"

    write_series(tmp_path / "a", change=padded)
    assert read_ct(tmp_path / "a").volume.hu.max() <= 1000


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_image_files_are_read(tmp_path, suffix):
    hu = np.full((20, 24, 30), -1000, np.int16)
    hu[5:15, 5:20, 5:25] = 40
    hu[8:11, 9:12, 10:14] = 900
    image = sitk.GetImageFromArray(hu.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    patient = load_ct(tmp_path / f"a{suffix}", FINE)
    np.testing.assert_allclose(patient.volume.spacing_mm, 1.5)
    assert patient.volume.hu_at([18.0, 20, 35]) == 900
    assert load_patient(str(tmp_path / f"a{suffix}")).volume.hu.shape == patient.volume.hu.shape
    assert "a" + suffix not in json.dumps(dict(patient.card))


def test_a_truncated_metaimage_is_refused(tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1500, (9, 9, 9)).astype(np.int16))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes()[:-700])
    with pytest.raises(CTImportError, match="cut short"):
        read_ct(tmp_path / "a.mha")


@pytest.mark.parametrize(
    "values, message",
    [
        ((0, 255), "scaled to 0 to 255"),
        ((0, 1), "scaled to 0 to 1"),
        ((0, 2500), "--hu-offset -1024"),
        ((-1000, 90), "expected soft tissue and bone"),
    ],
)
def test_values_that_are_not_hounsfield_units_are_refused(tmp_path, values, message):
    rng = np.random.default_rng(0)
    field = rng.uniform(*values, (12, 12, 12))
    if values[1] == 2500:
        field = np.where(field < 1000, 10, field)
    field.flat[:2] = values
    sitk.WriteImage(sitk.GetImageFromArray(field.astype(np.float32)), str(tmp_path / "a.nrrd"))
    with pytest.raises(CTImportError, match=message):
        read_ct(tmp_path / "a.nrrd")
    read_ct(tmp_path / "a.nrrd", ImportOptions(assume_hu=True))


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_read_and_its_temporary_folder_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    paths = write_series(tmp_path / "a")
    archive = zipped(tmp_path / "a.zip", {f"x/{path.name}": path.read_bytes() for path in paths})
    np.testing.assert_allclose(ball_centre(read_ct(archive, FINE).volume), BALL_MM, atol=1.0)
    bad = zipped(tmp_path / "b.zip", {"x/a.dcm": b"no"})
    with pytest.raises(DicomError, match=r"b\.zip: x/a\.dcm"):
        read_ct(bad)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "name, message",
    [
        ("../x.dcm", "outside its folder"),
        ("a/../../x.dcm", "outside its folder"),
        ("/etc/x.dcm", "outside its folder"),
        ("C:\\x.dcm", "outside its folder"),
        ("..\\x.dcm", "outside its folder"),
        ("inner.zip", "holds the archive"),
    ],
)
def test_a_zip_with_a_bad_entry_is_refused(tmp_path, name, message):
    with pytest.raises(ArchiveError, match=message):
        read_ct(zipped(tmp_path / "a.zip", {name: b"x"}))
    assert not (tmp_path / "x.dcm").exists() and not (tmp_path.parent / "x.dcm").exists()


def test_zip_bombs_links_and_damaged_archives_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ArchiveError, match="looks like a zip bomb"):
        read_ct(zipped(tmp_path / "bomb.zip", {"a.dcm": b"\0" * (30 << 20)}))
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match="holds the link"):
        read_ct(tmp_path / "link.zip")
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ArchiveError, match="is damaged or is not a zip archive"):
        read_ct(tmp_path / "torn.zip")
    monkeypatch.setattr("carm_env.ct._archive_entries.MAX_FILES", 2)
    with pytest.raises(ArchiveError, match="holds 3 files"):
        read_ct(zipped(tmp_path / "many.zip", {f"{n}.dcm": b"x" for n in range(3)}))


def test_no_personal_data_are_saved_or_printed(tmp_path, capsys, data_folder):
    secrets = {
        "PatientName": "Geheim^Gerda",
        "PatientID": "ID-4711-XY",
        "PatientBirthDate": "19470711",
        "StudyDate": "20190203",
        "InstitutionName": "Sankt Nirgends",
        "ReferringPhysicianName": "Doktor^Wer",
        "AccessionNumber": "ACC99887",
        "StudyDescription": "Sturz von der Leiter",
        "SeriesDescription": "Kopf Gerda",
        "PatientAddress": "Hauptweg 12",
        "StationName": "CTSTATION7",
    }

    def personal(data, number):
        for name, value in secrets.items():
            setattr(data, name, value)
        data.add_new((0x0009, 0x0010), "LO", "PRIVATE")
        data.add_new((0x0009, 0x1001), "LO", "Privatgeheimnis")

    write_series(tmp_path / "Gerda_Geheim", change=personal)
    assert main(["import", str(tmp_path / "Gerda_Geheim")]) == 0
    printed = capsys.readouterr()
    stored = b"".join(path.read_bytes() for path in data_folder.rglob("*") if path.is_file())
    for secret in [*secrets.values(), "Privatgeheimnis", "Gerda", "1.2.3.1"]:
        for part in secret.split("^"):
            assert part.encode() not in stored, part
            assert part not in printed.out + printed.err, part
    assert store.imported_names()[0].startswith("ct-")


def test_a_case_id_depends_on_the_key(monkeypatch, tmp_path, data_folder):
    create_key()
    first = case_id("P-77")
    assert first == case_id("P-77") != case_id("P-78") and len(first) == 16
    assert stat.S_IMODE(os.stat(data_folder / "case.key").st_mode) == 0o600
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "other"))
    assert case_id("P-77") != first


def test_the_command_imports_and_refuses_an_existing_name(tmp_path, capsys, data_folder):
    write_series(tmp_path / "a")
    assert main(["import", str(tmp_path / "a"), "--check"]) == 0
    assert store.imported_names() == []
    assert not data_folder.exists(), "looking at a CT writes nothing, not even a key"
    assert main(["import", str(tmp_path / "a"), "--name", "case-1"]) == 0
    assert "imported:case-1" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "a"), "--name", "case-1"]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "a"), "--name", "case-1", "--replace"]) == 0
    assert main(["import", str(tmp_path / "a"), "--name", "standard"]) == 2
    assert main(["import", str(tmp_path / "none")]) == 2
    assert store.imported_names() == ["case-1"]


def test_a_check_reads_the_landmarks_as_an_import_does(tmp_path, capsys, data_folder):
    write_series(tmp_path / "a")
    for name, row in (("good", "T1,0,0,40\nCarina,1,2,5"), ("low", "T1,0,0,5\nCarina,1,2,40"), ("far", "T1,0,0,400")):
        (tmp_path / f"{name}.csv").write_text(f"landmark,x_mm,y_mm,z_mm\n{row}\n", encoding="utf-8")
    words = ["import", str(tmp_path / "a"), "--check", "--landmarks"]
    assert main([*words, str(tmp_path / "good.csv"), "--coordinate-system", "LPS"]) == 0
    printed = capsys.readouterr().out
    assert "coordinate system LPS, as requested" in printed and "landmarks: T1, Carina" in printed
    for name, message in (("good", "--coordinate-system"), ("none", "no such file")):
        assert main([*words, str(tmp_path / f"{name}.csv")]) == 2
        assert message in capsys.readouterr().err
    for name, message in (("low", "--accept-implausible"), ("far", "outside the volume")):
        assert main([*words, str(tmp_path / f"{name}.csv"), "--coordinate-system", "LPS"]) == 2
        assert message in capsys.readouterr().err
    low = [*words, str(tmp_path / "low.csv"), "--coordinate-system", "LPS", "--accept-implausible"]
    assert main(low) == 0 and "kept as requested" in capsys.readouterr().out
    assert not data_folder.exists()


def test_a_ct_and_its_landmarks_are_saved_together_or_not_at_all(tmp_path):
    write_series(tmp_path / "a")
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("landmark,x_mm,y_mm,z_mm\nT1,0,0,40\nCarina,1,2,5\n", encoding="utf-8")
    bad.write_text("landmark,x_mm,y_mm,z_mm\nT1,0,0,400\n", encoding="utf-8")
    with pytest.raises(LandmarkFileError, match="outside the volume"):
        import_ct(tmp_path / "a", "x", bad, coordinate_system="LPS")
    assert store.imported_names() == []
    imported = import_ct(tmp_path / "a", "x", good, coordinate_system="LPS")
    assert set(imported.patient.landmarks_lps_mm) == {10, 11}
    np.testing.assert_allclose(store.load_imported("x").landmarks_lps_mm[10], [0, 0, 40])


def test_the_table_is_removed_and_the_body_is_not():
    hu = np.full((80, 80, 60), -1000, np.int16)
    x, y, _ = np.meshgrid(*[np.arange(n) * 4.0 for n in hu.shape], indexing="ij")
    hu[((x - 160) / 120) ** 2 + ((y - 140) / 80) ** 2 < 1] = 30
    hu[(np.abs(x - 160) < 150) & (np.abs(y - 250) < 8)] = 200
    cleaned, share = without_table(Volume.from_origin(hu, 4.0, (0, 0, 0)))
    assert (cleaned.hu[:, 60:] == -1000).all()
    assert (cleaned.hu == 30).sum() == (hu == 30).sum()
    assert 0.05 < share < 0.4
    with pytest.raises(CTImportError, match="holds no body"):
        without_table(Volume.from_origin(np.full((20, 20, 20), -1000, np.int16), 4.0, (0, 0, 0)))


@pytest.mark.parametrize("spacing", [0.1, 9.0, float("nan")])
def test_the_spacing_has_limits(spacing):
    with pytest.raises(CTImportError, match="the spacing is"):
        to_isotropic(np.zeros((4, 4, 4), np.float32), np.eye(4), spacing)


def test_every_file_of_pydicom_is_read_or_refused_with_a_typed_error():
    import pydicom.data

    files = [path for path in (Path(pydicom.data.__file__).parent / "test_files").rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        try:
            read_ct(path)
        except (CTImportError, MemoryError):
            continue


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real CTs in ../shared/data")
def test_real_cts_are_read():
    for path in sorted((SHARED / "openkbp_headneck").glob("*.nii.gz")):
        read = read_ct(path, ImportOptions(spacing_mm=4.0))
        assert read.volume.hu.max() > 700 and read.volume.hu.min() == -1000
    gappy = SHARED / "dicom_cptac_pda_chest"
    with pytest.raises(DicomError, match="about 5 of 6 slices are missing"):
        read_ct(gappy)
    series = read_ct(gappy, ImportOptions(accept_gaps=True, spacing_mm=3.0)).volume
    nifti = read_ct(SHARED / "tcia_cptac_pda_chest/cptac_pda_chest.nii.gz", ImportOptions(spacing_mm=3.0)).volume
    low, high = (np.array(corner) for corner in series.corners_lps_mm)
    points = np.random.default_rng(0).uniform(low + 40, high - 40, (3000, 3))
    assert np.corrcoef(series.hu_at(points), nifti.hu_at(points))[0, 1] > 0.9
