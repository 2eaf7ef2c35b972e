"""Labelled X-rays, and their images as squares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from carm_env.body_parts import N_BODY_PARTS
from carm_env.ct.radiographs import read_radiograph
from carm_env.system.errors import CArmEnvError
from carm_env.system.memory import check_memory
from carm_env.system.processes import run_in_processes

MAX_ASPECT = 10.0
"""Largest ratio of the sides of an image; X-rays of fingers and forearms are narrow."""
_FEW_IMAGES = 200
"""So many images are read before other processes have started."""


class DatasetError(CArmEnvError, ValueError):
    """A folder is not one of the known data sets, or its files contradict each other; the message says what to do."""


@dataclass(frozen=True)
class LabelledImage:
    """An X-ray with its labels.

    Attributes:
        name: name within the data set: the SOP instance UID, or the path.
        path: the file.
        labels: numbers of the body parts (`carm_env.body_parts`), different, in ascending order; at least one.
        patient: the patient or, where the data set does not tell patients, the study or the image itself.
    """

    name: str
    path: Path
    labels: tuple[int, ...]
    patient: str


@dataclass(frozen=True)
class LabelledDataset:
    """The X-rays of a folder.

    Attributes:
        kind: ``unifesp``, ``mura``, or ``flexray:NAME`` with the name of the data set.
        images: the X-rays, ordered by name; at least one.
        notes: what was left out or assumed, one line each.
    """

    kind: str
    images: tuple[LabelledImage, ...]
    notes: tuple[str, ...] = ()


def fingerprint(images: Iterable[LabelledImage]) -> str:
    """Returns 16 hexadecimal digits that depend on the names of images, not on their order."""
    names = "\n".join(sorted(image.name for image in images))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def label_matrix(images: Sequence[LabelledImage]) -> NDArray[np.bool_]:
    """Returns whether each image has each label, ``(n, 22)``."""
    matrix = np.zeros((len(images), N_BODY_PARTS), bool)
    for row, image in enumerate(images):
        matrix[row, list(image.labels)] = True
    return matrix


def read_images(images: Sequence[LabelledImage], size: int, workers: int = 1) -> NDArray[np.uint8]:
    """Reads images as squares, ``(n, size, size)``; see `as_square`.

    Args:
        images: the images.
        size: side of the squares, pixels.
        workers: number of processes; few images are read by this one.

    Raises:
        RadiographError: an image is damaged, too small or too large; the message names its file.
        FileNotFoundError: a file has gone.
        MissingExtraError: DICOM files, and pydicom is not installed.
        MemoryError: the images do not fit.
    """
    check_memory(f"{len(images)} images of {size} x {size} pixels", len(images) * size**2, "Take smaller images.")
    squares = np.empty((len(images), size, size), np.uint8)
    tasks = [(row, image.path, size) for row, image in enumerate(images)]
    found = run_in_processes(_read_square, tasks, workers if len(images) > _FEW_IMAGES else 1, ahead=4)
    for row, square in tqdm(found, total=len(images), unit="image", disable=len(images) < _FEW_IMAGES):
        squares[row] = square
    return squares


def _read_square(task: tuple[int, Path, int]) -> tuple[int, NDArray[np.uint8]]:
    row, path, size = task
    return row, as_square(read_radiograph(path, max_aspect=MAX_ASPECT).image, size)


def as_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Fits a whole image into a square, in the middle of a black ground.

    Args:
        image: ``(H, W)``.
        size: side of the square, pixels; the longer side of the image gets this length.

    >>> as_square(np.full((40, 80), 9, np.uint8), 4).tolist()
    [[0, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9], [0, 0, 0, 0]]
    """
    height, width = image.shape
    scale = size / max(height, width)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    # Averages over the area of a pixel, as networks shrink their images.
    method = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BILINEAR
    fitted = np.asarray(Image.fromarray(image).resize(shape, method))
    square = np.zeros((size, size), np.uint8)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    square[top : top + shape[1], left : left + shape[0]] = fitted
    return square
