import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from carm_env.adapters.suite_chat import ChatSettings
from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.runner import run_episode
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.language.answers import Navigation, render
from carm_env.transcripts.read import find_transcripts, read_transcript

# What the runs through an adapter and through `carm-env evaluate` have in common.
COMPARED = (
    "suite", "suite_version", "suite_hash", "episode", "seed", "patient", "patient_fingerprint", "target",
    "start_lps_mm", "outcome", "success", "initial_distance_mm", "final_distance_mm", "steps", "exposures",
    "dose_mgy", "path_mm", "path_efficiency", "invalid_answers", "lenient_answers", "moves", "trajectory_lps_mm",
)  # fmt: skip


class TalkingOracle:
    """A model that recognises each X-ray of a suite and answers with the oracle's move, in words.

    It recognises an X-ray by its pixels, so it finds an answer only if the adapter shows what ``carm-env evaluate``
    shows.
    """

    def __init__(self, suite):
        self.suite, self.results, self._answers = suite.name, [], {}
        env = make_suite_environment(suite)
        recorder = self

        class Recorded(OraclePolicy):
            def act(self, observation, info):
                decision = super().act(observation, info)
                closest = decision.closest_landmarks[0]
                answer = render(Navigation(closest, decision.move, "it is there", "it is there"))
                recorder._answers[observation["image"][..., 0].tobytes()] = answer
                return decision

        for episode in range(len(suite.episodes)):
            self.results.append(run_episode(Recorded(), env, EpisodeTask(suite, episode, "oracle", episode)))

    def answer(self, image):
        """Answers an X-ray, a PIL image of one channel or of three equal ones."""
        pixels = np.asarray(image.convert("RGB"))
        assert (pixels == pixels[..., :1]).all()
        return self._answers[pixels[..., 0].tobytes()]

    def check(self, results):
        """Asserts that results, as dictionaries and in any order, are the oracle's."""
        found = sorted(results, key=lambda result: result["episode"])
        assert len(found) == len(self.results)
        for result, expected in zip(found, self.results, strict=True):
            assert {key: result[key] for key in COMPARED} == {key: getattr(expected, key) for key in COMPARED}
            assert result["success"] and result["prompts"] and not result["privileged_info"]

    def check_transcripts(self, folder):
        """Asserts that a folder holds the transcripts of the oracle's episodes."""
        found = sorted(map(read_transcript, find_transcripts(folder)), key=lambda transcript: transcript.start.episode)
        assert len(found) == len(self.results)
        for transcript, expected in zip(found, self.results, strict=True):
            assert transcript.end is not None and transcript.end.outcome == "success" and not transcript.problems
            assert [answer.action for answer in transcript.answers] == expected.moves
            assert all(answer.messages and answer.text for answer in transcript.answers)


@pytest.fixture
def suite_file(small_patients, tmp_path):
    """A suite of four quick episodes, as a file."""
    specs = [
        EpisodeSpec(small_patients[i % 2], target, start)
        for i, (target, start) in enumerate([(1, 4), (4, 1), (11, 2), (13, 5)])
    ]
    suite = Suite("four", 1, "four routes", 20, tuple(specs), {"image_size": 32})
    path = tmp_path / "four.yaml"
    path.write_text(suite.to_yaml(), encoding="utf-8")
    return str(path)


@pytest.fixture(params=["four", pytest.param("smoke", marks=pytest.mark.slow)])
def suite_name(request):
    """A quick suite, and the suite `smoke` of the package."""
    return request.getfixturevalue("suite_file") if request.param == "four" else request.param


@pytest.fixture
def oracle(suite_name):
    return TalkingOracle(load_suite(suite_name))


@pytest.fixture
def settings(suite_file):
    return ChatSettings(suite_file)


@pytest.fixture
def image_of_url():
    """Returns the image of a data URL."""

    def image(url):
        return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True)))

    return image


@pytest.fixture
def chat_server():
    """Starts a server with OpenAI's protocol that answers messages with ``answer(messages)``; returns its URL."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = {"role": "assistant", "content": answer(body["messages"])}
                reply = {"id": "0", "object": "chat.completion", "created": 0, "model": body["model"],
                         "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}  # fmt: skip
                if body.get("stream"):
                    choice = {"index": 0, "delta": message, "finish_reason": "stop"}
                    event = json.dumps({**reply, "object": "chat.completion.chunk", "choices": [choice]})
                    self._send("text/event-stream", f"data: {event}\n\ndata: [DONE]\n\n")
                else:
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    self._send("application/json", json.dumps({**reply, "choices": [choice]}))

            def _send(self, kind, text):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
