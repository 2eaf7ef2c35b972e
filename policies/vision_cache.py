"""Outputs of a frozen vision tower or backbone, each computed once."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
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


class ImageCache:
    """A function of images that computes each image once.

    A copy of the model that uses it shares it, because a frozen network is equal in all copies.

    Args:
        compute: maps images ``(n, ...)``, and options, to tensors whose rows belong to the images.
        max_bytes: size from which all outputs are forgotten.
    """

    def __init__(self, compute: Callable[..., tuple[Tensor, ...]], max_bytes: int = 1 << 30) -> None:
        self._compute = compute
        self._known: dict[bytes, tuple[Tensor, ...]] = {}
        self._bytes, self._max_bytes = 0, max_bytes

    def __deepcopy__(self, memo: dict[int, Any]) -> ImageCache:
        return self

    @property
    def bytes(self) -> int:
        """Size of the outputs that are known."""
        return self._bytes

    def clear(self) -> None:
        """Forgets all images."""
        self._known.clear()
        self._bytes = 0

    def __call__(self, images: Tensor, **options: Any) -> tuple[Tensor, ...]:
        """Returns the outputs for images, computing those of new ones; the options are the same in all calls."""
        keys = [_key(image) for image in images]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            with torch.no_grad():
                outputs = self._compute(images[list(new.values())], **options)
            self._known.update(zip(new, zip(*outputs, strict=True), strict=True))
            self._bytes += sum(output.nbytes for output in outputs)
        found = tuple(torch.stack(rows) for rows in zip(*(self._known[key] for key in keys), strict=True))
        if self._bytes > self._max_bytes:
            self.clear()
        return found


class VisionCache(ImageCache):
    """Replaces the forward pass of a frozen vision tower by one that looks up images that it has seen.

    Args:
        tower: a tower that maps ``pixel_values`` ``(n, 3, s, s)`` to ``last_hidden_state``.
        max_bytes: size from which all outputs are forgotten.
    """

    def __init__(self, tower: nn.Module, max_bytes: int = 1 << 30) -> None:
        forward = tower.forward
        super().__init__(lambda images, **options: (forward(images, **options).last_hidden_state,), max_bytes)
        tower.forward = self._look_up

    def _look_up(self, pixel_values: Tensor, **options: Any) -> Any:
        (states,) = self(pixel_values, **options)
        return BaseModelOutputWithPooling(last_hidden_state=states)


def _key(image: Tensor) -> bytes:
    values = image.detach().contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(values, digest_size=16).digest()
