"""Shifts: the episodes of a suite under other conditions, each in three declared severities.

| shift | what changes | severities 1, 2, 3 |
|---|---|---|
| ``quantum_noise`` | photons per pixel in the open field | 20,000, 5,000, 1,500 |
| ``low_dose`` | tube current-time product, and read-out noise | 0.1, 0.03, 0.01 mAs; 3, 6, 10 photons |
| ``window`` | gamma and percentiles of black and white | 0.7; 0.7 with 3 to 97 %; 1.4 with 5 to 95 % |
| ``polarity`` | bone is dark, with a density curve | 0, 0.3, 0.6 |
| ``blur`` | spread in the detector, by motion and focal spot | 0.6, 1.2, 2.0 mm |
| ``scatter`` | ratio of scatter to primary per unit of -ln I | 0.1, 0.3, 0.6 |
| ``collimation`` | side of the square field | 0.9, 0.8, 0.7 |
| ``shutters`` | one shutter, two and four, with a grey border | 10, 20, 25 % of the side |
| ``rao``, ``lao``, ``caud``, ``cran`` | angulation of every view | 10, 20, 30 degrees |
| ``detector_rotation`` | the image turns on the screen, the moves do not | 5, 10, 20 degrees |
| ``off_centre`` | the table is lowered: isocentre nearer to the tube | by 30, 60, 90 mm |
| ``askew`` | the patient lies askew on the table | 5, 10, 15 degrees |
| ``rolled`` | the patient is rolled about the long axis | 5, 10, 20 degrees |
| ``arms`` | pose of the arms | at the sides, raised, one raised |
| ``obese`` | body mass index: WHO class II, class III | 37, 44, 52 kg/m^2; some people are heavier than 37 |
| ``child_sized`` | stature and weight of the smallest adults | 155 cm, 45 kg; 145, 38; 136, 34 |
| ``implants`` | metal in the body | pacemaker; with sternal wires; with a humeral nail |
| ``lines`` | tubes and cables | endotracheal tube; with a central line and ECG leads; with all tubes |
| ``disease`` | lungs and ribs | effusion; with a pneumothorax; with a fractured rib |
| ``couch`` | what lies around the body | CT couch; with 2, with 4 metal objects |
| ``truncated`` | field of the CT, and its upper end above T1 | 450 mm; 400 mm, 150 mm; 350 mm, 60 mm |
| ``coarse`` | voxels of the CT | slices of 3, of 5, voxels of 4 x 4 x 5 mm |
| ``missing_landmark`` | part of the body in the CT, without the other landmarks | head and neck; chest; abdomen |
| ``other_anatomy`` | bones of another family (three of it, not in order) | warp 1, 2, 3 |

A shift of the X-ray system keeps patients and episodes. One of the patients renames them, and keeps targets and starts:
a start in mm keeps its place relative to the workspace of its patient, and an episode whose patient lacks the target
or the starting landmark is left out. Real CTs are patients, not a shift: evaluate on them with ``--patients``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.suite import Suite, SuiteError
from carm_env.patient_outline import PatientGeometry
from carm_env.patient_store import VIRTUAL
from carm_env.patients.reference import PatientRef
from carm_env.randomization.naming import OPTION as SCAN
from carm_env.system.errors import CArmEnvError, UnknownNameError

SEVERITIES = (1, 2, 3)
_TOWARDS_TARGET = np.linspace(0.0, 0.9, 10)
"""Steps towards its target by which a start outside the body moves into it."""
_SAME = {"weight_kg": "bmi"}
"""Options of virtual patients that set what another option sets."""


class ShiftError(CArmEnvError, ValueError):
    """A shift cannot be applied to a suite."""


@dataclass(frozen=True)
class Change:
    """What a shift changes at one severity.

    Attributes:
        environment: arguments of `carm_env.envs.navigation.CArmNavEnv`; mappings are merged with those of the suite.
        patient: options of a virtual patient, by name.
        scan: fields of `carm_env.randomization.scan.Scan`, by name.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    patient: Mapping[str, str] = field(default_factory=dict)
    scan: Mapping[str, str] = field(default_factory=dict)

    @property
    def renames(self) -> bool:
        """Whether the patients are others than those of the suite."""
        return bool(self.patient or self.scan)

    def patient_name(self, name: str) -> str:
        """Returns the name of a patient with the options and the scan.

        Raises:
            ShiftError: an imported patient has no options, or the patient has them or a scan already.

        >>> Change(patient={"arms": "sides"}).patient_name("virtual:3000")
        'virtual:3000?arms=sides'
        """
        ref = PatientRef.parse(name)
        if self.patient and ref.kind != VIRTUAL:
            raise ShiftError(
                f"patient {name!r} is no virtual patient, and the shift sets {', '.join(self.patient)}: choose a shift "
                "of the X-ray system or of the scan."
            )
        if self.scan and ref.scan is not None:
            raise ShiftError(f"patient {name!r} has a scan already, and the shift sets one.")
        given = [part.partition("=")[0] for part in name.partition("?")[2].split("&")]
        own = [_SAME.get(option, option) for option in self.patient]
        if repeated := [option for option in given if _SAME.get(option, option) in own]:
            raise ShiftError(
                f"patient {name!r} has the option {', '.join(repeated)}, but the shift sets {', '.join(self.patient)}."
            )
        options = dict(self.patient)
        if self.scan:
            options[SCAN] = "+".join(f"{key}:{value}" for key, value in self.scan.items())
        for key, value in options.items():
            name += f"{'&' if '?' in name else '?'}{key}={value}"
        return name


def _xray(*severities: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(Change({"xray": values}) for values in severities)


def _chain(*severities: Mapping[str, Any]) -> tuple[Change, ...]:
    return tuple(Change({"image_chain": values}) for values in severities)


def _view(name: str, *degrees: float) -> tuple[Change, ...]:
    return tuple(Change({name: angle}) for angle in degrees)


def _virtual(*severities: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(Change(patient=values) for values in severities)


def _scan(*severities: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(Change(scan=values) for values in severities)


def _findings(*severities: str) -> tuple[Change, ...]:
    return _virtual(*({"findings": names} for names in severities))


SHIFTS: Mapping[str, tuple[Change, ...]] = {
    "quantum_noise": _xray({"photons": 2e4}, {"photons": 5e3}, {"photons": 1.5e3}),
    "low_dose": _xray(
        {"mas": 0.1, "electronic_noise": 3.0}, {"mas": 0.03, "electronic_noise": 6.0},
        {"mas": 0.01, "electronic_noise": 10.0},
    ),
    "window": _xray(
        {"gamma": 0.7}, {"gamma": 0.7, "dark_percent": 3.0, "bright_percent": 97.0},
        {"gamma": 1.4, "dark_percent": 5.0, "bright_percent": 95.0},
    ),
    "polarity": _chain(
        {"inverted": True}, {"inverted": True, "curve": 0.3}, {"inverted": True, "curve": 0.6},
    ),
    "blur": _xray({"scintillator_mm": 0.6}, {"scintillator_mm": 1.2}, {"scintillator_mm": 2.0}),
    "scatter": _xray({"scatter": 0.1}, {"scatter": 0.3}, {"scatter": 0.6}),
    "collimation": _xray({"collimation": 0.9}, {"collimation": 0.8}, {"collimation": 0.7}),
    "shutters": _chain(
        {"shutters": [0.1, 0.0, 0.0, 0.0], "border_grey": 60}, {"shutters": [0.2, 0.0, 0.2, 0.0], "border_grey": 90},
        {"shutters": [0.25, 0.25, 0.25, 0.25], "border_grey": 120},
    ),
    "rao": _view("alpha_deg", 10.0, 20.0, 30.0),
    "lao": _view("alpha_deg", -10.0, -20.0, -30.0),
    "caud": _view("beta_deg", 10.0, 20.0, 30.0),
    "cran": _view("beta_deg", -10.0, -20.0, -30.0),
    "detector_rotation": _chain({"rotation_deg": 5.0}, {"rotation_deg": 10.0}, {"rotation_deg": 20.0}),
    "off_centre": _view("isocenter_depth_mm", 170.0, 200.0, 230.0),
    "askew": _scan({"askew_deg": "5"}, {"askew_deg": "10"}, {"askew_deg": "15"}),
    "rolled": _scan({"roll_deg": "5"}, {"roll_deg": "10"}, {"roll_deg": "20"}),
    "arms": _virtual({"arms": "sides"}, {"arms": "raised"}, {"arms": "one_up"}),
    "obese": _virtual({"bmi": "37"}, {"bmi": "44"}, {"bmi": "52"}),
    "child_sized": _virtual(
        {"age": "18", "stature_cm": "155", "weight_kg": "45"}, {"age": "18", "stature_cm": "145", "weight_kg": "38"},
        {"age": "18", "stature_cm": "136", "weight_kg": "34"},
    ),
    "implants": _findings(
        "pacemaker", "pacemaker+sternal_wires", "pacemaker+sternal_wires+humeral_nail",
    ),
    "lines": _findings(
        "endotracheal_tube", "endotracheal_tube+central_line+ecg_leads", "tubes+ecg_leads",
    ),
    "disease": _findings(
        "pleural_effusion", "pleural_effusion+pneumothorax", "pleural_effusion+pneumothorax+rib_fracture",
    ),
    "couch": _scan(
        {"couch": "true"}, {"couch": "true", "metal": "2"}, {"couch": "true", "metal": "4"},
    ),
    "truncated": _scan(
        {"field_of_view_mm": "450"}, {"field_of_view_mm": "400", "above_t1_mm": "150"},
        {"field_of_view_mm": "350", "above_t1_mm": "60"},
    ),
    "coarse": _scan({"slice_mm": "3"}, {"slice_mm": "5"}, {"pixel_mm": "4", "slice_mm": "5"}),
    "missing_landmark": _virtual({"covers": "head_neck"}, {"covers": "chest"}, {"covers": "abdomen"}),
    "other_anatomy": _virtual({"warp": "1"}, {"warp": "2"}, {"warp": "3"}),
}  # fmt: skip
"""The changes of each shift, mildest first; see the table of this module."""


@dataclass(frozen=True)
class Shift:
    """A shift at one severity; ``str(shift)`` is its text, such as ``collimation:2``.

    Attributes:
        name: one of `SHIFTS`.
        severity: 1 (mild) to 3 (severe).

    Raises:
        UnknownNameError: unknown name.
        ShiftError: unknown severity.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        if self.name not in SHIFTS:
            raise UnknownNameError("shift", self.name, SHIFTS)
        if self.severity not in SEVERITIES:
            raise ShiftError(f"severity of the shift {self.name} is {self.severity}, expected 1, 2 or 3.")

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"

    @classmethod
    def parse(cls, text: str) -> tuple[Shift, ...]:
        """Returns the shifts that a text names: ``NAME:SEVERITY``, ``NAME`` for three severities, ``all`` for all.

        Raises:
            UnknownNameError: unknown name.
            ShiftError: unknown severity.

        >>> [str(shift) for shift in Shift.parse("blur")]
        ['blur:1', 'blur:2', 'blur:3']
        """
        name, colon, severity = text.partition(":")
        if not colon:
            names = list(SHIFTS) if name == "all" else [name]
            return tuple(cls(name, number) for name in names for number in SEVERITIES)
        if severity not in map(str, SEVERITIES):
            raise ShiftError(f"severity of the shift {text!r} is {severity!r}, expected 1, 2 or 3, as in {name}:2.")
        return (cls(name, int(severity)),)

    @property
    def change(self) -> Change:
        """What the shift changes."""
        return SHIFTS[self.name][self.severity - 1]

    def suite_name(self, suite: str) -> str:
        """Returns the name of a shifted suite, such as ``uniform-collimation-2``."""
        return f"{suite}-{self.name}-{self.severity}"


def patient_names(suite: Suite, shift: Shift) -> dict[str, str]:
    """Returns the name of each patient of a suite under a shift, by its name in the suite.

    Raises:
        ShiftError: the shift cannot be applied to a patient of the suite.
    """
    change = shift.change
    return {name: change.patient_name(name) if change.renames else name for name in suite.patients}


def shifted_environment(suite: Suite, shift: Shift) -> Suite:
    """Applies the environment of a shift to a suite, which keeps its episodes: all of a shift of the X-ray system."""
    environment = dict(suite.environment)
    for key, value in shift.change.environment.items():
        before = environment.get(key, {})
        environment[key] = {**before, **value} if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    description = f"{suite.description}; shift {shift}"
    return replace(suite, name=shift.suite_name(suite.name), description=description, environment=environment)


def split_suite_name(name: str) -> tuple[str, Shift | None]:
    """Returns the name of a suite without its shift, and the shift; None for a suite that is not shifted.

    >>> split_suite_name("uniform-blur-2"), split_suite_name("paper-routes")
    (('uniform', Shift(name='blur', severity=2)), ('paper-routes', None))
    """
    suite, _, last = name.rpartition("-")
    suite, _, shift = suite.rpartition("-")
    if not suite or shift not in SHIFTS or last not in map(str, SEVERITIES):
        return name, None
    return suite, Shift(shift, int(last))


def shifted_suite(suite: Suite, shift: Shift, patients: Mapping[str, PatientGeometry]) -> tuple[Suite, dict[int, str]]:
    """Applies a shift to a suite.

    Args:
        suite: the suite.
        shift: the shift.
        patients: the suite's patients, or their outlines, and those of `patient_names`, by name.

    Returns:
        The shifted suite, and why each episode that is left out is, by its number.

    Raises:
        ShiftError: the shift cannot be applied, or leaves no episode.
    """
    names = patient_names(suite, shift)
    episodes: list[EpisodeSpec] = []
    left_out: dict[int, str] = {}
    for number, episode in enumerate(suite.episodes):
        try:
            episodes.append(_moved(episode, patients[episode.patient], names[episode.patient], patients))
        except ShiftError as error:
            left_out[number] = str(error)
    if not episodes:
        raise ShiftError(f"the shift {shift} leaves no episode of the suite {suite.name}: {left_out[0]}.")
    found = replace(shifted_environment(suite, shift), episodes=tuple(episodes))
    try:
        found.check(patients)
    except SuiteError as error:
        raise ShiftError(f"the shift {shift} gives an episode that cannot start: {error}") from error
    return found, left_out


def _moved(
    episode: EpisodeSpec, before: PatientGeometry, name: str, patients: Mapping[str, PatientGeometry]
) -> EpisodeSpec:
    """Returns an episode on another patient."""
    after = patients[name]
    if after is before:
        return episode
    wanted = {episode.target} | ({episode.start} if isinstance(episode.start, int) else set())
    if wanted - set(after.landmarks_lps_mm):
        raise ShiftError(f"{name} lacks the target or the starting landmark")
    if isinstance(episode.start, int):
        return replace(episode, patient=name)
    return replace(episode, patient=name, start=_moved_start(episode, before, after))


def _moved_start(episode: EpisodeSpec, before: PatientGeometry, after: PatientGeometry) -> tuple[float, ...]:
    """Returns the start at the same place relative to the workspace, moved towards the target onto the body."""
    assert not isinstance(episode.start, int)
    start = np.array(episode.start)[[0, -1]]
    low, high = before.workspace_mm
    new_low, new_high = after.workspace_mm
    place = new_low + (start - low) / (high - low) * (new_high - new_low)
    goal = after.landmarks_lps_mm[episode.target][[0, 2]]
    tried: Sequence[np.ndarray[Any, Any]] = [place + share * (goal - place) for share in _TOWARDS_TARGET]
    x, z = next((point for point in tried if after.covers(*point)), tried[0])
    return round(float(x), 1), round(float(z), 1)
