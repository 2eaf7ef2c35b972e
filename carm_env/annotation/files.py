"""Annotations on disk: one JSON file per CT and annotator, replaced atomically at every change.

    FOLDER/imported-thorax-1a2b3c4d/reader-1.json

The folder is by default ``annotations`` in the data folder (`carm_env.system.files.data_dir`).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from carm_env.annotation.records import AnnotationError, AnnotationRecord
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import content_hash, data_dir, explain_full_disk, write_json
from carm_env.system.leftovers import lock_path
from carm_env.system.locks import lock
from carm_env.system.person_names import check_person_name
from carm_env.system.structured_files import read_json

_NAME_CHARACTERS, _HASH_DIGITS = 40, 8


class AnnotationConflictError(CArmEnvError, RuntimeError):
    """Another window or click has changed the same annotation in the meantime."""


def annotations_folder() -> Path:
    """Returns the default folder of annotations, whether or not it exists."""
    return data_dir() / "annotations"


def annotation_path(folder: Path, patient: str, annotator: str) -> Path:
    """Returns the file of an annotation; different patients have different files, on every file system.

    Args:
        folder: folder of annotations.
        patient: full name of the patient, such as ``imported:thorax``.
        annotator: name of the person.

    Raises:
        ValueError: the annotator's name has other characters than letters, digits, hyphens and underscores.

    >>> annotation_path(Path("a"), "imported:thorax", "reader-1").as_posix()
    'a/imported-thorax-e7cbc895/reader-1.json'
    """
    plain = re.sub("[^a-z0-9]+", "-", patient.lower())[-_NAME_CHARACTERS:].strip("-")
    name = f"{plain}-{content_hash(patient)[:_HASH_DIGITS]}"
    return folder / name / f"{check_person_name('annotator', annotator)}.json"


def read_annotation(path: Path) -> AnnotationRecord:
    """Reads an annotation.

    Raises:
        FileNotFoundError: the file does not exist.
        AnnotationError: the file is not an annotation.
        StructuredFileError: the file is not valid JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no annotation {path}: `carm-env annotations progress` shows who has annotated which CT."
        )
    return AnnotationRecord.from_json(read_json(path), str(path))


def find_annotation(folder: Path, patient: str, annotator: str) -> AnnotationRecord | None:
    """Returns the annotation of a patient by a person; None if there is none yet; raises as `read_annotation` does."""
    path = annotation_path(folder, patient, annotator)
    return read_annotation(path) if path.exists() else None


def annotations_by(folder: Path, annotator: str) -> Iterator[AnnotationRecord]:
    """Yields all annotations of a person, in the order of the patients' names.

    Raises:
        AnnotationError: a file is not an annotation.
        ValueError: the annotator's name has other characters than letters, digits, hyphens and underscores.
    """
    name = f"{check_person_name('annotator', annotator)}.json"
    found = [read_annotation(path) for path in folder.glob(f"*/{name}")] if folder.is_dir() else []
    yield from sorted(found, key=lambda record: record.patient)


def annotators(folder: Path) -> list[str]:
    """Returns the names of all people with an annotation in a folder, sorted."""
    return sorted({path.stem for path in folder.glob("*/*.json") if not path.name.startswith(".")})


def save_annotation(folder: Path, record: AnnotationRecord) -> AnnotationRecord:
    """Saves a changed record atomically: a kill leaves the earlier file or the complete new one.

    Args:
        folder: folder of annotations.
        record: the record, with the revision that it had when it was read.

    Returns:
        The record with its new revision and date.

    Raises:
        AnnotationConflictError: the file has another revision: another window has changed it.
        DiskFullError: the disk is full; the earlier file is unchanged.
    """
    path = annotation_path(folder, record.patient, record.annotator)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No other writer comes between the comparison and the new file; `write_json` has a lock of its own.
    with explain_full_disk(path), lock(lock_path(path, "revision")):
        on_disk = read_annotation(path).revision if path.exists() else 0
        if on_disk != record.revision:
            raise AnnotationConflictError(
                f"the annotation of {record.patient} by {record.annotator} was changed in another window (revision "
                f"{on_disk}, expected {record.revision}): close one of the windows and reload the other."
            )
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        saved = replace(record, revision=record.revision + 1, saved=now)
        write_json(path, saved.to_json())
    return saved


def open_annotation(folder: Path, patient: str, digest: str, annotator: str) -> AnnotationRecord:
    """Returns the annotation to continue, or a new one that is not saved yet.

    Raises:
        AnnotationError: the annotation is of another version of the CT.
    """
    found = find_annotation(folder, patient, annotator)
    if found is None:
        return AnnotationRecord(patient, digest, check_person_name("annotator", annotator))
    if found.volume_digest != digest:
        path = annotation_path(folder, patient, annotator)
        raise AnnotationError(
            f"{path} is of another version of the CT of {patient} (digest {found.volume_digest}, expected {digest}): "
            "it was imported again with other settings. Move the file away, or annotate under another name."
        )
    return found
