"""The comparison of a trained model with its start, on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.comparison import compare, policy_values
from carm_env.evaluation.comparison_report import comparison_page, limit_sentences, method_sentences
from carm_env.evaluation.pairing import match_episodes
from carm_env.evaluation.results import append_result
from carm_env.evaluation.results_files import read_files
from carm_env.evaluation.suite import Suite
from training._support.closed_loop import ClosedLoopSuite

METRICS = ("success", "exposures_per_success")
_RESAMPLES = 20_000


def compare_models(
    suite: Suite, models: Mapping[str, ChatModel], baseline: str, folder: Path, kept_exchanges: int = 0
) -> dict[str, float]:
    """Runs models on the same episodes, prints their paired differences and keeps the results.

    Args:
        suite: the episodes.
        models: models by the name of their policy.
        baseline: the name with which the others are compared.
        kept_exchanges: earlier exchanges that a prompt has.
        folder: receives ``NAME/episodes.jsonl`` for each model, for ``carm-env compare``.

    Returns:
        Success and exposures per success of each model, and the difference of the successes.
    """
    for name, model in models.items():
        path = folder / name / "episodes.jsonl"
        path.unlink(missing_ok=True)
        for result in ClosedLoopSuite(suite, policy=name, kept_exchanges=kept_exchanges).results(model):
            append_result(path, result)
    files = read_files([f"{name}={folder / name}" for name in models])
    suites, notes = match_episodes(files, common_only=True)
    contrasts = compare(suites, METRICS, baseline, _RESAMPLES)
    values = policy_values(suites, METRICS)
    method = [*method_sentences(contrasts, _RESAMPLES, 0), *limit_sentences(contrasts)]
    print(comparison_page(suites, values, contrasts, [*method, *notes]), flush=True)
    figures = {f"{item.policy}_{item.metric}": item.value for item in values if item.value is not None}
    for item in contrasts:
        if item.metric == "success" and item.difference is not None:
            figures["success_difference"] = item.difference
            if item.interval is not None:
                figures["success_difference_low"], figures["success_difference_high"] = item.interval
    return figures
