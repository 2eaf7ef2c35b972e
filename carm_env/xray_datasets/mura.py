"""MURA, musculoskeletal radiographs of upper extremities, as Stanford ships them.

    MURA-v1.1/train/XR_ELBOW/patient00011/study1_negative/image1.png
    MURA-v1.1/valid/XR_WRIST/patient11185/study1_positive/image1.png

Each image has one label, the type of its study. Images of the humerus are left out, because it is none of the body
parts of `carm_env.body_parts`. Findings (positive, negative) are not read. The data are the user's to bring.

Source: Rajpurkar et al., "MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs" (2017).
"""

from __future__ import annotations

from pathlib import Path

from carm_env.body_parts import body_part_number
from carm_env.system.errors import UnknownNameError
from carm_env.xray_datasets.labelled import DatasetError, LabelledDataset, LabelledImage

KIND = "mura"
_ROOT = "MURA-v1.1"
_FOLDERS = ("train", "valid")
_PARTS = {
    "XR_ELBOW": "Elbow",
    "XR_FINGER": "Finger",
    "XR_FOREARM": "Forearm",
    "XR_HAND": "Hand",
    "XR_HUMERUS": None,
    "XR_SHOULDER": "Shoulder",
    "XR_WRIST": "Wrist",
}


def is_mura(folder: Path) -> bool:
    """Returns whether a folder is that of MURA or holds it."""
    return any(next((_root(folder) / name).glob("XR_*"), None) for name in _FOLDERS)


def _root(folder: Path) -> Path:
    return folder / _ROOT if (folder / _ROOT).is_dir() else folder


def read_mura(folder: Path) -> LabelledDataset:
    """Finds the images of both folders, ``train`` and ``valid``; the images themselves are not opened.

    Args:
        folder: ``MURA-v1.1``, or the folder that holds it.

    Raises:
        UnknownNameError: a folder ``XR_..`` of another name.
        DatasetError: there are no images.
    """
    root = _root(folder)
    images: list[LabelledImage] = []
    left_out = 0
    for part in sorted(path for name in _FOLDERS for path in (root / name).glob("XR_*")):
        if part.name not in _PARTS:
            raise UnknownNameError("study type of MURA", part.name, _PARTS)
        # macOS adds hidden files to archives.
        paths = [path for path in sorted(part.glob("patient*/study*/*.png")) if not path.name.startswith(".")]
        label = _PARTS[part.name]
        if label is None:
            left_out += len(paths)
            continue
        for path in paths:
            labels = (body_part_number(label),)
            images.append(LabelledImage(path.relative_to(root).as_posix(), path, labels, path.parts[-3]))
    if not images:
        raise DatasetError(
            f"{folder} holds no images of MURA, expected {_ROOT}/train/XR_ELBOW/patient00011/study1_negative/"
            "image1.png and the like: unpack the data again."
        )
    notes = [f"{left_out} images of the humerus were left out, which is none of the 22 body parts"] if left_out else []
    return LabelledDataset(KIND, tuple(images), tuple(notes))
