"""The part of the page that is about one suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carm_env.evaluation.board import Board
from carm_env.evaluation.replay_page import shown
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.site import figures, tables
from carm_env.evaluation.site.body_map import VIEW, BodyMap, can_map, make_body_map, small_map
from carm_env.evaluation.site.cells import attribute, facts, percent
from carm_env.evaluation.site.charts import Series
from carm_env.evaluation.site.episodes import EpisodeKey, episode_facts, episode_key, script_json
from carm_env.transcripts.read import Transcript

Pages = Mapping[tuple[str, EpisodeKey], tuple[str, Transcript]]
"""Address of the page and transcript of each policy and episode that has one."""
_OUTCOMES = (
    ("ok", "aligned within the tolerance"),
    ("off", "declared outside it"),
    ("out", "not declared, handed back or crashed"),
)


def suite_panel(board: Board, suite: str, number: int, series: Mapping[str, Series], pages: Pages) -> str:
    """Returns everything about a suite.

    Args:
        board: the contents of the leaderboard.
        suite: name of the suite.
        number: number of the panel.
        series: colour of each policy.
        pages: pages of the transcripts.
    """
    names = board.ranking(suite)
    own = {name: sorted((result for result in board.results if (result.policy, result.suite) == (name, suite)),
                        key=lambda result: (result.episode, result.seed)) for name in names}  # fmt: skip
    groups = {name: group for name, group in own.items() if group}
    parts = [
        _head(board, suite),
        f'<div class="card">{tables.leaderboard(board, suite, series)}{_star(board, suite)}</div>',
    ]
    parts.append(_legend(names, series))
    if groups:
        parts.append(_plots(board, suite, groups, series))
        parts.append(_breakdowns(groups, series))
    else:
        parts.append(_plots_of_scores(board, suite, series))
    if differences := tables.pairs(board, suite):
        parts.append(f'<section class="card"><h3>Paired differences</h3>{differences}</section>')
    if groups and can_map(board.suites.get(suite)):
        body_map = make_body_map([result for group in groups.values() for result in group])
        keys = list(dict.fromkeys(episode_key(result) for group in groups.values() for result in group))
        parts.append(_maps(groups, series, body_map, keys))
        parts.append(_stepper(number))
        numbers = {name: series[name].number for name in groups}
        data = script_json(episode_facts(keys, groups, numbers, body_map, pages))
        parts.append(f'<script type="application/json" id="episodes-{number}">{data}</script>')
    return "\n".join(parts)


def _head(board: Board, suite: str) -> str:
    values = [board.scores[name][suite] for name in board.ranking(suite)]
    known = board.suites.get(suite)
    first = values[0]
    description = f"<p>{shown(known.description)}.</p>" if known else ""
    return f"<h2>{shown(suite)}</h2>{description}" + facts(
        [
            ("policies", str(len(values))),
            ("episodes", str(max(value["episodes"] for value in values))),
            ("patients", str(max(value["patients"] for value in values))),
            ("version", shown(first["suite_version"])),
            ("hash of the suite", f"<code>{shown(first['suite_hash'])}</code>"),
        ]
    )


def _star(board: Board, suite: str) -> str:
    if not any(board.scores[name][suite]["privileged"] for name in board.ranking(suite)):
        return ""
    known = {result.policy: ", ".join(result.privileged_info) for result in board.results if result.privileged_info}
    told = f" ({'; '.join(f'{name}: {keys}' for name, keys in known.items())})" if known else ""
    return f'<p class="note">* reads a part of the true state, as only a reference may{shown(told)}.</p>'


def _legend(names: Sequence[str], series: Mapping[str, Series]) -> str:
    buttons = "".join(
        f'<button type="button" class="chip" aria-pressed="true" data-p="{series[name].number}">'
        f"{tables.key_mark(series[name])}{shown(name)}</button>"
        for name in names
    )
    return f'<div class="legend" role="group" aria-label="Policies in the figures">{buttons}</div>'


def _plots(
    board: Board, suite: str, groups: Mapping[str, Sequence[EpisodeResult]], series: Mapping[str, Series]
) -> str:
    scores = {name: board.scores[name][suite] for name in groups}
    drawn = [
        figures.exposure_curves(groups, series),
        figures.dose_curves(groups, series),
        figures.patient_strip(groups, series, scores),
        figures.start_curves(groups, series),
    ]
    return f'<div class="figures">{"".join(drawn)}</div>'


def _plots_of_scores(board: Board, suite: str, series: Mapping[str, Series]) -> str:
    scores = {name: board.scores[name][suite] for name in board.ranking(suite)}
    drawn = [
        figures.score_dots(scores, series, "exposures", "Success and exposures", "mean exposures per episode"),
        figures.score_dots(scores, series, "dose_mgy", "Success and dose", "mean reference air kerma per episode, mGy"),
    ]
    note = (
        '<p class="note">Made from scores without episodes: curves, patients, targets and trajectories need the '
        "episodes.jsonl of the run.</p>"
    )
    return f'<div class="figures">{"".join(drawn)}</div>{note}'


def _breakdowns(groups: Mapping[str, Sequence[EpisodeResult]], series: Mapping[str, Series]) -> str:
    bins = figures.start_bins([result for group in groups.values() for result in group])
    return (
        f'<section class="card"><h3>Success by target</h3>{tables.by_target(groups, series)}</section>'
        f'<details class="card"><summary>Success by patient, as a table</summary>{tables.by_patient(groups, series)}'
        f"</details>"
        f'<details class="card"><summary>Success by start distance, as a table</summary>'
        f"{tables.by_start(bins, groups, series)}</details>"
    )


def _maps(
    groups: Mapping[str, Sequence[EpisodeResult]],
    series: Mapping[str, Series],
    body_map: BodyMap,
    keys: Sequence[EpisodeKey],
) -> str:
    places = {key: place for place, key in enumerate(keys)}
    drawn = []
    for name, group in groups.items():
        solved = sum(result.success for result in group)
        label = f"Trajectories of {name}: {solved} of {len(group)} episodes end within the tolerance."
        paths = [(places[episode_key(result)], result.outcome, body_map.path(result)) for result in group]
        drawn.append(
            f'<figure class="p p{series[name].number}">{small_map(series[name].number, attribute(label), paths)}'
            f"<figcaption>{tables.key_mark(series[name])}{shown(name)} <b>{percent(solved / len(group))}</b>"
            "</figcaption></figure>"
        )
    signs = "".join(
        f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="t {css}" d="M2 5H19"/></svg>{shown(text)}</li>'
        for css, text in _OUTCOMES
    )
    return (
        '<section class="card"><h3>Trajectories</h3><p class="note">Path of the isocentre from its start to the mark '
        "at its end, from the front: the patient’s right is on the left. The body is a mean layout; each "
        f'patient is shifted to fit it.</p><ul class="signs">{signs}</ul>'
        f'<div class="maps">{"".join(drawn)}</div></section>'
    )


def _stepper(number: int) -> str:
    x, y, width, height = VIEW
    return f"""<section class="card stepper" data-episodes="episodes-{number}" hidden>
<h3 id="step-{number}">Step through an episode</h3>
<div class="controls">
<label>Episode <select class="episode"></select></label>
<label>Policy <select class="policy"></select></label>
<span class="buttons"><button type="button" class="back">Back</button>
<button type="button" class="next">Next</button></span>
</div>
<div class="stage">
<svg class="map" viewBox="{x} {y} {width} {height}" role="img" aria-labelledby="step-{number}"><use href="#body"/>
<g class="drawn"></g></svg>
<div class="told"><p class="now" aria-live="polite"></p><blockquote class="words" hidden></blockquote>
<p class="more" hidden><a>X-rays and answers of this episode</a></p>
<div class="scroll" role="region" aria-label="All policies in this episode" tabindex="0"><table class="runs">
<caption>All policies in this episode</caption>
<thead><tr><th scope="col">policy</th><th scope="col">outcome</th><th scope="col" class="n">exposures</th>
<th scope="col" class="n">final mm</th><th scope="col" class="n">dose, mGy</th></tr></thead>
<tbody></tbody></table></div>
</div></div></section>"""
