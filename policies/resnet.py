"""The residual networks of this package, from transformers: basic layers; torchvision is not needed."""

from __future__ import annotations

from collections.abc import Sequence

from carm_env.system.extras import optional_imports

with optional_imports("train", "A learned policy"):
    from transformers import ResNetConfig, ResNetModel


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
