"""Networks that locate landmarks in an X-ray, on transformers' ResNet; torchvision is not needed.

`DisplacementNetwork` keeps the spatial map of its ResNet: each cell of the map predicts the displacement to each
landmark and a weight, so that a landmark is learnt wherever in the image it is. `DisplacementClassifier` ranks the
landmarks by these displacements (0.6 M parameters, trained on a CPU in minutes). `PooledClassifier` is the paper's
network: it averages the map of a ResNet-34 (basic layers, 3-4-6-3; 21 M parameters) before a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import N_LANDMARKS
from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import optional_imports
from policies.lofi.vision import IMAGE_LAYERS, SMALL_TOWER, PatchMap
from policies.resnet import GREY_MEAN, GREY_STD, MEDIUM, beside_contrast, build_resnet, standardized

with optional_imports("train", "A learned policy"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

SCALE_MM = 100.0
"""Unit of the displacements that networks predict."""
_INITIAL_SOFTNESS_MM = 20.0
"""Difference of distances that an untrained classifier takes for a factor of e."""
_LOG_STD_LIMITS = (-4.5, 1.5)
"""Limits of the logarithm of a standard deviation in `SCALE_MM`: 1 mm to 450 mm."""
ENCODER = "vision."
"""Prefix of the weights of LoFi's encoder in a `DisplacementNetwork`."""
_STEM = "resnet.embedder.embedder.convolution.weight"
_OUTPUTS_PER_LANDMARK = 5
"""Outputs of a cell of the map for one landmark: two displacements, two logarithms of stds, and a weight."""


@dataclass(frozen=True)
class Architecture:
    """Size of a ResNet and of its input.

    Attributes:
        embedding: channels of the stem.
        channels: channels of the stages; the last map has a sixteenth of the image's side.
        depths: basic layers of each stage.
        classifier_stage: channels and basic layers of the extra stage of a `PooledClassifier`; None for an architecture
            of `DisplacementClassifier`.
        image_size: side of the input image, pixels.
        local_contrast: the network sees the image's `local_contrast` as a second channel, in which faint edges, such
            as the edge of a scapula in front of ribs, stand out.
        is_lofi: the map is that of LoFi's small image encoder (`policies.lofi.vision`), not of a ResNet.
    """

    embedding: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    classifier_stage: tuple[int, int] | None
    image_size: int
    local_contrast: bool = False
    is_lofi: bool = False


ARCHITECTURES = {
    "tiny": Architecture(8, (8, 16, 24), (1, 1, 1), None, 32),
    "small": Architecture(16, (20, 64, 128), (1, 1, 2), None, 96),
    "small_contrast": Architecture(16, (20, 64, 128), (1, 1, 2), None, 96, local_contrast=True),
    "medium": Architecture(*MEDIUM, None, 128),
    "medium_contrast": Architecture(*MEDIUM, None, 128, local_contrast=True),
    "resnet34": Architecture(64, (64, 128, 256), (3, 4, 6), (512, 3), 256),
    "lofi": Architecture(0, (SMALL_TOWER["hidden_size"],), (IMAGE_LAYERS,), None, 128, is_lofi=True),
}
"""Architectures by name. ``tiny`` is for tests."""


def find_architecture(name: str) -> Architecture:
    """Returns the architecture called `name`; raises UnknownNameError if there is none."""
    if name not in ARCHITECTURES:
        raise UnknownNameError("architecture", name, ARCHITECTURES)
    return ARCHITECTURES[name]


def with_local_contrast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds an input channel for `local_contrast`, with zero weights, to the tensors of a network without one."""
    stem = tensors[_STEM]
    return {**tensors, _STEM: torch.cat([stem, torch.zeros_like(stem)], 1)}


class DisplacementNetwork(nn.Module):
    """Predicts the displacements from the middle of an X-ray to all landmarks.

    Displacements are to the left and cranially, at mid-depth of the body, for the default C-arm. Each cell of the
    ResNet's last map predicts them relative to itself; the result is their weighted mean over the map.

    Args:
        architecture: name in `ARCHITECTURES`.
        isocenter_depth_mm: depth of the isocentre in its images (`carm_env.geometry.check_isocenter_depth`), which
            sets how far apart the cells are.

    Raises:
        UnknownNameError: an unknown architecture.
    """

    def __init__(self, architecture: str, isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM) -> None:
        super().__init__()
        shape = find_architecture(architecture)
        self._local_contrast = shape.local_contrast
        self._field = DEFAULT_GEOMETRY.field_of_view_at_mm(isocenter_depth_mm) / SCALE_MM
        self._is_lofi = shape.is_lofi
        if shape.is_lofi:
            self.vision = PatchMap(shape.image_size)
        else:
            self.resnet = build_resnet(shape.embedding, shape.channels, shape.depths, 1 + shape.local_contrast)
        self.n_features = shape.channels[-1]
        self.n_stage_features = tuple(shape.channels)
        self.head = nn.Conv2d(self.n_features, _OUTPUTS_PER_LANDMARK * N_LANDMARKS, 1)
        self.to(memory_format=torch.channels_last)

    def feature_map(self, images: Tensor) -> Tensor:
        """Returns the last map of the ResNet or of LoFi, ``(n, n_features, rows, columns)``; see `as_input`."""
        if self._is_lofi:
            found: Tensor = self.vision((images * GREY_STD + GREY_MEAN) / 127.5 - 1)
            return found
        return self.resnet(self._with_contrast(images)).last_hidden_state

    def stage_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the map after each stage of the ResNet, ``(n, n_stage_features[k], rows, columns)``.

        LoFi's encoder has one stage.
        """
        if self._is_lofi:
            return (self.feature_map(images),)
        maps = self.resnet(self._with_contrast(images), output_hidden_states=True).hidden_states
        return tuple(maps[-len(self.n_stage_features) :])

    def _with_contrast(self, images: Tensor) -> Tensor:
        return beside_contrast(images) if self._local_contrast else images

    def features(self, images: Tensor) -> Tensor:
        """Returns the mean over the feature map, ``(n, n_features)``."""
        return self.feature_map(images).mean((2, 3))

    def by_landmark(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the outputs of `forward`, and for each landmark the features that it was found by.

        Args:
            images: ``(n, 1, s, s)``, see `as_input`.

        Returns:
            Mean and logarithm of the standard deviation, each ``(n, 14, 2)``, and features ``(n, 14, n_features)``.
        """
        feature_map = self.feature_map(images)
        # Positions add up over hundreds of millimetres: half precision would round them to several.
        outputs = self.head(feature_map).float()
        n, _, rows, columns = outputs.shape
        outputs = outputs.reshape(n, N_LANDMARKS, _OUTPUTS_PER_LANDMARK, rows * columns)
        left = ((torch.arange(columns, device=outputs.device) + 0.5) / columns - 0.5) * self._field
        up = (0.5 - (torch.arange(rows, device=outputs.device) + 0.5) / rows) * self._field
        cells = torch.stack([left.repeat(rows), up.repeat_interleave(columns)])
        weight = outputs[:, :, 4].softmax(-1)
        mean = ((outputs[:, :, :2] + cells) * weight[:, :, None]).sum(-1)
        log_std = (outputs[:, :, 2:4] * weight[:, :, None]).sum(-1)
        features = weight @ feature_map.float().flatten(2).transpose(1, 2)
        return mean, log_std.clamp(*_LOG_STD_LIMITS), features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and logarithm of the standard deviation, each ``(n, 14, 2)`` in `SCALE_MM`."""
        mean, log_std, _ = self.by_landmark(images)
        return mean, log_std


class DisplacementClassifier(nn.Module):
    """Ranks landmarks by their expected distance, from a displacement network; uncertain landmarks rank lower.

    Args:
        architecture: name in `ARCHITECTURES`.
        isocenter_depth_mm: see `DisplacementNetwork`.
    """

    def __init__(self, architecture: str, isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM) -> None:
        super().__init__()
        self.backbone = DisplacementNetwork(architecture, isocenter_depth_mm)
        self.n_features = self.backbone.n_features
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(SCALE_MM / _INITIAL_SOFTNESS_MM)))
        self.log_caution = nn.Parameter(torch.zeros(()))

    def features(self, images: Tensor) -> Tensor:
        """Returns the mean over the feature map, ``(n, n_features)``."""
        return self.backbone.features(images)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns logits ``(n, 14)``, then the outputs of the displacement network."""
        mean, log_std = self.backbone(images)
        expected = (mean.square() + self.log_caution.exp() * (2 * log_std).exp()).sum(-1).sqrt()
        return -self.log_sharpness.exp() * expected, mean, log_std


class PooledClassifier(nn.Module):
    """The paper's classifier: a ResNet, global average pooling and a linear layer.

    Args:
        architecture: name in `ARCHITECTURES`; one without a classifier stage is pooled after its last stage.
        n_classes: number of classes.

    Raises:
        UnknownNameError: an unknown architecture.
        ValueError: an architecture that is no ResNet.
    """

    def __init__(self, architecture: str, n_classes: int = N_LANDMARKS) -> None:
        super().__init__()
        shape = find_architecture(architecture)
        if shape.is_lofi:
            raise ValueError(f"architecture is {architecture!r}, expected a ResNet: this classifier pools its map.")
        stages = list(zip(shape.channels, shape.depths, strict=True))
        stages += [shape.classifier_stage] if shape.classifier_stage else []
        channels, depths = zip(*stages, strict=True)
        self._local_contrast = shape.local_contrast
        self.resnet = build_resnet(shape.embedding, channels, depths, 1 + shape.local_contrast)
        self.n_features = channels[-1]
        self.head = nn.Linear(self.n_features, n_classes)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Returns the mean over the feature map, ``(n, n_features)``."""
        seen = beside_contrast(images) if self._local_contrast else images
        return self.resnet(seen).last_hidden_state.mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns logits ``(n, n_classes)``, in a tuple."""
        return (self.head(self.features(images)),)


def build_classifier(
    architecture: str, isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
) -> DisplacementClassifier | PooledClassifier:
    """Builds the classifier of an architecture; for the depth see `DisplacementNetwork`.

    It maps images ``(n, 1, s, s)`` (see `as_input`) to a tuple that begins with logits ``(n, 14)``, the highest for the
    closest landmark.

    Raises:
        UnknownNameError: an unknown architecture.
    """
    pooled = find_architecture(architecture).classifier_stage is not None
    return PooledClassifier(architecture) if pooled else DisplacementClassifier(architecture, isocenter_depth_mm)


def as_input(images: NDArray[np.uint8] | Tensor, size: int) -> Tensor:
    """Converts greyscale images to the input of a network.

    Args:
        images: square images ``(n, s, s)`` or ``(n, s, s, 1)``, grey values 0 to 255.
        size: side of the result, pixels; images of another size are resized by area.

    Returns:
        Standardised float tensor ``(n, 1, size, size)``.

    Raises:
        ValueError: the images are not square, or not greyscale.
    """
    grey = torch.as_tensor(images)
    if grey.ndim == 4 and grey.shape[-1] == 1:
        grey = grey[..., 0]
    if grey.ndim != 3 or grey.shape[-2] != grey.shape[-1]:
        raise ValueError(
            f"images are {tuple(images.shape)}, expected square greyscale images: (n, s, s) or (n, s, s, 1)."
        )
    scaled = standardized(grey[:, None].float())
    if scaled.shape[-1] != size:
        scaled = functional.interpolate(scaled, (size, size), mode="area")
    return scaled.contiguous(memory_format=torch.channels_last)
