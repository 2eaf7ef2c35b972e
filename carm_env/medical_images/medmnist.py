"""Images in the layout of MedMNIST: one ``.npz`` file with images and labels of the splits train, val and test.

    breastmnist.npz, breastmnist_224.npz    train_images (n, s, s) or (n, s, s, 3) uint8, train_labels (n, 1), ..

The file name says which set of the package ``medmnist`` it is. A file of another name has a JSON file of the same name
beside it, with ``question`` and ``classes``. Besides, ``train_boxes`` and the like, ``(n, 4)`` pixels (left, top,
right, bottom), ask for a box; the JSON file then has ``phrase``. Sets with several labels per image, such as
ChestMNIST, are refused. The data are the user's to bring.

Source: Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification",
Scientific Data 10 (2023).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.language.image_tasks import ClassQuestion
from carm_env.medical_images.asked_images import AskedImage, box_of_pixels
from carm_env.system.errors import shortened
from carm_env.system.memory import check_memory
from carm_env.system.structured_files import read_json_mapping, read_yaml_mapping
from carm_env.xray_datasets.labelled import DatasetError

SUFFIX = ".npz"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@cache
def known_questions() -> dict[str, ClassQuestion]:
    """Returns the questions about the sets of the package medmnist, by name."""
    read = read_yaml_mapping(Path(__file__).with_name("medmnist.yaml"))
    return {name: ClassQuestion(about["question"], tuple(about["classes"])) for name, about in read.items()}


def read_medmnist(path: Path) -> tuple[AskedImage, ...]:
    """Reads all splits of a file.

    Raises:
        DatasetError: the file is damaged or not in this layout, an array has another shape or type, a label is not the
            number of a class, or nothing says what the classes are.
        MemoryError: the images do not fit.
    """
    arrays = _arrays(path)
    question, phrase = _about(path, any(name.endswith("_boxes") for name in arrays))
    found = tuple(image for prefix in _SPLITS for image in _split(path, prefix, arrays, question, phrase))
    if not found:
        raise DatasetError(f"{path} holds no image, expected arrays such as train_images and train_labels.")
    return found


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    wanted = {f"{prefix}_{part}" for prefix in _SPLITS for part in ("images", "labels", "boxes")}
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(item.file_size for item in packed.infolist())
        check_memory(f"the arrays of {path.name}", size, "Take a smaller file, such as 28 x 28 pixels.")
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files if name in wanted}
    except MemoryError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        reason = " ".join(str(error).split())[:120]
        raise DatasetError(f"{path} cannot be read as a .npz file ({reason}): copy or fetch it again.") from error


def _about(path: Path, has_boxes: bool) -> tuple[ClassQuestion | None, str]:
    """Returns the question about classes and the phrase of boxes of a file."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        name = path.stem.split("_")[0].lower()
        if name in known_questions() and not has_boxes:
            return known_questions()[name], ""
        raise DatasetError(
            f"{path} has no file {beside.name} beside it, expected one with the question and the names of the classes, "
            f"or with the phrase of its boxes. Without one the name is one of: {', '.join(known_questions())}."
        )
    try:
        about = read_json_mapping(beside)
        question = None
        if "question" in about:
            question = ClassQuestion(str(about["question"]), tuple(map(str, about["classes"])))
        phrase = str(about.get("phrase", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{beside} cannot be used ({shortened(error)}), expected question and classes, or phrase."
        ) from error
    if question is None and not has_boxes:
        raise DatasetError(f"{beside} has no question, expected the question and the names of the classes.")
    if has_boxes and not phrase:
        raise DatasetError(f"{beside} has no phrase, expected what the boxes of {path.name} are about.")
    return question, phrase


def _split(
    path: Path, prefix: str, arrays: Mapping[str, NDArray[Any]], question: ClassQuestion | None, phrase: str
) -> Iterator[AskedImage]:
    images = arrays.get(f"{prefix}_images")
    if images is None:
        return
    # The package writes breastmnist_224; a file of one's own may have any name.
    where, task = (
        f"{path.name}, {prefix}",
        path.stem if path.with_suffix(".json").is_file() else path.stem.split("_")[0],
    )
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if not is_image or images.dtype != np.uint8 or 0 in images.shape:
        raise DatasetError(
            f"{where}_images is {images.dtype} {images.shape}, expected uint8 (n, s, s) or (n, s, s, 3): take the sets "
            "of two-dimensional images."
        )
    if question is not None:
        for number, label in enumerate(_labels(where, arrays.get(f"{prefix}_labels"), len(images))):
            yield AskedImage(
                f"{where} {number}", f"{prefix} {number}", _SPLITS[prefix], task, partial(_image, images, number),
                question, label, data_set=path.stem,
            )  # fmt: skip
    for number, corners in enumerate(_boxes(where, arrays.get(f"{prefix}_boxes"), len(images))):
        size = images.shape[2], images.shape[1]
        yield AskedImage(
            f"{where} {number}", f"{prefix} {number}", _SPLITS[prefix], f"{task}_box", partial(_image, images, number),
            phrase=phrase, box=box_of_pixels(corners, size, f"{where}_boxes, row {number}"), data_set=path.stem,
        )  # fmt: skip


def _image(images: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    return images[number]


def _labels(where: str, labels: NDArray[Any] | None, count: int) -> list[int]:
    if labels is None or labels.shape not in ((count,), (count, 1)) or not np.issubdtype(labels.dtype, np.integer):
        got = "missing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise DatasetError(
            f"{where}_labels is {got}, expected integers ({count}, 1): sets with several labels per image are not "
            "supported."
        )
    return [int(label) for label in labels.reshape(-1)]


def _boxes(where: str, boxes: NDArray[Any] | None, count: int) -> list[tuple[float, float, float, float]]:
    if boxes is None:
        return []
    if boxes.shape != (count, 4) or not np.issubdtype(boxes.dtype, np.number) or not np.isfinite(boxes).all():
        raise DatasetError(
            f"{where}_boxes is {boxes.dtype} {boxes.shape}, expected finite numbers ({count}, 4): left, top, right, "
            "bottom."
        )
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in boxes]
