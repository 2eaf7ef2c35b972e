"""A data set by its folder, and its division by patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carm_env.system.csv_files import read_csv_rows
from carm_env.system.errors import shortened
from carm_env.xray_datasets import flexray, mura, unifesp
from carm_env.xray_datasets.labelled import DatasetError, LabelledDataset, LabelledImage, fingerprint

SHARE = 0.1
"""Share of the images in the test split and in the calibration split; the paper tests on 174 of 1,738."""
_MODES = ("train", "test")
_LISTED_NAME = re.compile(r"(.+?)(?:-c)?\.(?:dcm|png|jpe?g)", re.IGNORECASE)


def read_dataset(folder: Path) -> LabelledDataset:
    """Reads the data set of a folder; its layout tells which one it is.

    Raises:
        FileNotFoundError: there is no such folder.
        DatasetError: the folder has none of the layouts, or a file is missing or contradicts the layout.
        CsvFileError: the table of the labels cannot be read.
        StructuredFileError, UnknownNameError, NpyFileError: see `read_flexray` and `read_mura`.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    # A manifest is written on purpose, so it goes before what lies beside it.
    if flexray.is_flexray(folder):
        return flexray.read_flexray(folder)
    if mura.is_mura(folder):
        return mura.read_mura(folder)
    if unifesp.is_unifesp(folder):
        return unifesp.read_unifesp(folder)
    raise DatasetError(
        f"{folder} is none of the known data sets. Expected {unifesp.TABLE} and train/, as Kaggle ships the UNIFESP "
        f"X-ray body part data, MURA-v1.1/train/XR_ELBOW and the like, or {flexray.MANIFESTS[0]}, which describes "
        "X-rays with masks as for FleXray."
    )


@dataclass(frozen=True)
class DatasetSplit:
    """A data set, divided.

    Attributes:
        train: images to train on.
        calibration: images for early stopping; a patient is never in `train` and here.
        test: images to evaluate on. Only a split that was given can have their patients in the other parts.
    """

    train: tuple[LabelledImage, ...]
    calibration: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that depend on the test images."""
        return fingerprint(self.test)

    @property
    def shared_patients(self) -> int:
        """Number of patients in the test images and in the others."""
        others = {image.patient for image in (*self.train, *self.calibration)}
        return len(others & {image.patient for image in self.test})


def split_by_patient(images: Sequence[LabelledImage], seed: int = 0) -> DatasetSplit:
    """Divides images by patient; about `SHARE` of the images are for tests, and as many for calibration.

    The split depends on the names of the patients and the seed, not on the order of the images.

    Raises:
        DatasetError: there are fewer than three patients.
    """
    rest, test = _drawn(images, SHARE, [seed, 0])
    train, calibration = _drawn(rest, SHARE / (1 - SHARE), [seed, 1])
    return DatasetSplit(train, calibration, test)


def split_as_listed(images: Sequence[LabelledImage], path: Path, seed: int = 0) -> DatasetSplit:
    """Divides images as a table says; the calibration images are drawn from the training images by patient.

    Args:
        images: the images.
        path: CSV file with the columns ``SOPInstanceUID`` and ``mode`` (train or test), such as ``data/real.csv`` of
            the paper's authors. Paths and suffixes in the first column do not matter; rows of other images are ignored.
        seed: seed of the calibration images.

    Raises:
        CsvFileError: the file cannot be read or lacks a column.
        DatasetError: an image is not in the table, or one part is empty.
    """
    modes: dict[str, str] = {}
    for number, row in enumerate(read_csv_rows(path, ("SOPInstanceUID", "mode")), 1):
        if row["mode"] not in _MODES:
            raise DatasetError(f"{path}, row {number}: mode is {shortened(row['mode'])}, expected train or test.")
        name = row["SOPInstanceUID"].strip().rpartition("/")[2]
        match = _LISTED_NAME.fullmatch(name)
        modes[match[1] if match else name] = row["mode"]
    unlisted = [image.name for image in images if image.name not in modes]
    if unlisted:
        raise DatasetError(
            f"{path} does not list {len(unlisted)} of {len(images)} images, such as {unlisted[0]}: add them."
        )
    parts = {mode: tuple(image for image in images if modes[image.name] == mode) for mode in _MODES}
    for mode, part in parts.items():
        if not part:
            raise DatasetError(f"{path} has no image of mode {mode!r}, expected images of both modes.")
    train, calibration = _drawn(parts["train"], SHARE / (1 - SHARE), [seed, 1])
    return DatasetSplit(train, calibration, parts["test"])


def split_dataset(dataset: LabelledDataset, split: str, seed: int) -> DatasetSplit:
    """Returns `split_as_listed` in the file `split`, or without a file `split_by_patient`."""
    if split:
        return split_as_listed(dataset.images, Path(split), seed)
    return split_by_patient(dataset.images, seed)


def _drawn(
    images: Sequence[LabelledImage], share: float, seed: list[int]
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """Draws patients until they have a share of the images; returns the images of the others, and theirs."""
    patients = sorted({image.patient for image in images})
    counts = {patient: 0 for patient in patients}
    for image in images:
        counts[image.patient] += 1
    drawn: set[str] = set()
    total = 0
    for index in np.random.default_rng(seed).permutation(len(patients)):
        if total >= share * len(images):
            break
        drawn.add(patients[index])
        total += counts[patients[index]]
    if total in (0, len(images)):
        raise DatasetError(
            f"the {len(images)} images are of {len(patients)} patient(s), too few to divide them by patient: expected "
            "at least 3 patients with about as many images each."
        )
    return (
        tuple(image for image in images if image.patient not in drawn),
        tuple(image for image in images if image.patient in drawn),
    )
