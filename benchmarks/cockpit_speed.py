"""Measures how fast the cockpit answers a move with an X-ray, for one page and for several at once.

    python benchmarks/cockpit_speed.py --json cockpit_speed.json

The script starts `carm-env cockpit` in a process of its own and connects pages without a screen to it. Each page sends
a move, waits for the X-ray, and sends the next move at once, which is faster than people do. The time of a move runs
from the message to the decoded X-ray; a browser needs a few milliseconds more to draw it. All pages move at the same
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.actions import Move
from carm_env.cockpit.frames import decode_frame
from carm_env.evaluation.provenance import PACKAGES, save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.system.command_line import run_script
from carm_env.system.extras import optional_imports
from carm_env.system.structured_files import parse_json

with optional_imports("cockpit", "This benchmark"):
    from websockets.asyncio.client import ClientConnection, connect

LIMIT_MS = 200.0
"""The median that several pages at once have to stay under."""
_THERE_AND_BACK = (Move(1, 0).index, Move(-1, 0).index)
_MAX_STEPS = 200
_MAX_MOVES = 40
"""The server answers 50 messages of a page in a burst."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        pages: number of pages that move at once.
        moves: moves of each page, at most 40.
        size: side of the X-rays, pixels.
        patient: name of the patient.
        json: file for the result.
    """

    pages: int = 8
    moves: int = 30
    size: int = 512
    patient: str = "virtual:0"
    json: Path | None = None

    def __post_init__(self) -> None:
        for name, highest in (("pages", 100), ("moves", _MAX_MOVES)):
            if not 1 <= getattr(self, name) <= highest:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected 1 to {highest}.")


@contextlib.contextmanager
def running_server(pages: int) -> Iterator[str]:
    """Runs the command; yields the address of its socket."""
    with tempfile.TemporaryDirectory(prefix="carm-env-cockpit-") as folder:
        command = [sys.executable, "-m", "carm_env.cli", "cockpit", "--no-browser", "--port", "0", "--out", folder,
                   "--max-sessions", str(pages)]  # fmt: skip
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8", env=environment
        )
        try:
            assert server.stdout is not None
            found = re.search(r"http://(\S+?)/", server.stdout.readline())
            if found is None:
                raise RuntimeError("carm-env cockpit did not start: run it by hand to see why.")
            yield f"ws://{found[1]}/socket"
        finally:
            server.terminate()
            server.wait(30)


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message = await socket.recv()
        value = decode_frame(message)[0] if isinstance(message, bytes) else parse_json(message, "a message")
        if value["type"] == "refused":
            raise RuntimeError(value["text"])
        if value["type"] == kind:
            return dict(value)


async def _start(socket: ClientConnection, arguments: Arguments, seed: int) -> None:
    await socket.send(json.dumps({"type": "hello"}))
    await _next(socket, "welcome")
    start = {"patient": arguments.patient, "image_size": arguments.size, "seed": seed, "max_steps": _MAX_STEPS}
    await socket.send(json.dumps({"type": "start", **start}))
    await _next(socket, "frame")


async def _drive(socket: ClientConnection, moves: int) -> list[float]:
    """Drives one page; returns the seconds of each move."""
    seconds = []
    for number in range(moves):
        began = time.perf_counter()
        await socket.send(json.dumps({"type": "move", "action": _THERE_AND_BACK[number % 2]}))
        await _next(socket, "frame")
        seconds.append(time.perf_counter() - began)
    return seconds


async def move_seconds(address: str, arguments: Arguments, pages: int) -> list[float]:
    """Returns the seconds of all moves of several pages that move at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = []
        for seed in range(pages):
            socket = await stack.enter_async_context(connect(address, max_size=None, compression=None))
            await _start(socket, arguments, seed)
            sockets.append(socket)
        driven = await asyncio.gather(*(_drive(socket, arguments.moves) for socket in sockets))
    return [seconds for page in driven for seconds in page]


def run(arguments: Arguments) -> int:
    """Measures, prints and writes the result; returns 1 if the median of several pages is above `LIMIT_MS`."""
    figures: dict[str, float] = {"pages": arguments.pages, "size": arguments.size}
    rows = []
    with running_server(arguments.pages) as address:
        for pages in dict.fromkeys((1, arguments.pages)):
            milliseconds = 1e3 * np.array(asyncio.run(move_seconds(address, arguments, pages)))
            median, high = np.percentile(milliseconds, (50, 90))
            figures |= {f"median_ms_{pages}": float(median), f"p90_ms_{pages}": float(high)}
            rows.append((str(pages), f"{median:.0f}", f"{high:.0f}", f"{milliseconds.max():.0f}"))
    print(markdown_table(("pages at once", "median ms", "90th percentile ms", "largest ms"), rows))
    save_measurement(arguments.json, figures, 0, (*PACKAGES, "fastapi", "uvicorn", "websockets"))
    is_fast = figures[f"median_ms_{arguments.pages}"] <= LIMIT_MS
    print(f"The median of {arguments.pages} page(s) is {'within' if is_fast else 'above'} {LIMIT_MS:g} ms.")
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
