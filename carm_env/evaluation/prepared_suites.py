"""Suites made ready to run: loaded or drawn, under shifts, with their patients built."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from carm_env.evaluation.recipes import EmptySuiteError, find_recipe, suite_on
from carm_env.evaluation.shifts import Shift, patient_names, shifted_suite
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.patient_outline import PatientOutline
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients, load_outlines

_SHOWN_LINES = 10


@dataclass(frozen=True, eq=False)
class PreparedSuites:
    """Suites and the outlines of their patients, whose volumes are not kept in memory.

    Attributes:
        suites: the suites, and those under shifts.
        patients: the outlines of the patients of all of them, by name.
        kept: by the name of a shifted suite, the numbers of the episodes of the suite that it keeps, in order.
    """

    suites: list[Suite]
    patients: dict[str, PatientOutline]
    kept: dict[str, list[int]]


def prepare_suites(
    names: Sequence[str], patients: Sequence[str], shifts: Sequence[Shift], workers: int
) -> PreparedSuites:
    """Loads suites, or draws them on other patients, applies shifts to them, and builds the patients.

    Prints the episodes that are left out.

    Args:
        names: names of suites, or YAML files.
        patients: names of patients to draw the suites on; none for the suites' own.
        shifts: the suites are run as they are and under each of these.
        workers: number of processes that build patients.

    Raises:
        ValueError: an unknown suite, patient or recipe, an episode that its patient does not allow, or two suites of
            one name.
        ShiftError: a shift cannot be applied to a suite.
    """
    if not patients:
        suites = _load_suites(names)
        outlines = prepare_outlines(list(dict.fromkeys(name for suite in suites for name in suite.patients)), workers)
    else:
        for name in names:
            find_recipe(name)
        outlines = prepare_outlines(expand_patients(patients), workers)
        suites = _draw_suites(dict.fromkeys(names), outlines)
    for suite in suites:
        suite.check(outlines)
    prepared = PreparedSuites(suites, outlines, {})
    return _with_shifts(prepared, tuple(dict.fromkeys(shifts)), workers) if shifts else prepared


def _with_shifts(prepared: PreparedSuites, shifts: Sequence[Shift], workers: int) -> PreparedSuites:
    named = [name for suite in prepared.suites for shift in shifts for name in patient_names(suite, shift).values()]
    patients = prepare_outlines(list(dict.fromkeys(named)), workers, prepared.patients)
    suites, kept = list(prepared.suites), dict[str, list[int]]()
    for suite in prepared.suites:
        for shift in shifts:
            found, left_out = shifted_suite(suite, shift, patients)
            for number, reason in list(left_out.items())[:_SHOWN_LINES]:
                print(f"{found.name} leaves out episode {number}: {reason}")
            suites.append(found)
            kept[found.name] = [number for number in range(len(suite.episodes)) if number not in left_out]
    return PreparedSuites(suites, patients, kept)


def _load_suites(names: Sequence[str]) -> list[Suite]:
    suites: dict[str, Suite] = {}
    for name in names:
        suite = load_suite(name)
        if suites.setdefault(suite.name, suite).hash != suite.hash:
            raise ValueError(f"two different suites are called {suite.name!r}: rename one of them.")
    return list(suites.values())


def _draw_suites(names: Iterable[str], patients: Mapping[str, PatientOutline]) -> list[Suite]:
    """Draws the suites on other patients; skips a suite that these do not allow, unless it is the only one."""
    suites: list[Suite] = []
    empty: list[EmptySuiteError] = []
    for name in names:
        try:
            suite, left_out = suite_on(name, patients)
        except EmptySuiteError as error:
            empty.append(error)
            continue
        suites.append(suite)
        for line in left_out:
            print(f"{suite.name} leaves out {line}")
        print(f"{suite.name}: {len(suite.episodes)} episodes drawn with the recipe's seed, hash {suite.hash}")
    if not suites:
        raise EmptySuiteError(" ".join(map(str, empty)))
    for reason in empty:
        print(f"Skipped: {reason}")
    return suites


def prepare_outlines(
    names: Sequence[str], workers: int, known: Mapping[str, PatientOutline] = MappingProxyType({})
) -> dict[str, PatientOutline]:
    """Builds missing patients in parallel, so that workers only read them, and loads one after the other.

    Args:
        names: names of patients.
        workers: number of processes that build patients.
        known: outlines by name, of patients that are not loaded again.

    Returns:
        The known outlines and those of the other patients, by name.
    """
    started = time.perf_counter()
    prepare_patients(names, min(workers, default_workers()))
    outlines = {**known, **load_outlines(name for name in names if name not in known)}
    print(f"Patients ready after {time.perf_counter() - started:.0f} s.")
    return outlines
