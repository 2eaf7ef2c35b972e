"""The UNIFESP X-ray body part data as Kaggle ships them: DICOM files in folders, and ``train.csv``.

    train.csv                                           SOPInstanceUID,Target
    train/PATIENT/STUDY_UID/SERIES_UID/SOP_UID-c.dcm
    test/..                                             without labels, not read

``Target`` is a list of label numbers, separated by spaces. The folders below ``train`` tell the patient. In some copies
of the data the images are PNG or JPEG files in one folder: then nothing tells the patients, and each image counts as
one. The data are the user's to bring.

Source: kaggle.com/datasets/felipekitamura/unifesp-xray-bodypart-classification and the competition of the same data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from carm_env.body_parts import N_BODY_PARTS
from carm_env.system.csv_files import read_csv_rows
from carm_env.system.errors import shortened
from carm_env.xray_datasets.labelled import DatasetError, LabelledDataset, LabelledImage

KIND = "unifesp"
TABLE = "train.csv"
_FOLDER = "train"
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_FILE = re.compile(r"([0-9.]+)(?:-c)?\.(?:dcm|dicom|ima|png|jpe?g)", re.IGNORECASE)
_MAX_UID_CHARACTERS = 64


def is_unifesp(folder: Path) -> bool:
    """Returns whether a folder holds the table of the data."""
    return (folder / TABLE).is_file()


def read_unifesp(folder: Path) -> LabelledDataset:
    """Reads the table and finds the image of each row; the images themselves are not opened.

    Where several files have the name of one image, the first one is taken, and the patients in whose folders they lie
    count as one. (A copy of the data with 1,740 files for 1,738 rows is known.)

    Args:
        folder: folder with ``train.csv``.

    Raises:
        CsvFileError: ``train.csv`` lacks a column or cannot be read.
        DatasetError: the table is empty, a UID is none or is in two rows, a label is unknown or absent, or an image is
            missing.
    """
    labels = _read_table(folder / TABLE)
    root = folder
    while (root / _FOLDER).is_dir():
        root /= _FOLDER
    files = _find_files(root)
    missing = [uid for uid in labels if uid not in files]
    if missing:
        raise DatasetError(
            f"{folder}: {len(missing)} of {len(labels)} images of {TABLE} are missing, such as {missing[0]}: unpack "
            f"the data again, or remove these rows. Expected {_FOLDER}/PATIENT/STUDY/SERIES/{missing[0]}-c.dcm."
        )
    patients = _merged_patients(root, [files[uid] for uid in labels])
    images = tuple(
        LabelledImage(uid, files[uid][0], labels[uid], patients[_patient(root, files[uid][0])])
        for uid in sorted(labels)
    )
    return LabelledDataset(KIND, images, tuple(_notes(root, labels, files)))


def _read_table(path: Path) -> dict[str, tuple[int, ...]]:
    labels: dict[str, tuple[int, ...]] = {}
    for number, row in enumerate(read_csv_rows(path, ("SOPInstanceUID", "Target")), 1):
        where, uid = f"{path}, row {number}", row["SOPInstanceUID"].strip()
        if not _UID.fullmatch(uid) or len(uid) > _MAX_UID_CHARACTERS:
            raise DatasetError(
                f"{where}: SOPInstanceUID is {shortened(uid)}, expected a DICOM UID: numbers separated by points, at "
                f"most {_MAX_UID_CHARACTERS} characters, without a path."
            )
        if uid in labels:
            raise DatasetError(f"{where}: {uid} is in an earlier row, too: remove one of the rows.")
        labels[uid] = _read_target(where, row["Target"])
    if not labels:
        raise DatasetError(f"{path} holds no row, expected one for each image: copy it again.")
    return labels


def _read_target(where: str, target: str) -> tuple[int, ...]:
    words = target.split()
    if not words:
        raise DatasetError(f"{where}: Target is empty, expected at least one label: remove the row.")
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 3 and int(word) < N_BODY_PARTS):
            raise DatasetError(
                f"{where}: Target is {shortened(target)}, expected numbers from 0 to {N_BODY_PARTS - 1}, separated by "
                "spaces."
            )
    numbers = sorted(map(int, words))
    if len(set(numbers)) < len(numbers):
        raise DatasetError(f"{where}: Target is {shortened(target)}, which repeats a label: name it once.")
    return tuple(numbers)


def _find_files(root: Path) -> dict[str, list[Path]]:
    """Returns the image files below a folder by the UID in their names, ordered; hidden ones are passed over."""
    found: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if match := _FILE.fullmatch(name):
                found.setdefault(match[1], []).append(Path(parent, name))
    return found


def _patient(root: Path, path: Path) -> str:
    """Returns the first folder on the way to an image; for an image without a folder its name."""
    return path.relative_to(root).parts[0]


def _merged_patients(root: Path, files: Sequence[Sequence[Path]]) -> dict[str, str]:
    """Maps each patient to a name that patients with an image in common share."""
    names: dict[str, str] = {}

    def name_of(patient: str) -> str:
        while names.setdefault(patient, patient) != patient:
            patient = names[patient]
        return patient

    for paths in files:
        first, *others = (name_of(_patient(root, path)) for path in paths)
        for other in others:
            names[name_of(other)] = name_of(first)
    return {patient: name_of(patient) for patient in names}


def _notes(root: Path, labels: Mapping[str, object], files: Mapping[str, Sequence[Path]]) -> list[str]:
    notes = []
    repeated = [uid for uid in labels if len(files[uid]) > 1]
    if repeated:
        notes.append(f"{len(repeated)} images have several files, of which the first was taken, such as {repeated[0]}")
    if unlabelled := len(files.keys() - labels.keys()):
        notes.append(f"{unlabelled} images without a row in {TABLE} were left out")
    if any(files[uid][0].parent == root for uid in labels):
        notes.append("the folders do not tell patients: each image outside of them counts as one")
    return notes
