"""Data sets of labelled X-rays in the layouts of UNIFESP, MURA and FleXray, with drawings for images."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from carm_env.body_parts import N_BODY_PARTS
from carm_env.system.structured_files import dump_yaml

SIDE = 64
_COMPANIONS = {9: 21, 13: 20, 0: 3}
"""Labels that images have together, as hands and wrists are seen together."""


def drawing(labels: tuple[int, ...], rng: np.random.Generator, height: int = SIDE) -> np.ndarray:
    """A bright square for each label, at a place of its own on a grid of 5 x 5, on a dark ground; uint16."""
    image = rng.normal(400, 60, (height, SIDE))
    for label in labels:
        row, column = divmod(label, 5)
        top, left = (int(number) for number in np.array([row * height, column * SIDE]) // 5 + rng.integers(0, 3, 2))
        image[top : top + height // 6, left : left + SIDE // 6] = 3000
    return np.clip(image, 0, 4095).astype(np.uint16)


def write_dicom(path: Path, values: np.ndarray, uid: str, photometric: str = "MONOCHROME2") -> Path:
    import pydicom

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.Modality, data.PatientName, data.PatientID = "CR", "Doe^Jane", "P-77"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.Rows, data.Columns = values.shape
    data.PixelData = (4095 - values if photometric == "MONOCHROME1" else values).astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def uid_of(patient: int, image: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.{1000 + patient}{image}"


def write_unifesp(folder: Path, patients: int = 66, images: int = 2) -> dict[str, tuple[int, ...]]:
    """Writes DICOM files and ``train.csv`` as Kaggle ships them; returns the labels of each image by its UID.

    All 22 labels occur from 22 patients on. Every other image is MONOCHROME1.
    """
    rng = np.random.default_rng(0)
    labels = {}
    for patient in range(patients):
        for image in range(images):
            first = patient % N_BODY_PARTS
            both = (first, _COMPANIONS[first]) if image and first in _COMPANIONS else (first,)
            uid = uid_of(patient, image)
            labels[uid] = tuple(sorted(both))
            path = folder / "train" / str(1000 + patient) / f"1.2.3.{patient}" / f"1.2.4.{image}" / f"{uid}-c.dcm"
            write_dicom(path, drawing(both, rng), uid, f"MONOCHROME{1 + image % 2}")
    write_table(folder, [(uid, " ".join(map(str, numbers)) + " ") for uid, numbers in labels.items()])
    return labels


def write_table(folder: Path, rows, columns=("SOPInstanceUID", "Target"), name="train.csv") -> Path:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return folder / name


def write_mura(folder: Path, patients: int = 4) -> Path:
    """Writes the folders of MURA with one study of each type for each patient, two images each."""
    rng = np.random.default_rng(0)
    for patient in range(patients):
        split = "valid" if patient == patients - 1 else "train"
        for part, label in (("ELBOW", 5), ("HUMERUS", 14), ("WRIST", 21)):
            study = folder / "MURA-v1.1" / split / f"XR_{part}" / f"patient{patient:05}" / "study1_positive"
            study.mkdir(parents=True)
            for number in (1, 2):
                grey = (drawing((label,), rng, 320) // 16).astype(np.uint8)
                Image.fromarray(grey).convert("RGB").save(study / f"image{number}.png")
            (study / "._image1.png").write_bytes(b"\0")
    return folder


STRUCTURES = ("lungs", "heart", "humeri", "ulnae")


def write_flexray(folder: Path, patients: int = 6, channels: bool = False, kind: str = ".png", **changes) -> Path:
    """Writes X-rays and masks of `STRUCTURES` in FleXray's layout, two images of each patient.

    The patients show in turn the lungs, the lungs and the heart, the humeri with the ulnae, and the humeri alone.

    Args:
        folder: where to write.
        patients: number of patients.
        channels: masks with a channel for each structure, instead of ids.
        kind: suffix of the images and of masks of ids.
        changes: other values of keys of the manifest; None removes a key.
    """
    rng = np.random.default_rng(0)
    shown = ((0,), (0, 1), (2, 3), (2,))
    samples = []
    for patient in range(patients):
        for number in range(2):
            name, numbers = f"p{patient}-{number}", shown[patient % len(shown)]
            mask = np.zeros((len(STRUCTURES), SIDE, SIDE), bool)
            for structure in numbers:
                mask[structure, 16 * structure : 16 * structure + 8, 8:40] = True
            image = np.clip(rng.normal(60, 10, (SIDE, SIDE)) + 120 * mask.any(0), 0, 255).astype(np.uint8)
            ids = (mask * np.arange(1, len(STRUCTURES) + 1)[:, None, None]).max(0).astype(np.uint8)
            mask_kind = ".npy" if channels else ".png" if kind == ".jpg" else kind
            save_array(folder / "images" / f"{name}{kind}", image)
            save_array(folder / "masks" / f"{name}{mask_kind}", mask.astype(np.float32) if channels else ids)
            samples.append(
                {
                    "sample_id": name,
                    "subject_id": f"p{patient}",
                    "split": "val" if patient == patients - 1 else "train",
                    "image": f"images/{name}{kind}",
                    "label": f"masks/{name}{mask_kind}",
                    "metadata": {"view": "PA"},
                }
            )
    names = {"label_names": list(STRUCTURES), "protocol_name": "all_structures_flexray_v4"}
    manifest = {
        "schema_version": 1,
        "dataset_name": "Drawings",
        "dataset_type": "xray-seg",
        **(names if channels else {"stored_labels": dict(enumerate(("background", *STRUCTURES)))}),
        "samples": samples,
        **changes,
    }
    write_manifest(folder, {key: value for key, value in manifest.items() if value is not None})
    return folder


def write_manifest(folder: Path, manifest: dict) -> None:
    (folder / "dataset.yml").write_text(dump_yaml(manifest), encoding="utf-8")


def save_array(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
