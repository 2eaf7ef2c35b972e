"""Gives hostile archives, texts, checkpoints and language models to their readers, and runs everything unconnected.

    python tests/reliability/hostile.py --out hostile.json
    python tests/reliability/hostile.py --only archives --each 5

Each input goes through the reader that a user calls, in a process that is forbidden the network. It must end in an
error of carm-env within a time limit: no code run, no file outside of its folder, no attempt to use the network, and at
most twice the declared limit on disk. The group ``runs`` starts short runs of everything that a user starts, in the
same way (`tests/reliability/quiet_runs.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A script's own folder is the first place where Python looks, and not the repository.
sys.path.insert(0, str(Path(__file__).parents[2]))

from carm_env.system.command_line import run_script
from carm_env.system.errors import CArmEnvError, check_keys
from carm_env.system.files import write_json
from tests.reliability import quiet_runs
from tests.reliability.hostile_inputs import GROUPS, Case
from tests.reliability.network_guard import guarded

RUNS = "runs"
_TYPED = (CArmEnvError, FileNotFoundError, MemoryError)
_INPUT_SECONDS, _GROUP_SECONDS, _RUN_SECONDS = 20, 600, 300
_LONGEST_MESSAGE = 2000
_POLL_SECONDS = 0.02
_LEAST_INPUTS = 100


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        out: file for the figures.
        only: groups of inputs: archives, texts, checkpoints, models or runs; all by default.
        each: inputs of each group, the first ones; 0 for all.
        worker: group to run in this process, for the script's own use.
    """

    out: Path | None = None
    only: tuple[str, ...] = (*GROUPS, RUNS)
    each: int = 0
    worker: str = ""


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


@contextmanager
def _largest_size(folder: Path) -> Iterator[list[int]]:
    """Yields a list whose last item is the largest size of a folder while the block runs."""
    largest, ended = [_size(folder)], threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            largest.append(max(largest[-1], _size(folder)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()
        largest.append(max(largest[-1], _size(folder)))


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _outside(root: Path, inside: Path) -> set[str]:
    return {str(path) for path in root.rglob("*") if inside not in (path, *path.parents)}


def run_case(name: str, case: Case, root: Path) -> dict[str, Any]:
    """Builds an input, reads it and returns what happened; ``fault`` is empty if all is well."""
    folder = root / "a" / "b" / "case"
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    tempfile.tempdir = str(temporary)
    target = case.build(folder)
    before, others = _size(folder), _outside(root, folder)
    limit = case.limit(target)
    fault, caught = "", None
    started = time.perf_counter()
    with _largest_size(folder) as largest:
        try:
            with _time_limit(_INPUT_SECONDS):
                case.read(target)
        except _TYPED as error:
            caught = error
            if len(str(error)) > _LONGEST_MESSAGE:
                fault = f"its message has {len(str(error)):,} characters"
        except Exception as error:
            fault = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.perf_counter() - started
    written = max(largest) - before
    if caught is None and not fault and not case.is_harmless:
        fault = "it was accepted"
    if list(root.rglob("marker")):
        fault = "its code was run"
    elif new := _outside(root, folder) - others:
        fault = f"it left its folder: {sorted(new)[0]}"
    elif written > 2 * limit:
        fault = f"it wrote {written:,} bytes, declared are {limit:,}"
    shutil.rmtree(folder)
    kind = type(caught).__name__ if caught is not None else ""
    return {"name": name, "kind": kind, "fault": fault, "seconds": seconds, "share_of_limit": written / limit}


def work(group: str, each: int) -> None:
    """Runs the inputs of one group in this process, and prints a line of JSON for each."""
    cases = list(GROUPS[group]().items())
    with tempfile.TemporaryDirectory(prefix="carm-env-hostile-") as name:
        root = Path(name)
        (root / "here").mkdir()
        os.chdir(root / "here")
        for title, case in cases[: each or None]:
            print("RESULT " + json.dumps(run_case(title, case, root)), flush=True)
        os.chdir(root.parent)


def _run_group(group: str, each: int, folder: Path) -> list[dict[str, Any]]:
    """Runs one group in a process of its own."""
    environment, attempts = guarded(_environment(folder), folder)
    command = [sys.executable, __file__, "--worker", group, "--each", str(each)]
    # Closed input: nobody answers a question.
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=_GROUP_SECONDS, check=False, encoding="utf-8")  # fmt: skip
        output, status, errors = done.stdout, done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        output, status, errors = (error.stdout or b"").decode(), -1, f"took more than {_GROUP_SECONDS} s"
    results = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("RESULT ")]
    if status != 0:
        results.append(_failed(group, f"the process ended with {status}: {errors[-500:]}"))
    return results + _network_faults(group, attempts)


def _run_commands(folder: Path, each: int) -> list[dict[str, Any]]:
    """Starts the short runs of `quiet_runs`."""
    environment, attempts = guarded(_environment(folder), folder)
    quiet_runs.prepare(folder)
    results = []
    for name, command in list(quiet_runs.commands(folder).items())[: each or None]:
        started = time.perf_counter()
        try:
            done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=_RUN_SECONDS, check=False, encoding="utf-8")  # fmt: skip
            fault = f"it ended with {done.returncode}: {done.stderr[-500:]}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            fault = f"it took more than {_RUN_SECONDS} s"
        results.append({**_failed(name, fault), "seconds": time.perf_counter() - started})
        results += _network_faults(name, attempts)
        attempts.unlink(missing_ok=True)
    return results


def _environment(folder: Path) -> dict[str, str]:
    # Not offline: the guard must find that nothing is asked.
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH", ""))))
    return {**kept, "PYTHONPATH": path, "CARM_ENV_DATA": str(folder / "data"), "HF_HOME": str(folder / "hub"),
            "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy"}  # fmt: skip


def _failed(name: str, fault: str) -> dict[str, Any]:
    return {"name": name, "kind": "", "fault": fault, "seconds": 0.0, "share_of_limit": 0.0}


def _network_faults(name: str, attempts: Path) -> list[dict[str, Any]]:
    lines = attempts.read_text(encoding="utf-8").splitlines() if attempts.is_file() else []
    return [_failed(name, f"it used the network: {line[:600]}") for line in lines]


def run(arguments: Arguments) -> int:
    """Runs the groups; returns 1 if a fault was found."""
    if arguments.worker:
        work(arguments.worker, arguments.each)
        return 0
    check_keys("group", arguments.only, (*GROUPS, RUNS))
    figures: dict[str, Any] = {}
    failures: list[str] = []
    inputs, network, longest, share = 0, 0, 0.0, 0.0
    print(f"{'group':12} {'inputs':>6} {'faults':>6} {'longest s':>9} {'of the limit':>12}", flush=True)
    for group in arguments.only:
        with tempfile.TemporaryDirectory(prefix="carm-env-hostile-") as name:
            runs = group == RUNS
            results = _run_commands(Path(name), arguments.each) if runs else _run_group(
                group, arguments.each, Path(name)
            )  # fmt: skip
        found = [f"{group}, {result['name']}: {result['fault']}" for result in results if result["fault"]]
        slowest = max((result["seconds"] for result in results), default=0.0)
        largest = max((result["share_of_limit"] for result in results), default=0.0)
        print(f"{group:12} {len(results):6} {len(found):6} {slowest:9.1f} {largest:12.2f}", flush=True)
        failures += found
        network += sum("used the network" in text for text in found)
        figures[f"{group}_run" if runs else f"hostile_{group}"] = len(results)
        if not runs:
            inputs, longest, share = inputs + len(results), max(longest, slowest), max(share, largest)
    figures |= {"hostile_inputs": inputs, "attempts_to_use_the_network": network, "longest_seconds": round(longest, 2),
                "largest_share_of_disk_limit": round(share, 3)}  # fmt: skip
    is_whole = set(GROUPS) <= set(arguments.only) and not arguments.each
    passed = not failures and (inputs >= _LEAST_INPUTS or not is_whole)
    for failure in failures:
        print(f"  {failure}")
    if arguments.out is not None:
        write_json(arguments.out, {"name": "hostile", "passed": passed, "figures": figures, "failures": failures})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
