"""Annotations as files that other programs and ``carm-env import --landmarks`` read.

| format | suffix | content |
|---|---|---|
| ``slicer`` | ``.mrk.json`` | 3D Slicer markups in LPS mm, with depth; NA and open landmarks are undefined |
| ``paper`` | ``.csv`` | the columns of the paper, without depth: ``x_ct`` caudally and ``y_ct`` to the patient's left, in mm from the centre of the CT; NA landmarks have NA |
"""  # noqa: E501

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

from carm_env.annotation.records import AnnotationError, AnnotationRecord, volume_digest
from carm_env.ct.landmark_files import write_landmarks
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import write_text
from carm_env.volume import Volume

ExportFormat = Literal["slicer", "paper"]
SUFFIXES: dict[ExportFormat, str] = {"slicer": ".mrk.json", "paper": ".csv"}
PAPER_COLUMNS = ("landmark", "x_ct", "y_ct", "case_number")
_DECIMALS = 4


def export_annotation(
    path: Path, record: AnnotationRecord, volume: Volume, kind: ExportFormat, case: str | None = None
) -> None:
    """Writes an annotation to a file, atomically.

    Args:
        path: the file, with the suffix of its format.
        record: the annotation.
        volume: the annotated CT.
        kind: ``"slicer"`` or ``"paper"``.
        case: case number in the paper's format; None for the patient's name.

    Raises:
        UnknownNameError: an unknown format.
        AnnotationError: another suffix, another CT, or no landmark is placed.
    """
    if kind not in SUFFIXES:
        raise UnknownNameError("format", kind, SUFFIXES)
    if not str(path).lower().endswith(SUFFIXES[kind]):
        raise AnnotationError(f"{path} has another suffix, expected {SUFFIXES[kind]} for format {kind}.")
    if volume_digest(volume) != record.volume_digest:
        raise AnnotationError(f"the annotation of {record.patient} is of another version of its CT, export that one.")
    if not record.ids("placed"):
        raise AnnotationError(f"{record.annotator} has placed no landmark of {record.patient}, so nothing is exported.")
    if kind == "slicer":
        write_landmarks(path, record.points_lps_mm)
    else:
        write_text(path, paper_csv(record, volume, case))


def paper_csv(record: AnnotationRecord, volume: Volume, case: str | None = None) -> str:
    """Returns the table of the paper's format; open landmarks are omitted.

    Args:
        record: the annotation.
        volume: the annotated CT, whose centre is the origin.
        case: case number; None for the patient's name.
    """
    first, last = volume.corners_lps_mm
    centre = (first + last) / 2
    points = record.points_lps_mm
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(PAPER_COLUMNS)
    for key in sorted([*record.ids("placed"), *record.ids("na")]):
        values: list[object] = ["NA", "NA"]
        if key in points:
            left, _, cranial = points[key] - centre
            values = [round(float(-cranial), _DECIMALS), round(float(left), _DECIMALS)]
        table.writerow([key, *values, case or record.patient])
    return file.getvalue()
