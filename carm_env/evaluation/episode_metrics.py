"""Metrics of how episodes went, beyond success: first moves, detours, hand-backs, latency, and success curves.

All are computed from `carm_env.evaluation.results.EpisodeResult`. Results of earlier commits lack some fields; metrics
that need them are None then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.results import EpisodeResult
from carm_env.landmarks import landmark

DISTANCE_BINS_MM = (0.0, 100.0, 200.0, 300.0, 400.0)
"""Lower bounds of the bins of the distance at the start, mm; the last bin has no upper bound."""
_DOSE_STEPS = 20
_ROUNDING = 1e-12


def first_move_error_deg(result: EpisodeResult) -> float | None:
    """Returns the angle between the first move and the direction to the target, 0 to 180 degrees, in the image plane.

    None if the C-arm did not move first, and for results that do not state the displacement at the start.
    """
    if not result.start_displacement_mm:
        return None
    steps = _steps_mm(result)
    goal = np.array(result.start_displacement_mm)
    if len(steps) == 0 or not np.any(steps[0]) or not np.any(goal):
        return None
    # The image shows the patient's left on its right.
    cosine = float(steps[0] @ goal) / float(np.linalg.norm(steps[0]) * np.linalg.norm(goal))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def oscillation(result: EpisodeResult) -> float | None:
    """Returns the share of pairs of consecutive moves whose second move goes back: their scalar product is negative.

    None for fewer than two moves.
    """
    steps = _steps_mm(result)
    steps = steps[np.any(steps != 0, axis=1)]
    if len(steps) < 2:
        return None
    return float(np.mean((steps[:-1] * steps[1:]).sum(1) < 0))


def right_abstention(result: EpisodeResult) -> float | None:
    """Returns 1 if the policy handed back where a declaration would have been wrong, 0 if it would have been right.

    None for episodes that did not end this way.
    """
    if result.outcome != "abstained" or not result.tolerance_mm:
        return None
    return float(result.final_distance_mm > result.tolerance_mm)


def _steps_mm(result: EpisodeResult) -> NDArray[np.float64]:
    """Displacements of the isocentre ``(n, 2)``, to the patient's left and cranially, mm."""
    path = np.array(result.trajectory_lps_mm)
    return np.asarray(np.diff(path[:, [0, 2]], axis=0))


def latency_percentiles_ms(results: Sequence[EpisodeResult]) -> tuple[float | None, float | None]:
    """Returns median and 95th percentile of the time of a decision, ms; None if no result states its decisions."""
    times = [time for result in results for time in result.decision_ms]
    if not times:
        return None, None
    median, high = np.percentile(times, [50, 95])
    return float(median), float(high)


def episode_scores(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Returns the means of this module's metrics over the episodes that have them; None where no episode has one."""
    median, high = latency_percentiles_ms(results)
    return {
        "first_move_error_deg": _mean(results, first_move_error_deg),
        "oscillation": _mean(results, oscillation),
        "limit_hits": _mean(results, lambda one: float(one.limit_hits) if one.tolerance_mm else None),
        "dap_mgy_cm2": _mean(results, lambda one: one.dap_mgy_cm2 if one.tolerance_mm else None),
        "right_abstentions": _mean(results, right_abstention),
        "latency_ms_p50": median,
        "latency_ms_p95": high,
    }


def _mean(results: Sequence[EpisodeResult], metric: Callable[[EpisodeResult], float | None]) -> float | None:
    values = [value for value in map(metric, results) if value is not None]
    return float(np.mean(values)) if values else None


def success_by(results: Sequence[EpisodeResult]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the success by target, by distance at the start and by patient, with intervals clustered by patient.

    Returns:
        ``{"target" | "start_distance_mm" | "patient": {group: fields of carm_env.evaluation.intervals.Estimate}}``.
    """
    ways: Mapping[str, Callable[[EpisodeResult], Any]] = {
        "target": lambda result: result.target,
        "start_distance_mm": lambda result: int(np.searchsorted(DISTANCE_BINS_MM, result.initial_distance_mm, "right")),
        "patient": lambda result: result.patient,
    }
    return {
        name: {
            _group_name(name, key): estimate(
                [float(one.success) for one in results if of(one) == key],
                [one.patient for one in results if of(one) == key],
            )._asdict()
            for key in sorted({of(result) for result in results})
        }
        for name, of in ways.items()
    }


def _group_name(way: str, key: Any) -> str:
    if way == "target":
        return landmark(key).name
    if way == "patient":
        return str(key)
    low = DISTANCE_BINS_MM[key - 1]
    return f"{low:.0f}-{DISTANCE_BINS_MM[key]:.0f}" if key < len(DISTANCE_BINS_MM) else f"from {low:.0f}"


def success_curves(results: Sequence[EpisodeResult]) -> dict[str, list[tuple[float, float]]]:
    """Returns the share of episodes that had succeeded within so many exposures, and within such a dose.

    Returns:
        ``{"exposures": [(exposures, share), ..], "dose_mgy": [(mGy, share), ..]}``: from 1 exposure to the most of any
        episode, and 20 equal steps of dose to the highest of any episode.
    """
    succeeded = np.array([result.success for result in results])

    def curve(used: Sequence[float], limits: Sequence[float]) -> list[tuple[float, float]]:
        values = np.array(used)
        return [(float(limit), float(np.mean(succeeded & (values <= limit + _ROUNDING)))) for limit in limits]

    exposures, doses = [result.exposures for result in results], [result.dose_mgy for result in results]
    return {
        "exposures": curve(exposures, range(1, max(exposures) + 1)),
        "dose_mgy": curve(doses, np.linspace(0.0, max(doses), _DOSE_STEPS + 1)[1:].tolist()),
    }
