"""Sessions: several at once, dropped sockets, two tabs, expiry, limits and messages that are none."""

import json
import logging

import hypothesis.strategies as st
import pytest
from hypothesis import given

from carm_env.cockpit.messages import KINDS, parse_message
from carm_env.cockpit.offers import Offers
from carm_env.cockpit.parsing import MAX_MESSAGE_BYTES
from carm_env.cockpit.rate import RateLimit
from carm_env.cockpit.refusals import EXPIRED, FULL, MESSAGE, RATE, TAKEN, RefusedError
from carm_env.cockpit.settings import CockpitSettings
from carm_env.cockpit.store import SessionStore
from tests.carm_env.cockpit.page_client import Page, connect


def test_a_dropped_socket_continues_its_session(client):
    with connect(client) as socket:
        page = Page(socket)
        name = page.hello()
        page.start(start="14", seed=3)
        page.send("move", action=25)
        before = page.frame()
    with connect(client) as socket:
        page = Page(socket)
        assert page.hello(name) == name
        after = page.frame()
        assert (after["image"] == before["image"]).all() and after["state"]["exposures"] == 2
        page.send("move", action=25)
        assert page.frame()["state"]["exposures"] == 3


def test_sessions_do_not_share_their_state(client):
    with connect(client) as one, connect(client) as two:
        first, second = Page(one), Page(two)
        assert first.hello() != second.hello()
        first.start(target=11)
        assert second.start(target=14)["state"]["target"]["id"] == 14
        first.send("move", action=25)
        assert first.frame()["state"]["exposures"] == 2
        second.send("move", action=23)
        assert second.frame()["state"]["exposures"] == 2


def test_of_two_tabs_the_last_one_has_the_session(client):
    with connect(client) as one:
        first = Page(one)
        name = first.hello()
        first.start()
        with connect(client) as two:
            second = Page(two)
            assert second.hello(name) == name
            assert "another tab" in first.next("taken")["text"]
            second.frame()
            first.send("move", action=25)
            assert first.refusal()["reason"] == TAKEN
            second.send("move", action=25)
            assert second.frame()["state"]["exposures"] == 2


def test_an_unknown_session_is_said_to_have_expired(client, caplog):
    with connect(client) as socket:
        page = Page(socket)
        page.send("hello", session="made-up")
        assert page.refusal()["reason"] == EXPIRED
        assert page.next("welcome")["session"] != "made-up"
    assert EXPIRED in caplog.text


def test_sessions_expire_and_give_way(tmp_path):
    now = [0.0]
    settings = CockpitSettings(out=tmp_path, max_sessions=2, session_minutes=1.0)
    store = SessionStore(settings, Offers(), None, clock=lambda: now[0])
    first, second = store.open(), store.open()
    first.last_used, second.last_used = 0.0, 30.0
    third = store.open()
    assert len(store) == 2
    with pytest.raises(RefusedError, match="expired"):
        store.find(first.id)
    third.last_used, now[0] = 30.0, 100.0
    with pytest.raises(RefusedError, match="expired"):
        store.find(second.id)
    assert len(store) == 0


def test_a_server_with_all_pages_connected_refuses_one_more(make_client):
    with make_client(max_sessions=1) as client, connect(client) as one, connect(client) as two:
        Page(one).hello()
        second = Page(two)
        second.send("hello")
        assert second.refusal()["reason"] == FULL


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("garbage", "not valid JSON"),
        ("[1]", "expected a type"),
        ('{"type": "fly"}', "expected a type"),
        ('{"type": "move", "action": 49}', "expected 0 to 48"),
        ('{"type": "move", "action": true}', "expected int"),
        ('{"type": "move", "action": 1, "lane": 7}', "expected 0 to 1"),
        ('{"type": "move"}', "cannot be read"),
        ('{"type": "move", "action": 1, "speed": 3}', "speed"),
        ('{"type": "start", "policies": ["a", "b", "c"]}', "at most 2"),
        ('{"type": "start", "kvp": NaN}', "not valid JSON"),
        ('{"type": "start", "image_size": 100000}', "expected 64 to 1024"),
        ('{"type": "say", "text": "   "}', "expected 1 to"),
        ('{"type": "play", "pace_s": -1}', "expected 0 to 60"),
        ("[" * 5000, "nested"),
        (" " * (MAX_MESSAGE_BYTES + 1), "expected at most"),
    ],
)
def test_a_message_that_is_none_is_refused_and_the_page_goes_on(page, caplog, text, said):
    page.socket.send_text(text)
    refusal = page.refusal()
    assert refusal["reason"] == MESSAGE and said in refusal["text"] and MESSAGE in caplog.text
    assert page.start()["state"]["exposures"] == 1


KEYS, VALUES = st.sampled_from([*"ab", "type", "action", "text", "lane"]), st.sampled_from(list(KINDS)) | st.integers()


@given(st.text() | st.builds(json.dumps, st.dictionaries(KEYS, VALUES | st.text())))
def test_parsing_raises_nothing_but_refusals(text):
    try:
        parse_message(text)
    except RefusedError as error:
        assert error.reason == MESSAGE


def test_binary_messages_are_refused(page):
    page.socket.send_bytes(b"\0" * 100)
    assert page.refusal()["reason"] == MESSAGE


def test_a_thousand_moves_a_second_are_told_to_slow_down(make_client, caplog):
    with make_client(moves_per_second=5.0) as client, connect(client) as socket:
        page = Page(socket)
        page.hello()
        page.start(max_steps=200)
        for _ in range(1000):
            page.send("move", action=25)
        while (refusal := page.refusal())["reason"] != RATE:
            pass
        assert "Slow down" in refusal["text"] and RATE in caplog.text


def test_the_rate_recovers():
    now = [0.0]
    limit = RateLimit(2.0, clock=lambda: now[0])
    assert sum(limit.allows() for _ in range(100)) == 4 and limit.refused == 96
    assert limit.is_notice_due() and not limit.is_notice_due()
    now[0] = 10.0
    assert limit.allows() and limit.refused == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patient": "virtua:0"}, "Did you mean"),
        ({"patient": "imported:nobody"}, "Did you mean"),
        ({"patient": "/etc/passwd"}, "nknown patient"),
        ({"patient": "../../etc"}, "nknown patient"),
        ({"patient": "imported:../one"}, "nknown patient"),
        ({"patient": "virtual:x"}, "whole number"),
        ({"target": 99}, "nknown landmark"),
        ({"start": "here"}, "landmark"),
        ({"start": "1e9 0"}, "workspace"),
        ({"alpha_deg": 80.0}, "alpha_deg"),
        ({"kvp": 1.0}, "kvp"),
        ({"suite": "../smoke"}, "nknown suite"),
        ({"suite": "/etc/passwd.yaml"}, "nknown suite"),
        ({"suite": "smoke", "episode": 4000}, "no episode"),
    ],
)
def test_an_episode_that_cannot_be_is_refused_in_a_sentence(page, caplog, fields, said):
    page.send("start", **{"patient": "imported:one", "image_size": 64, "target": 11, **fields})
    refusal = page.refusal()
    assert said in refusal["text"] and refusal["reason"] in caplog.text


def test_the_log_holds_no_words_and_no_names_of_people(page, caplog):
    caplog.set_level(logging.DEBUG)
    page.send("start", patient="imported:Erika-Mustermann")
    page.refusal()
    page.start(policies=["oracle"])
    page.send("say", text="Frau Mustermann lies higher.")
    page.next("talk")
    assert "Mustermann" not in caplog.text
