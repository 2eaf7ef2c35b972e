import dataclasses
import json

import pytest

from carm_env.evaluation.results import EpisodeResult

PACKAGES = {"carm-env": "0.1.0", "gymnasium": "1", "numba": "0.6", "numpy": "2", "mujoco": "3", "myo-sim": "0.2"}
RUN = {"date": "d", "seed": 0, "git": "g", "packages": PACKAGES, "python": "3", "processor": "p", "cpus": 2}


def make_result(policy="mine", episode=0, success=True, patients=6, **changes):
    """A result; episode i is of patient i modulo `patients`."""
    values = dict(
        policy=policy,
        suite="s",
        suite_version=1,
        suite_hash="abcdef0123456789",
        episode=episode,
        seed=episode,
        patient=f"virtual:{episode % patients}",
        patient_fingerprint=f"f{episode % patients}",
        target=1,
        start_lps_mm=[0.0, 0.0, float(episode)],
        outcome="success" if success else "misaligned",
        success=bool(success),
        initial_distance_mm=100.0,
        final_distance_mm=10.0 if success else 90.0,
        steps=4,
        exposures=4 if success else 20,
        dose_mgy=0.4,
        path_mm=120.0,
        path_efficiency=0.8 if success else 0.0,
        invalid_answers=0,
        latency_ms=1.0,
        moves=[1, 24],
        trajectory_lps_mm=[[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]],
        run=RUN,
    )
    return EpisodeResult(**{**values, **changes})


@pytest.fixture(name="make_result")
def make_result_fixture():
    """The function `make_result`."""
    return make_result


@pytest.fixture
def write_results(tmp_path):
    """Writes results to a file in a folder of the given name, and returns the file."""

    def write(name, results):
        path = tmp_path / name / "episodes.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in results), encoding="utf-8")
        return path

    return write
