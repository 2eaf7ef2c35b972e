"""A server of OpenAI's and Anthropic's protocols, whose answers and faults are set by the caller."""

from __future__ import annotations

import json
import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

Body = dict[str, Any]


class FakeServer(ThreadingHTTPServer):
    """Answers requests with ``answer(body)``.

    Attributes:
        url: base URL of the server.
        answer: returns the text of a reply, or bytes that are sent as they are as the whole reply.
        status: status of every reply.
        error_share: share of the requests that are answered with status 503.
        drop_share: share of the requests whose connection is closed without a reply.
        latency_s: time until a reply.
        first_tokens: first tokens with their probabilities, which a reply gives as ``logprobs`` if they are asked for;
            none by default.
        requests: path, headers and body of every request that was answered.
        n_faults: number of requests that were not answered.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer: Callable[[Body], str | bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.status, self.error_share, self.drop_share, self.latency_s = 200, 0.0, 0.0, 0.0
        self.first_tokens: list[tuple[str, float]] = []
        self.requests: list[tuple[str, dict[str, str], Body]] = []
        self.n_faults = 0
        self._rng, self._lock = np.random.default_rng(0), threading.Lock()

    @property
    def url(self) -> str:
        """Base URL with the version."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fault(self) -> str:
        """Draws the fault of a request: ``error``, ``drop`` or none."""
        with self._lock:
            drawn = self._rng.random()
            kind = "error" if drawn < self.error_share else "drop" if drawn < self.error_share + self.drop_share else ""
            self.n_faults += bool(kind)
            return kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing about a client that closed its connection."""


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers a request, or fails as drawn."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.server.fault()
        time.sleep(self.server.latency_s)
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "error":
            self.send(503, b'{"error": {"message": "overloaded"}}', [("retry-after-ms", "5")])
            return
        self.server.requests.append((self.path, dict(self.headers), body))
        answer = self.server.answer(body)
        if self.server.status != 200:
            self.send(
                self.server.status, json.dumps({"error": {"message": answer}}).encode(), [("retry-after-ms", "5")]
            )
        elif isinstance(answer, bytes):
            self.send(200, answer, [], "text/html")
        else:
            self.send(200, json.dumps(self.reply(answer, bool(body.get("logprobs")))).encode(), [])

    def reply(self, text: str, has_logprobs: bool = False) -> dict[str, Any]:
        """Returns the JSON of a reply in the protocol of the request's path."""
        if self.path.endswith("/messages"):
            content = [{"type": "text", "text": text}]
            usage = {"input_tokens": 1000, "output_tokens": 50}
            about = {"id": "m", "type": "message", "role": "assistant", "model": "fake", "stop_reason": "end_turn"}
            return {**about, "stop_sequence": None, "content": content, "usage": usage}
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
        choices: list[dict[str, Any]] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        if has_logprobs and self.server.first_tokens:
            top = [{"token": token, "logprob": math.log(share), "bytes": None}
                   for token, share in self.server.first_tokens]  # fmt: skip
            choices[0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "fake",
            "choices": choices,
            "usage": usage,
        }

    def send(self, status: int, content: bytes, headers: list[tuple[str, str]], kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(content))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Logs nothing."""


@contextmanager
def fake_server(answer: Callable[[Body], str | bytes] | str | bytes) -> Iterator[FakeServer]:
    """Runs a server until the block ends."""
    server = FakeServer(answer if callable(answer) else lambda body: answer)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def server_process(answer: Callable[[Body], str], latency_s: float) -> Iterator[str]:
    """Runs a server in a process of its own until the block ends, and yields its URL.

    Args:
        answer: a module-level function.
        latency_s: time until a reply.
    """
    context = multiprocessing.get_context("spawn")
    urls = context.Queue()
    process = context.Process(target=_serve, args=(answer, latency_s, urls), daemon=True)
    process.start()
    try:
        yield urls.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def _serve(answer: Callable[[Body], str], latency_s: float, urls: Any) -> None:
    server = FakeServer(answer)
    server.latency_s = latency_s
    urls.put(server.url)
    server.serve_forever()
