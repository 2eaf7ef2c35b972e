"""The vision tower of the embedded language model: a displacement network that gives one image token per landmark.

Each token holds the features by which a landmark was found, its position and how certain that is; two more tokens hold
features of the whole image.
"""

from __future__ import annotations

from typing import Any

from carm_env.actions import DEFAULT_EXTENTS_MM
from carm_env.system.extras import optional_imports
from policies.networks import SCALE_MM, DisplacementNetwork
from policies.resnet import standardized

with optional_imports("llm", "A language model"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

MODEL_TYPE = "carm_landmark_vision"
N_IMAGE_TOKENS = 16
_WAVELENGTHS_MM = (40.0, 80.0, 160.0, 320.0, 640.0)
"""Wavelengths that encode displacements and distances; moves are 30 to 90 mm."""
_STEP_EDGES_MM = tuple(sum(pair) / 2 for pair in zip((0.0, *DEFAULT_EXTENTS_MM), DEFAULT_EXTENTS_MM, strict=False))
"""Borders between the steps along an axis."""
_WAVE_WEIGHT, _STEP_WEIGHT = 0.3, 4.0
"""Scale of the parts of a token: what decides on the step is the largest."""
_SOFTNESS_MM = 20.0
_N_POSITION_FEATURES = 4 + 2 + 3 * 2 * len(_WAVELENGTHS_MM) + 2 * (2 * len(_STEP_EDGES_MM) + 1)


class LandmarkVisionConfig(PreTrainedConfig):
    """Configuration of `LandmarkVisionModel`."""

    model_type = MODEL_TYPE
    hidden_size: int = 256
    image_size: int = 128
    patch_size: int = 32
    architecture: str = "medium"
    isocenter_depth_mm: float = 0.0
    layer_norm_eps: float = 1e-6


class LandmarkVisionModel(PreTrainedModel):
    """Maps images ``(n, 3, s, s)`` from Gemma-3's processor to image tokens ``(n, 16, hidden_size)``."""

    config_class = LandmarkVisionConfig
    main_input_name = "pixel_values"
    base_model_prefix = "landmark_vision"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False
    # It has no attention, so that every implementation of it will do.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    # Half precision would round positions to several millimetres.
    _keep_in_fp32_modules_strict = ("backbone",)

    def __init__(self, config: LandmarkVisionConfig) -> None:
        super().__init__(config)
        # Frozen: training on text would spoil the positions that it has learnt.
        self.backbone = DisplacementNetwork(config.architecture, config.isocenter_depth_mm).requires_grad_(False)
        self.landmark = nn.Linear(_N_POSITION_FEATURES, config.hidden_size)
        self.appearance = nn.Linear(self.backbone.n_features, config.hidden_size)
        self.image = nn.Linear(self.backbone.n_features, 2 * config.hidden_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, N_IMAGE_TOKENS, config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, LandmarkVisionModel):
            nn.init.normal_(module.position_embedding, std=0.5)

    def train(self, mode: bool = True) -> LandmarkVisionModel:
        """Sets the training mode; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Returns the image tokens as ``last_hidden_state``."""
        grey = 127.5 * (pixel_values.float().mean(1, keepdim=True) + 1)
        with torch.no_grad():
            mean, log_std, features = self.backbone.by_landmark(standardized(grey))
        features = features.to(self.appearance.weight.dtype)
        positions = position_features(mean, log_std).to(self.landmark.weight.dtype)
        tokens = self.landmark(positions) + self.appearance(features)
        whole = self.image(features.mean(1)).unflatten(1, (2, -1))
        states = torch.cat([tokens, whole], 1) + self.position_embedding
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states.mean(1))


def position_features(mean: Tensor, log_std: Tensor) -> Tensor:
    """Encodes predicted positions in forms that small layers can compare; returns ``(n, 14, f)``.

    Args:
        mean: ``(n, 14, 2)`` displacements in `SCALE_MM`.
        log_std: ``(n, 14, 2)`` logarithms of their standard deviations.
    """
    distance = mean.norm(dim=-1, keepdim=True)
    closest = torch.log_softmax(-distance * (SCALE_MM / _SOFTNESS_MM), dim=1).clamp(min=-12) / 4
    lengths = torch.cat([mean, distance], -1)
    phases = [lengths * (2 * torch.pi * SCALE_MM / wavelength) for wavelength in _WAVELENGTHS_MM]
    waves = torch.cat([part for phase in phases for part in (phase.sin(), phase.cos())], -1)
    edges_mm = [*(-edge for edge in _STEP_EDGES_MM[::-1]), *_STEP_EDGES_MM]
    edges = torch.tensor(edges_mm, device=mean.device) / SCALE_MM
    cumulative = torch.special.ndtr((edges - mean[..., None]) / log_std.exp()[..., None])
    steps = torch.diff(functional.pad(functional.pad(cumulative, (1, 0)), (0, 1), value=1.0))
    parts = [mean, log_std, distance, closest, waves * _WAVE_WEIGHT, steps.flatten(-2) * _STEP_WEIGHT]
    return torch.cat(parts, -1)


def register() -> None:
    """Registers the vision tower with transformers' Auto classes; can be called again."""
    AutoConfig.register(MODEL_TYPE, LandmarkVisionConfig, exist_ok=True)
    AutoModel.register(LandmarkVisionConfig, LandmarkVisionModel, exist_ok=True)
