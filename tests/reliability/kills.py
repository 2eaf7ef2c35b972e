"""Kills processes at random moments and inside their saves, and compares what the next run leaves.

    python tests/reliability/kills.py --out runs/kills.json
    python tests/reliability/kills.py --only replace leaderboard

After each kill nothing that was finished may be lost, and no child may run for longer than five seconds. The same
command is then run again: it must leave what an undisturbed run leaves, and no hidden file or folder. Linux only.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Before anything is imported: a forked process has only the thread that forks.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "SDL_VIDEODRIVER": "dummy"}

import numpy as np

from carm_env.evaluation.report import markdown_table
from carm_env.patient_store import save_imported
from carm_env.system.command_line import run_script
from carm_env.system.files import write_json
from carm_env.system.threads import limit_threads
from carm_env.views.sample import ViewOptions, render_views
from tests.reliability.kill_scenarios import Scenario, contents, enter, scenarios, small_patient
from tests.reliability.killing import Kill, Outcome, run_forked

LEAST_KILLS, LEAST_IN_SAVES = 200, 50


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        out: JSON file for the figures.
        only: names of the scenarios to run; all by default.
        kills: kills of each scenario; by default 200 in total.
        seed: seed of the moments.
    """

    out: Path | None = None
    only: tuple[str, ...] = ()
    kills: int | None = None
    seed: int = 0


@dataclass
class Tally:
    """Counts of one scenario.

    Attributes:
        kills: processes that were killed.
        in_saves: processes that were killed at a call inside a save.
        too_late: processes that ended before their kill.
        orphans: children that ran on.
        leftovers: hidden files and folders after the next run.
        failures: what went wrong.
        seconds: duration.
    """

    kills: int = 0
    in_saves: int = 0
    too_late: int = 0
    orphans: int = 0
    leftovers: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Bench:
    """One scenario in a folder of its own."""

    def __init__(self, scenario: Scenario, work: Path) -> None:
        self._scenario, self._windows = scenario, scenario.windows()
        self._root, self._initial = work / "root", work / "initial"
        self._log = work / "output.log"
        self._root.mkdir(parents=True)
        self._must_pass(scenario.prepare)
        shutil.copytree(self._root, self._initial)
        whole = self._must_pass(scenario.work)
        self.seconds, self.calls = whole.seconds, whole.calls
        self._expected = contents(self._root)

    def _start(self, function: Callable[[Path], Any], kill: Kill | None = None) -> Outcome:
        def inside() -> Any:
            enter(self._root)
            return function(self._root)

        return run_forked(inside, self._log, kill, self._windows)

    def _must_pass(self, function: Callable[[Path], Any]) -> Outcome:
        outcome = self._start(function)
        if outcome.status != 0:
            raise RuntimeError(
                f"{self._scenario.name} fails undisturbed:\n{self._log.read_text(encoding='utf-8')[-3000:]}"
            )
        return outcome

    def kill_once(self, kill: Kill, tally: Tally) -> None:
        """Kills the work in a fresh folder, runs it again and compares."""
        shutil.rmtree(self._root)
        shutil.copytree(self._initial, self._root)
        outcome = self._start(self._scenario.work, kill)
        tally.kills += outcome.killed
        tally.in_saves += outcome.killed and kill.seconds is None
        tally.too_late += not outcome.killed
        if not outcome.killed:
            # The machine was slower when the duration was measured.
            self.seconds = min(self.seconds, outcome.seconds)
        tally.orphans += len(outcome.orphans)
        if outcome.orphans:
            tally.failures.append(f"{kill}: processes {outcome.orphans} run on")
        resumed = self._scenario.resumed
        was_saved = bool(resumed and list(self._root.glob(resumed[0])))
        for function in (self._check, self._scenario.work):
            again = self._start(function)
            if again.status != 0:
                tally.failures.append(f"{kill}: {self._log.read_text(encoding='utf-8')[-1500:]}")
                return
        if resumed and was_saved and resumed[1] not in self._log.read_text(encoding="utf-8"):
            tally.failures.append(f"{kill}: what was saved was not resumed from")
        found = contents(self._root)
        hidden = [name for name in found if any(part.startswith(".") for part in Path(name).parts)]
        tally.leftovers += len(hidden)
        names = {name for name in {*found, *self._expected} if found.get(name, 0) != self._expected.get(name, 0)}
        if names:
            tally.failures.append(f"{kill}: differs from an undisturbed run in {', '.join(sorted(names)[:5])}")

    def _check(self, root: Path) -> int:
        # On a copy: the next run shall find what the kill left.
        copy = root.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        enter(copy)
        self._scenario.check(copy)
        return 0


def run_scenario(scenario: Scenario, work: Path, kills: int, rng: np.random.Generator) -> Tally:
    """Kills a scenario: half of the times at a random moment, half of the times at a call inside a save."""
    started = time.monotonic()
    tally = Tally()
    bench = _Bench(scenario, work)
    while tally.kills < kills and tally.kills + tally.too_late < 3 * kills:
        number = tally.kills
        if number % 2:
            kill = Kill(seconds=float(rng.uniform(0, bench.seconds)))
        else:
            # Spread evenly, so that every kind of call is met.
            call = int((number / 2 + rng.uniform()) / -(-kills // 2) * bench.calls)
            kill = Kill(call=call, half=bool(rng.integers(2)))
        bench.kill_once(kill, tally)
    tally.seconds = time.monotonic() - started
    return tally


def table(tallies: dict[str, Tally]) -> str:
    """Formats the counts as a Markdown table."""
    headings = ("scenario", "kills", "in saves", "too late", "orphans", "leftovers", "failures", "seconds")
    rows = [
        (name, str(t.kills), str(t.in_saves), str(t.too_late), str(t.orphans), str(t.leftovers), str(len(t.failures)),
         f"{t.seconds:.0f}")
        for name, t in tallies.items()
    ]  # fmt: skip
    return markdown_table(headings, rows)


def _figures(tallies: Sequence[Tally]) -> dict[str, Any]:
    names = ("kills", "in_saves", "too_late", "orphans", "leftovers")
    return {**{name: sum(getattr(tally, name) for tally in tallies) for name in names},
            "lost_or_different": sum(len(tally.failures) for tally in tallies)}  # fmt: skip


def warm_up(chosen: Sequence[Scenario], folder: Path) -> None:
    """Imports what the scenarios import, and compiles the kernels, in the process that forks."""
    for module in (module for scenario in chosen for module in scenario.modules):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    limit_threads(1)
    before = os.getcwd()
    (folder / "warm").mkdir()
    enter(folder / "warm")
    if any(scenario.renders for scenario in chosen):
        save_imported(small_patient("imported:warm", 0))
        next(render_views("imported:warm", ViewOptions(4, 32)))
    os.chdir(before)


def run(arguments: Arguments) -> int:
    """Kills every scenario; returns the exit status: 1 if a figure is missed."""
    chosen = [item for item in scenarios() if not arguments.only or item.name in arguments.only]
    tallies: dict[str, Tally] = {}
    rng = np.random.default_rng(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="carm-env-kills-"))
    try:
        warm_up(chosen, folder)
        for item in chosen:
            if not item.is_possible():
                print(f"{item.name}: skipped, because it needs {', '.join(item.needs)}", flush=True)
                continue
            work = folder / str(len(tallies))
            tallies[item.name] = run_scenario(item, work, arguments.kills or item.kills, rng)
            shutil.rmtree(work)
            print(f"{item.name}: {tallies[item.name].kills} kills, {tallies[item.name].seconds:.0f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = _figures(list(tallies.values()))
    failures = [f"{name}: {failure}" for name, tally in tallies.items() for failure in tally.failures]
    is_whole = not arguments.only and arguments.kills is None
    if is_whole and (figures["kills"] < LEAST_KILLS or figures["in_saves"] < LEAST_IN_SAVES):
        failures.append(f"expected at least {LEAST_KILLS} kills, {LEAST_IN_SAVES} of them inside saves")
    passed = not failures and not figures["orphans"] and not figures["leftovers"]
    print(f"\n{table(tallies)}\n")
    print("\n".join(failures))
    if arguments.out is not None:
        write_json(arguments.out, {"name": "kills", "passed": passed, "figures": figures, "failures": failures})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
