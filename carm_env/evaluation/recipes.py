"""Recipes that draw the suites of the package, on their own patients or on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carm_env.envs.episode import MAX_DRAWS, EpisodeSpec, draw_start, draw_target
from carm_env.envs.registration import DEFAULT_TOLERANCE_MM, MAX_EPISODE_STEPS
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import landmark
from carm_env.patient_outline import PatientGeometry
from carm_env.patients.cohorts import COHORTS
from carm_env.system.errors import CArmEnvError, UnknownNameError

PAPER_ROUTES = ((4, 1), (1, 4), (5, 1), (1, 5))
"""(start, target) of the paper's Fig. 4: the skull to and from the inferior angle of either scapula."""
_REASONS_SHOWN = 2
_ABOVE_MM = 40.0


class EmptySuiteError(CArmEnvError, ValueError):
    """None of a suite's episodes can be drawn on the given patients."""


@dataclass(frozen=True)
class Recipe:
    """How the episodes of a suite are drawn.

    Attributes:
        version: version of the suite.
        description: one sentence.
        patients: names of the patients.
        routes: whether the suite starts with the paper's routes on each patient.
        uniform: number of episodes with patient, target and start drawn uniformly.
        seed: seed of the draw.
        per_patient: number of episodes of each patient, with target and start drawn uniformly.
        target: id of the target of these episodes; None to draw it.
        start_below: these episodes start at most 40 mm above this landmark; None for the whole workspace.
    """

    version: int
    description: str
    patients: tuple[str, ...]
    routes: bool
    uniform: int
    seed: int
    per_patient: int = 0
    target: int | None = None
    start_below: int | None = None


_TEST = COHORTS["standard"].names("test")
_FORTY = (*_TEST, *COHORTS["wide"].names("test"), *COHORTS["broad"].names("test")[:10])
# The descriptions are part of the suites' hashes.
RECIPES = {
    "smoke": Recipe(
        3, "Two patients, the paper's routes and uniform draws: does everything run?", _TEST[:2], True, 12, 11
    ),
    "uniform": Recipe(3, "Patients, targets and starts drawn uniformly", _TEST, False, 100, 12),
    "paper-routes": Recipe(
        3, "The paper's Fig. 4: skull to and from the right and the left scapular inferior angle", _TEST, True, 0, 13
    ),
    "standard": Recipe(
        1,
        "Five episodes on each of forty patients, targets and starts drawn uniformly",
        _FORTY,
        False,
        0,
        14,
        per_patient=5,
    ),
    "thrombectomy": Recipe(
        1,
        "From the lower trunk to the skull, as from the groin to the brain",
        _FORTY[:20],
        False,
        0,
        15,
        per_patient=5,
        target=landmark("Skull").id,
        start_below=landmark("T12").id,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe of a suite.

    Raises:
        UnknownNameError: unknown recipe; the message names the nearest one.
    """
    if name not in RECIPES:
        raise UnknownNameError("suite recipe", name, RECIPES)
    return RECIPES[name]


def draw_suite(name: str, recipe: Recipe, patients: Mapping[str, PatientGeometry]) -> tuple[Suite, list[str]]:
    """Draws a suite; equal recipes and patients give equal suites.

    Args:
        name: name of the suite.
        recipe: the recipe.
        patients: the recipe's patients, or their outlines, by name.

    Returns:
        The suite, and a message for each episode that was left out because its patient lacks a landmark.

    Raises:
        EmptySuiteError: every episode was left out.
    """
    rng = np.random.default_rng(recipe.seed)
    episodes: list[EpisodeSpec] = []
    left_out: list[str] = []
    if recipe.routes:
        for patient in recipe.patients:
            routes, missing = _routes(patient, patients[patient])
            episodes += routes
            left_out += missing
    if recipe.uniform:
        with_targets = [patient for patient in recipe.patients if patients[patient].landmarks_lps_mm]
        left_out += [f"{patient}: no landmarks" for patient in recipe.patients if patient not in with_targets]
        if with_targets:
            loaded = [patients[patient] for patient in with_targets]
            episodes += [_uniform(loaded, with_targets, rng) for _ in range(recipe.uniform)]
    for patient in recipe.patients if recipe.per_patient else ():
        drawn, missing = _on_patient(patient, patients[patient], recipe, rng)
        episodes += drawn
        left_out += missing
    if not episodes:
        more = len(left_out) - _REASONS_SHOWN
        reasons = "; ".join(left_out[:_REASONS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise EmptySuiteError(
            f"the suite {name} has no episode on {', '.join(recipe.patients)}: {reasons}. "
            "Annotate these landmarks, or choose another suite."
        )
    return Suite(name, recipe.version, recipe.description, MAX_EPISODE_STEPS, tuple(episodes)), left_out


def suite_on(name: str, patients: Mapping[str, PatientGeometry]) -> tuple[Suite, list[str]]:
    """Draws a suite of the package on other patients, as ``NAME-custom``; see `draw_suite`.

    Raises:
        UnknownNameError: unknown recipe.
        EmptySuiteError: the patients allow none of its episodes.
    """
    recipe = find_recipe(name)
    description = f"{recipe.description} (drawn on chosen patients)"
    return draw_suite(f"{name}-custom", replace(recipe, description=description, patients=tuple(patients)), patients)


def _routes(name: str, patient: PatientGeometry) -> tuple[list[EpisodeSpec], list[str]]:
    routes, left_out = [], []
    for start, target in PAPER_ROUTES:
        absent = [landmark(key).name for key in (start, target) if key not in patient.landmarks_lps_mm]
        if absent:
            route = f"{landmark(start).name} to {landmark(target).name}"
            left_out.append(f"{name}: {route} (the patient lacks {' and '.join(absent)})")
        else:
            routes.append(EpisodeSpec(name, target, start))
    return routes, left_out


def _on_patient(
    name: str, patient: PatientGeometry, recipe: Recipe, rng: np.random.Generator
) -> tuple[list[EpisodeSpec], list[str]]:
    """Draws the episodes of one patient; none, and a message, if it lacks a landmark that they need."""
    needed = [key for key in (recipe.target, recipe.start_below) if key is not None]
    absent = [landmark(key).name for key in needed if key not in patient.landmarks_lps_mm]
    if absent or not patient.landmarks_lps_mm:
        return [], [f"{name}: the patient lacks {' and '.join(absent) or 'landmarks'}"]
    episodes = []
    for _ in range(recipe.per_patient):
        target = draw_target(patient, rng) if recipe.target is None else recipe.target
        start = _start(patient, target, recipe.start_below, rng)
        if start is None:
            return [], [f"{name}: no start below {landmark(recipe.start_below or 0).name} in {MAX_DRAWS} draws"]
        episodes.append(EpisodeSpec(name, target, tuple(round(value, 1) for value in start)))
    return episodes, []


def _start(
    patient: PatientGeometry, target: int, below: int | None, rng: np.random.Generator
) -> tuple[float, float] | None:
    highest = np.inf if below is None else float(patient.landmarks_lps_mm[below][2]) + _ABOVE_MM
    for _ in range(MAX_DRAWS):
        start = draw_start(patient, target, DEFAULT_TOLERANCE_MM, rng)
        if start[1] <= highest:
            return start
    return None


def _uniform(patients: Sequence[PatientGeometry], names: Sequence[str], rng: np.random.Generator) -> EpisodeSpec:
    number = int(rng.integers(len(patients)))
    target = draw_target(patients[number], rng)
    start = draw_start(patients[number], target, DEFAULT_TOLERANCE_MM, rng)
    return EpisodeSpec(names[number], target, tuple(round(value, 1) for value in start))
