"""A person drives."""

import json

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.runner import run_episode
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.transcripts.read import find_transcripts, read_transcript

UP, ALIGN = Move(0, 1).index, ALIGNED.index


def test_moves_give_the_x_rays_of_the_environment(page):
    state = page.start(start="14", seed=5)
    env = CArmNavEnv(patients="imported:one", image_size=64)
    observation, _ = env.reset(seed=5, options={"target": 11, "start": 14})
    assert np.array_equal(state["image"], observation["image"][:, :, 0])
    page.send("move", action=UP)
    moved = page.frame()
    observation, _, _, _, info = env.step(UP)
    assert np.array_equal(moved["image"], observation["image"][:, :, 0])
    shown = moved["state"]
    assert shown["exposures"] == 2 and shown["dose_mgy"] == info["dose_mgy"] and shown["driver"] == "person"
    assert shown["pose"]["isocenter"] == pytest.approx(info["isocenter_lps_mm"].tolist())
    assert shown["target"] == {"id": 11, "name": "Carina"} and len(shown["pose"]["detector"]) == 4


def test_the_episode_ends_when_the_person_declares(page, settings):
    page.start(start="11", seed=1)
    page.send("move", action=ALIGN)
    assert page.frame()["state"]["outcome"] == {"name": "success", "error": ""}
    page.send("move", action=UP)
    assert "has ended" in page.refusal()["text"]
    page.settle()
    (folder,) = find_transcripts(settings.transcripts)
    transcript = read_transcript(folder)
    assert transcript.start.policy == "person" and transcript.end.outcome == "success"
    assert [line.action for line in transcript.answers] == [ALIGN] and not transcript.problems


def test_the_true_distance_is_never_sent_unless_the_page_asks_for_it(page):
    page.start(policies=["oracle"])
    for _ in range(3):
        page.send("step")
        page.next("frame")
    page.send("drive", driver="person")
    page.next("lane")
    page.send("move", action=UP)
    page.frame()
    sent = " ".join(page.received)
    assert "distance_mm" not in sent and "displacement" not in sent and "mm to the left" not in sent
    assert "What it says is hidden" in sent
    shown = page.start(policies=["oracle"], show_distance=True)["state"]
    assert shown["distance_mm"] > 0
    page.send("step")
    while (state := page.frame()["state"])["decision"] is None:
        pass
    assert "mm to the left" in state["decision"]["rationale"]


@pytest.mark.parametrize("episode", [0, 7])
def test_a_person_with_the_oracles_knowledge_gets_the_oracles_result(page, settings, small_patients, tmp_path, episode):
    smoke = load_suite("smoke")
    # The suite's episodes on tiny patients: the names of its patients stay unbuilt.
    episodes = [{**spec.to_json(), "patient": "imported:one"} for spec in smoke.episodes]
    suite = Suite.from_json({**smoke.to_json(), "episodes": episodes, "environment": {"image_size": 64}}, "test")
    spec = suite.episodes[episode]
    task = EpisodeTask(suite, episode, "oracle", 3)
    expected = run_episode(OraclePolicy(), CArmNavEnv(patients="imported:one", image_size=64), task)
    start = str(spec.start) if isinstance(spec.start, int) else " ".join(map(str, spec.start))
    shown = page.start(target=spec.target, start=start, seed=3, show_distance=True)
    env = CArmNavEnv(patients="imported:one", image_size=64)
    _, info = env.reset(seed=3, options={"patient": spec.patient, "target": spec.target, "start": spec.start})
    moves = []
    while shown["state"]["outcome"] is None:
        action = OraclePolicy().act(None, {**info, "extents_mm": env.lattice.extents_mm}).move.index
        moves.append(action)
        page.send("move", action=action)
        shown = page.frame()
        _, _, _, _, info = env.step(action)
    assert json.dumps(moves) == json.dumps(expected.moves)
    assert shown["state"]["outcome"]["name"] == expected.outcome
    assert shown["state"]["dose_mgy"] == expected.dose_mgy and shown["state"]["exposures"] == expected.exposures


def test_a_page_gets_the_outline_of_the_patient_and_no_landmark(page):
    page.send("start", patient="imported:one", target=11, image_size=64)
    body = page.next("begun")["body"]
    assert set(body) == {
        "silhouette", "columns", "rows", "step_mm", "top_left_mm", "workspace_mm", "mid_depth_mm", "rings",
    }  # fmt: skip
    assert all(len(ring) == 5 and ring[1] < ring[2] and ring[3] < ring[4] for ring in body["rings"])


def test_technique_and_angulation_are_those_of_the_page(page):
    plain = page.start()["state"]
    other = page.start(kvp=70.0, mas=2.0, alpha_deg=30.0, projection="PA")["state"]
    assert other["angles"] == [30.0, 0.0, "PA"] and other["dose_mgy"] > plain["dose_mgy"]
    automatic = page.start(mas=0.0)["state"]
    assert automatic["dose_mgy"] != plain["dose_mgy"]
