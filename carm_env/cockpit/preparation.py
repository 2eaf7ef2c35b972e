"""Prepares an episode that a page asks for: a suite of one episode, or an episode of a suite of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from carm_env.cockpit.messages import Start
from carm_env.cockpit.offers import patient_ref
from carm_env.cockpit.refusals import VALUE, RefusedError
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import make_suite_environment
from carm_env.evaluation.suite import Suite, load_suite, suite_names
from carm_env.landmarks import landmark
from carm_env.system.errors import UnknownNameError, shortened

NAME = "cockpit"
"""Name of the suite of an episode that was started freely."""
RANDOM = "random"


@dataclass(frozen=True)
class Prepared:
    """An episode that can begin.

    Attributes:
        suite: its suite.
        episode: its index in the suite.
        seed: seed of the environment and the policies.
    """

    suite: Suite
    episode: int
    seed: int

    def environment(self) -> CArmNavEnv:
        """Makes an environment for the episode."""
        return make_suite_environment(self.suite)


def prepare(start: Start) -> Prepared:
    """Loads the patient, building it if need be, and draws what the page left open.

    Raises:
        RefusedError, ValueError: a name or a number is not valid, or the patient does not allow the episode.
    """
    if start.suite:
        if start.suite not in suite_names():
            # A path would name a file of the server.
            raise UnknownNameError("suite", start.suite, suite_names())
        suite = load_suite(start.suite)
        if not 0 <= start.episode < len(suite.episodes):
            raise RefusedError(VALUE, f"The suite {suite.name} has no episode {start.episode}.")
        return Prepared(suite, start.episode, start.seed + start.episode)
    patient = str(patient_ref(start.patient))
    environment = _environment(start)
    env = CArmNavEnv(patients=patient, **environment)
    options: dict[str, Any] = {}
    if start.target:
        options["target"] = landmark(start.target).id
    if start.start != RANDOM:
        options["start"] = _start(start.start)
    env.reset(seed=start.seed, options=options)
    description = "An episode of the cockpit."
    suite = Suite(NAME, 1, description, start.max_steps, (env.episode,), environment)
    return Prepared(suite, 0, start.seed)


def _environment(start: Start) -> dict[str, Any]:
    exposure: dict[str, Any] = {"mas": start.mas} if start.mas else {"exposure_control": True}
    return {
        "image_size": start.image_size,
        "alpha_deg": start.alpha_deg,
        "beta_deg": start.beta_deg,
        "projection": start.projection,
        "xray": {"kvp": start.kvp, "collimation": start.collimation, **exposure},
    }


def _start(text: str) -> int | tuple[float, ...]:
    words = text.split()
    if len(words) == 1:
        return landmark(words[0]).id
    try:
        return tuple(float(word) for word in words)
    except ValueError:
        raise RefusedError(
            VALUE, f"The start is {shortened(text)}, expected random, a landmark, or X Z in mm."
        ) from None
