"""Results of our policies on single X-rays, from files of ``benchmarks/localization.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks._support.paper_tables import RETRIEVAL_METRICS
from carm_env.system.structured_files import read_json

RESULTS = Path(__file__).parents[1] / "results"


def own_results(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Returns the metrics of our policies by name, from results of ``benchmarks/localization.py``.

    Args:
        paths: the files; empty for the newest of each policy in the repository.
    """
    newest = {path.name: path for path in sorted(RESULTS.glob("*/localization_*.json")) if "grpo_" not in path.name}
    ours = {}
    for path in paths or newest.values():
        values = read_json(path)
        names = (*RETRIEVAL_METRICS, "centred_h_at_1", "centred_h_at_2")
        figures = {name: values[name]["value"] for name in names if isinstance(values.get(name), dict)}
        if not figures or "policy" not in values:
            raise ValueError(f"{path} holds no metrics, expected a file of benchmarks/localization.py --json.")
        date = values["run"]["date"][:10] if "run" in values else "no date"
        ours[f"{values['policy']} (ours, {date})"] = figures
    return ours
