"""Draw the episodes of suites and save them as YAML files in the package.

    python benchmarks/freeze.py smoke uniform paper-routes

Increase the version in `carm_env.evaluation.recipes.RECIPES` before drawing a suite again: results are compared by
version.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from carm_env.evaluation.recipes import draw_suite, find_recipe
from carm_env.evaluation.suite import SUITE_FOLDER, Suite
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import load_patient
from carm_env.system.command_line import run_script
from carm_env.system.files import write_text


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        suites: names of recipes: smoke, uniform, paper-routes.
    """

    suites: Positional[tuple[str, ...]]


def freeze(name: str) -> Suite:
    """Draws a suite on the patients of its recipe.

    Raises:
        UnknownNameError: unknown recipe.
    """
    recipe = find_recipe(name)
    prepare_patients(recipe.patients, default_workers())
    patients = {patient: load_patient(patient) for patient in recipe.patients}
    return draw_suite(name, recipe, patients)[0]


def run(arguments: Arguments) -> None:
    """Draws and saves the suites."""
    for name in arguments.suites:
        path = SUITE_FOLDER / f"{name}.yaml"
        suite = freeze(name)
        write_text(path, f"# Frozen by: python benchmarks/freeze.py {suite.name}\n{suite.to_yaml()}")
        print(f"{path.name}: {len(suite.episodes)} episodes, hash {suite.hash}")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
