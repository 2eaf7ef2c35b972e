"""A policy drives, a person watches, speaks, takes over and hands back."""

import numpy as np

from carm_env.actions import ALIGNED, Move
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.transcripts.records import AnswerLine, FeedbackLine

NAMES = {name: f"cockpit_policies.py:{name}" for name in ("Humble", "Asking", "Slow", "Broken", "Deaf")}


def wait_for(page, **expected):
    """Returns the first state that has these values."""
    while True:
        state = page.next("frame", "lane")["state"]
        if all(state[name] == value for name, value in expected.items()):
            return state


def transcript_of(settings):
    (folder,) = find_transcripts(settings.transcripts)
    return read_transcript(folder)


def test_a_declaration_waits_for_the_person_who_accepts_it(page, settings):
    page.start(policies=["oracle"], start="11")
    page.send("step")
    state = wait_for(page, held="aligned")
    assert state["outcome"] is None and state["decision"]["move"] == str(ALIGNED)
    page.send("accept")
    assert wait_for(page, held=None, steps=1)["outcome"]["name"] == "success"
    page.send("accept")
    assert "No decision" in page.refusal()["text"]
    transcript = transcript_of(settings)
    assert transcript.start.policy == "oracle" and transcript.end.success


def test_an_objection_is_heard_and_kept(page, settings):
    page.start(policies=[NAMES["Humble"]], start="14")
    page.send("step")
    state = wait_for(page, held="aligned")
    assert state["decision"]["rationale"] == "I believe it is here." and state["decision"]["confidence"] == 0.9
    page.send("say", text="No, that is wrong. Go a  bit higher.")
    (line,) = page.next("talk")["lines"]
    assert line["understood"] == "wrong, up slightly" and line["about"] == "aligned"
    wait_for(page, held=None, steps=1)
    page.send("step")
    assert wait_for(page, steps=2)["decision"]["rationale"] == "I was told to go up."
    page.settle()
    first, words, second = transcript_of(settings).events[:3]
    assert isinstance(first, AnswerLine) and first.action is None and not first.fault
    assert isinstance(words, FeedbackLine) and words.text == "No, that is wrong. Go a bit higher."
    assert second.action == Move(0, 1).index


def test_a_question_is_answered(page):
    page.start(policies=[NAMES["Asking"]], start="14")
    page.send("step")
    assert wait_for(page, held="question")["decision"]["question"] == "Which way is it?"
    page.send("say", text="It is far higher.")
    wait_for(page, held=None, steps=1)
    page.send("step")
    assert wait_for(page, steps=2)["moves"] == 1


def test_a_policy_that_cannot_hear_the_words_keeps_its_decision(page, settings):
    page.start(policies=[NAMES["Deaf"]])
    page.send("step")
    wait_for(page, held="aligned")
    page.send("say", text="No.")
    assert "could not hear this" in page.refusal()["text"]
    assert wait_for(page, held="aligned")["steps"] == 0


def test_a_person_takes_over_and_hands_back(page, settings):
    page.start(policies=[NAMES["Humble"]], start="14", seed=2)
    page.send("move", action=Move(1, 0).index)
    assert "take over first" in page.refusal()["text"]
    page.send("step")
    wait_for(page, held="aligned")
    page.send("drive", driver="person")
    wait_for(page, driver="person", held=None)
    page.send("move", action=Move(1, 0).index)
    wait_for(page, exposures=2)
    page.send("say", text="Go up.")
    assert "while you drive" in page.refusal()["text"]
    page.send("drive", driver="agent")
    wait_for(page, driver="agent")
    page.send("step")
    state = wait_for(page, held="aligned")
    assert state["exposures"] == 2
    page.settle()
    lines = transcript_of(settings).answers
    assert [line.model for line in lines] == ["", "person"] and lines[1].text and lines[1].messages


def test_a_person_takes_over_while_the_policy_thinks(page):
    page.start(policies=[NAMES["Slow"]])
    page.send("step")
    wait_for(page, deciding=True)
    page.send("drive", driver="person")
    wait_for(page, driver="person", deciding=False)
    page.send("move", action=Move(0, -1).index)
    assert wait_for(page, exposures=2)["moves"] == 1
    page.send("drive", driver="agent")
    wait_for(page, driver="agent")


def test_two_policies_run_the_same_episode(page):
    first = page.start(policies=["oracle", NAMES["Humble"]], start="14")
    second = page.frame()
    assert [first["lane"], second["lane"]] == [0, 1] and np.array_equal(first["image"], second["image"])
    page.send("step")
    wait_for(page, policy="oracle", exposures=2)
    wait_for(page, policy=NAMES["Humble"], held="aligned", exposures=1)


def test_a_policy_plays_until_it_waits(page):
    page.start(policies=["oracle"], start="14")
    page.send("play", pace_s=0.0)
    assert page.next("playing")["on"]
    state = wait_for(page, held="aligned")
    assert not page.next("playing")["on"] and state["moves"] >= 1


def test_a_crash_ends_the_episode_and_is_said(page):
    page.start(policies=[NAMES["Broken"]])
    page.send("step")
    state = page.frame()["state"]
    assert state["outcome"] == {"name": "crash", "error": "KeyError: '<b>lost</b>'"}


def test_a_wish_changes_the_target(page):
    page.start(policies=[NAMES["Humble"]])
    page.send("say", text="Show me T12 instead.")
    assert page.frame()["state"]["target"]["name"] == "T12"


def test_policies_of_the_server_are_all_there_are(page, policy_file):
    page.send("start", patient="imported:one", policies=[f"{policy_file}:Humble"])
    assert "unknown policy" in page.refusal()["reason"]
    page.send("start", patient="imported:one", policies=["os:system"])
    assert "unknown policy" in page.refusal()["reason"]
