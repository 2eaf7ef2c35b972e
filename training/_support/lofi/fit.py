"""Training of LoFi: its loss, its progress on the calibration patients, and its schedule."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.lofi.checkpoint import Lofi
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import mean_r_at_1, retrieval
from policies.lofi.model import ENCODERS, LofiInputs, LofiOutputs
from training._support.lofi.arguments import LofiArguments
from training._support.lofi.data import GroundedImages, LofiBatches
from training._support.lofi.losses import autoregressive_loss, sequence_losses, sigmoid_loss, total_loss
from training._support.lofi.sources import LofiData
from training._support.training_loop import LoopSettings, TrainingLoop
from training._support.views import images_fingerprint

METRIC = "r_at_1"
"""Metric that selects the best epoch: the mean of R@1 in both directions on the calibration patients."""
_WARMUP_SHARE = 0.01


def fit_lofi(lofi: Lofi, data: LofiData, arguments: LofiArguments, folder: Path) -> float:
    """Trains a model and leaves the weights of its best epoch in it.

    Args:
        lofi: the model, changed in place.
        data: images and reports.
        arguments: settings of the training.
        folder: folder of the training state.

    Returns:
        Minutes of training, including those before a resume.

    Raises:
        ValueError: there are fewer images than one batch, or the processes cannot share a batch equally.
        TextTooLongError: a sentence has more than 64 tokens.
        TrainingError: the loss is not finite, or memory ran out.
        MissingExtraError: the package of `report_to` is not installed.
    """
    sentences = arguments.min_sentences, arguments.max_sentences
    batches = LofiBatches(data.train, lofi, sentences, arguments.tasks, arguments.seed,
                          arguments.located_sentences, arguments.cut_texts)  # fmt: skip
    calibration = data.calibration.some(arguments.evaluated_images)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {METRIC: mean_r_at_1(retrieval(LofiEncoder(lofi), calibration.images, calibration.reports))}

    rates = arguments.language_learning_rate or arguments.learning_rate, arguments.learning_rate
    settings = LoopSettings(
        evaluate,
        METRIC,
        known_data(data.train, calibration),
        # Without a language loss its weights have no gradients.
        find_unused_parameters=not arguments.tasks,
        equal_shares=True,
        warmup_share=_WARMUP_SHARE,
        least_rate=0.0,
        learning_rate_of=lambda name: rates[name.startswith(ENCODERS)],
    )
    steps = _Steps(batches, len(data.train), arguments.autoregressive_weight)
    return TrainingLoop(lofi.model, steps, settings, arguments, folder).run()


def known_data(*parts: GroundedImages) -> str:
    """Returns a fingerprint of images and reports."""
    digest = hashlib.sha256()
    for part in parts:
        texts = [f"{sentence.text} {sentence.boxes}" for report in part.reports for sentence in report.sentences]
        digest.update("\n".join(texts).encode())
        digest.update(images_fingerprint((part.images, np.arange(len(part)))).encode())
    return digest.hexdigest()


def batch_loss(outputs: LofiOutputs, images: int, owners: Tensor, weight: float) -> tuple[Tensor, dict[str, float]]:
    """Returns the total loss of a batch, and its parts.

    Args:
        outputs: of the model.
        images: number of images; the first exchanges are their captions.
        owners: ``(m,)`` image of each exchange; may be empty.
        weight: weight of the autoregressive loss.
    """
    sigmoid = sigmoid_loss(
        outputs.images.float(), outputs.texts.float(), outputs.temperature.float(), outputs.bias.float()
    )
    if not len(owners):
        return sigmoid, {"sigmoid": float(sigmoid.detach())}
    each = sequence_losses(outputs.logits, outputs.targets, outputs.sequences, len(owners))
    autoregressive = autoregressive_loss(each[:images], each[images:], owners[images:])
    parts = {"sigmoid": float(sigmoid.detach()), "captioning": float(each[:images].detach().mean())}
    if len(each) > images:
        parts["location"] = float(each[images:].detach().mean())
    return total_loss(sigmoid, autoregressive, weight), parts


class _Steps:
    """The batches of a training with their loss.

    Args:
        batches: the batches.
        count: number of training images.
        weight: weight of the autoregressive loss.
    """

    def __init__(self, batches: LofiBatches, count: int, weight: float) -> None:
        self._batches, self._count, self._weight = batches, count, weight

    def __len__(self) -> int:
        return self._count

    def inputs(
        self, chosen: NDArray[np.int64], epoch: int, generator: torch.Generator, device: torch.device
    ) -> LofiInputs:
        """Returns the inputs of the chosen images, whose samples depend on seed, epoch and number alone."""
        return self._batches.batch(chosen, epoch).to(device)

    def loss(self, model: nn.Module, inputs: LofiInputs) -> tuple[Tensor, dict[str, float]]:
        """Returns the total loss, and its parts."""
        return batch_loss(model(inputs), len(inputs.images), inputs.exchanges.owners, self._weight)
