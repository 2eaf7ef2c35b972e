"""The state of a training after each epoch, in one file from which it can be resumed."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carm_env.system.files import atomic_write
from policies.checkpoint import CheckpointError, fill_network, with_module_names
from training._support.arguments import ViewArguments

_IGNORED = {
    "calibration",
    "data",
    "evaluate",
    "init_members",
    "json",
    "members",
    "output_dir",
    "report_to",
    "resume",
    "split",
} | {field.name for field in fields(ViewArguments)}
"""Arguments that may differ when a training is resumed; the views are compared by their fingerprint."""
_FORMER_NAMES = {"soften_mm": "label_smoothing_mm", "eye": "warm_start"}


class TrainingState:
    """Progress, best weights and latest weights of a training.

    Args:
        folder: folder of ``state.pt``, which is read with ``weights_only``.
        arguments: dataclass of the arguments of the training; resuming with others is refused.
        views: `views_fingerprint` of the views.
    """

    def __init__(self, folder: Path, arguments: Any, views: str) -> None:
        self._path = folder / "state.pt"
        self._arguments = {name: value for name, value in asdict(arguments).items() if name not in _IGNORED}
        self._arguments["views"] = views
        self._defaults = {field.name: field.default for field in fields(arguments)}
        self.epoch = 0
        self.epochs_without_progress = 0
        self.seconds = 0.0
        self.figures: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        self.latest: dict[str, Any] = {}

    def exists(self) -> bool:
        """Returns whether there is a state to resume from."""
        return self._path.is_file()

    def advance(
        self, network: nn.Module, figures: dict[str, float], metric_for_best_model: str, seconds: float
    ) -> None:
        """Records an epoch; keeps its weights as the best ones if the metric has improved."""
        self.epoch += 1
        self.seconds += seconds
        self.epochs_without_progress += 1
        self.latest = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        if not self.figures or figures[metric_for_best_model] > self.figures[metric_for_best_model]:
            self.figures, self.best, self.epochs_without_progress = figures, self.latest, 0

    def save(self, optimizer: Any, schedule: Any, scaler: Any) -> None:
        """Writes the state atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.latest,
            "best": self.best,
            "optimizer": optimizer.state_dict(),
            "schedule": {"last_epoch": schedule.last_epoch, "_step_count": schedule._step_count},
            "scaler": scaler.state_dict() if scaler else {},
            "arguments": self._arguments,
            "epoch": self.epoch,
            "epochs_without_progress": self.epochs_without_progress,
            "seconds": self.seconds,
            "figures": self.figures,
        }
        with atomic_write(self._path) as temporary:
            torch.save(state, temporary)

    def load(self, network: nn.Module, optimizer: Any, schedule: Any, scaler: Any) -> None:
        """Restores the state, and with it the network, the optimizer, the schedule and the gradient scaler.

        Raises:
            CheckpointError: the file is damaged, or from a training with other arguments.
        """
        try:
            kept = torch.load(self._path, weights_only=True)
            before = {_FORMER_NAMES.get(name, name): value for name, value in kept["arguments"].items()}
            different = {
                name for name, value in self._arguments.items() if before.get(name, self._defaults.get(name)) != value
            }
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(
                f"{self._path}: the state cannot be read ({error}): start again without --resume."
            ) from error
        if different:
            raise CheckpointError(
                f"{self._path} was trained with other {', '.join(sorted(different))}: give the same ones to resume, "
                "or start again without --resume."
            )
        fill_network(network, with_module_names(kept["network"]), str(self._path))
        self.best = with_module_names(kept["best"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict({**schedule.state_dict(), **kept["schedule"]})
        if scaler:
            scaler.load_state_dict(kept["scaler"])
        self.epoch, self.figures, self.seconds = kept["epoch"], kept["figures"], kept["seconds"]
        self.epochs_without_progress = kept["epochs_without_progress"]
