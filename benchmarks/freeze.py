"""Draw the episodes of suites and save them as YAML files in the package.

    python benchmarks/freeze.py smoke uniform paper-routes
    python benchmarks/freeze.py retrieval centred

Increase the version in `carm_env.evaluation.recipes.RECIPES`, or in `VIEW_RECIPES` here, before drawing a suite again:
results are compared by version.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from carm_env.evaluation.recipes import draw_suite, find_recipe
from carm_env.evaluation.suite import SUITE_FOLDER, Suite
from carm_env.evaluation.view_suite import VIEW_SUITE_FOLDER, ViewSuite, draw_centred, draw_retrieval
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import load_patient
from carm_env.patients.cohorts import COHORTS
from carm_env.system.command_line import run_script
from carm_env.system.files import write_text

VIEW_RECIPES = {
    "retrieval": (1, "Views over the whole workspace, whose three closest landmarks are asked for", 21),
    "centred": (1, "Views with a landmark in the middle, four of each landmark", 22),
}
"""Version, description and seed of the suites of views."""
_VIEWS_PER_PATIENT = 128


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        suites: names of recipes: smoke, uniform, paper-routes, standard, thrombectomy; or of suites of views:
            retrieval, centred.
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


def freeze_views(name: str) -> ViewSuite:
    """Draws a suite of views on the patients of ``standard/test``."""
    version, description, seed = VIEW_RECIPES[name]
    names = COHORTS["standard"].names("test")
    prepare_patients(names, default_workers())
    patients = {patient: load_patient(patient) for patient in names}
    views = draw_centred(patients, seed) if name == "centred" else draw_retrieval(patients, _VIEWS_PER_PATIENT, seed)
    return ViewSuite(name, version, description, tuple(views))


def run(arguments: Arguments) -> None:
    """Draws and saves the suites."""
    for name in arguments.suites:
        if name in VIEW_RECIPES:
            views = freeze_views(name)
            write_text(
                VIEW_SUITE_FOLDER / f"{name}.yaml",
                f"# Frozen by: python benchmarks/freeze.py {name}\n{views.to_yaml()}",
            )
            print(f"{name}.yaml: {len(views.views)} views, hash {views.hash}")
            continue
        path = SUITE_FOLDER / f"{name}.yaml"
        suite = freeze(name)
        write_text(path, f"# Frozen by: python benchmarks/freeze.py {suite.name}\n{suite.to_yaml()}")
        print(f"{path.name}: {len(suite.episodes)} episodes, hash {suite.hash}")


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
