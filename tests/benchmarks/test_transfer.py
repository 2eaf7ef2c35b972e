"""The comparison of policies between groups of patients."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import transfer
from benchmarks._support import patient_groups
from benchmarks._support.region_coverage import coverage_at
from carm_env import patient_store as store
from carm_env.evaluation import prepared_suites
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.results import read_results
from carm_env.patient import Patient
from carm_env.patients.catalogue import load_patient
from carm_env.system.command_line import run_script
from carm_env.views.sample import ViewOptions, render_views
from policies.conformal import DisplacementRegressor
from policies.regions import nonconformity


def main(*words):
    return run_script(transfer.run, transfer.Arguments, given=[str(word) for word in words])


def coverage(patient, options):
    """The share of true displacements inside the regions of 90 % in sampled views of a patient."""
    views = list(render_views(patient, options))
    regressor = DisplacementRegressor()
    prediction = regressor.predict(np.stack([view.image for view in views]))
    scores = nonconformity(prediction, np.stack([view.labels.displacement_mm for view in views]))
    return (scores <= regressor.radius_at(0.9)).mean()


def test_every_policy_has_a_score_for_every_group(small_patients, tmp_path, capsys):
    groups = small_patients[:2]
    words = ["--policies", "oracle", "conformal", "random", "--groups", *groups, "--episodes", 3, "--views", 4,
             "--workers", 1, "--out", tmp_path / "out", "--json", tmp_path / "t.json"]  # fmt: skip
    assert main(*words) == 0
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert list(found) == ["oracle", "conformal", "random", "run"]
    assert all(list(found[policy]) == list(groups) for policy in ("oracle", "conformal", "random"))
    oracle, random = found["oracle"][groups[0]], found["random"][groups[0]]
    assert oracle["success"] == 1 and oracle["interval"][1] == 1 and oracle["wrong"] == oracle["handed_back"] == 0
    assert oracle["coverage_90"] is None and random["coverage_90"] is None
    assert random["success"] < 1 and random["suite_hash"] == oracle["suite_hash"]
    table = capsys.readouterr().out.rpartition("\n\n")[2]
    assert table.count("\n") == 2 + 2 * 3 and groups[1] in table

    # The shares are those of the episodes, and the coverage that of the same views.
    rows, errors = read_results(tmp_path / "out" / "imported_one" / "episodes.jsonl")
    outcomes = [row.outcome for row in rows if row.policy == "conformal"]
    score = found["conformal"][groups[0]]
    assert not errors and len(outcomes) == 3
    for name, outcome in (("success", "success"), ("wrong", "misaligned"), ("handed_back", "abstained")):
        assert score[name] == pytest.approx(outcomes.count(outcome) / 3)
    assert score["coverage_90"] == pytest.approx(coverage(groups[0], ViewOptions(4, 256, seed=1)))


def test_the_coverage_is_that_of_views_at_the_depth_of_the_episodes(small_patients, tmp_path, monkeypatch):
    def at_60_mm(name, patients):
        suite, left_out = suite_on(name, patients)
        return replace(suite, environment={"isocenter_depth_mm": 60.0}), left_out

    def recorded(*arguments):
        depths_mm.append(arguments[-1])
        return coverage_at(*arguments)

    depths_mm = []
    monkeypatch.setattr(prepared_suites, "suite_on", at_60_mm)
    monkeypatch.setattr(transfer, "coverage_at", recorded)
    group = small_patients[0]
    words = ["--policies", "conformal", "--groups", group, "--episodes", 1, "--views", 16, "--workers", 1, "--out",
             tmp_path / "out", "--json", tmp_path / "t.json"]  # fmt: skip
    assert main(*words) == 0
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["conformal"][group]["coverage_90"]
    assert found == pytest.approx(coverage(group, ViewOptions(16, 256, seed=1, isocenter_depth_mm=60.0)))
    assert depths_mm == [60.0]


def test_a_run_is_resumed(small_patients, tmp_path, capsys):
    words = ["--policies", "oracle", "--groups", small_patients[0], "--views", 0, "--workers", 1, "--out",
             tmp_path / "out", "--resume"]  # fmt: skip
    assert main(*words, "--episodes", 1) == 0
    assert main(*words, "--episodes", 2) == 0
    assert "Episodes: 2 (1 already done)" in capsys.readouterr().out
    # Fewer episodes than the folder holds: every policy is scored on the same ones.
    words[1:2] = ["oracle", "random"]
    assert main(*words, "--episodes", 1, "--json", tmp_path / "t.json") == 0
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert [found[policy][small_patients[0]]["episodes"] for policy in ("oracle", "random")] == [1, 1]


def test_real_cts_that_are_not_installed_are_named(small_patients, capsys):
    assert patient_groups.default_groups() == patient_groups.VIRTUAL_GROUPS
    assert "install it with `carm-env patients install lidc-0001`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--views", -1], "--views is -1, expected 0 or more"),
        (["--groups", "nobody"], "nobody"),
        (["--groups", "standard/test", "standard/test"], "name each group once"),
        (["--policies", "orakel", "--groups", "virtual:0"], "oracle"),
    ],
)
def test_bad_input_is_named(words, message, small_patients, tmp_path, script_error):
    assert message in script_error(transfer, *words, "--out", tmp_path / "out")


@pytest.mark.parametrize("group", ["nobody", "imported:bare"])
def test_a_group_that_cannot_run_is_named_before_the_first_episode(group, small_patients, tmp_path, script_error):
    with_landmarks = load_patient(small_patients[0])
    store.save_imported(Patient("imported:bare", with_landmarks.volume, {}, {}))
    words = ["--policies", "oracle", "--groups", small_patients[0], group, "--views", 0, "--workers", 1]
    error = script_error(transfer, *words, "--out", tmp_path / "out")
    assert group.partition(":")[2] in error or group in error
    assert not (tmp_path / "out").exists()
