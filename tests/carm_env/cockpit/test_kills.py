"""Servers that are killed in the middle of an annotation: at most the click that was not confirmed is lost."""

import json
import random
import time

import pytest

from carm_env.annotation.files import find_annotation

NAME = "imported:one"
ROUNDS = 2


def say(socket, **message):
    socket.send(json.dumps(message))


def state_of(socket):
    while True:
        message = socket.recv(timeout=60)
        if isinstance(message, str) and (value := json.loads(message))["type"] in ("annotation", "refused"):
            assert value["type"] == "annotation", value
            return value


def test_a_kill_at_any_moment_loses_at_most_the_last_click(server, tmp_path):
    client = pytest.importorskip("websockets.sync.client", reason="the extra cockpit is not installed")
    rng, confirmed = random.Random(0), 0
    for number in range(ROUNDS):
        address = server.address.replace("http", "ws") + "annotate/socket"
        with client.connect(address, max_size=None, compression=None) as socket:
            say(socket, type="open", patient=NAME, annotator="anna")
            state = state_of(socket)
            record = find_annotation(tmp_path / "annotations", NAME, "anna")
            # Everything that was confirmed before the kill is there; the click that was under way may be.
            assert state["revision"] in (confirmed, confirmed + 1)
            assert state["revision"] == (0 if record is None else record.revision)
            for _ in range(4):
                say(socket, type="click", view="frontal", u=20.0 + number, v=30.0, revision=state["revision"])
                state = state_of(socket)
            confirmed = state["revision"]
            say(socket, type="click", view="frontal", u=25.0, v=35.0, revision=confirmed)
            time.sleep(rng.uniform(0, 0.1))
            server.kill()
        server.start()
    record = find_annotation(tmp_path / "annotations", NAME, "anna")
    assert record.revision in (confirmed, confirmed + 1) and record.annotations[1].state == "placed"
