"""Masks of the structures in X-rays: which share of an image each structure covers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.ct.radiographs import MAX_PIXELS
from carm_env.system.npy_files import open_npy
from carm_env.xray_datasets.labelled import DatasetError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".npy")
"""JPEG is left out: its compression changes numbers."""
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_BLOCK_PIXELS = 1 << 20


def image_shape(path: Path) -> tuple[int, int]:
    """Returns the height and width of an image or a mask, whose pixels are not read.

    Raises:
        DatasetError: the file is damaged, of another kind or too large.
        NpyFileError: see `open_npy`.
    """
    if path.suffix.lower() == ".npy":
        shape = open_npy(path).shape
        if len(shape) < 2:
            raise DatasetError(f"{path} has the shape {shape}, expected an image (H, W).")
        height, width = int(shape[-2]), int(shape[-1])
    else:
        with _opened(path) as opened:
            width, height = opened.size
    if height * width > MAX_PIXELS:
        raise DatasetError(f"{path} has {width} x {height} pixels, expected at most {MAX_PIXELS:,} in all: reduce it.")
    return height, width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; errors inside of the block become DatasetError."""
    try:
        with warnings.catch_warnings():
            # `image_shape` checks the size.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                yield opened
    except Exception as error:  # Pillow raises many kinds for damaged files
        reason = " ".join(str(error).split())[:120]
        raise DatasetError(f"{path} cannot be read as an image ({reason}): copy or export it again.") from error


def dense_shares(path: Path, names: Sequence[str], shape: tuple[int, int]) -> dict[str, float]:
    """Returns the share of an image that each structure covers, from a mask of structure numbers.

    Args:
        path: image file or ``.npy`` file of ``(H, W)`` integers.
        names: name of each number.
        shape: height and width of the image.

    Raises:
        DatasetError: the mask has another shape, no integers or an undeclared number, or is damaged.
        NpyFileError: see `open_npy`.
    """
    _check_shape(path, image_shape(path), shape)
    if path.suffix.lower() == ".npy":
        mask = open_npy(path)
    else:
        with _opened(path) as opened:
            opened.load()
            mask = np.asarray(opened)
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise DatasetError(
            f"{path} holds {mask.dtype} {mask.shape}, expected integers {shape}, one id of stored_labels for each "
            "pixel: save it as a greyscale PNG; masks with a channel for each structure need label_names instead."
        )
    counts = np.zeros(len(names), np.int64)
    for block in _blocks(mask):
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= len(names):
            raise DatasetError(
                f"{path} holds the id {low if low < 0 else high}, expected 0 to {len(names) - 1}: declare the "
                "id in stored_labels, or correct the mask."
            )
        counts += np.bincount(block.ravel().astype(np.int64), minlength=len(names))
    return dict(zip(names, (counts / mask.size).tolist(), strict=True))


def channel_shares(path: Path, names: Sequence[str], shape: tuple[int, int]) -> dict[str, float]:
    """Returns the share of an image that each structure covers, from a mask with a channel for each structure.

    A pixel belongs to a structure from 0.5 on.

    Args:
        path: ``.npy`` file of ``(C, H, W)`` numbers from 0 to 1.
        names: name of each channel.
        shape: height and width of the image.

    Raises:
        DatasetError: the mask has another shape or number of channels, or other values.
        NpyFileError: see `open_npy`.
    """
    if path.suffix.lower() != ".npy":
        raise DatasetError(
            f"{path} is no .npy file, expected channels (C, H, W), as the data set has label_names: save it as .npy, "
            "or declare the ids of dense masks in stored_labels instead."
        )
    mask = open_npy(path)
    if mask.ndim != 3 or len(mask) != len(names):
        raise DatasetError(
            f"{path} has the shape {mask.shape}, expected ({len(names)}, {shape[0]}, {shape[1]}), one channel for each "
            "of label_names: correct one of them."
        )
    _check_shape(path, image_shape(path), shape)
    return {name: _channel_share(path, name, channel) for name, channel in zip(names, mask, strict=True)}


def _channel_share(path: Path, name: str, channel: NDArray[Any]) -> float:
    count = 0
    for block in _blocks(channel):
        low, high = block.min(), block.max()
        # NaN compares as false.
        if not (low >= 0 and high <= 1):
            raise DatasetError(
                f"{path}: the channel {name!r} has values from {low} to {high}, expected 0 to 1: divide 8-bit masks "
                "by 255."
            )
        count += int(np.count_nonzero(block >= 0.5))
    return count / channel.size


def _blocks(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields groups of rows, so that little memory is needed beside the mask."""
    rows = max(_BLOCK_PIXELS // pixels.shape[1], 1)
    for start in range(0, len(pixels), rows):
        yield pixels[start : start + rows]


def _check_shape(path: Path, got: tuple[int, int], expected: tuple[int, int]) -> None:
    if got != expected:
        raise DatasetError(
            f"{path} has {got[1]} x {got[0]} pixels, expected {expected[1]} x {expected[0]}, as the image has: export "
            "both in the same size."
        )
