"""Train the paper's network for real X-rays, which says which of 22 body parts an image shows.

    python training/body_parts.py --data unifesp
    python training/body_parts.py --data unifesp --split real.csv --architecture resnet34 --mixed-precision bf16
    python training/body_parts.py --data MURA-v1.1 --max-steps 20 --no-evaluate
    python training/body_parts.py --data MyChestXrays

``--data`` is a folder in the layout of the UNIFESP X-ray body part data, of MURA, or of FleXray (a ``dataset.yml``),
which are yours to bring; DICOM files need the extra ``ct``. The network has one sigmoid for each body part and is
trained with binary cross-entropy; the two likeliest body parts are its answer. Images are divided by patient: 80 % to
train on, 10 % for early stopping and 10 % for tests. By default a small network is trained on a CPU; the paper's is
``resnet34``. The checkpoint is in ``OUTPUT_DIR/checkpoint``, and ``benchmarks/body_parts.py`` evaluates it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.body_parts import N_BODY_PARTS
from carm_env.evaluation.label_metrics import likeliest
from carm_env.system.extras import optional_imports
from carm_env.xray_datasets.labelled import label_matrix
from policies.body_parts import KIND
from policies.checkpoint import save_checkpoint
from policies.networks import PooledClassifier
from training._support.arguments import FitArguments
from training._support.augmentation import Deformations
from training._support.body_parts import BodyPartData, label_figures, load_images
from training._support.card import model_card
from training._support.fit import Objective, fit_network, predict
from training._support.processes import is_main_process
from training._support.script import TrainingResult, run_training
from training._support.views import images_fingerprint

with optional_imports("train", "Training"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional


@dataclass(frozen=True)
class BodyPartArguments(FitArguments):
    """Training of the classifier of body parts.

    Attributes:
        data: folder of the UNIFESP data (with train.csv), of MURA, or with masks as for FleXray (with dataset.yml)
        split: CSV file with the columns SOPInstanceUID and mode (train or test); by default images are divided by
            patient
        split_seed: seed of the division into images to train, calibrate and test on
        workers: processes that read the images; 0 for one per CPU
        output_dir: folder of the checkpoint and the training state
    """

    data: str = ""
    split: str = ""
    split_seed: int = 0
    workers: int = 0
    output_dir: str = "runs/body_parts"
    epochs: int = 25
    batch_size: int = 32
    patience: int = 8

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        super().check()
        if not self.data:
            raise ValueError("--data is missing, expected the folder of the UNIFESP data, of MURA or with dataset.yml.")
        for name in ("split_seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")


def train(arguments: BodyPartArguments, words: Sequence[str] = ()) -> TrainingResult:
    """Trains the classifier, writes the checkpoint and evaluates it on the test images.

    Args:
        arguments: settings of the training.
        words: words of the command line, for the model card.
    """
    folder, size = Path(arguments.output_dir), arguments.size
    data = BodyPartData.load(arguments.data, arguments.split, arguments.split_seed, quiet=not is_main_process())
    train_images, calibration_images = data.train_images(arguments.max_images), data.split.calibration
    images = load_images(train_images, size, arguments.workers)
    calibration = load_images(calibration_images, size, arguments.workers)
    labels = torch.as_tensor(label_matrix(train_images), dtype=torch.float32)
    true = torch.as_tensor(label_matrix(calibration_images), dtype=torch.float32)
    torch.manual_seed(arguments.seed)
    network = PooledClassifier(arguments.architecture, N_BODY_PARTS)

    def loss(outputs: tuple[Tensor, ...], batch: NDArray[np.int64], deformations: Deformations) -> Tensor:
        # A deformed image shows the same body parts.
        return functional.binary_cross_entropy_with_logits(outputs[0], labels[batch].to(outputs[0].device))

    def evaluate(plain: nn.Module) -> dict[str, float]:
        (logits,) = predict(plain, calibration, size)
        log_loss = float(functional.binary_cross_entropy_with_logits(logits, true))
        return {**label_figures(likeliest(logits.numpy()), calibration_images), "log_likelihood": -log_loss}

    known = images_fingerprint((images, labels.numpy()), (calibration, true.numpy()))
    objective = Objective(loss, evaluate, "log_likelihood", known)
    minutes = fit_network(network, images, objective, arguments, folder)
    figures: dict[str, float] = {}
    if arguments.evaluate:
        (logits,) = predict(network, load_images(data.split.test, size, arguments.workers), size)
        figures = label_figures(likeliest(logits.numpy()), data.split.test)
    config: dict[str, Any] = {
        "kind": KIND,
        "architecture": arguments.architecture,
        "image_size": size,
        "epochs": arguments.epochs,
        "images": len(images),
        "seed": arguments.seed,
        "split_seed": arguments.split_seed,
        **data.described(),
    }
    if is_main_process():
        title, description = "Body part classifier", "Says which of 22 body parts an X-ray shows."
        script, about = "training/body_parts.py", data.card(len(images))
        card = model_card(title, description, script, words, config, figures, minutes, **about)
        save_checkpoint(folder / "checkpoint", config, network.state_dict(), card)
    return TrainingResult(figures, {"minutes": minutes, "seed": arguments.seed}, data.described())


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_training(train, BodyPartArguments, __doc__, "", given)


if __name__ == "__main__":
    sys.exit(main())
