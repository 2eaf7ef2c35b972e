"""Submissions to the leaderboard: one zip archive with the results of a policy, which can be replayed.

An archive holds ``submission.json`` (the policy, its suites, and the SHA-256 of every other file), ``episodes.jsonl``,
``card.md`` and, if given, a folder ``transcripts``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import (
    EpisodeRecord,
    EpisodeTask,
    episode_result,
    make_suite_environment,
    reset_episode,
)
from carm_env.evaluation.provenance import provenance
from carm_env.evaluation.result_checks import completeness_faults, impossible_steps, package_suites, suite_fault
from carm_env.evaluation.results import EpisodeResult, append_result, read_results
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.system.errors import CArmEnvError, check_keys, shortened
from carm_env.system.files import atomic_write, file_hash, write_json
from carm_env.system.structured_files import read_json

SCHEMA = 1
MANIFEST, RESULTS, CARD, TRANSCRIPTS = "submission.json", "episodes.jsonl", "card.md", "transcripts"
_KEYS = ("schema", "policy", "suites", "files", "run")
_ENDED_EARLY = ("abstained", "crash", "timeout")
_REPLAYED = ("target", "patient", "patient_fingerprint", "suite_version", "isocenter_depth_mm", "outcome", "success",
             "exposures")  # fmt: skip
_MEASURED = ("start_lps_mm", "trajectory_lps_mm", "initial_distance_mm", "final_distance_mm", "path_mm",
             "path_efficiency", "dose_mgy", "dap_mgy_cm2", "limit_hits", "start_displacement_mm",
             "tolerance_mm")  # fmt: skip
_TOLERANCE_MM = 1e-3
_MOST_PROBLEMS = 50


class SubmissionError(CArmEnvError, ValueError):
    """A submission cannot be packed, or its archive cannot be read."""


@dataclass(frozen=True)
class Submission:
    """The contents of an unpacked submission.

    Attributes:
        policy: name of the policy.
        suites: hash of each suite by name.
        results: the results, in the order of the file.
        problems: a sentence for each fault that was found while reading.
    """

    policy: str
    suites: Mapping[str, str]
    results: tuple[EpisodeResult, ...]
    problems: tuple[str, ...]


def pack(
    results: Path, card: Path, out: Path, policy: str | None = None, transcripts: Path | None = None
) -> dict[str, str]:
    """Packs the results of one policy.

    Args:
        results: folder of a leaderboard run, or its file of results.
        card: Markdown file that describes the policy.
        out: the archive to write.
        policy: name of the policy; needed if the results are of several.
        transcripts: folder with transcripts of the policy's episodes.

    Returns:
        The hash of each suite by name.

    Raises:
        SubmissionError: the results are damaged, incomplete or of several policies, or a file is missing.
    """
    path = results / RESULTS if results.is_dir() else results
    if not path.is_file():
        raise SubmissionError(f"there is no file {path}, expected the results of benchmarks/leaderboard.py.")
    if not card.is_file() or not card.read_text(encoding="utf-8", errors="replace").strip():
        raise SubmissionError(f"--card is {card}, expected a Markdown file that describes the policy.")
    if transcripts is not None and not transcripts.is_dir():
        raise SubmissionError(f"--transcripts is {transcripts}, expected a folder.")
    found, errors = read_results(path)
    if errors:
        raise SubmissionError(f"{errors[0]}: run the episode again with --resume.")
    names = sorted({result.policy for result in found})
    if policy is None and len(names) > 1:
        raise SubmissionError(f"{path} holds results of {', '.join(names)}: name one with --policy.")
    name = policy if policy is not None else (names or [""])[0]
    own = [result for result in found if result.policy == name]
    if not own:
        raise SubmissionError(f"{path} holds no results of {name!r}. It has: {', '.join(names) or 'none'}.")
    suites = {result.suite: result.suite_hash for result in own}
    problems = [*_suite_problems(suites, own), *_completeness_problems(suites, own)]
    if problems:
        raise SubmissionError(f"{path} cannot be submitted: {problems[0]}")
    with atomic_write(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        listed = temporary.with_name(temporary.name + ".episodes")
        try:
            for result in sorted(own, key=lambda one: (one.suite, one.episode)):
                append_result(listed, result)
            files = {RESULTS: listed, CARD: card}
            if transcripts is not None:
                inside = sorted(one for one in transcripts.rglob("*") if one.is_file())
                files |= {f"{TRANSCRIPTS}/{one.relative_to(transcripts).as_posix()}": one for one in inside}
            manifest = {"schema": SCHEMA, "policy": name, "suites": suites, "run": provenance(0),
                        "files": {key: file_hash(one) for key, one in files.items()}}  # fmt: skip
            for key, one in files.items():
                archive.write(one, key)
            write_json(listed, manifest)
            archive.write(listed, MANIFEST)
        finally:
            listed.unlink(missing_ok=True)
    return suites


def read_submission(folder: Path) -> Submission:
    """Reads an unpacked submission.

    Raises:
        SubmissionError: the manifest is missing or is not one, or there are no results.
    """
    manifest = _read_manifest(folder)
    stated: Mapping[str, str] = manifest["files"]
    present = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()} - {MANIFEST}
    problems = [f"{name} is named in {MANIFEST}, but is missing." for name in sorted(set(stated) - present)]
    problems += [f"{name} is not named in {MANIFEST}." for name in sorted(present - set(stated))]
    problems += [
        f"{name} was changed after packing: its hash differs from that in {MANIFEST}."
        for name in sorted(present & set(stated))
        if file_hash(folder / name) != stated[name]
    ]
    path = folder / RESULTS
    if not path.is_file():
        raise SubmissionError(f"the archive has no {RESULTS}.")
    results, errors = read_results(path)
    lines = sum(1 for line in path.read_bytes().splitlines() if line.strip())
    problems += [error.replace(str(path), RESULTS) for error in errors]
    if lines > len(results) + len(errors):
        problems.append(f"{RESULTS} has {lines - len(results) - len(errors)} repeated episodes.")
    if CARD not in present:
        problems.append(f"the archive has no {CARD}.")
    return Submission(manifest["policy"], manifest["suites"], tuple(results), tuple(problems))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise SubmissionError(f"the archive has no {MANIFEST}, expected one of benchmarks/submit.py pack.")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        got = manifest.get("schema") if isinstance(manifest, dict) else manifest
        raise SubmissionError(f"{MANIFEST}: schema is {shortened(got)}, expected {SCHEMA}.")
    check_keys(f"key of {MANIFEST}", manifest, _KEYS)
    texts = [manifest.get("policy"), *_texts(manifest.get("suites")), *_texts(manifest.get("files"))]
    if not all(isinstance(text, str) and text for text in texts):
        raise SubmissionError(f"{MANIFEST}: policy, suites and files are not all names with hashes.")
    return manifest


def _texts(value: Any) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) and value else [None]


def static_problems(submission: Submission) -> list[str]:
    """Returns a sentence for each fault of a submission that is seen without a replay."""
    problems = list(submission.problems)
    others = sorted({result.policy for result in submission.results} - {submission.policy})
    if others:
        problems.append(f"{RESULTS} holds results of {', '.join(others)}, expected {submission.policy} alone.")
    informed = sorted({key for result in submission.results for key in result.privileged_info})
    if informed:
        problems.append(f"the policy received the true state ({', '.join(informed)}), as only a reference may.")
    of_suites = list(_suite_problems(submission.suites, submission.results))
    if not of_suites:
        of_suites += _completeness_problems(submission.suites, submission.results)
    return problems + of_suites


def suites_to_replay(submission: Submission) -> tuple[Suite, ...]:
    """Returns the suites of the package that the results are of; none if a suite is another one."""
    if any(_suite_problems(submission.suites, submission.results)):
        return ()
    return tuple(map(load_suite, submission.suites))


def _suite_problems(suites: Mapping[str, str], results: Sequence[EpisodeResult]) -> Iterator[str]:
    known = package_suites()
    for name, stated in suites.items():
        if fault := suite_fault(name, stated, known):
            yield fault
    if extra := sorted({result.suite for result in results} - set(suites)):
        yield f"{RESULTS} holds results of the suite {shortened(extra[0])}, which {MANIFEST} does not name."
    changed = {result.suite for result in results if result.suite_hash != suites.get(result.suite, result.suite_hash)}
    for name in sorted(changed):
        yield f"results of the suite {shortened(name)} have different hashes of it: they are of several versions."


def _completeness_problems(suites: Mapping[str, str], results: Sequence[EpisodeResult]) -> Iterator[str]:
    for name in suites:
        yield from completeness_faults(load_suite(name), [result for result in results if result.suite == name])


def replay_problems(suite: Suite, results: Sequence[EpisodeResult]) -> Iterator[str]:
    """Yields a sentence for each result of a suite that its moves do not lead to; at most a few dozen."""
    env, count = make_suite_environment(suite), 0
    own = [result for result in results if result.suite == suite.name and result.episode < len(suite.episodes)]
    for result in sorted(own, key=lambda one: suite.episodes[one.episode].patient):
        for text in _replayed_differences(result, suite, env):
            yield f"suite {suite.name}, episode {result.episode}: {text}"
            count += 1
            if count >= _MOST_PROBLEMS:
                yield f"suite {suite.name}: further problems are not listed after {_MOST_PROBLEMS}."
                return


def _replayed_differences(result: EpisodeResult, suite: Suite, env: CArmNavEnv) -> Iterator[str]:
    if fault := impossible_steps(result, suite):
        yield fault
        return
    task = EpisodeTask(suite, result.episode, result.policy, result.seed)
    _, info = reset_episode(env, task)
    record = EpisodeRecord.begin(info)
    for number, action in enumerate(result.moves, 1):
        if record.declared:
            yield f"move {number} comes after alignment was declared."
            return
        _, _, declared, _, info = env.step(action)
        record.add_move(action, declared, info)
    if record.declared and result.outcome in _ENDED_EARLY:
        yield f"outcome is {result.outcome}, but alignment was declared."
        return
    record.steps, record.error = result.steps, result.error
    record.abstained = result.outcome == "abstained"
    record.timed_out = result.outcome == "timeout" and bool(result.error)
    again = asdict(episode_result(task, env, info, record))
    stated = asdict(result)
    for name in _REPLAYED:
        if stated[name] != again[name]:
            yield f"{name} is {shortened(stated[name])}, but the moves give {shortened(again[name])}."
    for name in _MEASURED:
        ours, theirs = np.asarray(again[name], float), np.asarray(stated[name], float)
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-6, atol=_TOLERANCE_MM):
            yield f"{name} is not what the moves give."
