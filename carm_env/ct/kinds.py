"""Which files may be CTs; asked for every patient's name, so nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
ARCHIVE_SUFFIXES = (".zip",)


def is_image(path: str | Path) -> bool:
    """Whether a file's name ends in one of `IMAGE_SUFFIXES`."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_ct(path: str | Path) -> bool:
    """Whether `path` may be a CT: a folder, or a file of a kind that can be read, by its name or its first bytes."""
    place = Path(path)
    if is_image(place) or place.suffix.lower() in (*DICOM_SUFFIXES, *ARCHIVE_SUFFIXES) or place.is_dir():
        return True
    try:
        with place.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
