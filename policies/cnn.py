"""The paper's conventional network, which classifies the closest landmark, and a policy that reasons by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.evaluation.localization import Localization
from carm_env.evaluation.policy import Decision
from carm_env.geometry import DEFAULT_GEOMETRY
from carm_env.landmarks import N_CLOSEST
from carm_env.system.extras import optional_imports
from policies.atlas import BeliefPolicy
from policies.checkpoint import SHIPPED, fill_network, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.images import batches, image_of
from policies.networks import SCALE_MM, as_input, build_classifier

with optional_imports("train", "A learned policy"):
    import torch

KIND = "cnn"


class LandmarkClassifier:
    """A classifier of the landmark that is closest to the middle of an X-ray.

    Args:
        folder: checkpoint of `training/cnn.py`; by default the shipped one.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: the checkpoint is damaged or of another kind.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        origin = Path(folder) if folder is not None else SHIPPED / KIND
        config, tensors = load_checkpoint(origin, KIND, ("image_size", "architecture"))
        self.image_size = int(config["image_size"])
        self.field_of_view_mm = DEFAULT_GEOMETRY.field_of_view_at_mm(trained_depth_mm(config))
        self.network = build_classifier(config["architecture"], trained_depth_mm(config))
        fill_network(self.network, tensors, str(origin))
        self.network.eval()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns ``(n, 14)`` probabilities that each landmark is the closest one.

        Args:
            images: ``(n, H, W)`` or ``(n, H, W, 1)`` uint8.
        """
        with torch.inference_mode():
            logits = [self.network(as_input(images[part], self.image_size))[0] for part in batches(len(images))]
        result: NDArray[np.float64] = torch.cat(logits).double().softmax(1).numpy()
        return result

    def localize(self, images: NDArray[np.uint8], count: int = 3) -> NDArray[np.int64]:
        """Returns ``(n, count)`` ids of the landmarks that are most likely the closest, the likeliest first."""
        return np.argsort(-self.probabilities(images), axis=1, kind="stable")[:, :count] + 1

    def locate(self, images: NDArray[np.uint8]) -> Localization:
        """Returns names and probabilities, and positions if the architecture predicts them; `images` as above."""
        with torch.inference_mode():
            parts = [self.network(as_input(images[part], self.image_size)) for part in batches(len(images))]
        logits, *others = (torch.cat(column).double() for column in zip(*parts, strict=True))
        probabilities = logits.softmax(1).numpy()
        closest = np.argsort(-probabilities, axis=1, kind="stable")[:, :N_CLOSEST] + 1
        return Localization(closest, probabilities, others[0].numpy() * SCALE_MM if others else None)


class CnnPolicy(BeliefPolicy):
    """The reasoning of `AtlasPolicy` on the classifier's answer instead of the true closest landmark.

    Args:
        folder: see `LandmarkClassifier`.
        lattice: the moves of the environment.
    """

    max_threads = 1

    def __init__(self, folder: str | Path | None = None, lattice: MoveLattice | None = None) -> None:
        super().__init__(lattice)
        self._classifier = LandmarkClassifier(folder)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Classifies the X-ray, updates the belief and moves towards the target."""
        probabilities = self._classifier.probabilities(image_of(observation)[None])[0]
        ranked = tuple(int(index) + 1 for index in np.argsort(-probabilities, kind="stable")[:3])
        return self._decide(probabilities, ranked, info)
