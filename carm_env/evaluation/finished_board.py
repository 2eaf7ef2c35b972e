"""Writes the leaderboard of finished results, and its web page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from carm_env.evaluation.board import Board
from carm_env.evaluation.finished_results import read_board
from carm_env.evaluation.report import leaderboard_page, leaderboard_table, plain_text, tie_letters
from carm_env.evaluation.results_files import results_path, split_name
from carm_env.evaluation.site.page import check_site_folder, write_site
from carm_env.evaluation.site.parts import SiteParts
from carm_env.system.files import write_json, write_text
from carm_env.system.output_folders import lock_output

SCORES, TABLE = "leaderboard.json", "leaderboard.md"
_SHOWN = 20


def show_finished(
    given: Sequence[str],
    suites: Sequence[str],
    out: Path,
    json: Path | None = None,
    html: Path | None = None,
    transcripts: Path | None = None,
    parts: Callable[[], SiteParts] = SiteParts,
) -> int:
    """Writes ``leaderboard.json`` and ``leaderboard.md`` of finished results, and their web page; runs nothing.

    Args:
        given: the files of results, see `carm_env.evaluation.finished_results.read_board`.
        suites: YAML files of suites that the package does not have.
        out: folder for the leaderboard.
        json: file that also receives scores, paired differences and provenance.
        html: folder for the web page.
        transcripts: folder of the episodes' transcripts, for the web page.
        parts: returns the model cards and printed figures of the web page.

    Returns:
        The exit status: 0, or 1 if there are lines that do not count.

    Raises:
        ContradictionError: the results contradict each other.
        ValueError: no line counts, a file is not one of results, or an output would replace a file of results.
        FileNotFoundError: a file does not exist.
        BusyError: another process writes to a folder.
        TranscriptError: there is no transcript, or none can be read.
    """
    _check_outputs(given, out, json)
    if html is not None:
        check_site_folder(html)
    elif transcripts is not None:
        raise ValueError("--transcripts is given with --from, but --html is not: only the web page shows them.")
    board = read_board(given, suites)
    with lock_output(out, "--out"):
        write_json(out / SCORES, board.scores)
        write_text(out / TABLE, _page(board))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        write_json(json, {"scores": board.scores, "pairs": board.pairs, "prompts": board.prompts, "runs": board.runs})
    print(f"\n{leaderboard_table(board.scores, tie_letters(board.scores, board.pairs))}\n")
    for sentences, what in ((board.skipped, "left out"), (board.notes, "note")):
        for sentence in sentences[:_SHOWN]:
            print(f"{what}: {sentence}", file=sys.stderr)
        if (more := len(sentences) - _SHOWN) > 0:
            print(f"{what}: {more} further sentences are in {out / TABLE}.", file=sys.stderr)
    print(f"Written to {out}/: {SCORES}, {TABLE}")
    if html is not None:
        save_site(html, board, parts(), transcripts)
    return 1 if board.skipped else 0


def save_site(folder: Path, board: Board, parts: SiteParts, transcripts: Path | None = None) -> None:
    """Writes the web page of a leaderboard and says where it is; reports transcripts that cannot be shown.

    Args:
        folder: folder for the page.
        board: the contents of the leaderboard.
        parts: model cards and printed figures.
        transcripts: folder of the episodes' transcripts.
    """
    site = write_site(folder, board, parts, transcripts)
    for problem in site.problems[:_SHOWN]:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"Leaderboard as a web page: {site.page}")


def _check_outputs(given: Sequence[str], out: Path, json: Path | None) -> None:
    sources = {results_path(split_name(text)[1]).resolve() for text in given}
    for path in (out / SCORES, out / TABLE, *([] if json is None else [json])):
        if path.resolve() in sources:
            raise ValueError(f"{path} is one of the files of --from and would be replaced: choose another one.")


def _page(board: Board) -> str:
    parts = [leaderboard_page(board.results, board.scores)]
    sources = [f"{source.name}: {source.episodes} episodes, SHA-256 {source.sha256}" for source in board.sources]
    for title, sentences in (("Files", sources), ("Left out", board.skipped), ("Notes", board.notes)):
        if sentences:
            parts.append(f"## {title}\n\n" + "\n".join(f"- {plain_text(sentence)}" for sentence in sentences) + "\n")
    return "\n".join(parts)
