from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.anatomy.layout import landmark_layout
from carm_env.anatomy.parameters import LIMITS, PatientParameters
from carm_env.anatomy.population import VirtualPatient, draw_layout_mm, posed_layout_mm
from carm_env.landmarks import landmark
from carm_env.system.errors import UnknownNameError


def test_seed_zero_is_the_average_patient():
    assert VirtualPatient().parameters == PatientParameters(table=True)
    assert VirtualPatient(0, arms="sides").parameters == PatientParameters(arms="sides", table=True)


@given(st.integers(0, 2**32))
@settings(max_examples=40)
def test_every_seed_is_one_valid_patient(seed):
    parameters = VirtualPatient(seed).parameters
    assert parameters == VirtualPatient(seed).parameters
    for name, (low, high) in LIMITS.items():
        assert low <= getattr(parameters, name) <= high
    assert PatientParameters(**json.loads(json.dumps(parameters.to_json()))) == parameters


def test_given_values_are_kept_and_do_not_change_the_others():
    drawn, given_age = VirtualPatient(5), VirtualPatient(5, age=30)
    assert given_age.person["age"] == 30
    assert given_age.person["stature_cm"] == drawn.person["stature_cm"]
    assert given_age.parameters.layout_mm == drawn.parameters.layout_mm
    assert VirtualPatient(5, fat_mm=8).parameters.fat_mm == 8


def test_the_body_mass_index_sets_the_weight():
    given = VirtualPatient(5, bmi=40)
    assert given.person["bmi"] == pytest.approx(40)
    assert given.person["weight_kg"] == pytest.approx(40 * (given.person["stature_cm"] / 100) ** 2, abs=0.15)
    assert given.given == {"bmi": 40}
    assert {VirtualPatient(seed, bmi=60, stature_cm=160 + seed).person["bmi"] for seed in range(40)} == {60}
    same = VirtualPatient(5, stature_cm=given.person["stature_cm"], weight_kg=given.person["weight_kg"])
    assert same.parameters.fat_mm == pytest.approx(given.parameters.fat_mm, abs=0.1)


def test_the_body_depends_on_the_person():
    lean, heavy = (VirtualPatient(5, stature_cm=170, weight_kg=weight).parameters for weight in (52, 120))
    assert heavy.fat_mm > lean.fat_mm + 10 and heavy.belly_mm > lean.belly_mm + 20
    young, old = (VirtualPatient(5, age=age).parameters for age in (25, 85))
    assert young.bone_density > old.bone_density and young.kyphosis_deg < old.kyphosis_deg
    assert young.degeneration < 0.3 < old.degeneration
    woman, man = (VirtualPatient(5, sex=sex).parameters for sex in ("female", "male"))
    assert man.female == 0 < woman.female
    short, tall = (VirtualPatient(5, stature_cm=stature).parameters for stature in (150, 195))
    assert short.scale < tall.scale
    length = [np.reshape(body.layout_mm, (-1, 2))[[0, 13], 1] @ [1, -1] for body in (short, tall)]
    assert length[0] < length[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sex": "f"}, "unknown sex 'f'"),
        ({"age": 3}, "age is 3, expected a number from 18 to 95"),
        ({"stature_cm": "170"}, "stature_cm is '170'"),
        ({"weight_kg": float("nan")}, "weight_kg is nan"),
        ({"stature_cm": 180, "weight_kg": 31}, "body mass index of 9.6"),
        ({"bmi": 61}, "bmi is 61, expected a number from 13 to 60"),
        ({"bmi": 30, "weight_kg": 80}, "got weight_kg 80 and bmi 30"),
        ({"bmi": 60, "stature_cm": 215}, "at 215 cm is 277.3 kg, expected 30 to 250 kg: change bmi or stature_cm"),
        ({"weigth_kg": 80}, "Did you mean 'weight_kg'"),
        ({"layout_mm": [0.0] * 28}, "unknown patient option"),
        ({"fat_mm": 99}, "fat_mm is 99"),
    ],
)
def test_an_impossible_person_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        VirtualPatient(1, **options)


def test_an_unknown_arm_pose_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'one_up'"):
        VirtualPatient(1, arms="one-up")  # type: ignore[arg-type]


def test_about_half_of_the_patients_lie_on_a_table_in_their_volume():
    tables = [VirtualPatient(seed).parameters.table for seed in range(1, 60)]
    assert 0.3 < np.mean(tables) < 0.7
    seed = 1 + tables.index(True)
    assert not VirtualPatient(seed, table=False).parameters.table


def test_heads_are_flexed_and_extended_and_the_flexion_can_be_set():
    assert 6 < np.std([VirtualPatient(seed).parameters.head_nod_deg for seed in range(1, 200)]) < 9
    assert VirtualPatient(4, head_nod_deg=3).parameters.head_nod_deg == 3


def rotations(degrees) -> np.ndarray:
    """Matrices that rotate row vectors (left, cranial) so that the head moves to the left."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)


def test_drawn_layouts_have_the_statistics_of_the_annotated_patients():
    upright, tilts = zip(*(draw_layout_mm(seed) for seed in range(1, 1201)), strict=True)
    layouts = np.array(upright) @ rotations(np.array(tilts))
    layouts -= layouts.mean(axis=1, keepdims=True)
    reference = landmark_layout()
    assert np.abs(layouts.mean(axis=0) - reference.mean_mm).max() < 1.5
    # Drawn with a slightly larger standard deviation than the reference, which posing reduces.
    ratio = layouts.std(axis=0, ddof=1) / np.sqrt(np.diag(reference.covariance_mm2)).reshape(-1, 2)
    assert 0.85 < ratio.min() and ratio.max() < 1.18


def test_posed_patients_are_close_to_their_drawn_layout(skeleton):
    distances = []
    for seed in range(101, 125):
        parameters = VirtualPatient(seed).parameters
        drawn = np.reshape(parameters.layout_mm, (-1, 2)) @ rotations(parameters.askew_deg)
        posed = posed_layout_mm(VirtualPatient(seed), skeleton)
        distances.append(np.linalg.norm(posed - (drawn - drawn.mean(axis=0)), axis=-1))
    assert np.median(distances) < 6
    assert np.percentile(distances, 95) < 25


def test_the_table_pose_keeps_the_shape_of_the_patient(skeleton):
    straight = posed_layout_mm(VirtualPatient(0), skeleton)
    askew = posed_layout_mm(VirtualPatient(0, askew_deg=10.0), skeleton)
    # The highest points of the domes, the highest on the table, are not the same points of the body.
    domes = [landmark(f"{side} hemidiaphragm").index for side in ("Right", "Left")]
    rigid, first = np.setdiff1d(np.arange(len(straight)), domes), landmark("T1").index
    turned = straight @ rotations(10.0)
    np.testing.assert_allclose((askew - askew[first])[rigid], (turned - turned[first])[rigid], atol=1e-6)
    assert np.abs((askew - askew[first]) - (turned - turned[first])).max() < 0.5
    assert askew[landmark("Skull").index, 0] > straight[landmark("Skull").index, 0] + 30, "the head is to the left"
