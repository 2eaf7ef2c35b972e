"""A server of the cockpit with tiny patients, and pages that talk to it."""

import dataclasses
import shutil

import pytest

from carm_env.cockpit.settings import CockpitSettings
from carm_env.evaluation.recipes import suite_on
from carm_env.patients.catalogue import load_patient
from tests.carm_env.cockpit.browser_checks import Server
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
def suite_file(tmp_path, small_patients):
    """A suite of four episodes on two small patients."""
    drawn, _ = suite_on("smoke", {name: load_patient(name) for name in small_patients[:2]})
    path = tmp_path / "short.yaml"
    short = dataclasses.replace(drawn, name="short", episodes=drawn.episodes[:4], max_steps=12)
    path.write_text(short.to_yaml(), encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path, policy_file, suite_file):
    names = tuple(f"{policy_file}:{name}" for name in ("Humble", "Asking", "Slow", "Broken", "Deaf"))
    return CockpitSettings(
        out=tmp_path / "out", policies=names, suites=(str(suite_file),), annotations=tmp_path / "annotations",
        moves_per_second=1000.0,
    )  # fmt: skip


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


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("uvicorn", reason="the extra cockpit is not installed")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def server(tmp_path, policy_file, suite_file):
    """The command in a process of its own."""
    pytest.importorskip("uvicorn", reason="the extra cockpit is not installed")
    policies = [f"{policy_file}:{name}" for name in ("Humble", "Asking")]
    made = Server(
        tmp_path, "--policies", *policies, "--suites", str(suite_file), "--annotations", str(tmp_path / "annotations")
    )
    yield made
    made.kill()


@pytest.fixture
def opened(browser, server):
    """Opens the page; it must ask for nothing of other sites and report no error of its scripts."""
    contexts, errors, asked = [], [], []

    def open_page(query="", width=1400, height=950, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.goto(server.address + query)
        if not query.startswith("agreement"):
            page.locator("#connection.on").wait_for()
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        context.close()
    # The browser itself reports the status of an answer that refuses.
    expected = ("ERR_CONNECTION_REFUSED", "WebSocket connection", "ERR_CONNECTION_RESET", "status of 422")
    assert not [error for error in errors if not any(text in error for text in expected)]
    assert not [url for url in asked if not url.startswith((server.address, "blob:"))]
