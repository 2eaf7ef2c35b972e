"""Scores, tables and the Markdown page of the leaderboard, computed from episode results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from carm_env.evaluation.episode_metrics import episode_scores, success_by, success_curves
from carm_env.evaluation.intervals import MIN_PATIENTS, mean_interval, proportion_interval
from carm_env.evaluation.results import EpisodeResult, by_policy_and_suite
from carm_env.evaluation.ties import power_note, success_differences, tie_groups
from carm_env.system.files import content_hash

Scores = dict[str, dict[str, dict[str, Any]]]
"""``{policy: {suite: {score: value}}}``."""
_HEADINGS = (
    "suite", "policy", "success", "95 % interval", "final mm (median)", "exposures", "dose mGy", "path eff.",
    "strict", "lenient", "unreadable", "abstained", "ms/decision",
)  # fmt: skip


def summarise(results: Sequence[EpisodeResult]) -> Scores:
    """Computes the scores of each policy on each suite, with their intervals.

    Raises:
        ValueError: the results of a suite come from different versions of it.
    """
    scores: Scores = {}
    for (policy, suite), group in by_policy_and_suite(results).items():
        hashes = sorted({result.suite_hash for result in group})
        if len(hashes) > 1:
            raise ValueError(
                f"results of {policy} on {suite} come from different versions of the suite ({', '.join(hashes)}): "
                "use one results folder per version."
            )
        scores.setdefault(policy, {})[suite] = _scores(group)
    return scores


def _scores(group: Sequence[EpisodeResult]) -> dict[str, Any]:
    patients = [result.patient for result in group]
    success = [float(result.success) for result in group]
    final = [result.final_distance_mm for result in group]
    exposures = [float(result.exposures) for result in group]
    steps = sum(max(result.steps, 1) for result in group)
    return {
        "in_words": any(result.prompts for result in group),
        "privileged": any(result.privileged_info for result in group),
        "episodes": len(group),
        "patients": len(set(patients)),
        "suite_version": group[0].suite_version,
        "suite_hash": group[0].suite_hash,
        "success": float(np.mean(success)),
        "success_interval": list(proportion_interval(success, patients)),
        "final_distance_mm": float(np.mean(final)),
        "final_distance_mm_interval": list(mean_interval(final, patients)),
        "final_distance_mm_median": float(np.median(final)),
        "exposures": float(np.mean(exposures)),
        "exposures_interval": list(mean_interval(exposures, patients)),
        "dose_mgy": float(np.mean([result.dose_mgy for result in group])),
        "path_efficiency": float(np.mean([result.path_efficiency for result in group])),
        "invalid_answers": sum(result.invalid_answers for result in group) / steps,
        "lenient_answers": sum(result.lenient_answers for result in group) / steps,
        "abstained": float(np.mean([result.outcome == "abstained" for result in group])),
        "timeouts": float(np.mean([result.outcome == "timeout" for result in group])),
        "crashes": float(np.mean([result.outcome == "crash" for result in group])),
        "latency_ms": float(np.mean([result.latency_ms for result in group])),
        "tokens": sum(result.prompt_tokens + result.tokens for result in group) / len(group),
        "cost": sum(result.cost for result in group),
        **episode_scores(group),
        "success_by": success_by(group),
        "success_curves": success_curves(group),
    }


def paired_differences(results: Sequence[EpisodeResult]) -> list[dict[str, Any]]:
    """Computes, for each suite and pair of policies, the difference in success on the episodes that both ran.

    `p_holm` is corrected for the number of pairs of the suite; ``better`` is None for a tie.
    """
    return [
        {
            "suite": suite,
            "first": found.first,
            "second": found.second,
            "episodes": found.episodes,
            "patients": found.patients,
            "success_difference": found.difference,
            "interval": list(found.interval),
            "p_holm": found.p_holm,
            "better": found.better,
        }
        for suite, groups in _by_suite(results).items()
        for found in success_differences(groups)
    ]


def _by_suite(results: Sequence[EpisodeResult]) -> dict[str, dict[str, list[EpisodeResult]]]:
    suites: dict[str, dict[str, list[EpisodeResult]]] = {}
    for (policy, suite), group in by_policy_and_suite(results).items():
        suites.setdefault(suite, {})[policy] = group
    return suites


def tie_letters(scores: Scores, differences: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns the letters of the groups of policies that cannot be told apart, ``{suite: {policy: letters}}``.

    Args:
        scores: from `summarise`.
        differences: from `paired_differences`; those without a corrected p value, of few patients or of
            earlier commits, are left out.
    """
    letters = {}
    for suite in _suites(scores):
        ranked = sorted((name for name in scores if suite in scores[name]), key=_rank(scores, suite))
        own = [row for row in differences if row["suite"] == suite and row.get("p_holm") is not None]
        if own:
            letters[suite] = tie_groups(ranked, [(row["first"], row["second"]) for row in own if row["better"]])
    return letters


def leaderboard_table(scores: Scores, letters: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Formats the scores as a Markdown table, best policy first; ``*`` marks policies with privileged information.

    Args:
        scores: from `summarise`.
        letters: from `tie_letters`; by default the table has no column for them.
    """
    rows = []
    for suite in _suites(scores):
        for name in sorted((name for name in scores if suite in scores[name]), key=_rank(scores, suite)):
            value = scores[name][suite]
            rows.append(
                (
                    plain_text(suite),
                    plain_text(name) + ("*" if value["privileged"] else ""),
                    f"{value['success']:.0%}",
                    interval_cell(value["success_interval"], value["patients"]),
                    *([] if letters is None else [letters.get(suite, {}).get(name, "-")]),
                    f"{value['final_distance_mm']:.0f} ({value['final_distance_mm_median']:.0f})",
                    f"{value['exposures']:.1f}",
                    f"{value['dose_mgy']:.2f}",
                    f"{value['path_efficiency']:.2f}",
                    *_answer_shares(value),
                    f"{value['abstained']:.0%}",
                    f"{value['latency_ms']:.2f}",
                )
            )
    return markdown_table(_HEADINGS if letters is None else (*_HEADINGS[:4], "tie group", *_HEADINGS[4:]), rows)


def _suites(scores: Scores) -> list[str]:
    return list(dict.fromkeys(suite for suites in scores.values() for suite in suites))


def _answer_shares(value: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns the shares of strict, only leniently valid and unreadable answers of a policy that answers in words."""
    lenient, invalid = value["lenient_answers"], value["invalid_answers"]
    if not (value["in_words"] or invalid):
        return "-", "-", "-"
    return f"{1 - lenient - invalid:.0%}", f"{lenient:.0%}", f"{invalid:.0%}"


def _rank(scores: Scores, suite: str) -> Callable[[str], tuple[float, float, str]]:
    return lambda name: (-scores[name][suite]["success"], scores[name][suite]["final_distance_mm"], name)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table with aligned columns."""
    widths = [max(len(str(row[i])) for row in [headings, *rows]) for i in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MARKDOWN = re.compile(r"([\\`*|\[\]])")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def plain_text(text: object) -> str:
    r"""Returns a text that Markdown and HTML show as it is, in one line: for names of files, people and models.

    >>> plain_text("a|b <script>")
    'a\\|b &lt;script&gt;'
    >>> plain_text("mllm?a=1&b=2 &amp;")
    'mllm?a=1&b=2 &amp;amp;'
    """
    escaped = _ENTITY.sub("&amp;", _CONTROL.sub(" ", str(text))).replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", escaped)


def distinct_runs(results: Sequence[EpisodeResult]) -> list[dict[str, Any]]:
    """Returns the runs that produced the results: one for each commit, set of versions and machine."""
    runs: dict[str, dict[str, Any]] = {}
    for result in results:
        same = {key: value for key, value in result.run.items() if key not in ("date", "seed")}
        runs.setdefault(content_hash(same), result.run)
    return list(runs.values())


def _run_line(run: Mapping[str, Any]) -> str:
    installed = run.get("packages")
    packages = (
        ", ".join(f"{name} {version}" for name, version in installed.items()) if isinstance(installed, dict) else "?"
    )
    date, seed, git, python, processor, cpus = (
        run.get(key, "?") for key in ("date", "seed", "git", "python", "processor", "cpus")
    )
    return plain_text(f"{date}, seed {seed}, commit {git}, {packages}, Python {python}, {processor} ({cpus} CPUs).")


def _privileged_sentence(results: Sequence[EpisodeResult]) -> str:
    keys = {result.policy: ", ".join(result.privileged_info) for result in results if result.privileged_info}
    if not keys:
        return ""
    return f"`*` reads the true state ({'; '.join(plain_text(f'{name}: {known}') for name, known in keys.items())}). "


def leaderboard_page(results: Sequence[EpisodeResult], scores: Scores) -> str:
    """Formats the Markdown page of a leaderboard."""
    differences = paired_differences(results)
    parts = [
        "# Leaderboard",
        leaderboard_table(scores, tie_letters(scores, differences)),
        f"{_privileged_sentence(results)}"
        'Success: "aligned" was declared within the tolerance. Intervals are 95 % and clustered by patient; there is '
        f'none for fewer than {MIN_PATIENTS} patients. Policies with a common letter in the column "tie group" are '
        "not shown to differ. "
        "Exposures include the first; dose is reference air kerma; path efficiency is 0 for a failure. Answers of a "
        "language model are in the exact form (strict), could be read in another form (lenient), or are unreadable.",
    ]
    if differences:
        parts += ["## Paired differences on the same episodes", _differences_table(differences), *_power(results)]
    parts += [
        "## Provenance",
        *(_run_line(run) for run in distinct_runs(results)),
        "The virtual patients are variations of one skeleton: the scores do not transfer to people. "
        "Research software, not a medical device.",
    ]
    return "\n\n".join(parts) + "\n"


def _differences_table(differences: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            plain_text(row["suite"]),
            plain_text(f"{row['first']} - {row['second']}"),
            str(row["episodes"]),
            f"{100 * row['success_difference']:+.0f}",
            _difference_interval(row),
            p_cell(row["p_holm"]),
            plain_text(row["better"] or ("-" if row["p_holm"] is None else "tie")),
        )
        for row in differences
    ]
    headings = (
        "suite", "pair", "episodes", "success difference (points)", "95 % interval", "corrected p", "better",
    )  # fmt: skip
    return markdown_table(headings, rows)


def _difference_interval(row: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in row["interval"])
    return interval_cell((low, high), row["patients"], "no spread" if low == high else "{:+.0f} to {:+.0f}")


def _power(results: Sequence[EpisodeResult]) -> list[str]:
    """Returns a sentence for each suite on the number of episodes that would show a difference of five points."""
    sentences = []
    for suite, groups in _by_suite(results).items():
        found = power_note(groups)
        if found is not None:
            sentences.append(f"{plain_text(suite)}: {found}")
    return sentences


def interval_cell(interval: Sequence[float], patients: int, form: str = "{:.0%}-{:.0%}") -> str:
    """Formats an interval for a table; a dash for fewer than `MIN_PATIENTS` patients.

    Args:
        interval: lower and upper bound.
        patients: number of patients that the interval is from.
        form: format of the bounds.

    >>> interval_cell((0.25, 0.75), 5), interval_cell((0.25, 0.75), 4)
    ('25%-75%', '-')
    """
    return form.format(*interval) if patients >= MIN_PATIENTS else "-"


def p_cell(value: float | None) -> str:
    """Formats a p value for a table; a dash for none.

    >>> p_cell(0.0312), p_cell(1e-5), p_cell(None)
    ('0.031', '<0.001', '-')
    """
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def share_cell(share: Mapping[str, Any] | None) -> str:
    """Formats a share for a table, with its interval unless it is from too few patients; a dash for none.

    Args:
        share: fields of `carm_env.evaluation.intervals.Estimate`.

    >>> share = {"value": 0.5, "low": 0.25, "high": 0.75, "views": 8, "patients": 8}
    >>> share_cell(share), share_cell({**share, "patients": 4}), share_cell(None)
    ('50% (25%-75%)', '50%', '-')
    """
    if share is None:
        return "-"
    interval = interval_cell((share["low"], share["high"]), share["patients"])
    return f"{share['value']:.0%}" + (f" ({interval})" if interval != "-" else "")
