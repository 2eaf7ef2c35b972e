"""Trajectories on a map of the body, computed from results alone.

Results hold the isocentres of an episode and the distances to the target at its start and its end, but no landmarks.
A patient is placed on the mean layout of annotated people by the shift that explains these distances best, and each
target then moves to where its own distances meet. No patient is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.layout import landmark_layout
from carm_env.evaluation.replay_page import shown
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import LANDMARKS

_PRIOR_STD_MM = 40.0
"""How far a target lies from its place in the mean layout."""
_DISTANCE_STD_MM = 2.0
VIEW = (-330, -420, 660, 850)
"""View box: x to the patient's left, y caudal, mm."""
_SIGNS = {"success": "ok", "misaligned": "off", "abstained": "out", "timeout": "out", "crash": "out"}
_BODY = (
    # As in the layout, the arms are crossed over the abdomen.
    '<path class="edge" d="M-146-122L-180 128M146-122L178 122"/>'
    '<path class="limb" d="M-146-122L-180 128M146-122L178 122"/>'
    '<path class="torso" d="M-38-190C-42-164-64-156-100-148C-150-138-166-112-160-70C-150-10-142 40-134 130'
    "C-132 210-150 260-154 330L-152 440H152L154 330C150 260 132 210 134 130C142 40 150-10 160-70"
    'C166-112 150-138 100-148C64-156 42-164 38-190Z"/><ellipse class="head" cx="2" cy="-284" rx="78" ry="104"/>'
    '<path class="edge" d="M-180 128L62 88M178 122L-58 76"/><path class="limb" d="M-180 128L62 88M178 122L-58 76"/>'
)


@dataclass(frozen=True)
class BodyMap:
    """Where results lie on the map.

    Attributes:
        shifts: position of the map's origin for each build of a patient, ``(x, z)`` in LPS mm.
        targets: position of each target on the map, ``(x, z)`` in mm, by build of the patient and landmark.
    """

    shifts: Mapping[str, tuple[float, float]]
    targets: Mapping[tuple[str, int], tuple[float, float]]

    def path(self, result: EpisodeResult) -> list[tuple[int, int]]:
        """Returns the isocentres of an episode on the map, y caudal, mm."""
        x, z = self.shifts[result.patient_fingerprint]
        return [(round(point[0] - x), round(z - point[2])) for point in result.trajectory_lps_mm]

    def target(self, result: EpisodeResult) -> tuple[int, int]:
        """Returns the target of an episode on the map, y caudal, mm."""
        x, z = self.targets[result.patient_fingerprint, result.target]
        return round(x), round(-z)


def can_map(suite: Suite | None) -> bool:
    """Returns whether the views of a suite are frontal; only then distances lie in the plane of the map."""
    return suite is None or not any(suite.environment.get(name) for name in ("alpha_deg", "beta_deg"))


def make_body_map(results: Sequence[EpisodeResult]) -> BodyMap:
    """Places patients and targets on the map."""
    shifts: dict[str, tuple[float, float]] = {}
    targets: dict[tuple[str, int], tuple[float, float]] = {}
    by_patient: dict[str, list[EpisodeResult]] = {}
    for result in results:
        by_patient.setdefault(result.patient_fingerprint, []).append(result)
    for fingerprint, group in by_patient.items():
        centres, distances, rows = _circles(group)
        shift = _fitted_shift(centres, distances, rows)
        shifts[fingerprint] = (float(shift[0]), float(shift[1]))
        for row in np.unique(rows):
            own = rows == row
            x, z = _fitted_target(centres[own] - shift, distances[own], _layout_mm()[row])
            targets[fingerprint, int(row) + 1] = (x, z)
    return BodyMap(shifts, targets)


def _layout_mm() -> NDArray[np.float64]:
    return landmark_layout().mean_mm


def _circles(
    results: Sequence[EpisodeResult],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Returns isocentres ``(n, 2)``, their distances to the target ``(n,)``, and the target's row in the layout."""
    seen: dict[tuple[float, float, int], float] = {}
    for result in results:
        ends = ((result.trajectory_lps_mm[0], result.initial_distance_mm),
                (result.trajectory_lps_mm[-1], result.final_distance_mm))  # fmt: skip
        for point, distance in ends:
            seen[round(point[0], 1), round(point[2], 1), result.target - 1] = distance
    keys = np.array(list(seen), dtype=float)
    return keys[:, :2], np.array(list(seen.values())), keys[:, 2].astype(int)


def _fitted_shift(
    centres: NDArray[np.float64], distances: NDArray[np.float64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    from scipy.optimize import least_squares

    layout = _layout_mm()[rows]

    def misfit(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.hypot(*(centres - layout - shift).T) - distances

    nearest = int(np.argmin(distances))
    return np.asarray(least_squares(misfit, centres[nearest] - layout[nearest], loss="soft_l1", f_scale=20.0).x)


def _fitted_target(
    centres: NDArray[np.float64], distances: NDArray[np.float64], expected: NDArray[np.float64]
) -> tuple[float, float]:
    from scipy.optimize import least_squares

    def misfit(point: NDArray[np.float64]) -> NDArray[np.float64]:
        from_circles = (np.hypot(*(centres - point).T) - distances) / _DISTANCE_STD_MM
        return np.concatenate([from_circles, (point - expected) / _PRIOR_STD_MM])

    # Two circles meet in two points: the search begins at either end.
    starts = (expected, centres[int(np.argmin(distances))] + 1e-3)
    best = min((least_squares(misfit, start) for start in starts), key=lambda found: found.cost)
    return float(best.x[0]), float(best.x[1])


def definitions() -> str:
    """Returns the body, the landmarks and the marks of all maps, which each map refers to."""
    points = "".join(
        f'<circle cx="{x:.0f}" cy="{-z:.0f}" r="7"><title>{shown(item.name)}</title></circle>'
        for item, (x, z) in zip(LANDMARKS, _layout_mm(), strict=True)
    )
    return (
        '<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>'
        f'<g id="body">{_BODY}<g class="points">{points}</g></g>'
        '<marker id="end-ok" viewBox="-4 -4 8 8" markerWidth="4.5" markerHeight="4.5"><circle r="3.4"/></marker>'
        '<marker id="end-off" viewBox="-4 -4 8 8" markerWidth="5" markerHeight="5">'
        '<path d="M-3-3L3 3M-3 3L3-3"/></marker>'
        '<marker id="end-out" viewBox="-4 -4 8 8" markerWidth="4.5" markerHeight="4.5">'
        '<path d="M-3-3H3V3H-3Z"/></marker></defs></svg>'
    )


def small_map(policy: int, label: str, paths: Sequence[tuple[int, str, Sequence[tuple[int, int]]]]) -> str:
    """Returns a map with the trajectories of one policy.

    Args:
        policy: number of the policy.
        label: what the map shows, as text for an attribute.
        paths: for each episode its number, its outcome and its isocentres on the map.
    """
    by_sign: dict[str, list[str]] = {"out": [], "off": [], "ok": []}
    for episode, outcome, points in paths:
        by_sign[_SIGNS[outcome]].append(f'<path data-e="{episode}" d="{_way(points)}"/>')
    drawn = [f'<g class="t {sign}">{"".join(ways)}</g>' for sign, ways in by_sign.items() if ways]
    x, y, width, height = VIEW
    return (
        f'<svg class="map" data-p="{policy}" viewBox="{x} {y} {width} {height}" role="img" aria-label="{label}">'
        f'<use href="#body"/>{"".join(drawn)}</svg>'
    )


def _way(points: Sequence[tuple[int, int]]) -> str:
    """Returns a path with one relative step per move, also for a move that the limits undo."""
    (x, y), *_ = points
    steps = [f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in zip(points, points[1:], strict=False)]
    return f"M{x} {y}" + (f"l{' '.join(steps)}" if steps else "h0")
