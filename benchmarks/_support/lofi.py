"""Images with reports to evaluate LoFi on: views of patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.report import interval_cell
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.reports.view_reports import ReportWriter
from carm_env.views.sample import ViewOptions, render_views
from carm_env.xray_datasets.grounded import GroundedReport


@dataclass(frozen=True)
class LofiEvaluationArguments:
    """What LoFi is evaluated on.

    Attributes:
        model: folder of a checkpoint of training/lofi.py
        patients: names of patients, or COHORT/SPLIT; never trained on
        views: views of each patient
        seed: seed of views and phrases; training uses 0
        isocenter_depth_mm: distance of the isocentre from mid-depth of the body towards the source, mm
        json: file for the results
    """

    model: Path = Path("runs/lofi/checkpoint")
    patients: tuple[str, ...] = ("standard/test",)
    views: int = 32
    seed: int = 1
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
    json: Path | None = None


def reported_views(
    arguments: LofiEvaluationArguments, size: int
) -> tuple[NDArray[np.uint8], list[GroundedReport], list[str]]:
    """Renders views and writes their reports.

    Args:
        arguments: which views.
        size: side of the images, pixels.

    Returns:
        Images ``(n, size, size)``, the report of each, and the names of the patients.
    """
    names = expand_patients(arguments.patients)
    prepare_patients(names, default_workers())
    options = ViewOptions(arguments.views, size, seed=arguments.seed, isocenter_depth_mm=arguments.isocenter_depth_mm)
    writer = ReportWriter(size, arguments.seed)
    pairs = [pair for name in names for pair in writer.of_views(render_views(name, options))]
    return np.stack([view.image for view, _ in pairs]), [report for _, report in pairs], [str(name) for name in names]


def print_estimates(estimates: dict[str, Estimate]) -> None:
    """Prints estimates with their intervals."""
    width = max(map(len, estimates))
    print(f"{'metric':{width}} {'value':>6}  {'95 % interval':15} {'queries':>7}")
    for name, found in estimates.items():
        interval = interval_cell((found.low, found.high), found.patients, "{:.3f} - {:.3f}")
        print(f"{name:{width}} {found.value:6.3f}  {interval:15} {found.views:7}")


def measured(about: dict[str, Any], names: Sequence[str], images: int, fingerprint: str = "") -> dict[str, Any]:
    """Returns what the file of results says of a measurement, beside its metrics."""
    model = {"model_fingerprint": fingerprint} if fingerprint else {}
    return {**about, "patients": list(names), "images": images, **model}
