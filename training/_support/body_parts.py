"""Labelled X-rays of people as training data: splits, conversations, figures, and what model cards say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.body_parts import N_BODY_PARTS
from carm_env.evaluation.label_metrics import label_values
from carm_env.language.answers import BodyParts, render
from carm_env.language.chat import question, text_part
from carm_env.system.threads import usable_cpus
from carm_env.xray_datasets.labelled import LabelledImage, label_matrix, read_images
from carm_env.xray_datasets.load import DatasetSplit, read_dataset, split_dataset
from training._support.conversations import without_images

TASK = "body_parts"
_MAX_WORKERS = 8
_NAMES = {"unifesp": "the UNIFESP X-ray body part data", "mura": "MURA", "flexray": "a data set with masks"}
"""By the part of the kind before a colon; what follows it is a name that the user gave."""
LIMITS = """The model says which body parts an X-ray shows, and nothing of findings. Its data are of few hospitals:
X-rays of other hospitals, devices, projections and ages differ. The terms of the data also apply to the weights."""


@dataclass(frozen=True)
class BodyPartData:
    """A data set of labelled X-rays, divided.

    Attributes:
        kind: name of the data set.
        split: its parts.
    """

    kind: str
    split: DatasetSplit

    @classmethod
    def load(cls, folder: str, split: str, split_seed: int, quiet: bool = False) -> BodyPartData:
        """Finds and divides the images of a folder, and prints what was found.

        The images are not opened; masks are read.

        Args:
            folder: folder of the data set.
            split: CSV file that divides it; empty to divide it by patient.
            split_seed: seed of the split.
            quiet: print nothing.

        Raises:
            CArmEnvError, FileNotFoundError: see `read_dataset` and `split_dataset`.
        """
        dataset = read_dataset(Path(folder))
        found = cls(dataset.kind, split_dataset(dataset, split, split_seed))
        if not quiet:
            parts = found.split
            print(f"{dataset.kind}: {len(parts.train)} images to train on, {len(parts.calibration)} for calibration, "
                  f"{len(parts.test)} for tests")  # fmt: skip
            for note in dataset.notes:
                print(f"note: {note}")
            if parts.shared_patients:
                print(f"note: {parts.shared_patients} patients of the test images are in the other images, too")
        return found

    def train_images(self, limit: int | None = None, calibration: bool = False) -> tuple[LabelledImage, ...]:
        """Returns the images to train on.

        Args:
            limit: number of images that a short run needs, which are drawn at random; None for all.
            calibration: the calibration images are trained on, too.
        """
        images = self.split.train + (self.split.calibration if calibration else ())
        if limit is None or limit >= len(images):
            return images
        return tuple(images[number] for number in np.random.default_rng(0).permutation(len(images))[:limit])

    def described(self) -> dict[str, str]:
        """Returns what a checkpoint states of its data: the data set, and the images that it was not trained on."""
        return {"data": self.kind, "test_split": self.split.fingerprint}

    def card(self, count: int) -> dict[str, str]:
        """Returns arguments of `training._support.card.model_card` for a model that was trained on `count` images."""
        shared = self.split.shared_patients
        division = f"{shared} patients of the test images are in them, too" if shared else "divided by patient"
        return {
            "data": f"X-rays of people: {count} images of {_NAMES[self.kind.partition(':')[0]]}; {division}",
            "limits": LIMITS,
            "weights_license": "other",
            "task": "body-part-classification",
        }


def load_images(images: Sequence[LabelledImage], size: int, workers: int) -> NDArray[np.uint8]:
    """Reads images as squares ``(n, size, size)``; `workers` is the number of processes, 0 for one per CPU."""
    return read_images(images, size, workers or min(usable_cpus(), _MAX_WORKERS))


def label_figures(answers: NDArray[np.int64], images: Sequence[LabelledImage]) -> dict[str, float]:
    """Returns the mean of each metric over all images; an image without an answer counts as wrong."""
    values = label_values(answers, label_matrix(images))
    return {name: float(column.mean()) for name, column in values.items()}


class BodyPartConversations:
    """Conversations about X-rays: which two body parts each most likely shows. Every epoch holds each image once.

    An answer holds two body parts, but most X-rays have one label. The second is then the label that accompanies the
    first one most often in these images, or else the most frequent of the others: the likeliest guess. Of three labels
    two are drawn anew in every epoch.

    Args:
        images: squares ``(n, s, s)``.
        labels: labels of each image.
        style: style of the prompts.
        seed: seed of the order.
    """

    def __init__(self, images: NDArray[np.uint8], labels: Sequence[tuple[int, ...]], style: str, seed: int = 0) -> None:
        self._images, self._labels, self._style, self._seed = images, labels, style, seed
        self._companions = companions(labels)
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
        answer = render(BodyParts(self._answer(view, np.random.default_rng([self._seed, epoch, view]))))
        prompt, images = without_images(question(TASK, self._images[view], self._style))
        return {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": [text_part(answer)]}],
            "images": images,
            "task": TASK,
            "view": view,
        }

    def _answer(self, view: int, rng: np.random.Generator) -> tuple[int, int]:
        labels = self._labels[view]
        if len(labels) == 1:
            return labels[0], self._companions[labels[0]]
        first, second = sorted(int(label) for label in rng.choice(labels, 2, replace=False))
        return first, second

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        for number in range(start, stop):
            yield self.example(number)


def companions(labels: Sequence[tuple[int, ...]]) -> dict[int, int]:
    """Returns for each label the label that accompanies it most often; ties are decided by frequency, then number.

    >>> companions([(3,), (3,), (9, 21), (5,)])[9], companions([(3,), (3,), (9, 21), (5,)])[5]
    (21, 3)
    """
    frequency = Counter(label for group in labels for label in group)
    together = Counter((a, b) for group in labels for a in group for b in group if a != b)
    return {
        label: max(
            (other for other in range(N_BODY_PARTS) if other != label),
            key=lambda other: (together[label, other], frequency[other], -other),
        )
        for label in range(N_BODY_PARTS)
    }
