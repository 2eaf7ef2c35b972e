"""Reads finished results of several files for one leaderboard, without running anything.

Lines that cannot be read, or are not of a suite that is known, are left out and named. Results that contradict each
other are refused: an average of them would be a score of no policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.evaluation.board import Board, Source, board_of
from carm_env.evaluation.pairing import is_same_start
from carm_env.evaluation.recipes import RECIPES
from carm_env.evaluation.report import Scores
from carm_env.evaluation.result_checks import completeness_faults, impossible_steps, package_suites, suite_fault
from carm_env.evaluation.results import EpisodeResult, by_policy_and_suite, read_lines
from carm_env.evaluation.results_files import results_path, split_name
from carm_env.evaluation.scores_file import ScoresFile, read_scores
from carm_env.evaluation.shifts import split_suite_name
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import content_hash, file_hash

_SHOWN = 8
_CUSTOM = "-custom"
_OF_THE_MACHINE = ("run", "latency_ms", "decision_ms", "prompt_tokens", "tokens", "cost", "error")
"""Fields that may differ between two runs of one policy in one episode."""
_SERVER_MODEL = "server_model"
"""Fact of `carm_env.chat_models.policy.ChatPolicy` that the server states, if it answers at all."""


class ContradictionError(CArmEnvError, ValueError):
    """Results that contradict each other; the message names their files and lines."""


@dataclass(frozen=True)
class _Line:
    path: Path
    number: int
    result: EpisodeResult

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def read_board(given: Sequence[str], suites: Sequence[str] = ()) -> Board:
    """Reads results for a leaderboard.

    Args:
        given: files of results, folders that hold an ``episodes.jsonl``, and ``leaderboard.json`` files, whose scores
            are taken as they are. ``NAME=FILE`` shows the policies of a file as ``POLICY (NAME)``.
        suites: YAML files of suites that the package does not have.

    Raises:
        ContradictionError: two lines are of one episode but differ, two policies have one name but different settings
            or prompts, or the episodes of a suite are not the same for all policies.
        ValueError: no line counts, or a file is not one of results.
        FileNotFoundError: a file does not exist.
    """
    known = package_suites()
    for name in suites:
        suite = load_suite(name)
        known[suite.name] = suite
    lines: list[_Line] = []
    tables: list[tuple[Path, ScoresFile]] = []
    skipped: list[str] = []
    counts: dict[Path, int] = {}
    for text in given:
        label, path = split_name(text)
        path = results_path(path)
        if path.suffix == ".json":
            table, problems = _known_scores(path, _labelled_scores(read_scores(path), label), known)
            tables.append((path, table))
            counts[path] = sum(scores["episodes"] for suite in table.scores.values() for scores in suite.values())
        else:
            found, problems = _read_file(path, label, known)
            lines += found
        skipped += problems
    lines, repeated = _without_repetitions(lines)
    skipped += repeated
    problems = [*_contradictions(lines), *_double_scores(lines, tables)]
    if problems:
        more = len(problems) - _SHOWN
        raise ContradictionError(
            "\n  ".join(["the results contradict each other:", *problems[:_SHOWN]])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    if not lines and not any(table.scores for _, table in tables):
        raise ValueError(f"no line counts, expected results of carm-env evaluate. {' '.join(skipped[:_SHOWN])}".strip())
    counts |= {path: sum(line.path == path for line in lines) for path in dict.fromkeys(line.path for line in lines)}
    results = [line.result for line in lines]
    board = board_of(
        results,
        known.values(),
        sources=tuple(
            Source("/".join(path.resolve().parts[-2:]), file_hash(path), count) for path, count in counts.items()
        ),
        skipped=tuple(skipped),
        notes=tuple(_notes(results, known)),
    )
    return _with_tables(board, [table for _, table in tables])


def _read_file(path: Path, label: str, known: Mapping[str, Suite]) -> tuple[list[_Line], list[str]]:
    """Returns the lines of a file that count, and a sentence for each that does not, or for all with one reason."""
    lines: list[_Line] = []
    reasons: dict[str, list[int]] = {}
    problems: list[str] = []
    for number, found in read_lines(path):
        if isinstance(found, str):
            problems.append(f"{path}, line {number}: {found}")
        elif reason := _fault(found, known):
            reasons.setdefault(reason, []).append(number)
        else:
            result = dataclasses.replace(found, policy=_labelled(found.policy, label))
            lines.append(_Line(path, number, result))
    problems += [f"{path}, {_ranges(numbers)}: {reason}" for reason, numbers in reasons.items()]
    return lines, problems


def _fault(result: EpisodeResult, known: Mapping[str, Suite]) -> str:
    """Returns why a result does not count; empty if it does."""
    if _is_custom(result.suite, known):
        return ""
    if fault := suite_fault(result.suite, result.suite_hash, known):
        return fault if result.suite in known else f"{fault} Name its YAML file with --suite."
    suite = known[result.suite]
    if result.episode >= len(suite.episodes):
        return f"suite {suite.name} has no episode {result.episode}."
    if result.target != suite.episodes[result.episode].target or result.suite_version != suite.version:
        return f"its target or version is not that of episode {result.episode} of suite {suite.name}."
    return impossible_steps(result, suite)


def _is_custom(name: str, known: Mapping[str, Suite]) -> bool:
    """Returns whether a suite of the package was drawn on chosen or shifted patients; its hash depends on these."""
    base, shift = split_suite_name(name)
    is_drawn = base.endswith(_CUSTOM) and base.removesuffix(_CUSTOM) in RECIPES
    return name not in known and (is_drawn or (shift is not None and base in known))


def _labelled(policy: str, label: str) -> str:
    return f"{policy} ({label})" if label else policy


def _labelled_scores(table: ScoresFile, label: str) -> ScoresFile:
    if not label:
        return table
    pairs = [
        {**pair, **{key: _labelled(pair[key], label) for key in ("first", "second", "better") if pair.get(key)}}
        for pair in table.pairs
    ]
    scores = {_labelled(policy, label): suites for policy, suites in table.scores.items()}
    prompts = {_labelled(policy, label): text for policy, text in table.prompts.items()}
    return ScoresFile(scores, pairs, table.runs, prompts)


def _known_scores(path: Path, table: ScoresFile, known: Mapping[str, Suite]) -> tuple[ScoresFile, list[str]]:
    """Returns the scores on known suites, and a sentence for each suite whose scores are left out."""
    scores: Scores = {}
    problems: dict[str, None] = {}
    for policy, suites in table.scores.items():
        for suite, found in suites.items():
            fault = "" if _is_custom(suite, known) else suite_fault(suite, found["suite_hash"], known)
            if fault:
                hint = "" if suite in known else " Name its YAML file with --suite."
                problems[f"{path}, scores: {fault}{hint}"] = None
            else:
                scores.setdefault(policy, {})[suite] = found
    pairs = [pair for pair in table.pairs if pair["suite"] in scores.get(pair["first"], {})]
    return dataclasses.replace(table, scores=scores, pairs=pairs), list(problems)


def _without_repetitions(lines: Sequence[_Line]) -> tuple[list[_Line], list[str]]:
    """Returns the lines without those that repeat an earlier one, and a sentence for each file that has such lines."""
    first: dict[object, _Line] = {}
    kept: list[_Line] = []
    repeated: dict[tuple[Path, Path], list[int]] = {}
    for line in lines:
        before = first.setdefault(line.result.key, line)
        if before is not line and _is_same_episode(before.result, line.result):
            repeated.setdefault((line.path, before.path), []).append(line.number)
        else:
            kept.append(line)
    problems = [
        f"{path}, {_ranges(numbers)}: {len(numbers)} repeated episodes, which {before} has with the same moves."
        for (path, before), numbers in repeated.items()
    ]
    return kept, problems


def _is_same_episode(a: EpisodeResult, b: EpisodeResult) -> bool:
    return not _differing_fields(a, b)


def _differing_fields(a: EpisodeResult, b: EpisodeResult) -> list[str]:
    """Returns the fields of two results of one episode that differ although one policy gives equal values."""
    first, second = ({**dataclasses.asdict(one), "settings": _chosen_settings(one)} for one in (a, b))
    return [name for name in first if name not in _OF_THE_MACHINE and first[name] != second[name]]


def _chosen_settings(result: EpisodeResult) -> dict[str, Any]:
    return {name: value for name, value in result.settings.items() if name != _SERVER_MODEL}


def _contradictions(lines: Sequence[_Line]) -> Iterator[str]:
    first: dict[object, _Line] = {}
    for line in lines:
        one = line.result
        before = first.setdefault(one.key, line)
        if before is not line:
            yield (
                f"{before.where}, and {line.where}, are of {one.policy} in episode {one.episode} of {one.suite} with "
                f"seed {one.seed}, but differ in {', '.join(_differing_fields(before.result, one))}: keep one run, or "
                "name a file with NAME=FILE."
            )
    yield from _pairs_that_differ(
        lines,
        lambda one: one.policy,
        lambda one: content_hash([one.prompts, _chosen_settings(one), sorted(one.privileged_info)]),
        "are of two policies called {0.policy!r} with different settings, prompts or knowledge: name one of the files "
        "with NAME=FILE",
    )
    yield from _pairs_that_differ(
        lines,
        lambda one: one.suite,
        lambda one: one.suite_hash,
        "are of two versions of suite {0.suite} ({0.suite_hash} and {1.suite_hash}): show them one at a time",
    )
    yield from _pairs_that_differ(
        lines,
        lambda one: (one.suite, one.patient),
        lambda one: one.patient_fingerprint,
        "are of two builds of patient {0.patient}: their X-rays differ, so run both with one version of carm-env",
    )
    starts: dict[object, _Line] = {}
    for line in lines:
        one = line.result
        before = starts.setdefault((one.suite, one.episode, one.seed, one.patient_fingerprint), line)
        if not is_same_start(before.result, one):
            yield f"{before.where}, and {line.where}, begin one episode differently: the environments differ."


def _pairs_that_differ(
    lines: Sequence[_Line],
    group: Callable[[EpisodeResult], object],
    value: Callable[[EpisodeResult], object],
    message: str,
) -> Iterator[str]:
    """Yields a sentence for each further value that the results of a group have, which should have one."""
    first: dict[object, dict[object, _Line]] = {}
    for line in lines:
        variants = first.setdefault(group(line.result), {})
        key = repr(value(line.result))
        if key not in variants and variants:
            before = next(iter(variants.values()))
            yield f"{before.where}, and {line.where}, {message.format(before.result, line.result)}."
        variants.setdefault(key, line)


def _double_scores(lines: Sequence[_Line], tables: Sequence[tuple[Path, ScoresFile]]) -> Iterator[str]:
    seen = {(line.result.policy, line.result.suite): str(line.path) for line in lines}
    hashes = {line.result.suite: (line.result.suite_hash, str(line.path)) for line in lines}
    for path, table in tables:
        for policy, suites in table.scores.items():
            for suite, found in suites.items():
                before = seen.setdefault((policy, suite), str(path))
                if before != str(path):
                    yield f"{before} and {path} both hold {policy} on {suite}: keep one, or name one with NAME=FILE."
                version, where = hashes.setdefault(suite, (found["suite_hash"], str(path)))
                if version != found["suite_hash"]:
                    yield f"{where} and {path} are of two versions of suite {suite}: show them one at a time."


def _notes(results: Sequence[EpisodeResult], known: Mapping[str, Suite]) -> Iterator[str]:
    for (policy, suite), group in by_policy_and_suite(results).items():
        if suite in known:
            yield from (f"{policy}: {fault}" for fault in completeness_faults(known[suite], group))
        models = sorted({str(result.settings[_SERVER_MODEL]) for result in group if _SERVER_MODEL in result.settings})
        if len(models) > 1:
            yield f"{policy} on {suite}: the server answered with different models ({', '.join(models)})."
    for suite in dict.fromkeys(result.suite for result in results):
        if suite not in known:
            yield f"{suite} has patients of its own, so that its hash is not that of a file and was not checked."


def _with_tables(board: Board, tables: Sequence[ScoresFile]) -> Board:
    scores: Scores = {policy: dict(suites) for policy, suites in board.scores.items()}
    pairs, runs, prompts = list(board.pairs), list(board.runs), dict(board.prompts)
    for table in tables:
        for policy, suites in table.scores.items():
            scores.setdefault(policy, {}).update(suites)
        pairs += table.pairs
        runs += [run for run in table.runs if run not in runs]
        prompts |= table.prompts
    return dataclasses.replace(board, scores=scores, pairs=pairs, runs=runs, prompts=prompts)


def _ranges(numbers: Sequence[int]) -> str:
    """Returns line numbers in words, neighbours as one range.

    >>> _ranges([3]), _ranges([1, 2, 3, 7])
    ('line 3', 'lines 1-3, 7')
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in spans]
    shown = ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}"
