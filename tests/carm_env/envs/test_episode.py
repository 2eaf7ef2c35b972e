import numpy as np
import pytest

from carm_env.envs.episode import EpisodeSpec, draw_start, draw_target, parse_start, start_isocenter_lps_mm
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, planar_displacement_mm
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume


@pytest.fixture(scope="module")
def patient():
    hu = np.full((60, 30, 90), -1000, np.int16)
    hu[15:45, 5:25, 5:85] = 40
    points = {1: np.array([0.0, 10, 400]), 10: np.array([0.0, 20, 200]), 14: np.array([50.0, 20, 100])}
    return Patient("test", Volume.from_origin(hu, 5.0, (-150, -50, 0)), points)


@pytest.mark.parametrize("start", [4, (1.5, -2.0), (1.0, 2.0, 3.0)])
def test_manifest_entries_round_trip(start):
    spec = EpisodeSpec("virtual:1", 13, start)
    assert EpisodeSpec.from_json(spec.to_json()) == spec


def test_landmarks_are_given_by_name_or_id():
    entry = {"patient": "virtual:0", "target": "skull", "start": "right scapular inferior angle"}
    assert EpisodeSpec.from_json(entry) == EpisodeSpec("virtual:0", 1, 4)


def test_invalid_entries_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'target'"):
        EpisodeSpec.from_json({"patient": "virtual:0", "targt": 1, "start": 4})
    with pytest.raises(ValueError, match="lacks start"):
        EpisodeSpec.from_json({"patient": "virtual:0", "target": 1})
    with pytest.raises(UnknownNameError):
        EpisodeSpec("virtual:0", 15, 4)


@pytest.mark.parametrize("start", [(1,), (1, 2, 3, 4), (1, float("nan")), None, 3.5, ("a", "b")])
def test_invalid_starts_are_refused(start):
    with pytest.raises(ValueError, match="start is"):
        parse_start(start)


def test_starts_without_depth_are_in_front_of_mid_depth(patient):
    for depth in (DEFAULT_ISOCENTER_DEPTH_MM, 0.0):
        y = patient.mid_depth_mm - depth
        np.testing.assert_allclose(start_isocenter_lps_mm(10, patient, isocenter_depth_mm=depth), [0, y, 200])
        np.testing.assert_allclose(start_isocenter_lps_mm((5, 210), patient, isocenter_depth_mm=depth), [5, y, 210])
    np.testing.assert_allclose(
        start_isocenter_lps_mm(10, patient)[1], patient.mid_depth_mm - DEFAULT_ISOCENTER_DEPTH_MM
    )
    np.testing.assert_allclose(start_isocenter_lps_mm((5, -128, 210), patient), [5, -128, 210])


@pytest.mark.parametrize("start", [(0, 5000), (0, -5000), (5000, 200), (-5000, 200), (0, 5000, 200), (0, -5000, 200)])
def test_starts_outside_the_workspace_are_refused(patient, start):
    (low_x, low_z), (high_x, high_z) = patient.workspace_mm.round().astype(int)
    ranges = f"x from {low_x} to {high_x}, y from -50 to 95 and z from {low_z} to {high_z}"
    with pytest.raises(ValueError, match=f"outside the workspace of test: expected {ranges}"):
        start_isocenter_lps_mm(start, patient)


def test_starts_at_the_edge_of_the_workspace_are_valid(patient):
    for x, z in patient.workspace_mm:
        start_isocenter_lps_mm((x, z), patient)


def test_starts_over_absent_landmarks_are_refused(patient):
    with pytest.raises(ValueError, match="no landmark 'Carina'"):
        start_isocenter_lps_mm(11, patient)


def test_draws_are_known_targets_and_starts_over_the_body(patient):
    rng = np.random.default_rng(0)
    targets = {draw_target(patient, rng) for _ in range(100)}
    assert targets == {1, 10, 14}
    low, high = patient.workspace_mm
    for _ in range(100):
        x, z = draw_start(patient, 10, 25.0, rng)
        assert patient.covers(x, z)
        assert np.hypot(x - 0, z - 200) > 25
        assert low[0] <= x <= high[0] and low[1] <= z <= high[1]


def test_patients_without_targets_cannot_be_navigated(patient):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="bare has no landmarks.*It has: none"):
        draw_target(Patient("bare", patient.volume, {}), rng)
    with pytest.raises(ValueError, match="among the targets Carina, Left hemidiaphragm, .*It has: Skull, T1, T12"):
        draw_target(patient, rng, (11, 13))


def test_targets_are_drawn_among_those_given(patient):
    rng = np.random.default_rng(0)
    assert {draw_target(patient, rng, (1, 11, 14)) for _ in range(50)} == {1, 14}


def test_starts_are_farther_than_the_tolerance_in_an_oblique_view(patient):
    view = CArmPose((0, 0, 0), alpha_deg=45.0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, z = draw_start(patient, 10, 60.0, rng, view)
        pose = CArmPose((x, patient.mid_depth_mm, z), alpha_deg=45.0)
        assert np.hypot(*planar_displacement_mm(pose, patient.landmarks_lps_mm[10])) > 60.0


def test_starts_that_do_not_exist_are_an_error(patient):
    with pytest.raises(ValueError, match="no start farther than 10000.0 mm"):
        draw_start(patient, 10, 10_000.0, np.random.default_rng(0))
