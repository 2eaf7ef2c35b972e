"""The population of virtual patients: persons drawn from a seed, or described by sex, age, stature and weight.

`VirtualPatient` is a person; `VirtualPatient.parameters` are the numbers that a patient is built from.

The landmarks of drawn persons follow the Gaussian of the annotated NMDID patients (`carm_env.anatomy.layout`). Stature
is drawn from the population of the United States and shifts the layout along its length according to their correlation,
so that the population as a whole keeps the Gaussian. ``benchmarks/population.py`` compares drawn and annotated
patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.layout import landmark_layout, upright_mm
from carm_env.anatomy.parameters import LIMITS, Arms, PatientParameters, checked_number
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError, check_keys

Sex = Literal["female", "male"]

FEMALE_SHARE = 0.45
_TABLE_SHARE = 0.5
"""Share of the patients whose volume contains the table; the average patient's does."""
AGE_YEARS = (18.0, 95.0)
STATURE_CM = (135.0, 215.0)
WEIGHT_KG = (30.0, 250.0)
BMI = (13.0, 60.0)
_PERSON = ("sex", "age", "stature_cm", "weight_kg", "bmi")
"""What describes a person apart from the seed and the pose of the arms."""

_STATURE: dict[Sex, tuple[float, float]] = {"female": (161.3, 7.1), "male": (175.3, 7.6)}
"""Mean and standard deviation, cm. Fryar et al., Anthropometric reference data for children and adults: United States,
2015-2018. Vital Health Stat 3(46), 2021."""
_LOG_BMI: dict[Sex, tuple[float, float]] = {"female": (math.log(28.6), 0.24), "male": (math.log(28.5), 0.19)}
"""Mean and standard deviation of log(BMI in kg/m^2), from medians and quartiles of the same source."""
_POPULATION_CM = (
    FEMALE_SHARE * _STATURE["female"][0] + (1 - FEMALE_SHARE) * _STATURE["male"][0],
    math.sqrt(
        FEMALE_SHARE * _STATURE["female"][1] ** 2
        + (1 - FEMALE_SHARE) * _STATURE["male"][1] ** 2
        + FEMALE_SHARE * (1 - FEMALE_SHARE) * (_STATURE["male"][0] - _STATURE["female"][0]) ** 2
    ),
)
_LENGTH_CORRELATION = 0.6
"""Correlation of stature with the length from T12 to the skull."""
_MEAN_SCALE = 1.025
_MEAN_BMI = 27.0
_MEAN_SHOULDERS_MM, _MEAN_SCAPULAE_MM = 287.0, 232.5
"""Distances of the humeral heads and of the scapular inferior angles in the mean layout."""

# Limits of plausible layouts; others are drawn again.
_T1_T12_MM, _SKULL_T1_MM = (175.0, 345.0), (95.0, 235.0)
_SHOULDERS_MM = (170.0, 400.0)
_MAX_UPPER_ARM_MM, _MAX_FOREARM_MM = 400.0, 350.0
_MIN_ELBOW_TO_MIDLINE_MM = 30.0
_MAX_TILT_DEG = 18.0
_MAX_DRAWS = 1000
_WIDENING = 1.1
"""Factor of the standard deviations that compensates the rejection of implausible layouts."""


@dataclass(frozen=True)
class VirtualPatient:
    """A person. Values that are None are drawn from the seed; seed 0 is the average adult with the mean layout.

    Args:
        seed: an integer from 0.
        sex: ``"female"`` or ``"male"``.
        age: years, 18 to 95.
        stature_cm: 135 to 215 cm.
        weight_kg: 30 to 250 kg, with a body mass index from 13 to 60 kg/m^2.
        arms: ``"crossed"`` (as in the paper), ``"sides"``, ``"one_up"`` or ``"raised"``.
        bmi: body mass index, 13 to 60 kg/m^2, instead of the weight.
        options: fields of `carm_env.anatomy.parameters.PatientParameters` that are set instead of drawn, such as
            ``{"kyphosis_deg": 30, "findings": "pacemaker"}``.

    Raises:
        UnknownNameError: an option or a value does not exist; the message suggests the nearest one.
        ValueError: a number is outside its limits, or both weight and body mass index are given.
    """

    seed: int = 0
    sex: Sex | None = None
    age: float | None = None
    stature_cm: float | None = None
    weight_kg: float | None = None
    arms: Arms = "crossed"
    bmi: float | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __init__(
        self,
        seed: int = 0,
        sex: Sex | None = None,
        age: float | None = None,
        stature_cm: float | None = None,
        weight_kg: float | None = None,
        arms: Arms = "crossed",
        bmi: float | None = None,
        **options: Any,
    ) -> None:
        check_keys("patient option", options, option_names())
        if sex is not None and sex not in get_args(Sex):
            raise UnknownNameError("sex", sex, get_args(Sex))
        for name, value, limits in (
            ("age", age, AGE_YEARS),
            ("stature_cm", stature_cm, STATURE_CM),
            ("weight_kg", weight_kg, WEIGHT_KG),
            ("bmi", bmi, BMI),
        ):
            if value is not None:
                checked_number(name, value, limits)
            object.__setattr__(self, name, value)
        if weight_kg is not None and bmi is not None:
            raise ValueError(f"got weight_kg {weight_kg:g} and bmi {bmi:g}, which set the same: give one of them.")
        object.__setattr__(self, "sex", sex)
        object.__setattr__(self, "arms", arms)
        # Stores the options in canonical form, so that each patient has exactly one name.
        checked = PatientParameters(seed=seed, arms=arms, **options)
        object.__setattr__(self, "seed", checked.seed)
        object.__setattr__(self, "options", tuple((name, getattr(checked, name)) for name in sorted(options)))
        object.__setattr__(self, "_drawn", _draw_person(self))

    @property
    def person(self) -> dict[str, Any]:
        """Sex, age, stature (cm), weight (kg) and body mass index, given or drawn."""
        return dict(self._drawn)  # type: ignore[attr-defined]

    @property
    def parameters(self) -> PatientParameters:
        """The parameters that this patient is built from."""
        body: dict[str, Any] = {"table": True} if self._is_average else _draw_body(self)
        return PatientParameters(**{"seed": self.seed, "arms": self.arms, **body, **dict(self.options)})

    @property
    def _is_average(self) -> bool:
        return self.seed == 0 and all(getattr(self, name) is None for name in _PERSON)

    @property
    def given(self) -> dict[str, Any]:
        """The values that are set instead of drawn, apart from the seed."""
        person = {name: getattr(self, name) for name in _PERSON if getattr(self, name) is not None}
        arms = {} if self.arms == "crossed" else {"arms": self.arms}
        return {**person, **arms, **dict(self.options)}


def option_names() -> tuple[str, ...]:
    """Returns the names of all options of a virtual patient."""
    body = (item.name for item in fields(PatientParameters) if item.name not in ("seed", "arms", "layout_mm"))
    return (*_PERSON, "arms", *body)


def option_defaults() -> dict[str, Any]:
    """Returns a value of the type of each option, by name."""
    average = PatientParameters()
    person = {"sex": "male", "age": 0.0, "stature_cm": 0.0, "weight_kg": 0.0, "bmi": 0.0}
    return {name: person[name] if name in person else getattr(average, name) for name in option_names()}


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, 0x70617469, purpose])


def _draw_person(patient: VirtualPatient) -> dict[str, Any]:
    rng = _stream(patient.seed, 0)
    # Given values are drawn as well, so that setting one of them does not change the others.
    drawn_sex: Sex = "female" if rng.random() < FEMALE_SHARE else "male"
    drawn_age, normal, bmi_normal = rng.normal(52.0, 18.0), rng.normal(), rng.normal()
    sex = patient.sex or drawn_sex
    mean, std = _STATURE[sex]
    stature = float(np.clip(mean + std * np.clip(normal, -2.8, 2.8), *STATURE_CM))
    stature = stature if patient.stature_cm is None else float(patient.stature_cm)
    mean, std = _LOG_BMI[sex]
    bmi = float(np.clip(math.exp(mean + std * bmi_normal), 16.5, 52.0))
    if patient.bmi is None:
        weight = bmi * (stature / 100) ** 2 if patient.weight_kg is None else float(patient.weight_kg)
        bmi = weight / (stature / 100) ** 2
        if not BMI[0] <= bmi <= BMI[1]:
            raise ValueError(
                f"{weight:g} kg at {stature:.0f} cm is a body mass index of {bmi:.1f} kg/m^2, expected {BMI[0]:g} to "
                f"{BMI[1]:g}: change weight_kg or stature_cm."
            )
    else:
        bmi = float(patient.bmi)
        weight = bmi * (stature / 100) ** 2
        if not WEIGHT_KG[0] <= weight <= WEIGHT_KG[1]:
            raise ValueError(
                f"a body mass index of {bmi:g} kg/m^2 at {stature:.0f} cm is {weight:.1f} kg, expected "
                f"{WEIGHT_KG[0]:g} to {WEIGHT_KG[1]:g} kg: change bmi or stature_cm."
            )
    age = float(np.clip(drawn_age, *AGE_YEARS)) if patient.age is None else float(patient.age)
    return {
        "sex": sex,
        "age": round(age, 1),
        "stature_cm": round(stature, 1),
        "weight_kg": round(weight, 1),
        "bmi": round(bmi, 2),
    }


def _draw_body(patient: VirtualPatient) -> dict[str, Any]:
    """Draws the parameters of a person's body, rounded so that card, hash and volume agree."""
    person, rng = patient.person, _stream(patient.seed, 1)
    age, bmi, female = person["age"], person["bmi"], float(person["sex"] == "female")
    stature = person["stature_cm"]
    layout, tilt = draw_layout_mm(patient.seed, stature)
    noise = dict(zip(_NOISE, rng.normal(size=len(_NOISE)), strict=True))
    excess_bmi, old = bmi - _MEAN_BMI, max(age - 50.0, 0.0)
    shoulders = float(np.linalg.norm(layout[landmark(3).index] - layout[landmark(2).index]))
    scapulae = float(np.linalg.norm(layout[landmark(5).index] - layout[landmark(4).index]))
    drawn: dict[str, float] = {
        "scale": _MEAN_SCALE * (stature / _POPULATION_CM[0]) ** 0.8,
        # A trunk too narrow for its layout would leave the shoulder blades off the ribs.
        "thorax_width": 0.35 * shoulders / _MEAN_SHOULDERS_MM
        + 0.35 * scapulae / _MEAN_SCAPULAE_MM
        + 0.3
        + 0.004 * excess_bmi
        + 0.02 * noise["width"],
        "thorax_depth": 1 + 0.005 * excess_bmi + 0.0015 * old + 0.035 * noise["depth"],
        "head_size": 1 - 0.02 * female + 0.025 * noise["head"],
        # Kyphosis grows with age (Fon, Pitt and Thies, AJR 134:979-983, 1980: some 4 degrees a decade from 40 on).
        "kyphosis_deg": 0.35 * (age - 50.0) + 6.0 * noise["kyphosis"],
        "scoliosis_mm": 4.5 * noise["scoliosis"],
        "head_turn_deg": 9.0 * noise["turn"],
        # Rounded before it is doubled: with other digits these would not be the patients of earlier trainings.
        "head_nod_deg": 2 * round(float(4.0 * noise["nod"]), 4),
        "askew_deg": tilt,
        "roll_deg": 2.0 * noise["roll"],
        "off_centre_mm": 14.0 * noise["off_centre"],
        "fat_mm": 13.0 + 3.0 * female + 1.15 * excess_bmi + 1.5 * noise["fat"],
        "belly_mm": 12.0 - 3.0 * female + 2.6 * excess_bmi + 0.12 * (age - 50.0) + 5.0 * noise["belly"],
        "muscle": 1 - 0.07 * female + 0.005 * excess_bmi - 0.003 * old + 0.05 * noise["muscle"],
        # Trabecular density falls by about a third to a half between 30 and 80 years, after 50 faster in women.
        "bone_density": 1.05 - 0.0055 * (age - 35.0) - 0.004 * female * old + 0.07 * noise["bone"],
        "degeneration": (age - 35.0) / 55.0 + 0.12 * noise["degeneration"],
        "lung_hu": -805.0 + 30.0 * noise["lung"],
        "female": female * (0.75 + 0.02 * excess_bmi + 0.12 * noise["breast"]),
        "bowel_gas": 1.0 + 0.25 * noise["gas"],
        "heart": 1.0 + 0.002 * (age - 50.0) + 0.045 * noise["heart"],
    }
    limits = {**LIMITS, **_DRAWN_LIMITS}
    numbers = {name: round(float(np.clip(value, *limits[name])), 4) for name, value in drawn.items()}
    side = "right" if rng.random() < 0.5 else "left"
    table = bool(_stream(patient.seed, 3).random() < _TABLE_SHARE)
    return {**numbers, "side": side, "table": table, "layout_mm": tuple(layout.round(2).ravel().tolist())}


_NOISE = (
    "width", "depth", "head", "kyphosis", "scoliosis", "turn", "nod", "roll", "off_centre", "fat", "belly",
    "muscle", "bone", "degeneration", "lung", "breast", "gas", "heart",
)  # fmt: skip
_DRAWN_LIMITS = {"lung_hu": (-870.0, -700.0), "kyphosis_deg": (-8.0, 36.0), "scoliosis_mm": (-22.0, 22.0)}
"""Limits of drawn values that are narrower than `LIMITS`."""


def draw_layout_mm(seed: int, stature_cm: float | None = None) -> tuple[NDArray[np.float64], float]:
    """Draws a layout.

    The seeds 1 and 2, 3 and 4, ... are symmetric about the mean (antithetic variates), so that the mean of a cohort
    equals that of the reference.

    Args:
        seed: seed of the patient.
        stature_cm: stature of the patient, which shifts the length of the layout according to their correlation.

    Returns:
        The layout ``(14, 2)`` with T1 at the origin and T12 below it, mm, and the tilt of the patient, degrees.
    """
    statistics = landmark_layout()
    mean, covariance = statistics.mean_mm.ravel(), statistics.covariance_mm2
    length = np.zeros(2 * N_LANDMARKS)
    length[2 * landmark("Skull").index + 1], length[2 * landmark("T12").index + 1] = 1.0, -1.0
    length_covariance = covariance @ length
    length_std = math.sqrt(length @ length_covariance)
    rng = _stream((seed + 1) // 2, 2)
    for _ in range(_MAX_DRAWS):
        offset = rng.multivariate_normal(np.zeros_like(mean), covariance, method="eigh", check_valid="ignore")
        offset *= _WIDENING
        if not (_is_plausible(mean + offset) and _is_plausible(mean - offset)):
            continue
        offset = offset if seed % 2 else -offset
        if stature_cm is not None:
            drawn_score = length @ offset / length_std
            stature_score = (stature_cm - _POPULATION_CM[0]) / _POPULATION_CM[1]
            score = _LENGTH_CORRELATION * stature_score + math.sqrt(1 - _LENGTH_CORRELATION**2) * drawn_score
            offset = offset + length_covariance / length_std * (score - drawn_score)
        return upright_mm((mean + offset).reshape(-1, 2))
    raise RuntimeError(f"no plausible layout in {_MAX_DRAWS} draws: data/landmark_layout.json seems to be damaged.")


def _is_plausible(flat: NDArray[np.float64]) -> bool:
    layout, tilt = upright_mm(flat.reshape(-1, 2))

    def at(name: str) -> NDArray[np.float64]:
        return layout[landmark(name).index]

    def distance(first: str, second: str) -> float:
        return float(np.linalg.norm(at(first) - at(second)))

    sides = (("Right", -1.0), ("Left", 1.0))
    return (
        abs(tilt) <= _MAX_TILT_DEG
        and _T1_T12_MM[0] < -at("T12")[1] < _T1_T12_MM[1]
        and _SKULL_T1_MM[0] < at("Skull")[1] < _SKULL_T1_MM[1]
        and _SHOULDERS_MM[0] < distance("Right humeral head", "Left humeral head") < _SHOULDERS_MM[1]
        and all(distance(f"{side} humeral head", f"{side} elbow") < _MAX_UPPER_ARM_MM for side, _ in sides)
        and all(distance(f"{side} elbow", f"{side} wrist") < _MAX_FOREARM_MM for side, _ in sides)
        and all(sign * at(f"{side} elbow")[0] > _MIN_ELBOW_TO_MIDLINE_MM for side, sign in sides)
        and all(at(f"{side} hemidiaphragm")[1] < at("Carina")[1] - 40.0 for side, _ in sides)
    )


def posed_layout_mm(patient: VirtualPatient, skeleton: Any = None) -> NDArray[np.float64]:
    """Returns the frontal positions ``(14, 2)`` of a patient's landmarks: left and cranial, relative to their mean, mm.

    The patient is posed but not voxelised.

    Args:
        patient: the patient.
        skeleton: a `carm_env.anatomy.skeleton.model.Skeleton` to reuse.
    """
    from carm_env.anatomy.organs.thorax import landmark_points, make_thorax
    from carm_env.anatomy.skeleton.body import pose_body
    from carm_env.anatomy.table_pose import make_table_pose
    from carm_env.anatomy.warp import body_warp

    parameters = patient.parameters
    body = pose_body(parameters, skeleton)
    warp = body_warp(body, parameters.warp)
    points = landmark_points(body, make_thorax(body, parameters), None if warp is None else warp.apply)
    table_pose = make_table_pose(body, parameters)
    flat = np.array([table_pose.apply(point)[[0, 2]] for point in points.values()])
    return flat - flat.mean(axis=0)
