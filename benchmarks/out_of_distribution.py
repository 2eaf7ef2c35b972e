"""Measure how well the out-of-distribution score separates frontal X-rays from other images.

    python benchmarks/out_of_distribution.py --json o.json
    python benchmarks/out_of_distribution.py --images FOLDER_OF_FRAMES FOLDER_OF_PHOTOGRAPHS

For each kind of image: the area under the ROC curve (AUROC) against frontal views of patients of the test split, and
the share of images that are called out of distribution at a nominal rate of false alarms of 5 and 1 %. For kinds of
frontal views this share is the false-alarm rate itself. ``--images`` adds images of your own, as `carm-env localize`
sees them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.roc import area_under_curve
from carm_env.ct.radiographs import read_radiograph
from carm_env.evaluation.external_images import find_images, square_view
from carm_env.evaluation.provenance import save_measurement
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.catalogue import expand_patients
from carm_env.system.command_line import run_script
from carm_env.views.sample import ViewOptions, render_views
from policies import unfamiliar_images as unfamiliar
from policies.out_of_distribution import OutOfDistributionDetector

RATES = (0.05, 0.01)
_FRONTAL = "frontal views"
_FEW = 4
"""Views of a patient for each image of another kind."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        patients: names of patients, or COHORT/SPLIT.
        raised: patients with raised arms, for images of hands alone.
        views: frontal views per patient.
        seed: seed of the views; fitting uses 0.
        detector: checkpoint of training/out_of_distribution.py; by default the shipped one.
        backbone: checkpoint of conformal that it was fitted to; by default the shipped one.
        images: folders of further images.
        json: file for the results.
    """

    patients: tuple[str, ...] = ("standard/test",)
    raised: tuple[str, ...] = ("virtual:0?arms=raised", "virtual:1?arms=raised")
    views: int = 64
    seed: int = 1
    detector: Path | None = None
    backbone: Path | None = None
    images: tuple[Path, ...] = ()
    json: Path | None = None


def image_groups(arguments: Arguments) -> Iterator[tuple[str, unfamiliar.Images]]:
    """Yields the name and the images ``(n, 256, 256)`` of each kind, frontal views first."""
    patients, seed = expand_patients(arguments.patients), arguments.seed
    few = max(1, arguments.views // _FEW)
    count = few * len(patients)
    frontal = _frontal(patients, ViewOptions(arguments.views, unfamiliar.SIZE, seed=seed))
    yield _FRONTAL, frontal
    yield "angles up to 15 deg", _frontal(patients, ViewOptions(few, unfamiliar.SIZE, angles_deg=15.0, seed=seed))
    varied = ViewOptions(few, unfamiliar.SIZE, augment=("noise", "window", "dose"), seed=seed)
    yield "other window and dose", _frontal(patients, varied)
    collimated = ViewOptions(few, unfamiliar.SIZE, augment=("noise", "collimation"), seed=seed)
    yield "collimated", _frontal(patients, collimated)
    yield "lateral views", unfamiliar.lateral_views(patients, few, seed)
    yield "inverted polarity", 255 - frontal
    yield "upside down", frontal[:, ::-1].copy()
    yield "hands", unfamiliar.hands(expand_patients(arguments.raised), few, seed)
    yield "photographs", unfamiliar.photographs(count, seed)
    yield "uniform noise", unfamiliar.noise(count, seed)
    yield "clouds", unfamiliar.textures(count, seed)
    yield "blank", unfamiliar.blank(32)
    for folder in arguments.images:
        paths, _ = find_images(folder)
        yield folder.name, np.stack([square_view(read_radiograph(path)).image for path in paths])


def _frontal(patients: Sequence[str], options: ViewOptions) -> unfamiliar.Images:
    return np.stack([view.image for name in patients for view in render_views(name, options)])


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    detector = OutOfDistributionDetector(arguments.detector, arguments.backbone)
    prepare_patients([*expand_patients(arguments.patients), *expand_patients(arguments.raised)], default_workers())
    thresholds = [detector.threshold(rate) for rate in RATES]
    results: dict[str, dict[str, Any]] = {}
    print(f"{'images':24} {'n':>5} {'AUROC':>6} {'at 5 %':>7} {'at 1 %':>7} {'median p':>9}")
    for name, images in image_groups(arguments):
        if not len(images):
            print(f"{name:24}     0  (no package with photographs is installed)")
            continue
        scores = detector.score(images)
        if name == _FRONTAL:
            familiar = scores
        shares = [float((scores >= threshold).mean()) for threshold in thresholds]
        median = float(np.median(detector.p_value(scores)))
        area = area_under_curve(familiar, scores)
        print(f"{name:24} {len(images):5} {area:6.3f} {shares[0]:7.1%} {shares[1]:7.1%} {median:9.4f}", flush=True)
        results[name] = {"n": len(images), "auroc": area, "flagged_5": shares[0], "flagged_1": shares[1],
                         "median_p": median}  # fmt: skip
    save_measurement(arguments.json, {"patients": list(arguments.patients), "images": results}, arguments.seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
