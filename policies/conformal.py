"""An ensemble that predicts displacements to all landmarks with conformal regions, and a policy that follows it.

The networks are a deep ensemble (Lakshminarayanan et al., NeurIPS 2017). Each predicts, for each landmark, a Gaussian
over the displacement across the beam. `policies/regions.py` explains the regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, Move, MoveLattice
from carm_env.envs.navigation import DEFAULT_TOLERANCE_MM
from carm_env.evaluation.localization import Localization, RankedLocalizer
from carm_env.evaluation.policy import Decision, Policy, task_lattice
from carm_env.geometry import DEFAULT_GEOMETRY
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS, landmark
from carm_env.language.advice_reader import read_advice
from carm_env.language.objections import objects
from carm_env.language.reasons import with_article
from carm_env.reports.view_facts import region_half_mm
from carm_env.system.extras import optional_imports
from carm_env.views.read import ViewImages
from carm_env.xray_datasets.grounded import Box
from policies.checkpoint import SHIPPED, CheckpointError, fill_network, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.features import DisplacementTracker
from policies.images import batches, image_of
from policies.listening import AdvisedBelief
from policies.networks import SCALE_MM, DisplacementNetwork, as_input
from policies.regions import (
    LEVELS,
    Prediction,
    mixture,
    probability_closest,
    probability_within,
    rank_by_distance,
)

with optional_imports("train", "A learned policy"):
    import torch
    from torch import Tensor

KIND = "conformal"
_SAME_POSITION_MM = 1.0
ABSTAIN_BELOW = 0.5
"""Confidence below which the policy hands back: it takes an alignment to be more likely wrong than right."""


def member_tensors(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Selects the tensors of network `number` from the checkpoint of an ensemble."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def ensemble_prediction(networks: Sequence[DisplacementNetwork], images: ViewImages, size: int) -> Prediction:
    """Predicts displacements as the mixture of the predictions of several networks.

    Args:
        networks: the networks; they are switched to evaluation mode.
        images: ``(n, s, s)`` or ``(n, s, s, 1)`` uint8.
        size: side of the networks' input, pixels.
    """
    for network in networks:
        network.eval()
    means, stds = [], []
    with torch.inference_mode():
        for part in batches(len(images)):
            inputs = as_input(images[part], size)
            outputs = [network(inputs.to(next(network.parameters()).device)) for network in networks]
            mean, std = mixture(
                [mean.double().cpu().numpy() for mean, _ in outputs],
                [log_std.double().exp().cpu().numpy() for _, log_std in outputs],
            )
            means.append(mean)
            stds.append(std)
    return Prediction(np.concatenate(means) * SCALE_MM, np.concatenate(stds) * SCALE_MM)


class DisplacementRegressor:
    """An ensemble of displacement networks and its calibration.

    Args:
        folder: checkpoint of `training/conformal.py`; by default the shipped one.
        members: number of networks to use, from the first; by default all.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: the checkpoint is damaged or of another kind.
    """

    def __init__(self, folder: str | Path | None = None, members: int | None = None) -> None:
        origin = Path(folder) if folder is not None else SHIPPED / KIND
        config, tensors = load_checkpoint(origin, KIND, ("architecture", "image_size", "levels", "radius", "members"))
        self.architecture = str(config["architecture"])
        self.image_size = int(config["image_size"])
        self.isocenter_depth_mm = trained_depth_mm(config)
        self.error_floor_mm = float(config.get("error_floor_mm", 0.0))
        self.levels = tuple(config["levels"])
        if [len(row) for row in config["radius"]] != [N_LANDMARKS] * len(self.levels):
            raise CheckpointError(f"{origin} has other radii than {(len(self.levels), N_LANDMARKS)}: train it again.")
        self.radius = np.array(config["radius"], float)
        self.networks: list[DisplacementNetwork] = []
        for number in range(config["members"] if members is None else members):
            network = DisplacementNetwork(self.architecture, self.isocenter_depth_mm)
            fill_network(network, member_tensors(tensors, number), f"{origin}, network {number}")
            network.eval()
            self.networks.append(network)

    @property
    def field_of_view_mm(self) -> float:
        """What the images that it knows show in the middle of the body, mm."""
        return DEFAULT_GEOMETRY.field_of_view_at_mm(self.isocenter_depth_mm)

    def predict(self, images: NDArray[np.uint8]) -> Prediction:
        """Predicts the displacements in images ``(n, H, W)`` or ``(n, H, W, 1)`` uint8."""
        prediction = ensemble_prediction(self.networks, images, self.image_size)
        return prediction.with_error_floor(self.error_floor_mm)

    def localize(self, images: NDArray[np.uint8], count: int = 3) -> NDArray[np.int64]:
        """Returns ``(n, count)`` ids of the landmarks that seem closest, nearest first; `images` as in `predict`."""
        return rank_by_distance(self.predict(images))[:, :count]

    def locate(self, images: NDArray[np.uint8]) -> Localization:
        """Returns names, probabilities, positions and regions; `images` as in `predict`."""
        prediction = self.predict(images)
        closest = rank_by_distance(prediction)[:, :N_CLOSEST]
        region_mm = prediction.std_mm * self.radius_at(LEVELS[0])[:, None]
        return Localization(closest, probability_closest(prediction), prediction.mean_mm, region_mm)

    def ground(self, images: NDArray[np.uint8], targets: Sequence[int]) -> list[tuple[Box, ...]]:
        """Returns the box of a landmark in each image: its region of fixed size around the predicted position.

        Regions have the same size as in reports (`carm_env.reports.view_facts.REGION_HALF_MM`).

        Args:
            images: ``(n, H, W)`` uint8.
            targets: id of the landmark in each image.

        Returns:
            One box for each image, clipped to the image; none where the region lies outside of it.
        """
        indices = [landmark(key).index for key in targets]
        left, up = (self.predict(images).mean_mm[np.arange(len(indices)), indices] / self.field_of_view_mm).T
        half = np.array([region_half_mm(landmark(key).name) for key in targets]) / self.field_of_view_mm
        center = np.stack([0.5 + left, 0.5 - up], 1)
        boxes = np.concatenate([center - half, center + half], 1).clip(0, 1).tolist()
        return [((a, b, c, d),) if a < c and b < d else () for a, b, c, d in boxes]

    def radius_at(self, level: float) -> NDArray[np.float64]:
        """Returns the radii ``(14,)`` of the regions of a level, in standard deviations.

        Raises:
            ValueError: the ensemble was not calibrated at this level.
        """
        if level not in self.levels:
            raise ValueError(f"level is {level}, expected one of: {', '.join(map(str, self.levels))}.")
        radius: NDArray[np.float64] = self.radius[self.levels.index(level)]
        return radius


class ConformalLocalizer(RankedLocalizer):
    """`DisplacementRegressor` as a localiser.

    Args:
        folder: see `DisplacementRegressor`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        regressor = DisplacementRegressor(folder)
        super().__init__(regressor.localize, regressor.locate, regressor.field_of_view_mm)
        self.ground = regressor.ground


class ConformalPolicy(Policy):
    """A policy that takes the lattice move closest to the predicted displacement.

    It does not move towards an end of the workspace that it has reached. It declares "aligned" when the region of the
    target is within the tolerance, when no move comes closer, or when it would return to an earlier position for the
    second time. It abstains, with a question, when it would declare with a confidence below `abstain_below`, when the
    end of the workspace keeps it farther from the target than the tolerance, or when a clinician has rejected a
    declaration here. What a clinician says about the position of the target is combined with the prediction
    (`policies/listening.py`).

    Its confidence is the probability that the target is within the tolerance, for a Gaussian that is as wide as its
    region: a region that was calibrated on other patients is wider than the networks' own standard deviation says.

    Args:
        folder: see `DisplacementRegressor`.
        level: coverage of the regions.
        abstain_below: confidence below which the policy hands back instead of declaring, 0 (never) to 1.
        tolerance_mm: tolerance of the environment.
        lattice: the moves of the environment.
        memory: see `DisplacementTracker`.

    Raises:
        ValueError: a level that was not calibrated, a tolerance that is not positive, a confidence outside of 0 to 1.
    """

    max_threads = 1

    def __init__(
        self,
        folder: str | Path | None = None,
        level: float = LEVELS[0],
        abstain_below: float = ABSTAIN_BELOW,
        tolerance_mm: float = DEFAULT_TOLERANCE_MM,
        lattice: MoveLattice | None = None,
        memory: float = 0.8,
    ) -> None:
        if not tolerance_mm > 0:
            raise ValueError(f"tolerance_mm is {tolerance_mm}, expected a positive length.")
        if not 0 <= abstain_below <= 1:
            raise ValueError(f"abstain_below is {abstain_below}, expected 0 to 1.")
        self._regressor = DisplacementRegressor(folder)
        self._radius = self._regressor.radius_at(level)
        self._std_per_radius = 1 / math.sqrt(-2 * math.log(1 - level))
        self._abstain_below, self._tolerance_mm = abstain_below, tolerance_mm
        self._lattice = lattice
        self._tracker = DisplacementTracker(memory, self._regressor.error_floor_mm)
        self.reset()
        self.confidence = 0.0
        """Confidence of the last decision."""

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        self._tracker.reset()
        self._position_mm = np.zeros(2)
        self._visited_mm: list[NDArray[np.float64]] = []
        self._turned_back, self._is_stopped, self._was_decisive = False, False, False
        self._target = 0
        self.displacement_mm: NDArray[np.float64] = np.zeros(2)
        """``(2,)`` the displacement to the target that the last decision assumed, to the left and cranially."""
        self._advised = AdvisedBelief(self._tolerance_mm)
        self._rejected_mm: list[NDArray[np.float64]] = []
        self._heard: list[str] = []
        self.has_understood = False
        """Whether the last words of a clinician said where the target is."""

    def feedback(self, text: str) -> None:
        """Hears a clinician's words about the X-ray of the next decision; they take effect there.

        It understands where the target is, that it is not here, and to stop. A confirmation counts only after a
        declaration or a question: elsewhere it praises a move.
        """
        self._heard.append(text)

    def _listen(self) -> None:
        """Takes the words that were heard, after the prediction from the X-ray that they are about."""
        for text in self._heard:
            advice = read_advice(text)
            kinds = {one.kind for one in advice}
            self._is_stopped = self._is_stopped or "stop" in kinds
            is_confirmed = self._was_decisive and kinds == {"confirmation"}
            # A verdict on the way is about a move, or about what the policy names.
            only_of_declarations = {"confirmation": is_confirmed, "verdict": self._was_decisive}
            about = [one for one in advice if only_of_declarations.get(one.kind, True)]
            self.has_understood = self._advised.hear(about, self._target, self._predicted_mm)
            if self.has_understood:
                # Earlier positions may be passed again on the new way.
                self._visited_mm, self._turned_back = self._visited_mm[-1:], False
            if is_confirmed:
                self._rejected_mm.clear()
            elif self._was_decisive and objects(advice, self._target, has_declared=True):
                self._rejected_mm.append(self._position_mm)
        self._heard = []

    def _without_oscillation(self, move: Move, lattice: MoveLattice) -> Move:
        """Returns the move, or "aligned" if it would lead to a visited position for the second time."""
        destination = self._position_mm + lattice.displacement_mm(move)
        if move.is_aligned or all(np.hypot(*(destination - seen)) > _SAME_POSITION_MM for seen in self._visited_mm):
            return move
        if self._turned_back:
            return ALIGNED
        self._turned_back = True
        return move

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Updates the tracked displacement with the X-ray, then moves, declares or abstains."""
        if self._target and self._target != int(info["target_landmark"]):
            self._forget_target()
        self._target = int(info["target_landmark"])
        self._position_mm = self._position_mm + np.asarray(info["moved_mm"], float)
        self._visited_mm.append(self._position_mm)
        self._advised.move(info["moved_mm"])
        prediction = self._regressor.predict(image_of(observation)[None])
        self._predicted_mm = prediction.mean_mm[0]
        index = landmark(self._target).index
        self._tracker.update(prediction.mean_mm[0, index], prediction.std_mm[0, index], info["moved_mm"])
        self._listen()
        mean, std = self._tracker.mean_mm, self._tracker.std_mm
        region_mm = float(self._radius[index] * math.sqrt(float(std.prod())))
        calibrated_std = std * self._radius[index] * self._std_per_radius
        if self._advised.says_where:
            mean, self.confidence = self._advised.locate(mean, calibrated_std)
        else:
            self.confidence = probability_within(mean, calibrated_std, self._tolerance_mm)
        self.displacement_mm = mean
        farthest_mm = float(np.hypot(*mean) + self._radius[index] * std.max())
        lattice = task_lattice(info, self._lattice)
        nearest = lattice.closest_move(mean, info.get("action_mask"))
        is_blocked = nearest.is_aligned and not lattice.closest_move(mean).is_aligned
        is_out_of_reach = is_blocked and bool(np.hypot(*mean) > self._tolerance_mm)
        move = self._without_oscillation(nearest, lattice)
        if farthest_mm <= self._tolerance_mm and not self._advised.says_where:
            move = ALIGNED
        name = with_article(landmark(self._target).name)
        is_unsure = self.confidence < self._abstain_below or is_out_of_reach or self._is_rejected()
        abstain = self._is_stopped or (move.is_aligned and is_unsure)
        self._was_decisive = move.is_aligned
        return Decision(
            move,
            closest_landmarks=tuple(rank_by_distance(prediction)[0, :3].tolist()),
            rationale=f"{landmark(index + 1).name} should be {mean[0]:.0f} mm to the left and {mean[1]:.0f} mm "
            f"cranially, within {region_mm:.0f} mm.",
            confidence=self.confidence,
            abstain=abstain,
            question=f"I am not sure where {name} is. Which way is it?" if abstain and not self._is_stopped else "",
        )

    def _forget_target(self) -> None:
        """Forgets what was about another target."""
        self._tracker.reset()
        self._advised.reset()
        self._visited_mm, self._rejected_mm, self._turned_back = [], [], False

    def _is_rejected(self) -> bool:
        """Returns whether a clinician has rejected a declaration at this position."""
        return any(np.hypot(*(self._position_mm - there)) <= _SAME_POSITION_MM for there in self._rejected_mm)
