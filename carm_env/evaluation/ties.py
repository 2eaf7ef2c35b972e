"""Policies of a leaderboard that cannot be told apart, and how many episodes would tell them apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from carm_env.evaluation.comparison import ALPHA
from carm_env.evaluation.intervals import MIN_PATIENTS, mean_interval, mean_p_value
from carm_env.evaluation.pairing import MatchedSuite
from carm_env.evaluation.permutation import holm
from carm_env.evaluation.results import EpisodeResult

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class SuccessDifference:
    """The difference in success between two policies on the episodes of a suite that both ran.

    Attributes:
        first: name of the first policy.
        second: name of the second policy.
        episodes: number of these episodes.
        patients: number of their patients.
        difference: success of the first policy minus that of the second.
        interval: 95 % interval of the difference, clustered by patient.
        p_holm: p value, corrected for the number of pairs of the suite; None for fewer than `MIN_PATIENTS` patients.
        better: name of the policy that is shown to be better; None for a tie.
    """

    first: str
    second: str
    episodes: int
    patients: int
    difference: float
    interval: tuple[float, float]
    p_holm: float | None
    better: str | None


def success_differences(groups: Mapping[str, Sequence[EpisodeResult]]) -> list[SuccessDifference]:
    """Compares the success of all pairs of policies on a suite.

    The p values are those of the interval, Student's t with the patient as its unit, corrected by Holm for the number
    of pairs. The permutation test of `carm_env.evaluation.comparison` needs no distribution, but with ten patients no
    p value of it is below 0.002, too high for dozens of pairs.

    Args:
        groups: results on one suite by policy.
    """
    found: list[SuccessDifference] = []
    p_values: list[float | None] = []
    for pair in _matched_pairs(groups):
        (first, own), (second, other) = pair.results.items()
        values = [float(a.success) - float(b.success) for a, b in zip(own, other, strict=True)]
        interval = mean_interval(values, pair.patients)
        about = first, second, len(values), len(set(pair.patients)), float(np.mean(values)), interval
        found.append(SuccessDifference(*about, None, None))
        p_values.append(mean_p_value(values, pair.patients) if found[-1].patients >= MIN_PATIENTS else None)
    known = [number for number, value in enumerate(p_values) if value is not None]
    for number, p_holm in zip(known, holm([p_values[number] or 0.0 for number in known]), strict=True):
        one = found[number]
        better = (one.first if one.difference > 0 else one.second) if p_holm <= ALPHA else None
        found[number] = replace(one, p_holm=p_holm, better=better)
    return found


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
