"""The training loop of networks and of LoFi, on accelerate.

The order of the images depends on the seed and the epoch alone, and the state is saved after each epoch, so that an
interrupted training can be resumed to the same result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from carm_env.system.errors import MissingExtraError
from carm_env.system.extras import optional_imports
from training._support.arguments import FitArguments
from training._support.lofi.arguments import LofiArguments
from training._support.processes import TrainingError, explain_out_of_memory, smaller_batches
from training._support.training_state import TrainingState

with optional_imports("train", "Training"):
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, broadcast, broadcast_object_list, set_seed

_MAX_GRADIENT_NORM = 1.0


class Batches(Protocol):
    """The training data, in batches."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def inputs(self, chosen: NDArray[np.int64], epoch: int, generator: torch.Generator, device: torch.device) -> Any:
        """Returns the inputs of the chosen images in an epoch.

        Args:
            chosen: numbers of the images, increasing.
            epoch: number of the epoch, from 0.
            generator: random numbers of the epoch, for augmentation.
            device: where the inputs are needed.
        """
        ...

    def loss(self, model: nn.Module, inputs: Any) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss of a batch, and values to report beside it."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """How a training is evaluated and scheduled.

    Attributes:
        evaluate: computes metrics of the model after each epoch.
        metric_for_best_model: metric that selects the best epoch; higher is better.
        data: fingerprint of the data that are trained and evaluated on.
        find_unused_parameters: some parameters do not enter the loss, which several processes must know.
        equal_shares: each process takes the same number of images of a batch.
        warmup_share: share of the steps in which the learning rate rises; half a cosine follows.
        least_rate: added to the learning rate's factor after the warm-up.
        learning_rate_of: maps the name of a parameter to its learning rate; by default ``learning_rate`` of the
            arguments for all parameters.
    """

    evaluate: Callable[[nn.Module], dict[str, float]]
    metric_for_best_model: str
    data: str
    find_unused_parameters: bool = False
    equal_shares: bool = False
    warmup_share: float = 0.1
    least_rate: float = 1e-3
    learning_rate_of: Callable[[str], float] | None = None


class TrainingLoop:
    """One training of a model, epoch by epoch.

    Args:
        model: the model, changed in place.
        batches: its training data.
        settings: evaluation and schedule.
        arguments: arguments of the training.
        folder: folder of the training state.

    Attributes:
        state: progress and weights.

    Raises:
        ValueError: there are fewer images than one batch, or the processes cannot share a batch equally.
        MissingExtraError: the package of `report_to` is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        settings: LoopSettings,
        arguments: FitArguments | LofiArguments,
        folder: Path,
    ) -> None:
        self._batches, self._settings, self._arguments = batches, settings, arguments
        self._steps_per_epoch = len(batches) // arguments.batch_size
        if self._steps_per_epoch == 0:
            raise ValueError(
                f"{len(batches)} images are fewer than one batch of {arguments.batch_size}: set a smaller --batch-size."
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
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.find_unused_parameters)],
        )
        set_seed(arguments.seed)
        optimizer = torch.optim.AdamW(self._parameter_groups(model), weight_decay=arguments.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        self.state = TrainingState(folder, arguments, settings.data)
        if arguments.resume and self.state.exists():
            self.state.load(model, optimizer, self._schedule, self._accelerator.scaler)
            self._print(f"resuming after epoch {self.state.epoch}")
        elif arguments.resume:
            self._print(f"no epoch is saved in {folder} yet, so the training begins")
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._check_batch_size()
        self._start_reporting()

    def _parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        groups: dict[float, list[nn.Parameter]] = {}
        for name, value in model.named_parameters():
            if value.requires_grad:
                rate_of = self._settings.learning_rate_of
                groups.setdefault(rate_of(name) if rate_of else self._arguments.learning_rate, []).append(value)
        return [{"params": values, "lr": rate} for rate, values in groups.items()]

    def _check_batch_size(self) -> None:
        processes = self._accelerator.num_processes
        if self._settings.equal_shares and self._arguments.batch_size % processes:
            raise ValueError(
                f"batch_size is {self._arguments.batch_size} and there are {processes} processes, expected a multiple: "
                "each process takes the same share of a batch."
            )

    def _learning_rate_factor(self, step: int) -> float:
        warmup = max(int(self._total_steps * self._settings.warmup_share), 1)
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(self._total_steps - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * progress)) + self._settings.least_rate

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

    def run(self) -> float:
        """Trains, leaves the weights of the best epoch in the model, and returns the minutes that it took.

        The minutes include those before a resume. The weights are on the CPU and in full precision.

        Raises:
            TrainingError: the loss is not finite, or memory ran out.
        """
        while not self._has_finished():
            self.run_epoch()
        for tracker in self._accelerator.trackers:
            tracker.finish()
        model = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        model.load_state_dict(self.state.best)
        model.to("cpu")
        return self.state.seconds / 60

    def _has_finished(self) -> bool:
        if self.state.epochs_without_progress >= self._arguments.patience:
            self._print(f"no progress in {self._arguments.patience} epochs: stopped")
            return True
        return self.state.epoch >= self._epochs

    def run_epoch(self) -> None:
        """Trains for one epoch, evaluates the model and saves the state."""
        started = time.perf_counter()
        values = self._train_epoch(self.state.epoch)
        model = self._accelerator.unwrap_model(self._model)
        figures = self._evaluate(model)
        seconds = time.perf_counter() - started
        text = ", ".join(f"{name} {value:.3f}" for name, value in {**values, **figures}.items())
        self._print(f"epoch {self.state.epoch + 1}/{self._epochs}: {text} ({seconds:.0f} s)")
        if self._accelerator.is_main_process and self._arguments.report_to != "none":
            self._accelerator.log({**values, **figures}, step=self.state.epoch)
        self.state.advance(model, figures, self._settings.metric_for_best_model, seconds)
        if self._accelerator.is_main_process:
            self.state.save(self._optimizer, self._schedule, self._accelerator.scaler)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        seed, batch_size = self._arguments.seed, self._arguments.batch_size
        order = np.random.default_rng([seed, epoch]).permutation(len(self._batches))
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        steps = min(self._steps_per_epoch, self._total_steps - epoch * self._steps_per_epoch)
        self._model.train()
        found: dict[str, list[float]] = {}
        for step in range(steps):
            batch = np.sort(order[step * batch_size : (step + 1) * batch_size])
            share = batch[self._accelerator.process_index :: self._accelerator.num_processes]
            with explain_out_of_memory(smaller_batches(batch_size)):
                values = self._train_step(share, epoch, generator)
            if not math.isfinite(values["loss"]):
                raise TrainingError(
                    f"the loss became {values['loss']} in epoch {epoch}, step {step}: start again with a lower "
                    f"--learning-rate than {self._arguments.learning_rate:g}, without --resume."
                )
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: float(np.mean(each)) for name, each in found.items()}

    def _train_step(self, share: NDArray[np.int64], epoch: int, generator: torch.Generator) -> dict[str, float]:
        """Takes an optimizer step, unless the loss is not finite; returns the loss and the values beside it."""
        inputs = self._batches.inputs(share, epoch, generator, self._accelerator.device)
        with self._accelerator.autocast():
            loss, beside = self._batches.loss(self._model, inputs)
        value = float(loss.detach())
        if math.isfinite(value):
            self._accelerator.backward(loss)
            self._accelerator.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
            self._optimizer.step()
            self._schedule.step()
            self._optimizer.zero_grad()
        return {"loss": value, **beside}

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        # Each process has seen other images: the running means must agree before all processes evaluate.
        for buffer in model.buffers():
            broadcast(buffer)
        # On a GPU sums may differ in the last digit: the figures of the first process hold for all.
        (figures,) = broadcast_object_list([self._settings.evaluate(model)])
        return dict(figures)
