"""Suites of single views: frozen X-rays for the localisation of landmarks, as versioned YAML files.

```yaml
name: retrieval
version: 1
description: one sentence
isocenter_depth_mm: 140.0
views:
  - {patient: 'virtual:3000', point: [-20.5, 1410.0], seed: 11}
  - {patient: 'virtual:3000', point: [3.1, 1702.4], seed: 12, landmark: 1}
```

``point`` is the (x, z) in LPS mm where the central ray meets the plane at mid-depth of the body, and ``seed`` draws the
noise. A view with a ``landmark`` has it within 5 mm of the centre along each axis. The package has ``retrieval``, views
over the whole workspace whose three closest landmarks are asked for, and ``centred``, views with a landmark in the
middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.envs.episode import parse_start
from carm_env.envs.scene import load_scene
from carm_env.evaluation.localization import CENTRED_VIEWS, CENTRED_WITHIN_MM, IMAGE_SIZE, CentredViews, PatientViews
from carm_env.evaluation.suite import SUITE_FOLDER, SuiteError
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, check_isocenter_depth
from carm_env.landmarks import landmark
from carm_env.language.reasons import Situation
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError, check_keys, shortened
from carm_env.system.files import content_hash
from carm_env.system.structured_files import dump_yaml, read_yaml
from carm_env.views.sample import draw_isocenters, label_view

VIEW_SUITE_FOLDER = SUITE_FOLDER / "views"
_KEYS = ("name", "version", "description", "isocenter_depth_mm", "views")
_VIEW_KEYS = ("patient", "point", "seed", "landmark")
_MAX_SEED = 2**31


@dataclass(frozen=True)
class FrozenView:
    """One view.

    Attributes:
        patient: name of the patient.
        point_lps_mm: ``(x, z)`` where the central ray meets the plane at mid-depth of the body.
        seed: seed of the noise.
        landmark: id of the landmark in the middle; 0 for a view over the workspace.

    Raises:
        ValueError: a value is of another form.
        UnknownNameError: an unknown landmark.
    """

    patient: str
    point_lps_mm: tuple[float, float]
    seed: int
    landmark: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.patient, str) or not self.patient:
            raise ValueError(f"patient is {shortened(self.patient)}, expected the name of a patient.")
        point = parse_start(self.point_lps_mm)
        if isinstance(point, int) or len(point) != 2:
            raise ValueError(f"point is {shortened(self.point_lps_mm)}, expected two numbers (x, z) in LPS mm.")
        object.__setattr__(self, "point_lps_mm", point)
        if type(self.seed) is not int or not 0 <= self.seed < _MAX_SEED:
            raise ValueError(f"seed is {shortened(self.seed)}, expected an integer from 0 to {_MAX_SEED - 1}.")
        if self.landmark:
            object.__setattr__(self, "landmark", landmark(self.landmark).id)

    @classmethod
    def from_json(cls, value: Any) -> FrozenView:
        """Returns the view of an entry; see the errors of the class."""
        if not isinstance(value, Mapping):
            raise ValueError(f"view is {shortened(value)}, expected a mapping with {', '.join(_VIEW_KEYS[:3])}.")
        check_keys("key of a view", value, _VIEW_KEYS)
        if missing := [key for key in _VIEW_KEYS[:3] if key not in value]:
            raise ValueError(f"view {shortened(dict(value))} lacks {', '.join(missing)}.")
        return cls(value["patient"], value["point"], value["seed"], value.get("landmark", 0))

    def to_json(self) -> dict[str, Any]:
        """Returns the inverse of `from_json`."""
        values = {"patient": self.patient, "point": list(self.point_lps_mm), "seed": self.seed}
        return {**values, "landmark": self.landmark} if self.landmark else values


@dataclass(frozen=True)
class ViewSuite:
    """Frozen views.

    Attributes:
        name: name on the command line.
        version: increases with every change of the views.
        description: one sentence.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
        views: the views.
    """

    name: str
    version: int
    description: str
    views: tuple[FrozenView, ...]
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM

    @classmethod
    def from_json(cls, value: Any, source: str) -> ViewSuite:
        """Parses the contents of a YAML file.

        Args:
            value: the contents.
            source: name of the file in error messages.

        Raises:
            SuiteError: a missing or unknown key, a wrong value, or no views.
        """
        if not isinstance(value, Mapping):
            raise SuiteError(f"{source}: expected a mapping with the keys {', '.join(_KEYS)}.")
        check_keys(f"suite key in {source}", value, _KEYS)
        if missing := [key for key in _KEYS if key not in value]:
            raise SuiteError(f"{source} lacks {', '.join(missing)}.")
        if type(value["version"]) is not int or value["version"] < 1:
            raise SuiteError(f"{source}: version is {shortened(value['version'])}, expected an integer from 1.")
        for key in ("name", "description"):
            if not isinstance(value[key], str):
                raise SuiteError(f"{source}: {key} is {shortened(value[key])}, expected text: quote it.")
        if not isinstance(value["views"], list) or not value["views"]:
            raise SuiteError(f"{source}: views is empty or not a list, expected at least one view.")
        views = []
        for number, entry in enumerate(value["views"]):
            try:
                views.append(FrozenView.from_json(entry))
            except (TypeError, ValueError) as error:
                raise SuiteError(f"{source}, view {number}: {error}") from error
        try:
            depth_mm = check_isocenter_depth(value["isocenter_depth_mm"])
        except (TypeError, ValueError) as error:
            raise SuiteError(f"{source}: {error}") from error
        return cls(value["name"], value["version"], value["description"], tuple(views), depth_mm)

    def to_json(self) -> dict[str, Any]:
        """Returns the inverse of `from_json`."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _KEYS[:-1]}
        return {**values, "views": [view.to_json() for view in self.views]}

    def to_yaml(self) -> str:
        """Returns the contents of the suite's YAML file, with one line per view."""
        value = self.to_json()
        views = [dump_yaml(entry, default_flow_style=True, width=1000) for entry in value.pop("views")]
        return dump_yaml(value) + "views:\n" + "".join(f"  - {line}" for line in views)

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of `to_json`."""
        return content_hash(self.to_json())[:16]

    @property
    def patients(self) -> list[str]:
        """Names of the patients, in order of appearance."""
        return list(dict.fromkeys(view.patient for view in self.views))

    def render(self, patient: str) -> PatientViews:
        """Renders the views of one of the suite's patients.

        Raises:
            SuiteError: a view's landmark is absent from its patient, or not in the middle.
        """
        scene = load_scene(patient)
        images, targets, situations, closest = [], [], [], []
        for number, view in enumerate(self.views):
            if view.patient != patient:
                continue
            x, z = view.point_lps_mm
            pose = CArmPose((x, scene.patient.mid_depth_mm, z)).towards_source(self.isocenter_depth_mm)
            labels = label_view(scene.patient, pose, scene.camera.projection(pose, IMAGE_SIZE))
            if view.landmark:
                offset = np.abs(labels.displacement_mm[landmark(view.landmark).index])
                # Rounding of the point adds a little to the offset that was drawn.
                if not (offset <= CENTRED_WITHIN_MM + 0.1).all():
                    raise SuiteError(
                        f"suite {self.name}, view {number}: {landmark(view.landmark).name} of {patient} is not in the "
                        "middle. Was the patient built by another version?"
                    )
            images.append(scene.camera.image(pose, IMAGE_SIZE, view.seed))
            targets.append(view.landmark)
            situations.append(Situation(labels.displacement_mm, labels.visible))
            closest.append(labels.closest_landmarks)
        stack, ids = np.stack(images), np.array(targets)
        spread, centred = np.flatnonzero(ids == 0), np.flatnonzero(ids)
        with_centre = CentredViews(stack[centred], ids[centred], [situations[i] for i in centred])
        return PatientViews(
            patient, stack[spread], [closest[i] for i in spread], [situations[i] for i in spread], with_centre
        )


def view_suite_names() -> list[str]:
    """Returns the names of the suites of views in the package."""
    return sorted(path.stem for path in VIEW_SUITE_FOLDER.glob("*.yaml"))


def load_view_suite(name: str) -> ViewSuite:
    """Loads a suite of views of the package, or a ``.yaml`` file.

    Raises:
        UnknownNameError: the package has no such suite; the message names the nearest one.
        FileNotFoundError: the file does not exist.
        SuiteError: the file is not a valid suite of views.
        StructuredFileError: the file is not valid YAML, or exceeds the limits of its reader.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else VIEW_SUITE_FOLDER / f"{name}.yaml"
    if path.parent == VIEW_SUITE_FOLDER and name not in view_suite_names():
        raise UnknownNameError("suite of views", name, view_suite_names())
    if not path.is_file():
        raise FileNotFoundError(f"there is no suite file {path}.")
    return ViewSuite.from_json(read_yaml(path), str(path))


def draw_retrieval(patients: Mapping[str, Patient], views: int, seed: int) -> list[FrozenView]:
    """Draws views over the workspaces of patients.

    Args:
        patients: the patients by name.
        views: views of each patient.
        seed: seed of points and noise.
    """
    drawn = []
    for number, (name, patient) in enumerate(patients.items()):
        rng = np.random.default_rng([seed, number])
        for x, _, z in draw_isocenters(patient, views, seed).tolist():
            drawn.append(FrozenView(name, (round(x, 1), round(z, 1)), int(rng.integers(_MAX_SEED))))
    return drawn


def draw_centred(patients: Mapping[str, Patient], seed: int) -> list[FrozenView]:
    """Draws four views of each landmark of patients, with the landmark within 5 mm of the centre along each axis.

    Args:
        patients: the patients by name.
        seed: seed of points and noise.
    """
    drawn = []
    for number, (name, patient) in enumerate(patients.items()):
        rng = np.random.default_rng([seed, number])
        for key, point in patient.landmarks_lps_mm.items():
            for _ in range(CENTRED_VIEWS):
                x, z = (point[[0, 2]] + rng.uniform(-CENTRED_WITHIN_MM, CENTRED_WITHIN_MM, 2)).tolist()
                drawn.append(FrozenView(name, (round(x, 1), round(z, 1)), int(rng.integers(_MAX_SEED)), key))
    return drawn
