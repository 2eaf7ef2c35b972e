"""Whether landmarks can be those of a person: sides, order, units, frame, and distances against the population.

`carm_env.ct.importer` runs it on every landmark file. It needs only the points that are there.
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
_LEAST_APART_MM = 60.0
_SMALLEST_MM, _LARGEST_MM = 30.0, 2500.0
_ORDER_SLACK_MM = 15.0
_FRONTAL_STANDARD_DEVIATIONS = 4.5
_DEPTH_MM = 220.0
_IN_AIR_HU = -900
_INNER = (1, 10, 14, 2, 3, 4, 5, 6, 7, 8, 9)
"""Landmarks in bone or soft tissue; carina and domes border on air."""
_ARMS = (6, 7, 8, 9)
"""Where these are depends on how the arms are held."""
_VARIANCE_FLOOR_MM2 = 64.0


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or unlikely, and what to do."""

    severity: Severity
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text} {self.remedy}"


@dataclass(frozen=True)
class Report:
    """What the check found."""

    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make the landmarks unusable."""
        return tuple(item for item in self.findings if item.severity == "error")

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "the landmarks are plausible"


def check_landmarks(points_lps_mm: Mapping[int, NDArray[np.float64]], volume: Volume | None = None) -> Report:
    """Check the landmarks that are there.

    Args:
        points_lps_mm: from landmark id to ``(3,)``, LPS mm; any subset of the fourteen.
        volume: the CT that they belong to.
    """
    points = {key: np.asarray(point, float) for key, point in points_lps_mm.items()}
    found = [*_scale(points), *_sides(points), *_order(points)]
    if volume is not None:
        found += _place(points, volume)
    # Of landmarks in another unit or frame every distance is wrong: saying so again helps nobody.
    if not any(item.severity == "error" for item in found):
        found += _distances(points)
    return Report(tuple(found))


def _scale(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    if len(points) < 2:
        return []
    extent = float(np.ptp(np.array(list(points.values())), axis=0).max())
    if extent > _LARGEST_MM:
        return [
            Finding(
                "error",
                f"the landmarks span {extent:.0f} mm, more than a person.",
                "Are they in micrometres or pixels? Give millimetres.",
            )
        ]
    if extent >= _SMALLEST_MM:
        return []
    unit = "metres" if extent < 2 else "centimetres or voxels"
    return [
        Finding(
            "error",
            f"the landmarks span {extent:.3g} mm, less than a hand.",
            f"They seem to be in {unit}: give millimetres.",
        )
    ]


def _sides(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
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
        upside = _upside_down(points)
        text = f"right and left are swapped ({names})" + (" and the head lies below the feet." if upside else ".")
        return [
            Finding(
                "error",
                text,
                "The file may be in RAS and not in LPS, or the patient mirrored: state the coordinate system.",
            )
        ]
    return [Finding("error", f"right and left are swapped in {names} but not elsewhere.", "Exchange their labels.")]


def _upside_down(points: Mapping[int, NDArray[np.float64]]) -> bool:
    known = [key for key in CRANIOCAUDAL_ORDER if key in points]
    return len(known) > 1 and points[known[0]][2] < points[known[-1]][2]


def _order(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    layout = landmark_layout().mean_mm
    wrong = []
    known = [key for key in CRANIOCAUDAL_ORDER if key in points]
    for first, upper in enumerate(known):
        for lower in known[first + 1 :]:
            usual = layout[upper - 1, 1] - layout[lower - 1, 1]
            # Domes and scapular angles lie so close that either may be higher.
            if usual > 60 and points[upper][2] < points[lower][2] - _ORDER_SLACK_MM:
                wrong.append((upper, lower))
    if not wrong:
        return []
    upper, lower = wrong[0]
    text = f"{landmark(upper).name} lies below {landmark(lower).name}"
    if _upside_down(points):
        return [
            Finding(
                "error", f"{text}: the head is below the feet.", "Is z counted downwards, or the volume upside down?"
            )
        ]
    more = f" (and {len(wrong) - 1} more such pairs)" if len(wrong) > 1 else ""
    return [Finding("error", f"{text}{more}.", "Are two labels exchanged?")]


def _place(points: Mapping[int, NDArray[np.float64]], volume: Volume) -> list[Finding]:
    found = []
    low, high = volume.corners_lps_mm
    mirrored = 0
    outside = []
    for key, point in points.items():
        away = float(np.max(np.maximum(low - point, point - high)))
        if away > 0:
            outside.append((key, away))
            flipped = point * [-1, -1, 1]
            mirrored += bool((flipped >= low).all() and (flipped <= high).all())
    for key, away in outside:
        hint = "The file may be in RAS and not in LPS." if mirrored == len(outside) else "Does it belong to this CT?"
        found.append(Finding("error", f"{landmark(key).name} lies {away:.0f} mm outside the volume.", hint))
    if not outside:
        for key in _INNER:
            if key in points:
                index = np.clip(
                    np.rint(volume.index_from_lps(points[key])).astype(int), 0, np.array(volume.hu.shape) - 1
                )
                around = tuple(slice(max(i - 3, 0), i + 4) for i in index)
                if (volume.hu[around] < _IN_AIR_HU).all():
                    found.append(
                        Finding(
                            "warning",
                            f"{landmark(key).name} lies in air.",
                            "Is it in another frame, or outside the body?",
                        )
                    )
    return found


def _distances(points: Mapping[int, NDArray[np.float64]]) -> list[Finding]:
    known = [item.id for item in LANDMARKS if item.id in points and item.id not in _ARMS]
    if len(known) < 2:
        return []
    statistics = landmark_layout()
    flat = np.array([points[key][[0, 2]] for key in known])
    found = []
    rows = [key - 1 for key in known]
    mean = statistics.mean_mm[rows]
    columns = np.array([[2 * row, 2 * row + 1] for row in rows]).ravel()
    covariance = statistics.covariance_mm2[np.ix_(columns, columns)]
    # Each landmark against the mean of the others: independent of where the patient lies.
    for number, key in enumerate(known):
        others = [index for index in range(len(known)) if index != number]
        share = np.zeros((2, len(columns)))
        for axis in range(2):
            share[axis, 2 * number + axis] = 1.0
            for other in others:
                share[axis, 2 * other + axis] = -1.0 / len(others)
        offset = flat[number] - flat[others].mean(0) - (mean[number] - mean[others].mean(0))
        spread = np.sqrt(np.diag(share @ covariance @ share.T) + _VARIANCE_FLOOR_MM2)
        worst = float(np.abs(offset / spread).max())
        if worst > _FRONTAL_STANDARD_DEVIATIONS:
            left, cranial = offset
            found.append(
                Finding(
                    "warning",
                    f"{landmark(key).name} lies {left:+.0f} mm (left) and {cranial:+.0f} mm (cranial) from "
                    "where the others "
                    f"would have it, {worst:.1f} standard deviations.",
                    "Look at it again.",
                )
            )
    depth = np.array([points[key][1] for key in known])
    if np.ptp(depth) > _DEPTH_MM:
        found.append(
            Finding("warning", f"the landmarks lie {np.ptp(depth):.0f} mm apart in depth.", "Are axes exchanged?")
        )
    return found
