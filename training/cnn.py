"""Train the paper's conventional network, which classifies the landmark closest to the middle of an X-ray.

    python training/cnn.py
    python training/cnn.py --max-steps 20 --no-evaluate
    python training/cnn.py --architecture resnet34 --views-per-patient 1024 --mixed-precision bf16
    accelerate launch training/cnn.py --architecture resnet34

Without arguments a small network (0.6 M parameters) is trained on 38,400 views of the 50 training patients, in about
ten minutes on two CPU cores with rendering. The checkpoint is in ``OUTPUT_DIR/checkpoint``; its name as a policy is
``cnn:OUTPUT_DIR/checkpoint``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.metrics import exact_closest, precision_at
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from carm_env.views.read import ViewArrays
from policies.checkpoint import fill_network, load_checkpoint, save_checkpoint
from policies.cnn import KIND
from policies.conformal import KIND as CONFORMAL
from policies.conformal import member_tensors
from policies.lofi.vision import is_lofi, with_encoder
from policies.networks import ENCODER, DisplacementClassifier, build_classifier
from training._support.arguments import NetworkArguments
from training._support.augmentation import Deformations
from training._support.card import model_card
from training._support.fit import Objective, fit_network, predict
from training._support.losses import DEFAULT_CONSISTENCY, DisplacementLoss
from training._support.processes import is_main_process
from training._support.script import TrainingResult, run_training
from training._support.views import load_split, views_fingerprint

with optional_imports("train", "Training"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

PRETEXTS = ("none", "position")
_POSITION_SCALE_MM = 200.0
_CAUTIONS = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class CnnArguments(NetworkArguments):
    """Training of the classifier.

    Attributes:
        label_smoothing_mm: a landmark farther than the closest one by this has 1/e of its weight in the label; 0 for
            one-hot labels
        pretext: none, or position to first predict the position of the isocentre, which needs no annotation
        warm_start: checkpoint of training/conformal.py, of the same architecture, whose first network is the initial
            backbone; or of training/lofi.py, for the architecture lofi
    """

    output_dir: str = "runs/cnn"
    label_smoothing_mm: float = 10.0
    pretext: str = "none"
    warm_start: str = ""

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        super().check()
        if self.pretext not in PRETEXTS:
            raise UnknownNameError("pretext", self.pretext, PRETEXTS)
        if self.warm_start and self.pretext != "none":
            raise ValueError("warm_start and pretext are both given, expected at most one: leave one out.")
        if self.label_smoothing_mm < 0:
            raise ValueError(f"label_smoothing_mm is {self.label_smoothing_mm}, expected 0 or more.")


def soft_labels(views: ViewArrays, label_smoothing_mm: float) -> NDArray[np.float32]:
    """Returns ``(n, 14)`` label probabilities.

    Raises:
        ValueError: all views have the same closest landmark, so that there is nothing to learn.
    """
    closest = views.closest_landmarks[:, 0]
    if len(np.unique(closest)) < 2:
        raise ValueError(
            f"in all {len(closest)} views the closest landmark is {landmark(int(closest[0])).name}: expected at least "
            "two classes. Take more views, or patients with more landmarks."
        )
    if label_smoothing_mm == 0:
        return np.eye(N_LANDMARKS, dtype=np.float32)[closest - 1]
    distance = np.hypot(views.displacement_mm[..., 0], views.displacement_mm[..., 1])
    excess = distance - np.nanmin(distance, axis=1, keepdims=True)
    weight = np.where(np.isnan(distance), 0.0, np.exp(-np.nan_to_num(excess) / label_smoothing_mm))
    return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def retrieval_metrics(logits: NDArray[np.floating], closest: NDArray[np.int64]) -> dict[str, float]:
    """Returns the paper's precisions, and the share of views whose closest landmark is ranked first."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :3] + 1
    metrics = {f"p_at_{k}": float(precision_at(ranked, closest, k).mean()) for k in (1, 2, 3)}
    return {**metrics, "closest_exact": float(exact_closest(ranked, closest).mean())}


class FeatureExtractor(nn.Module):
    """The features of a classifier, without its head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(n, n_features)``."""
        return self.network.features(images)


def _learn_position(network: nn.Module, views: ViewArrays, arguments: CnnArguments, folder: Path) -> float:
    """Trains the features to predict the isocentre's position relative to the mean of its patient's views."""
    positions = views.isocenter_lps_mm[:, [0, 2]]
    means = np.stack([positions[views.patients == number].mean(0) for number in range(len(views.names))])
    targets = torch.as_tensor((positions - means[views.patients]) / _POSITION_SCALE_MM)
    regressor = nn.Sequential(FeatureExtractor(network), nn.Linear(network.n_features, 2))

    def loss(outputs: Tensor, batch: NDArray[np.int64], deformations: Deformations) -> Tensor:
        return functional.smooth_l1_loss(outputs, targets[batch].to(outputs.device))

    def evaluate(plain: nn.Module) -> dict[str, float]:
        some = slice(None, None, max(len(views) // 2000, 1))
        errors = (predict(plain, views.images[some], arguments.size) - targets[some]) * _POSITION_SCALE_MM
        error_mm = float(errors.norm(dim=1).mean())
        return {"position_mm": error_mm, "nearness": -error_mm}

    # The heads of the classifier do not enter the loss.
    objective = Objective(loss, evaluate, "nearness", views_fingerprint(views), find_unused_parameters=True)
    return fit_network(regressor, views.images, objective, arguments, folder)


def _tune_caution(network: DisplacementClassifier, calibration: ViewArrays, size: int) -> None:
    """Sets how much uncertainty lowers a landmark's rank to the value with the best P@1 on the calibration patients.

    Cross-entropy tunes it for the closest landmark alone; the paper's question is for any of the three closest.
    """
    candidates = []
    for caution in _CAUTIONS:
        with torch.no_grad():
            network.log_caution.fill_(math.log(caution))
        logits, *_ = predict(network, calibration.images, size)
        metrics = retrieval_metrics(logits.numpy(), calibration.closest_landmarks)
        candidates.append((metrics["p_at_1"], -caution))
    best, negative_caution = max(candidates)
    with torch.no_grad():
        network.log_caution.fill_(math.log(-negative_caution))
    print(f"caution {-negative_caution:g}: p_at_1 {best:.3f} on the calibration patients")


def train(arguments: CnnArguments, words: Sequence[str] = ()) -> TrainingResult:
    """Trains the classifier, writes the checkpoint and evaluates it on the test patients.

    Args:
        arguments: settings of the training.
        words: words of the command line, for the model card.
    """
    folder, size = Path(arguments.output_dir), arguments.size
    views, calibration = load_split(arguments, "train"), load_split(arguments, "calibration")
    torch.manual_seed(arguments.seed)
    network = build_classifier(arguments.architecture, arguments.isocenter_depth_mm)
    print(f"{arguments.architecture}: {sum(value.numel() for value in network.parameters()) / 1e6:.2f} M parameters, "
          f"{len(views)} views of {size} x {size} pixels")  # fmt: skip
    if arguments.warm_start:
        backbone: nn.Module = network.backbone if isinstance(network, DisplacementClassifier) else network
        if is_lofi(arguments.warm_start):
            initial = with_encoder(backbone.state_dict(), arguments.warm_start, ENCODER)
        else:
            initial = member_tensors(load_checkpoint(arguments.warm_start, CONFORMAL)[1], 0)
        fill_network(backbone, initial, arguments.warm_start)
    minutes = 0.0
    if arguments.pretext == "position":
        minutes += _learn_position(network, views, arguments, folder / "pretext")
    labels = torch.as_tensor(soft_labels(views, arguments.label_smoothing_mm))
    displacement_loss = DisplacementLoss(views.displacement_mm, DEFAULT_CONSISTENCY)

    def loss(outputs: tuple[Tensor, ...], batch: NDArray[np.int64], deformations: Deformations) -> Tensor:
        # A landmark stays the closest one when the image is zoomed or rotated about its middle, and mostly when it is
        # deformed smoothly.
        logits, *displacements = outputs
        result = functional.cross_entropy(logits, labels[batch].to(logits.device))
        if displacements:
            mean, log_std = displacements
            result = result + displacement_loss(mean, log_std, batch, deformations)
        return result

    def evaluate(plain: nn.Module) -> dict[str, float]:
        logits, *_ = predict(plain, calibration.images, size)
        return retrieval_metrics(logits.numpy(), calibration.closest_landmarks)

    objective = Objective(loss, evaluate, "closest_exact", views_fingerprint(views, calibration))
    minutes += fit_network(network, views.images, objective, arguments, folder)
    if isinstance(network, DisplacementClassifier):
        _tune_caution(network, calibration, size)
    figures: dict[str, float] = {}
    if arguments.evaluate:
        test = load_split(arguments, "test")
        logits, *_ = predict(network, test.images, size)
        figures = retrieval_metrics(logits.numpy(), test.closest_landmarks)
    config: dict[str, Any] = {
        "kind": KIND,
        "architecture": arguments.architecture,
        "image_size": size,
        "isocenter_depth_mm": arguments.isocenter_depth_mm,
        "pretext": arguments.pretext,
        "epochs": arguments.epochs,
        "views": len(views),
        "seed": arguments.seed,
    }
    if is_main_process():
        description = "Classifies which of fourteen skeletal landmarks is closest to the middle of a frontal X-ray."
        script = "training/cnn.py"
        card = model_card("Landmark classifier", description, script, words, config, figures, minutes)
        save_checkpoint(folder / "checkpoint", config, network.state_dict(), card)
    return TrainingResult(figures, {"minutes": minutes, "seed": arguments.seed})


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_training(train, CnnArguments, __doc__, KIND, given)


if __name__ == "__main__":
    sys.exit(main())
