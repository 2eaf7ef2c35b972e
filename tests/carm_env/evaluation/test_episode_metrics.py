"""Metrics of how episodes went, against brute force and by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.episode_metrics import (
    episode_scores,
    first_move_error_deg,
    latency_percentiles_ms,
    oscillation,
    right_abstention,
    success_by,
    success_curves,
)
from carm_env.evaluation.episodes import (
    EpisodeRecord,
    EpisodeTask,
    episode_result,
    make_suite_environment,
    reset_episode,
)
from carm_env.evaluation.suite import Suite

ORIGIN = [0.0, 0.0, 0.0]
# The fixture gives a function without state.
property_test = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("goal", "step", "degrees"),
    [([30.0, 0.0], [60, 0, 0], 0), ([0.0, 30.0], [60, 0, 0], 90), ([-10.0, 0.0], [30, 0, 0], 180),
     ([30.0, 30.0], [0, 0, 30], 45)],
)  # fmt: skip
def test_the_error_of_the_first_move(make_result, goal, step, degrees):
    path = [ORIGIN, [float(value) for value in step]]
    result = make_result(trajectory_lps_mm=path, start_displacement_mm=goal)
    assert first_move_error_deg(result) == pytest.approx(degrees, abs=1e-5)


def test_without_a_first_move_there_is_no_error(make_result):
    assert first_move_error_deg(make_result(trajectory_lps_mm=[ORIGIN], start_displacement_mm=[3.0, 4.0])) is None
    declared = make_result(trajectory_lps_mm=[ORIGIN, ORIGIN], start_displacement_mm=[3.0, 4.0])
    assert first_move_error_deg(declared) is None
    assert first_move_error_deg(make_result(start_displacement_mm=[])) is None


def test_the_first_move_towards_the_target_has_a_small_error(small_patients):
    """The signs of the moves are those of the image."""
    suite = Suite("s", 1, "d", 20, (EpisodeSpec(small_patients[0], 4, 1), EpisodeSpec(small_patients[0], 5, 4)))
    env = make_suite_environment(suite)
    for number in range(2):
        task = EpisodeTask(suite, number, "p", 0)
        _, info = reset_episode(env, task)
        record = EpisodeRecord.begin(info)
        best = env.lattice.closest_move(info["displacement_mm"]).index
        _, _, declared, _, info = env.step(best)
        record.add_move(best, declared, info)
        result = episode_result(task, env, info, record)
        assert first_move_error_deg(result) < 40
        assert result.tolerance_mm == env.tolerance_mm and result.dap_mgy_cm2 > 0


@property_test
@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=0, max_size=12))
def test_oscillation_counts_steps_back(make_result, directions):
    path = np.cumsum([0, *directions])
    result = make_result(trajectory_lps_mm=[[30.0 * x, 0.0, 0.0] for x in path.tolist()])
    moves = [one for one in directions if one]
    pairs = [a * b < 0 for a, b in zip(moves, moves[1:], strict=False)]
    assert oscillation(result) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_a_right_abstention_would_have_declared_wrongly(make_result):
    def handed_back(distance, **changes):
        return make_result(success=False, outcome="abstained", final_distance_mm=distance, tolerance_mm=15.0, **changes)

    assert right_abstention(handed_back(16.0)) == 1 and right_abstention(handed_back(15.0)) == 0
    assert right_abstention(make_result()) is None
    found = episode_scores([handed_back(16.0), handed_back(3.0), make_result()])
    assert found["right_abstentions"] == 0.5 and found["latency_ms_p50"] is None
    # Results of earlier commits state neither.
    earlier = episode_scores([make_result()])
    assert earlier["limit_hits"] is None and earlier["dap_mgy_cm2"] is None


def test_percentiles_are_over_decisions(make_result):
    results = [make_result(decision_ms=[1.0] * 15), make_result(decision_ms=[100.0] * 5)]
    assert latency_percentiles_ms(results) == (1.0, 100.0)


def test_success_is_counted_by_target_distance_and_patient(make_result):
    results = [
        make_result(episode=n, target=1 + n % 2, initial_distance_mm=[50.0, 100.0, 450.0][n % 3], success=n % 4 == 0)
        for n in range(24)
    ]
    found = success_by(results)
    assert set(found["start_distance_mm"]) == {"0-100", "100-200", "from 400"}
    assert found["target"]["Skull"]["value"] == 0.5 and list(found["target"].values())[1]["value"] == 0
    assert sum(one["views"] for one in found["patient"].values()) == 24


@property_test
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=20))
def test_curves_are_monotone_and_end_at_the_success(make_result, episodes):
    results = [make_result(success=won, exposures=n, dose_mgy=0.1 * n) for won, n in episodes]
    for curve in success_curves(results).values():
        shares = [share for _, share in curve]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(np.mean([won for won, _ in episodes]))
    exposures = dict(success_curves(results)["exposures"])
    for limit, share in exposures.items():
        assert share == pytest.approx(np.mean([won and n <= limit for won, n in episodes]))
