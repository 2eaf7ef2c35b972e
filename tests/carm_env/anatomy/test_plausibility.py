from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.anatomy.layout import annotated_layouts_mm, landmark_layout
from carm_env.anatomy.plausibility import check_landmarks
from carm_env.landmarks import LANDMARKS
from carm_env.volume import Volume

ANNOTATIONS = Path(__file__).parents[4] / "shared/reference/carm_llm/data/classification.csv"


def mean_landmarks(layout: np.ndarray | None = None) -> dict[int, np.ndarray]:
    layout = landmark_layout().mean_mm if layout is None else layout
    return {item.id: np.array([layout[item.index, 0], 200.0, 1400 + layout[item.index, 1]]) for item in LANDMARKS}


def changed(**changes: list[float]) -> dict[int, np.ndarray]:
    return {**mean_landmarks(), **{int(key[1:]): np.array(value) for key, value in changes.items()}}


def test_virtual_patients_are_plausible(anatomy, patient_with_arms_at_sides):
    assert not check_landmarks(mean_landmarks()).findings
    assert not check_landmarks(anatomy.landmarks_lps_mm, anatomy.volume).findings
    assert not check_landmarks(patient_with_arms_at_sides.landmarks_lps_mm).findings


def swap(points, *pairs):
    points = dict(points)
    for a, b in pairs:
        points[a], points[b] = points[b], points[a]
    return points


FAULTS = {
    "metres": ({key: point / 1000 for key, point in mean_landmarks().items()}, "(metres?)"),
    "centimetres": ({key: point / 20 for key, point in mean_landmarks().items()}, "(centimetres or voxels?)"),
    "micrometres": ({key: point * 1000 for key, point in mean_landmarks().items()}, "more than a person"),
    "ras": ({key: point * [-1, -1, 1] for key, point in mean_landmarks().items()}, "RAS instead of LPS"),
    "one pair": (swap(mean_landmarks(), (2, 3)), "swapped in humeral head but not elsewhere"),
    "order": (swap(mean_landmarks(), (10, 14)), "T1 is below"),
    "upside down": ({key: point * [1, 1, -1] for key, point in mean_landmarks().items()}, "head is below the feet"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_with_its_description(fault):
    points, message = FAULTS[fault]
    report = check_landmarks(points)
    assert report.errors and message in str(report), str(report)


def test_a_landmark_far_from_the_others_is_a_warning():
    report = check_landmarks(changed(p11=[-6.6 + 120, 200, 1400 + 54]))
    assert not report.errors and "Carina is" in str(report)


@pytest.mark.parametrize(("key", "shift_mm"), [(14, -110.0), (10, 80.0), (12, 95.0), (4, -90.0), (1, 90.0)])
def test_an_implausible_height_is_an_error(key, shift_mm):
    points = {name: mean_landmarks()[name] for name in (1, 4, 5, 10, 11, 12, 13, 14)}
    assert not check_landmarks(points).findings
    points[key] = points[key] + [0.0, 0.0, shift_mm]
    report = check_landmarks(points)
    assert report.errors, str(report)


@pytest.mark.parametrize("scale", [0.8, 1.15])
def test_small_and_tall_people_are_plausible(scale):
    points = {key: point * [scale, 1.0, scale] for key, point in mean_landmarks().items()}
    assert not check_landmarks(points).errors


def test_points_outside_the_volume_or_in_air_are_reported():
    volume = Volume.from_origin(np.full((60, 40, 80), -1000, np.int16), 10.0, (-300, 0, 1000))
    report = check_landmarks(mean_landmarks(), volume)
    assert "is in air" in str(report) and not report.errors
    far = check_landmarks(changed(p14=[0, 200, 900]), volume)
    assert "100 mm outside the volume" in str(far)


@given(st.dictionaries(st.integers(1, 14), st.tuples(*[st.floats(-1e6, 1e6)] * 3)))
@settings(max_examples=80)
def test_the_check_accepts_every_set_of_points(points):
    volume = Volume.from_origin(np.zeros((4, 4, 4), np.int16), 10.0, (0, 0, 0))
    str(check_landmarks({key: np.array(value) for key, value in points.items()}, volume))


@pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="the authors' annotations (../shared) are not here")
def test_few_annotated_patients_are_implausible():
    reports = [check_landmarks(mean_landmarks(layout)) for layout in annotated_layouts_mm(ANNOTATIONS)]
    assert sum(bool(report.errors) for report in reports) <= 3
    assert np.mean([bool(report.findings) for report in reports]) < 0.05
