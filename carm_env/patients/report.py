"""Lists of installed patients and data cards, for the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark
from carm_env.patient import CorruptPatientError, PatientDescription, read_description
from carm_env.patient_store import IMPORTED, VIRTUAL, imported_folder, imported_names
from carm_env.patients.catalogue import load_patient
from carm_env.patients.cohorts import COHORTS
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.system.files import cache_dir
from carm_env.system.leftovers import settle
from carm_env.xray.renderers import make_projector

OUTDATED, DAMAGED = "outdated", "damaged"


@dataclass(frozen=True)
class ListedPatient:
    """One line of the list of patients, as text.

    Attributes:
        id: the patient's id.
        kind: ``virtual``, ``outdated`` (virtual, of another version of the anatomy), ``imported`` or ``damaged``.
        voxel: voxel size, mm.
        size: number of voxels along each axis.
        landmarks: number of landmarks, of fourteen.
        coverage: the highest and the lowest landmark, and the extent of the volume.
        nbytes: size on disk.
    """

    id: str
    kind: str
    voxel: str = "-"
    size: str = "-"
    landmarks: str = "-"
    coverage: str = "-"
    nbytes: int = 0


def list_patients() -> Iterator[ListedPatient]:
    """Yields every virtual patient in the cache and every imported patient, without reading volumes."""
    settle(cache_dir() / "patients")
    found = [_listed(folder, VIRTUAL) for folder in sorted((cache_dir() / "patients").glob("virtual-*/"))]
    yield from sorted((item for item in found if item), key=lambda item: (len(item.id), item.id))
    for name in imported_names():
        item = _listed(imported_folder(name), IMPORTED)
        if item is not None:
            yield item


def cohort_lines() -> list[str]:
    """Returns one line per cohort with the number of patients of each split that have been built."""
    lines = []
    for cohort in COHORTS.values():
        counts = []
        for split in cohort.splits:
            refs = PatientRef.expand(cohort.names(split))
            counts.append(f"{split} {sum(ref.folder.is_dir() for ref in refs)}/{len(refs)}")
        lines.append(f"{cohort.name} (version {cohort.version}): {', '.join(counts)} built. {cohort.description}.")
    return lines


def coverage(description: PatientDescription) -> str:
    """Returns the patient's highest and lowest landmark and the extent of the volume in cm."""
    extent = " x ".join(
        f"{n * step / 10:.0f}" for n, step in zip(description.shape, description.spacing_mm, strict=True)
    )
    points = description.landmarks_lps_mm
    if not points:
        return f"{extent} cm"
    by_height = sorted(points, key=lambda key: points[key][2])
    top, bottom = landmark(by_height[-1]).name, landmark(by_height[0]).name
    return f"{top} to {bottom}, {extent} cm" if len(points) > 1 else f"{top}, {extent} cm"


def _listed(folder: Path, kind: str) -> ListedPatient | None:
    try:
        description = read_description(folder)
    except FileNotFoundError:
        # Replaced or removed since the folder was listed.
        return None
    except CorruptPatientError:
        return ListedPatient(f"{IMPORTED}:{folder.name}" if kind == IMPORTED else folder.name, DAMAGED)
    if kind == VIRTUAL and not _is_current(description.id, folder):
        kind = OUTDATED
    return ListedPatient(
        id=f"{IMPORTED}:{folder.name}" if kind == IMPORTED else description.id,
        kind=kind,
        voxel=" x ".join(dict.fromkeys(f"{value:g}" for value in description.spacing_mm)),
        size=" x ".join(map(str, description.shape)),
        landmarks=f"{len(description.landmarks_lps_mm)}/{N_LANDMARKS}",
        coverage=coverage(description),
        nbytes=description.nbytes,
    )


def _is_current(patient_id: str, folder: Path) -> bool:
    try:
        return PatientRef.parse(patient_id).folder == folder
    except ValueError:
        # One of its options no longer exists.
        return False


def patient_card(name: PatientName) -> str:
    """Returns the data card of a patient, as Markdown; a virtual patient that is not in the cache is built.

    Raises:
        ValueError: see `carm_env.patients.catalogue.load_patient`.
    """
    patient = load_patient(name)
    volume = patient.volume
    projector = make_projector(volume)
    projector.layout(1)
    first, last = volume.corners_lps_mm
    box = ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in zip("xyz", first, last, strict=True))
    card = dict(patient.card)
    notice = card.pop("notice", "Research use only, not a medical device.")
    lines = [
        f"# {patient.id}",
        "",
        f"{notice}",
        "",
        f"- fingerprint: {patient.fingerprint}",
        f"- voxels: {' x '.join(map(str, volume.hu.shape))} of {' x '.join(f'{v:g}' for v in volume.spacing_mm)} mm",
        f"- covers (LPS, mm): {box}",
        f"- memory in use: volume {volume.hu.nbytes / 1e6:.0f} MB (mapped from the disk), frontal X-rays "
        f"{projector.nbytes / 1e6:.0f} MB",
        *(line for key, value in card.items() for line in _field(key, value)),
        "",
        f"## Landmarks ({len(patient.landmarks_lps_mm)} of {N_LANDMARKS})",
        "",
        "| id | name | x | y | z (LPS, mm) |",
        "|---|---|---|---|---|",
    ]
    for item in LANDMARKS:
        point = patient.landmarks_lps_mm.get(item.id)
        cells = "absent | | " if point is None else " | ".join(f"{value:.1f}" for value in point)
        lines.append(f"| {item.id} | {item.name} | {cells} |")
    return "\n".join(lines) + "\n"


def _field(key: str, value: Any) -> list[str]:
    name = key.replace("_", " ")
    if isinstance(value, dict):
        return [f"- {name}:", *(f"  - {inner}: {_plain(item)}" for inner, item in value.items())]
    return [f"- {name}: {_plain(value)}"]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
