"""The training loop of LoFi, on accelerate; the state is saved after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carm_env.system.errors import MissingExtraError
from carm_env.system.extras import optional_imports
from policies.lofi.model import LofiModel, LofiOutputs
from training._support.lofi.arguments import LofiArguments
from training._support.lofi.data import LofiBatches
from training._support.lofi.losses import autoregressive_loss, sequence_losses, sigmoid_loss, total_loss
from training._support.processes import TrainingError, explain_out_of_memory, smaller_batches
from training._support.training_state import TrainingState

with optional_imports("llm", "Training"):
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, set_seed

_MAX_GRADIENT_NORM = 1.0
METRIC = "r_at_1"
"""Metric that selects the best epoch: the mean of R@1 in both directions on the calibration patients."""

Evaluate = Callable[[LofiModel], dict[str, float]]


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


class LofiTraining:
    """One training, epoch by epoch.

    Args:
        model: the model, changed in place.
        batches: its batches.
        count: number of training images.
        evaluate: computes metrics after each epoch, `METRIC` among them.
        known: fingerprint of the data.
        arguments: settings of the training.
        folder: folder of the training state.

    Raises:
        ValueError: there are fewer images than one batch.
        MissingExtraError: the package of `report_to` is not installed.
    """

    def __init__(
        self,
        model: LofiModel,
        batches: LofiBatches,
        count: int,
        evaluate: Evaluate,
        known: str,
        arguments: LofiArguments,
        folder: Path,
    ) -> None:
        self._batches, self._count, self._evaluate, self._arguments = batches, count, evaluate, arguments
        self._steps_per_epoch = count // arguments.batch_size
        if self._steps_per_epoch == 0:
            raise ValueError(
                f"{count} images are fewer than one batch of {arguments.batch_size}: set a smaller --batch-size."
            )
        self._total_steps = self._steps_per_epoch * arguments.epochs
        if arguments.max_steps:
            self._total_steps = min(self._total_steps, arguments.max_steps)
        self._epochs = math.ceil(self._total_steps / self._steps_per_epoch)
        # Without a language loss its weights have no gradients.
        unused = DistributedDataParallelKwargs(find_unused_parameters=not arguments.tasks)
        self._accelerator = Accelerator(
            mixed_precision=arguments.mixed_precision, cpu=not torch.cuda.is_available(),
            log_with=None if arguments.report_to == "none" else arguments.report_to, project_dir=str(folder),
            kwargs_handlers=[unused],
        )  # fmt: skip
        set_seed(arguments.seed)
        trained = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=arguments.learning_rate, weight_decay=arguments.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        self.state = TrainingState(folder, arguments, known)
        if arguments.resume and self.state.exists():
            self.state.load(model, optimizer, self._schedule, self._accelerator.scaler)
            self._print(f"resuming after epoch {self.state.epoch}")
        elif arguments.resume:
            self._print(f"no epoch is saved in {folder} yet, so the training begins")
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._check_batch_size()
        self._start_reporting()

    def _check_batch_size(self) -> None:
        processes = self._accelerator.num_processes
        if self._arguments.batch_size % processes:
            raise ValueError(
                f"batch_size is {self._arguments.batch_size} and there are {processes} processes, expected a multiple: "
                "each process takes the same share of a batch."
            )

    def _start_reporting(self) -> None:
        report_to = self._arguments.report_to
        if report_to == "none":
            return
        self._accelerator.init_trackers("carm-env")
        if not self._accelerator.log_with:
            raise MissingExtraError(
                report_to, "trackio" if report_to == "trackio" else "train", f"--report-to {report_to}"
            )

    def _learning_rate_factor(self, step: int) -> float:
        # Linear warm-up over the first hundredth, then half a cosine.
        warmup = max(self._total_steps // 100, 1)
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(self._total_steps - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress))

    def _print(self, text: str) -> None:
        if self._accelerator.is_main_process:
            print(text, flush=True)

    def run(self) -> float:
        """Trains, leaves the weights of the best epoch in the model, and returns the minutes that it took."""
        while self.state.epoch < self._epochs:
            if self.state.epochs_without_progress >= self._arguments.patience:
                self._print(f"no progress in {self._arguments.patience} epochs: stopped")
                break
            self._run_epoch()
        for tracker in self._accelerator.trackers:
            tracker.finish()
        model = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        model.load_state_dict(self.state.best)
        model.to("cpu")
        return self.state.seconds / 60

    def _run_epoch(self) -> None:
        started = time.perf_counter()
        parts = self._train_epoch(self.state.epoch)
        model: nn.Module = self._accelerator.unwrap_model(self._model)
        model.eval()
        # On a GPU sums may differ in the last digit: the figures of the first process hold for all.
        (figures,) = broadcast_object_list([self._evaluate(model)])
        seconds = time.perf_counter() - started
        text = ", ".join(f"{name} {value:.3f}" for name, value in {**parts, **figures}.items())
        self._print(f"epoch {self.state.epoch + 1}/{self._epochs}: {text} ({seconds:.0f} s)")
        if self._accelerator.is_main_process and self._arguments.report_to != "none":
            self._accelerator.log({**parts, **figures}, step=self.state.epoch)
        self.state.advance(model, figures, METRIC, seconds)
        if self._accelerator.is_main_process:
            self.state.save(self._optimizer, self._schedule, self._accelerator.scaler)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        order = np.random.default_rng([self._arguments.seed, epoch]).permutation(self._count)
        steps = min(self._steps_per_epoch, self._total_steps - epoch * self._steps_per_epoch)
        size = self._arguments.batch_size
        self._model.train()
        found: dict[str, list[float]] = {}
        for step in range(steps):
            batch = order[step * size : (step + 1) * size]
            share = np.sort(batch[self._accelerator.process_index :: self._accelerator.num_processes])
            with explain_out_of_memory(smaller_batches(size)):
                values = self._train_step(share, epoch, step)
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _train_step(self, chosen: NDArray[np.int64], epoch: int, step: int) -> dict[str, float]:
        inputs = self._batches.batch(chosen, epoch).to(self._accelerator.device)
        with self._accelerator.autocast():
            outputs = self._model(inputs)
            loss, parts = batch_loss(outputs, len(chosen), inputs.owners, self._arguments.autoregressive_weight)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {epoch}, step {step}: start again with a lower --learning-rate than "
                f"{self._arguments.learning_rate:g}, without --resume."
            )
        self._accelerator.backward(loss)
        self._accelerator.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        return {"loss": value, **parts}
