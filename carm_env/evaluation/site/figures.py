"""The figures of a suite, drawn from the results of its policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from carm_env.evaluation.replay_page import shown
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.site.cells import known_interval
from carm_env.evaluation.site.charts import BOTTOM, PERCENT, TOP, Axis, Plot, Series, nice_axis

Groups = Mapping[str, Sequence[EpisodeResult]]
"""Results by policy, best policy first."""
N_BINS = 4
_ROW_HEIGHT = 30.0


def success_by(values: Sequence[float], successes: Sequence[bool]) -> list[tuple[float, float]]:
    """Returns the steps of a curve: the share of all episodes that had succeeded at each value, from the first on.

    >>> success_by([1.0, 3.0, 3.0, 2.0], [True, True, False, True])
    [(1.0, 0.25), (2.0, 0.5), (3.0, 0.75)]
    """
    solved = sorted(value for value, success in zip(values, successes, strict=True) if success)
    return [(value, sum(other <= value for other in solved) / len(values)) for value in dict.fromkeys(solved)]


def _stairs(steps: Sequence[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    points, height = [(start, 0.0)], 0.0
    for value, share in steps:
        points += [(value, height), (value, share)]
        height = share
    return [*points, (end, height)]


def _curve(groups: Groups, series: Mapping[str, Series], title: str, axis: str, field: str, unit: str) -> str:
    values = {name: [float(getattr(result, field)) for result in group] for name, group in groups.items()}
    ends = {name: success_by(values[name], [result.success for result in group]) for name, group in groups.items()}
    # Nothing is solved any more further to the right.
    high = max((steps[-1][0] for steps in ends.values() if steps), default=max(map(max, values.values()))) * 1.12
    told = ", ".join(
        f"{name}: {100 * steps[-1][1]:.0f} % within {steps[-1][0]:.3g} {unit}" if steps else f"{name}: none"
        for name, steps in ends.items()
    )
    x = nice_axis(axis, high)
    ticks = [tick for tick in x.ticks if tick[0] <= high]
    plot = Plot(title, f"Share of episodes solved, by policy. {told}.", Axis(x.title, 0.0, high, ticks), PERCENT)
    for name, steps in reversed(ends.items()):
        plot.line(series[name], _stairs(steps, 0.0, high))
    return _figure(title, plot.svg(), "Share of all episodes that had been solved with at most this many; higher and "
                   "further to the left is better.")  # fmt: skip


def exposure_curves(groups: Groups, series: Mapping[str, Series]) -> str:
    """Returns the share of solved episodes against the number of exposures."""
    return _curve(groups, series, "Success against exposures", "exposures, the first one included", "exposures",
                  "exposures")  # fmt: skip


def dose_curves(groups: Groups, series: Mapping[str, Series]) -> str:
    """Returns the share of solved episodes against the dose."""
    return _curve(groups, series, "Success against dose", "reference air kerma, mGy", "dose_mgy", "mGy")


def start_bins(results: Sequence[EpisodeResult]) -> list[tuple[float, float]]:
    """Returns ranges of start distances, mm, with about as many episodes each; fewer if the distances hardly vary."""
    distances = [result.initial_distance_mm for result in results]
    first, last = float(np.floor(min(distances))), float(np.ceil(max(distances))) + 1
    inner = np.unique(np.round(np.quantile(distances, np.linspace(0, 1, N_BINS + 1)[1:-1]), -1))
    edges = [first, *(float(edge) for edge in inner if first < edge < last - 1), last]
    return list(zip(edges, edges[1:], strict=False))


def bin_names(bins: Sequence[tuple[float, float]]) -> list[str]:
    """Returns the ranges in words, without a unit.

    >>> bin_names([(34.0, 120.0), (120.0, 513.0)])
    ['34–120', '120–512']
    """
    last = bins[-1][1]
    return [f"{low:.0f}–{high - (high == last):.0f}" for low, high in bins]


def start_curves(groups: Groups, series: Mapping[str, Series]) -> str:
    """Returns success against the distance of the start from the target."""
    bins = start_bins([result for group in groups.values() for result in group])
    ticks = [(float(place), text) for place, text in enumerate(bin_names(bins))]
    title = "Success by start distance"
    told = []
    lines: list[tuple[str, list[tuple[float, float]]]] = []
    for name, group in groups.items():
        points = []
        for place, (start, end) in enumerate(bins):
            own = [result.success for result in group if start <= result.initial_distance_mm < end]
            if own:
                points.append((float(place), float(np.mean(own))))
        lines.append((name, points))
        told.append(f"{name}: " + ", ".join(f"{100 * share:.0f} %" for _, share in points))
    plot = Plot(
        title,
        f"From near to far. {'; '.join(told)}.",
        Axis("start distance, mm", -0.3, len(bins) - 0.7, ticks),
        PERCENT,
    )
    for name, points in reversed(lines):
        plot.line(series[name], points, marks=True)
    return _figure(title, plot.svg(), "Ranges of distance with about as many episodes each.")


def patient_strip(groups: Groups, series: Mapping[str, Series], scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the success rate on every patient, and the mean with its interval."""
    title = "Success by patient"
    rows = {name: len(groups) - number - 0.5 for number, name in enumerate(groups)}
    plot = Plot(
        title, _told(groups), Axis("success, %", 0.0, 1.0, PERCENT.ticks), Axis("", 0.0, float(len(groups)), []),
        height=TOP + BOTTOM + _ROW_HEIGHT * len(groups), left=16,
    )  # fmt: skip
    for name, group in groups.items():
        row = rows[name]
        rates = _by_patient(group)
        mean = float(np.mean([result.success for result in group]))
        interval = known_interval(scores[name]["success_interval"], len(rates))
        if interval is not None:
            plot.span(series[name], (interval[0], row), (interval[1], row))
        seen: dict[float, int] = {}
        points = []
        for patient, (share, count) in sorted(rates.items(), key=lambda item: item[1]):
            stacked = seen[share] = seen.get(share, -1) + 1
            lift = 0.11 * ((stacked + 1) // 2) * (1 if stacked % 2 else -1)
            points.append((share, row + max(-0.4, min(0.4, lift)), f"{patient}: {100 * share:.0f} % of {count}"))
        plot.dots(series[name], points, 3.2)
        plot.tick(series[name], (mean, row), 9)
        plot.label(series[name], (1.0, row))
    return _figure(title, plot.svg(), "Dots: patients. Line: all episodes, with the 95 % interval.")


def _told(groups: Groups) -> str:
    parts = []
    for name, group in groups.items():
        rates = [share for share, _ in _by_patient(group).values()]
        parts.append(f"{name}: {100 * min(rates):.0f} to {100 * max(rates):.0f} % on {len(rates)} patients")
    return f"{'; '.join(parts)}."


def _by_patient(group: Sequence[EpisodeResult]) -> dict[str, tuple[float, int]]:
    successes: dict[str, list[bool]] = {}
    for result in group:
        successes.setdefault(result.patient, []).append(result.success)
    return {patient: (float(np.mean(own)), len(own)) for patient, own in successes.items()}


def score_dots(
    scores: Mapping[str, Mapping[str, Any]], series: Mapping[str, Series], field: str, title: str, axis: str
) -> str:
    """Returns success against the mean of another score, one point per policy: for scores without results."""
    high = max(float(score[field]) for score in scores.values())
    x = nice_axis(axis, high)
    told = "; ".join(
        f"{name}: {100 * score['success']:.0f} % with {score[field]:.3g}" for name, score in scores.items()
    )
    plot = Plot(title, f"{told}.", x, PERCENT)
    for name, score in scores.items():
        at = (float(score[field]), float(score["success"]))
        interval = known_interval(score["success_interval"], int(score["patients"]))
        if interval is not None:
            plot.span(series[name], (at[0], interval[0]), (at[0], interval[1]))
        plot.dots(series[name], [(*at, f"{name}: {100 * at[1]:.0f} %, {at[0]:.3g}")], 5)
        plot.label(series[name], at)
    return _figure(title, plot.svg(), "Means over all episodes, with the 95 % interval of success. Higher and further "
                   "to the left is better.")  # fmt: skip


def _figure(title: str, drawing: str, caption: str) -> str:
    return f'<figure class="card"><h3>{shown(title)}</h3>{drawing}<figcaption>{shown(caption)}</figcaption></figure>'
