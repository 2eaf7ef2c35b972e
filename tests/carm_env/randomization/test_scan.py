"""Scans: what each property does to volume and landmarks, and how patients are named."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carm_env.envs.scene import load_scene
from carm_env.patient_store import save_imported
from carm_env.patients.catalogue import expand_patients, load_patient
from carm_env.patients.reference import PatientRef
from carm_env.patients.separation import held_out_reason
from carm_env.randomization.draw import DomainRandomization
from carm_env.randomization.naming import ScanName, split_scan, with_scans
from carm_env.randomization.scan import Scan, acquire
from carm_env.system.errors import UnknownNameError


def scanned(patient, **properties):
    return acquire(patient, Scan(**properties), "imported:scanned")


def centre_of_cube(patient, point):
    """Centroid of the bright voxels near a point, LPS mm."""
    index = np.argwhere(patient.volume.hu > 300)
    places = patient.volume.lps_from_index(index)
    near = np.abs(places - point).max(1) < 18
    weights = patient.volume.hu[tuple(index[near].T)].astype(float)
    return (weights[:, None] * places[near]).sum(0) / weights.sum()


def test_the_defaults_change_nothing(phantom):
    same = scanned(phantom)
    assert same.volume is phantom.volume
    assert same.landmarks_lps_mm.keys() == phantom.landmarks_lps_mm.keys()


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pixel=st.floats(2.5, 6), slices=st.floats(2.5, 6))
def test_coarse_voxels_keep_mass_and_places(phantom, pixel, slices):
    coarse = scanned(phantom, pixel_mm=pixel, slice_mm=slices)
    np.testing.assert_allclose(coarse.volume.spacing_mm, [pixel, pixel, slices])
    low, high = coarse.volume.corners_lps_mm
    first, last = phantom.volume.corners_lps_mm
    half = coarse.volume.spacing_mm / 2
    assert (low - half >= first - 1.001).all() and (high + half <= last + 1.001).all()
    for point in phantom.landmarks_lps_mm.values():
        assert np.abs(centre_of_cube(coarse, point) - point).max() < 1.0
    mass = [((p.volume.hu + 1000.0) * np.prod(p.volume.spacing_mm)).sum() for p in (phantom, coarse)]
    # The lost remainder at the ends is air.
    assert mass[1] == pytest.approx(mass[0], rel=0.01)


@pytest.mark.parametrize("turn", [{"askew_deg": 12.0}, {"roll_deg": -20.0}, {"askew_deg": -7.0, "roll_deg": 15.0}])
def test_a_turned_patient_is_whole_and_its_landmarks_turn_with_it(phantom, turn):
    turned = scanned(phantom, **turn)
    for key, point in turned.landmarks_lps_mm.items():
        assert np.abs(centre_of_cube(turned, point) - point).max() < 1.0
        assert np.linalg.norm(point - phantom.landmarks_lps_mm[key]) > 0.5
    mass = [((p.volume.hu + 1000.0) * np.prod(p.volume.spacing_mm)).sum() for p in (phantom, turned)]
    assert mass[1] == pytest.approx(mass[0], rel=0.01)


def test_the_directions_of_a_turn(phantom):
    points = phantom.landmarks_lps_mm
    highest = max(points, key=lambda key: points[key][2])
    leftmost = max(points, key=lambda key: points[key][0])
    middle = np.mean(phantom.volume.corners_lps_mm, axis=0)
    assert points[highest][2] > middle[2] and points[leftmost][0] > middle[0]
    assert scanned(phantom, askew_deg=10.0).landmarks_lps_mm[highest][0] > points[highest][0]
    assert scanned(phantom, roll_deg=10.0).landmarks_lps_mm[leftmost][1] < points[leftmost][1]


def test_fine_voxels_stay_as_they_are(phantom):
    np.testing.assert_array_equal(scanned(phantom, pixel_mm=1.0, slice_mm=1.5).volume.hu, phantom.volume.hu)


def test_kernels_blur_and_sharpen_edges_within_slices_only(phantom):
    def steps(patient, axis):
        return np.abs(np.diff(patient.volume.hu.astype(float), axis=axis)).max()

    soft, sharp = scanned(phantom, kernel="soft"), scanned(phantom, kernel="sharp")
    assert steps(soft, 0) < steps(phantom, 0) < steps(sharp, 0)
    assert steps(soft, 2) == pytest.approx(steps(phantom, 2), abs=1)
    i, j, k = np.rint(phantom.volume.index_from_lps((60.0, 60.0, 60.0))).astype(int)
    assert soft.volume.hu[i, j, k] == sharp.volume.hu[i, j, k] == 20


def test_a_calibration_error_leaves_air_alone(phantom):
    wrong = scanned(phantom, hu_offset=15, hu_slope=1.05)
    values = {int(old): set(wrong.volume.hu[phantom.volume.hu == old]) for old in (-1000, 20, 1200)}
    assert values == {-1000: {-1000}, 20: {36}, 1200: {1275}}


def test_landmarks_outside_a_truncated_volume_are_dropped(phantom):
    chest = scanned(phantom, above_t1_mm=20, below_t12_mm=-10)
    low, high = chest.volume.corners_lps_mm[0][2], chest.volume.corners_lps_mm[1][2]
    assert 128 <= low < high <= 320
    assert set(chest.landmarks_lps_mm) == {10, 11, 6}
    assert all(low <= point[2] <= high for point in chest.landmarks_lps_mm.values())
    for key, point in chest.landmarks_lps_mm.items():
        assert (point == phantom.landmarks_lps_mm[key]).all()
        assert chest.volume.hu_at(point) == phantom.volume.hu_at(point)


def test_landmarks_outside_the_field_of_view_are_dropped(phantom):
    narrow = scanned(phantom, field_of_view_mm=150)
    assert set(phantom.landmarks_lps_mm) - set(narrow.landmarks_lps_mm) == {6}
    assert narrow.volume.hu_at(phantom.landmarks_lps_mm[6]) == -1000


def test_a_patient_without_t1_is_not_cut_at_the_neck(phantom):
    from carm_env.patient import Patient

    points = {key: point for key, point in phantom.landmarks_lps_mm.items() if key != 10}
    without = Patient("imported:no-t1", phantom.volume, points)
    assert set(scanned(without, above_t1_mm=0).landmarks_lps_mm) == set(points)


def test_a_scan_that_leaves_no_landmark_is_refused(phantom):
    with pytest.raises(ValueError, match=r"none of the landmarks of imported:phantom|no slices"):
        scanned(phantom, field_of_view_mm=2)


def test_the_couch_lies_behind_the_body(phantom):
    lying = scanned(phantom, couch=True)
    back = 2.0 * (60 - 8)
    behind = lying.volume.lps_from_index(np.argwhere(lying.volume.hu > -950))[:, 1] > back
    assert behind.any()
    for point in phantom.landmarks_lps_mm.values():
        assert lying.volume.hu_at(point) == phantom.volume.hu_at(point)
    assert lying.mid_depth_mm == pytest.approx(phantom.mid_depth_mm, abs=2.0)


def test_metal_lies_on_the_front_and_depends_on_the_seed(phantom):
    first, second = (scanned(phantom, metal=4, seed=seed).volume.hu for seed in (1, 2))
    changed = np.argwhere(first != phantom.volume.hu)
    assert len(changed) and (changed[:, 1] < 8).all()
    assert (first != second).any()
    assert (first == scanned(phantom, metal=4, seed=1).volume.hu).all()


@pytest.mark.parametrize("text", ["7", "7+severity:0.5", "0+groups:kernel.couch", "slice_mm:5+kernel:sharp",
                                  "3+above_t1_mm:-10+couch:true+metal:2"])  # fmt: skip
def test_names_survive_parsing(text):
    name = ScanName.parse(text)
    assert ScanName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the scan is ''"),
        ("07", "expected parts such as 7"),
        ("-1", "expected parts such as 7"),
        ("7+8", "seed of the scan is given twice"),
        ("slices:5", "slice_mm"),
        ("slice_mm:50", "expected 0 to 8"),
        ("slice_mm:thick", "slice_mm of the scan is 'thick', expected a finite number"),
        ("couch:yes", "expected true or false"),
        ("metal:1.5", "metal of the scan is 1.5"),
        ("kernel:hard", "sharp"),
        ("7+severity:2", "expected 0 to 1"),
        ("7+groups:window", "kernel"),
        ("severity:0.5", "no seed"),
    ],
)
def test_wrong_scans_are_named_with_the_patient(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        PatientRef.parse(f"virtual:0?scan={text}")
    assert "virtual:0" in str(caught.value)


def test_a_scan_belongs_to_names_of_every_kind(tmp_path, phantom, monkeypatch):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path))
    save_imported(phantom)
    for text in ("imported:phantom?scan=3", "virtual:4?arms=sides&scan=3", "virtual:4?scan=slice_mm:4"):
        ref = PatientRef.parse(text)
        assert str(ref) == text and PatientRef.parse(str(ref)) == ref and ref.scan is not None
        assert ref != PatientRef.parse(split_scan(text)[0])
    assert str(PatientRef.parse("phantom?scan=3")) == "imported:phantom?scan=3"
    assert str(PatientRef.parse("virtual:4?scan=3&arms=sides")) == "virtual:4?arms=sides&scan=3"
    assert expand_patients("standard/test?scan=3")[:2] == ("virtual:3000?scan=3", "virtual:3001?scan=3")
    assert PatientRef.parse("virtual:4?scan=3").folder == PatientRef.parse("virtual:4").folder
    with pytest.raises(UnknownNameError, match="scan"):
        PatientRef.parse("virtual:4?scn=3")


def test_a_scan_of_a_test_patient_is_a_test_patient():
    assert held_out_reason("virtual:3000?scan=1") == held_out_reason("virtual:3000") is not None
    assert held_out_reason("virtual:1000?scan=1") is None


def test_a_scanned_patient_is_loaded_by_name(tmp_path, phantom, monkeypatch):
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path))
    save_imported(phantom)
    name = "imported:phantom?scan=slice_mm:5"
    patient = load_patient(name)
    assert patient.id == name and patient.volume.spacing_mm.tolist() == [2, 2, 5]
    assert patient.card["scan"] == {"of": "imported:phantom", "slice_mm": 5.0}
    assert patient.fingerprint == load_patient(name).fingerprint != phantom.fingerprint
    assert load_scene(name).patient.id == name


def test_each_patient_has_a_draw_of_its_own_with_enough_landmarks(phantom):
    from carm_env.patient import Patient

    name, drawn = ScanName.parse("1"), set()
    for number in range(12):
        patient = Patient(f"imported:p{number}", phantom.volume, phantom.landmarks_lps_mm)
        scan = name.scan_of(patient)
        assert scan == name.scan_of(patient)
        # A real CT may have a couch already.
        assert not scan.couch
        assert len(name.scan(patient).landmarks_lps_mm) >= 3
        drawn.add(scan)
    assert len(drawn) == 12
    assert ScanName.parse("1+kernel:sharp").scan_of(phantom).kernel == "sharp"
    assert ScanName.parse("1+severity:0").scan_of(phantom).is_identity


def test_names_get_scans_unless_they_have_one():
    names = ["virtual:1", "virtual:2?scan=kernel:soft"]
    domain = DomainRandomization(0.5)
    assert with_scans(names, domain) == ["virtual:1?scan=0+severity:0.5", names[1]]
    assert with_scans(names, DomainRandomization()) == names
    assert with_scans(names, DomainRandomization(1.0, ("window",))) == names
    assert with_scans(names[:1], DomainRandomization(1.0, ("kernel",))) == ["virtual:1?scan=0+groups:kernel"]
