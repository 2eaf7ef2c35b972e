"""Episodes: patient, target and start, drawn at random or read from a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, planar_displacement_mm
from carm_env.landmarks import landmark
from carm_env.patient_outline import PatientGeometry
from carm_env.system.errors import check_keys, shortened

FRONTAL = CArmPose((0.0, 0.0, 0.0))
MAX_DRAWS = 10_000


@dataclass(frozen=True)
class EpisodeSpec:
    """The definition of one episode, as an entry of a manifest.

    Attributes:
        patient: name of the patient (`carm_env.patients.reference`).
        target: id of the target landmark, 1-14.
        start: where the C-arm starts: over a landmark (its id); at ``(x, z)`` in LPS mm, where the central ray meets
            the plane at mid-depth of the body; or with its isocentre at ``(x, y, z)``.

    Raises:
        UnknownNameError: an unknown landmark.
        ValueError: `start` is neither a landmark nor two or three finite numbers.
    """

    patient: str
    target: int
    start: int | tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", landmark(self.target).id)
        object.__setattr__(self, "start", parse_start(self.start))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EpisodeSpec:
        """Returns the episode of a manifest's entry ``{"patient": .., "target": .., "start": ..}``.

        Raises:
            UnknownNameError: an unknown key or landmark.
            ValueError: a missing key, or a start that is neither a landmark nor two or three numbers.
        """
        keys = ("patient", "target", "start")
        if not isinstance(value, Mapping):
            raise ValueError(f"episode is {shortened(value)}, expected a mapping with the keys {', '.join(keys)}.")
        check_keys("episode key", value, keys)
        missing = [key for key in keys if key not in value]
        if missing:
            raise ValueError(f"episode {shortened(dict(value))} lacks {', '.join(missing)}.")
        if not isinstance(value["patient"], str):
            raise ValueError(f"patient is {shortened(value['patient'])}, expected the name of a patient.")
        return cls(value["patient"], landmark(value["target"]).id, parse_start(value["start"]))

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest's entry: the inverse of `from_json`."""
        start = self.start if isinstance(self.start, int) else list(self.start)
        return {"patient": self.patient, "target": self.target, "start": start}


def parse_start(value: Any) -> int | tuple[float, ...]:
    """Returns a start as a landmark id or as two or three finite numbers.

    Raises:
        UnknownNameError: an unknown landmark.
        ValueError: neither a landmark nor two or three finite numbers.
    """
    if isinstance(value, (int, str, np.integer)):
        return landmark(value).id  # type: ignore[arg-type]
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
        raise ValueError(
            f"start is {shortened(value)}, expected a landmark (id or name), or (x, z) or (x, y, z) as finite numbers "
            "in LPS mm."
        )
    return numbers


def start_isocenter_lps_mm(
    start: int | tuple[float, ...],
    patient: PatientGeometry,
    view: CArmPose = FRONTAL,
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM,
) -> NDArray[np.float64]:
    """Returns the isocentre ``(3,)`` at the start of an episode, LPS mm.

    Args:
        start: a start as in `EpisodeSpec`.
        patient: the patient.
        view: angles and projection of the view; its isocentre is ignored.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`). It has no effect on a
            start ``(x, y, z)``, which is the isocentre.

    Raises:
        ValueError: the patient lacks the landmark, or the central ray at the start passes the workspace.
    """
    if isinstance(start, int):
        x, _, z = landmark_lps_mm(patient, start)
        start = (x, z)
    if len(start) == 2:
        # The point of the central ray that lies behind the isocentre by its depth.
        point = np.array([start[0], patient.mid_depth_mm, start[1]])
        isocenter = _shifted(point, view, isocenter_depth_mm)
    else:
        isocenter = np.array(start)
        point = _shifted(isocenter, view, -isocenter_depth_mm)
    low, high = patient.workspace_mm
    first, last = patient.corners_lps_mm
    across = point[[0, 2]]
    if (across < low).any() or (across > high).any() or not first[1] <= point[1] <= last[1]:
        raise ValueError(
            f"start {np.round(point, 1).tolist()} is outside the workspace of {patient.id}: expected x from "
            f"{low[0]:.0f} to {high[0]:.0f}, y from {first[1]:.0f} to {last[1]:.0f} and z from {low[1]:.0f} to "
            f"{high[1]:.0f} (LPS mm)."
        )
    return isocenter


def _shifted(point_lps_mm: NDArray[np.float64], view: CArmPose, towards_source_mm: float) -> NDArray[np.float64]:
    pose = replace(view, isocenter_lps_mm=tuple(point_lps_mm.tolist()))
    return np.array(pose.towards_source(towards_source_mm).isocenter_lps_mm)


def landmark_lps_mm(patient: PatientGeometry, key: int | str) -> NDArray[np.float64]:
    """Returns a landmark ``(3,)`` of a patient, LPS mm.

    Raises:
        UnknownNameError: an unknown landmark.
        ValueError: the patient lacks the landmark.
    """
    item = landmark(key)
    point = patient.landmarks_lps_mm.get(item.id)
    if point is None:
        raise ValueError(
            f"patient {patient.id} has no landmark {item.name!r}. It has: {_names(patient.landmarks_lps_mm)}. Give a "
            "point in mm (LPS) instead."
        )
    return point


def _names(ids: Iterable[int]) -> str:
    return ", ".join(landmark(key).name for key in ids) or "none"


def draw_target(patient: PatientGeometry, rng: np.random.Generator, targets: Sequence[int] | None = None) -> int:
    """Draws a landmark id uniformly from the `targets` (default: all) that the patient has.

    Raises:
        ValueError: the patient has none of them.
    """
    ids = [key for key in patient.landmarks_lps_mm if targets is None or key in targets]
    if not ids:
        wanted = "landmarks" if targets is None else f"landmarks among the targets {_names(targets)}"
        raise ValueError(
            f"patient {patient.id} has no {wanted}, so there is nothing to navigate to. It has: "
            f"{_names(patient.landmarks_lps_mm)}."
        )
    return ids[int(rng.integers(len(ids)))]


def draw_start(
    patient: PatientGeometry, target: int, tolerance_mm: float, rng: np.random.Generator, view: CArmPose = FRONTAL
) -> tuple[float, float]:
    """Draws a start ``(x, z)`` in LPS mm, uniformly from the workspace where the sagittal line meets the body.

    Starts within the tolerance of the target are rejected: such an episode would have nothing to do.

    Args:
        patient: the patient.
        target: id of the target landmark.
        tolerance_mm: the start is farther than this from the target, in the plane across the beam.
        rng: source of the random numbers.
        view: angles and projection of the view; its isocentre is ignored.

    Raises:
        ValueError: no such start was found.
    """
    low, high = patient.workspace_mm
    goal = landmark_lps_mm(patient, target)
    for _ in range(MAX_DRAWS):
        x, z = rng.uniform(low, high).tolist()
        pose = replace(view, isocenter_lps_mm=(x, patient.mid_depth_mm, z))
        if np.hypot(*planar_displacement_mm(pose, goal)) > tolerance_mm and patient.covers(x, z):
            return x, z
    raise ValueError(
        f"patient {patient.id}: no start farther than {tolerance_mm} mm from the target in {MAX_DRAWS} draws."
    )
