"""Simulate how often the 95 % intervals of success rates hold the truth, with few patients.

    python benchmarks/interval_coverage.py --json i.json

Each trial draws the success rate of every patient from a beta distribution around the population's rate, and the
episodes of the patient with that rate. The intraclass correlation is how alike the episodes of one patient are. Two
intervals are computed from the same episodes: ours (`carm_env.evaluation.intervals.proportion_interval`, Wilson's with
the effective sample size of Korn and Graubard), and the hierarchical bootstrap. The table shows the share of the trials
whose interval holds the population's rate, and the mean width.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.evaluation.intervals import bootstrap_interval, proportion_interval
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.system.command_line import run_script

INTERVALS = ("effective size", "bootstrap")


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        patients: numbers of patients.
        episodes: episodes of each patient.
        rates: success rates of the population, between 0 and 1.
        correlations: intraclass correlations of the episodes of one patient, 0 to below 1.
        trials: trials for each combination.
        resamples: resamples of each bootstrap.
        seed: seed of the trials.
        json: file for the results.
    """

    patients: tuple[int, ...] = (10, 30)
    episodes: int = 10
    rates: tuple[float, ...] = (0.5, 0.8, 0.9)
    correlations: tuple[float, ...] = (0.0, 0.1, 0.3)
    trials: int = 1000
    resamples: int = 500
    seed: int = 0
    json: Path | None = None

    def __post_init__(self) -> None:
        for name in ("episodes", "trials", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1.")
        for count in self.patients:
            if count < 2:
                raise ValueError(f"--patients is {count}, expected at least 2: one patient shows no variance.")
        for rate in self.rates:
            if not 0 < rate < 1:
                raise ValueError(f"--rates is {rate}, expected between 0 and 1.")
        for correlation in self.correlations:
            if not 0 <= correlation < 1:
                raise ValueError(f"--correlations is {correlation}, expected 0 to below 1.")


def simulate(arguments: Arguments, patients: int, rate: float, correlation: float) -> dict[str, Any]:
    """Returns coverage and mean width of each of `INTERVALS` for one combination."""
    rng = np.random.default_rng([arguments.seed, patients, round(1e6 * rate), round(1e6 * correlation)])
    names = np.repeat([str(number) for number in range(patients)], arguments.episodes).tolist()
    inside: dict[str, list[bool]] = {name: [] for name in INTERVALS}
    widths: dict[str, list[float]] = {name: [] for name in INTERVALS}
    for trial in range(arguments.trials):
        rates = np.full(patients, rate)
        if correlation:
            weight = 1 / correlation - 1
            rates = rng.beta(rate * weight, (1 - rate) * weight, patients)
        successes = (rng.random((patients, arguments.episodes)) < rates[:, None]).astype(float).ravel()
        found = {
            "effective size": proportion_interval(successes, names),
            "bootstrap": bootstrap_interval(successes, names, arguments.resamples, trial),
        }
        for name, (low, high) in found.items():
            inside[name].append(low <= rate <= high)
            widths[name].append(high - low)
    return {
        name: {"coverage": float(np.mean(inside[name])), "width": float(np.mean(widths[name]))} for name in INTERVALS
    }


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the coverages and widths."""
    columns = [f"{name}: {part}" for name in INTERVALS for part in ("coverage", "width")]
    cells = [
        (
            str(row["patients"]),
            f"{row['rate']:g}",
            f"{row['correlation']:g}",
            *(f"{100 * row[name][part]:.1f} %" for name in INTERVALS for part in ("coverage", "width")),
        )
        for row in rows
    ]
    return markdown_table(("patients", "success rate", "correlation", *columns), cells)


def run(arguments: Arguments) -> None:
    """Simulates every combination, prints the table and saves it."""
    rows = [
        {"patients": patients, "rate": rate, "correlation": correlation}
        | simulate(arguments, patients, rate, correlation)
        for patients in arguments.patients
        for rate in arguments.rates
        for correlation in arguments.correlations
    ]
    print(report(rows))
    about = {"trials": arguments.trials, "episodes": arguments.episodes, "resamples": arguments.resamples}
    save_measurement(arguments.json, {**about, "rows": rows}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
