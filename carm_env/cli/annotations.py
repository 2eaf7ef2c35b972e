"""``carm-env annotations``: progress, export and agreement of annotations that people made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class ProgressArguments:
    """Arguments of ``carm-env annotations progress``.

    Attributes:
        annotator: name of the person; by default everybody with an annotation.
        patients: patients to annotate; by default all imported patients.
        folder: folder of annotations; by default in the data folder.
    """

    annotator: str | None = None
    patients: tuple[str, ...] = ()
    folder: Path | None = None


def progress(arguments: ProgressArguments) -> int:
    """Show how far each person is in annotating a cohort of CTs."""
    from carm_env.annotation.cohort import cohort_progress, progress_table
    from carm_env.annotation.files import annotations_folder, annotators
    from carm_env.patient_store import IMPORTED, imported_names
    from carm_env.patients.reference import PatientRef

    folder = arguments.folder or annotations_folder()
    given = arguments.patients or tuple(f"{IMPORTED}:{name}" for name in imported_names())
    if not given:
        print("No patient is imported yet: `carm-env import CT --name NAME` imports one.")
        return 0
    names = [arguments.annotator] if arguments.annotator else annotators(folder)
    if not names:
        print(f"There is no annotation in {folder} yet.")
        return 0
    patients = [str(ref) for ref in PatientRef.expand(given)]
    for name in names:
        print(f"{name}\n\n{progress_table(cohort_progress(folder, patients, name))}\n")
    return 0


@dataclass(frozen=True)
class ExportArguments:
    """Arguments of ``carm-env annotations export``.

    Attributes:
        patient: the annotated patient.
        annotator: name of the person.
        out: file to write: .mrk.json for 3D Slicer, .csv for the paper's table.
        case: case number in the paper's table; by default the patient's name.
        folder: folder of annotations; by default in the data folder.
    """

    patient: Positional[str]
    annotator: str
    out: Path
    case: str | None = None
    folder: Path | None = None


def export(arguments: ExportArguments) -> int:
    """Write an annotation as 3D Slicer markups or as the paper's CSV, for `carm-env import --landmarks`."""
    from carm_env.annotation.export import ExportFormat, export_annotation
    from carm_env.annotation.files import annotation_path, annotations_folder, read_annotation
    from carm_env.patients.catalogue import load_patient
    from carm_env.patients.reference import PatientRef

    ref = PatientRef.parse(arguments.patient)
    record = read_annotation(annotation_path(arguments.folder or annotations_folder(), str(ref), arguments.annotator))
    kind: ExportFormat = "paper" if arguments.out.suffix.lower() == ".csv" else "slicer"
    export_annotation(arguments.out, record, load_patient(ref).volume, kind, arguments.case)
    counts = ", ".join(f"{len(record.ids(state))} {state}" for state in ("placed", "na", "open"))
    print(f"{arguments.out}: {record.patient} by {record.annotator}, {counts}")
    return 0


@dataclass(frozen=True)
class CompareArguments:
    """Arguments of ``carm-env annotations compare``.

    Attributes:
        first: name of one annotator.
        second: name of another one.
        json: file for the figures as JSON.
        markdown: file for the table as Markdown.
        folder: folder of annotations; by default in the data folder.
    """

    first: Positional[str]
    second: Positional[str]
    json: Path | None = None
    markdown: Path | None = None
    folder: Path | None = None


def compare(arguments: CompareArguments) -> int:
    """Show the disagreement of two annotators in mm, per landmark."""
    from carm_env.annotation.agreement import disagreement, disagreement_json, disagreement_table
    from carm_env.annotation.files import annotations_by, annotations_folder, annotators
    from carm_env.system.errors import UnknownNameError
    from carm_env.system.files import write_json, write_text

    folder = arguments.folder or annotations_folder()
    known = annotators(folder)
    for name in (arguments.first, arguments.second):
        if name not in known:
            if not known:
                raise FileNotFoundError(f"there is no annotation in {folder}: name another one with --folder.")
            raise UnknownNameError("annotator", name, known)
    found = disagreement(annotations_by(folder, arguments.first), annotations_by(folder, arguments.second))
    table = disagreement_table(found)
    print(table)
    if arguments.json is not None:
        write_json(arguments.json, disagreement_json(found))
    if arguments.markdown is not None:
        write_text(arguments.markdown, f"{table}\n")
    return 0
