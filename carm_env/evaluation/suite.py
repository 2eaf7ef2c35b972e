"""Suites: frozen episodes and their environment, as versioned YAML files.

```yaml
name: smoke
version: 1
description: one sentence
max_steps: 20
environment: {}        # arguments of carm_env.envs.navigation.CArmNavEnv, for example a disturbance
episodes:              # carm_env.envs.episode.EpisodeSpec
  - {patient: "virtual:0", target: 1, start: 4}
```
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carm_env.envs.episode import EpisodeSpec, landmark_lps_mm, start_isocenter_lps_mm
from carm_env.envs.navigation import CArmNavEnv
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose
from carm_env.patient_outline import PatientGeometry
from carm_env.system.errors import CArmEnvError, UnknownNameError, check_keys, shortened
from carm_env.system.files import content_hash
from carm_env.system.structured_files import dump_yaml, read_yaml

SUITE_FOLDER = Path(__file__).parent / "suites"
MAX_STEPS = 100_000
"""Largest `Suite.max_steps` of a file."""
_KEYS = ("name", "version", "description", "max_steps", "environment", "episodes")
_MAX_NAME_CHARACTERS = 100
_NOT_OF_SUITES = ("patients", "render_mode")
"""The episodes name their patients; a file opens no window."""
_VIEW_ARGUMENTS = ("alpha_deg", "beta_deg", "projection")
_HIGHEST = {"version": 2**31, "max_steps": MAX_STEPS}


class SuiteError(CArmEnvError, ValueError):
    """The file of a suite is not valid, or a patient does not allow one of its episodes."""


@dataclass(frozen=True)
class Suite:
    """Frozen episodes and their environment.

    Attributes:
        name: name on the command line.
        version: increases with every change of the episodes or the environment.
        description: one sentence.
        max_steps: maximum number of decisions per episode.
        episodes: the episodes; results refer to them by index.
        environment: arguments of `carm_env.envs.navigation.CArmNavEnv`.
    """

    name: str
    version: int
    description: str
    max_steps: int
    episodes: tuple[EpisodeSpec, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any, source: str) -> Suite:
        """Parses the contents of a YAML file.

        Args:
            value: the contents.
            source: name of the file in error messages.

        Raises:
            SuiteError: a missing or unknown key, a wrong type, or no episodes.
        """
        _check_header(value, source)
        environment = _check_environment(value.get("environment"), source)
        episodes = []
        for number, entry in enumerate(value["episodes"]):
            try:
                episodes.append(EpisodeSpec.from_json(entry))
            except (TypeError, ValueError) as error:
                raise SuiteError(f"{source}, episode {number}: {error}") from error
        return cls(**{**value, "environment": environment, "episodes": tuple(episodes)})

    def to_json(self) -> dict[str, Any]:
        """Returns the inverse of `from_json`."""
        episodes = [episode.to_json() for episode in self.episodes]
        values = {key: getattr(self, key) for key in _KEYS}
        return {**values, "environment": dict(self.environment), "episodes": episodes}

    def to_yaml(self) -> str:
        """Returns the contents of the suite's YAML file, with one line per episode."""
        value = self.to_json()
        episodes = [dump_yaml(entry, default_flow_style=True, width=1000) for entry in value.pop("episodes")]
        header = dump_yaml(value)
        return header + "episodes:\n" + "".join(f"  - {line}" for line in episodes)

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of `to_json`."""
        return content_hash(self.to_json())[:16]

    @property
    def patients(self) -> list[str]:
        """Names of the patients, in order of appearance."""
        return list(dict.fromkeys(episode.patient for episode in self.episodes))

    @property
    def isocenter_depth_mm(self) -> float:
        """Depth of the isocentre in the episodes (`carm_env.geometry.check_isocenter_depth`)."""
        return float(self.environment.get("isocenter_depth_mm", DEFAULT_ISOCENTER_DEPTH_MM))

    @property
    def _view(self) -> CArmPose:
        given = {name: self.environment[name] for name in _VIEW_ARGUMENTS if name in self.environment}
        return CArmPose((0.0, 0.0, 0.0), **given)

    def check(self, patients: Mapping[str, PatientGeometry]) -> None:
        """Checks the starts and targets of the episodes.

        Args:
            patients: the suite's patients, or their outlines, by name.

        Raises:
            SuiteError: an episode whose patient lacks the target, or does not allow the start.
        """
        for number, episode in enumerate(self.episodes):
            try:
                patient = patients[episode.patient]
                landmark_lps_mm(patient, episode.target)
                start_isocenter_lps_mm(episode.start, patient, self._view, self.isocenter_depth_mm)
            except ValueError as error:
                raise SuiteError(f"suite {self.name}, episode {number}: {error}") from error


def _check_header(value: Any, source: str) -> None:
    if not isinstance(value, dict):
        raise SuiteError(f"{source}: expected a mapping with the keys {', '.join(_KEYS)}.")
    check_keys(f"suite key in {source}", value, _KEYS)
    missing = [key for key in _KEYS if key not in value and key != "environment"]
    if missing:
        raise SuiteError(f"{source} lacks {', '.join(missing)}.")
    for key in ("name", "description"):
        if not isinstance(value[key], str):
            raise SuiteError(f"{source}: {key} is {shortened(value[key])}, expected text: quote it.")
    if not re.fullmatch(r"[\w-]+", value["name"]) or len(value["name"]) > _MAX_NAME_CHARACTERS:
        raise SuiteError(
            f"{source}: name is {shortened(value['name'])}, expected at most {_MAX_NAME_CHARACTERS} letters, digits, "
            "'-' and '_'."
        )
    for key, highest in _HIGHEST.items():
        if type(value[key]) is not int or not 1 <= value[key] <= highest:
            raise SuiteError(f"{source}: {key} is {shortened(value[key])}, expected an integer from 1 to {highest}.")
    if not isinstance(value["episodes"], list) or not value["episodes"]:
        raise SuiteError(f"{source}: episodes is empty or not a list, expected at least one episode.")


def _check_environment(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise SuiteError(f"{source}: environment is {shortened(value)}, expected a mapping.")
    arguments = dict(value or {})
    valid = [name for name in inspect.signature(CArmNavEnv).parameters if name not in _NOT_OF_SUITES]
    check_keys(f"environment argument in {source}", arguments, valid)
    try:
        CArmNavEnv(**arguments)
    except (TypeError, ValueError, OSError, AttributeError, ArithmeticError, LookupError) as error:
        # Values of any type and size reach it: not every combination is worth a check of its own.
        raise SuiteError(f"{source}, environment: {str(error)[:500]}") from error
    return arguments


def suite_names() -> list[str]:
    """Returns the names of the suites in the package."""
    return sorted(path.stem for path in SUITE_FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """Loads a suite of the package, or a ``.yaml`` file.

    Raises:
        UnknownNameError: the package has no such suite; the message names the nearest one.
        FileNotFoundError: the file does not exist.
        SuiteError: the file is not a valid suite.
        StructuredFileError: the file is not valid YAML, or exceeds the limits of its reader.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SUITE_FOLDER / f"{name}.yaml"
    if path.parent == SUITE_FOLDER and name not in suite_names():
        raise UnknownNameError("suite", name, suite_names())
    if not path.is_file():
        raise FileNotFoundError(f"there is no suite file {path}.")
    return Suite.from_json(read_yaml(path), str(path))
