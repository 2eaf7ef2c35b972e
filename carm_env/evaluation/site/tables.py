"""The tables of a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carm_env.evaluation.board import Board
from carm_env.evaluation.replay_page import shown
from carm_env.evaluation.report import tie_letters
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.site.cells import (
    NO_VALUE,
    Cell,
    Column,
    interval_text,
    known_interval,
    percent,
    scrolling,
    table,
)
from carm_env.evaluation.site.charts import Series
from carm_env.evaluation.site.figures import bin_names
from carm_env.landmarks import HEAD_TO_FOOT, landmark

_BAR_WIDTH, _BAR_HEIGHT = 96, 16
_TIE_GROUP = "policies with a common letter cannot be told apart, after the correction for the number of pairs"
_HEATS = 10


def key_mark(series: Series) -> str:
    """Returns the coloured mark of a policy."""
    return f'<i class="key {series.css}" aria-hidden="true"></i>'


def policy_cell(board: Board, suite: str, name: str, series: Series) -> Cell:
    """Returns the name of a policy with its mark, and ``*`` if it reads the true state."""
    star = "*" if board.scores[name][suite]["privileged"] else ""
    return Cell(f"{key_mark(series)}{shown(name)}{star}", css="policy")


def leaderboard(board: Board, suite: str, series: Mapping[str, Series]) -> str:
    """Returns the table of scores on a suite."""
    names = board.ranking(suite)
    found = [board.scores[name][suite] for name in names]
    whole = len(board.suites[suite].episodes) if suite in board.suites else max(value["episodes"] for value in found)
    is_part = any(value["episodes"] != whole for value in found)
    letters = tie_letters(board.scores, board.pairs).get(suite, {})
    columns = [
        Column("policy", False),
        Column("success", explanation='share of the episodes in which "aligned" was declared within the tolerance'),
        Column("95 % interval", False, "clustered by patient; none for fewer than five patients"),
        *([Column("tie group", False, _TIE_GROUP)] if letters else []),
        Column("final mm (median)", explanation="distance from the target at the end: mean and median"),
        Column("exposures", explanation="X-rays per episode, the first one included"),
        Column("dose, mGy", explanation="reference air kerma per episode"),
        Column("path efficiency", explanation="initial distance over the length of the path; 0 for a failure"),
        *_optional_columns(found),
        Column("ms / decision", explanation="time of a decision, without rendering"),
        *([Column("episodes")] if is_part else []),
    ]
    rows = [
        [
            policy_cell(board, suite, name, series[name]),
            Cell(percent(value["success"]), value["success"], "strong"),
            _interval_cell(value, series[name]),
            *([Cell(letters.get(name, NO_VALUE))] if letters else []),
            Cell(
                f"{value['final_distance_mm']:.0f} <small>({value['final_distance_mm_median']:.0f})</small>",
                value["final_distance_mm"],
            ),
            _number(value["exposures"], 1),
            _number(value["dose_mgy"], 2),
            _number(value["path_efficiency"], 2),
            *_optional_cells(value, found),
            _number(value["latency_ms"], 1),
            *([Cell(_episodes(value["episodes"], whole), value["episodes"])] if is_part else []),
        ]
        for name, value in zip(names, found, strict=True)
    ]
    return table(f"Leaderboard on <b>{shown(suite)}</b>, best policy first", columns, rows, sorted_by=1)


def _episodes(count: int, whole: int) -> str:
    return str(count) if count == whole else f'<span class="part">{count} of {whole}</span>'


def _number(value: float, decimals: int) -> Cell:
    return Cell(f"{value:.{decimals}f}", value)


def _interval_cell(value: Mapping[str, Any], series: Series) -> Cell:
    text = interval_text(value["success_interval"], value["patients"])
    interval = known_interval(value["success_interval"], value["patients"])
    at = _across(value["success"])
    bar = ""
    if interval is not None:
        bar = f'<path class="span" d="M{_across(interval[0])} 8H{_across(interval[1])}"/>'
    return Cell(
        f'<span class="range"><svg class="bar {series.css}" viewBox="0 0 {_BAR_WIDTH} {_BAR_HEIGHT}" '
        'aria-hidden="true">'
        f'<path class="grid" d="M2 8H{_BAR_WIDTH - 2}"/>{bar}<circle class="dot" cx="{at}" cy="8" r="4.5"/></svg>'
        f"<span>{text}</span></span>",
        -1.0 if interval is None else interval[0],
    )


def _across(share: float) -> str:
    return f"{6 + share * (_BAR_WIDTH - 12):.1f}".rstrip("0").rstrip(".")


_OPTIONAL: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    ("strict", "strict", "share of the answers in the exact form", lambda value: value["in_words"]),
    ("lenient_answers", "lenient", "share of the answers that could be read in another form",
     lambda value: value["lenient_answers"] > 0),
    ("invalid_answers", "unreadable", "share of the answers that could not be read",
     lambda value: value["invalid_answers"] > 0),
    ("abstained", "abstained", "share of the episodes in which the policy handed the C-arm back",
     lambda value: value["abstained"] > 0),
    ("timeouts", "timeouts", "share of the episodes without a declaration", lambda value: value["timeouts"] > 0),
    ("crashes", "crashes", "share of the episodes in which the policy crashed", lambda value: value["crashes"] > 0),
)  # fmt: skip
"""Columns that are left out if no policy has a value."""


def _optional_columns(found: Sequence[Mapping[str, Any]]) -> list[Column]:
    return [Column(title, True, text) for _, title, text, has in _OPTIONAL if any(map(has, found))]


def _optional_cells(value: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> list[Cell]:
    cells = []
    in_words = value["in_words"] or value["invalid_answers"] > 0
    for field, _, _, has in _OPTIONAL:
        if not any(map(has, found)):
            continue
        share = 1 - value["lenient_answers"] - value["invalid_answers"] if field == "strict" else value[field]
        is_answer = field in ("strict", "lenient_answers", "invalid_answers")
        cells.append(Cell(NO_VALUE, -1.0) if is_answer and not in_words else Cell(percent(share), share))
    return cells


def by_target(groups: Mapping[str, Sequence[EpisodeResult]], series: Mapping[str, Series]) -> str:
    """Returns the success of each policy at each target."""
    present = {result.target for group in groups.values() for result in group}
    rows = [(landmark(key).name, key) for key in HEAD_TO_FOOT if key in present]
    return _heat_table("Success by target", "target", rows, groups, series, lambda result: result.target)


def by_patient(groups: Mapping[str, Sequence[EpisodeResult]], series: Mapping[str, Series]) -> str:
    """Returns the success of each policy on each patient."""
    patients = sorted({result.patient for group in groups.values() for result in group})
    rows = [(name, name) for name in patients]
    return _heat_table("Success by patient", "patient", rows, groups, series, lambda result: result.patient)


def by_start(
    bins: Sequence[tuple[float, float]],
    groups: Mapping[str, Sequence[EpisodeResult]],
    series: Mapping[str, Series],
) -> str:
    """Returns the success of each policy by the distance of the start from the target."""

    def place(result: EpisodeResult) -> object:
        return next((low for low, high in bins if low <= result.initial_distance_mm < high), None)

    rows = [(f"{name} mm", low) for name, (low, _) in zip(bin_names(bins), bins, strict=True)]
    return _heat_table("Success by start distance", "start", rows, groups, series, place)


def _heat_table(
    title: str,
    first: str,
    rows: Sequence[tuple[str, object]],
    groups: Mapping[str, Sequence[EpisodeResult]],
    series: Mapping[str, Series],
    place: Callable[[EpisodeResult], object],
) -> str:
    counts: dict[tuple[str, object], list[bool]] = {}
    for policy, group in groups.items():
        for result in group:
            counts.setdefault((policy, place(result)), []).append(result.success)
    body = [
        [Cell(shown(name)), *(_heat_cell(counts.get((policy, key), [])) for policy in groups)] for name, key in rows
    ]
    columns = [Column(first, False), *(Column(policy) for policy in groups)]
    return table(f"{title}: share of the episodes, and number of successes of episodes", columns, body)


def _heat_cell(successes: Sequence[bool]) -> Cell:
    if not successes:
        return Cell(NO_VALUE, -1.0)
    share = sum(successes) / len(successes)
    return Cell(
        f"{percent(share)} <small>{sum(successes)}/{len(successes)}</small>", share, f"heat h{round(share * _HEATS)}"
    )


def pairs(board: Board, suite: str) -> str:
    """Returns the paired differences on a suite as a matrix; empty if there are none."""
    found = {(pair["first"], pair["second"]): pair for pair in board.pairs if pair["suite"] == suite}
    names = [name for name in board.ranking(suite) if any(name in key for key in found)]
    if not found:
        return ""
    body = "".join(
        f'<tr><th scope="row" class="policy">{shown(row)}</th>'
        + "".join(_pair_cell(board, suite, found, row, column) for column in names[1:])
        + "</tr>"
        for row in names[:-1]
    )
    heads = "".join(f'<th scope="col" class="n">− {shown(name)}</th>' for name in names[1:])
    caption = (
        "Success of the row minus the column on the same episodes, points, with the 95 % interval and the p value, "
        "which is corrected for the number of pairs (Holm)"
    )
    return scrolling(
        f"<table><caption><span>{caption}</span></caption><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>",
        caption,
    )


def _pair_cell(
    board: Board, suite: str, found: Mapping[tuple[str, str], Mapping[str, Any]], row: str, column: str
) -> str:
    order = board.ranking(suite)
    if order.index(row) >= order.index(column) or not {(row, column), (column, row)} & set(found):
        return "<td></td>"
    pair, sign = (found[row, column], 1) if (row, column) in found else (found[column, row], -1)
    patients = pair.get("patients", board.scores[row][suite]["patients"])
    interval = known_interval(pair["interval"], patients)
    bounds = None if interval is None else sorted(100 * sign * bound for bound in interval)
    text = "" if bounds is None else f"<br><small>{_signed(bounds[0])} to {_signed(bounds[1])}</small>"
    is_tie = pair["better"] is None if "better" in pair else bounds is not None and bounds[0] <= 0 <= bounds[1]
    difference = 100 * sign * pair["success_difference"]
    if bounds is not None and pair.get("p_holm") is not None:
        text += f"<br><small>{_p_text(pair['p_holm'])}</small>"
    # Without an interval nothing is known, not even a tie.
    mark = '<br><span class="tie">tie</span>' if is_tie and bounds is not None else ""
    return f'<td class="n{"" if is_tie or bounds is None else " better"}"><b>{_signed(difference)}</b>{text}{mark}</td>'


def _p_text(p_value: float) -> str:
    """Returns a p value in words of the page.

    >>> _p_text(0.0004), _p_text(0.0412)
    ('p &lt; 0.001', 'p = 0.041')
    """
    return "p &lt; 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _signed(points: float) -> str:
    """Returns percentage points with their sign.

    >>> _signed(4.6), _signed(-2.0), _signed(-0.2)
    ('+5', '−2', '0')
    """
    return f"{round(points):+d}".replace("-", "−") if round(points) else "0"
