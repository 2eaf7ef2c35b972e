from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.anatomy.parameters import LIMITS, PatientParameters
from carm_env.errors import UnknownNameError


def test_seed_zero_is_the_default_patient():
    assert PatientParameters.from_seed(0) == PatientParameters()


@given(st.integers(0, 2**32))
def test_every_seed_gives_one_valid_patient(seed):
    drawn = PatientParameters.from_seed(seed)
    assert drawn == PatientParameters.from_seed(seed)
    for name, (low, high) in LIMITS.items():
        assert low <= getattr(drawn, name) <= high
    assert PatientParameters(**json.loads(json.dumps(drawn.to_json()))) == drawn


def test_seeds_differ_and_options_override_the_drawn_values():
    assert PatientParameters.from_seed(1).scale != PatientParameters.from_seed(2).scale
    thin = PatientParameters.from_seed(1, fat_mm=8)
    assert thin.fat_mm == 8.0
    assert thin.scale == PatientParameters.from_seed(1).scale


@pytest.mark.parametrize("given_name, nearest", [("arm", "arms"), ("fat", "fat_mm"), ("lung", "lung_hu")])
def test_an_unknown_option_names_the_nearest_valid_one(given_name, nearest):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        PatientParameters.from_seed(0, **{given_name: 1})


def test_an_unknown_arm_pose_names_the_nearest_valid_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'crossed'"):
        PatientParameters(arms="cross")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_values_outside_the_limits_are_refused_by_name(name):
    low, high = LIMITS[name]
    for value in (low - 1, high + 1, math.nan, math.inf, "1", None, True):
        with pytest.raises(ValueError, match=name):
            PatientParameters(**{name: value})
    for value in (low, high):
        assert getattr(PatientParameters(**{name: value}), name) == value


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None])
def test_a_seed_is_a_whole_number_from_zero(seed):
    with pytest.raises(ValueError, match="seed"):
        PatientParameters(seed=seed)


def test_findings_have_one_order_and_one_spelling():
    texts = (
        "pacemaker:left+pneumothorax:right",
        ["pneumothorax:right", "pacemaker"],
        ("pacemaker", "pneumothorax:right"),
    )
    assert {PatientParameters(findings=text).findings for text in texts} == {("pneumothorax:right", "pacemaker")}
    assert PatientParameters(findings="").findings == ()


def test_both_sides_of_a_finding_are_two_findings():
    assert PatientParameters(findings="pneumothorax:right+pneumothorax").findings == (
        "pneumothorax",
        "pneumothorax:right",
    )


@pytest.mark.parametrize(
    "given_findings, message",
    [
        ("pacemakr", "Did you mean 'pacemaker'"),
        ("pneumothorax:lef", "Did you mean 'left'"),
        ("sternal_wires:left", "has no side"),
        ("pacemaker+pacemaker:left", "given twice"),
        (3, "expected names such as"),
        ([3], "unknown finding 3"),
    ],
)
def test_a_finding_that_does_not_exist_is_refused(given_findings, message):
    with pytest.raises(ValueError, match=message):
        PatientParameters(findings=given_findings)


@pytest.mark.parametrize("size", [0.5, 3, "2", None, True, math.nan])
def test_a_voxel_size_is_one_of_those_offered(size):
    with pytest.raises(UnknownNameError, match="voxel size"):
        PatientParameters(voxel_mm=size)


def test_a_name_with_findings_and_voxel_size_names_the_same_patient_again(monkeypatch):
    from carm_env.anatomy import build
    from carm_env.catalogue import load_patient

    name = "virtual:3?findings=pneumothorax:right+pacemaker&voxel_mm=1.5"
    monkeypatch.setattr(build, "virtual_patient", lambda **options: PatientParameters.from_seed(**options))
    assert build.patient_id(load_patient(name)) == name
