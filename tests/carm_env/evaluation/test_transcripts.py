"""Transcripts of evaluated episodes: ``--transcripts``."""

import json

import pytest

from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.policy import UnusablePolicyError
from carm_env.evaluation.reference import OraclePolicy, RandomPolicy
from carm_env.evaluation.results import read_results
from carm_env.language.chat import text_part
from carm_env.system.command_line import FAILED, run_script
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.transcripts.records import Exchange, TranscriptError
from carm_env.transcripts.write import TranscriptFolder


def run(*words, make_policy=None):
    def main(arguments):
        return evaluate(arguments, make_policy) if make_policy else evaluate(arguments)

    return run_script(main, EvaluationArguments, given=[str(word) for word in words])


@pytest.fixture
def words(small_patients, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 4, environment: {image_size: 16}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 2}, {patient: 'imported:two', target: 14, start: 5}]}",
        encoding="utf-8",
    )
    return ["--suite", path, "--out", tmp_path / "o", "--no-figures", "--transcripts", tmp_path / "t"]


def transcripts(tmp_path):
    return [read_transcript(folder) for folder in find_transcripts(tmp_path / "t")]


def test_every_episode_gets_the_transcript_of_its_result(words, tmp_path):
    assert run("--policy", "oracle", "random", *words, "--workers", 1) == 0
    results = {(r.policy, r.episode): r for r in read_results(tmp_path / "o" / "episodes.jsonl")[0]}
    found = {(t.start.policy, t.start.episode): t for t in transcripts(tmp_path)}
    assert results.keys() == found.keys() and len(found) == 4
    for key, result in results.items():
        transcript = found[key]
        answers = transcript.answers
        assert [answer.action for answer in answers] == result.moves
        assert [list(answer.isocenter_lps_mm) for answer in answers] == [
            pytest.approx(point) for point in result.trajectory_lps_mm[1:]
        ]
        assert transcript.end.outcome == result.outcome and transcript.end.success == result.success
        assert (transcript.start.suite_hash, transcript.start.seed) == (result.suite_hash, result.seed)
        assert transcript.start.patient == result.patient and not transcript.problems
        assert answers[-1].exposures == result.exposures and answers[0].latency_s >= 0


def test_a_folder_that_exists_is_refused_without_resume(words, tmp_path, capsys):
    (tmp_path / "t").mkdir()
    assert run("--policy", "oracle", *words, "--episodes", 1) == 0
    assert run("--policy", "oracle", *words) == FAILED
    assert "continue the run of that folder with --resume" in capsys.readouterr().err
    assert run("--policy", "oracle", *words, "--resume") == 0
    assert len(transcripts(tmp_path)) == 2
    assert run("--policy", "oracle", *words, "--out", tmp_path / "t") == FAILED
    assert "--transcripts and --out are both" in capsys.readouterr().err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run("--policy", "oracle", *words, "--transcripts", tmp_path / "file") == FAILED
    assert "expected a folder" in capsys.readouterr().err


class Model(OraclePolicy):
    hash = "first"
    stops = False

    def prompts(self):
        return self.hash

    def act(self, observation, info):
        if self.stops:
            raise UnusablePolicyError("the server is gone")
        self.exchange = Exchange([{"role": "user", "content": [text_part("Where?")]}], "there", seconds=0.25)
        return super().act(observation, info)

    def last_exchange(self):
        return self.exchange


def test_other_prompts_are_refused(words, tmp_path, capsys):
    class Changed(Model):
        hash = "second"

    assert run("--policy", "m", *words, "--workers", 1, "--episodes", 1, make_policy=lambda name: Model()) == 0
    again = ["--policy", "m", *words, "--workers", 1, "--resume"]
    assert run(*again, make_policy=lambda name: Changed()) == FAILED
    assert "was written with other prompts (first) than m has now (second)" in capsys.readouterr().err
    assert run(*again, make_policy=lambda name: Model()) == 0
    assert len(transcripts(tmp_path)) == 2


def test_a_run_that_stops_keeps_what_was_said_and_can_be_resumed(words, tmp_path):
    calls = []

    class Fails(Model):
        def act(self, observation, info):
            calls.append(1)
            self.stops = len(calls) == 3
            return super().act(observation, info)

    alone = ["--policy", "m", *words, "--workers", 1, "--episodes", 1]
    assert run(*alone, make_policy=lambda name: Fails()) == FAILED
    (kept,) = transcripts(tmp_path)
    assert kept.end is None and [answer.text for answer in kept.answers] == ["there", "there"]
    assert run(*alone, "--resume", make_policy=lambda name: Model()) == 0
    (whole,) = transcripts(tmp_path)
    assert whole.end is not None and whole.answers[0].seconds == 0.25 and len(whole.answers) >= 3


def test_a_transcript_that_cannot_be_written_is_no_crash_of_the_policy(words, tmp_path, capsys, monkeypatch):
    keep = TranscriptFolder.keep

    def full(self, line, images):
        if line["event"] == "answer":
            raise TranscriptError("the disk is full")
        keep(self, line, images)

    monkeypatch.setattr(TranscriptFolder, "keep", full)
    assert run("--policy", "oracle", *words, "--workers", 1) == FAILED
    assert "the disk is full" in capsys.readouterr().err
    assert not (tmp_path / "o" / "episodes.jsonl").exists()


def test_a_wrong_exchange_is_a_crash(words, tmp_path):
    class Wrong(RandomPolicy):
        def last_exchange(self):
            return "there"

    assert run("--policy", "w", *words, "--workers", 1, make_policy=lambda name: Wrong()) == 0
    for transcript in transcripts(tmp_path):
        assert transcript.end.outcome == "crash" and "expected an Exchange or None" in transcript.end.error


def test_without_the_flag_nothing_is_asked_of_the_policy(words, tmp_path):
    class Silent(RandomPolicy):
        def last_exchange(self):
            raise AssertionError

    assert run("--policy", "s", *words[:-2], "--workers", 1, make_policy=lambda name: Silent()) == 0
    lines = (tmp_path / "o" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert not any(json.loads(line)["error"] for line in lines)
