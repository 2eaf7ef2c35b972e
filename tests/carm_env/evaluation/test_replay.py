"""Transcripts as pages and animations, also of hostile transcripts."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from carm_env.actions import ALIGNED, Move
from carm_env.cli import main
from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy import Decision
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.replay import save_replay
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.evaluation.suite import Suite
from carm_env.language.chat import image_part, text_part
from carm_env.transcripts.records import Exchange, TranscriptError

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$body ${title} \u202e\x1b"


class Talking(OraclePolicy):
    """Moves as the oracle does, and says the same text at each step."""

    def __init__(self, says):
        super().__init__()
        self.says = says
        self.steps = 0

    def act(self, observation, info):
        self.steps += 1
        question = [image_part(observation["image"]), text_part(self.says)]
        self.exchange = Exchange(
            [{"role": "user", "content": question}], self.says, tokens=7, cost=0.001, model=self.says
        )
        if self.steps == 1:
            self.exchange = Exchange(self.exchange.messages, self.says, fault="form", message=self.says)
            return Decision(ALIGNED, invalid=True)
        return super().act(observation, info)

    def last_exchange(self):
        return self.exchange


@pytest.fixture
def suite(small_patients):
    specs = tuple(EpisodeSpec(small_patients[0], target, 4) for target in (1, 3))
    return Suite("one<b>", 1, "routes", 20, specs, {"image_size": 16})


def run(suite, folder, policy, name="mine", episode=0):
    return run_episode(policy, suite_environment(suite), EpisodeTask(suite, episode, name, 7), transcripts=folder)


class Page(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def check_safe(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "link", "base", "form", "svg")
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not re.match("[a-z]+:|//", attributes.get("href", ""))
    policies = [dict(values) for tag, values in page.tags if values.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policies[0]["content"] and "script" not in policies[0]["content"]


def test_an_episode_becomes_a_page_and_an_animation(suite, tmp_path):
    result = run(suite, tmp_path / "t", Talking("go there"))
    (folder,) = (tmp_path / "t").iterdir()
    replay = save_replay(folder)
    page = Page(replay.page)
    check_safe(page)
    assert replay.page == folder / "index.html" and not replay.problems
    assert page.text.count("go there") >= 2 * result.steps
    for text in (
        "mine: Skull",
        "success",
        "Invalid answer: form",
        "Step 1",
        "within the tolerance",
        "7 tokens",
        "cost 0.0010",
    ):
        assert text in page.text, text
    # Every step shows its X-ray.
    assert len([tag for tag, _ in page.tags if tag == "img"]) == result.steps
    with Image.open(folder / "episode.gif") as animation:
        assert animation.n_frames >= result.exposures and animation.size == (512, 568)


def test_nothing_that_a_model_or_a_transcript_says_is_run(suite, tmp_path):
    run(suite, tmp_path / "t", Talking(EVIL), name=EVIL)
    replay = save_replay(tmp_path / "t", gif=False)
    (folder,) = (path for path in (tmp_path / "t").iterdir() if path.is_dir())
    for path in (replay.page, folder / "index.html"):
        page = Page(path)
        check_safe(page)
        assert "<script>alert(1)</script>" in page.text
        assert "\u202e" not in page.text and "\x1b" not in page.text and "U+202E" in page.text


def test_several_episodes_are_listed(suite, tmp_path):
    for episode in (0, 1):
        run(suite, tmp_path / "t", OraclePolicy(), "oracle", episode)
    run(suite, tmp_path / "t", Talking("no"))
    replay = save_replay(tmp_path / "t", tmp_path / "out", gif=False)
    page = Page(replay.page)
    check_safe(page)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == replay.episodes == 3 and all((tmp_path / "out" / link).is_file() for link in links)
    assert "2 of 2" in page.text and not list((tmp_path / "t").rglob("index.html"))
    back = Page(tmp_path / "out" / links[0])
    assert ("a", {"href": "../index.html"}) in back.tags


def test_damage_is_named_on_the_page_and_breaks_nothing(suite, tmp_path, capsys):
    for episode in (0, 1):
        run(suite, tmp_path / "t", OraclePolicy(), "oracle", episode)
    first, second = sorted((tmp_path / "t").iterdir())
    (first / "transcript.jsonl").write_text("nothing", encoding="utf-8")
    with (second / "transcript.jsonl").open("ab") as file:
        file.write(b'{"event": "ans')
    (second / "xray-000.png").write_bytes(b"broken")
    assert main(["replay", str(tmp_path / "t")]) == 1
    printed = capsys.readouterr()
    assert first.name in printed.err and "xray-000.png" in printed.err and "skipped" in printed.err
    page = Page(second / "index.html")
    assert "The image is missing" in page.text and "Damaged parts" in page.text
    assert first.name in Page(tmp_path / "t" / "index.html").text
    shutil.rmtree(second)
    assert main(["replay", str(tmp_path / "t")]) == 2
    assert "no line of a reset" in capsys.readouterr().err


def test_an_unfinished_and_a_crashed_episode_are_told_apart(suite, tmp_path):
    class Crashes(Talking):
        def act(self, observation, info):
            super().act(observation, info)
            raise RuntimeError("boom <b>")

    result = run(suite, tmp_path / "t", Crashes("last words"))
    (folder,) = (tmp_path / "t").iterdir()
    page = Page(save_replay(folder).page)
    assert result.outcome == "crash" and "RuntimeError: boom <b>" in page.text and "last words" in page.text
    assert "Traceback" not in page.text
    path = folder / "transcript.jsonl"
    path.write_bytes(path.read_bytes().rsplit(b'{"event": "end"', 1)[0])
    assert "unfinished" in Page(save_replay(folder).page).text


def test_a_page_of_someone_else_is_not_replaced(suite, tmp_path):
    run(suite, tmp_path / "t", OraclePolicy())
    (tmp_path / "t" / "index.html").write_text("<h1>My page</h1>", encoding="utf-8")
    with pytest.raises(TranscriptError, match="name another folder with --out"):
        save_replay(tmp_path / "t")
    assert (tmp_path / "t" / "index.html").read_text(encoding="utf-8") == "<h1>My page</h1>"


@pytest.mark.parametrize("missing", ["exposures", "isocenter_lps_mm", "distance_mm", "patient", "next_image", "text"])
def test_values_that_a_transcript_lacks_are_left_out(suite, tmp_path, missing):
    run(suite, tmp_path / "t", Talking("x"))
    (path,) = (tmp_path / "t").rglob("transcript.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [{key: value for key, value in line.items() if key != missing} for line in lines if line["event"] != "text"]
    path.write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    replay = save_replay(path.parent)
    check_safe(Page(replay.page))


def test_a_timeout_shows_the_last_x_ray(suite, tmp_path):
    class Up(OraclePolicy):
        def act(self, observation, info):
            return Decision(Move(0, 1), confidence=0.5, rationale="higher", closest_landmarks=(1, 99))

    short = Suite("short", 1, "", 2, suite.episodes, suite.environment)
    run(short, tmp_path / "t", Up())
    (folder,) = (tmp_path / "t").iterdir()
    page = Page(save_replay(folder).page)
    assert "X-ray after the last answer" in page.text and "closest: Skull" in page.text and "higher" in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3
    with Image.open(folder / "episode.gif") as animation:
        assert animation.n_frames == 3
        assert np.asarray(animation.convert("L")).max() > 0
