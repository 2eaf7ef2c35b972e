"""An image of a data set with one question and its true answer, and the files of such images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.language.answers import BOX_SCALE, ImageClass
from carm_env.language.answers import Box as BoxAnswer
from carm_env.language.chat import Message
from carm_env.language.image_tasks import ClassQuestion, ask_class, ask_region
from carm_env.xray_datasets.grounded import Box, check_box
from carm_env.xray_datasets.labelled import DatasetError

SPLITS = ("train", "validation", "test")
MAX_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True, eq=False)
class AskedImage:
    """An image and one question about it: its class, or the box of a phrase.

    Attributes:
        name: name of the image within its data set.
        patient: the patient or, where the data set does not tell patients, the sequence or the image.
        split: one of `SPLITS`.
        task: name of the data set and of the task, such as ``deeplesion_region``.
        load: returns the image, ``(H, W)`` or ``(H, W, 3)`` uint8.
        question: the question about its class; None for a box.
        label: number of the true class.
        phrase: what the box is about.
        box: the true box, shares of the image's width and height; None for a class.
        data_set: name of the data set, whose tasks are about the same patients.

    Raises:
        DatasetError: the split, the class or the box does not exist, or there is a box and a question.
    """

    name: str
    patient: str
    split: str
    task: str
    load: Callable[[], NDArray[np.uint8]]
    question: ClassQuestion | None = None
    label: int = 0
    phrase: str = ""
    box: Box | None = None
    data_set: str = ""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise DatasetError(f"{self.name}: split is {self.split!r}, expected one of: {', '.join(SPLITS)}.")
        if (self.question is None) == (self.box is None):
            raise DatasetError(f"{self.name}: expected a question with classes or a phrase with a box, and not both.")
        if self.question is not None and not 0 <= self.label < len(self.question.classes):
            last = len(self.question.classes) - 1
            raise DatasetError(f"{self.name}: the class is {self.label}, expected 0 to {last}: correct the labels.")
        if self.box is not None:
            object.__setattr__(self, "box", check_box(self.box, self.name))

    def messages(self, style: str) -> list[Message]:
        """Returns the question with the image; `load` says what is raised for a damaged file."""
        if self.question is not None:
            return ask_class(self.question, self.load(), style)
        return ask_region(self.phrase, self.load(), style)

    @property
    def answer(self) -> ImageClass | BoxAnswer:
        """The true answer."""
        if self.box is None:
            return ImageClass(self.label)
        low = [min(round(BOX_SCALE * value), BOX_SCALE - 1) for value in self.box[:2]]
        high = [max(round(BOX_SCALE * value), low[axis] + 1) for axis, value in enumerate(self.box[2:])]
        return BoxAnswer((low[0], low[1], high[0], high[1]))


def box_of_pixels(corners: tuple[float, float, float, float], size: tuple[int, int], where: str) -> Box:
    """Returns a box in pixels as shares of the image; parts outside are cut off.

    Args:
        corners: left, top, right and bottom, pixels.
        size: width and height of the image, pixels.
        where: the file and the row, for the message.

    Raises:
        DatasetError: the box is inverted, empty or outside of the image.
    """
    if min(size) < 1:
        raise DatasetError(f"{where}: the image has {size[0]} x {size[1]} pixels, expected at least 1 x 1.")
    left, top, right, bottom = (float(np.clip(value / size[axis % 2], 0, 1)) for axis, value in enumerate(corners))
    return check_box((left, top, right, bottom), where)


def open_image(path: Path) -> Image.Image:
    """Opens and decodes a PNG, JPEG or TIFF file.

    Raises:
        DatasetError: the file is missing, damaged, too large, or of another kind.
    """
    if not path.is_file():
        raise DatasetError(f"the image {path} is missing: copy it again, or remove its row.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                opened.load()
                return opened.copy()
    except Exception as error:  # Pillow raises many kinds for damaged files
        reason = " ".join(str(error).split())[:120]
        raise DatasetError(f"{path} cannot be read as an image ({reason}): copy or export it again.") from error


def colours(path: Path) -> NDArray[np.uint8]:
    """Reads an image in colours ``(H, W, 3)`` uint8; raises as `open_image`."""
    return np.asarray(open_image(path).convert("RGB"))


def windowed(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Maps values to 0 to 255, from a lower to an upper level.

    >>> windowed(np.array([[-200.0, 50.0, 200.0]]), -100, 100).tolist()
    [[0, 191, 255]]
    """
    scaled = (np.asarray(values, float) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
