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
