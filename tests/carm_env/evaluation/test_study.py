"""Studies: a person on the leaderboard, blinded, killed and continued."""

import dataclasses
import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import leaderboard, submit
from carm_env.actions import ALIGNED, Move
from carm_env.evaluation import study
from carm_env.evaluation import suite as suites
from carm_env.evaluation.driving import DriveError, DriveView, FreeDrive
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment, reset_episode
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.results import read_results
from carm_env.evaluation.runner import run_episode
from carm_env.evaluation.study import StudyDrive, StudyError
from carm_env.evaluation.suite import load_suite
from carm_env.patients.build import is_built
from carm_env.patients.catalogue import load_patient
from carm_env.system.command_line import run_script
from carm_env.system.files import DiskFullError
from carm_env.system.locks import BusyError

OF_THE_DRIVER = ("policy", "run", "latency_ms", "decision_ms", "settings", "privileged_info")
"""Fields in which a person with the oracle's knowledge differs from the oracle."""


@pytest.fixture
def suite(small_patients, tmp_path, monkeypatch):
    """A suite of six episodes on two small patients, as if it were one of the package."""
    drawn, _ = suite_on("smoke", {name: load_patient(name) for name in small_patients[:2]})
    short = replace(drawn, name="short", episodes=drawn.episodes[:6], max_steps=12)
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "short.yaml").write_text(short.to_yaml(), encoding="utf-8")
    monkeypatch.setattr(suites, "SUITE_FOLDER", folder)
    return suites.load_suite("short")


class InformedDriver:
    """Drives through the interface of a study, and knows the truth from an environment of its own."""

    def __init__(self, suite, seed=0):
        self.suite, self.seed, self.oracle = suite, seed, OraclePolicy()
        self.env = make_suite_environment(suite)

    def play(self, drive, decisions=10**6):
        """Plays until the study is finished, or for a number of decisions in the running episode."""
        while not drive.is_finished and decisions:
            _, info = reset_episode(self.env, EpisodeTask(self.suite, drive.finished_episodes, "oracle",
                                                          self.seed + drive.finished_episodes))  # fmt: skip
            while not drive.view().has_ended and decisions:
                while info["exposures"] < drive.view().exposures:
                    info = self.env.step(self.oracle.act(None, info).move.index)[-1]
                move = self.oracle.act(None, info).move
                drive.move(move)
                info = self.env.step(move.index)[-1]
                decisions -= 1
            if drive.view().has_ended and not drive.is_finished:
                drive.next_episode()


def results_of(folder):
    results, errors = read_results(folder / "episodes.jsonl")
    assert not errors
    return results


def comparable(result):
    return {key: value for key, value in dataclasses.asdict(result).items() if key not in OF_THE_DRIVER}


def oracle_results(suite):
    policy, env = make_policy("oracle"), make_suite_environment(suite)
    return [run_episode(policy, env, EpisodeTask(suite, n, "oracle", n)) for n in range(len(suite.episodes))]


def check_equal_to_the_oracle(suite, folder):
    driven, expected = results_of(folder), oracle_results(suite)
    assert json.dumps([one.moves for one in driven]) == json.dumps([one.moves for one in expected])
    assert [comparable(one) for one in driven] == [comparable(one) for one in expected]
    assert {one.policy for one in driven} == {"human:anna"} and not any(one.privileged_info for one in driven)


def test_a_driver_with_the_oracles_knowledge_makes_the_oracles_moves(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        InformedDriver(suite).play(drive)
        assert "The study is finished" in drive.view().message
    check_equal_to_the_oracle(suite, tmp_path / "study")


@pytest.mark.slow
def test_a_driver_with_the_oracles_knowledge_completes_smoke(tmp_path):
    smoke = load_suite("smoke")
    if not all(map(is_built, smoke.patients)):
        pytest.skip("the virtual patients of suite smoke are not built on this machine")
    with StudyDrive(smoke, "anna", tmp_path) as drive:
        InformedDriver(smoke).play(drive)
    check_equal_to_the_oracle(smoke, tmp_path)


def test_the_leaderboard_shows_the_row_and_the_submission_is_valid(suite, tmp_path, capsys):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        InformedDriver(suite).play(drive)
    arguments = ["--from", str(tmp_path / "study"), "--out", str(tmp_path / "board")]
    assert run_script(leaderboard.run, leaderboard.Arguments, given=arguments) == 0
    scores = json.loads((tmp_path / "board" / "leaderboard.json").read_text(encoding="utf-8"))
    row = scores["human:anna"]["short"]
    assert row["success"] == 1.0 and row["exposures"] > 1 and row["latency_ms"] > 0
    assert "human:anna" in capsys.readouterr().out
    (tmp_path / "card.md").write_text("# A person", encoding="utf-8")
    words = ["--card", str(tmp_path / "card.md"), "--out", str(tmp_path / "s.zip")]
    assert run_script(submit.run, submit.Arguments, given=["pack", str(tmp_path / "study"), *words]) == 0
    assert run_script(submit.run, submit.Arguments, given=["validate", str(tmp_path / "s.zip")]) == 0
    assert "human:anna, 6 episodes, replayed: valid" in capsys.readouterr().out


def test_the_person_is_blinded(suite, tmp_path):
    informed = replace(suite, environment={**suite.environment, "show_distance": True})
    with StudyDrive(informed, "anna", tmp_path / "study") as drive:
        _, truth = reset_episode(make_suite_environment(suite), EpisodeTask(suite, 0, "oracle", 0))
        allowed = {field.name for field in dataclasses.fields(DriveView)}
        assert not allowed & {"distance_mm", "displacement_mm", "isocenter_lps_mm", "closest_landmarks", "is_success",
                              "patient"}  # fmt: skip
        before = drive.view()
        assert f"{truth['distance_mm']:.0f}" not in f"{before.title} {before.message}"
        assert not drive._episode.shown()[1].keys() & {"distance_mm", "displacement_mm", "isocenter_lps_mm",
                                                       "closest_landmarks", "is_success", "patient"}  # fmt: skip
        # A right and a wrong declaration look the same.
        wrong = drive.move(ALIGNED)
        assert wrong.has_ended and wrong.message == "The episode has ended. 5 episodes to go."
        np.testing.assert_array_equal(wrong.image, before.image)
        drive.next_episode()
        InformedDriver(suite).play(drive, decisions=4)
        after = drive.view()
        texts = {view.message for view in (wrong, after) if view.has_ended}
        assert not any(word in text.lower() for text in texts for word in ("success", "mm", "wrong", "correct"))


def test_a_killed_study_continues_with_the_same_x_rays(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        InformedDriver(suite).play(drive, decisions=1)
        seen = drive.view()
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        again = drive.view()
        assert (again.exposures, again.dose_mgy, again.seconds) == (seen.exposures, seen.dose_mgy, seen.seconds)
        np.testing.assert_array_equal(again.image, seen.image)
        InformedDriver(suite).play(drive)
    check_equal_to_the_oracle(suite, tmp_path / "study")
    assert not list((tmp_path / "study").glob("running-*"))


def test_a_kill_at_any_write_loses_no_x_ray_that_was_seen(suite, tmp_path, killed_at):
    folder = tmp_path / "study"
    move = Move(1, 0)

    def one_decision():
        with StudyDrive(suite, "anna", folder) as drive:
            drive.move(move)

    for number in range(4):
        killed = killed_at(os, "fsync", number, one_decision)
        with StudyDrive(suite, "anna", folder) as drive:
            decided = drive.finished_episodes * suite.max_steps + drive.view().exposures - 1
            assert decided >= 0 and drive.view().steps_left + drive.view().exposures == suite.max_steps + 1
        if not killed:
            break


def test_giving_up_counts_as_abstained(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        assert drive.hand_back().has_ended
        with pytest.raises(DriveError, match="begin the next one"):
            drive.move(ALIGNED)
        drive.next_episode()
        with pytest.raises(DriveError, match="has not ended"):
            drive.next_episode()
    (result,) = results_of(tmp_path / "study")
    assert (result.outcome, result.moves, result.steps) == ("abstained", [], 1)


def test_the_limit_of_steps_ends_an_episode(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        for _ in range(suite.max_steps):
            view = drive.move(Move(1, 0))
        assert view.has_ended and view.message.startswith("No decision is left")
    assert results_of(tmp_path / "study")[0].outcome == "timeout"


def test_two_people_share_a_folder_but_not_at_once(suite, tmp_path):
    for name in ("anna", "ben"):
        with StudyDrive(suite, name, tmp_path / "study") as drive:
            with pytest.raises(BusyError, match="--out"):
                StudyDrive(suite, name, tmp_path / "study")
            drive.hand_back()
    assert [one.policy for one in results_of(tmp_path / "study")] == ["human:anna", "human:ben"]


def test_a_participant_keeps_the_running_episode_of_another(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        seen = drive.move(Move(1, 0))
    with StudyDrive(suite, "ben", tmp_path / "study") as drive:
        drive.move(Move(0, 1))
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        assert drive.view().exposures == seen.exposures == 2
        np.testing.assert_array_equal(drive.view().image, seen.image)


@pytest.mark.parametrize("key", ["move", "hand_back", "next_episode"])
def test_a_result_that_could_not_be_saved_is_saved_by_the_next_key(suite, tmp_path, monkeypatch, key):
    def full(path, result):
        raise DiskFullError(f"{path} could not be written.")

    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        with monkeypatch.context() as patch:
            patch.setattr(study, "append_result", full)
            for end in (drive.hand_back, drive.hand_back):
                with pytest.raises(DiskFullError):
                    end()
        assert drive.view().has_ended and not (tmp_path / "study" / "episodes.jsonl").exists()
        view = drive.move(ALIGNED) if key == "move" else getattr(drive, key)()
        assert view.has_ended is (key != "next_episode") and drive.finished_episodes == 1
    (result,) = results_of(tmp_path / "study")
    assert (result.outcome, result.steps) == ("abstained", 1)


def test_a_decision_after_the_end_in_the_journal_is_not_carried_out(suite, tmp_path):
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        drive.move(Move(1, 0))
    (journal,) = (tmp_path / "study").glob("running-*")
    kept = json.loads(journal.read_text(encoding="utf-8"))
    kept["decisions"] += [[None, 1.0], [31, 1.0]]
    journal.write_text(json.dumps(kept), encoding="utf-8")
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        assert drive.finished_episodes == 1
    (result,) = results_of(tmp_path / "study")
    assert (result.outcome, result.steps) == ("abstained", 2)


def test_the_time_of_a_decision_continues_after_a_reload(suite, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    folder = tmp_path / "study"
    for _ in range(3):  # the first decision, too, which has no journal yet
        with StudyDrive(suite, "anna", folder):
            now[0] += 5.0
        now[0] += 1000.0  # while the study is closed, nobody sees the X-ray
    with StudyDrive(suite, "anna", folder) as drive:
        now[0] += 2.0
        assert drive.move(Move(1, 0)).seconds == pytest.approx(17.0)
        now[0] += 3.0
        assert drive.hand_back().seconds == pytest.approx(20.0)


def test_an_incomplete_last_line_does_not_block_a_study(suite, tmp_path):
    path = tmp_path / "study" / "episodes.jsonl"
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        drive.hand_back()
    complete = path.read_bytes()
    path.write_bytes(complete + complete[:40])
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        assert drive.finished_episodes == 1 and path.read_bytes() == complete


def test_arguments_that_do_not_fit_the_folder_are_refused(suite, tmp_path):
    with pytest.raises(ValueError, match="the participant's name is '../anna'"):
        StudyDrive(suite, "../anna", tmp_path / "study")
    with StudyDrive(suite, "anna", tmp_path / "study") as drive:
        drive.hand_back()
    with pytest.raises(StudyError, match="with seed 0, expected 7"):
        StudyDrive(suite, "anna", tmp_path / "study", seed=7)
    with pytest.raises(StudyError, match=f"of version {suite.version} .* expected version 99"):
        StudyDrive(replace(suite, version=99), "anna", tmp_path / "study")
    with (tmp_path / "study" / "episodes.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(StudyError, match="line 2: .* Remove the line"):
        StudyDrive(suite, "anna", tmp_path / "study")


def test_free_driving_tells_the_distance_after_the_end(suite):
    env = make_suite_environment(suite)
    drive = FreeDrive(env, {"target": 1, "start": 1}, seed=0, max_steps=2)
    assert "mm" not in drive.view().message and drive.view().target == "Skull"
    assert drive.move(ALIGNED).message.startswith("Aligned: the target is ")
    with pytest.raises(DriveError):
        drive.move(ALIGNED)
    assert drive.next_episode().exposures == 1
    drive.move(Move(1, 0))
    assert drive.move(Move(1, 0)).message.startswith("No decision is left")
