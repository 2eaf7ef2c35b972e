"""Submissions: packing, validation by replay, and archives that were tampered with."""

import json
import re
import zipfile
from dataclasses import replace

import pytest

from benchmarks import submit
from benchmarks._support import submissions
from carm_env.actions import ALIGNED
from carm_env.evaluation import suite as suites
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.results import append_result, read_results
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.patients.catalogue import load_patient
from carm_env.system.command_line import run_script


def main(*words):
    return run_script(submit.run, submit.Arguments, given=[str(word) for word in words])


@pytest.fixture
def suite(small_patients, tmp_path, monkeypatch):
    """A suite of six episodes on two small patients, as if it were one of the package."""
    drawn, _ = suite_on("smoke", {name: load_patient(name) for name in small_patients[:2]})
    short = replace(drawn, name="short", episodes=drawn.episodes[:6], max_steps=6)
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "short.yaml").write_text(short.to_yaml(), encoding="utf-8")
    monkeypatch.setattr(suites, "SUITE_FOLDER", folder)
    return suites.load_suite("short")


@pytest.fixture
def run(suite, tmp_path):
    """The results of the random policy, which ends some episodes by a declaration and some by the limit of steps."""
    path = tmp_path / "run" / "episodes.jsonl"
    policy, env = make_policy("random"), suite_environment(suite)
    for number in range(len(suite.episodes)):
        append_result(path, run_episode(policy, env, EpisodeTask(suite, number, "random", 3 + number)))
    (tmp_path / "card.md").write_text("# Random moves", encoding="utf-8")
    return path.parent


def packed(run, tmp_path, *words):
    out = tmp_path / "s.zip"
    assert main("pack", run, "--card", tmp_path / "card.md", "--out", out, *words) == 0
    return out


def test_a_submission_is_packed_and_valid(run, tmp_path, capsys):
    (tmp_path / "t" / "one").mkdir(parents=True)
    (tmp_path / "t" / "one" / "transcript.jsonl").write_text("{}", encoding="utf-8")
    path = packed(run, tmp_path, "--transcripts", tmp_path / "t")
    with zipfile.ZipFile(path) as archive:
        names = {"submission.json", "episodes.jsonl", "card.md", "transcripts/one/transcript.jsonl"}
        assert set(archive.namelist()) == names
    assert main("validate", path, "--json", tmp_path / "v.json") == 0
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["problems"] == []
    assert "random, 6 episodes, replayed: valid" in capsys.readouterr().out
    assert main("validate", path, "--no-replay") == 0
    assert "not replayed: valid" in capsys.readouterr().out


def rewritten(path, change, keep_hashes=False):
    """Returns the archive with its results changed; with new hashes, as a forger would write them."""
    out = path.with_name("changed.zip")
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    lines = path.with_suffix(".jsonl")
    lines.write_bytes(contents["episodes.jsonl"])
    results = change(read_results(lines)[0])
    lines.unlink()
    for result in results:
        append_result(lines, result)
    contents["episodes.jsonl"] = lines.read_bytes()
    manifest = json.loads(contents["submission.json"])
    if not keep_hashes:
        manifest["files"]["episodes.jsonl"] = submissions.file_hash(lines)
        manifest["suites"] = {result.suite: result.suite_hash for result in results}
    contents["submission.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return out


def of(number, **changes):
    return lambda results: [replace(one, **changes) if one.episode == number else one for one in results]


def claimed_success(results):
    return [replace(one, outcome="success", success=True, moves=[*one.moves[:-1], ALIGNED.index]) for one in results]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (claimed_success, "is not what the moves give|but the moves give"),
        (lambda results: [replace(one, seed=one.seed + one.episode) for one in results], "s has 6 values"),
        (of(1, final_distance_mm=1.0), "episode 1: final_distance_mm is not what the moves give"),
        (of(2, exposures=1), "episode 2: exposures is 1, but the moves give"),
        (of(2, dose_mgy=0.0), "episode 2: dose_mgy is not what the moves give"),
        (of(0, steps=2, moves=[0, 0, 0]), "3 moves in 2 steps"),
        (of(0, target=1, patient_fingerprint="x"), "patient_fingerprint is"),
        (lambda results: results[1:], "suite short lacks 1 of 6 episodes: 0."),
        (lambda results: [replace(one, suite_hash="0" * 16) for one in results], "has the hash .*: it was edited"),
        (lambda results: [replace(one, suite="mine") for one in results], "is not one of the package"),
        (of(3, policy="other"), "holds results of other, expected random alone"),
        (of(3, privileged_info=["displacement_mm"]), "received the true state"),
        (lambda results: [*results, replace(results[0], seed=99)], "an episode has several results"),
        (of(4, outcome="timeout", error="", steps=5, moves=[0] * 5, invalid_answers=0), "timeout after 5 steps"),
        (of(4, outcome="success", success=True, steps=1, moves=[0]), "the last move is not a declaration"),
        (of(4, outcome="crash", error=""), "outcome is crash, but there is no error"),
    ],
)
def test_changed_results_are_refused(run, tmp_path, change, message, capsys):
    path = rewritten(packed(run, tmp_path), change)
    assert main("validate", path) == 1
    assert re.search(message, capsys.readouterr().out)


def test_changed_files_are_named(run, tmp_path, capsys):
    path = rewritten(packed(run, tmp_path), of(1, latency_ms=0.0), keep_hashes=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.txt", "x")
    assert main("validate", path) == 1
    out = capsys.readouterr().out
    assert "episodes.jsonl was changed after packing" in out and "more.txt is not named in submission.json" in out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"../evil": "x", "submission.json": "{}"}, "outside"),
        ({"a.txt": "x"}, "has no submission.json"),
        ({"submission.json": '{"schema": 7}'}, "schema is 7, expected 1"),
        ({"submission.json": '{"schema": 1, "policy": "a", "suites": {"s": 1}, "files": {"a": "b"}}'}, "not all names"),
        (
            {"submission.json": '{"schema": 1, "policy": "a", "suites": {"s": "1"}, "files": {"a": "b"}}'},
            "has no episodes.jsonl",
        ),
    ],
)
def test_archives_that_are_no_submissions_are_named(names, message, tmp_path, script_error):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    assert message in script_error(submit, "validate", tmp_path / "x.zip")


def test_what_cannot_be_packed_is_named(run, tmp_path, script_error):
    card = ("--card", tmp_path / "card.md", "--out", tmp_path / "x.zip")
    assert "--card is not given" in script_error(submit, "pack", run)
    assert "expected a Markdown file" in script_error(submit, "pack", run, "--card", tmp_path / "none.md")
    assert "there is no file" in script_error(submit, "pack", tmp_path / "absent", *card)
    assert "holds no results of 'ppo'" in script_error(submit, "pack", run, *card, "--policy", "ppo")
    path = run / "episodes.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-40], encoding="utf-8")
    assert "episodes.jsonl, line 6: not a result" in script_error(submit, "pack", run, *card)
    path.write_text("".join(whole.splitlines(keepends=True)[:4]), encoding="utf-8")
    assert "suite short lacks 2 of 6 episodes: 4, 5." in script_error(submit, "pack", run, *card)
    path.write_text(whole, encoding="utf-8")
    append_result(path, replace(read_results(path)[0][0], policy="other"))
    assert "holds results of other, random: name one with --policy" in script_error(submit, "pack", run, *card)
    assert not (tmp_path / "x.zip").exists()
