"""Small files in the layouts of MedMNIST, DeepLesion and PolypSet."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

LESION_COLUMNS = ("File_name", "Patient_index", "Bounding_boxes", "Coarse_lesion_type", "Possibly_noisy", "Image_size",
                  "DICOM_windows", "Train_Val_Test")  # fmt: skip


def write_medmnist(
    path: Path, classes: int = 2, colours: bool = False, counts=(8, 2, 4), about=None, **changes
) -> Path:
    """Writes a file whose images have their class as grey value; `changes` replace arrays, or remove them with None."""
    arrays = {}
    for prefix, count in zip(("train", "val", "test"), counts, strict=True):
        labels = np.arange(count, dtype=np.uint8)[:, None] % classes
        images = np.zeros((count, 28, 28, 3) if colours else (count, 28, 28), np.uint8)
        images[:] = (40 * labels + 20).reshape(-1, *[1] * (images.ndim - 1))
        arrays |= {f"{prefix}_images": images, f"{prefix}_labels": labels}
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    if about is not None:
        path.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
    return path


def lesion_row(number: int, **changes) -> dict[str, str]:
    row = {
        "File_name": f"{number:06}_01_01_{100 + number}.png", "Patient_index": str(number),
        "Bounding_boxes": "128.0, 64.0, 256.0, 192.0", "Coarse_lesion_type": str(number % 8 + 1), "Possibly_noisy": "0",
        "Image_size": "512, 512", "DICOM_windows": "-1350, 150", "Train_Val_Test": str(min(1 + number // 3, 3)),
    }  # fmt: skip
    return {**row, **changes}


def write_deep_lesion(folder: Path, rows=None, images: bool = True) -> Path:
    rows = [lesion_row(number) for number in range(9)] if rows is None else rows
    with (folder / "DL_info.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, LESION_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for row in rows if images else ():
        series, _, name = row["File_name"].rpartition("_")
        path = folder / "Images_png" / series / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.full((512, 512), 32768 - 600, np.uint16)
        values[64:192, 128:256] = 32768 + 150
        Image.fromarray(values).save(path)
    return folder


def polyp_xml(name: str = "adenomatous", box=(10, 20, 50, 60), size=(100, 80), objects: int = 1) -> str:
    one = (
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{one * objects}</annotation>"


def write_polyp_set(folder: Path, **changes) -> Path:
    """Writes two frames for training, and sequences of two frames for validation and tests.

    Args:
        folder: the folder.
        **changes: name of a file without suffix, such as ``train2019/1`` -> another text of its annotation.
    """
    sequences = [f"{part}2019/{sequence}/{frame}" for part, sequence in (("val", 3), ("test", 4)) for frame in (1, 2)]
    names = ["train2019/1", "train2019/2", *sequences]
    for number, name in enumerate(names):
        split, rest = name.split("/", 1)
        xml, image = folder / split / "Annotation" / f"{rest}.xml", folder / split / "Image" / f"{rest}.jpg"
        for path in (xml, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        kind = ("adenomatous", "hyperplastic")[number % 2]
        xml.write_text(changes.get(name, polyp_xml(kind)), encoding="utf-8")
        Image.new("RGB", (100, 80), (180, 60 + number, 60)).save(image)
    return folder
