"""Grounded reports: sentences about an X-ray, and the boxes in the image that each is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.system.errors import shortened
from carm_env.xray_datasets.labelled import DatasetError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the image's width and height, 0 to 1."""


def check_box(values: Sequence[float], where: str) -> Box:
    """Returns four numbers as a box.

    Args:
        values: left, top, right and bottom.
        where: the file and the sentence, for the message.

    Raises:
        DatasetError: the box is not four finite numbers, lies outside of the image, or is inverted or empty.

    >>> check_box([0, 0.25, 0.5, 1], "example")
    (0.0, 0.25, 0.5, 1.0)
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise DatasetError(f"{where}: a box is {shortened(values)}, expected four numbers: left, top, right, bottom.")
    left, top, right, bottom = numbers
    if min(numbers) < 0 or max(numbers) > 1:
        raise DatasetError(
            f"{where}: the box {shortened(values)} lies outside of the image, expected shares of its width and height "
            "from 0 to 1: divide pixels by the image's size, or cut the box at the border."
        )
    if not (left < right and top < bottom):
        raise DatasetError(
            f"{where}: the box {shortened(values)} is inverted or empty, expected left < right and top < bottom: swap "
            "its corners, or remove it."
        )
    return left, top, right, bottom


@dataclass(frozen=True)
class GroundedSentence:
    """A sentence of a report.

    Attributes:
        text: the sentence.
        boxes: what it is about; empty if it is about no place in the image, or nothing is known.

    Raises:
        DatasetError: the sentence is empty, or a box is not valid.
    """

    text: str
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DatasetError("a sentence is empty, expected words: leave it out.")
        object.__setattr__(self, "boxes", tuple(check_box(box, shortened(self.text)) for box in self.boxes))


@dataclass(frozen=True)
class GroundedReport:
    """An X-ray and its report.

    Attributes:
        name: name of the image within its data set.
        patient: the patient, whose images are never divided among splits.
        sentences: at least one.
        path: the image file; None for an image that is rendered.
        split: ``train``, ``validation`` or ``test`` as the data set says; empty if it does not.

    Raises:
        DatasetError: there is no sentence.
    """

    name: str
    patient: str
    sentences: tuple[GroundedSentence, ...]
    path: Path | None = None
    split: str = ""

    def __post_init__(self) -> None:
        if not self.sentences:
            raise DatasetError(
                f"{self.name}: the report is empty, expected at least one sentence: leave the image out."
            )

    @property
    def grounded(self) -> tuple[GroundedSentence, ...]:
        """The sentences that have boxes."""
        return tuple(sentence for sentence in self.sentences if sentence.boxes)


def sub_reports(report: GroundedReport, length: int = 5) -> list[str]:
    """Returns a report in parts of consecutive sentences, as the paper evaluates retrieval; the last may be shorter.

    >>> texts = [GroundedSentence(f"S{number}.") for number in range(7)]
    >>> sub_reports(GroundedReport("image", "patient", tuple(texts)))
    ['S0. S1. S2. S3. S4.', 'S5. S6.']
    """
    texts = [sentence.text for sentence in report.sentences]
    return [" ".join(texts[start : start + length]) for start in range(0, len(texts), length)]


def bounding_box(points: NDArray[np.floating]) -> Box:
    """Returns the smallest box around points ``(n, 2)``, shares of the image, cut at its border."""
    left, top = np.clip(points.min(0), 0, 1).tolist()
    right, bottom = np.clip(points.max(0), 0, 1).tolist()
    return left, top, right, bottom


def check_reports(reports: Iterable[GroundedReport], source: str) -> tuple[GroundedReport, ...]:
    """Returns reports as a tuple; raises DatasetError if there is none."""
    found = tuple(reports)
    if not found:
        raise DatasetError(f"{source} holds no report, expected at least one: check the folder and the split.")
    return found
