"""Data sets of images with grounded reports by their folder, and their images as squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from carm_env.ct.radiographs import read_radiograph
from carm_env.system.memory import check_memory
from carm_env.system.processes import run_in_processes
from carm_env.xray_datasets import mimic_cxr, padchest_gr
from carm_env.xray_datasets.grounded import Box, GroundedReport, GroundedSentence
from carm_env.xray_datasets.labelled import MAX_ASPECT, DatasetError, as_square

_FEW_IMAGES = 200


def read_grounded(folder: Path, least_quality: int = 0) -> tuple[GroundedReport, ...]:
    """Reads the reports of a folder; its layout tells which data set it is.

    Args:
        folder: folder of the data set.
        least_quality: see `carm_env.xray_datasets.mimic_cxr.read_mimic_cxr`, which alone has qualities.

    Raises:
        ValueError: a least quality for a data set that has none.
        FileNotFoundError: there is no such folder.
        DatasetError: the folder has none of the layouts, or a file is missing or contradicts the layout.
        CsvFileError: a table cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if padchest_gr.is_padchest_gr(folder):
        if least_quality:
            raise ValueError(
                f"least_quality is {least_quality}, but {folder} holds PadChest-GR, which rates no observation: leave "
                "it out."
            )
        return padchest_gr.read_padchest_gr(folder)
    if mimic_cxr.is_mimic_cxr(folder):
        return mimic_cxr.read_mimic_cxr(folder, least_quality)
    raise DatasetError(
        f"{folder} is none of the known data sets with reports. Expected {padchest_gr.PATTERN} and {padchest_gr.TABLE} "
        f"of PadChest-GR, or {mimic_cxr.SPLIT_TABLE} and {mimic_cxr.GRAPHS}/ of MIMIC-CXR-JPG with MIMIC-Ext."
    )


def of_split(reports: Sequence[GroundedReport], split: str) -> tuple[GroundedReport, ...]:
    """Returns the reports of a split.

    Raises:
        DatasetError: there is none, or one of their patients is in another split, too.
    """
    found = tuple(report for report in reports if report.split == split)
    if not found:
        raise DatasetError(f"no report is of the split {split!r}, expected some: check the table of the splits.")
    others = {report.patient for report in reports if report.split != split}
    if shared := others & {report.patient for report in found}:
        raise DatasetError(
            f"{len(shared)} patients of the split {split!r} are in other splits, too, such as {min(shared)}: divide "
            "the images by patient."
        )
    return found


def squared_box(box: Box, width: int, height: int) -> Box:
    """Returns where a box lies in the square that `as_square` makes of an image.

    >>> squared_box((0.0, 0.0, 1.0, 0.5), 80, 40)
    (0.0, 0.25, 1.0, 0.5)
    """
    longer = max(width, height)
    spans = width / longer, height / longer
    left, top, right, bottom = (
        (1 - spans[index % 2]) / 2 + spans[index % 2] * value for index, value in enumerate(box)
    )
    return left, top, right, bottom


def read_grounded_images(
    reports: Sequence[GroundedReport], size: int, workers: int = 1
) -> tuple[NDArray[np.uint8], list[GroundedReport]]:
    """Reads images as squares ``(n, size, size)``, and their reports with boxes of the squares.

    Args:
        reports: reports with the path of their image.
        size: side of the squares, pixels.
        workers: number of processes; few images are read by this one.

    Raises:
        RadiographError: an image is damaged, too small or too large; the message names its file.
        FileNotFoundError: a file has gone.
        MemoryError: the images do not fit.
    """
    check_memory(f"{len(reports)} images of {size} x {size} pixels", len(reports) * size**2, "Take smaller images.")
    squares = np.empty((len(reports), size, size), np.uint8)
    changed = list(reports)
    tasks = [(row, report.path, size) for row, report in enumerate(reports) if report.path is not None]
    found = run_in_processes(_read_square, tasks, workers if len(tasks) > _FEW_IMAGES else 1, ahead=4)
    for row, square, (height, width) in tqdm(found, total=len(tasks), unit="image", disable=len(tasks) < _FEW_IMAGES):
        squares[row] = square
        sentences = tuple(
            GroundedSentence(sentence.text, tuple(squared_box(box, width, height) for box in sentence.boxes))
            for sentence in reports[row].sentences
        )
        changed[row] = replace(reports[row], sentences=sentences)
    return squares, changed


def _read_square(task: tuple[int, Path, int]) -> tuple[int, NDArray[np.uint8], tuple[int, int]]:
    row, path, size = task
    image = read_radiograph(path, max_aspect=MAX_ASPECT).image
    return row, as_square(image, size), (image.shape[0], image.shape[1])
