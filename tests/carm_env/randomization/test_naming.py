"""Names of scanned patients: a name identifies the scan, and a malformed one is an error that names the patient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.patients.reference import PatientRef
from carm_env.randomization.draw import SCAN_GROUPS
from carm_env.randomization.naming import ScanName
from carm_env.randomization.scan import LIMITS
from carm_env.system.errors import UnknownNameError

FIELDS = {name: st.floats(*limits) for name, limits in LIMITS.items() if name != "metal"} | {
    "metal": st.integers(*LIMITS["metal"]),
    "kernel": st.sampled_from(["soft", "standard", "sharp"]),
    "couch": st.booleans(),
}
GIVEN = st.fixed_dictionaries({}, optional=FIELDS).map(lambda fields: tuple(fields.items()))
GROUPS = st.lists(st.sampled_from(SCAN_GROUPS), min_size=1).map(tuple)
SCANS = st.one_of(
    st.builds(ScanName, st.integers(0, 2**70), st.floats(0, 1), GROUPS, GIVEN),
    st.builds(ScanName, given=GIVEN.filter(bool)),
)
PATIENTS = st.sampled_from(["virtual:3000", "virtual:7?arms=sides", "virtual:7?findings=pacemaker&age=50.123456789"])


@given(SCANS, PATIENTS)
def test_the_full_name_identifies_the_patient(scan, patient):
    assert ScanName.parse(str(scan)) == scan
    ref = PatientRef.parse(f"{patient}{'&' if '?' in patient else '?'}scan={scan}")
    assert ref.scan == scan
    again = PatientRef.parse(str(ref))
    assert again == ref and str(again) == str(ref)


@pytest.mark.parametrize("scan", ["slice_mm:2.3456789", "7+severity:0.123456789", "7+hu_offset:-1e-07"])
def test_numbers_keep_all_their_digits(scan):
    assert str(PatientRef.parse(f"virtual:3000?scan={scan}")) == f"virtual:3000?scan={scan}"


def test_one_scan_has_one_name():
    assert str(ScanName.parse("7+hu_offset:-0.0+severity:-0")) == "7+severity:0+hu_offset:0"
    given = (("slice_mm", np.float64(2.5)), ("pixel_mm", 3))
    assert str(ScanName(given=given)) == "pixel_mm:3+slice_mm:2.5"
    assert ScanName(given=given) == ScanName.parse("slice_mm:2.50+pixel_mm:3.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 7, "groups": ()}, "groups of the scan is empty, expected some of resolution"),
        ({"seed": 7, "groups": ("window",)}, "unknown group of a scan 'window'"),
        ({"seed": -1}, "seed of the scan is -1"),
        ({"seed": True}, "seed of the scan is True"),
        ({"seed": 7, "given": (("seed", 3),)}, "unknown part of a scan 'seed'"),
        ({"seed": 7, "given": (("above_t1_mm", None),)}, "above_t1_mm of the scan is None"),
        ({"given": (("slice_mm", 3.0), ("slice_mm", 4.0))}, "slice_mm of the scan is given twice"),
    ],
)
def test_scans_without_a_name_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ScanName(**arguments)


@pytest.mark.parametrize(
    ("patient", "message"),
    [
        ("virtual:3000?scan=7?", "the scan is '7\\?', expected parts such as 7"),
        ("virtual:3000?scan=7?scan=8", "expected parts such as 7"),
        ("virtual:3000?%73can=7", "scan is percent-encoded, expected plain text as in scan=7"),
        ("virtual:3000?scan=metal:inf", "metal of the scan is 'inf', expected a finite number"),
        ("virtual:3000?scan=metal:nan", "metal of the scan is 'nan', expected a finite number"),
        ("virtual:3000?scan=slice_mm:inf", "slice_mm of the scan is 'inf', expected a finite number"),
        ("virtual:3000?scan=7&scan=8", "scan is given twice"),
    ],
)
def test_malformed_scans_are_errors_that_name_the_patient(patient, message):
    with pytest.raises(ValueError, match=message) as caught:
        PatientRef.parse(patient)
    assert repr(patient) in str(caught.value)


def test_a_file_has_one_scan(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.touch()
    with pytest.raises(ValueError, match="scan is given twice"):
        PatientRef.parse(f"{path}?scan=7?scan=8")
    ref = PatientRef.parse(f"{path}?scan=7")
    assert PatientRef.parse(str(ref)) == ref and ref.path == path


def test_an_option_that_resembles_scan_is_told():
    with pytest.raises(UnknownNameError, match="Did you mean 'scan'"):
        PatientRef.parse("virtual:3000??scan=7")
