"""The success that policies keep under shifts."""

import json

import numpy as np
from PIL import Image

from benchmarks import robustness
from carm_env.evaluation.shifts import Shift
from carm_env.patients.reference import PatientRef
from carm_env.system.command_line import run_script


def main(*words):
    return run_script(robustness.run, robustness.Arguments, given=[str(word) for word in words])


def test_a_profile_has_every_shift_and_severity(small_patients, tmp_path, capsys):
    words = ["--policies", "oracle", "random", "--shifts", "collimation", "polarity:1", "askew:2", "--episodes", 2]
    words += ["--patients", small_patients[0], "--workers", 1, "--out", tmp_path, "--json", tmp_path / "r.json"]
    assert main(*words) == 0
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    oracle = found["oracle"]
    assert oracle["clean"]["success"] == 1 and oracle["clean"]["episodes"] == 2
    assert {name: list(own) for name, own in oracle["shifts"].items()} == {
        "collimation": ["1", "2", "3"], "polarity": ["1"], "askew": ["2"],
    }  # fmt: skip
    assert all(own["relative"] == 1 for shifts in oracle["shifts"].values() for own in shifts.values())
    hashes = {own["suite_hash"] for shifts in oracle["shifts"].values() for own in shifts.values()}
    assert len(hashes | {oracle["clean"]["suite_hash"]}) == 6
    page = (tmp_path / "profile_oracle.md").read_text(encoding="utf-8")
    assert "| askew       | -               | 100%, 100% kept | -  " in page and page in capsys.readouterr().out
    with Image.open(tmp_path / "robustness.png") as image:
        assert np.asarray(image.convert("L")).std() > 5

    # Everything is there: no episode runs again.
    assert main(*words, "--resume") == 0
    assert "(24 already done)" in capsys.readouterr().out


def test_every_patient_is_loaded_once_to_prepare_the_suites(small_patients, tmp_path, monkeypatch):
    words = ["--policies", "oracle", "--shifts", "collimation:1", "askew:1", "askew:2", "--episodes", 1, "--workers", 1]
    words += ["--patients", *small_patients[:2], "--out", tmp_path, "--resume"]
    assert main(*words) == 0
    loaded, load = [], PatientRef.load

    def recorded(ref, **options):
        loaded.append(str(ref))
        return load(ref, **options)

    monkeypatch.setattr(PatientRef, "load", recorded)
    # No episode runs: nothing else loads patients.
    assert main(*words) == 0
    assert len(loaded) == 6 and len(set(loaded)) == 6


def test_without_success_nothing_is_relative():
    scores = {"success": 0.0, "success_interval": [0.0, 0.1], "abstained": 0.0, "exposures": 5.0, "episodes": 9,
              "patients": 9, "suite_hash": "h"}  # fmt: skip
    better = {**scores, "success": 0.5}
    shifts, kept = (Shift("blur", 1),), {"s-blur-1": list(range(9))}
    found = robustness.profiles(
        {"p": {"s": scores, "s-blur-1": better}}, shifts, {"p": dict.fromkeys(range(9), False)}, kept
    )
    assert found["p"]["shifts"]["blur"]["1"]["relative"] is None
    assert "50% (0%-10%) " in robustness.table(found["p"])


def test_the_success_kept_is_that_of_the_same_episodes():
    """A shift that leaves out the episodes that fail anyway keeps nothing more for it."""
    own = {"success_interval": [0.0, 1.0], "abstained": 0.0, "exposures": 5.0, "patients": 9, "suite_hash": "h"}
    clean, shifted = {**own, "success": 0.5, "episodes": 4}, {**own, "success": 0.5, "episodes": 2}
    successes = {"p": {0: False, 1: True, 2: False, 3: True}}
    shift = Shift("missing_landmark", 1)
    scores = {"p": {"s": clean, "s-missing_landmark-1": shifted}}
    for kept, relative in (([1, 3], 0.5), ([0, 1], 1.0), ([0, 2], None), ([1, 9], None)):
        found = robustness.profiles(scores, (shift,), successes, {"s-missing_landmark-1": kept})
        assert found["p"]["shifts"]["missing_landmark"]["1"]["relative"] == relative


def test_wrong_shifts_are_named(script_error):
    assert "unknown shift 'colimation'" in script_error(robustness, "--shifts", "colimation")
    assert "expected 1, 2 or 3" in script_error(robustness, "--shifts", "blur:7")
