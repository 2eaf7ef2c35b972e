"""Images with grounded reports as training data: sampled texts, exchanges and batches.

What a sample shows depends on the seed, the epoch and its number alone, so that a resumed training sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.reports.box_text import MAX_BOXES
from carm_env.views.read import ViewImages
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence
from policies.lofi.checkpoint import Lofi
from policies.lofi.model import LofiInputs, as_pixels
from policies.lofi.text import (
    MAX_TEXT_TOKENS,
    Exchange,
    captioning,
    dense_captioning,
    encode_exchanges,
    encode_texts,
    grounding,
    text_ids,
)


@dataclass(frozen=True, eq=False)
class GroundedImages:
    """Images and their reports.

    Attributes:
        images: ``(n, s, s)`` uint8, in memory or on disk.
        reports: ``(n,)`` the report of each.
    """

    images: ViewImages
    reports: Sequence[GroundedReport]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.reports) or not len(self.reports):
            raise ValueError(
                f"got {len(self.images)} images and {len(self.reports)} reports, expected as many, at least one."
            )

    def __len__(self) -> int:
        return len(self.reports)

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [report.patient for report in self.reports]

    def some(self, per_patient: int) -> GroundedImages:
        """Returns the first images of each patient."""
        counts: dict[str, int] = {}
        chosen = []
        for number, patient in enumerate(self.patients):
            counts[patient] = counts.get(patient, 0) + 1
            if counts[patient] <= per_patient:
                chosen.append(number)
        return GroundedImages(self.images[np.array(chosen)], [self.reports[number] for number in chosen])


class LofiBatches:
    """Batches of a training.

    Args:
        data: images and reports.
        lofi: the model, whose tokenizers are used.
        sentences: fewest and most sentences that are sampled from a report.
        tasks: autoregressive losses, of ``c``, ``g`` and ``d``.
        seed: seed of the samples.
        located: most sentences with boxes that are sampled from a report for ``g`` and ``d``.
        cut: cut sentences of more than 64 tokens instead of refusing them.
    """

    def __init__(
        self,
        data: GroundedImages,
        lofi: Lofi,
        sentences: tuple[int, int],
        tasks: Sequence[str],
        seed: int,
        located: int = 1,
        cut: bool = False,
    ) -> None:
        self._data, self._lofi, self._sentences, self._seed, self._cut = data, lofi, sentences, seed, cut
        self._located = located
        self._step = lofi.box_step
        self._tasks = tuple(tasks)
        self._lengths: dict[str, int] = {}

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> LofiInputs:
        """Returns the inputs of the chosen images in an epoch.

        The first exchanges are the captions of the images, in their order; the others are about boxes.

        Raises:
            TextTooLongError: a sentence has more than 64 tokens.
        """
        texts, captions, located, owners = [], [], [], []
        for row, number in enumerate(chosen.tolist()):
            rng = np.random.default_rng([self._seed, epoch, number])
            report = self._data.reports[number]
            text = self.sampled_text(report, rng)
            texts.append(text)
            captions.append(captioning(text))
            about_boxes = self._about_boxes(report, rng)
            located += about_boxes
            owners += [row] * len(about_boxes)
        exchanges = captions + located if self._tasks else []
        rows = [*range(len(chosen)), *owners] if self._tasks else []
        packed = encode_exchanges(self._lofi.tokenizer, exchanges, rows, len(chosen))
        pixels = as_pixels(self._data.images[chosen], self._lofi.image_size)
        return LofiInputs(pixels, encode_texts(self._lofi.text_tokenizer, texts, self._cut), packed)

    def sampled_text(self, report: GroundedReport, rng: np.random.Generator) -> str:
        """Returns sampled sentences of a report in random order, as many of them as the text encoder takes."""
        few, many = self._sentences
        order = rng.permutation(len(report.sentences))[: int(rng.integers(few, many + 1))]
        chosen: list[str] = []
        length = 0
        for number in order.tolist():
            text = report.sentences[number].text
            length += self._length(text)
            if chosen and length > MAX_TEXT_TOKENS:
                break
            chosen.append(text)
        return " ".join(chosen)

    def _length(self, text: str) -> int:
        if text not in self._lengths:
            # With the token that joins sentences.
            self._lengths[text] = len(text_ids(self._lofi.text_tokenizer, text)) + 1
        return self._lengths[text]

    def _about_boxes(self, report: GroundedReport, rng: np.random.Generator) -> list[Exchange]:
        tasks = [task for task in self._tasks if task != "c"]
        sentences = [sentence for sentence in report.grounded if len(sentence.boxes) <= MAX_BOXES]
        if not tasks or not sentences:
            return []
        make: dict[str, Callable[[GroundedSentence, int], Exchange]] = {"g": grounding, "d": dense_captioning}
        order = rng.permutation(len(sentences))[: self._located]
        return [make[tasks[int(rng.integers(len(tasks)))]](sentences[number], self._step) for number in order.tolist()]
