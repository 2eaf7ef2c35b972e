"""How far two annotators disagree, per landmark, over the CTs that both have annotated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carm_env.annotation.records import AnnotationError, AnnotationRecord
from carm_env.landmarks import LANDMARKS, landmark


@dataclass(frozen=True)
class LandmarkDisagreement:
    """The disagreement about one landmark.

    Attributes:
        landmark: id of the landmark.
        distances_mm: by patient, the distance between the two points in 3-D; only where both are placed.
        frontal_mm: by patient, the same in the frontal plane, without the depth.
        only_first: patients in which the first person placed it and the second marked it as NA.
        only_second: the other way round.
    """

    landmark: int
    distances_mm: dict[str, float]
    frontal_mm: dict[str, float]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True)
class Disagreement:
    """The disagreement of two people.

    Attributes:
        first: name of the first person.
        second: name of the second person.
        patients: patients that both have annotated, in order.
        landmarks: one entry for each of the 14 landmarks.
    """

    first: str
    second: str
    patients: tuple[str, ...]
    landmarks: tuple[LandmarkDisagreement, ...]


def disagreement(first: Iterable[AnnotationRecord], second: Iterable[AnnotationRecord]) -> Disagreement:
    """Compares the annotations of two people.

    Args:
        first: annotations of one person.
        second: annotations of another one.

    Raises:
        AnnotationError: they have no CT in common, are of one person, or of two versions of a CT.
    """
    ours, theirs = ({record.patient: record for record in records} for records in (first, second))
    shared = [patient for patient in ours if patient in theirs]
    if not shared:
        raise AnnotationError(
            f"the two annotators have no CT in common: the first has {_names(ours)}, the second {_names(theirs)}."
        )
    pairs = {patient: (ours[patient], theirs[patient]) for patient in shared}
    for patient, (one, other) in pairs.items():
        if one.volume_digest != other.volume_digest:
            raise AnnotationError(
                f"the two annotations of {patient} are of two versions of its CT ({one.volume_digest} and "
                f"{other.volume_digest}), so their points cannot be compared."
            )
    names = {record.annotator for records in (ours, theirs) for record in records.values()}
    one, other = pairs[shared[0]]
    if len(names) == 1:
        raise AnnotationError(f"both annotations are by {one.annotator}, expected two people.")
    found = tuple(_of_landmark(item.id, pairs) for item in LANDMARKS)
    return Disagreement(one.annotator, other.annotator, tuple(shared), found)


def _names(records: dict[str, AnnotationRecord]) -> str:
    return ", ".join(records) or "none"


def _of_landmark(key: int, pairs: dict[str, tuple[AnnotationRecord, AnnotationRecord]]) -> LandmarkDisagreement:
    distances: dict[str, float] = {}
    frontal: dict[str, float] = {}
    only_first: list[str] = []
    only_second: list[str] = []
    for patient, records in pairs.items():
        states = [record.annotations[key].state for record in records]
        if states == ["placed", "placed"]:
            one, other = (np.array(record.annotations[key].point_lps_mm) for record in records)
            distances[patient] = float(np.linalg.norm(one - other))
            frontal[patient] = float(np.linalg.norm((one - other)[[0, 2]]))
        elif states == ["placed", "na"]:
            only_first.append(patient)
        elif states == ["na", "placed"]:
            only_second.append(patient)
    return LandmarkDisagreement(key, distances, frontal, tuple(only_first), tuple(only_second))


def disagreement_json(found: Disagreement) -> dict[str, Any]:
    """Returns the disagreement as JSON, with means, medians and maxima; None where no CT has both points."""
    return {
        "first": found.first,
        "second": found.second,
        "patients": list(found.patients),
        "landmarks": {
            landmark(one.landmark).name: {
                "patients": len(one.distances_mm),
                **{f"{name}_mm": value for name, value in _summary(one.distances_mm).items()},
                **{f"frontal_{name}_mm": value for name, value in _summary(one.frontal_mm).items()},
                "distances_mm": one.distances_mm,
                "frontal_mm": one.frontal_mm,
                "only_first": list(one.only_first),
                "only_second": list(one.only_second),
            }
            for one in found.landmarks
        },
    }


def _summary(values: dict[str, float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(("mean", "median", "max"))
    numbers = np.array(list(values.values()))
    return {"mean": float(numbers.mean()), "median": float(np.median(numbers)), "max": float(numbers.max())}


def disagreement_table(found: Disagreement) -> str:
    """Returns the disagreement as a Markdown table in mm, one row per landmark and one for all."""
    lines = [
        f"{found.first} and {found.second}: {len(found.patients)} CT{'s' * (len(found.patients) != 1)} in common",
        "",
        f"| landmark | CTs | mean mm | median mm | max mm | frontal mean mm | only {found.first} | "
        f"only {found.second} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    everything: dict[str, float] = {}
    everything_frontal: dict[str, float] = {}
    for one in found.landmarks:
        name = landmark(one.landmark).name
        lines.append(_row(name, one.distances_mm, one.frontal_mm, len(one.only_first), len(one.only_second)))
        everything |= {f"{name} {patient}": value for patient, value in one.distances_mm.items()}
        everything_frontal |= {f"{name} {patient}": value for patient, value in one.frontal_mm.items()}
    only_first = sum(len(one.only_first) for one in found.landmarks)
    only_second = sum(len(one.only_second) for one in found.landmarks)
    lines.append(_row("all", everything, everything_frontal, only_first, only_second))
    return "\n".join(lines)


def _row(name: str, distances: dict[str, float], frontal: dict[str, float], first: int, second: int) -> str:
    numbers = [*_summary(distances).values(), _summary(frontal)["mean"]]
    cells = ["-" if number is None else f"{number:.1f}" for number in numbers]
    return f"| {name} | {len(distances)} | {' | '.join(cells)} | {first} | {second} |"
