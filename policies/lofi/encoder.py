"""What a trained LoFi does: embeddings of images and texts, boxes of phrases, and phrases of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.language.answers import AnswerError
from carm_env.reports.box_text import parse_boxes, render_boxes
from carm_env.system.extras import optional_imports
from carm_env.xray_datasets.grounded import Box
from policies.checkpoint import fingerprint
from policies.checkpoint_config import trained_depth_mm
from policies.images import batches
from policies.lofi.checkpoint import Lofi, load_lofi
from policies.lofi.coordinates import MedianCoordinates, coordinate_ids
from policies.lofi.model import as_pixels
from policies.lofi.text import CAPTION_PROMPT, DENSE_PROMPT, GROUNDING_PROMPT, encode_prompts, encode_texts

with optional_imports("llm", "LoFi"):
    import torch
    from torch import Tensor
    from transformers import LogitsProcessor, LogitsProcessorList

_MAX_ANSWER_TOKENS = 96
_BATCH = 32


class LofiEncoder:
    """A trained model, ready to be asked.

    Args:
        source: folder of a checkpoint, or the model itself.

    Attributes:
        size: side of the images that it was trained on, pixels; others are resized.
        isocenter_depth_mm: depth of the isocentre in the images that it was trained on, mm.
    """

    def __init__(self, source: str | Path | Lofi) -> None:
        self._lofi = source if isinstance(source, Lofi) else load_lofi(source)
        self._model = self._lofi.model.eval()
        self._device = next(self._model.parameters()).device
        self.size = self._lofi.image_size
        self._coordinates = coordinate_ids(self._lofi.tokenizer, self._lofi.box_step)
        self.isocenter_depth_mm = trained_depth_mm(self._lofi.config)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights: embeddings of other weights cannot be compared."""
        return fingerprint(self._model.state_dict())[:16]

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps images ``(n, s, s)`` to embeddings ``(n, d)`` of length 1."""
        return self._joined([self._image_features(images[part])[0] for part in batches(len(images), _BATCH)])

    def embed_texts(self, texts: Sequence[str], cut: bool = True) -> NDArray[np.float32]:
        """Maps texts to embeddings ``(n, d)`` of length 1; longer texts than 64 tokens are cut, or refused."""
        tokens = encode_texts(self._lofi.text_tokenizer, texts, cut)
        with torch.inference_mode():
            parts = [self._model.text_features(tokens[part].to(self._device)) for part in batches(len(texts), _BATCH)]
        return self._joined(parts)

    def ground(self, images: NDArray[np.uint8], phrases: Sequence[str]) -> list[tuple[Box, ...]]:
        """Returns the boxes of one phrase in each image ``(n, s, s)``; none where the answer was no boxes.

        Where each coordinate is one token, the median coordinate is written (`MedianCoordinates`).
        """
        prompts = [GROUNDING_PROMPT + phrase for phrase in phrases]
        answers = self._answers(images, prompts, [MedianCoordinates(self._coordinates)] if self._coordinates else [])
        return [_boxes_of(answer) for answer in answers]

    def describe(self, images: NDArray[np.uint8], boxes: Sequence[Sequence[Box]]) -> list[str]:
        """Returns a description of the given boxes of each image."""
        return self.answer(images, [DENSE_PROMPT + render_boxes(each, self._lofi.box_step) for each in boxes])

    def report(self, images: NDArray[np.uint8]) -> list[str]:
        """Returns a report of each image."""
        return self.answer(images, [CAPTION_PROMPT] * len(images))

    def answer(self, images: NDArray[np.uint8], prompts: Sequence[str]) -> list[str]:
        """Returns the language model's answer to a prompt beside each image; the likeliest token is always taken."""
        return self._answers(images, prompts, [])

    def _answers(
        self, images: NDArray[np.uint8], prompts: Sequence[str], processors: Sequence[LogitsProcessor]
    ) -> list[str]:
        answers: list[str] = []
        for part in batches(len(prompts), _BATCH):
            answers += self._answer(images[part], prompts[part], processors)
        return answers

    def _image_features(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return self._model.image_features(as_pixels(images, self.size).to(self._device))

    def _answer(
        self, images: NDArray[np.uint8], prompts: Sequence[str], processors: Sequence[LogitsProcessor]
    ) -> list[str]:
        tokenizer: Any = self._lofi.tokenizer
        tokens, mask = (value.to(self._device) for value in encode_prompts(tokenizer, prompts))
        with torch.inference_mode():
            seen = self._model.image_tokens(self._image_features(images)[1])
            # The padding stands before the image, as positions after it would shift the text.
            words = self._model.language.get_input_embeddings()(tokens)
            longest = tokens.shape[1]
            rows = []
            for row in range(len(prompts)):
                padding = longest - int(mask[row].sum())
                rows.append(torch.cat([words[row, :padding], seen[row].to(words.dtype), words[row, padding:]]))
            embeddings = torch.stack(rows)
            positions = torch.arange(embeddings.shape[1], device=self._device)
            attended = (positions >= (longest - mask.sum(1))[:, None]).long()
            produced = self._model.language.generate(
                inputs_embeds=embeddings, attention_mask=attended, max_new_tokens=_MAX_ANSWER_TOKENS, do_sample=False,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList(processors),
            )  # fmt: skip
        return [text.strip() for text in tokenizer.batch_decode(produced, skip_special_tokens=True)]

    @staticmethod
    def _joined(parts: Sequence[Tensor]) -> NDArray[np.float32]:
        return torch.cat(list(parts)).float().cpu().numpy()


def _boxes_of(answer: str) -> tuple[Box, ...]:
    try:
        return parse_boxes(answer)
    except AnswerError:
        return ()
