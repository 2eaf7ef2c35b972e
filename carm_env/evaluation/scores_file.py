"""Reads and checks the scores of a ``leaderboard.json``, or of a file of ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.evaluation.report import Scores
from carm_env.system.errors import CArmEnvError, shortened
from carm_env.system.structured_files import read_json_mapping

_SHARES = ("success", "path_efficiency", "invalid_answers", "lenient_answers", "abstained", "timeouts", "crashes")
_AMOUNTS = ("final_distance_mm", "final_distance_mm_median", "exposures", "dose_mgy", "latency_ms", "tokens", "cost")
_COUNTS = ("episodes", "patients", "suite_version")
_INTERVALS = ("success_interval", "final_distance_mm_interval", "exposures_interval")
_FLAGS = ("in_words", "privileged")


class ScoresFileError(CArmEnvError, ValueError):
    """A file is not a leaderboard of this version of carm-env; the message says where it differs."""


@dataclass(frozen=True)
class ScoresFile:
    """The contents of a leaderboard's JSON file.

    Attributes:
        scores: the scores.
        pairs: paired differences; none in a ``leaderboard.json``.
        runs: the runs; none in a ``leaderboard.json``.
        prompts: hash of the prompts of each policy that has prompts.
    """

    scores: Scores
    pairs: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    prompts: Mapping[str, str]


def read_scores(path: Path) -> ScoresFile:
    """Reads the scores of a leaderboard.

    Args:
        path: a ``leaderboard.json``, or a file that ``--json`` of the leaderboard wrote.

    Raises:
        ScoresFileError: a value is missing, of another type or out of range.
        StructuredFileError: the file is not valid JSON.
    """
    value = read_json_mapping(path)
    is_whole = isinstance(value.get("runs"), list) and isinstance(value.get("scores"), dict)
    whole: dict[str, Any] = value if is_whole else {"scores": value}
    scores = whole["scores"]
    if not scores:
        raise ScoresFileError(f"{path} holds no scores, expected a leaderboard.json of carm-env evaluate.")
    for policy, suites in scores.items():
        if not isinstance(suites, dict) or not suites:
            raise ScoresFileError(
                f"{path}: the scores of {shortened(policy)} are {shortened(suites)}, expected suites with scores, as "
                "in a leaderboard.json of carm-env evaluate."
            )
        for suite, found in suites.items():
            _check_scores(f"{path}: {policy} on {suite}", found)
    pairs: list[dict[str, Any]] = whole.get("pairs", [])
    runs: list[dict[str, Any]] = whole.get("runs", [])
    prompts: dict[str, Any] = whole.get("prompts", {})
    for number, pair in enumerate(pairs):
        _check_pair(f"{path}, pair {number}", pair, scores)
    if not all(isinstance(run, dict) for run in runs) or not isinstance(prompts, dict):
        raise ScoresFileError(f"{path}: runs and prompts are not mappings, as --json writes them.")
    return ScoresFile(scores, pairs, runs, {str(key): str(text) for key, text in prompts.items()})


def _check_scores(where: str, found: Any) -> None:
    if not isinstance(found, dict):
        raise ScoresFileError(f"{where}: got {shortened(found)}, expected scores by name.")
    names = (*_SHARES, *_AMOUNTS, *_COUNTS, *_INTERVALS, *_FLAGS, "suite_hash")
    if missing := [name for name in names if name not in found]:
        raise ScoresFileError(
            f"{where} lacks {', '.join(missing)}: another version of carm-env wrote it. Make it again from the "
            "episodes.jsonl."
        )
    for group, high in ((_SHARES, 1.0), (_AMOUNTS, math.inf)):
        for name in group:
            if not _is_number(found[name], 0.0, high):
                raise ScoresFileError(
                    f"{where}: {name} is {shortened(found[name])}, expected a number from 0 to {high}."
                )
    for name in _COUNTS:
        if type(found[name]) is not int or found[name] < 1:
            raise ScoresFileError(f"{where}: {name} is {shortened(found[name])}, expected a positive integer.")
    for name in _INTERVALS:
        if found[name] is not None and not _is_interval(found[name]):
            raise ScoresFileError(
                f"{where}: {name} is {shortened(found[name])}, expected two numbers, the lower first."
            )
    for name in _FLAGS:
        if type(found[name]) is not bool:
            raise ScoresFileError(f"{where}: {name} is {shortened(found[name])}, expected true or false.")
    if not isinstance(found["suite_hash"], str):
        raise ScoresFileError(f"{where}: suite_hash is {shortened(found['suite_hash'])}, expected a text.")


def _check_pair(where: str, pair: Any, scores: Scores) -> None:
    fine = (
        isinstance(pair, dict)
        and all(isinstance(pair.get(name), str) for name in ("suite", "first", "second"))
        and all(type(pair.get(name, 1)) is int for name in ("episodes", "patients"))
        and "episodes" in pair
        and _is_number(pair.get("success_difference"), -1.0, 1.0)
        and (pair.get("interval") is None or _is_interval(pair["interval"]))
        and (pair.get("p_holm") is None or _is_number(pair["p_holm"], 0.0, 1.0))
        and isinstance(pair.get("better", ""), (str, type(None)))
    )
    if not fine or any(pair["suite"] not in scores.get(pair[name], {}) for name in ("first", "second")):
        raise ScoresFileError(f"{where} is {shortened(pair)}, expected the difference of two policies with scores.")


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_number(bound, -math.inf, math.inf) for bound in value)
        and value[0] <= value[1]
    )


def _is_number(value: Any, low: float, high: float) -> bool:
    # bool is a subclass of int.
    return type(value) in (int, float) and low <= value <= high
