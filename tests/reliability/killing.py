"""Functions that run in a forked process and are killed there, at a random moment or at a call inside a save.

The packages are imported once, in the process that forks.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ORPHAN_S = 5.0
"""Children of a killed process must be gone after this time."""


@dataclass(frozen=True)
class Window:
    """A call inside a save.

    Attributes:
        owner: module or class.
        name: its attribute that is called.
        path: number of the argument that is the path or handle of the file that is written; None if there is none.
    """

    owner: Any
    name: str
    path: int | None = None


SAVES = (Window(os, "replace"), Window(os, "fsync", 0), Window(os, "mkdir"), Window(os, "unlink"), Window(os, "rmdir"))


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    Attributes:
        seconds: after this time; None for a call.
        call: before this call of a window, counted from 0.
        half: cut what this call is about to finish.
    """

    seconds: float | None = None
    call: int = 0
    half: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a process.

    Attributes:
        killed: whether it was killed before its end.
        status: its exit status.
        seconds: how long it ran.
        calls: calls of windows until its end.
        orphans: numbers of the children that outlived it by `ORPHAN_S`.
    """

    killed: bool
    status: int
    seconds: float
    calls: int
    orphans: tuple[int, ...]


def run_forked(
    function: Callable[[], Any], log: Path, kill: Kill | None = None, windows: Sequence[Window] = SAVES
) -> Outcome:
    """Runs a function in a forked process; its status is 1 after an exception, which is in the log.

    Args:
        function: takes no arguments.
        log: file that receives its output; files beside it hold its calls and children.
        kill: when to kill it; None lets it end.
        windows: the calls that are counted.
    """
    calls, children = log.with_suffix(".calls"), log.with_suffix(".children")
    for path in (calls, children):
        path.write_text("", encoding="utf-8")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(function, log, kill, windows, calls, children)
    family: set[int] = set()
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if kill is not None and kill.seconds is not None and time.monotonic() - started >= kill.seconds:
            # Stopped first, so that it starts no child between the look and the kill.
            os.kill(child, signal.SIGSTOP)
            family = descendants(child)
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.002)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    family |= {int(number) for number in children.read_text(encoding="utf-8").split()}
    orphans = _orphans(family)
    killed = os.WIFSIGNALED(status)
    return Outcome(killed, 0 if killed else os.WEXITSTATUS(status), seconds, len(calls.read_bytes()), orphans)


def _run(
    function: Callable[[], Any], log: Path, kill: Kill | None, windows: Sequence[Window], calls: Path, children: Path
) -> None:
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(output), "w")
        counter = os.open(calls, os.O_WRONLY | os.O_APPEND)
        for window in windows:
            _watch(window, kill if kill and kill.seconds is None else None, counter, children)
        status = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if status in range(256) else 1)


def _watch(window: Window, kill: Kill | None, counter: int, children: Path) -> None:
    real = getattr(window.owner, window.name)

    def call(*arguments: Any, **options: Any) -> Any:
        if kill is not None and os.lseek(counter, 0, os.SEEK_END) == kill.call:
            if kill.half and window.path is not None:
                real(*arguments, **options)
                _cut(arguments[window.path])
            children.write_text(" ".join(map(str, descendants(os.getpid()))), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(counter, b".")
        return real(*arguments, **options)

    setattr(window.owner, window.name, call)


def _cut(file: Any) -> None:
    """Cuts a file that is being written to its half, or the last line of a file that grows."""
    path = Path(os.readlink(f"/proc/self/fd/{file}")) if isinstance(file, int) else Path(file)
    if path.is_file():
        size = path.stat().st_size
        os.truncate(path, max(size - 20, 0) if path.suffix == ".jsonl" else size // 2)


def descendants(process: int) -> set[int]:
    """Returns the numbers of all children of a process, and of theirs."""
    found: set[int] = set()
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        for task in tasks:
            for number in (task / "children").read_text(encoding="utf-8").split():
                found |= {int(number), *descendants(int(number))}
    except OSError:
        pass
    return found


def _orphans(family: set[int]) -> tuple[int, ...]:
    deadline = time.monotonic() + ORPHAN_S
    while (left := sorted(filter(_is_running, family))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return tuple(left)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
