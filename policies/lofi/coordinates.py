"""Boxes from a language model with one token for each coordinate: the median of its distribution is written."""

from __future__ import annotations

from typing import Any

from carm_env.language.answers import BOX_SCALE
from carm_env.system.extras import optional_imports
from policies.lofi.text import plain_ids

with optional_imports("llm", "LoFi"):
    import torch
    from torch import Tensor
    from transformers import LogitsProcessor


def coordinate_ids(tokenizer: Any, step: int) -> list[int] | None:
    """Returns the token ids of the coordinates 0, `step`, .. 1000; None unless each of them is one token."""
    found = plain_ids(tokenizer, [str(number) for number in range(0, BOX_SCALE + 1, step)])
    return [ids[0] for ids in found] if all(len(ids) == 1 for ids in found) else None


class MedianCoordinates(LogitsProcessor):
    """Lets the median coordinate be the likeliest one, wherever the likeliest token is a coordinate.

    Neighbouring coordinates are different tokens to a language model, so its likeliest one is uncertain where several
    are about as likely. The median has the smallest expected distance from the true coordinate.

    Args:
        ids: from `coordinate_ids`.
    """

    def __init__(self, ids: list[int]) -> None:
        self._ids = torch.tensor(ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Raises the score of the median coordinate above all others, in rows where a coordinate is likeliest.

        Args:
            input_ids: the tokens so far; not used.
            scores: ``(n, v)``.

        Returns:
            The changed scores ``(n, v)``.
        """
        ids = self._ids.to(scores.device)
        writes = torch.isin(scores.argmax(-1), ids).nonzero()[:, 0]
        shares = scores[:, ids].float().softmax(-1)
        median = (shares.cumsum(-1) < 0.5).sum(-1).clamp(max=len(ids) - 1)
        changed = scores.clone()
        changed[writes, ids[median[writes]]] = scores[writes].amax(-1) + 1
        return changed
