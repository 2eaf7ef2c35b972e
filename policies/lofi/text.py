"""Texts and exchanges as tokens: what the text encoder reads, and what the language model reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from carm_env.language.answers import BOX_SCALE
from carm_env.reports.box_text import render_boxes
from carm_env.system.errors import CArmEnvError, shortened
from carm_env.system.extras import optional_imports
from carm_env.xray_datasets.grounded import GroundedSentence
from policies.embedded_vlm import PIECES, build_tokenizer

with optional_imports("llm", "LoFi"):
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

MAX_TEXT_TOKENS = 64
"""Limit of SigLIP's text encoder."""
CAPTION_PROMPT = "Report this medical scan."
GROUNDING_PROMPT = "Detect all instances of: "
DENSE_PROMPT = "Describe the regions: "
SMALL_STEP = 10
"""Small models read and write coordinates of boxes, 0 to 1000, in multiples of this, about a pixel of theirs."""
_PIECES = PIECES.replace("[0-9]", "[0-9]+")


class TextTooLongError(CArmEnvError, ValueError):
    """A text has more tokens than the text encoder takes."""


@dataclass(frozen=True)
class Exchange:
    """A prompt beside an image, and what the language model should answer."""

    prompt: str
    target: str


@dataclass(frozen=True)
class PackedExchanges:
    """Exchanges about images, one after another in a row for each image.

    Attributes:
        tokens: ``(n, t)`` token ids of prompts and targets; ``t`` is 0 without exchanges.
        numbers: ``(n, t)`` the exchange, 0 to ``m - 1``, of each token; -1 for padding.
        positions: ``(n, t)`` place of each token in its exchange, from 0.
        is_target: ``(n, t)`` whether a token belongs to the target.
        owners: ``(m,)`` the image of each exchange.
    """

    tokens: Tensor
    numbers: Tensor
    positions: Tensor
    is_target: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> PackedExchanges:
        """Returns the exchanges on a device."""
        return PackedExchanges(**{name: value.to(device) for name, value in vars(self).items()})


def captioning(text: str) -> Exchange:
    """Returns the exchange of the captioning loss (equation 2)."""
    return Exchange(CAPTION_PROMPT, text)


def grounding(sentence: GroundedSentence, step: int = 1) -> Exchange:
    """Returns the exchange of the grounding loss (equation 3): the boxes of a sentence, in multiples of `step`."""
    return Exchange(GROUNDING_PROMPT + sentence.text, render_boxes(sentence.boxes, step))


def dense_captioning(sentence: GroundedSentence, step: int = 1) -> Exchange:
    """Returns the exchange of the dense captioning loss: the sentence of boxes, in multiples of `step`."""
    return Exchange(DENSE_PROMPT + render_boxes(sentence.boxes, step), sentence.text)


def encode_texts(tokenizer: Any, texts: Sequence[str], cut: bool = False) -> Tensor:
    """Returns token ids ``(n, 64)``, padded as SigLIP expects it.

    Args:
        tokenizer: tokenizer of the text encoder.
        texts: the texts.
        cut: cut longer texts instead of refusing them.

    Raises:
        TextTooLongError: a text has more than 64 tokens.
    """
    rows = []
    for text in texts:
        ids = text_ids(tokenizer, text)
        if len(ids) > MAX_TEXT_TOKENS and not cut:
            raise TextTooLongError(
                f"{shortened(text)} has {len(ids)} tokens, but the text encoder takes {MAX_TEXT_TOKENS}: give fewer or "
                "shorter sentences, or --cut-texts to leave out the rest."
            )
        ids = ids[:MAX_TEXT_TOKENS]
        rows.append(ids + [tokenizer.pad_token_id] * (MAX_TEXT_TOKENS - len(ids)))
    return torch.tensor(rows, dtype=torch.long)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Returns the token ids of a text, with the tokens that end it."""
    return list(tokenizer(text, truncation=False, verbose=False)["input_ids"])


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Returns token ids and mask ``(n, t)`` of prompts, padded on the left so that answers can follow."""
    rows = _prompt_ids(tokenizer, prompts)
    length = max(map(len, rows), default=0)
    pad = tokenizer.pad_token_id
    tokens = [[pad] * (length - len(row)) + row for row in rows]
    mask = [[False] * (length - len(row)) + [True] * len(row) for row in rows]
    return torch.tensor(tokens, dtype=torch.long), torch.tensor(mask, dtype=torch.bool)


def encode_exchanges(tokenizer: Any, exchanges: Sequence[Exchange], owners: Sequence[int], n: int) -> PackedExchanges:
    """Packs exchanges into one row of tokens for each image.

    Args:
        tokenizer: tokenizer of the language model.
        exchanges: the exchanges; may be none.
        owners: image of each, 0 to ``n - 1``.
        n: number of images.
    """
    rows: list[list[tuple[int, int, int, bool]]] = [[] for _ in range(n)]
    prompts = _prompt_ids(tokenizer, [exchange.prompt for exchange in exchanges])
    targets = plain_ids(tokenizer, [exchange.target for exchange in exchanges])
    for number, (prompt, target, owner) in enumerate(zip(prompts, targets, owners, strict=True)):
        tokens = [*prompt, *target, tokenizer.eos_token_id]
        rows[owner] += [(token, number, position, position >= len(prompt)) for position, token in enumerate(tokens)]
    length = max(map(len, rows), default=0)
    packed = [row + [(tokenizer.pad_token_id, -1, 0, False)] * (length - len(row)) for row in rows]
    values = torch.tensor(packed, dtype=torch.long).reshape(n, length, 4)
    ids, numbers, positions, is_target = values.unbind(-1)
    return PackedExchanges(ids, numbers, positions, is_target.bool(), torch.tensor(owners, dtype=torch.long))


def _prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    # A line break ends the prompt.
    end = plain_ids(tokenizer, ["\n"])[0]
    return [[*start, *ids, *end] for ids in plain_ids(tokenizer, prompts)]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Returns the token ids of each text, without tokens that begin or end it."""
    # All at once: a call takes longer than a text.
    return list(tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []


def small_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Trains a tokenizer for a small model; each coordinate of a box, a multiple of `SMALL_STEP`, is one token."""
    numbers = [f"[{number},{number}]" for number in range(0, BOX_SCALE + 1, SMALL_STEP)] * 1000
    prompts = [CAPTION_PROMPT, GROUNDING_PROMPT, DENSE_PROMPT] * 100
    return build_tokenizer([*texts, *prompts, *numbers], 1400, _PIECES)
