"""Measure how abstention lowers the share of wrong declarations, and what it costs.

    python benchmarks/abstention.py --policy conformal --suite uniform --json a.json
    python benchmarks/abstention.py --patients standard/calibration diverse/calibration --max-wrong 0.08

Each episode runs once without abstention. The policy's confidence when it declares "aligned" is what it would abstain
by: with a limit, the episodes that are less certain are handed back. The curve shows the failure rate of the remaining
episodes for every limit. The lowest limit is given at which the share of all episodes that end with a wrong declaration
is at most ``--max-wrong``; a policy takes it as ``abstain_below``, and it should come from calibration patients. Writes
``abstention.png`` to ``--out``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks._support.policy_argument import checkpoint_of
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.recipes import suite_on
from carm_env.evaluation.report import interval_cell, share_cell
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.evaluation.uncertainty import area_estimate, risk_coverage, risk_estimate, save_risk_coverage
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients, load_outlines
from carm_env.system.command_line import run_script
from policies.conformal import ABSTAIN_BELOW, KIND, ConformalPolicy

_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class DeclaredEpisode(NamedTuple):
    """An episode without abstention.

    Attributes:
        patient: the patient.
        confidence: confidence at the declaration; 0 without a declaration.
        success: whether the declaration was right.
        wrong: whether it was wrong.
    """

    patient: str
    confidence: float
    success: bool
    wrong: bool


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: conformal, or conformal:CHECKPOINT.
        suite: name of a suite, or a YAML file.
        patients: draw the suite on these patients.
        episodes: run only the first N episodes.
        max_wrong: share of all episodes that may end with a wrong declaration, 0 to 1.
        seed: seed of the first episode; episode i has seed + i.
        out: folder for the curve.
        json: file for the results.
    """

    policy: str = KIND
    suite: str = "uniform"
    patients: tuple[str, ...] = ()
    episodes: int | None = None
    max_wrong: float = 0.08
    seed: int = 0
    out: Path = Path("runs/abstention")
    json: Path | None = None


def run_episodes(policy: ConformalPolicy, suite: Suite, episodes: int, seed: int) -> list[DeclaredEpisode]:
    """Runs the first episodes of a suite with a policy that does not abstain."""
    env = suite_environment(suite)
    rows = []
    for number in tqdm(sorted(range(episodes), key=lambda index: suite.episodes[index].patient), unit="episode"):
        result = run_episode(policy, env, EpisodeTask(suite, number, KIND, seed + number))
        declared = result.outcome in ("success", "misaligned")
        confidence = policy.confidence if declared else 0.0
        rows.append(DeclaredEpisode(result.patient, confidence, result.success, declared and not result.success))
    return rows


def measure(rows: Sequence[DeclaredEpisode], max_wrong: float) -> dict[str, Any]:
    """Returns the failure rate of the remaining episodes at some shares, outcomes at three limits, and the curve."""
    patients = [row.patient for row in rows]
    doubt, failed = [1 - row.confidence for row in rows], [float(not row.success) for row in rows]
    coverage, risk = risk_coverage(doubt, failed)
    ordered = sorted(doubt)
    kept: list[dict[str, Any]] = [
        {
            "kept": share,
            "abstain_below": 1 - ordered[math.ceil(share * len(ordered)) - 1],
            "failed": risk_estimate(doubt, failed, patients, share)._asdict(),
        }
        for share in _SHARES
    ]
    return {
        "kept": kept,
        "area": area_estimate(doubt, failed, patients)._asdict(),
        "monotone": all(a["failed"]["value"] <= b["failed"]["value"] for a, b in zip(kept, kept[1:], strict=False)),
        "without_abstention": _outcomes(rows, 0.0),
        "as_shipped": _outcomes(rows, ABSTAIN_BELOW),
        "at_max_wrong": _outcomes(rows, lowest_limit(rows, max_wrong)),
        "max_wrong": max_wrong,
        "curve": (coverage, 100 * risk),
    }


def lowest_limit(rows: Sequence[DeclaredEpisode], max_wrong: float) -> float:
    """Returns the lowest confidence below which to abstain so that at most this share of all episodes is wrong.

    >>> rows = [DeclaredEpisode("a", 0.1 * n, n > 2, n <= 2) for n in range(1, 5)]
    >>> lowest_limit(rows, 0.5), lowest_limit(rows, 0.25), round(lowest_limit(rows, 0.0), 2)
    (0.0, 0.2, 0.3)
    """
    for limit in (0.0, *sorted({row.confidence for row in rows})):
        if sum(row.wrong and row.confidence >= limit for row in rows) <= max_wrong * len(rows):
            return limit
    return 1.0


def _outcomes(rows: Sequence[DeclaredEpisode], limit: float) -> dict[str, Any]:
    patients = [row.patient for row in rows]
    kept = [row.confidence >= limit for row in rows]
    outcomes = {
        "success": [row.success and is_kept for row, is_kept in zip(rows, kept, strict=True)],
        "wrong": [row.wrong and is_kept for row, is_kept in zip(rows, kept, strict=True)],
        "handed_back": [not is_kept for is_kept in kept],
    }
    shares = {name: estimate([float(flag) for flag in flags], patients)._asdict() for name, flags in outcomes.items()}
    return {"abstain_below": limit, **shares}


def report(found: dict[str, Any]) -> str:
    """Formats the curve at some shares, and the outcomes without abstention and at the limit."""
    lines = [f"{'kept':>5} {'confidence from':>16} {'failed':>7}  95 % interval"]
    for row in found["kept"]:
        failed = row["failed"]
        bounds = max(failed["low"], 0), min(failed["high"], 1)
        lines.append(
            f"{100 * row['kept']:4.0f}% {row['abstain_below']:16.2f} {100 * failed['value']:6.1f}%  "
            f"{interval_cell(bounds, failed['patients'], '{:.0%} - {:.0%}')}"
        )
    lines.append(f"monotone at these shares: {'yes' if found['monotone'] else 'no'}")
    for name in ("without_abstention", "as_shipped", "at_max_wrong"):
        outcomes = found[name]
        shares = ", ".join(f"{key} {share_cell(outcomes[key])}" for key in ("success", "wrong", "handed_back"))
        lines.append(f"abstain_below {outcomes['abstain_below']:.2f}: {shares}")
    return "\n".join(lines)


def _suite(arguments: Arguments) -> Suite:
    if not arguments.patients:
        return load_suite(arguments.suite)
    names = expand_patients(arguments.patients)
    prepare_patients(names, default_workers())
    return suite_on(arguments.suite, load_outlines(names))[0]


def run(arguments: Arguments) -> None:
    """Measures, prints and saves the curve."""
    folder = checkpoint_of(arguments.policy, KIND)
    suite = _suite(arguments)
    count = len(suite.episodes) if arguments.episodes is None else arguments.episodes
    if not 1 <= count <= len(suite.episodes):
        raise ValueError(f"--episodes is {count}, expected 1 to {len(suite.episodes)}.")
    if not 0 <= arguments.max_wrong <= 1:
        raise ValueError(f"--max-wrong is {arguments.max_wrong}, expected 0 to 1.")
    policy = ConformalPolicy(folder, abstain_below=0.0)
    prepare_patients(suite.patients, default_workers())
    found = measure(run_episodes(policy, suite, count, arguments.seed), arguments.max_wrong)
    print(report(found))
    coverage, risk = found.pop("curve")
    about = {"policy": arguments.policy, "suite": suite.name, "suite_hash": suite.hash, "episodes": count}
    save_measurement(arguments.json, {**about, **found}, arguments.seed)
    with drawing("abstention.png"):
        labels = "episodes without abstention, most certain first, %", "failed episodes among these, %"
        save_risk_coverage(arguments.out / "abstention.png", coverage, risk, *labels)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
