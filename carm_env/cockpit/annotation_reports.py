"""What the annotation page shows of several annotations: progress, agreement and files to download."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from carm_env.annotation.agreement import disagreement, disagreement_json
from carm_env.annotation.cohort import cohort_progress, next_patient
from carm_env.annotation.export import SUFFIXES, ExportFormat, export_annotation
from carm_env.annotation.files import annotation_path, annotations_by, annotators, read_annotation
from carm_env.cockpit.offers import patient_ref
from carm_env.landmarks import N_LANDMARKS
from carm_env.patient_store import IMPORTED, imported_names
from carm_env.patients.catalogue import load_patient
from carm_env.patients.cohorts import cohort_patients, is_cohort_reference
from carm_env.system.errors import UnknownNameError
from carm_env.system.person_names import check_person_name

MAX_PATIENTS = 1000
"""Patients of a cohort whose progress is shown."""


def progress(folder: Path, annotator: str, cohort: str) -> dict[str, Any]:
    """Returns the progress of a person through a cohort, the next patient, and the names of all annotators.

    Args:
        folder: folder of annotations.
        annotator: name of the person; empty for nobody yet.
        cohort: a cohort or a split, such as ``standard/test``; empty for all imported patients.

    Raises:
        ValueError: the name has other characters than a pseudonym, or there is no such cohort.
    """
    if cohort and not is_cohort_reference(cohort):
        # A path would name a file of the server.
        raise UnknownNameError("cohort", cohort, ["standard", "standard/test"])
    patients = cohort_patients(cohort) if cohort else tuple(f"{IMPORTED}:{name}" for name in imported_names())
    known = annotators(folder)
    if not annotator:
        return {"rows": [], "patients": len(patients), "next": next(iter(patients), None), "annotators": known}
    rows = cohort_progress(folder, patients[:MAX_PATIENTS], check_person_name("annotator", annotator))
    return {
        "rows": [
            {"patient": row.patient, "status": row.status, "placed": row.placed, "na": row.na, "saved": row.saved}
            for row in rows
        ],
        "patients": len(patients),
        "finished": sum(row.finished for row in rows),
        "seen": sum(row.placed + row.na for row in rows),
        "landmarks": N_LANDMARKS * len(rows),
        "next": next_patient(rows),
        "annotators": known,
    }


def agreement(folder: Path, first: str, second: str) -> dict[str, Any]:
    """Returns how far two people disagree, in mm per landmark (`carm_env.annotation.agreement`).

    Raises:
        UnknownNameError: somebody has annotated nothing.
        AnnotationError: they have no CT in common.
    """
    known = annotators(folder)
    for name in (first, second):
        if check_person_name("annotator", name) not in known:
            raise UnknownNameError("annotator", name, known)
    return disagreement_json(disagreement(annotations_by(folder, first), annotations_by(folder, second)))


def exported(folder: Path, patient: str, annotator: str, kind: str) -> tuple[str, bytes]:
    """Returns name and content of a file for 3D Slicer or in the paper's format (`carm_env.annotation.export`).

    Raises:
        ValueError: an unknown patient, annotator or format, or no landmark is placed.
        FileNotFoundError: the person has not annotated the patient.
    """
    if kind not in SUFFIXES:
        raise UnknownNameError("format", kind, SUFFIXES)
    form: ExportFormat = kind
    ref = patient_ref(patient)
    path = annotation_path(folder, str(ref), annotator)
    if not path.is_file():
        raise FileNotFoundError(f"{annotator} has not annotated {ref}.")
    record = read_annotation(path)
    plain = re.sub("[^A-Za-z0-9]+", "-", str(ref)).strip("-")
    name = f"{plain}-{annotator}{SUFFIXES[form]}"
    with tempfile.TemporaryDirectory(prefix="carm-env-export-") as temporary:
        file = Path(temporary) / name
        export_annotation(file, record, load_patient(ref).volume, form)
        return name, file.read_bytes()
