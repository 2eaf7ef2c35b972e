"""The residual networks of this package, from transformers, and their input; torchvision is not needed."""

from __future__ import annotations

from collections.abc import Sequence

from carm_env.system.extras import optional_imports

with optional_imports("train", "A learned policy"):
    import torch
    from torch import Tensor
    from torch.nn import functional
    from transformers import ResNetConfig, ResNetModel

MEDIUM = (24, (32, 96, 192), (1, 2, 2))
"""Size of the ResNet of the shipped networks: the first arguments of `build_resnet`."""
GREY_MEAN, GREY_STD = 110.0, 70.0
"""Mean and standard deviation of the grey values of typical views."""
_CONTRAST_FLOOR, _CONTRAST_LIMIT = 0.03, 4.0
"""Added to the contrast of the surroundings, in units of the network's input; limit of local contrast."""
_CONTRAST_GRID, _CONTRAST_SQUARE = 32, 5
"""Side of the grid on which surroundings are averaged, and of their squares on it."""


def build_resnet(
    embedding: int, channels: Sequence[int], depths: Sequence[int], input_channels: int = 1
) -> ResNetModel:
    """Builds a ResNet of basic layers with random weights.

    Args:
        embedding: channels of the stem, whose map has a quarter of the image's side.
        channels: channels of the stages; each after the first halves the side of the map.
        depths: basic layers of each stage.
        input_channels: channels of the image.
    """
    config = ResNetConfig(
        num_channels=input_channels, embedding_size=embedding, hidden_sizes=list(channels), depths=list(depths),
        layer_type="basic", out_features=[f"stage{len(channels)}"],
    )  # fmt: skip
    return ResNetModel(config)


def standardized(grey: Tensor) -> Tensor:
    """Returns grey values 0 to 255, of any shape, with mean 0 and standard deviation 1 in typical views."""
    return (grey - GREY_MEAN) / GREY_STD


def local_contrast(images: Tensor) -> Tensor:
    """Normalises the local contrast of images ``(n, 1, s, s)``; returns the same shape.

    The mean of the surroundings, squares of a sixth of the side, is subtracted, and the difference is divided by the
    contrast of the surroundings. Local contrast normalisation of Jarrett et al. (ICCV 2009), with means over squares.
    """

    def local_mean(values: Tensor) -> Tensor:
        coarse = functional.interpolate(values, (_CONTRAST_GRID, _CONTRAST_GRID), mode="area")
        means = functional.avg_pool2d(coarse, _CONTRAST_SQUARE, 1, _CONTRAST_SQUARE // 2, count_include_pad=False)
        return functional.interpolate(means, images.shape[-2:], mode="bilinear")

    detail = images - local_mean(images)
    contrast = local_mean(detail.square()).sqrt() + _CONTRAST_FLOOR
    return (detail / contrast).clamp(-_CONTRAST_LIMIT, _CONTRAST_LIMIT)


def beside_contrast(images: Tensor) -> Tensor:
    """Returns images ``(n, 1, s, s)`` and their local contrast as two channels."""
    return torch.cat([images, local_contrast(images)], 1).contiguous(memory_format=torch.channels_last)
