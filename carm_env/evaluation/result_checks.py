"""Checks of results against the suites that they are of, without a replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from carm_env.actions import ALIGNED
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.shifts import Shift, shifted_environment, split_suite_name
from carm_env.evaluation.suite import Suite, load_suite, suite_names
from carm_env.system.errors import shortened


def package_suites() -> dict[str, Suite]:
    """Returns the suites of the package by name, also under the shifts that keep their patients."""
    suites = {name: load_suite(name) for name in suite_names()}
    shifts = [shift for shift in Shift.parse("all") if not shift.change.renames]
    shifted = [shifted_environment(suite, shift) for suite in suites.values() for shift in shifts]
    return suites | {suite.name: suite for suite in shifted}


def suite_fault(name: str, suite_hash: str, suites: Mapping[str, Suite]) -> str:
    """Returns why results are not of a known suite; empty if they are.

    Args:
        name: name of the suite in the results.
        suite_hash: hash of the suite in the results.
        suites: the known suites by name.
    """
    if name not in suites:
        listed = ", ".join(known for known in suites if split_suite_name(known)[1] is None)
        return f"suite {shortened(name)} is not one of the package ({listed})."
    if suites[name].hash != suite_hash:
        return (
            f"suite {name} has the hash {shortened(suite_hash)}, expected {suites[name].hash}: it was edited, or "
            "is of another version of carm-env."
        )
    return ""


def completeness_faults(suite: Suite, results: Sequence[EpisodeResult]) -> Iterator[str]:
    """Yields a sentence for each difference between the episodes of a suite and those of one policy's results on it."""
    expected = set(range(len(suite.episodes)))
    episodes = [result.episode for result in results]
    if missing := sorted(expected - set(episodes)):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        yield f"suite {suite.name} lacks {len(missing)} of {len(expected)} episodes: {shown}."
    if unknown := sorted(set(episodes) - expected):
        yield f"suite {suite.name} has no episode {unknown[0]}."
    if len(set(episodes)) < len(episodes):
        yield f"suite {suite.name}: an episode has several results."
    first = {result.seed - result.episode for result in results}
    if len(first) > 1:
        yield f"suite {suite.name}: the seed of episode i is s + i, with one s for all; s has {len(first)} values."


def impossible_steps(result: EpisodeResult, suite: Suite) -> str:
    """Returns why no episode of a suite can have this number of steps and moves; empty if one can."""
    n_moves, most = len(result.moves), suite.max_steps
    without_move = result.steps - n_moves
    if not 0 <= n_moves <= result.steps <= most:
        return f"{n_moves} moves in {result.steps} steps, expected at most as many moves as steps and {most} steps."
    if result.outcome in ("success", "misaligned") and (not n_moves or result.moves[-1] != ALIGNED.index):
        return f"outcome is {result.outcome}, but the last move is not a declaration of alignment."
    if result.outcome == "crash" and not result.error:
        return "outcome is crash, but there is no error."
    if result.outcome == "timeout" and not result.error and result.steps != most:
        return f"outcome is timeout after {result.steps} steps, expected {most}."
    if without_move > result.invalid_answers + (result.outcome in ("abstained", "crash")):
        return f"{result.steps} steps hold {n_moves} moves and {result.invalid_answers} invalid answers."
    return ""
