"""The vision tower of the router that ships: statistics of the maps of a frozen displacement network as image tokens.

The last map tells regions apart. The maps before it react to grey values and textures, which tell X-rays from other
images (`policies.out_of_distribution`). Mean and standard deviation of each map, in the whole image and in its
quarters, pass through one hidden layer and become the image tokens of a Gemma-3 language model.
"""

from __future__ import annotations

from typing import Any

from carm_env.system.extras import optional_imports
from policies.networks import DisplacementNetwork
from policies.resnet import standardized

with optional_imports("llm", "A language model"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

MODEL_TYPE = "carm_statistics_vision"
N_IMAGE_TOKENS = 4
_QUARTERS = 2
_LIMIT, _DROPOUT = 5.0, 0.3
"""Largest standardised statistic, and the share of them that is dropped in training."""


class StatisticsVisionConfig(PreTrainedConfig):
    """Configuration of `StatisticsVisionModel`."""

    model_type = MODEL_TYPE
    hidden_size: int = 96
    image_size: int = 128
    patch_size: int = 64
    architecture: str = "medium"
    isocenter_depth_mm: float = 0.0
    features: int = 64
    layer_norm_eps: float = 1e-6


class StatisticsVisionModel(PreTrainedModel):
    """Maps images ``(n, 3, s, s)`` from Gemma-3's processor to image tokens ``(n, 4, hidden_size)``."""

    config_class = StatisticsVisionConfig
    main_input_name = "pixel_values"
    base_model_prefix = "statistics_vision"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False
    # It has no attention, so that every implementation of it will do.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _keep_in_fp32_modules_strict = ("backbone", "statistics_mean", "statistics_std")

    def __init__(self, config: StatisticsVisionConfig) -> None:
        super().__init__(config)
        # In training mode its batch normalisation would mix the images of a batch.
        self.backbone = DisplacementNetwork(config.architecture, config.isocenter_depth_mm).requires_grad_(False).eval()
        count = self.n_statistics
        self.statistics_mean = nn.Parameter(torch.zeros(count), requires_grad=False)
        self.statistics_std = nn.Parameter(torch.ones(count), requires_grad=False)
        self.hidden = nn.Linear(count, config.features)
        self.tokens = nn.Linear(config.features, N_IMAGE_TOKENS * config.hidden_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, N_IMAGE_TOKENS, config.hidden_size))
        self.post_init()

    @property
    def n_statistics(self) -> int:
        """Number of statistics of an image."""
        return (1 + _QUARTERS**2) * 2 * sum(self.backbone.n_stage_features)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, StatisticsVisionModel):
            nn.init.normal_(module.position_embedding, std=0.5)

    def train(self, mode: bool = True) -> StatisticsVisionModel:
        """Sets the training mode; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def statistics(self, pixel_values: Tensor) -> Tensor:
        """Returns the statistics ``(n, n_statistics)`` of images ``(n, 3, s, s)``, before they are standardised."""
        grey = 127.5 * (pixel_values.float().mean(1, keepdim=True) + 1)
        found = []
        with torch.no_grad():
            for one in self.backbone.stage_maps(standardized(grey)):
                for side in (1, _QUARTERS):
                    mean = functional.adaptive_avg_pool2d(one, side)
                    square = functional.adaptive_avg_pool2d(one.square(), side)
                    found += [mean.flatten(1), (square - mean.square()).clamp_min(0).sqrt().flatten(1)]
        return torch.cat(found, 1)

    def hidden_of(self, statistics: Tensor) -> Tensor:
        """Returns the hidden layer ``(n, features)`` of statistics."""
        scaled = ((statistics - self.statistics_mean) / self.statistics_std).clamp(-_LIMIT, _LIMIT)
        scaled = functional.dropout(scaled, _DROPOUT, self.training)
        return functional.gelu(self.hidden(scaled.to(self.hidden.weight.dtype)))

    def tokens_of(self, statistics: Tensor) -> Tensor:
        """Returns the image tokens ``(n, 4, hidden_size)`` of statistics."""
        tokens = self.tokens(self.hidden_of(statistics))
        return tokens.unflatten(1, (N_IMAGE_TOKENS, -1)) + self.position_embedding

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Returns the image tokens as ``last_hidden_state``.

        Args:
            pixel_values: images ``(n, 3, s, s)``, or their statistics ``(n, n_statistics)``, which a training computes
                once.
            **kwargs: ignored.
        """
        known = pixel_values if pixel_values.ndim == 2 else self.statistics(pixel_values)
        states = self.tokens_of(known)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states.mean(1))


def register() -> None:
    """Makes the tower known to transformers, so that models that contain it can be loaded."""
    AutoConfig.register(MODEL_TYPE, StatisticsVisionConfig, exist_ok=True)
    AutoModel.register(StatisticsVisionConfig, StatisticsVisionModel, exist_ok=True)
