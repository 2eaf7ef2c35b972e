"""The router's small vision-language model: a Gemma-3 of a few hundred thousand parameters behind a statistics tower.

It answers the prompts of the style ``compact`` about the cards that it was trained on. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from carm_env.system.extras import optional_imports
from policies.checkpoint import SHIPPED, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.conformal import KIND as CONFORMAL
from policies.conformal import member_tensors
from policies.embedded_vlm import assemble, build_tokenizer
from policies.networks import find_architecture
from policies.routing import statistics_tower
from policies.routing.statistics_tower import N_IMAGE_TOKENS, StatisticsVisionConfig

with optional_imports("llm", "A language model"):
    import torch
    from torch import Tensor

_PIECES = r" ?[A-Za-z0-9_'-]+|\s|[^A-Za-z0-9_'\s-]"
"""Words and punctuation marks: an answer is a few tokens, and different answers begin with different ones."""
_VOCABULARY, _MIN_STD = 1500, 1e-3


def build_router_tokenizer(corpus: Iterable[str]) -> Any:
    """Trains the tokenizer on texts like those that the model will read and write."""
    return build_tokenizer(corpus, _VOCABULARY, _PIECES)


def build_router_model(tokenizer: Any, hidden: int = 64, layers: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """Builds the model around the backbone of the shipped `conformal`, and its processor.

    Args:
        tokenizer: from `build_router_tokenizer`.
        hidden: width of the language model; a multiple of 32.
        layers: layers of the language model.
        seed: seed of the weights.
    """
    statistics_tower.register()
    config, tensors = load_checkpoint(SHIPPED / CONFORMAL, CONFORMAL, ("architecture", "image_size"))
    architecture = str(config["architecture"])
    size = find_architecture(architecture).image_size
    tower = StatisticsVisionConfig(
        hidden_size=hidden, image_size=size, patch_size=size // round(N_IMAGE_TOKENS**0.5), architecture=architecture,
        isocenter_depth_mm=trained_depth_mm(config),
    )  # fmt: skip
    model, processor = assemble(tokenizer, tower, N_IMAGE_TOKENS, layers, seed)
    model.model.vision_tower.backbone.load_state_dict(member_tensors(tensors, 0))
    return model, processor


def standardise(model: Any, statistics: Tensor) -> None:
    """Lets the tower standardise its statistics by those of the training images ``(n, n_statistics)``."""
    tower = model.model.vision_tower
    with torch.no_grad():
        tower.statistics_mean.copy_(statistics.mean(0))
        tower.statistics_std.copy_(statistics.std(0).clamp_min(_MIN_STD))
