"""Training of the networks on views, with deformed and noisy images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carm_env.views.read import ViewImages
from policies.images import batches
from policies.networks import as_input
from training._support.arguments import FitArguments
from training._support.augmentation import Deformations, vary_grey_values
from training._support.training_loop import LoopSettings, TrainingLoop


@dataclass(frozen=True)
class Objective:
    """What a network is trained for, and how its progress is measured.

    Attributes:
        loss: maps network outputs, view indices ``(n,)`` and the `Deformations` of the images to a scalar
            loss.
        evaluate: computes metrics of the network after each epoch.
        metric_for_best_model: metric that selects the best epoch; higher is better.
        views: `views_fingerprint` of the views that are trained and evaluated on.
        find_unused_parameters: some parameters do not enter the loss, which several processes must know.
    """

    loss: Callable[[Any, NDArray[np.int64], Deformations], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    metric_for_best_model: str
    views: str
    find_unused_parameters: bool = False


def fit_network(
    network: nn.Module, images: ViewImages, objective: Objective, arguments: FitArguments, folder: Path
) -> float:
    """Trains a network and leaves the weights of its best epoch in it.

    Args:
        network: the network, changed in place.
        images: ``(n, s, s)`` uint8 training images.
        objective: loss and metrics.
        arguments: settings of the training.
        folder: folder of the training state.

    Returns:
        Minutes of training, including those before a resume.

    Raises:
        TrainingError: the loss is not finite, or memory ran out.
        MissingExtraError: the package of `report_to` is not installed.
    """
    settings = LoopSettings(
        objective.evaluate, objective.metric_for_best_model, objective.views, objective.find_unused_parameters
    )
    return TrainingLoop(network, _AugmentedViews(images, objective, arguments), settings, arguments, folder).run()


def predict(network: nn.Module, images: ViewImages, size: int) -> Any:
    """Returns the network's outputs for images ``(n, H, W)``, a tensor or a tuple of tensors, on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(as_input(images[part], size).to(device)) for part in batches(len(images))]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column).float().cpu() for column in zip(*parts, strict=True))
    return torch.cat(parts).float().cpu()


class _AugmentedViews:
    """The views of a training, deformed and with other grey values in each epoch."""

    def __init__(self, images: ViewImages, objective: Objective, arguments: FitArguments) -> None:
        self._images, self._objective, self._arguments = images, objective, arguments
        self._field_of_view_mm = arguments.field_of_view_mm

    def __len__(self) -> int:
        return len(self._images)

    def inputs(
        self, chosen: NDArray[np.int64], epoch: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, NDArray[np.int64], Deformations]:
        """Returns the images, their numbers and their deformations."""
        deformations = Deformations.draw(len(chosen), generator, self._arguments.deformation)
        images = as_input(self._images[chosen], self._images.shape[1])
        images = deformations.images(images, self._field_of_view_mm)
        return vary_grey_values(images, self._arguments.noise, generator).to(device), chosen, deformations

    def loss(
        self, model: nn.Module, inputs: tuple[Tensor, NDArray[np.int64], Deformations]
    ) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss of the objective."""
        images, chosen, deformations = inputs
        return self._objective.loss(model(images), chosen, deformations), {}
