"""Draw the episodes of the suites that ship and freeze them as YAML.

    python benchmarks/freeze.py smoke uniform paper-routes

A suite is drawn once and then never again under the same version: raise the version in `RECIPES`
when you draw anew, or old results and new ones would carry one name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from benchmarks.suite import SUITE_FOLDER, Suite
from carm_env.catalogue import load_patient
from carm_env.env import DEFAULT_TOLERANCE_MM
from carm_env.episode import EpisodeSpec, draw_start, draw_target
from carm_env.errors import UnknownNameError
from carm_env.files import write_text
from carm_env.patients import Patient
from carm_env.registration import MAX_EPISODE_STEPS

PAPER_ROUTES = ((4, 1), (1, 4), (5, 1), (1, 5))
"""(start, target): the four trips of the paper's Fig. 4, between the skull and the scapular angles."""


@dataclass(frozen=True)
class Recipe:
    """How a suite's episodes are drawn.

    Attributes:
        version: of the suite.
        description: what the suite asks.
        patients: their names.
        routes: whether each patient gets the paper's routes first.
        uniform: how many episodes with patient, target and start drawn uniformly.
        seed: of the draw.
    """

    version: int
    description: str
    patients: tuple[str, ...]
    routes: bool
    uniform: int
    seed: int


_FIVE = tuple(f"virtual:{seed}" for seed in range(5))
RECIPES = {
    "smoke": Recipe(
        1, "Two patients, the paper's routes and uniform draws: does everything run?", _FIVE[:2], True, 12, 11
    ),
    "uniform": Recipe(1, "Patients, targets and starts drawn uniformly", _FIVE, False, 100, 12),
    "paper-routes": Recipe(
        1, "The paper's Fig. 4: skull to and from the right and the left scapular inferior angle", _FIVE, True, 0, 13
    ),
}


def freeze(name: str) -> Suite:
    """Draw the suite called `name`; UnknownNameError where there is no recipe for it."""
    if name not in RECIPES:
        raise UnknownNameError("suite recipe", name, RECIPES)
    recipe = RECIPES[name]
    rng = np.random.default_rng(recipe.seed)
    episodes = []
    if recipe.routes:
        episodes += [EpisodeSpec(patient, goal, start) for patient in recipe.patients for start, goal in PAPER_ROUTES]
    if recipe.uniform:
        loaded = [load_patient(patient) for patient in recipe.patients]
        episodes += [_uniform(loaded, recipe.patients, rng) for _ in range(recipe.uniform)]
    return Suite(name, recipe.version, recipe.description, MAX_EPISODE_STEPS, tuple(episodes))


def _uniform(patients: Sequence[Patient], names: Sequence[str], rng: np.random.Generator) -> EpisodeSpec:
    number = int(rng.integers(len(patients)))
    target = draw_target(patients[number], rng)
    start = draw_start(patients[number], target, DEFAULT_TOLERANCE_MM, rng)
    return EpisodeSpec(names[number], target, tuple(round(value, 1) for value in start))


def suite_yaml(suite: Suite) -> str:
    """The suite as YAML, one line per episode."""
    value = suite.to_json()
    episodes = value.pop("episodes")
    lines = [yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000) for entry in episodes]
    head = f"# Frozen by: python benchmarks/freeze.py {suite.name}\n"
    return head + yaml.safe_dump(value, sort_keys=False) + "episodes:\n" + "".join(f"  - {line}" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Freeze the suites named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="+", metavar="NAME", help=f"one or more of: {', '.join(RECIPES)}")
    for name in parser.parse_args(arguments).suites:
        path = SUITE_FOLDER / f"{name}.yaml"
        suite = freeze(name)
        write_text(path, suite_yaml(suite))
        print(f"{path.name}: {len(suite.episodes)} episodes, hash {suite.hash}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
