"""The contents of a leaderboard, computed from results or read from a ``leaderboard.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carm_env.evaluation.report import Scores, distinct_runs, paired_differences, summarise
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite


@dataclass(frozen=True)
class Source:
    """A file that a leaderboard was made from.

    Attributes:
        name: file and its folder, without what lies above.
        sha256: hash of its bytes.
        episodes: number of its results that count.
    """

    name: str
    sha256: str
    episodes: int


@dataclass(frozen=True)
class Board:
    """The contents of a leaderboard.

    Attributes:
        scores: from `carm_env.evaluation.report.summarise`.
        pairs: from `carm_env.evaluation.report.paired_differences`.
        runs: from `carm_env.evaluation.report.distinct_runs`.
        prompts: hash of the prompts of each policy that has prompts.
        results: the results; none for scores that were read from a ``leaderboard.json``.
        suites: the suites that are known, by name.
        sources: the files that were read.
        skipped: a sentence for each group of lines that do not count, with file and line numbers.
        notes: sentences that a reader of the scores needs.
    """

    scores: Scores
    pairs: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]
    prompts: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[EpisodeResult] = ()
    suites: Mapping[str, Suite] = field(default_factory=dict)
    sources: Sequence[Source] = ()
    skipped: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def suite_names(self) -> list[str]:
        """Names of the suites with scores, in order of appearance."""
        return list(dict.fromkeys(suite for suites in self.scores.values() for suite in suites))

    def ranking(self, suite: str) -> list[str]:
        """Returns the policies on a suite: by success, then by final distance, then by name."""

        def key(policy: str) -> tuple[float, float, str]:
            value = self.scores[policy][suite]
            return -value["success"], value["final_distance_mm"], policy

        return sorted((policy for policy in self.scores if suite in self.scores[policy]), key=key)


def board_of(results: Sequence[EpisodeResult], suites: Iterable[Suite], **more: Any) -> Board:
    """Computes the contents of a leaderboard.

    Args:
        results: the results.
        suites: the suites that are known.
        **more: further fields of `Board`.

    Raises:
        ValueError: the results of a suite come from different versions of it.
    """
    return Board(
        scores=summarise(results),
        pairs=paired_differences(results),
        runs=distinct_runs(results),
        prompts={result.policy: result.prompts for result in results if result.prompts},
        results=tuple(results),
        suites={suite.name: suite for suite in suites},
        **more,
    )
