"""Sessions as transcripts: shown by carm-env replay, and read by the training scripts."""

import io
import zipfile

import pytest

from carm_env.actions import Move
from carm_env.evaluation.replay import save_replay
from carm_env.language.answers import render
from carm_env.language.grammar import parse
from carm_env.language.prompts import prompt_hash
from carm_env.transcripts.read import find_transcripts, read_transcript
from training._support.transcripts import TranscriptExamples

UP = Move(0, 1).index


@pytest.fixture
def driven(client, page, tmp_path):
    """Folder of the exported transcripts of an episode that a person drove."""
    page.start(start="14", seed=1, patient="imported:two")
    page.send("move", action=UP)
    page.frame()
    page.send("move", action=24)
    page.frame()
    page.settle()
    (session,) = client.app.state.sessions.ids
    answer = client.get(f"/api/sessions/{session}/transcripts.zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert "README.txt" in archive.namelist()
        archive.extractall(tmp_path / "exported")
    return tmp_path / "exported"


def test_an_export_is_replayed_and_holds_no_distance(driven):
    written = save_replay(driven, gif=False)
    assert written.episodes == 1 and not written.problems
    (folder,) = find_transcripts(driven)
    transcript = read_transcript(folder)
    assert [line.distance_mm for line in (transcript.start, *transcript.answers)] == [None] * 3
    assert [line.rationale for line in transcript.answers] == ["A person drove."] * 2


def test_the_moves_of_a_person_are_examples_for_training(driven):
    examples = TranscriptExamples([driven], "full", successes_only=False)
    assert len(examples) == 2
    texts = [example["completion"][0]["content"][0]["text"] for example in examples.stream(0, 2)]
    answers = [parse("navigation", text) for text in texts]
    assert {answer.move.index for answer in answers} == {UP, 24} and [render(answer) for answer in answers] == texts
    (folder,) = find_transcripts(driven)
    assert read_transcript(folder).start.prompts == prompt_hash("full")


def test_a_running_episode_is_not_exported(client, page):
    def exported():
        (session,) = client.app.state.sessions.ids
        answer = client.get(f"/api/sessions/{session}/transcripts.zip")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return archive.namelist()

    page.start(start="14", seed=1)
    page.send("move", action=UP)
    page.frame()
    page.settle()
    assert exported() == ["README.txt"]
    page.send("move", action=24)
    page.frame()
    page.settle()
    assert len(exported()) > 1


def test_an_unknown_session_has_no_transcripts(client):
    assert client.get("/api/sessions/made-up/transcripts.zip").status_code == 404


def test_a_correction_is_a_preference(client, tmp_path, settings, small_patients):
    preferences = pytest.importorskip("training._support.preferences", reason="the extra train is not installed")
    from carm_env.chat_models.policy import ChatPolicy
    from carm_env.chat_models.reference import TruthfulModel
    from carm_env.cockpit.lane import Lane
    from carm_env.cockpit.messages import Start
    from carm_env.cockpit.preparation import prepare
    from carm_env.language.answers import Navigation

    model = TruthfulModel()
    model.text = render(Navigation(11, Move(0, 0), "It is here.", "It is here."))
    prepared = prepare(Start("imported:one", 1, "14", image_size=64))
    lane = Lane(prepared, "chat", lambda name: ChatPolicy(model), tmp_path / "t", "a")
    lane.take(lane.ask())
    assert lane.held.kind == "aligned"
    lane.say("That is not right.")
    lane.take_over()
    lane.move(Move(0, 3))
    lane.episode.flush()
    (pair,) = preferences.transcript_corrections([tmp_path / "t"], "full")
    rejected, chosen = (parse("navigation", pair[name][0]["content"][0]["text"]) for name in ("rejected", "chosen"))
    assert rejected.move.is_aligned and chosen.move == Move(0, 3)
