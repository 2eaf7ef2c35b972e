"""Networks that look at an X-ray, on transformers' ResNet: torchvision is not needed.

The classifier is a residual trunk and one linear answer; basic layers, 3-4-6-3 of them, make a ResNet-34 (21 M
parameters), as in the paper, and the small one (0.7 M) trains on a CPU in minutes. The displacement network keeps the
map: each of its places says how far off a landmark is from there and how much it is to be believed, so that a landmark
is learnt wherever in the picture it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carm_env.errors import MissingExtraError, UnknownNameError
from carm_env.geometry import CArmGeometry
from carm_env.landmarks import N_LANDMARKS

if TYPE_CHECKING:
    from torch import Tensor, nn

GREY_MEAN, GREY_DEVIATION = 110.0, 70.0
"""Of the grey values of typical views."""
SCALE_MM = 100.0
"""Displacement networks answer in these units."""
_LOG_DEVIATION = (-4.5, 1.5)
"""Limits of the logarithm of a deviation in `SCALE_MM`: 1 mm to 450 mm."""
_PER_LANDMARK = 5
"""Answers of a place of the map: two displacements, two logarithms of deviations, and its weight."""


@dataclass(frozen=True)
class Architecture:
    """A trunk.

    Attributes:
        embedding: channels of the stem.
        channels: of its stages.
        depths: basic layers of each stage.
        grid: of the classifier: the last map is averaged to ``grid x grid`` places; more than one keeps where something
            lies.
        neck: features after it; 0 for none.
        map_channels: of the displacement network's stages, of which there are fewer: its map is finer.
        map_depths: basic layers of these.
        image_size: pixels a side that it is made for.
    """

    embedding: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    grid: int
    neck: int
    map_channels: tuple[int, ...]
    map_depths: tuple[int, ...]
    image_size: int


ARCHITECTURES = {
    "tiny": Architecture(8, (8, 16, 24, 32), (1, 1, 1, 1), 2, 32, (8, 16, 24), (1, 1, 1), 32),
    "small": Architecture(16, (16, 48, 96, 160), (1, 1, 1, 1), 3, 128, (20, 64, 128), (1, 1, 2), 96),
    "medium": Architecture(24, (24, 64, 128, 256), (1, 1, 2, 2), 3, 192, (32, 96, 192), (1, 2, 2), 128),
    "resnet34": Architecture(64, (64, 128, 256, 512), (3, 4, 6, 3), 1, 0, (64, 128, 256), (3, 4, 6), 256),
}
"""``tiny`` is for tests."""


def torch_module() -> Any:
    """The module torch; MissingExtraError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train", "a learned policy") from error
    return torch


def _shape(architecture: str) -> Architecture:
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture]


def _trunk(embedding: int, channels: tuple[int, ...], depths: tuple[int, ...]) -> Any:
    try:
        from transformers import ResNetConfig, ResNetModel
    except ImportError as error:
        raise MissingExtraError("transformers", "train", "a learned policy") from error
    return ResNetModel(
        ResNetConfig(
            num_channels=1,
            embedding_size=embedding,
            hidden_sizes=list(channels),
            depths=list(depths),
            layer_type="basic",
            out_features=[f"stage{len(channels)}"],
        )
    )


def build_network(architecture: str, outputs: int) -> nn.Module:
    """A classifier: pictures ``(n, 1, s, s)`` (see `as_input`) to ``(n, outputs)``, randomly initialised.

    Raises:
        UnknownNameError: no such architecture.
        MissingExtraError: torch or transformers is not installed.
    """
    shape, torch = _shape(architecture), torch_module()

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        """Trunk, average over a grid, neck, head."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk = _trunk(shape.embedding, shape.channels, shape.depths)
            width = shape.channels[-1] * shape.grid**2
            layers: list[Any] = [torch.nn.AdaptiveAvgPool2d(shape.grid), torch.nn.Flatten()]
            if shape.neck:
                layers += [torch.nn.Linear(width, shape.neck), torch.nn.ReLU()]
                width = shape.neck
            self.neck = torch.nn.Sequential(*layers)
            self.head = torch.nn.Linear(width, outputs)

        def forward(self, pictures: Tensor) -> Tensor:
            result: Tensor = self.head(self.neck(self.trunk(pictures).last_hidden_state))
            return result

    network: nn.Module = Network()
    return network.to(memory_format=torch.channels_last)


def build_displacement_network(architecture: str) -> nn.Module:
    """Pictures ``(n, 1, s, s)`` to mean and logarithm of the deviation, each ``(n, 14, 2)`` in `SCALE_MM`.

    Displacements are to the left and cranially at the depth of the isocentre, for the default C-arm.

    Raises:
        UnknownNameError: no such architecture.
        MissingExtraError: torch or transformers is not installed.
    """
    shape, torch = _shape(architecture), torch_module()
    arm = CArmGeometry()
    field = arm.detector_mm / arm.magnification / SCALE_MM

    class Network(torch.nn.Module):  # type: ignore[name-defined]
        """Trunk, then an answer of each place of its map, and their weighted mean."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk = _trunk(shape.embedding, shape.map_channels, shape.map_depths)
            self.n_features = shape.map_channels[-1]
            self.head = torch.nn.Conv2d(self.n_features, _PER_LANDMARK * N_LANDMARKS, 1)

        def features(self, pictures: Tensor) -> Tensor:
            """``(n, n_features)`` the mean over the map."""
            result: Tensor = self.trunk(pictures).last_hidden_state.mean((2, 3))
            return result

        def by_landmark(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Mean and width as of `forward`; ``(n, 14, n_features)`` what is seen where each landmark is sought."""
            seen = self.trunk(pictures).last_hidden_state
            # Places add up over hundreds of millimetres: half precision would round them to several.
            answers = self.head(seen).float()
            n, _, rows, columns = answers.shape
            each = answers.reshape(n, N_LANDMARKS, _PER_LANDMARK, rows * columns)
            left = ((torch.arange(columns, device=answers.device) + 0.5) / columns - 0.5) * field
            up = (0.5 - (torch.arange(rows, device=answers.device) + 0.5) / rows) * field
            places = torch.stack([left.repeat(rows), up.repeat_interleave(columns)])
            weight = each[:, :, 4].softmax(-1)
            mean = ((each[:, :, :2] + places) * weight[:, :, None]).sum(-1)
            width = (each[:, :, 2:4] * weight[:, :, None]).sum(-1)
            features = weight @ seen.float().flatten(2).transpose(1, 2)
            return mean, width.clamp(*_LOG_DEVIATION), features

        def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
            mean, width, _ = self.by_landmark(pictures)
            return mean, width

    network: nn.Module = Network()
    return network.to(memory_format=torch.channels_last)


def as_input(images: NDArray[np.uint8] | Tensor, size: int) -> Tensor:
    """Pictures ``(n, H, W)`` or ``(n, H, W, 1)`` uint8 as a float tensor ``(n, 1, size, size)``, resized by area."""
    torch = torch_module()
    pictures = torch.as_tensor(images)
    if pictures.ndim == 4:
        pictures = pictures[..., 0]
    scaled = (pictures[:, None].float() - GREY_MEAN) / GREY_DEVIATION
    if scaled.shape[-1] != size:
        scaled = torch.nn.functional.interpolate(scaled, (size, size), mode="area")
    result: Tensor = scaled.contiguous(memory_format=torch.channels_last)
    return result
