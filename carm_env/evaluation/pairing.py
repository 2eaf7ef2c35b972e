"""Matches the episodes of several policies and result files for a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from carm_env.evaluation.provenance import PACKAGES
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.results_files import ResultsFile
from carm_env.system.errors import CArmEnvError, check_keys, shortened
from carm_env.system.files import content_hash

EpisodeKey = tuple[int, int, str, str]
"""Episode of a suite, seed, patient and the patient's fingerprint."""
_SHOWN = 6
_SAME_START_MM = 1e-3


class MismatchError(CArmEnvError, ValueError):
    """Results that cannot be compared episode by episode, or only with a flag that the message names."""


@dataclass(frozen=True)
class MatchedSuite:
    """The episodes of one version of a suite that all compared policies ran.

    Attributes:
        suite: name of the suite.
        suite_hash: hash of the suite.
        suite_version: version of the suite.
        results: by label of the policy; the lists hold the same episodes in the same order.
    """

    suite: str
    suite_hash: str
    suite_version: int
    results: Mapping[str, list[EpisodeResult]]

    @property
    def patients(self) -> list[str]:
        """Patient of each episode."""
        return [result.patient for result in next(iter(self.results.values()))]


def match_episodes(
    files: Sequence[ResultsFile],
    *,
    policies: Sequence[str] = (),
    suites: Sequence[str] = (),
    common_only: bool = False,
    allow_version_differences: bool = False,
) -> tuple[list[MatchedSuite], list[str]]:
    """Matches episodes by suite, suite hash, number, seed, patient and build of the patient.

    A policy that occurs in one file is labelled with its name, one that occurs in several files with
    ``POLICY (FILE)``.

    Args:
        files: the result files.
        policies: names or labels of the policies to compare; by default all.
        suites: names of the suites to compare; by default all.
        common_only: compare the episodes that all policies ran, although some policies also ran others.
        allow_version_differences: compare results of different package versions.

    Returns:
        The suites that at least two policies ran, and notes on what was left out and on how the results differ.

    Raises:
        UnknownNameError: unknown policy or suite.
        MismatchError: nothing can be paired, or only with one of the two flags.
    """
    groups = _group(files, policies, suites)
    notes: list[str] = []
    matched: list[MatchedSuite] = []
    problems: list[str] = []
    for suite in dict.fromkeys(suite for suite, _ in groups):
        versions = {suite_hash: group for (name, suite_hash), group in groups.items() if name == suite}
        if len(versions) > 1:
            listed = "; ".join(f"{key}: {', '.join(group)}" for key, group in versions.items())
            problems.append(f"{suite} has different versions ({listed}), which are not compared with each other")
        for suite_hash, group in versions.items():
            if len(group) < 2:
                notes.append(f"{suite} ({suite_hash}): only {next(iter(group))} ran it, nothing to compare.")
                continue
            common = _common(group)
            problems += _missing(suite, group, common)
            if common:
                matched.append(_matched(suite, suite_hash, group, common))
    if not matched:
        raise MismatchError(_nothing_to_compare(groups, problems))
    if problems and not common_only:
        raise MismatchError(
            f"{_listed(problems)}. Pass --common-only to compare only the episodes that all of them ran, or choose "
            "with --policies and --suite."
        )
    notes += [f"Left out with --common-only: {problem}." for problem in problems]
    for item in matched:
        _check_same_episodes(item)
    return matched, [*notes, *_policy_notes(matched), *_version_notes(matched, allow_version_differences)]


def _group(
    files: Sequence[ResultsFile], policies: Sequence[str], suites: Sequence[str]
) -> dict[tuple[str, str], dict[str, list[EpisodeResult]]]:
    """Groups results by (suite, suite hash) and label of the policy."""
    check_keys("suite", suites, dict.fromkeys(result.suite for file in files for result in file.results))
    homes: dict[str, list[str]] = {}
    for file in files:
        for policy in dict.fromkeys(result.policy for result in file.results):
            homes.setdefault(policy, []).append(file.name)

    def label(policy: str, file: str) -> str:
        return printable(policy if len(homes[policy]) == 1 else f"{policy} ({file})")

    labels = [label(policy, file) for policy, names in homes.items() for file in names]
    repeated = [name for name in labels if labels.count(name) > 1]
    if repeated:
        raise MismatchError(f"two policies are called {repeated[0]!r}: name their files with NAME=PATH.")
    check_keys("policy", policies, dict.fromkeys([*homes, *labels]))
    groups: dict[tuple[str, str], dict[str, list[EpisodeResult]]] = {}
    for file in files:
        for result in file.results:
            name = label(result.policy, file.name)
            if (not policies or {result.policy, name} & set(policies)) and (not suites or result.suite in suites):
                groups.setdefault((result.suite, result.suite_hash), {}).setdefault(name, []).append(result)
    return groups


def printable(text: str) -> str:
    """Returns text in which control characters and line breaks are spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def episode_key(result: EpisodeResult) -> EpisodeKey:
    """Returns what two results of a suite must share to be of the same episode."""
    return result.episode, result.seed, result.patient, result.patient_fingerprint


def _common(group: Mapping[str, Sequence[EpisodeResult]]) -> list[EpisodeKey]:
    return sorted(set.intersection(*({episode_key(result) for result in results} for results in group.values())))


def _missing(suite: str, group: Mapping[str, Sequence[EpisodeResult]], common: Sequence[EpisodeKey]) -> Iterator[str]:
    more = {label: len(results) - len(common) for label, results in group.items() if len(results) > len(common)}
    if not more:
        return
    every: dict[EpisodeKey, None] = {}
    for results in group.values():
        every.update(dict.fromkeys(map(episode_key, results)))
    counts = ", ".join(f"{label}: {len(results)}" for label, results in group.items())
    first = min(every.keys() - set(common))
    yield (
        f"{suite}: all policies ran {len(common)} of {len(every)} episodes ({counts}); the first that is not common is "
        f"episode {first[0]} with seed {first[1]} on {first[2]}, build {first[3][:8]}"
    )


def _matched(
    suite: str, suite_hash: str, group: Mapping[str, Sequence[EpisodeResult]], common: Sequence[EpisodeKey]
) -> MatchedSuite:
    indexed = {label: {episode_key(result): result for result in results} for label, results in group.items()}
    results = {label: [by_key[key] for key in common] for label, by_key in indexed.items()}
    return MatchedSuite(suite, suite_hash, next(iter(results.values()))[0].suite_version, results)


def _nothing_to_compare(
    groups: Mapping[tuple[str, str], Mapping[str, Sequence[EpisodeResult]]], problems: Sequence[str]
) -> str:
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    if len(labels) < 2:
        return (
            f"there is only {labels[0] if labels else 'no policy'} to compare, expected at least two policies: run "
            "another one with carm-env evaluate --resume, or give a second file."
        )
    suites = "; ".join(f"{suite} ({key}): {', '.join(group)}" for (suite, key), group in groups.items())
    return (
        f"no episode was run by two policies: {_listed(problems) or suites}. Run them on the same suite, "
        "patients and seed."
    )


def _listed(problems: Sequence[str]) -> str:
    more = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _check_same_episodes(suite: MatchedSuite) -> None:
    """Raises if episodes with equal keys began differently: the environments that produced them differ."""
    (label, first), *others = suite.results.items()
    for other, results in others:
        for a, b in zip(first, results, strict=True):
            if not is_same_start(a, b):
                raise MismatchError(
                    f"{suite.suite}, episode {a.episode}: {label} began at {shortened(a.start_lps_mm)} mm with target "
                    f"{a.target}, {other} at {shortened(b.start_lps_mm)} mm with target {b.target}. The environments "
                    "differ: run both policies with the same version of carm-env."
                )


def is_same_start(a: EpisodeResult, b: EpisodeResult) -> bool:
    """Returns whether two results of one episode began in the same place with the same target."""
    first, second = ([*result.start_lps_mm, result.initial_distance_mm] for result in (a, b))
    try:
        close = [math.isclose(x, y, abs_tol=_SAME_START_MM) for x, y in zip(first, second, strict=True)]
    except (TypeError, ValueError, OverflowError):
        # Lists of different lengths, or entries of a damaged file that are not numbers.
        return False
    return a.target == b.target and all(close)


def _policy_notes(suites: Sequence[MatchedSuite]) -> list[str]:
    notes: dict[str, None] = {}
    for suite in suites:
        for label, results in suite.results.items():
            known = ", ".join(sorted({str(key) for result in results for key in result.privileged_info}))
            crashes = sum(result.outcome == "crash" for result in results)
            if known:
                notes[f"{label} reads the true state ({known})."] = None
            if crashes:
                episodes = f"{crashes} of {len(results)} episodes of {suite.suite}"
                notes[f"{label} crashed in {episodes}, which count as failures."] = None
            variants = {content_hash([result.prompts, result.settings]) for result in results}
            if len(variants) > 1:
                notes[f"{label} was run with {len(variants)} different prompts or settings on {suite.suite}."] = None
    return list(notes)


def _version_notes(suites: Sequence[MatchedSuite], allowed: bool) -> list[str]:
    """Returns notes on how the runs differ; raises if packages do and that is not allowed."""
    facts: dict[str, dict[str, dict[str, None]]] = {}
    without: dict[str, None] = {}
    for suite in suites:
        for label, results in suite.results.items():
            for result in results:
                packages = result.run.get("packages")
                if not isinstance(packages, Mapping):
                    without[label] = None
                    continue
                # Other packages, such as torch, belong to the policies.
                values = {f"package {name}": packages.get(name) for name in PACKAGES}
                values |= {name: result.run.get(name) for name in ("git", "processor", "python")}
                for name, value in values.items():
                    facts.setdefault(name, {}).setdefault(str(value), {})[label] = None
    different = {
        name: "; ".join(f"{value}: {', '.join(labels)}" for value, labels in values.items())
        for name, values in facts.items()
        if len(values) > 1
    }
    packages = [f"{name[8:]} ({values})" for name, values in different.items() if name.startswith("package ")]
    if packages and not allowed:
        raise MismatchError(
            f"the results come from different package versions, which can change X-rays: {'; '.join(packages)}. Run "
            "the policies again with one installation, or pass --allow-version-differences."
        )
    names = {"git": "commits", "processor": "processors (latency is not comparable)", "python": "Python versions"}
    notes = [f"The results come from different versions of {text} (--allow-version-differences)." for text in packages]
    notes += [f"The results come from different {names[key]}: {different[key]}." for key in names if key in different]
    if without:
        notes.append(f"No versions are recorded for {', '.join(without)}: they cannot be checked.")
    return notes
