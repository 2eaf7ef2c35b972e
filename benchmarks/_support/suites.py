"""The suites of scripts that run episodes of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carm_env.evaluation.policy import Policy
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients, load_outlines


def prepared_suites(names: Sequence[str], patients: Sequence[str], workers: int) -> list[Suite]:
    """Returns suites whose patients are built.

    Args:
        names: names of suites, or YAML files.
        patients: draw the suites on these patients; empty for the suites' own.
        workers: largest number of processes that build patients.
    """
    workers = min(workers, default_workers())
    if not patients:
        suites = [load_suite(name) for name in names]
        prepare_patients(list(dict.fromkeys(name for suite in suites for name in suite.patients)), workers)
        return suites
    found = expand_patients(patients)
    prepare_patients(found, workers)
    outlines = load_outlines(found)
    return [suite_on(name, outlines)[0] for name in names]


def check_patients(policies: Iterable[Policy], suites: Iterable[Suite]) -> None:
    """Raises ValueError if a policy has a patient of the suites in its pool; see `Policy.check_patients`."""
    names = list(dict.fromkeys(name for suite in suites for name in suite.patients))
    for policy in policies:
        policy.check_patients(names)
