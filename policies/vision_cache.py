"""Outputs of a frozen vision tower, each computed once."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from carm_env.system.extras import optional_imports

with optional_imports("llm", "Training a language model"):
    import torch
    from torch import Tensor, nn
    from transformers.modeling_outputs import BaseModelOutputWithPooling

TOWERS = ("vision_tower", "visual", "vision_model")
"""Names of the vision towers in the models of transformers."""


def vision_tower(model: Any) -> nn.Module | None:
    """Returns the vision tower of a model; None if it has none by a known name."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TOWERS:
            return module
    return None


def can_be_cached(tower: nn.Module | None) -> bool:
    """Returns whether `VisionCache` fits a tower: it takes one tensor for each image, and is not trained."""
    if tower is None or any(value.requires_grad for value in tower.parameters()):
        return False
    names = list(inspect.signature(tower.forward).parameters)
    # Gemma-4's tower takes the positions of patches, too, and returns the patches of all images in one row.
    return names[:1] == ["pixel_values"] and "pixel_position_ids" not in names


def freeze_vision(model: Any) -> None:
    """Excludes the vision tower from training."""
    tower = vision_tower(model)
    if tower is not None:
        tower.requires_grad_(False)


class VisionCache:
    """Replaces the forward pass of a frozen vision tower by one that looks up images that it has seen.

    A copy of the model shares the cache, because its tower is equal.

    Args:
        tower: a tower that maps ``pixel_values`` ``(n, 3, s, s)`` to ``last_hidden_state``.
        max_bytes: size from which all outputs are forgotten.
    """

    def __init__(self, tower: nn.Module, max_bytes: int = 1 << 30) -> None:
        self._compute = tower.forward
        self._known: dict[bytes, Tensor] = {}
        self._max_bytes = max_bytes
        tower.forward = self._look_up

    def __deepcopy__(self, memo: dict[int, Any]) -> VisionCache:
        return self

    @property
    def bytes(self) -> int:
        """Size of the outputs that are known."""
        return sum(output.nbytes for output in self._known.values())

    def clear(self) -> None:
        """Forgets all images."""
        self._known.clear()

    def _look_up(self, pixel_values: Tensor, **options: Any) -> Any:
        keys = [_key(image) for image in pixel_values]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            with torch.no_grad():
                outputs = self._compute(pixel_values[list(new.values())], **options)
            self._known.update(zip(new, outputs.last_hidden_state, strict=True))
        found = torch.stack([self._known[key] for key in keys])
        if self.bytes > self._max_bytes:
            self.clear()
        return BaseModelOutputWithPooling(last_hidden_state=found)


def _key(image: Tensor) -> bytes:
    values = image.detach().contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(values, digest_size=16).digest()
