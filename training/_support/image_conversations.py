"""Conversations about the images of data sets with classes or boxes, and figures of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.class_metrics import f1_scores
from carm_env.evaluation.grounding import IOU, overlaps
from carm_env.language.answers import BOX_SCALE, AnswerError, render
from carm_env.language.chat import text_part
from carm_env.language.grammar import parse
from carm_env.language.image_tasks import read_class
from carm_env.medical_images.asked_images import AskedImage
from carm_env.medical_images.load import is_asked_images, read_asked_images
from carm_env.xray_datasets.labelled import DatasetError
from policies.images import batches
from training._support.conversations import without_images

_BATCH = 64


def asked_image_paths(data: str) -> tuple[Path, ...]:
    """Returns the paths in ``--data``, separated by commas, if they are data sets with classes or boxes; else none.

    Raises:
        DatasetError: only some of several paths are.
    """
    paths = tuple(Path(part) for part in data.split(",") if part)
    known = [path for path in paths if is_asked_images(path)]
    if known and len(known) < len(paths):
        other = next(path for path in paths if path not in known)
        raise DatasetError(
            f"data names {other}, which is none of MedMNIST, DeepLesion and PolypSet, beside {known[0]}: train on one "
            "kind of data."
        )
    return tuple(known)


def read_all(paths: Sequence[Path]) -> tuple[AskedImage, ...]:
    """Reads several data sets."""
    return tuple(image for path in paths for image in read_asked_images(path))


def of_split(images: Sequence[AskedImage], split: str) -> tuple[AskedImage, ...]:
    """Returns the images of a split.

    Raises:
        DatasetError: there is none, or a patient of theirs is in another split of the same data set.
    """
    found = tuple(image for image in images if image.split == split)
    if not found:
        raise DatasetError(f"the data have no image of the split {split!r}, expected some: copy the whole data set.")
    others = {(image.data_set, image.patient) for image in images if image.split != split}
    if shared := others & {(image.data_set, image.patient) for image in found}:
        raise DatasetError(
            f"{len(shared)} patients of the split {split!r} are in other splits, too, such as {min(shared)[1]}: divide "
            "the images by patient."
        )
    return found


class ImageConversations:
    """Conversations about images. Every epoch holds each question once, in an order that depends on the seed.

    Args:
        images: the images with their questions.
        style: style of the prompts.
        seed: seed of the order.
    """

    def __init__(self, images: Sequence[AskedImage], style: str, seed: int = 0) -> None:
        self._images, self._style, self._seed = images, style, seed
        self._epoch, self._order = -1, np.zeros(0, int)

    def __len__(self) -> int:
        return len(self._images)

    def example(self, number: int) -> dict[str, Any]:
        """Returns example `number` in TRL's format: keys prompt, completion and images; besides, task and view."""
        epoch, place = divmod(number, len(self))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self))
        view = int(self._order[place])
        image = self._images[view]
        prompt, images = without_images(image.messages(self._style))
        return {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": [text_part(render(image.answer))]}],
            "images": images,
            "task": image.task,
            "view": view,
        }

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        for number in range(start, stop):
            yield self.example(number)


def image_figures(model: ChatModel, images: Sequence[AskedImage], reading: str = "strict") -> dict[str, float]:
    """Asks a model about images, and returns for each task its accuracy and F1, or its box accuracy and mean overlap.

    Args:
        model: the model.
        images: the images with their questions.
        reading: ``strict`` or ``lenient``.

    Returns:
        Figures with the name of the task before them, and ``invalid_rate``: the share of answers that cannot be read.
    """
    values = _answer_values(model, images, reading)
    figures: dict[str, float] = {}
    for task in dict.fromkeys(image.task for image in images):
        rows = [row for row, image in enumerate(images) if image.task == task]
        found = values[rows]
        if images[rows[0]].question is None:
            figures[f"{task}_accuracy"] = float((found >= IOU).mean())
            figures[f"{task}_mean_iou"] = float(np.nan_to_num(found).mean())
            continue
        labels = np.array([images[row].label for row in rows])
        figures[f"{task}_accuracy"] = float((found == labels).mean())
        figures[f"{task}_macro_f1"], figures[f"{task}_weighted_f1"] = f1_scores(found, labels)
    figures["invalid_rate"] = float(np.isnan(values).mean())
    return figures


def _answer_values(model: ChatModel, images: Sequence[AskedImage], reading: str) -> NDArray[np.float64]:
    """Returns the class of each answer, or the overlap of its box, ``(n,)``; NaN where it cannot be read."""
    values = np.full(len(images), np.nan)
    for kind, has_box in (("class", False), ("box", True)):
        rows = [row for row, image in enumerate(images) if (image.box is not None) == has_box]
        for part in batches(len(rows), _BATCH):
            generations = model.generate([images[row].messages(model.style) for row in rows[part]], kind)
            for row, found in zip(rows[part], generations, strict=True):
                try:
                    values[row] = _value(images[row], found.text, reading)
                except AnswerError:
                    continue
    return values


def _value(image: AskedImage, text: str, reading: str) -> float:
    if image.question is not None:
        return float(read_class(text, image.question, reading))
    assert image.box is not None
    left, top, right, bottom = (corner / BOX_SCALE for corner in parse("box", text, reading).corners)
    return float(overlaps([(left, top, right, bottom)], [image.box])[0, 0])
