"""Feeds damaged files to every reader and damaged answers to the parsers, which may raise only typed errors.

    python tests/reliability/damaged_inputs.py --out runs/reliability/damaged_inputs.json

Small valid files are damaged in their bytes, lines, numbers, JSON values, header fields or DICOM elements. A reader may
succeed, or raise an error of the package or one that it documents. Anything else is a failure: another exception, lack
of memory (unless it is refused before anything is allocated), recursion, a crash of the process, or more than 100 ms
of CPU time. Each failure is printed with the name and the seed that reproduce it::

    python tests/reliability/damaged_inputs.py --only NAME --first SEED --inputs 1
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

# The script is also run by its path.
sys.path.insert(0, str(Path(__file__).parents[2]))  # noqa: E402

from carm_env.language.answers import AnswerError
from carm_env.language.grammar import ANSWER_KINDS, READINGS, parse
from carm_env.language.reasons import claims_of
from carm_env.system.command_line import run_script
from carm_env.system.errors import CArmEnvError, check_keys
from carm_env.system.files import write_json
from tests.reliability.damage import damaged, in_characters
from tests.reliability.damaged_readers import Reader, make_readers, write_files

LIMIT_MS = 100.0
_HANG_S = 20.0
_MEMORY_BYTES = 3_000_000_000
"""Address space that damaged inputs may ask for, beyond what the process has."""
_REPEATS = 3
"""An input over the limit is read again: other work on the machine takes time, too."""
_REFUSED = "bytes are needed and"
"""Part of the message of `carm_env.system.memory.check_memory`."""
ANSWERS = "answers"


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        inputs: number of damaged files, over all readers.
        answers: number of damaged answers; each is read by every parser.
        processes: number of processes.
        only: names of the readers; by default all, and the answers.
        first: seed of the first input of each reader.
        out: file for the figures, JSON.
    """

    inputs: int = 1_000_000
    answers: int = 1_000_000
    processes: int = 2
    only: tuple[str, ...] = ()
    first: int = 0
    out: Path | None = None


_VALID_ANSWERS = {
    "ranking": "[11: Carina, 13: Left hemidiaphragm, 5: Left scapular inferior angle]",
    "pair": "[10,11]",
    "box": "[412,80,655,301]",
    "correction": "<response>\n  <visual_reasoning>T1 lies far above the carina, and it can be seen in the image."
    "</visual_reasoning>\n"
    "  <landmarks>[10,11]</landmarks>\n</response>",
    "navigation": "<output>\n  <step1>\n    <context>Carina</context>\n  </step1>\n  <step2>\n    <x>LEFT</x>\n"
    "    <extent_x>SMALL</extent_x>\n    <reason_x>The skull lies slightly to the patient's left of the center of "
    "the image, so a small move to the patient's left is needed.</reason_x>\n    <y>CENTER</y>\n"
    "    <extent_y>NONE</extent_y>\n    <reason_y>The skull is roughly level with the carina, which is at about the "
    "same height as the center of the image, so no move up or down is needed.</reason_y>\n  </step2>\n</output>",
}
_OTHER_FORMS = (
    '<think>It is left of [11].</think>\n```json\n{"landmarks": [10, 11], "visual_reasoning": "above"}\n```',
    '{"context": "Carina", "x": "LEFT", "extent_x": "SMALL (30 mm)", "y": "CENTER", "extent_y": "NONE"}',
    "The answer is [1: Skull, 14: L5 &amp; more].",
    "The skull is a long way above T1, which is roughly level with the carina, and it can be seen in the image.",
)


def _read_answer(kind: str, text: str) -> bool:
    accepted = False
    for reading in READINGS:
        try:
            parse(kind, text, reading)
            accepted = True
        except AnswerError:
            pass
    claims_of(text)
    return accepted


@dataclass(frozen=True)
class _Target:
    """A reader of damaged files, or the parsers of answers.

    Attributes:
        prepare: damages an input by its seed, and returns the call that reads it.
        allowed: builtin errors that the reader documents.
        restore: makes the input valid again.
    """

    prepare: Callable[[int], Callable[[], object]]
    allowed: tuple[type[Exception], ...] = ()
    restore: Callable[[], object] = int


def _answer_target() -> _Target:
    valid = (*_VALID_ANSWERS.items(), *((kind, text) for kind in ANSWER_KINDS for text in _OTHER_FORMS))

    def prepare(seed: int) -> Callable[[], object]:
        rng = Random(seed)
        kind, text = rng.choice(valid)
        text = in_characters(text, rng)
        return lambda: _read_answer(kind, text)

    return _Target(prepare)


def _file_target(reader: Reader) -> _Target:
    def prepare(seed: int) -> Callable[[], object]:
        reader.path.write_bytes(damaged(reader.content, reader.kinds, Random(seed)))
        return lambda: reader.read(reader.path)

    return _Target(prepare, reader.allowed, lambda: reader.path.write_bytes(reader.content))


def _failure(target: _Target, seed: int) -> tuple[str, bool, float]:
    """Reads one damaged input; returns the failure or an empty text, whether it was accepted, and the CPU time (ms)."""
    error_text, accepted, fastest = "", False, float("inf")
    for _ in range(_REPEATS):
        read = target.prepare(seed)
        started = time.process_time()
        try:
            accepted = read() is not False
        except CArmEnvError:
            pass
        except MemoryError as error:
            if MemoryError not in target.allowed or _REFUSED not in str(error):
                error_text = "MemoryError"
        except Exception as error:
            if type(error) not in target.allowed:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}, line {last.lineno}"
                error_text = f"{type(error).__name__} in {where}: {str(error)[:160]!r}"
        fastest = min(fastest, 1000 * (time.process_time() - started))
        if fastest <= LIMIT_MS:
            break
    if not error_text and fastest > LIMIT_MS:
        error_text = f"{fastest:.0f} ms"
    return error_text, accepted, fastest


def _work(folder: Path, jobs: dict[str, list[int]], step: int, position: Any, results: Any) -> None:
    """Reads the inputs of one process; sends, for every reader, what became of them.

    Args:
        folder: a folder with the valid files.
        jobs: from the name of a reader to the first seed and the seed after the last one.
        step: distance of the seeds.
        position: shared number of the reader and seed in work.
        results: queue of ``(name, inputs, accepted, CPU seconds, worst ms, failures)``.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ["CARM_ENV_DATA"] = str(folder / "data")
    _silence_libraries()
    targets = {reader.name: _file_target(reader) for reader in make_readers(folder)}
    targets[ANSWERS] = _answer_target()
    _limit_memory()
    for number, (name, (first, end)) in enumerate(jobs.items()):
        target = targets[name]
        inputs = accepted = 0
        worst, failures, started = 0.0, [], time.process_time()
        for seed in range(first, end, step):
            position[0], position[1] = number, seed
            failure, taken, milliseconds = _failure(target, seed)
            inputs, accepted, worst = inputs + 1, accepted + taken, max(worst, milliseconds)
            if failure:
                failures.append(f"{name}, seed {seed}: {failure}")
        target.restore()
        results.put((name, inputs, accepted, time.process_time() - started, worst, failures))


def _silence_libraries() -> None:
    # Libraries of C print what they find to the standard error itself.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    sys.stderr = os.fdopen(os.dup(2), "w")


def _limit_memory() -> None:
    """Limits the memory of this process, so that a huge allocation fails instead of slowing the machine down."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


class _Process:
    """A process that reads its part of the inputs, and is started again after an input that ends it."""

    def __init__(self, folder: Path, jobs: dict[str, list[int]], step: int, results: Any) -> None:
        self.folder, self.jobs, self.step, self.results = folder, jobs, step, results
        self.failures: list[str] = []
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        folder = Path(tempfile.mkdtemp(dir=self.folder.parent)) / "files"
        shutil.copytree(self.folder, folder)
        self._position = context.Array("q", [-1, -1], lock=False)
        arguments = (folder, self.jobs, self.step, self._position, self.results)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        self._seen, self._since = (-1, -1), time.monotonic()

    def is_done(self) -> bool:
        """Returns whether all inputs are read; restarts a process that has crashed or hangs."""
        at = tuple(self._position)
        if at != self._seen:
            self._seen, self._since = at, time.monotonic()
        hangs = self._process.is_alive() and at[0] >= 0 and time.monotonic() - self._since > _HANG_S
        if hangs:
            self._process.kill()
            self._process.join()
        elif self._process.is_alive():
            return False
        elif self._process.exitcode == 0:
            return True
        if at[0] < 0:
            raise RuntimeError(f"the readers refuse their valid files: exit status {self._process.exitcode}.")
        names = list(self.jobs)
        self.failures.append(
            f"{names[at[0]]}, seed {at[1]}: {'hangs' if hangs else f'exit status {self._process.exitcode}'}"
        )
        # What this process found out about the reader before is lost, except this failure.
        self.jobs = {name: self.jobs[name] for name in names[at[0] :]}
        self.jobs[names[at[0]]] = [at[1] + self.step, self.jobs[names[at[0]]][1]]
        self._start()
        return False


def _jobs(arguments: Arguments, readers: list[Reader]) -> dict[str, int]:
    """Returns the number of inputs of every reader, and of the answers."""
    names = [reader.name for reader in readers]
    check_keys("reader", arguments.only, [*names, ANSWERS])
    chosen = [reader for reader in readers if not arguments.only or reader.name in arguments.only]
    total = sum(reader.share for reader in chosen)
    counts = {reader.name: -(-arguments.inputs * reader.share // total) for reader in chosen}
    if not arguments.only or ANSWERS in arguments.only:
        counts[ANSWERS] = arguments.answers
    return counts


def feed(arguments: Arguments) -> int:
    """Reads damaged inputs; returns 1 if a reader fails."""
    started = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        folder = Path(name)
        os.environ["CARM_ENV_DATA"] = str(folder / "data")
        (folder / "valid").mkdir()
        write_files(folder / "valid")
        counts = _jobs(arguments, make_readers(folder / "valid"))
        results = multiprocessing.get_context("spawn").SimpleQueue()
        processes = [
            _Process(
                folder / "valid",
                {key: [arguments.first + number, arguments.first + count] for key, count in counts.items()},
                arguments.processes,
                results,
            )
            for number in range(arguments.processes)
        ]
        rows: list[tuple[str, int, int, float, float, list[str]]] = []
        while True:
            done = [process.is_done() for process in processes]
            while not results.empty():
                rows.append(results.get())
            if all(done):
                break
            time.sleep(0.05)
    return _report(arguments, counts, rows, [text for process in processes for text in process.failures], started)


def _report(
    arguments: Arguments,
    counts: dict[str, int],
    rows: list[tuple[str, int, int, float, float, list[str]]],
    crashes: list[str],
    started: float,
) -> int:
    failures, worst_ms = [*crashes], 0.0
    print(f"{'reader':28} {'inputs':>9} {'accepted':>9} {'us each':>8} {'worst ms':>8} {'failures':>8}")
    for name in counts:
        own = [row for row in rows if row[0] == name]
        inputs, accepted, seconds = (sum(row[at] for row in own) for at in (1, 2, 3))
        worst = max((row[4] for row in own), default=0.0)
        found = [text for row in own for text in row[5]]
        failures, worst_ms = failures + found, max(worst_ms, worst)
        each = 1e6 * seconds / max(inputs, 1)
        print(f"{name:28} {inputs:9,} {accepted:9,} {each:8.0f} {worst:8.1f} {len(found):8}")
    for text in failures[:40]:
        print(f"failure: {text}")
    figures = {
        "damaged_inputs": sum(count for name, count in counts.items() if name != ANSWERS),
        "readers": len(set(counts) - {ANSWERS}),
        "answers": counts.get(ANSWERS, 0),
        "failures": len(failures),
        "worst_ms": round(worst_ms, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(figures)
    if arguments.out is not None:
        value = {"name": "damaged_inputs", "passed": not failures, "figures": figures, "failures": failures[:100]}
        write_json(arguments.out, value)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_script(feed, Arguments, __doc__))
