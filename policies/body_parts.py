"""What names the body parts in an X-ray: a network with a sigmoid for each of them, or a language model.

The network is the paper's baseline for real X-rays: its classifier with a sigmoid instead of a softmax, of which the
two likeliest body parts are taken. No weights ship, because the shipped policies were trained on virtual patients:
``training/body_parts.py`` and ``training/sft.py --data`` train them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.body_parts import N_BODY_PARTS
from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.label_metrics import likeliest
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from policies.checkpoint import fill_network, load_checkpoint
from policies.images import batches
from policies.networks import PooledClassifier, as_input

with optional_imports("train", "A learned policy"):
    import torch

KIND = "body_parts"
_LANGUAGE_MODEL = "mllm"
_MODEL_IMAGE_SIZE = 896
"""Side of the images that a language model gets, as in the paper's recipes; its processor resizes them."""


class BodyPartClassifier(Protocol):
    """Names the two likeliest body parts in images.

    Attributes:
        image_size: side of the images, pixels.
        trained_on: ``data`` and ``test_split`` of the training, as in a checkpoint; empty for a model of others.
    """

    image_size: int
    trained_on: dict[str, Any]

    def body_parts(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns ``(n, 2)`` numbers for images ``(n, s, s)``, the likelier first; -1 where there is no answer."""
        ...


class BodyPartNetwork:
    """A checkpoint of ``training/body_parts.py``.

    Args:
        folder: folder of the checkpoint.

    Attributes:
        image_size: side of the images, pixels.
        trained_on: data set and test images of the training.
        network: maps images to logits.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: the checkpoint is damaged or of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        config, tensors = load_checkpoint(folder, KIND, ("image_size", "architecture", "data", "test_split"))
        self.image_size = int(config["image_size"])
        self.trained_on: dict[str, Any] = {name: config[name] for name in ("data", "test_split")}
        self.network = PooledClassifier(config["architecture"], N_BODY_PARTS)
        fill_network(self.network, tensors, str(folder))
        self.network.eval()

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the probability of each body part ``(n, 22)``, independent of each other."""
        with torch.inference_mode():
            logits = [self.network(as_input(images[part], self.image_size))[0] for part in batches(len(images))]
        return np.asarray(torch.cat(logits).sigmoid().double().numpy())

    def body_parts(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns the numbers of the two likeliest body parts ``(n, 2)``; see `likeliest` for ties."""
        return likeliest(self.probabilities(images))


class BodyPartLanguageModel:
    """A language model that is asked for body parts.

    Args:
        model: folder, id on the hub or ``http://HOST:PORT/v1#MODEL``, with settings; see `ModelSpecification`.

    Attributes:
        image_size: side of the images, pixels.
        trained_on: data set and test images, of a model of ``training/sft.py --data``.
        reading: how its answers are parsed: strict for a model that was fine-tuned here, otherwise lenient.
        style: style of the prompts.

    Raises:
        ModelError: the model cannot be used.
        UnknownNameError: an unknown setting.
    """

    def __init__(self, model: str) -> None:
        # Imported here: a network needs no language models.
        from policies.mllm import MllmLocalizer, is_trained_here
        from policies.model_folders import model_folder
        from policies.model_loading import read_settings

        specification = ModelSpecification.parse(model)
        if not specification.name:
            raise UnknownNameError("model", model, ["mllm:FOLDER", "mllm:HUB_ID", "mllm:http://HOST:PORT/v1#MODEL"])
        self.reading = specification.reading or ("strict" if is_trained_here(specification) else "lenient")
        self._asked = MllmLocalizer(model, self.reading)
        self.style, self.image_size = self._asked.model.style, _MODEL_IMAGE_SIZE
        self.trained_on: dict[str, Any] = {}
        for name in () if specification.is_served else (specification.adapter, specification.name):
            settings = read_settings(model_folder(name, specification.revision or None)) if name else {}
            if "data" in settings and not self.trained_on:
                self.trained_on = {key: settings.get(key) for key in ("data", "test_split")}

    def body_parts(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Asks about each image; returns ``(n, 2)`` numbers, a row of -1 where the answer cannot be parsed."""
        return self._asked.body_parts(images)


def make_body_part_classifier(name: str) -> BodyPartClassifier:
    """Constructs what names body parts.

    Args:
        name: folder of a checkpoint of ``training/body_parts.py``, also as ``body_parts:FOLDER``; or ``mllm:MODEL``.

    Raises:
        UnknownNameError: a policy of another kind.
        FileNotFoundError, CheckpointError, ModelError, MissingExtraError: it cannot be constructed.
    """
    kind, separator, rest = name.partition(":")
    if separator and kind == _LANGUAGE_MODEL:
        return BodyPartLanguageModel(rest)
    if separator and kind == KIND:
        return BodyPartNetwork(rest)
    if not name or separator:
        raise UnknownNameError("policy", name, ["CHECKPOINT", f"{KIND}:CHECKPOINT", f"{_LANGUAGE_MODEL}:MODEL"])
    return BodyPartNetwork(name)
