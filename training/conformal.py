"""Train the ensemble that predicts displacements to all landmarks, and calibrate its regions by patient.

    python training/conformal.py
    python training/conformal.py --max-steps 20 --members 1 --no-evaluate
    python training/conformal.py --members 5 --output-dir runs/conformal5
    python training/conformal.py --train broad/train --members 1 --seed 5 --init-members runs/conformal5/checkpoint
    python training/conformal.py --members 0 --init-members runs/a/checkpoint,runs/b/checkpoint

The members are trained one after another (`training/_support/losses.py`). The regions are calibrated on the calibration
patients and evaluated on the test patients. With ``--init-members`` the ensemble begins with the networks of other
checkpoints: members can be trained on other patients or machines, or at the same time, and are calibrated together;
``--members 0`` trains none and only calibrates. With ``--warm-start`` the
new networks start from the networks of another checkpoint, also from networks without local contrast (``--architecture
medium_contrast``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.system.extras import optional_imports
from carm_env.views.read import ViewArrays
from policies.checkpoint import fill_network, fingerprint, load_checkpoint, save_checkpoint
from policies.checkpoint_config import MAX_ERROR_FLOOR_MM
from policies.conformal import KIND, DisplacementRegressor, ensemble_prediction, member_tensors
from policies.lofi.vision import is_lofi, with_encoder
from policies.networks import ENCODER, DisplacementNetwork, find_architecture, with_local_contrast
from policies.regions import LEVELS, Prediction, calibrate, levels_for_new_patients, nonconformity
from training._support.arguments import NetworkArguments
from training._support.augmentation import Deformations
from training._support.card import model_card
from training._support.fit import Objective, fit_network
from training._support.losses import DEFAULT_CONSISTENCY, DisplacementLoss
from training._support.processes import is_main_process
from training._support.script import TrainingResult, run_training
from training._support.views import load_split, views_fingerprint

with optional_imports("train", "Training"):
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ConformalArguments(NetworkArguments):
    """Training of the ensemble.

    Attributes:
        members: networks to train; 0 to calibrate those of init_members only
        init_members: checkpoints whose networks are the first members of the ensemble, separated by commas
        warm_start: checkpoint whose networks the new ones continue from, in the same order; or one of training/lofi.py,
            whose image encoder all new networks of the architecture lofi continue from
        warm_start_first: number of the network of warm_start that the first new one continues from
        consistency: weight of the loss term for anatomical consistency
        error_floor_mm: standard deviation of an error that is added to every prediction, mm: what the networks cannot
            know of the landmarks of people unlike the training patients
    """

    output_dir: str = "runs/conformal"
    members: int = 3
    init_members: str = ""
    warm_start: str = ""
    warm_start_first: int = 0
    consistency: float = DEFAULT_CONSISTENCY
    error_floor_mm: float = 10.0

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        super().check()
        if self.members < (0 if self.init_members else 1):
            raise ValueError(f"members is {self.members}, expected at least 1, or 0 with --init-members.")
        if self.warm_start_first < 0:
            raise ValueError(f"warm_start_first is {self.warm_start_first}, expected 0 or more.")
        if not self.consistency >= 0:
            raise ValueError(f"consistency is {self.consistency}, expected 0 or more.")
        if not 0 <= self.error_floor_mm <= MAX_ERROR_FLOOR_MM:
            raise ValueError(f"error_floor_mm is {self.error_floor_mm}, expected 0 to {MAX_ERROR_FLOOR_MM:g} mm.")
        folders = [("warm_start", self.warm_start), *(("init_members", folder) for folder in self.init_folders)]
        for name, folder in folders:
            if folder and Path(folder).resolve() == (Path(self.output_dir) / "checkpoint").resolve():
                raise ValueError(
                    f"{name} is {folder}, where the new checkpoint would be written: take another --output-dir, so "
                    "that the earlier networks are kept."
                )

    @property
    def init_folders(self) -> list[str]:
        """The folders of `init_members`."""
        return self.init_members.split(",") if self.init_members else []


def train(arguments: ConformalArguments, words: Sequence[str] = ()) -> TrainingResult:
    """Trains and calibrates the ensemble, writes the checkpoint and evaluates it on the test patients.

    Args:
        arguments: settings of the training.
        words: words of the command line, for the model card.
    """
    folder, size = Path(arguments.output_dir), arguments.size
    networks = _initial_members(arguments)
    n_initial = len(networks)
    initial_weights = _initial_weights(arguments)
    calibration = load_split(arguments, "calibration")
    minutes, n_views = 0.0, 0
    if arguments.members:
        trained, minutes, n_views = _train_members(arguments, initial_weights, calibration)
        networks += trained
    prediction = ensemble_prediction(networks, calibration.images, size).with_error_floor(arguments.error_floor_mm)
    scores = nonconformity(prediction, calibration.displacement_mm)
    radius = calibrate(scores, calibration.patients, levels_for_new_patients(scores, calibration.patients))
    figures: dict[str, float] = {}
    if arguments.evaluate:
        test = load_split(arguments, "test")
        prediction = ensemble_prediction(networks, test.images, size).with_error_floor(arguments.error_floor_mm)
        figures = {**_errors(prediction, test), **_coverage(prediction, test, radius)}
    config: dict[str, Any] = {
        "kind": KIND,
        "architecture": arguments.architecture,
        "image_size": size,
        "isocenter_depth_mm": arguments.isocenter_depth_mm,
        "error_floor_mm": arguments.error_floor_mm,
        "members": len(networks),
        "trained_before": n_initial,
        "levels": list(LEVELS),
        "radius": radius.round(5).tolist(),
        "epochs": arguments.epochs if arguments.members else 0,
        "views": n_views,
        "seed": arguments.seed,
        **({"warm_start": fingerprint(initial_weights[0])} if initial_weights else {}),
    }
    tensors = {
        f"{number}.{name}": value
        for number, network in enumerate(networks)
        for name, value in network.state_dict().items()
    }
    if is_main_process():
        description = "Predicts the displacements to fourteen skeletal landmarks, with regions calibrated by patient."
        script = "training/conformal.py"
        card = model_card("Displacements with conformal regions", description, script, words, config, figures, minutes)
        save_checkpoint(folder / "checkpoint", config, tensors, card)
    return TrainingResult(figures, {"minutes": minutes, "seed": arguments.seed})


def _train_members(
    arguments: ConformalArguments, initial_weights: Sequence[dict[str, Tensor]], calibration: ViewArrays
) -> tuple[list[DisplacementNetwork], float, int]:
    """Trains the new members one after another; returns them, the minutes it took, and the number of views."""
    views, folder, size = load_split(arguments, "train"), Path(arguments.output_dir), arguments.size
    displacement_loss = DisplacementLoss(views.displacement_mm, arguments.consistency)

    def loss(outputs: tuple[Tensor, Tensor], batch: NDArray[np.int64], deformations: Deformations) -> Tensor:
        return displacement_loss(*outputs, batch, deformations)

    def evaluate(network: Any) -> dict[str, float]:
        errors = _errors(ensemble_prediction([network], calibration.images, size), calibration)
        return {**errors, "nearness": -errors["error_mm"]}

    objective = Objective(loss, evaluate, "nearness", views_fingerprint(views, calibration))
    networks, minutes = list[DisplacementNetwork](), 0.0
    for number in range(arguments.members):
        member = replace(arguments, seed=arguments.seed + number)
        torch.manual_seed(member.seed)
        network = DisplacementNetwork(arguments.architecture, arguments.isocenter_depth_mm)
        if arguments.warm_start and is_lofi(arguments.warm_start):
            fill_network(network, with_encoder(network.state_dict(), arguments.warm_start, ENCODER), "LoFi")
        elif initial_weights:
            fill_network(network, initial_weights[number], f"{arguments.warm_start}, network {number}")
        if is_main_process():
            print(f"network {number + 1} of {arguments.members}")
        minutes += fit_network(network, views.images, objective, member, folder / f"member-{number}")
        networks.append(network)
    return networks, minutes, len(views)


def _errors(prediction: Prediction, views: ViewArrays) -> dict[str, float]:
    error = np.hypot(*np.moveaxis(prediction.mean_mm - views.displacement_mm, -1, 0))
    closest = np.take_along_axis(error, views.closest_landmarks[:, :1] - 1, 1)
    return {
        "error_mm": float(np.nanmean(error)),
        "error_visible_mm": float(np.nanmean(error[views.visible])),
        "error_closest_mm": float(np.nanmean(closest)),
    }


def _coverage(prediction: Prediction, views: ViewArrays, radius: NDArray[np.float64]) -> dict[str, float]:
    scores = nonconformity(prediction, views.displacement_mm)
    inside = np.where(np.isfinite(scores), scores <= radius[:, None], np.nan)
    coverage = np.nanmean(inside, axis=(1, 2))
    return {f"coverage_{round(100 * level)}": float(share) for level, share in zip(LEVELS, coverage, strict=True)}


def _initial_members(arguments: ConformalArguments) -> list[DisplacementNetwork]:
    networks: list[DisplacementNetwork] = []
    for folder in arguments.init_folders:
        try:
            earlier = DisplacementRegressor(folder)
        except FileNotFoundError as error:
            raise ValueError(
                f"init_members is {folder}, expected a folder with a checkpoint of this script."
            ) from error
        if (earlier.architecture, earlier.image_size) != (arguments.architecture, arguments.size):
            raise ValueError(
                f"{folder} holds {earlier.architecture} networks for {earlier.image_size} pixels, expected "
                f"{arguments.architecture} for {arguments.size}: all members of an ensemble have one architecture; set "
                "--architecture and --image-size alike."
            )
        if earlier.isocenter_depth_mm != arguments.isocenter_depth_mm:
            raise ValueError(
                f"{folder} knows images with isocenter_depth_mm {earlier.isocenter_depth_mm:g}, expected "
                f"{arguments.isocenter_depth_mm:g}: set --isocenter-depth-mm {earlier.isocenter_depth_mm:g}."
            )
        networks += earlier.networks
    return networks


def _initial_weights(arguments: ConformalArguments) -> list[dict[str, Tensor]]:
    if not arguments.warm_start or is_lofi(arguments.warm_start):
        return []
    config, tensors = load_checkpoint(arguments.warm_start, KIND, ("architecture", "members"))
    numbers = range(arguments.warm_start_first, arguments.warm_start_first + arguments.members)
    if config["members"] < numbers.stop:
        raise ValueError(
            f"{arguments.warm_start} holds {config['members']} networks, expected {numbers.stop}, one for each "
            "new network: take fewer --members, or a smaller --warm_start_first."
        )
    weights = [member_tensors(tensors, number) for number in numbers]
    before, now = find_architecture(config["architecture"]), find_architecture(arguments.architecture)
    if now.local_contrast and not before.local_contrast:
        weights = [with_local_contrast(tensors) for tensors in weights]
    return weights


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_training(train, ConformalArguments, __doc__, KIND, given)


if __name__ == "__main__":
    sys.exit(main())
