"""The study page without a screen: blinded, resumable, and the oracle's moves give the oracle's results."""

import dataclasses
import json

import pytest

from benchmarks import leaderboard
from carm_env.actions import ALIGNED, Move
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment, reset_episode
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.results import read_results
from carm_env.evaluation.runner import run_episode
from carm_env.evaluation.suite import load_suite
from carm_env.system.command_line import run_script
from tests.carm_env.cockpit.page_client import DeskPage, connect

OF_THE_DRIVER = ("policy", "run", "latency_ms", "decision_ms", "settings", "privileged_info")
"""Fields in which a person with the oracle's knowledge differs from the oracle."""
KEYS_OF_STATE = {
    "target", "exposures", "dose_mgy", "dap_mgy_cm2", "quality", "steps", "max_steps", "mask", "clipped", "effective",
    "field_of_view_mm", "extents_mm", "tolerance_mm", "title", "message", "has_ended", "seconds",
}  # fmt: skip
"""Everything that the page is told besides the X-ray."""


@pytest.fixture
def page(client):
    with connect(client, "study/socket") as socket:
        yield DeskPage(socket)


@pytest.fixture
def suite(suite_file):
    return load_suite(str(suite_file))


def open_study(page, name="anna"):
    page.send("open", suite="short", name=name)
    return page.frame()


def results_of(settings, name="anna"):
    results, errors = read_results(settings.studies / "short" / name / "episodes.jsonl")
    assert not errors
    return results


def play_informed(page, suite, shown, decisions=10**6, episodes=10**6):
    """Plays as the oracle would, until the study is finished, or for a number of decisions or of ended episodes."""
    env, oracle = make_suite_environment(suite), OraclePolicy()
    while decisions:
        number = shown["study"]["finished_episodes"]
        _, info = reset_episode(env, EpisodeTask(suite, number, "oracle", number))
        while not shown["state"]["has_ended"] and decisions:
            while info["exposures"] < shown["state"]["exposures"]:
                info = env.step(oracle.act(None, info).move.index)[-1]
            move = oracle.act(None, info).move
            page.send("move", action=move.index, steps=shown["state"]["steps"])
            shown = page.frame()
            info = env.step(move.index)[-1]
            decisions -= 1
        episodes -= shown["state"]["has_ended"]
        if shown["study"]["is_finished"] or not episodes:
            break
        if shown["state"]["has_ended"]:
            page.send("next")
            shown = page.frame()
    return shown


def check_equal_to_the_oracle(suite, results, episodes=None):
    """Checks that the results, of the first episodes, are those of the oracle, with byte-equal moves."""
    policy, env = make_policy("oracle"), make_suite_environment(suite)
    numbers = range(len(suite.episodes) if episodes is None else episodes)
    expected = [run_episode(policy, env, EpisodeTask(suite, number, "oracle", number)) for number in numbers]
    assert json.dumps([one.moves for one in results]) == json.dumps([one.moves for one in expected])
    left, right = (
        [{key: value for key, value in dataclasses.asdict(one).items() if key not in OF_THE_DRIVER} for one in side]
        for side in (results, expected)
    )
    assert left == right


def test_a_person_with_the_oracles_knowledge_stands_on_the_leaderboard(page, suite, suite_file, settings, tmp_path):
    shown = play_informed(page, suite, open_study(page))
    assert "The study is finished, thank you." in shown["state"]["message"] and shown["study"]["name"] == "human:anna"
    check_equal_to_the_oracle(suite, results_of(settings))
    arguments = ["--from", str(settings.studies / "short" / "anna"), "--out", str(tmp_path / "board"),
                 "--suite", str(suite_file)]  # fmt: skip
    assert run_script(leaderboard.run, leaderboard.Arguments, given=arguments) == 0
    row = json.loads((tmp_path / "board" / "leaderboard.json").read_text(encoding="utf-8"))["human:anna"]["short"]
    assert row["success"] == 1.0 and row["exposures"] > 1 and row["latency_ms"] > 0
    page.send("open", suite="short", name="anna")
    assert page.next("finished")["study"]["is_finished"]


def test_nothing_on_the_socket_tells_the_truth(page, suite, client):
    shown = open_study(page)
    env, moves, truths = make_suite_environment(suite), [Move(1, 0).index, Move(0, -2).index], []
    for number in range(len(suite.episodes)):
        _, info = reset_episode(env, EpisodeTask(suite, number, "oracle", number))
        for action in (*moves, ALIGNED.index):
            truths.append(info)
            page.send("move", action=action, steps=shown["state"]["steps"])
            shown = page.frame()
            assert set(shown["state"]) == KEYS_OF_STATE
            info = env.step(action)[-1]
        if number + 1 < len(suite.episodes):
            page.send("next")
            shown = page.frame()
    sent = " ".join(page.received)
    for word in ("distance", "displacement", "isocenter", "closest", "is_success", "success", "misaligned", "lps",
                 "imported:", "fingerprint"):  # fmt: skip
        assert word not in sent
    told = json.dumps([json.loads(text) for text in page.received])
    for info in truths:
        for value in (info["distance_mm"], *info["displacement_mm"], *info["isocenter_lps_mm"]):
            assert f"{value:.2f}" not in told and repr(float(value)) not in told
    for path in ("/api/offers", "/api/studies", "/api/annotations/progress"):
        assert "distance" not in client.get(path).text


def test_a_right_and_a_wrong_declaration_look_the_same(client, suite, settings):
    told = {}
    for name, is_right in (("right", True), ("wrong", False)):
        with connect(client, "study/socket") as socket:
            page = DeskPage(socket)
            shown = open_study(page, name)
            if is_right:
                shown = play_informed(page, suite, shown, episodes=1)
            else:
                page.send("move", action=ALIGNED.index, steps=0)
                shown = page.frame()
            told[name] = (set(shown["state"]), shown["state"]["message"], shown["study"]["finished_episodes"])
    assert told["right"] == told["wrong"]
    assert [one.success for name in told for one in results_of(settings, name)] == [True, False]


def test_a_page_that_comes_back_continues_with_the_same_x_ray(client, suite, settings):
    with connect(client, "study/socket") as socket:
        page = DeskPage(socket)
        before = play_informed(page, suite, open_study(page), decisions=1)
    with connect(client, "study/socket") as socket:
        page = DeskPage(socket)
        after = open_study(page)
        assert (after["image"] == before["image"]).all() and after["state"] == before["state"]
        play_informed(page, suite, after)
    check_equal_to_the_oracle(suite, results_of(settings))


def test_of_two_tabs_the_last_one_has_the_study(client, page):
    open_study(page)
    with connect(client, "study/socket") as socket:
        second = DeskPage(socket)
        assert open_study(second)["state"]["exposures"] == 1
        assert "another tab" in page.next("taken")["text"]


def test_a_move_for_the_x_ray_before_takes_no_other(page):
    shown = open_study(page)
    for _ in range(2):
        page.send("move", action=Move(1, 0).index, steps=shown["state"]["steps"])
    assert page.frame()["state"]["exposures"] == 2
    assert "for the X-ray before" in page.refusal()["text"]
    page.send("hand_back", steps=0)
    assert "for the X-ray before" in page.refusal()["text"]
    page.send("next")
    assert "has not ended" in page.refusal()["text"]
    page.send("hand_back", steps=1)
    assert page.frame()["state"]["has_ended"]


@pytest.mark.parametrize("meant", [{"name": "ben"}, {"suite": "smoke"}])
@pytest.mark.parametrize(("kind", "fields"), [("move", {"action": 31}), ("hand_back", {})])
def test_a_decision_of_another_study_is_refused(page, meant, kind, fields):
    shown = open_study(page)
    page.send(kind, steps=0, **{"suite": "short", "name": "anna", **fields, **meant})
    assert page.frame()["state"] == shown["state"]
    assert "another study" in page.refusal()["text"]
    page.send(kind, steps=0, suite="short", name="anna", **fields)
    assert page.frame()["state"]["steps"] == 1


def test_a_study_of_another_version_of_the_suite_is_refused(make_client, suite, suite_file, settings):
    with make_client() as client, connect(client, "study/socket") as socket:
        page = DeskPage(socket)
        open_study(page)
        page.send("hand_back", steps=0)
        page.frame()
    (before,) = results_of(settings)
    suite_file.write_text(dataclasses.replace(suite, version=9).to_yaml(), encoding="utf-8")
    with make_client() as client, connect(client, "study/socket") as socket:
        page = DeskPage(socket)
        page.send("open", suite="short", name="anna")
        said = page.refusal()["text"]
        assert f"version {suite.version} " in said and "expected version 9" in said and "another pseudonym" in said
        assert open_study(page, "ben")["state"]["exposures"] == 1
    assert results_of(settings) == [before]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("garbage", "not valid JSON"),
        ('{"type": "move", "action": 49, "steps": 0}', "expected 0 to 48"),
        ('{"type": "move", "action": NaN, "steps": 0}', "not valid JSON"),
        ('{"type": "move", "action": 3}', "cannot be read"),
        ('{"type": "move", "action": 3, "steps": 0}', "No study is open"),
        ('{"type": "open", "suite": "nothing", "name": "anna"}', "nknown suite"),
        ('{"type": "open", "suite": "../short.yaml", "name": "anna"}', "nknown suite"),
        ('{"type": "open", "suite": "short", "name": "../anna"}', "choose a pseudonym"),
        ('{"type": "open", "suite": "short", "name": "<b>anna</b>"}', "choose a pseudonym"),
        ('{"type": "open", "suite": "short", "name": "anna", "seed": 3}', "seed"),
        ('{"type": "start", "patient": "imported:one", "show_distance": true}', "expected a type"),
    ],
)
def test_bad_messages_are_refused_and_nothing_is_begun(page, settings, message, said):
    page.socket.send_text(message)
    assert said in page.refusal()["text"] and not settings.studies.exists()
    assert open_study(page)["state"]["steps"] == 0


def test_a_thousand_moves_a_second_spend_no_x_rays(make_client):
    with make_client(moves_per_second=5.0) as client, connect(client, "study/socket") as socket:
        page = DeskPage(socket)
        open_study(page)
        for _ in range(1000):
            page.send("move", action=Move(1, 0).index, steps=0)
        while "Slow down" not in page.refusal()["text"]:
            pass
    with make_client() as client, connect(client, "study/socket") as socket:
        assert open_study(DeskPage(socket))["state"]["exposures"] == 2


def test_a_suite_that_is_no_suite_is_said_at_the_start(make_client, suite_file):
    suite_file.write_text("name: short", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks version"), make_client():
        pass


def test_a_server_for_participants_serves_the_study_alone(make_client):
    with make_client(only_studies=True) as client:
        assert "carm-env study" in client.get("/").text and client.get("/api/studies").json()["only_studies"]
        for path in ("/annotate", "/agreement", "/api/offers", "/api/annotations/progress",
                     "/api/annotations/file?patient=imported:one&annotator=anna&form=slicer"):  # fmt: skip
            assert client.get(path).status_code == 404
        for path in ("socket", "annotate/socket"):
            with pytest.raises(Exception), connect(client, path) as socket:  # noqa: B017
                socket.receive_json()
        with connect(client, "study/socket") as socket:
            assert open_study(DeskPage(socket))["state"]["exposures"] == 1
