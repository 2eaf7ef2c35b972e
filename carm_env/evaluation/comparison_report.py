"""The Markdown page of a comparison, and the sentences that say how it was computed and what it does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from carm_env.evaluation.aggregates import THRESHOLDS, Improvement, PolicyAggregate
from carm_env.evaluation.comparison import ALPHA, METRICS, Contrast, Interval, PolicyValue
from carm_env.evaluation.pairing import MatchedSuite, printable
from carm_env.evaluation.permutation import MAX_EXACT_CLUSTERS
from carm_env.evaluation.report import markdown_table, p_cell

OfSuite = TypeVar("OfSuite", PolicyValue, Contrast, PolicyAggregate, Improvement)
NO_VALUE = "-"
_VERDICTS = {
    "tie": "tie",
    "not shown": f"not shown (p > {ALPHA:g})",
    "one patient": "one patient, no interval",
    "undefined": "undefined, no success",
}


def correction_sentence(contrasts: Sequence[Contrast]) -> str:
    """Returns how many tests the p values are corrected for."""
    families = {METRICS[metric].title: count for metric, count in _tests(contrasts).items() if count}
    if not families:
        return "No test was possible."
    counts = sorted(set(families.values()))
    if len(counts) == 1:
        return f"Corrected p values: Holm, number of tests for each metric: {counts[0]}."
    listed = ", ".join(f"{title} {count}" for title, count in families.items())
    return f"Corrected p values: Holm, number of tests for each metric: {listed}."


def method_sentences(contrasts: Sequence[Contrast], resamples: int, seed: int) -> list[str]:
    """Returns how the figures were computed, and what they mean.

    Args:
        contrasts: the contrasts.
        resamples: number of random swaps per test.
        seed: seed of the swaps.
    """
    most = max((contrast.patients for contrast in contrasts), default=0)
    swaps = "all swaps" if most <= MAX_EXACT_CLUSTERS else f"{resamples} random swaps, seed {seed}"
    sentences = [
        "Difference: first minus second on the same episodes. Intervals are 95 %, clustered by patient, and not "
        "corrected for the number of comparisons.",
        f"p: permutation test that swaps the two policies patient by patient ({swaps}). "
        f"{correction_sentence(contrasts)}",
        "Effect: mean difference of the patients divided by its standard deviation between patients.",
        f"A policy is better if the interval excludes 0 and the corrected p value is at most {ALPHA:g}. Tie: the "
        "interval contains 0, so that no difference is shown. This is not evidence that the policies are equal: every "
        "difference inside the interval remains possible.",
    ]
    metrics = dict.fromkeys(contrast.metric for contrast in contrasts)
    if "exposures_per_success" in metrics:
        sentences.append(
            "Exposures per success: all exposures, also of failures, divided by the number of successes; paired by "
            "patient."
        )
    if any(METRICS[name].both_succeeded for name in metrics):
        sentences.append(
            '"Both succeeded": only episodes that both policies of a pair solved, which differ between pairs. All '
            "other metrics: all matched episodes."
        )
    return sentences


def limit_sentences(contrasts: Sequence[Contrast]) -> list[str]:
    """Returns sentences on contrasts that could not have shown a difference, and on intervals that say nothing."""
    families = _tests(contrasts)
    sentences = []
    tested = [contrast for contrast in contrasts if contrast.p_value is not None]
    for patients in sorted({contrast.patients for contrast in tested}):
        tests = max(families[contrast.metric] for contrast in tested if contrast.patients == patients)
        smallest = 2.0 ** (1 - patients)
        if smallest * tests > ALPHA:
            sentences.append(
                f"With {patients} patients no p value is below {smallest:.2g}, before the correction for "
                f"{count(tests, 'test')}: too few patients to show a difference. Use more patients or fewer "
                "comparisons (--baseline, --policies, --suite)."
            )
    if any(contrast.verdict == "one patient" for contrast in contrasts):
        sentences.append(
            "Episodes of one patient give no interval and no test, because they say nothing about other patients."
        )
    if any(_has_no_width(contrast.interval) for contrast in contrasts):
        sentences.append(
            '"no spread": the difference is the same on all patients, so that its interval has no width. This does not '
            "mean that it is certain."
        )
    return sentences


def _tests(contrasts: Sequence[Contrast]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for contrast in contrasts:
        counts[contrast.metric] = counts.get(contrast.metric, 0) + (contrast.p_value is not None)
    return counts


def comparison_page(
    suites: Sequence[MatchedSuite],
    values: Sequence[PolicyValue],
    contrasts: Sequence[Contrast],
    sentences: Sequence[str],
    aggregates: Sequence[PolicyAggregate] = (),
    improvements: Sequence[Improvement] = (),
) -> str:
    """Formats a comparison as Markdown, one section per suite; policies keep the order in which they were given."""
    parts = ["# Comparison"]
    for suite in suites:
        patients = suite.patients
        parts += [
            f"## {printable(suite.suite)}",
            f"{count(len(patients), 'matched episode')}, {count(len(set(patients)), 'patient')}, suite hash "
            f"{suite.suite_hash}.",
            _values_table(_of(suite, values)),
            _contrasts_table(_of(suite, contrasts)),
            *_aggregate_tables(_of(suite, aggregates), _of(suite, improvements)),
        ]
    parts.append("\n".join(f"- {printable(sentence)}" for sentence in sentences))
    return "\n\n".join(part for part in parts if part) + "\n"


def _of(suite: MatchedSuite, items: Sequence[OfSuite]) -> list[OfSuite]:
    return [item for item in items if (item.suite, item.suite_hash) == (suite.suite, suite.suite_hash)]


def _values_table(values: Sequence[PolicyValue]) -> str:
    metrics = list(dict.fromkeys(item.metric for item in values))
    rows: dict[str, list[str]] = {}
    for item in values:
        interval = f" ({_range(item.metric, item.interval)})" if item.interval else ""
        row = rows.setdefault(item.policy, [_cell(item.policy)])
        row.append(_number(item.metric, item.value) + interval)
    return markdown_table(["policy", *map(metric_title, metrics)], list(rows.values())) if rows else ""


def _contrasts_table(contrasts: Sequence[Contrast]) -> str:
    headings = ("metric", "first", "second", "difference", "95 % interval", "p", "corrected p", "effect", "verdict")
    rows = [
        (metric_title(item.metric), _cell(item.first), _cell(item.second), *contrast_cells(item), _cell(verdict(item)))
        for item in contrasts
    ]
    return markdown_table(headings, rows) if rows else ""


def _aggregate_tables(aggregates: Sequence[PolicyAggregate], improvements: Sequence[Improvement]) -> list[str]:
    if not aggregates:
        return []
    policies = [
        (
            metric_title(item.metric),
            _cell(item.policy),
            _number(item.metric, item.iqm),
            _range(item.metric, item.interval),
        )
        for item in aggregates
    ]
    pairs = [
        (
            metric_title(item.metric),
            _cell(item.first),
            _cell(item.second),
            f"{item.probability:.2f}",
            f"{item.interval[0]:.2f} to {item.interval[1]:.2f}" if item.interval else NO_VALUE,
        )
        for item in improvements
    ]
    parts = [
        "Aggregates over patients (rliable). The score of a patient is the mean over its episodes. The intervals are a "
        "bootstrap of patients, which is too narrow for few of them:",
        markdown_table(("metric", "policy", "interquartile mean", "95 % interval"), policies),
        markdown_table(("metric", "first", "second", "probability that the first is better", "95 % interval"), pairs),
    ]
    profiles = [
        (_cell(item.policy), *(f"{share:.0%}" for share in item.profile)) for item in aggregates if item.profile
    ]
    if profiles:
        headings = ("policy", *(f"> {threshold:.0%}" for threshold in THRESHOLDS))
        parts += [
            "Performance profile, share of patients with a success rate above:",
            markdown_table(headings, profiles),
        ]
    return parts


def count(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> count(1, "patient"), count(2, "patient")
    ('1 patient', '2 patients')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def metric_title(metric: str) -> str:
    """Returns the title of a metric with its unit."""
    unit = METRICS[metric].unit
    return f"{METRICS[metric].title}, {unit}" if unit else METRICS[metric].title


def contrast_cells(item: Contrast) -> tuple[str, str, str, str, str]:
    """Returns difference, interval, p value, corrected p value and effect size as text."""
    return (
        _number(item.metric, item.difference, "+"),
        "no spread" if _has_no_width(item.interval) else _range(item.metric, item.interval, "+"),
        p_cell(item.p_value),
        p_cell(item.p_holm),
        NO_VALUE if item.effect_size is None else f"{item.effect_size:+.2f}",
    )


def verdict(item: Contrast) -> str:
    """Returns the verdict of a contrast as text."""
    return f"{item.better} better" if item.better else _VERDICTS[item.verdict]


def _has_no_width(interval: Interval | None) -> bool:
    return interval is not None and interval[0] == interval[1]


def _number(metric: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return NO_VALUE
    shown = f"{METRICS[metric].factor * value:{sign}.{METRICS[metric].decimals}f}"
    # A zero has no sign.
    return shown if float(shown) else shown.lstrip("+-")


def _range(metric: str, interval: Interval | None, sign: str = "") -> str:
    return f"{_number(metric, interval[0], sign)} to {_number(metric, interval[1], sign)}" if interval else NO_VALUE


def _cell(text: str) -> str:
    """A name in a Markdown table."""
    return printable(text).replace("|", r"\|")
