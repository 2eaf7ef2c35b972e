"""The training loop of the networks, on accelerate.

The order of the views and their augmentation depend on the seed and the epoch alone, and the state is saved after each
epoch, so that an interrupted training can be resumed to the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carm_env.system.errors import MissingExtraError
from carm_env.system.extras import optional_imports
from carm_env.views.read import ViewImages
from policies.images import batches
from policies.networks import as_input
from training._support.arguments import FitArguments
from training._support.augmentation import Deformations, vary_grey_values
from training._support.processes import TrainingError, explain_out_of_memory, smaller_batches
from training._support.training_state import TrainingState

with optional_imports("train", "Training"):
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, broadcast, broadcast_object_list, set_seed

_MAX_GRADIENT_NORM = 1.0


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
    training = _Training(network, images, objective, arguments, folder)
    while not training.finished():
        training.run_epoch()
    training.restore_best()
    return training.state.seconds / 60


def predict(network: nn.Module, images: ViewImages, size: int) -> Any:
    """Returns the network's outputs for images ``(n, H, W)``, a tensor or a tuple of tensors, on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network(as_input(images[part], size).to(device)) for part in batches(len(images))]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column).float().cpu() for column in zip(*parts, strict=True))
    return torch.cat(parts).float().cpu()


class _Training:
    """One training of a network, epoch by epoch."""

    def __init__(
        self, network: nn.Module, images: ViewImages, objective: Objective, arguments: FitArguments, folder: Path
    ) -> None:
        self._images, self._objective, self._arguments = images, objective, arguments
        self._field_of_view_mm = arguments.field_of_view_mm
        self._steps_per_epoch = len(images) // arguments.batch_size
        if self._steps_per_epoch == 0:
            raise ValueError(
                f"{len(images)} images are fewer than one batch of {arguments.batch_size}: set a smaller --batch-size."
            )
        self._total_steps = self._steps_per_epoch * arguments.epochs
        if arguments.max_steps:
            self._total_steps = min(self._total_steps, arguments.max_steps)
        self._epochs = math.ceil(self._total_steps / self._steps_per_epoch)
        self._accelerator = Accelerator(
            mixed_precision=arguments.mixed_precision,
            cpu=not torch.cuda.is_available(),
            log_with=None if arguments.report_to == "none" else arguments.report_to,
            project_dir=str(folder),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=objective.find_unused_parameters)],
        )
        set_seed(arguments.seed)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        self.state = TrainingState(folder, arguments, objective.views)
        if arguments.resume and self.state.exists():
            self.state.load(network, optimizer, self._schedule, self._accelerator.scaler)
            self._print(f"resuming after epoch {self.state.epoch}")
        elif arguments.resume:
            self._print(f"no epoch is saved in {folder} yet, so the training begins")
        self._model, self._optimizer = self._accelerator.prepare(network, optimizer)
        self._start_reporting()

    def _learning_rate_factor(self, step: int) -> float:
        # Linear warm-up over the first tenth, then half a cosine.
        warmup = max(self._total_steps // 10, 1)
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(self._total_steps - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3

    def _start_reporting(self) -> None:
        report_to = self._arguments.report_to
        if report_to == "none":
            return
        self._accelerator.init_trackers("carm-env")
        if not self._accelerator.log_with:
            extra = "trackio" if report_to == "trackio" else "train"
            raise MissingExtraError(report_to, extra, f"--report-to {report_to}")

    def _print(self, text: str) -> None:
        if self._accelerator.is_main_process:
            print(text, flush=True)

    def finished(self) -> bool:
        """Whether all epochs are done, or the metric has not improved for `patience` epochs."""
        if self.state.epochs_without_progress >= self._arguments.patience:
            self._print(f"no progress in {self._arguments.patience} epochs: stopped")
            return True
        return self.state.epoch >= self._epochs

    def run_epoch(self) -> None:
        """Trains for one epoch, evaluates the network and saves the state."""
        started = time.perf_counter()
        loss = self._train_epoch(self.state.epoch)
        network = self._accelerator.unwrap_model(self._model)
        figures = self._evaluate(network)
        seconds = time.perf_counter() - started
        self._report(loss, figures, seconds)
        self.state.advance(network, figures, self._objective.metric_for_best_model, seconds)
        if self._accelerator.is_main_process:
            self.state.save(self._optimizer, self._schedule, self._accelerator.scaler)

    def _train_epoch(self, epoch: int) -> float:
        seed, batch_size = self._arguments.seed, self._arguments.batch_size
        order = np.random.default_rng([seed, epoch]).permutation(len(self._images))
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        steps = min(self._steps_per_epoch, self._total_steps - epoch * self._steps_per_epoch)
        self._model.train()
        losses = []
        for step in range(steps):
            batch = np.sort(order[step * batch_size : (step + 1) * batch_size])
            share = batch[self._accelerator.process_index :: self._accelerator.num_processes]
            with explain_out_of_memory(smaller_batches(batch_size)):
                loss = self._train_step(share, generator)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in epoch {epoch}, step {step}: start again with a lower "
                    f"--learning-rate than {self._arguments.learning_rate:g}, without --resume."
                )
            losses.append(loss)
        return float(np.mean(losses))

    def _train_step(self, batch: NDArray[np.int64], generator: torch.Generator) -> float:
        """Takes an optimizer step, unless the loss is not finite; returns the loss."""
        deformations = Deformations.draw(len(batch), generator, self._arguments.deformation)
        images = as_input(self._images[batch], self._images.shape[1])
        images = deformations.images(images, self._field_of_view_mm)
        images = vary_grey_values(images, self._arguments.noise, generator).to(self._accelerator.device)
        with self._accelerator.autocast():
            loss = self._objective.loss(self._model(images), batch, deformations)
        value = float(loss.detach())
        if math.isfinite(value):
            self._accelerator.backward(loss)
            self._accelerator.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
            self._optimizer.step()
            self._schedule.step()
            self._optimizer.zero_grad()
        return value

    def _evaluate(self, network: nn.Module) -> dict[str, float]:
        # Each process has seen other views: the running means must agree before all processes evaluate.
        for buffer in network.buffers():
            broadcast(buffer)
        # On a GPU sums may differ in the last digit: the figures of the first process hold for all.
        (figures,) = broadcast_object_list([self._objective.evaluate(network)])
        return dict(figures)

    def _report(self, loss: float, figures: dict[str, float], seconds: float) -> None:
        text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._print(f"epoch {self.state.epoch + 1}/{self._epochs}: loss {loss:.3f}, {text} ({seconds:.0f} s)")
        if self._accelerator.is_main_process and self._arguments.report_to != "none":
            self._accelerator.log({"loss": loss, **figures}, step=self.state.epoch)

    def restore_best(self) -> None:
        """Ends the reports and loads the best epoch's weights into the network, on the CPU and in full precision."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        network = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        network.load_state_dict(self.state.best)
        network.to("cpu")
