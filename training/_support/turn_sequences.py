"""Rollouts as sequences of their own: each prompt with its answer, as fine-tuning and inference see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carm_env.system.extras import optional_imports

with optional_imports("llm", "Reinforcement learning of a language model"):
    import torch
    from torch import Tensor

_MARKER = 2
"""Number of tokens at the beginning of a prompt that occur nowhere else: the model cannot write special tokens."""


@dataclass(frozen=True, eq=False)
class TurnSequences:
    """The prompts and answers of rollouts, each as one sequence.

    Attributes:
        ids: ``(m, longest)`` tokens, padded on the left.
        mask: ``(m, longest)`` 1 for tokens, 0 for padding.
        places: ``(n, length)`` index of each token of the rollouts in the flat `ids`; -1 for padding.
        image_rows: ``(m,)`` which of the rollouts' images belongs to each sequence.
    """

    ids: Tensor
    mask: Tensor
    places: Tensor
    image_rows: Tensor

    @classmethod
    def split(cls, ids: Tensor, mask: Tensor, num_images: Sequence[int], pad: int) -> TurnSequences:
        """Splits rollouts where a prompt begins.

        Args:
            ids: ``(n, length)`` tokens: prompts and answers in turn.
            mask: ``(n, length)`` 0 for padding.
            num_images: images of each rollout; the first of a prompt that follows belongs to it.
            pad: token for padding.
        """
        spans, images, offset = [], [], 0
        for row in range(len(ids)):
            kept = mask[row].nonzero()[:, 0]
            tokens = ids[row, kept]
            begins = torch.ones(len(tokens) - _MARKER + 1, dtype=torch.bool, device=ids.device)
            for shift in range(_MARKER):
                begins &= tokens[shift : shift + len(begins)] == tokens[shift]
            starts = begins.nonzero()[:, 0].tolist()
            for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=True)):
                spans.append((row, kept[start:end]))
                images.append(offset + number)
            offset += num_images[row]
        longest = max(len(columns) for _, columns in spans)
        split_ids = torch.full((len(spans), longest), pad, dtype=ids.dtype, device=ids.device)
        split_mask = torch.zeros((len(spans), longest), dtype=mask.dtype, device=ids.device)
        places = torch.full(ids.shape, -1, dtype=torch.long, device=ids.device)
        for number, (row, columns) in enumerate(spans):
            first = longest - len(columns)
            split_ids[number, first:], split_mask[number, first:] = ids[row, columns], 1
            places[row, columns] = number * longest + torch.arange(first, longest, device=ids.device)
        return cls(split_ids, split_mask, places, torch.tensor(images, device=ids.device))

    def image_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the model's inputs for the images of the sequences.

        Args:
            inputs: inputs for all images of the rollouts, one row per image; with ``image_grid_thw``, one row of
                ``pixel_values`` per patch.
        """
        found = {key: value[self.image_rows.to(value.device)] for key, value in inputs.items() if key != "pixel_values"}
        pixels = inputs["pixel_values"]
        if "image_grid_thw" in inputs:
            patches = torch.split(pixels, inputs["image_grid_thw"].prod(-1).tolist())
            found["pixel_values"] = torch.cat([patches[row] for row in self.image_rows.tolist()])
        else:
            found["pixel_values"] = pixels[self.image_rows.to(pixels.device)]
        return found

    def join(self, values: Tensor, kept: int) -> Tensor:
        """Returns values of the sequences' tokens in the order of the rollouts.

        Args:
            values: ``(m, longest - 1)`` of all tokens but the first.
            kept: number of tokens at the end of a rollout.

        Returns:
            ``(n, kept)``; 0 for padding.
        """
        flat = torch.nn.functional.pad(values, (1, 0)).flatten()
        places = self.places[:, -kept:]
        return torch.where(places >= 0, flat[places.clamp(min=0)], torch.zeros_like(flat[:1]))
