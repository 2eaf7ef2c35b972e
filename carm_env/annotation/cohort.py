"""The progress of one person through a cohort of CTs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carm_env.annotation.files import find_annotation
from carm_env.landmarks import N_LANDMARKS

Status = Literal["not begun", "begun", "all seen", "finished"]


@dataclass(frozen=True)
class Progress:
    """How far the annotation of one CT is.

    Attributes:
        patient: full name of the patient.
        placed: number of placed landmarks.
        na: number of landmarks marked as NA.
        finished: whether the person declared the CT finished.
        saved: date and time (UTC) of the last change; empty if there is none.
    """

    patient: str
    placed: int = 0
    na: int = 0
    finished: bool = False
    saved: str = ""

    @property
    def open(self) -> int:
        """Number of landmarks that are still open."""
        return N_LANDMARKS - self.placed - self.na

    @property
    def status(self) -> Status:
        """The state of the CT in words."""
        if self.finished:
            return "finished"
        if not self.saved:
            return "not begun"
        return "begun" if self.open else "all seen"


def cohort_progress(folder: Path, patients: Sequence[str], annotator: str) -> list[Progress]:
    """Returns the progress of a person in each patient, in their order.

    Args:
        folder: folder of annotations.
        patients: full names of the patients.
        annotator: name of the person.

    Raises:
        AnnotationError: a file is not an annotation.
    """
    rows = []
    for patient in patients:
        record = find_annotation(folder, patient, annotator)
        if record is None:
            rows.append(Progress(patient))
        else:
            placed, absent = len(record.ids("placed")), len(record.ids("na"))
            rows.append(Progress(patient, placed, absent, record.finished, record.saved))
    return rows


def next_patient(rows: Sequence[Progress]) -> str | None:
    """Returns the first patient that is not finished; None if all are.

    >>> next_patient([Progress("imported:a", 14, 0, True, "2026-01-01"), Progress("imported:b")])
    'imported:b'
    """
    return next((row.patient for row in rows if not row.finished), None)


def progress_table(rows: Sequence[Progress]) -> str:
    """Returns the progress as a Markdown table, with the sum below it."""
    lines = ["| patient | status | placed | NA | open | last change (UTC) |", "|---|---|---|---|---|---|"]
    lines += [f"| {row.patient} | {row.status} | {row.placed} | {row.na} | {row.open} | {row.saved} |" for row in rows]
    done = sum(row.finished for row in rows)
    seen = sum(row.placed + row.na for row in rows)
    return "\n".join(
        [*lines, "", f"{done} of {len(rows)} CTs finished, {seen} of {N_LANDMARKS * len(rows)} landmarks."]
    )
