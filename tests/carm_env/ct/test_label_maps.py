"""Landmarks from label maps; the filled bones and organs of virtual patients replace a segmentation."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from carm_env.anatomy.parameters import PatientParameters
from carm_env.ct.errors import LandmarkFileError
from carm_env.ct.label_maps import CLASSES, landmarks_from_labels
from carm_env.landmarks import landmark
from carm_env.patients.registry import find_real_ct
from carm_env.volume import Volume


def _module(name):
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


image_files, label_phantoms = _module("image_files"), _module("label_phantoms")
sitk = pytest.importorskip("SimpleITK")
# Of TotalSegmentator's map of a real patient the rules have to be right to 10 mm, too.
WITHIN_MM = {
    "Skull": 6.0,
    "humeral head": 6.0,
    "inferior angle": 10.0,
    "T12": 3.0,
    "T1": 6.0,
    "Carina": 10.0,
    "hemidiaphragm": 10.0,
}
PATIENTS = {
    "average": PatientParameters(),
    "old": PatientParameters(
        arms="raised", scale=0.95, thorax_depth=1.2, kyphosis_deg=25.0, scoliosis_mm=15.0, degeneration=0.8, heart=1.1
    ),
}


@pytest.fixture(scope="module", params=PATIENTS)
def patient(request):
    return label_phantoms.make_labelled(PATIENTS[request.param])


@pytest.fixture(scope="module")
def average():
    return label_phantoms.make_labelled(PATIENTS["average"])


def derive(labelled, folder):
    return landmarks_from_labels(labelled.write(folder / "labels.nii.gz"))


def check(derived, exact, expected=frozenset({1, 2, 3, 4, 5, 10, 11, 12, 13, 14})):
    """Every expected landmark is there, none is far from the truth, and none is farther than its own claim allows."""
    assert set(derived.points_lps_mm) == set(expected), derived.absent
    for key, point in derived.points_lps_mm.items():
        name = landmark(key).name
        limit = next(value for part, value in WITHIN_MM.items() if part in name)
        error = float(np.linalg.norm(point - exact[key]))
        assert error < 2.5 * derived.std_mm[key], (name, error, derived.std_mm[key])
        assert error < limit or derived.std_mm[key] > limit, (name, error, derived.basis[key])


def test_the_landmarks_of_a_drawn_person_follow_the_rules_for_label_maps(tmp_path):
    labelled = label_phantoms.make_labelled(PatientParameters(seed=3))
    derived = derive(labelled, tmp_path)
    limits = {"humeral head": 5.0, "T12": 2.0, "T1": 2.0, "Carina": 3.0, "inferior angle": 5.0}
    for name in ("T1", "Carina", "T12", "Right humeral head", "Left scapular inferior angle"):
        key = landmark(name).id
        limit = limits.get(name) or next(value for part, value in limits.items() if part in name)
        assert np.linalg.norm(derived.points_lps_mm[key] - labelled.exact_mm[key]) < limit, name


GRIDS = {
    "as it is": lambda labelled: labelled,
    "slices of 5 mm": lambda labelled: labelled.thinned((1, 1, 2)),
    "slices of 5 mm, begun one slice higher": lambda labelled: labelled.thinned((1, 1, 2), 1),
    "voxels of 5 mm": lambda labelled: labelled.thinned((2, 2, 2)),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_label_map_gives_the_landmarks_of_its_organs(tmp_path, patient, grid):
    derived = derive(GRIDS[grid](patient), tmp_path)
    check(derived, patient.exact_mm)
    assert "no class" in derived.absent["Left wrist"]


def test_a_shifted_grid_gives_the_same(tmp_path, average):
    shifted = label_phantoms.make_labelled(PATIENTS["average"], offset_mm=1.3)
    first, second = derive(average, tmp_path), derive(shifted, tmp_path)
    check(second, average.exact_mm)
    for key, point in first.points_lps_mm.items():
        assert np.linalg.norm(point - second.points_lps_mm[key]) < 5.0, landmark(key).name


def test_an_oblique_label_map_keeps_its_classes(tmp_path, average):
    c, s = np.cos(0.05), np.sin(0.05)
    direction = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    origin = average.first_mm
    image = sitk.GetImageFromArray(np.ascontiguousarray(average.labels.transpose(2, 1, 0)))
    image.SetSpacing(average.spacing_mm.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "labels.nii.gz"))
    derived = landmarks_from_labels(tmp_path / "labels.nii.gz")
    turned = {key: direction @ (np.array(point) - origin) + origin for key, point in average.exact_mm.items()}
    for key in (2, 3, 4, 5, 10, 11, 14):
        assert np.linalg.norm(derived.points_lps_mm[key] - turned[key]) < 10.0, landmark(key).name


@pytest.mark.parametrize("suffix", ["RAS", "LAI", "PSR"])
def test_the_order_of_the_axes_does_not_matter(tmp_path, average, suffix):
    image = sitk.DICOMOrient(sitk.ReadImage(str(average.write(tmp_path / "labels.nii.gz"))), suffix)
    sitk.WriteImage(image, str(tmp_path / "turned.nii.gz"))
    check(landmarks_from_labels(tmp_path / "turned.nii.gz"), average.exact_mm)


def test_a_folder_of_masks_gives_the_same(tmp_path, average):
    for name in ("skull", "humerus_left", "trachea"):
        average.write(tmp_path / f"{name}.nii.gz", (average.labels == CLASSES[name]).astype(np.int16))
    derived = landmarks_from_labels(tmp_path)
    check(derived, average.exact_mm, {1, 3, 11})
    assert "vertebrae_T1 is not in the folder" in derived.absent["T1"]
    assert "lung_upper_lobe_left" in derived.absent["Left hemidiaphragm"]
    average.thinned((1, 1, 2)).write(tmp_path / "trachea.nii.gz", (average.labels[:, :, ::2] == 16).astype(np.int16))
    with pytest.raises(LandmarkFileError, match="expected one grid"):
        landmarks_from_labels(tmp_path)


def above(average, key, mm):
    return average.cut(high_mm=(np.inf, np.inf, average.exact_mm[key][2] + mm))


def below(average, key, mm):
    return average.cut(low_mm=(-np.inf, -np.inf, average.exact_mm[key][2] - mm))


def test_a_vertebra_counts_whose_body_is_in_the_volume(tmp_path, average):
    kept = derive(above(average, 10, 12.0), tmp_path)
    assert np.linalg.norm(kept.points_lps_mm[10] - average.exact_mm[10]) < WITHIN_MM["T1"]
    lost = derive(above(average, 10, 2.0), tmp_path)
    assert "the body of vertebrae_T1 is cut" in lost.absent["T1"]


def test_a_vertex_that_is_just_cut_off_is_completed(tmp_path, average):
    whole, cut = derive(average, tmp_path), derive(above(average, 1, 62.0), tmp_path)
    assert np.linalg.norm(cut.points_lps_mm[1] - average.exact_mm[1]) < 12.0
    assert cut.std_mm[1] > whole.std_mm[1] and "cut off" in cut.basis[1]
    assert "vault of the skull is cut" in derive(above(average, 1, 20.0), tmp_path).absent["Skull"]
    chin = derive(above(average, 1, -60.0), tmp_path)
    assert "Skull" in chin.absent


def test_a_landmark_cut_by_the_border_is_absent_with_its_reason(tmp_path, average):
    derived = derive(below(average, 4, -20.0), tmp_path)
    assert {1, 2, 3, 10} <= set(derived.points_lps_mm)
    for name in ("Right scapular inferior angle", "Right hemidiaphragm", "Left hemidiaphragm"):
        assert "cut by the lower border" in derived.absent[name]
    chest = derive(above(average, 2, 5.0), tmp_path)
    assert "cut by the border" in chest.absent["Right humeral head"]
    narrow = derive(average.cut(low_mm=(average.exact_mm[4][0] + 5.0, -np.inf, -np.inf)), tmp_path)
    assert "near its tip" in narrow.absent["Right scapular inferior angle"]
    neck = derive(below(average, 11, -20.0), tmp_path)
    assert "trachea is cut" in neck.absent["Carina"]


def test_bronchi_that_rise_beside_the_trachea_are_no_carina(tmp_path, average):
    trachea = average.labels == CLASSES["trachea"]
    highest = np.flatnonzero(trachea.any((0, 1)))[-1]
    above_carina = int((average.exact_mm[11][2] + 20.0 - average.first_mm[2]) / average.spacing_mm[2])
    from scipy import ndimage

    assert any(ndimage.label(trachea[:, :, k])[1] > 1 for k in range(above_carina, highest))
    assert abs(derive(average, tmp_path).points_lps_mm[11][2] - average.exact_mm[11][2]) < 8.0


def test_a_trachea_without_bronchi_gives_an_uncertain_carina(tmp_path, average):
    labels = average.labels.copy()
    low = int((average.exact_mm[11][2] + 3.0 - average.first_mm[2]) / average.spacing_mm[2])
    part = labels[:, :, :low]
    part[part == CLASSES["trachea"]] = 0
    derived = derive(replace(average, labels=labels), tmp_path)
    assert derived.std_mm[11] > 10.0 and "lower end" in derived.basis[11]


@pytest.mark.parametrize("gone", [("liver", "stomach"), ("heart",)])
def test_a_dome_without_the_organs_around_it_is_less_certain(tmp_path, average, gone):
    derived = derive(average.without(*gone), tmp_path)
    domes = {12, 13} & set(derived.points_lps_mm)
    check(derived, average.exact_mm, {1, 2, 3, 4, 5, 10, 11, 14} | domes)
    assert all(derived.std_mm[key] > 12.0 for key in domes) and (domes or "heart" in gone)


def test_a_dome_needs_the_heart_or_the_abdomen(tmp_path, average):
    absent = derive(average.without("liver", "stomach", "heart"), tmp_path).absent
    assert "neither heart nor liver" in absent["Right hemidiaphragm"]


def test_an_implausible_height_is_refused(tmp_path, average):
    labels = average.labels.copy()
    low = int((average.exact_mm[10][2] - 10.0 - average.first_mm[2]) / average.spacing_mm[2])
    part = labels[:, :, :low]
    part[part == CLASSES["trachea"]] = 0
    derived = derive(replace(average, labels=labels), tmp_path)
    assert "is implausible: expected below the top of T3" in derived.absent["Carina"]


def test_islands_do_not_move_a_landmark(tmp_path, average):
    labels = average.labels.copy()
    labels[4:7, 4:7, 4:7] = CLASSES["scapula_right"]
    labels[70:73, 60:63, 6:9] = CLASSES["trachea"]
    check(derive(replace(average, labels=labels), tmp_path), average.exact_mm)


VERSION_1 = {10: 13, 11: 14, 12: 15, 13: 16, 14: 17, 16: 43, 32: 23, 33: 24, 42: 33, 43: 34, 69: 82, 70: 83, 71: 84,
             72: 85, 5: 5, 6: 6, 51: 44}  # fmt: skip


def test_numbers_of_version_1_and_mirrored_maps_are_refused(tmp_path, average):
    table = np.zeros(120, np.int16)
    table[list(VERSION_1)] = list(VERSION_1.values())
    with pytest.raises(LandmarkFileError, match="another version"):
        derive(replace(average, labels=table[average.labels]), tmp_path)
    with pytest.raises(LandmarkFileError, match="mirrored"):
        derive(replace(average, labels=average.labels[::-1].copy()), tmp_path)
    swapped = np.arange(120, dtype=np.int16)
    swapped[[43, 32]] = [32, 43]
    with pytest.raises(LandmarkFileError, match="lies .* mm below the vertebra"):
        derive(replace(average, labels=swapped[average.labels]), tmp_path)


@pytest.mark.skipif(
    "CARM_ENV_LIDC_LABELS" not in os.environ, reason="CARM_ENV_LIDC_LABELS does not name the label map of lidc-0001"
)
def test_a_real_map_is_right_to_10_mm():
    derived = landmarks_from_labels(os.environ["CARM_ENV_LIDC_LABELS"])
    reading = find_real_ct("lidc-0001").landmarks
    assert reading is not None and set(derived.points_lps_mm) == set(reading.points_lps_mm), derived.absent
    for key, point in reading.points_lps_mm.items():
        assert np.linalg.norm(derived.points_lps_mm[key] - point) < 10.0, landmark(key).name
    assert max(derived.std_mm.values()) < 10.0


def test_a_ct_is_refused_as_a_label_map(tmp_path, average):
    small = replace(average, labels=np.full((6, 6, 6), -1000, np.int16))
    with pytest.raises(LandmarkFileError, match="it seems to be a CT"):
        derive(small, tmp_path)
    with pytest.raises(LandmarkFileError, match="no landmark can be derived"):
        derive(replace(small, labels=np.zeros((6, 6, 6), np.int16)), tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(LandmarkFileError, match="no mask such as"):
        landmarks_from_labels(tmp_path / "masks")


def small_map(path, labels=None, **fields):
    """A label map of 24 x 18 x 24 voxels with a vertebra in the middle."""
    if labels is None:
        labels = np.zeros(image_files.SHAPE, np.int16)
        labels[8:16, 6:12, 8:16] = CLASSES["vertebrae_T1"]
    path.write_bytes(image_files.nifti(labels, **fields))
    return path


CT = Volume.from_origin(image_files.phantom(), image_files.SPACING_MM, image_files.ORIGIN_MM)


def test_a_label_map_states_what_was_assumed(tmp_path):
    derived = landmarks_from_labels(small_map(tmp_path / "l.nii"), CT)
    assert len(derived.assumptions) == 1 and "TotalSegmentator 2" in derived.assumptions[0]
    unit = landmarks_from_labels(small_map(tmp_path / "l.nii", units=0), CT)
    assert "label map: units" in unit.assumptions[0]
    rows = np.column_stack([np.diag([-4.0, -4.0, 4.0]), [46.0, 34.0, -22.0]])
    part = np.zeros((24, 18, 12), np.int16)
    part[8:16, 6:12, 2:10] = CLASSES["vertebrae_T1"]
    cropped = landmarks_from_labels(small_map(tmp_path / "l.nii", part, rows=rows), CT)
    assert "another region than the CT" in cropped.assumptions[0]
    np.testing.assert_allclose(cropped.points_lps_mm[10], derived.points_lps_mm[10])


LABELS = {
    "shifted": ({"rows": np.column_stack([np.diag([-4.0, -4.0, 4.0]), [146.0, 34.0, -46.0]])}, "not have the grid"),
    "shifted by 20 mm": ({"rows": np.column_stack([np.diag([-4.0, -4.0, 4.0]), [46.0, 34.0, -26.0]])}, "the grid of"),
    "flipped": ({"rows": np.column_stack([np.diag([4.0, -4.0, 4.0]), [46.0, 34.0, -46.0]])}, "not have the grid"),
    "two orientations": ({"qform": 1, "quaternion": (1.0, 0.0, 0.0), "qfac": -1.0}, "sform and qform disagree"),
    "another task": ({"labels": np.full(image_files.SHAPE, 119)}, "of another task or program"),
    "fractions": ({"labels": np.full(image_files.SHAPE, 0.5), "dtype": "<f4"}, "without interpolation"),
    "nan": ({"labels": np.full(image_files.SHAPE, np.nan), "dtype": "<f4"}, "NaN"),
    "a CT": ({"labels": image_files.phantom()}, "seems to be a CT"),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path, name):
    fields, words = LABELS[name]
    with pytest.raises(LandmarkFileError, match=words) as error:
        landmarks_from_labels(small_map(tmp_path / "l.nii", **fields), CT)
    assert str(tmp_path) in str(error.value)


def test_a_label_map_or_mask_that_is_cut_short_is_refused(tmp_path):
    content = image_files.nifti(np.zeros(image_files.SHAPE, np.int16))
    for name, data in (("l.nii", content[:-5]), ("l.nii.gz", image_files.gzipped(content)[:-5])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(LandmarkFileError, match="cut short"):
            landmarks_from_labels(tmp_path / name)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/skull.nii").write_bytes(content[:-5])
    with pytest.raises(LandmarkFileError, match=r"skull\.nii is cut short"):
        landmarks_from_labels(tmp_path / "masks")
    (tmp_path / "masks/skull.nii").write_bytes(image_files.nifti(image_files.phantom()))
    with pytest.raises(LandmarkFileError, match="expected a mask of two values"):
        landmarks_from_labels(tmp_path / "masks")
