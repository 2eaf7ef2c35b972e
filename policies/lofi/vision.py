"""The image encoder of a small LoFi as the feature map of a displacement network (architecture ``lofi``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carm_env.system.extras import optional_imports
from policies.checkpoint import CheckpointError, load_checkpoint
from policies.checkpoint_config import read_config
from policies.resnet import MEDIUM, beside_contrast, build_resnet, standardized

with optional_imports("train", "A learned policy"):
    import torch
    from torch import Tensor, nn
    from transformers import SiglipVisionConfig, SiglipVisionModel

KIND = "lofi"
SMALL_TOWER: dict[str, int] = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
"""Size of the layers of both encoders of a small model."""
IMAGE_LAYERS = 2
"""Layers of the image encoder of a small model, after its ResNet."""
PATCH_SIZE = 16
_STORED = "encoders.vision_model."
_POOLING = "head."


class ConvolutionalStem(nn.Module):
    """A ResNet in place of the linear map of patches: one vector for each square of 16 pixels.

    A transformer that sees the map of a ResNet learns from far fewer images than one that sees pixels: the hybrid of
    Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), section 3.1. It takes the place of
    ``patch_embedding`` in transformers' `SiglipVisionModel`. The ResNet has the size of the architecture
    ``medium_contrast``, so that it can begin with the weights of a trained network.

    Args:
        width: width of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = build_resnet(*MEDIUM, input_channels=2)
        self.projection = nn.Conv2d(MEDIUM[1][-1], width, 1)

    @property
    def weight(self) -> Tensor:
        """Weights whose type transformers converts the pixels to."""
        return self.projection.weight

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps grey pixels ``(n, 3, s, s)``, whose channels are equal, to ``(n, width, s / 16, s / 16)``."""
        grey = standardized((pixels[:, :1] + 1) * 127.5)
        found: Tensor = self.projection(self.resnet(beside_contrast(grey)).last_hidden_state)
        return found

    def train(self, mode: bool = True) -> ConvolutionalStem:
        """Switches to training or evaluation; a frozen ResNet stays in evaluation, so that its statistics do not move.

        Args:
            mode: training, if true.
        """
        super().train(mode)
        if not any(weights.requires_grad for weights in self.resnet.parameters()):
            self.resnet.eval()
        return self


class PatchMap(nn.Module):
    """A small image encoder without its pooling: one vector for each patch.

    Args:
        image_size: side of the images of its position embeddings, pixels, a multiple of 16; images of other such sides
            are accepted.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        config = SiglipVisionConfig(
            **SMALL_TOWER,
            num_hidden_layers=IMAGE_LAYERS,
            image_size=image_size,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        )
        model = SiglipVisionModel(config)
        # Some versions of transformers keep the layers in a module of their own.
        self.layers = getattr(model, "vision_model", model)
        self.layers.embeddings.patch_embedding = ConvolutionalStem(SMALL_TOWER["hidden_size"])
        self.image_size = image_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps pixels ``(n, 1, s, s)``, -1 to 1, to ``(n, 128, s / 16, s / 16)``."""
        side = pixels.shape[-1]
        states = self.layers(
            pixel_values=pixels.expand(-1, 3, -1, -1), interpolate_pos_encoding=side != self.image_size
        ).last_hidden_state
        rows = side // PATCH_SIZE
        found: Tensor = states.transpose(1, 2).unflatten(2, (rows, rows))
        return found


def is_lofi(folder: str | Path) -> bool:
    """Returns whether a folder holds a checkpoint of `training/lofi.py`."""
    path = Path(folder) / "config.json"
    return path.is_file() and read_config(path)["kind"] == KIND


def encoder_tensors(folder: str | Path) -> dict[str, Tensor]:
    """Returns the weights of the image encoder of a checkpoint, by their names in `PatchMap`.

    Raises:
        FileNotFoundError, CheckpointError: see `policies.checkpoint.load_checkpoint`; or the checkpoint is of
            pretrained encoders, of which it holds LoRA alone.
    """
    config, tensors = load_checkpoint(folder, KIND, ("image_text_model",))
    if config["image_text_model"]:
        raise CheckpointError(
            f"{folder} was trained from pretrained encoders ({config['image_text_model']}), expected a small model of "
            "training/lofi.py: train one without --image-text-model."
        )
    return {
        f"layers.{name.removeprefix(_STORED)}": value
        for name, value in tensors.items()
        if name.startswith(_STORED) and not name.startswith(_STORED + _POOLING)
    }


def with_encoder(tensors: dict[str, Any], folder: str | Path, prefix: str) -> dict[str, Any]:
    """Returns the tensors of a network with those of LoFi's image encoder in place of its own.

    Args:
        tensors: tensors of the network by name.
        folder: folder of a checkpoint of `training/lofi.py`.
        prefix: name of the `PatchMap` in the network, with a point.

    Raises:
        FileNotFoundError, CheckpointError: see `encoder_tensors`; or the encoder is of another size.
    """
    found = {f"{prefix}{name}": value for name, value in encoder_tensors(folder).items()}
    own = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    if not own:
        raise CheckpointError(
            f"{folder} is a checkpoint of training/lofi.py, but the network has no such encoder: give "
            "--architecture lofi."
        )
    for name, value in own.items():
        shape = tuple(found[name].shape) if name in found else "absent"
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"{folder} has an image encoder of another size: {name} is {shape}, expected {tuple(value.shape)}: "
                "train LoFi with the default --image-size."
            )
    return {**tensors, **{name: torch.as_tensor(found[name]) for name in own}}
