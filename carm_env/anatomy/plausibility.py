"""Plausibility check of landmarks: units, sides, order, position in the volume, distances compared to the population.

`carm_env.ct.importer` runs it on every landmark file. Any subset of the landmarks can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import CRANIOCAUDAL_ORDER, LANDMARKS, landmark
from carm_env.volume import Volume

Severity = Literal["error", "warning"]

_PAIRS = ((2, 3), (4, 5), (6, 7), (12, 13))
_MIN_EXTENT_MM, _MAX_EXTENT_MM = 30.0, 2500.0
_ORDER_SLACK_MM = 15.0
_MAX_LATERAL_STANDARD_DEVIATIONS = 4.5
_MAX_HEIGHT_STANDARD_DEVIATIONS = 4.0
_MAX_DEPTH_MM = 220.0
_IN_AIR_HU = -900
_INNER = (1, 10, 14, 2, 3, 4, 5, 6, 7, 8, 9)
"""Landmarks in bone or soft tissue; carina and hemidiaphragms border on air."""
_ARMS = (6, 7, 8, 9)
"""Landmarks that depend on the pose of the arms."""
_VARIANCE_FLOOR_MM2 = 64.0


@dataclass(frozen=True)
class Finding:
    """A fault or an unlikely position, with a remedy."""

    severity: Severity
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text} {self.remedy}"


@dataclass(frozen=True)
class Report:
    """The findings of a check."""

    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that make the landmarks unusable."""
        return tuple(item for item in self.findings if item.severity == "error")

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "The landmarks are plausible."


def check_landmarks(points_lps_mm: Mapping[int, NDArray[np.float64]], volume: Volume | None = None) -> Report:
    """Checks landmarks.

    Args:
        points_lps_mm: positions ``(3,)`` by landmark id, LPS mm; any subset of the fourteen.
        volume: CT volume of the landmarks.
    """
    points = {key: np.asarray(point, float) for key, point in points_lps_mm.items()}
    found = [*_check_scale(points), *_check_sides(points), *_check_order(points)]
    if volume is not None:
        found += _check_position(points, volume)
    # In a wrong unit or frame every distance is wrong; further findings would not help.
    if not any(item.severity == "error" for item in found):
        found += [*_check_heights(points), *_check_distances(points)]
    return Report(tuple(found))


def _check_scale(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    if len(points) < 2:
        return []
    extent = float(np.ptp(np.array(list(points.values())), axis=0).max())
    if _MIN_EXTENT_MM <= extent <= _MAX_EXTENT_MM:
        return []
    if extent > _MAX_EXTENT_MM:
        found, unit = f"{extent:.0f} mm, more than a person", "micrometres or pixels"
    else:
        found, unit = f"{extent:.3g} mm, less than a hand", "metres" if extent < 2 else "centimetres or voxels"
    return [Finding("error", f"the landmarks span {found}.", f"Check the unit ({unit}?); expected millimetres.")]


def _check_sides(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    across = {
        (right, left): float(points[left][0] - points[right][0])
        for right, left in _PAIRS
        if right in points and left in points
    }
    swapped = [pair for pair, gap in across.items() if gap < 0]
    if not swapped:
        return []
    names = ", ".join(landmark(pair[0]).name.removeprefix("Right ") for pair in swapped)
    if len(swapped) == len(across):
        reversed_z = " and the head is below the feet" if _is_upside_down(points) else ""
        remedy = "The file may be in RAS instead of LPS, or the patient mirrored: state the coordinate system."
        return [Finding("error", f"right and left are swapped ({names}){reversed_z}.", remedy)]
    return [Finding("error", f"right and left are swapped in {names} but not elsewhere.", "Swap their labels.")]


def _is_upside_down(points: Mapping[int, NDArray[np.float64]]) -> bool:
    known = [key for key in CRANIOCAUDAL_ORDER if key in points]
    return len(known) > 1 and points[known[0]][2] < points[known[-1]][2]


def _check_order(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    layout = landmark_layout().mean_mm
    wrong = []
    known = [key for key in CRANIOCAUDAL_ORDER if key in points]
    for first, upper in enumerate(known):
        for lower in known[first + 1 :]:
            mean_distance = layout[upper - 1, 1] - layout[lower - 1, 1]
            # Hemidiaphragms and scapular angles are so close that either may be higher.
            if mean_distance > 60 and points[upper][2] < points[lower][2] - _ORDER_SLACK_MM:
                wrong.append((upper, lower))
    if not wrong:
        return []
    upper, lower = wrong[0]
    text = f"{landmark(upper).name} is below {landmark(lower).name}"
    if _is_upside_down(points):
        remedy = "Check the direction of z and the orientation of the volume."
        return [Finding("error", f"{text}: the head is below the feet.", remedy)]
    more = f" (and {len(wrong) - 1} more pairs)" if len(wrong) > 1 else ""
    return [Finding("error", f"{text}{more}.", "Check whether two labels are swapped.")]


def _check_position(points: Mapping[int, NDArray[np.float64]], volume: Volume) -> list[Finding]:
    found = []
    low, high = volume.corners_lps_mm
    mirrored = 0
    outside = []
    for key, point in points.items():
        distance = float(np.max(np.maximum(low - point, point - high)))
        if distance > 0:
            outside.append((key, distance))
            flipped = point * [-1, -1, 1]
            mirrored += bool((flipped >= low).all() and (flipped <= high).all())
    for key, distance in outside:
        in_ras = mirrored == len(outside)
        hint = "The file may be in RAS instead of LPS." if in_ras else "Check that it belongs to this CT."
        found.append(Finding("error", f"{landmark(key).name} is {distance:.0f} mm outside the volume.", hint))
    if outside:
        return found
    for key in (key for key in _INNER if key in points):
        nearest = np.rint(volume.index_from_lps(points[key])).astype(int)
        index = np.clip(nearest, 0, np.array(volume.hu.shape) - 1)
        around = tuple(slice(max(i - 3, 0), i + 4) for i in index)
        if (volume.hu[around] < _IN_AIR_HU).all():
            remedy = "Check the coordinate system and the position."
            found.append(Finding("warning", f"{landmark(key).name} is in air.", remedy))
    return found


def _trunk(points: Mapping[int, NDArray[np.float64]]) -> list[int]:
    """Returns the ids of the given landmarks that do not depend on the pose of the forearms."""
    return [item.id for item in LANDMARKS if item.id in points and item.id not in _ARMS]


def _relative(known: list[int], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns weights of the flattened frontal coordinates that give positions relative to the mean of the others.

    Returns:
        Weights ``(2, 2 n)`` for the landmark `known[number]`, and ``(2 n - 2, 2 n)`` for the others.
    """
    count = len(known)
    others = [index for index in range(count) if index != number]
    mean = np.zeros((2, 2 * count))
    for axis in range(2):
        mean[axis, [2 * other + axis for other in others]] = 1.0 / len(others)
    unit = np.eye(2 * count).reshape(count, 2, 2 * count)
    return unit[number] - mean, (unit[others] - mean).reshape(-1, 2 * count)


def _deviations(points: Mapping[int, NDArray[np.float64]], known: list[int]) -> tuple[NDArray, NDArray]:
    """Returns the frontal coordinates minus their means in the population ``(2 n,)`` and their covariance."""
    statistics = landmark_layout()
    rows = [key - 1 for key in known]
    flat = np.array([points[key][[0, 2]] for key in known])
    columns = np.array([[2 * row, 2 * row + 1] for row in rows]).ravel()
    return (flat - statistics.mean_mm[rows]).ravel(), statistics.covariance_mm2[np.ix_(columns, columns)]


def _check_heights(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    """Compares the height of each landmark with the height that the others let expect (conditional Gaussian)."""
    known = _trunk(points)
    if len(known) < 3:
        return []
    deviation, covariance = _deviations(points, known)
    covariance = covariance + _VARIANCE_FLOOR_MM2 * np.eye(len(covariance))
    found: list[tuple[float, str]] = []
    for number, key in enumerate(known):
        own, others = _relative(known, number)
        weights = np.vstack([own[1:], others])
        joint = weights @ covariance @ weights.T
        gain = np.linalg.pinv(joint[1:, 1:], rcond=1e-9, hermitian=True) @ joint[1:, 0]
        values = weights @ deviation
        offset = float(values[0] - gain @ values[1:])
        score = abs(offset) / float(np.sqrt(joint[0, 0] - gain @ joint[1:, 0]))
        if score > _MAX_HEIGHT_STANDARD_DEVIATIONS:
            place = "higher" if offset > 0 else "lower"
            found.append(
                (
                    score,
                    f"{landmark(key).name} is {abs(offset):.0f} mm {place} than the others let expect, {score:.1f} "
                    "standard deviations.",
                )
            )
    # One wrong landmark makes others look wrong: the worst one is named.
    return [Finding("error", max(found)[1], "Check its height, and whether two labels are swapped.")] if found else []


def _check_distances(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    known = _trunk(points)
    if len(known) < 2:
        return []
    deviation, covariance = _deviations(points, known)
    found = []
    # Each landmark relative to the mean of the others, which does not depend on the position of the patient.
    for number, key in enumerate(known):
        across = _relative(known, number)[0][0]
        offset = float(across @ deviation)
        score = abs(offset) / float(np.sqrt(across @ covariance @ across + _VARIANCE_FLOOR_MM2))
        if score > _MAX_LATERAL_STANDARD_DEVIATIONS:
            text = (
                f"{landmark(key).name} is {offset:+.0f} mm (left) from its expected position relative to the others, "
                f"{score:.1f} standard deviations."
            )
            found.append(Finding("warning", text, "Check its position."))
    depth_mm = np.ptp([points[key][1] for key in known])
    if depth_mm > _MAX_DEPTH_MM:
        text = f"the landmarks span {depth_mm:.0f} mm in depth."
        found.append(Finding("warning", text, "Check the order of the axes."))
    return found
