"""Read labelled views: labels in memory, images in memory or on disk until they are needed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from carm_env.landmarks import N_LANDMARKS
from carm_env.system.errors import CArmEnvError, shortened
from carm_env.system.extras import require
from carm_env.system.structured_files import read_json_mapping
from carm_env.views.sample import ViewOptions

DATASET_FORMAT = 1
OPTIONS_FILE = "views.json"
_IN_MEMORY_PIXELS = 256
_BEFORE_DEPTHS = {"isocenter_depth_mm": 0.0}
"""Options of the datasets that were written before the depth of the isocentre could be chosen."""


class ViewDatasetError(CArmEnvError, ValueError):
    """A folder holds no view dataset, or one of another format or with other options."""


def import_pyarrow() -> Any:
    """Imports pyarrow with its Parquet reader; raises MissingExtraError if it is not installed."""
    require("pyarrow.parquet", "train", "A dataset of views")
    return require("pyarrow", "train", "A dataset of views")


def read_description(folder: Path) -> dict[str, Any]:
    """Reads ``views.json``: format, options, and the files of each split.

    Raises:
        ViewDatasetError: the folder holds no dataset, or one of another format.
    """
    try:
        return check_description(read_json_mapping(folder / OPTIONS_FILE))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ViewDatasetError(
            f"{folder} is not a dataset of views ({error}): write one with `carm-env render-dataset --out {folder}`."
        ) from error


def check_description(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a ``views.json`` with all options; raises ValueError, KeyError or TypeError."""
    description = dict(value)
    if description["format"] != DATASET_FORMAT:
        raise ValueError(f"format {description['format']}, expected {DATASET_FORMAT}")
    description["files"] = dict(description["files"])
    for names in description["files"].values():
        for name in names if isinstance(names, list) else [names]:
            if not isinstance(name, str) or Path(name).name != name or names is name:
                raise ValueError(f"files has {shortened(name)}, expected lists of names without folders")
    options = {**_BEFORE_DEPTHS, **description["options"]}
    description["options"] = ViewOptions(**{**options, "augment": tuple(options["augment"])}).to_json()
    return description


class LazyImages:
    """Images that stay on disk until they are indexed, along the first axis like an array.

    `datasets` keeps them as PNG in memory-mapped Arrow files in its cache.

    Args:
        paths: Parquet files of one split.
        size: side of the images in pixels.
        count: number of images, the first ones of the files; None for all.

    Raises:
        MissingExtraError: datasets is not installed.
        ViewDatasetError: the files hold no images. Indexing raises it for an image that cannot be read.
    """

    def __init__(self, paths: Sequence[Path], size: int, count: int | None = None) -> None:
        datasets = require("datasets", "train", "Reading images as they are needed")
        features = datasets.Features({"image": datasets.Image()})
        self._folder = paths[0].parent
        try:
            table = datasets.Dataset.from_parquet([str(path) for path in paths], columns=["image"], features=features)
        except Exception as error:  # datasets raises many kinds for a damaged file
            raise ViewDatasetError(
                f"the images in {self._folder} cannot be read ({error}): remove the damaged files and render again."
            ) from error
        self._table = table if count is None else table.select(range(min(count, len(table))))
        self.shape = (len(self._table), size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if np.ndim(key) == 0 and not isinstance(key, slice):
            return self._image(int(key))
        chosen = np.arange(len(self))[key].tolist()
        images = np.zeros((len(chosen), *self.shape[1:]), np.uint8)
        for row, number in enumerate(chosen):
            images[row] = self._image(number)
        return images

    def _image(self, number: int) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._table[number]["image"])
        except OSError as error:
            raise ViewDatasetError(
                f"image {number} of {self._folder} cannot be read ({error}): remove its file and render again."
            ) from error


ViewImages: TypeAlias = "NDArray[np.uint8] | LazyImages"
"""``(n, size, size)`` uint8, in memory or on disk."""


@dataclass(frozen=True, eq=False)
class ViewArrays:
    """The views of one split.

    Attributes:
        images: ``(n, size, size)`` uint8, in memory or on disk.
        closest_landmarks: ``(n, 3)`` ids, nearest first; 0 where a patient has fewer landmarks.
        displacement_mm: ``(n, 14, 2)`` float32, NaN where the landmark is absent.
        visible: ``(n, 14)`` whether the landmark is in the image.
        isocenter_lps_mm: ``(n, 3)`` float32.
        patients: ``(n,)`` index of each view's patient in `names`.
        names: names of the patients.
        pixels: ``(n, 14, 2)`` float32, pixels ``(u, v)`` of the landmarks, NaN where absent.
    """

    images: ViewImages
    closest_landmarks: NDArray[np.int64]
    displacement_mm: NDArray[np.float32]
    visible: NDArray[np.bool_]
    isocenter_lps_mm: NDArray[np.float32]
    patients: NDArray[np.int64]
    names: tuple[str, ...]
    pixels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)


def read_views(folder: Path, split: str, lazily: bool | None = None, max_views: int | None = None) -> ViewArrays:
    """Reads a split; images in memory take one byte per pixel (51,200 views of 128 x 128 pixels: 0.8 GB).

    Args:
        folder: folder of `carm_env.views.write.write_view_dataset`.
        split: name of the split.
        lazily: leave the images on disk; by default if they have more than 256 pixels a side.
        max_views: read only the first views of the split, as for `write_view_dataset`.

    Raises:
        ViewDatasetError: the folder holds no dataset, has no such split, or a file is damaged.
        MissingExtraError: pyarrow, or datasets for images on disk, is not installed.
    """
    description = read_description(folder)
    files, size = description["files"], int(description["options"]["size"])
    lazily = size > _IN_MEMORY_PIXELS if lazily is None else lazily
    if not files.get(split):
        raise ViewDatasetError(f"{folder} has no split {split!r}, expected one of: {', '.join(files) or 'none'}.")
    paths: list[Path] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    missing = max_views
    for name in files[split]:
        if missing is not None and missing <= 0:
            break
        path = folder / "data" / split / name
        patient, labels, shown = _read_file(path, not lazily, missing, size)
        paths.append(path)
        parts.append((*labels, np.full(len(labels[0]), len(names))))
        names.append(patient)
        images += shown
        missing = None if missing is None else missing - len(labels[0])
    closest, displacement, visible, isocenters, pixels, patients = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    all_images = LazyImages(paths, size, len(patients)) if lazily else np.stack(images)
    return ViewArrays(all_images, closest, displacement, visible, isocenters, patients, tuple(names), pixels)


def _column(table: Any, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    values = np.array(table[name].to_pylist(), dtype)
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
    return values


def _read_file(
    path: Path, with_images: bool, max_rows: int | None, size: int
) -> tuple[str, tuple[NDArray[Any], ...], list[NDArray[np.uint8]]]:
    """Reads one patient's file.

    Returns:
        The patient's name; ids of the closest landmarks, displacements, visibility, isocentres and pixels; images.
    """
    from PIL import Image

    pa = import_pyarrow()
    try:
        stored = pa.parquet.read_schema(path).names
        columns = [name for name in stored if name != "image" or with_images]
        table = pa.parquet.read_table(path, columns=columns, page_checksum_verification=True).slice(0, max_rows)
        encoded = table["image"].to_pylist() if with_images else []
        images = [np.asarray(Image.open(io.BytesIO(item["bytes"]))) for item in encoded]
        if any(image.shape != (size, size) or image.dtype != np.uint8 for image in images):
            raise ValueError(f"an image is not grey or not {size} pixels wide and high")
        n = len(table)
        displacement = _column(table, "displacement_mm", np.float32, (n, N_LANDMARKS, 2))
        visible = _column(table, "visible", bool, (n, N_LANDMARKS))
        isocenters = _column(table, "isocenter_lps_mm", np.float32, (n, 3))
        pixels = _column(table, "pixels", np.float32, (n, N_LANDMARKS, 2))
        if not np.isfinite(isocenters).all() or np.isinf(displacement).any():
            raise ValueError("a position is not finite")
        closest = np.zeros((n, 3), np.int64)
        for number, ids in enumerate(table["closest_landmarks"].to_pylist()):
            closest[number, : len(ids)] = ids
        if closest.min() < 0 or closest.max() > N_LANDMARKS or (closest[:, 0] == 0).any():
            raise ValueError("a closest landmark does not exist")
        patient = str(table["patient"][0].as_py())
    except Exception as error:  # pyarrow and Pillow raise many kinds for a damaged file
        raise ViewDatasetError(f"{path} cannot be read ({error}): remove it and render again.") from error
    return patient, (closest, displacement, visible, isocenters, pixels), images
