"""A server of the cockpit with tiny patients, and pages that talk to it."""

import dataclasses

import pytest

from carm_env.cockpit.settings import CockpitSettings
from tests.carm_env.cockpit.page_client import OWN, Page, connect

POLICIES = '''
import threading

from carm_env.actions import ALIGNED, Move
from carm_env.evaluation.policy import Decision, Policy

gate = threading.Event()


class Humble(Policy):
    """Declares, until somebody says where to go."""

    def reset(self, seed=None):
        self.heard = []

    def feedback(self, text):
        self.heard.append(text)

    def act(self, observation, info):
        if self.heard:
            self.heard.clear()
            return Decision(Move(0, 1), (1,), "I was told to go up.", 0.5)
        return Decision(ALIGNED, (1, 2, 3), "I believe it is here.", 0.9)


class Asking(Humble):
    def act(self, observation, info):
        decision = super().act(observation, info)
        if decision.move.is_aligned:
            return Decision(ALIGNED, abstain=True, question="Which way is it?")
        return decision


class Slow(Humble):
    """Thinks until the gate is opened."""

    def act(self, observation, info):
        gate.wait(20)
        return Decision(Move(1, 0))


class Broken(Humble):
    def act(self, observation, info):
        raise KeyError("<b>lost</b>")


class Deaf(Humble):
    def feedback(self, text):
        raise ValueError("the words have a marker")
'''


@pytest.fixture
def policy_file(tmp_path):
    path = tmp_path / "cockpit_policies.py"
    path.write_text(POLICIES, encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path, policy_file, small_patients):
    names = tuple(f"{policy_file}:{name}" for name in ("Humble", "Asking", "Slow", "Broken", "Deaf"))
    return CockpitSettings(out=tmp_path / "out", policies=names, moves_per_second=1000.0)


@pytest.fixture
def make_client(settings):
    """Makes a client of a server with other settings."""
    testclient = pytest.importorskip("starlette.testclient", reason="the extra cockpit is not installed")
    from carm_env.cockpit.server import make_app

    def make(access=None, **changes):
        app = make_app(dataclasses.replace(settings, **changes), access)
        return testclient.TestClient(app, base_url=OWN)

    return make


@pytest.fixture
def client(make_client):
    with make_client() as made:
        yield made


@pytest.fixture
def page(client):
    with connect(client) as socket:
        made = Page(socket)
        made.hello()
        yield made
