"""DeepLesion, CT slices with lesions and their boxes, as the NIH Clinical Center ships them.

    DL_info.csv                          File_name,Patient_index,..,Bounding_boxes,Coarse_lesion_type,..
    Images_png/000001_01_01/109.png      16 bits, Hounsfield units + 32768

Two tasks: the box of the lesion in slices with one lesion, and the region of the body that the lesion in a given box is
in. Lesions that the authors mark as possibly noisy, and for the second task those without a type, are left out. Slices
that are not in the folder are left out, too, as the data come in many parts. The slices of Key_slices are not read, as
boxes may be drawn into them. The data are the user's to bring.

Source: Yan et al., "DeepLesion: Automated deep mining, categorization and detection of significant radiology image
findings using large-scale clinical lesion annotations" (2017).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.language.answers import BOX_SCALE
from carm_env.language.image_tasks import ClassQuestion
from carm_env.medical_images.asked_images import AskedImage, box_of_pixels, open_image, windowed
from carm_env.system.csv_files import read_csv_rows
from carm_env.system.errors import shortened
from carm_env.xray_datasets.labelled import DatasetError

TABLE, IMAGES = "DL_info.csv", "Images_png"
COLUMNS = ("File_name", "Patient_index", "Bounding_boxes", "Coarse_lesion_type", "Possibly_noisy", "Image_size",
           "DICOM_windows", "Train_Val_Test")  # fmt: skip
REGIONS = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
"""Regions of the lesion types 1 to 8."""
_SPLITS = {"1": "train", "2": "validation", "3": "test"}
_PHRASE = "lesion"
_DATA_SET = "deeplesion"
_OFFSET_HU = 32768


def is_deep_lesion(folder: Path) -> bool:
    """Returns whether a folder holds the table of the lesions."""
    return (folder / TABLE).is_file()


def read_deep_lesion(folder: Path) -> tuple[AskedImage, ...]:
    """Reads the lesions of a folder; the images are not opened.

    Raises:
        CsvFileError: the table cannot be read or lacks a column.
        DatasetError: a row contradicts the layout, or none of the slices is there.
    """
    rows = read_csv_rows(folder / TABLE, COLUMNS)
    lesions = Counter(row["File_name"] for row in rows)
    found = tuple(
        image for number, row in enumerate(rows, 1)
        for image in _of_row(folder, f"{TABLE}, row {number}", row, lesions[row["File_name"]] == 1)
    )  # fmt: skip
    if not found:
        raise DatasetError(
            f"{folder} holds none of the {len(lesions)} slices of {TABLE}: unpack {IMAGES}/ "
            "there. Key_slices/ is not read, as boxes may be drawn into its images."
        )
    return found


def _of_row(folder: Path, where: str, row: Mapping[str, str], is_single: bool) -> Iterator[AskedImage]:
    name = row["File_name"]
    series, underscore, slice_name = name.rpartition("_")
    if (
        not underscore
        or series in ("", ".", "..")
        or Path(name).name != name
        or "\\" in name
        or Path(name).suffix != ".png"
    ):
        raise DatasetError(
            f"{where}: File_name is {shortened(name)}, expected a name without folders such as 000001_01_01_109.png."
        )
    if row["Train_Val_Test"] not in _SPLITS:
        raise DatasetError(f"{where}: Train_Val_Test is {shortened(row['Train_Val_Test'])}, expected 1, 2 or 3.")
    (kind,) = _numbers(where, row, "Coarse_lesion_type", 1)
    if kind != -1 and kind not in range(1, len(REGIONS) + 1):
        raise DatasetError(f"{where}: Coarse_lesion_type is {kind:g}, expected 1 to {len(REGIONS)}, or -1 for none.")
    (noisy,) = _numbers(where, row, "Possibly_noisy", 1)
    left, top, right, bottom = _numbers(where, row, "Bounding_boxes", 4)
    width, height = _numbers(where, row, "Image_size", 2)
    low, high = _numbers(where, row, "DICOM_windows", 2)
    if not low < high:
        raise DatasetError(f"{where}: DICOM_windows is {low:g}, {high:g}, expected a lower and a higher value.")
    box = box_of_pixels((left, top, right, bottom), (int(width), int(height)), where)
    path = folder / IMAGES / series / slice_name
    if noisy or not path.is_file():
        return
    load, patient, split = partial(_slice, path, low, high), row["Patient_index"], _SPLITS[row["Train_Val_Test"]]
    if is_single:
        yield AskedImage(name, patient, split, "deeplesion_box", load, phrase=_PHRASE, box=box, data_set=_DATA_SET)
    if kind != -1:
        corners = ",".join(str(round(BOX_SCALE * value)) for value in box)
        text = f"Which region of the body is the lesion in the box [{corners}] of this CT slice in?"
        question = ClassQuestion(text, REGIONS)
        yield AskedImage(name, patient, split, "deeplesion_region", load, question, int(kind) - 1, data_set=_DATA_SET)


def _numbers(where: str, row: Mapping[str, str], column: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in row[column].split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DatasetError(f"{where}: {column} is {shortened(row[column])}, expected {count} number(s).")
    return numbers


def _slice(path: Path, low: float, high: float) -> NDArray[np.uint8]:
    values = np.asarray(open_image(path))
    if values.ndim != 2:
        raise DatasetError(f"{path} is a colour image, expected a CT slice of grey values: copy it again.")
    return values if values.dtype == np.uint8 else windowed(values.astype(np.int64) - _OFFSET_HU, low, high)
