"""Fit and calibrate the out-of-distribution score of `policies/out_of_distribution.py` to the networks of `conformal`.

    python training/out_of_distribution.py --domain-randomization 0.3
    python training/out_of_distribution.py --backbone runs/conformal/checkpoint --output-dir runs/out_of_distribution

Run it whenever `conformal` was trained again. Mean and covariance are fitted to views of the patients of ``--train``.
For networks that know inverted and collimated images, too, a part of these views is randomised
(``--domain-randomization``).
The calibration scores of each of these patients come from mean and covariance of the others (cross-conformal
prediction, Vovk: Annals of Mathematics and Artificial Intelligence, 2015). The networks were trained on none of these
patients, because their features of new patients spread more. Views of the patients of ``--test`` give the rate of false
alarms; `benchmarks/out_of_distribution.py` measures how well the score separates other images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.provenance import save_measurement
from carm_env.system.command_line import run_script
from carm_env.system.extras import optional_imports
from carm_env.views.sample import ViewOptions
from policies.checkpoint import save_checkpoint
from policies.out_of_distribution import KIND, Backbone, FeatureDistribution, p_values
from training._support.arguments import ViewArguments
from training._support.card import model_card
from training._support.processes import one_training
from training._support.views import check_depth, load_views

with optional_imports("train", "Training"):
    import torch

_RATES = (0.05, 0.01)


@dataclass(frozen=True)
class Arguments(ViewArguments):
    """Arguments of this script.

    Attributes:
        train: patients whose views mean and covariance are fitted to and give the p-values, separated by commas
        test: patients whose views give the rate of false alarms
        views_per_patient: views of each patient, the same number of all: they have the same weight
        backbone: checkpoint of conformal; by default the shipped one
        output_dir: folder of the checkpoint and the rendered views
        json: file to write the results to
    """

    train: str = "diverse/calibration,standard/calibration"
    views_per_patient: int = 128
    backbone: str = ""
    output_dir: str = "runs/out_of_distribution"
    json: str = ""


def cross_conformal_scores(features: NDArray[np.float64], patients: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the scores ``(n,)`` of views, each from the features of all other patients.

    Args:
        features: ``(n, d)``.
        patients: ``(n,)`` number of the patient of each view.

    Raises:
        ValueError: there is one patient only.
    """
    if len(np.unique(patients)) < 2:
        raise ValueError("the views are of one patient, expected at least 2 patients: set --train.")
    scores = np.empty(len(features))
    for patient in np.unique(patients):
        own = patients == patient
        scores[own] = FeatureDistribution.fit(features[~own]).distance(features[own])
    return scores


def run(arguments: Arguments, words: Sequence[str] = ()) -> None:
    """Fits, calibrates, writes the checkpoint and reports the rates of false alarms.

    Raises:
        ValueError: a person is in two splits, there is one patient only, or the backbone is for another depth of the
            isocentre than the views.
    """
    folder, started = Path(arguments.output_dir), time.monotonic()
    with one_training(folder, "--output-dir"):
        backbone = Backbone(arguments.backbone or None)
        check_depth(arguments, backbone.isocenter_depth_mm, "the weights of the backbone")
        views = load_views(arguments, "train", folder, backbone.image_size)
        features = backbone.features(views.images)
        distribution = FeatureDistribution.fit(features)
        calibration = cross_conformal_scores(features, views.patients).astype(np.float16)
        test = backbone.features(load_views(arguments, "test", folder, backbone.image_size).images)
        p_values_of_test = p_values(distribution.distance(test), calibration)
        figures = {f"false_alarms_{rate:.0%}": float((p_values_of_test <= rate).mean()) for rate in _RATES}
        config = {
            "kind": KIND,
            "backbone": backbone.fingerprint,
            "train": arguments.train,
            "views": len(features),
            "domain_randomization": arguments.domain_randomization,
            "shrinkage": round(distribution.shrinkage, 5),
            "views_seed": ViewOptions().seed,
        }
        tensors = {
            "mean": torch.from_numpy(distribution.mean),
            "std": torch.from_numpy(distribution.std),
            "whitening": torch.from_numpy(distribution.whitening),
            "calibration": torch.from_numpy(np.sort(calibration)),
        }
        minutes = (time.monotonic() - started) / 60
        card = model_card(
            "Out-of-distribution score",
            "Mahalanobis distance of the features of an image to those of frontal X-rays, with p-values.",
            "training/out_of_distribution.py", words, config, figures, minutes,
        )  # fmt: skip
        save_checkpoint(folder / "checkpoint", config, tensors, card)
    for name, value in figures.items():
        print(f"{name:17} {value:.3f}")
    if arguments.json:
        save_measurement(Path(arguments.json), {**figures, "minutes": minutes}, ViewOptions().seed)
    print(f"\nfitted to {backbone.fingerprint[:12]}: {folder}/checkpoint")


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    words = list(sys.argv[1:] if given is None else given)
    return run_script(lambda arguments: run(arguments, words), Arguments, __doc__, words)


if __name__ == "__main__":
    sys.exit(main())
