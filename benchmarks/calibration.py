"""Measure the coverage and the size of conformal regions, and the risk-coverage curve.

    python benchmarks/calibration.py --policy conformal --json c.json

For each level and landmark: the share of views of held-out patients whose true displacement is inside the region, and
the size of the region (radius of a circle of equal area). The risk-coverage curve shows the error of the closest
landmark's displacement if only the most certain views are answered. Writes ``risk_coverage.png`` to ``--out``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.policy_argument import checkpoint_of
from benchmarks._support.region_coverage import predict_views
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.metrics import estimates_by_landmark
from carm_env.evaluation.plots import drawing
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import interval_cell
from carm_env.evaluation.uncertainty import area_estimate, coverage_estimates, risk_coverage, save_risk_coverage
from carm_env.landmarks import LANDMARKS
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from policies.conformal import KIND, DisplacementRegressor
from policies.regions import nonconformity

_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: conformal, or conformal:CHECKPOINT.
        patients: names of patients, or COHORT/SPLIT.
        views: views per patient.
        seed: seed of the views; training uses 0.
        out: folder for the curve.
        json: file for the results.
    """

    policy: str = KIND
    patients: tuple[str, ...] = ("standard/test",)
    views: int = 256
    seed: int = 1
    out: Path = Path("runs/calibration")
    json: Path | None = None


def measure(regressor: DisplacementRegressor, patients: Sequence[str], views: int, seed: int) -> dict[str, Any]:
    """Returns coverage and size by level and landmark, errors, and the risk-coverage curve.

    Args:
        regressor: the calibrated ensemble.
        patients: names of the patients.
        views: views per patient.
        seed: draws the views.
    """
    scores, widths, errors, owners, closest = [], [], [], [], []
    for found in predict_views(regressor, patients, views, seed, regressor.isocenter_depth_mm):
        scores.append(nonconformity(found.prediction, found.truth_mm))
        widths.append(np.sqrt(found.prediction.std_mm.prod(-1)))
        errors.append(np.hypot(*np.moveaxis(found.prediction.mean_mm - found.truth_mm, -1, 0)))
        closest += (found.closest - 1).tolist()
        owners += [found.patient] * len(found.closest)
    score, width, error = np.concatenate(scores), np.concatenate(widths), np.concatenate(errors)
    present = np.isfinite(score)
    rows, columns = np.nonzero(present)
    names = np.asarray(owners)[rows].tolist()
    levels: dict[str, Any] = {}
    inside = score <= regressor.radius[:, None]
    coverages = coverage_estimates(inside, present, owners)
    for level, flags, by_landmark in zip(regressor.levels, inside, coverages, strict=True):
        radius_mm = (width * regressor.radius_at(level))[present]
        radii = estimates_by_landmark(radius_mm, columns + 1, names)
        levels[f"{level:g}"] = {
            "coverage": estimate(flags[present].astype(float), names)._asdict(),
            "radius_mm": estimate(radius_mm, names)._asdict(),
            "landmarks": {
                LANDMARKS[key - 1].name: {"coverage": coverage._asdict(), "radius_mm": radii[key]._asdict()}
                for key, coverage in by_landmark.items()
            },
        }
    of_closest = np.arange(len(closest)), np.array(closest)
    uncertainty, loss = width[of_closest], error[of_closest]
    coverage, risk = risk_coverage(uncertainty, loss)
    at = [int(np.ceil(share * len(risk))) - 1 for share in _SHARES]
    return {
        "levels": levels,
        "error_mm": estimate(error[present], names)._asdict(),
        "closest_error_mm": estimate(loss, owners)._asdict(),
        "risk_coverage": [{"coverage": float(coverage[n]), "error_mm": float(risk[n])} for n in at],
        "area_mm": area_estimate(uncertainty, loss, owners)._asdict(),
        "curve": (coverage, risk),
    }


def report(found: dict[str, Any]) -> str:
    """Formats coverage by level and landmark, and the curve."""
    lines = []
    for level, values in found["levels"].items():
        coverage, radius = values["coverage"], values["radius_mm"]
        lines.append(
            f"level {level}: coverage {coverage['value']:.3f} "
            f"({interval_cell((coverage['low'], coverage['high']), coverage['patients'], '{:.3f} - {:.3f}')}), "
            f"mean radius {radius['value']:.0f} mm"
        )
        lines += [
            f"  {name:32} {one['coverage']['value']:.3f}  {one['radius_mm']['value']:5.0f} mm"
            for name, one in values["landmarks"].items()
        ]
    closest_mm = found["closest_error_mm"]["value"]
    lines.append(f"error {found['error_mm']['value']:.1f} mm, of the closest landmark {closest_mm:.1f} mm")
    lines += [
        f"  most certain {100 * row['coverage']:3.0f} %: {row['error_mm']:.1f} mm" for row in found["risk_coverage"]
    ]
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    regressor = DisplacementRegressor(checkpoint_of(arguments.policy, KIND))
    names = expand_patients(arguments.patients)
    prepare_patients(names, default_workers())
    found = measure(regressor, names, arguments.views, arguments.seed)
    print(report(found))
    coverage, risk = found.pop("curve")
    save_measurement(arguments.json, {"policy": arguments.policy, "patients": names, **found}, arguments.seed)
    with drawing("risk_coverage.png"):
        labels = "answered views, most certain first, %", "mean error of the closest landmark, mm"
        save_risk_coverage(arguments.out / "risk_coverage.png", coverage, risk, *labels)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
