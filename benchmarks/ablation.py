"""Measure what the groups of domain randomisations and the loss term for the layout bring on patients of other origin.

    python benchmarks/ablation.py --json ablation.json
    python benchmarks/ablation.py --groups lidc-0001 --variants none all --max-steps 2

Small networks of `training/conformal.py` are trained from the same patients, seed and number of steps: without domain
randomisation (``none``), with all its groups (``all``), with all but one (``without:GROUP``), and with all and the loss
term for the layout of the landmarks (``layout``). Each is measured on views of every group of patients: the error of
the landmarks in the image, and the coverage of the 90 % regions. By default the groups are those of
`benchmarks/transfer.py`. Networks in ``--out`` are not trained again with ``--resume``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._support.patient_groups import default_groups
from benchmarks._support.region_coverage import LEVEL, predict_views
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table, plain_text
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.randomization.draw import GROUPS, DomainRandomization
from carm_env.system.command_line import run_script
from carm_env.system.errors import UnknownNameError
from policies.checkpoint import load_checkpoint
from policies.conformal import KIND, DisplacementRegressor
from policies.networks import find_architecture
from policies.regions import nonconformity

NONE, ALL, LAYOUT, WITHOUT = "none", "all", "layout", "without:"
VARIANTS = (NONE, ALL, *(f"{WITHOUT}{group}" for group in GROUPS), LAYOUT)


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        variants: which of none, all, layout, and without:GROUP for each group of domain randomisations.
        groups: COHORT/SPLIT or patients, each a group to measure on.
        train: patients to train on, separated by commas.
        calibration: patients for early stopping and for the calibration of the regions.
        severity: severity of the domain randomisation, 0 to 1.
        architecture: architecture of the networks.
        views_per_patient: views of each training patient.
        views: views of each measured patient.
        epochs: passes over the training views.
        max_steps: stop each training after this number of steps; 0 for no limit.
        seed: seed of the trainings; the measured views have seed + 1.
        out: folder for the networks.
        resume: keep networks that are there.
        json: file for the results.
    """

    variants: tuple[str, ...] = VARIANTS
    groups: tuple[str, ...] = ()
    train: str = "standard/train"
    calibration: str = "standard/calibration,diverse/calibration"
    severity: float = 0.8
    architecture: str = "small_contrast"
    views_per_patient: int = 256
    views: int = 128
    epochs: int = 4
    max_steps: int = 0
    seed: int = 0
    out: Path = Path("runs/ablation")
    resume: bool = False
    json: Path | None = None

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise UnknownNameError("variant", name, VARIANTS)
        if self.views < 1:
            raise ValueError(f"--views is {self.views}, expected at least 1.")
        find_architecture(self.architecture)
        DomainRandomization(self.severity)

    def folder(self, variant: str) -> Path:
        """Returns the output folder of the training of a variant."""
        return self.out / variant.replace(":", "-")

    def training(self, variant: str) -> list[str]:
        """Returns the words of the command that trains a variant, without the interpreter."""
        words = [
            "training/conformal.py", "--train", self.train, "--calibration", self.calibration,
            "--views-per-patient", str(self.views_per_patient), "--architecture", self.architecture,
            "--epochs", str(self.epochs), "--max-steps", str(self.max_steps), "--seed", str(self.seed),
            "--members", "1", "--no-evaluate", "--output-dir", str(self.folder(variant).resolve()),
        ]  # fmt: skip
        if variant != LAYOUT:
            words += ["--consistency", "0"]
        if variant == NONE:
            return words
        left_out = variant.removeprefix(WITHOUT) if variant.startswith(WITHOUT) else ""
        groups = ",".join(group for group in GROUPS if group != left_out)
        return [*words, "--domain-randomization", str(self.severity), "--domain-groups", groups]


def errors_and_coverage(
    regressor: DisplacementRegressor, patients: Sequence[str], views: int, seed: int
) -> dict[str, Any]:
    """Returns the error of landmarks in the image, mm, and the coverage of the regions, with intervals by patient."""
    radius = regressor.radius_at(LEVEL)
    errors, inside, owners, seen_by = list[float](), list[float](), list[str](), list[str]()
    half_mm = 0.5 * regressor.field_of_view_mm
    for found in predict_views(regressor, patients, views, seed, DEFAULT_ISOCENTER_DEPTH_MM):
        scores = nonconformity(found.prediction, found.truth_mm)
        present = np.isfinite(scores)
        inside += (scores <= radius)[present].astype(float).tolist()
        owners += [found.patient] * int(present.sum())
        error_mm: NDArray[np.float64] = np.hypot(*np.moveaxis(found.prediction.mean_mm - found.truth_mm, -1, 0))
        with np.errstate(invalid="ignore"):
            in_image = (np.abs(found.truth_mm) < half_mm).all(-1)
        errors += error_mm[in_image].tolist()
        seen_by += [found.patient] * int(in_image.sum())
    return {
        "error_mm": estimate(errors, seen_by)._asdict() if errors else None,
        "coverage_90": estimate(inside, owners)._asdict(),
    }


def report(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Formats the errors and coverages: a row for each variant, a column for each group."""
    groups = list(dict.fromkeys(group for scores in found.values() for group in scores))

    def cell(score: Mapping[str, Any]) -> str:
        error = score["error_mm"]
        return f"{'-' if error is None else format(error['value'], '.1f')} ({score['coverage_90']['value']:.0%})"

    rows = [(variant, *(cell(scores[group]) for group in groups)) for variant, scores in found.items()]
    return markdown_table(("variant", *map(plain_text, groups)), rows)


def run(arguments: Arguments) -> int:
    """Trains and measures the networks, prints the table and saves it; returns the status of a training that failed."""
    names = {group: expand_patients([group]) for group in arguments.groups or default_groups()}
    prepare_patients([name for own in names.values() for name in own], default_workers())
    found: dict[str, dict[str, Any]] = {}
    try:
        for variant in arguments.variants:
            print(f"\n{variant}", flush=True)
            checkpoint = arguments.folder(variant) / "checkpoint"
            if not (arguments.resume and _is_trained(checkpoint)):
                status = _train(arguments.training(variant))
                if status:
                    return status
            regressor = DisplacementRegressor(checkpoint)
            found[variant] = {
                group: errors_and_coverage(regressor, own, arguments.views, arguments.seed + 1)
                for group, own in names.items()
            }
    finally:
        if found:
            print(f"\nerror of landmarks in the image in mm (coverage of the 90 % regions)\n\n{report(found)}")
    save_measurement(arguments.json, {"severity": arguments.severity, "variants": found}, arguments.seed)
    return 0


def _train(words: Sequence[str]) -> int:
    """Trains in a process of its own, and returns its exit status."""
    return subprocess.run([sys.executable, *words], cwd=Path(__file__).parents[1], check=False).returncode


def _is_trained(checkpoint: Path) -> bool:
    try:
        load_checkpoint(checkpoint, KIND, ())
    except FileNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
