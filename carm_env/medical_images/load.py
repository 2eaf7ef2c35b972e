"""A data set of medical images by its file or folder."""

from __future__ import annotations

from pathlib import Path

from carm_env.medical_images.asked_images import AskedImage
from carm_env.medical_images.deep_lesion import TABLE, is_deep_lesion, read_deep_lesion
from carm_env.medical_images.medmnist import SUFFIX, read_medmnist
from carm_env.medical_images.polyp_set import ANNOTATIONS, is_polyp_set, read_polyp_set
from carm_env.xray_datasets.labelled import DatasetError


def is_asked_images(path: Path) -> bool:
    """Returns whether a path is a file or folder that `read_asked_images` knows; it may be damaged."""
    return path.suffix == SUFFIX or is_deep_lesion(path) or is_polyp_set(path)


def read_asked_images(path: Path) -> tuple[AskedImage, ...]:
    """Reads a data set; its layout tells which one it is.

    Raises:
        FileNotFoundError: there is no such file or folder.
        DatasetError: it has none of the layouts, or a file is missing or contradicts the layout.
        CsvFileError: a table cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.suffix == SUFFIX:
        return read_medmnist(path)
    if is_deep_lesion(path):
        return read_deep_lesion(path)
    if is_polyp_set(path):
        return read_polyp_set(path)
    raise DatasetError(
        f"{path} is none of the known data sets. Expected a {SUFFIX} file of MedMNIST, {TABLE} of DeepLesion, or "
        f"train2019/{ANNOTATIONS}/ of PolypSet."
    )
