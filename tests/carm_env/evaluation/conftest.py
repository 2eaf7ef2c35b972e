from functools import cache

import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import load_suite

RUN = {"date": "2026-01-02T03:04:05+00:00", "seed": 0, "git": "abc", "packages": {"numpy": "2"}, "python": "3"}
RIGHT = Move(2, 0)
smoke = cache(load_suite)


def finished_result(policy="mine", episode=0, success=True, suite="smoke", **changes):
    """A result that a run of the suite could have given: one move of 60 mm and a declaration."""
    frozen = smoke(suite)
    spec = frozen.episodes[episode]
    x = 10.0 * episode
    values = dict(
        policy=policy,
        suite=suite,
        suite_version=frozen.version,
        suite_hash=frozen.hash,
        episode=episode,
        seed=episode,
        patient=spec.patient,
        patient_fingerprint=f"build of {spec.patient}",
        target=spec.target,
        start_lps_mm=[x, 0.0, 1400.0],
        outcome="success" if success else "misaligned",
        success=success,
        initial_distance_mm=60.0,
        final_distance_mm=0.0 if success else 120.0,
        steps=2,
        exposures=2,
        dose_mgy=0.5,
        path_mm=60.0,
        path_efficiency=1.0 if success else 0.0,
        invalid_answers=0,
        latency_ms=1.0,
        moves=[RIGHT.index, ALIGNED.index],
        trajectory_lps_mm=[[x, 0.0, 1400.0], *[[x + (60.0 if success else -60.0), 0.0, 1400.0]] * 2],
        run=RUN,
    )
    return EpisodeResult(**{**values, **changes})


@pytest.fixture
def finished():
    """The function `finished_result`."""
    return finished_result
