"""Agents trained with stable-baselines3, run from safetensors and JSON.

A stable-baselines3 archive (``.zip``) holds cloudpickle, which can run any code when it is loaded: never load one from
a source that you do not trust. `training/rl.py` exports the weights that are needed to act, and this module loads
them; stable-baselines3 itself is not needed to run an agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import N_ACTIONS, Move
from carm_env.evaluation.policy import Decision, Policy
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from policies.checkpoint import SHIPPED, CheckpointError, fill_network, fingerprint, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.conformal import KIND as CONFORMAL
from policies.conformal import member_tensors
from policies.features import N_FEATURES, TargetFeatures
from policies.images import image_of
from policies.networks import SCALE_MM, DisplacementNetwork, as_input

with optional_imports("train", "A learned policy"):
    import torch
    from torch import Tensor, nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
FEATURES = ("target", "backbone")
_OLD_FEATURES = {"trunk": "backbone"}
SHIPPED_BACKBONE = "shipped_eye"
"""Config key: fingerprint of the first network of the shipped `conformal`, stored instead of a copy of it."""


def perceptron(layers: list[int], activation: str) -> nn.Sequential:
    """Builds linear layers of these widths with an activation between them."""
    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    modules: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        modules += [ACTIVATIONS[activation]()] if number else []
        modules.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*modules)


def shipped_backbone() -> dict[str, Tensor]:
    """Loads the tensors of the first network of the shipped `conformal`, the backbone of most agents."""
    return member_tensors(load_checkpoint(SHIPPED / CONFORMAL, CONFORMAL)[1], 0)


class Agent:
    """An exported agent: features of an X-ray, then a perceptron with a value for each of the 49 actions.

    Args:
        folder: checkpoint of `training/rl.py`.
        kind: name of the algorithm.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: the checkpoint is damaged or of another kind.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        keys = "features", "architecture", "image_size", "layers", "activation", "quantiles"
        config, tensors = load_checkpoint(folder, kind, keys)
        self.features = _OLD_FEATURES.get(config["features"], config["features"])
        self.image_size = int(config["image_size"])
        self.quantiles = int(config["quantiles"])
        if self.features not in FEATURES:
            raise CheckpointError(f"{folder} has features {self.features!r}, expected one of {', '.join(FEATURES)}.")
        modules: dict[str, dict[str, Tensor]] = {"backbone": {}, "head": {}}
        for name, value in tensors.items():
            module, _, rest = name.partition(".")
            if module not in modules:
                raise CheckpointError(f"{folder} holds {name}, expected only a backbone and a head.")
            modules[module][rest] = value
        if SHIPPED_BACKBONE in config:
            modules["backbone"] = shipped_backbone()
            if fingerprint(modules["backbone"]) != config[SHIPPED_BACKBONE]:
                raise CheckpointError(
                    f"{folder} was trained with another {SHIPPED / CONFORMAL} than the installed one: use the version "
                    "of carm-env that it was trained with, or train it again."
                )
        self._backbone = DisplacementNetwork(config["architecture"], trained_depth_mm(config))
        self._head = perceptron(config["layers"], config["activation"])
        expected = (N_FEATURES if self.features == "target" else self._backbone.n_features + N_LANDMARKS,
                    N_ACTIONS * self.quantiles)  # fmt: skip
        if (config["layers"][0], config["layers"][-1]) != expected:
            raise CheckpointError(f"{folder} has layers {config['layers']}, expected {expected[0]} .. {expected[1]}.")
        fill_network(self._backbone, modules["backbone"], f"{folder}, backbone")
        fill_network(self._head, modules["head"], f"{folder}, head")
        self._backbone.eval()
        self._target_features = TargetFeatures()

    def reset(self) -> None:
        """Starts an episode."""
        self._target_features.reset()

    def values(self, image: NDArray[np.uint8], target: int, info: Mapping[str, Any]) -> NDArray[np.float64]:
        """Returns the logits or values ``(49,)`` of the actions.

        Args:
            image: ``(H, W, 1)``.
            target: id of the target landmark.
            info: information of the environment; see `TargetFeatures.update`.
        """
        with torch.inference_mode():
            inputs = as_input(image[None], self.image_size)
            index = landmark(target).index
            if self.features == "target":
                mean, log_std = self._backbone(inputs)
                target_features = self._target_features.update(
                    mean[0, index].numpy() * SCALE_MM, log_std[0, index].exp().numpy() * SCALE_MM, info
                )
                features = torch.as_tensor(target_features)[None]
            else:
                features = torch.cat([self._backbone.features(inputs), torch.eye(N_LANDMARKS)[index][None]], 1)
            values = self._head(features)[0].double().numpy()
        # Quantile regression has several values for each action; their mean is the action value.
        result: NDArray[np.float64] = values.reshape(self.quantiles, N_ACTIONS).mean(0)
        return result


class AgentPolicy(Policy):
    """A policy that takes the action with the highest value.

    Args:
        folder: checkpoint of `training/rl.py`; by default the shipped one.
    """

    max_threads = 1

    kind: ClassVar[str]
    shipped: ClassVar[str] = ""
    """Folder of the shipped checkpoint; empty if it is called like the kind."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._agent = Agent(Path(folder) if folder is not None else SHIPPED / (self.shipped or self.kind), self.kind)

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        self._agent.reset()

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Takes the best action of those that would move the C-arm along every axis they command."""
        values = self._agent.values(image_of(observation), int(info["target_landmark"]), info)
        if (mask := info.get("action_mask")) is not None:
            values = np.where(np.asarray(mask, bool), values, -np.inf)
        return Decision(Move.from_index(int(np.argmax(values))))


class PpoPolicy(AgentPolicy):
    """Proximal policy optimisation."""

    kind = "ppo"


class PpoPixelsPolicy(AgentPolicy):
    """Proximal policy optimisation from pixels alone, without a network that was trained on labels."""

    kind = "ppo"
    shipped = "ppo_pixels"


class MaskablePpoPolicy(AgentPolicy):
    """Proximal policy optimisation with action masks."""

    kind = "maskable_ppo"


class DqnPolicy(AgentPolicy):
    """Deep Q-learning."""

    kind = "dqn"


class QrDqnPolicy(AgentPolicy):
    """Quantile-regression deep Q-learning."""

    kind = "qrdqn"
