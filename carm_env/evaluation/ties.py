"""Policies of a leaderboard that cannot be told apart, and how many episodes would tell them apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from carm_env.evaluation.comparison import Contrast, compare
from carm_env.evaluation.pairing import MatchedSuite
from carm_env.evaluation.results import EpisodeResult

RESAMPLES = 20_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def success_contrasts(groups: Mapping[str, Sequence[EpisodeResult]], resamples: int = RESAMPLES) -> list[Contrast]:
    """Compares the success of all pairs of policies on the episodes of a suite that both ran.

    The p values are those of `carm_env.evaluation.permutation.swap_test`, corrected by Holm for the number of pairs.

    Args:
        groups: results on one suite by policy.
        resamples: number of random swaps per test with many patients.
    """
    return compare(_matched_pairs(groups), ("success",), resamples=resamples)


def _matched_pairs(groups: Mapping[str, Sequence[EpisodeResult]]) -> list[MatchedSuite]:
    pairs = []
    for first, second in combinations(groups, 2):
        other = {(result.episode, result.seed): result for result in groups[second]}
        common = [result for result in groups[first] if (result.episode, result.seed) in other]
        if common:
            same = [other[result.episode, result.seed] for result in common]
            about = common[0].suite, common[0].suite_hash, common[0].suite_version
            pairs.append(MatchedSuite(*about, {first: common, second: same}))
    return pairs


def tie_groups(policies: Sequence[str], differing: Collection[tuple[str, str]]) -> dict[str, str]:
    """Returns the letters of the groups of each policy: two policies are in a common group unless they differ.

    Every group is as large as possible, and the letters follow the order of the policies.

    Args:
        policies: names, best first.
        differing: pairs that are shown to differ.

    Source: Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", Journal of
    Computational and Graphical Statistics 13 (2004).

    >>> tie_groups(["x", "y", "z"], [("x", "z")])
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    groups = [frozenset(policies)]
    for first, second in differing:
        split = [group - {name} for group in groups if {first, second} <= group for name in (first, second)]
        kept = [group for group in groups if not {first, second} <= group]
        for group in split:
            if not any(group <= other for other in kept):
                kept.append(group)
        groups = kept
    rank = {name: number for number, name in enumerate(policies)}
    groups.sort(key=lambda group: sorted(rank[name] for name in group))
    return {name: "".join(_letter(number) for number, group in enumerate(groups) if name in group) for name in policies}


def _letter(number: int) -> str:
    return _LETTERS[number] if number < len(_LETTERS) else f"({number + 1})"


def power_note(groups: Mapping[str, Sequence[EpisodeResult]]) -> str | None:
    """Returns how many patients and episodes would show a difference of five points in the median pair of a suite.

    Args:
        groups: results on one suite by policy.

    Returns:
        A sentence; None if no pair differs in a way that varies between patients.
    """
    found: list[tuple[int, int]] = []
    for pair in _matched_pairs(groups):
        first, second = ([float(result.success) for result in own] for own in pair.results.values())
        count = patients_needed(first, second, pair.patients)
        if count is not None:
            found.append((count, math.ceil(count * len(pair.patients) / len(set(pair.patients)))))
    if not found:
        return None
    patients, episodes = sorted(found)[len(found) // 2]
    return (
        f"to show a difference of 5 points between two policies with a probability of 80 %, {patients} patients "
        f"({episodes} episodes) are needed in the median pair, before the correction for the number of pairs."
    )


def patients_needed(
    first: ArrayLike, second: ArrayLike, patients: Sequence[str], difference: float = 0.05, power: float = 0.8
) -> int | None:
    """Returns how many patients, with as many episodes each, would show a difference between two policies.

    Args:
        first: success of the first policy in each episode ``(n,)``, 0 or 1.
        second: the same of the second policy, in the same episodes.
        patients: patient of each episode.
        difference: difference in success to be shown.
        power: probability that it is shown, without a correction for the number of comparisons.

    Returns:
        The number; None if the difference does not vary between the patients, or for one patient.

    Source: the normal approximation of the paired t test, with the patient as its unit, as in Julious, "Sample sizes
    for clinical trials" (2010), chapter 4.

    >>> patients_needed([1, 1, 0, 1], [0, 1, 1, 1], ["a", "b", "c", "d"])
    2094
    """
    paired = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    names = np.asarray(patients)
    means = [paired[names == name].mean() for name in dict.fromkeys(patients)]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    if spread == 0:
        return None
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(power)
    return max(2, math.ceil((quantiles * spread / difference) ** 2))
