"""Writes the leaderboard as a static web page.

The page is one file: its style, its script, its plots and its episodes are inside it, and it asks for nothing else. A
content security policy lets only the script of this package run, whatever a name of a policy contains. With
transcripts, each episode also gets the page of ``carm-env replay``, which shows its X-rays and what was said.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from carm_env.evaluation.board import Board
from carm_env.evaluation.intervals import MIN_PATIENTS
from carm_env.evaluation.replay import save_replay
from carm_env.evaluation.replay_page import EPISODE_PAGE, shown
from carm_env.evaluation.site.body_map import definitions
from carm_env.evaluation.site.cells import NO_VALUE, Cell, Column, facts, paragraphs, table
from carm_env.evaluation.site.charts import Series
from carm_env.evaluation.site.episodes import EpisodeKey, common_facts, script_json
from carm_env.evaluation.site.panel import Pages, suite_panel
from carm_env.evaluation.site.parts import PrintedTable, SiteParts
from carm_env.system.files import write_text
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.transcripts.records import TranscriptError

PAGE = "index.html"
EPISODES = "episodes"
"""Folder of the pages of transcripts."""
_MARK = '<meta name="generator" content="carm-env leaderboard">'
_FOLDER = Path(__file__).parent
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_SHOWN = 40


@dataclass(frozen=True)
class Site:
    """What was written.

    Attributes:
        page: the page to open.
        problems: a sentence for each transcript, or part of one, that could not be shown.
    """

    page: Path
    problems: tuple[str, ...]


def check_site_folder(folder: Path) -> None:
    """Raises ValueError if the page would replace a file of someone else, or the folder is a file."""
    page = folder / PAGE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--html is {folder}, which is a file, expected a folder.")
    if page.exists() and _MARK not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise ValueError(f"--html: {page} exists and is not a page of this command, expected another folder.")


def write_site(folder: Path, board: Board, parts: SiteParts, transcripts: Path | None = None) -> Site:
    """Writes the page, and pages of transcripts.

    Args:
        folder: folder for the pages.
        board: the contents of the leaderboard.
        parts: model cards and printed figures.
        transcripts: folder of transcripts of the episodes.

    Raises:
        ValueError: the page would replace a file of someone else.
        TranscriptError: there is no transcript, or none can be read.
    """
    check_site_folder(folder)
    pages: Pages = {}
    problems: tuple[str, ...] = ()
    if transcripts is not None:
        problems = save_replay(transcripts, folder / EPISODES, gif=False).problems
        pages = _transcript_pages(transcripts)
    write_text(folder / PAGE, leaderboard_site(board, parts, pages))
    return Site(folder / PAGE, problems)


def _transcript_pages(transcripts: Path) -> Pages:
    pages = {}
    found = find_transcripts(transcripts)
    for path in found:
        try:
            transcript = read_transcript(path)
        except TranscriptError:
            continue  # It is among the problems of the replay.
        start = transcript.start
        key: EpisodeKey = (start.suite_hash, start.episode, start.seed or 0, start.patient)
        address = (
            f"{EPISODES}/{EPISODE_PAGE}" if found == [transcripts] else f"{EPISODES}/{quote(path.name)}/{EPISODE_PAGE}"
        )
        pages[start.policy, key] = (address, transcript)
    return pages


def leaderboard_site(board: Board, parts: SiteParts, pages: Pages | None = None) -> str:
    """Returns the page.

    Args:
        board: the contents of the leaderboard.
        parts: model cards and printed figures.
        pages: pages of the transcripts.
    """
    suites = board.suite_names
    order = dict.fromkeys(name for suite in suites for name in board.ranking(suite))
    series = {name: Series(number, name) for number, name in enumerate(order)}
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Template((_FOLDER / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        script_hash=digest,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        common=script_json(common_facts()),
        definitions=definitions() if board.results else "",
        summary=_summary(board),
        problems=_problems(board),
        tabs=_tabs(suites),
        panels="\n".join(
            f'<section class="panel" id="suite-{number}" aria-labelledby="tab-{number}" tabindex="-1">'
            f"{suite_panel(board, suite, number, series, pages or {})}</section>"
            for number, suite in enumerate(suites)
        ),
        printed=_printed(parts),
        policies=_policies(board, parts, list(order)),
        reading=_reading(board),
        provenance=_provenance(board),
    )


def _summary(board: Board) -> str:
    policies = len(board.scores)
    episodes = sum(score["episodes"] for suites in board.scores.values() for score in suites.values())
    dates = sorted({str(run.get("date", ""))[:10] for run in board.runs} - {""})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else NO_VALUE
    return facts(
        [
            ("policies", str(policies)),
            ("suites", str(len(board.suite_names))),
            ("episodes run", f"{episodes:,}"),
            ("measured", shown(when)),
        ]
    )


def _problems(board: Board) -> str:
    parts = []
    if board.skipped:
        parts.append(f"<h2>Left out of every score</h2>{_listed(board.skipped)}")
    if board.notes:
        parts.append(
            f"<details><summary>Incomplete or not checked: {len(board.notes)}</summary>{_listed(board.notes)}</details>"
        )
    return f'<section class="card warning">{"".join(parts)}</section>' if parts else ""


def _listed(sentences: Sequence[str]) -> str:
    more = len(sentences) - _SHOWN
    return paragraphs([*sentences[:_SHOWN], *([f"{more} more."] if more > 0 else [])])


def _tabs(suites: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{number}" aria-controls="suite-{number}" '
        f'aria-selected="{"false" if number else "true"}" tabindex="{-1 if number else 0}">{shown(suite)}</button>'
        for number, suite in enumerate(suites)
    )
    return f'<div class="tabs" role="tablist" aria-label="Suites">{buttons}</div>'


def _printed(parts: SiteParts) -> str:
    if not parts.printed:
        return ""
    notes = "".join(f'<p class="note">{shown(found.note)}</p>' for found in parts.printed if found.note)
    return (
        '<section class="card printed" id="printed"><p class="stamp">Printed figures, not measured here</p>'
        f"<h2>Single X-rays: {shown(parts.publication)}</h2>"
        "<p>Another task than the leaderboard’s: naming the landmarks in one X-ray, without moving the C-arm. "
        "The figures of the publication were measured on other images and are copied from print; rows of this software "
        f'are marked.</p><div class="pairs dense">{"".join(map(_printed_table, parts.printed))}</div>{notes}</section>'
    )


def _printed_table(found: PrintedTable) -> str:
    columns = [Column("model", False), *(Column(name) for name in found.columns), Column("source", False)]
    rows = []
    for row in found.rows:
        source = '<span class="tag">printed</span>' if row.is_printed else '<span class="tag ours">this software</span>'
        cells = [Cell(shown(text), _value(text)) for text in row.cells]
        rows.append([Cell(shown(row.name)), *cells, Cell(source)])
    return table(shown(found.title), columns, rows)


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _policies(board: Board, parts: SiteParts, order: Sequence[str]) -> str:
    rows = []
    for name in order:
        scores = list(board.scores[name].values())
        settings = next((result.settings for result in board.results if result.policy == name and result.settings), {})
        tokens = [score["tokens"] for score in scores]
        rows.append(
            [
                Cell(shown(name), css="policy"),
                Cell("in words" if any(score["in_words"] for score in scores) else "moves"),
                Cell("true state" if any(score["privileged"] for score in scores) else "X-rays"),
                Cell(f"{max(tokens):,.0f}" if max(tokens) else NO_VALUE, max(tokens)),
                Cell(f"<code>{shown(board.prompts[name])}</code>" if name in board.prompts else NO_VALUE),
                Cell(
                    ", ".join(f"{shown(key)}: {shown(value)}" for key, value in settings.items()) or NO_VALUE,
                    css="long",
                ),
            ]
        )
    columns = (
        Column("policy", False), Column("answers", False), Column("sees", False),
        Column("tokens per episode"), Column("hash of the prompts", False), Column("settings", False),
    )  # fmt: skip
    cards = "".join(
        f'<details class="modelcard"><summary>Model card: {shown(name)}</summary><pre>{shown(_card_text(card))}</pre>'
        "</details>"
        for name, card in parts.cards.items()
        if name in board.scores
    )
    note = '<p class="note">The model cards describe the weights that ship with this version.</p>' if cards else ""
    listed = table("What the policies see and say", columns, rows)
    return f'<section class="card" id="policies"><h2>Policies</h2>{listed}{cards}{note}</section>'


def _card_text(card: str) -> str:
    """Returns a model card without the front matter for the hub."""
    return _FRONT_MATTER.sub("", card.replace("\r\n", "\n")).strip()


def _reading(board: Board) -> str:
    virtual = not board.results or any(result.patient.startswith("virtual:") for result in board.results)
    terms = [
        ("success", "“aligned” was declared within the tolerance; a wrong declaration, a timeout, handing the C-arm "
                    "back and a crash are failures"),
        ("95 % interval", "clustered by patient, because episodes of one patient resemble each other; none is shown "
                          f"for fewer than {MIN_PATIENTS} patients"),
        ("final distance", "planar distance from the isocentre to the target at the end, over all episodes"),
        ("exposures", "X-rays of an episode, the first one included"),
        ("dose", "reference air kerma of these exposures"),
        ("path efficiency", "initial distance over the length of the path, at most 1; 0 for a failure"),
        ("paired difference", "success of the first minus the second policy on the same episodes; a tie is no "
                              "evidence that two policies are equal"),
    ]  # fmt: skip
    limits = ["Research software, not a medical device."]
    if virtual:
        limits.insert(0, "The virtual patients are variations of one skeleton: the scores do not transfer to people.")
    defined = "".join(f"<dt>{shown(term)}</dt><dd>{shown(text)}</dd>" for term, text in terms)
    return (
        f'<section class="card" id="reading"><h2>How to read this</h2><dl class="terms">{defined}</dl>'
        f"{paragraphs(limits)}</section>"
    )


def _provenance(board: Board) -> str:
    parts = []
    if board.runs:
        columns = [Column(name, False) for name in ("date", "commit", "seed", "Python", "packages", "machine")]
        parts.append(table("Runs that produced the results", columns, [_run_row(run) for run in board.runs]))
    if board.sources:
        columns = [Column("file", False), Column("episodes"), Column("SHA-256", False)]
        rows = [
            [
                Cell(shown(source.name)),
                Cell(f"{source.episodes:,}", source.episodes),
                Cell(f"<code>{source.sha256}</code>"),
            ]
            for source in board.sources
        ]
        parts.append(table("Files that this page was made from", columns, rows))
    return f'<section class="card" id="provenance"><h2>Provenance</h2>{"".join(parts)}</section>' if parts else ""


def _run_row(run: Mapping[str, Any]) -> list[Cell]:
    packages = run.get("packages")
    listed = ", ".join(f"{name} {version}" for name, version in packages.items()) if isinstance(packages, dict) else "?"
    commit, machine = (
        str(run.get("git", "?")),
        f"{run.get('processor', '?')}, {run.get('cpus', '?')} CPUs, {run.get('system', '?')}",
    )
    texts = (
        str(run.get("date", "?"))[:16].replace("T", " "),
        commit[:12],
        run.get("seed", "?"),
        run.get("python", "?"),
    )
    cells = [Cell(shown(text), css="when") for text in texts]
    return [*cells, Cell(shown(listed), css="long"), Cell(shown(machine), css="long")]
