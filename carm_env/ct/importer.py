"""Import a CT as a patient, from a DICOM folder, file or zip archive, or a NIfTI, NRRD or MetaImage file.

`load_ct` loads a patient for this process; `import_ct` saves it under a name (`carm_env.patient_store`). A saved
patient holds the volume, the landmarks and a card of technical facts, but no names, numbers, dates, paths or texts of
the source. Research software, not a medical device.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.plausibility import check_landmarks
from carm_env.ct._identity import case_id, create_key
from carm_env.ct.archives import extracted
from carm_env.ct.dicom import read_stack
from carm_env.ct.errors import CTImportError, LandmarkFileError
from carm_env.ct.grid import DEFAULT_SPACING_MM, to_isotropic, without_table
from carm_env.ct.hounsfield import judge_values
from carm_env.ct.images import read_image
from carm_env.ct.kinds import ARCHIVE_SUFFIXES, is_image
from carm_env.ct.landmark_files import read_landmarks
from carm_env.ct.series import Series, Study, choice_assumptions, choose_series, dicom_files, read_series
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.patient_store import IMPORTED, check_imported_name, imported_folder, save_imported
from carm_env.system.errors import finite_number
from carm_env.system.files import file_hash
from carm_env.volume import AIR_HU, Volume


@dataclass(frozen=True)
class ImportOptions:
    """Options for reading a CT.

    Attributes:
        spacing_mm: edge of the voxels that the CT is resampled to, 0.5 to 6 mm.
        series: number (from 1) or SeriesInstanceUID of the DICOM series; None chooses by rule.
        acquisition: number (from 1) among the acquisitions or time points of the DICOM series; None if it has one.
        remove_table: keep only the body.
        accept_gaps: fill missing slices by interpolation.
        assume_hu: take stored values for Hounsfield units although the file does not say so.
        hu_offset: added to every value, e.g. -1024 for a file that stores HU + 1024.
        orientation: ``"sform"`` or ``"qform"``: the header of a NIfTI file to believe if both are set and disagree.
        accept_implausible: keep landmarks that the plausibility check rejects.
    """

    spacing_mm: float = DEFAULT_SPACING_MM
    series: str | None = None
    acquisition: int | None = None
    remove_table: bool = False
    accept_gaps: bool = False
    assume_hu: bool = False
    hu_offset: float = 0.0
    orientation: str | None = None
    accept_implausible: bool = False


@dataclass(frozen=True, eq=False)
class ReadCT:
    """A CT that has been read.

    Attributes:
        volume: the CT with isotropic voxels along the LPS axes.
        case: keyed hash of the patient id (`carm_env.ct._identity`).
        facts: technical facts for the card; of landmarks from a label map, the standard deviations of their errors.
        assumptions: what the files do not state or contradict, and how the import decided, one line each; without
            personal data. A CT that states everything has none.
        notes: findings, one line each.
    """

    volume: Volume
    case: str
    facts: Mapping[str, Any]
    assumptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_ct(path: str | Path, options: ImportOptions | None = None) -> ReadCT:
    """Reads a CT from a DICOM folder, file or zip archive, or a NIfTI, NRRD or MetaImage file.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        CTImportError: the CT cannot be read as it is; the message names the file and says what to do.
        MemoryError: the CT does not fit in free memory.
        MissingExtraError: SimpleITK or pydicom is not installed (extra ``ct``).
    """
    options = options or ImportOptions()
    finite_number("the offset of the values (--hu-offset)", options.hu_offset)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_file() and (path.suffix.lower() == ".zip" or (not is_image(path) and zipfile.is_zipfile(path))):
        with extracted(path) as folder:
            try:
                return _from_folder(folder, options)
            except CTImportError as error:
                # The temporary folder no longer exists when the message is read.
                text = str(error).replace(f"{folder}/", f"{path}: ").replace(str(folder), str(path))
                raise type(error)(text) from error
    if path.is_file() and is_image(path):
        return _from_image(path, options)
    return _from_folder(path, options)


def _from_folder(path: Path, options: ImportOptions) -> ReadCT:
    files = dicom_files(path)
    study = read_series(files)
    if not study.series:
        images = [item for item in files if is_image(item)]
        if len(images) == 1:
            return _from_image(images[0], options)
        if images:
            raise CTImportError(f"{path} holds {len(images)} image files, expected one CT: import one of the files.")
        archives = [item for item in files if item.suffix.lower() in ARCHIVE_SUFFIXES]
        if archives:
            raise CTImportError(
                f"{path} holds {len(archives)} zip archive(s), expected DICOM files: import the archive itself "
                f"({archives[0]})."
            )
        raise CTImportError(
            f"{path} holds no CT ({'; '.join(study.notes) or 'it is empty'}), expected DICOM files of modality CT, or "
            "a .nii, .nii.gz, .nrrd or .mha file."
        )
    chosen, reason = choose_series(study, options.series)
    try:
        return _from_series(study, chosen, reason, options, path)
    except CTImportError as error:
        if len(study.series) == 1:
            raise
        raise type(error)(f"{error} {study.listed}") from None


def _from_series(study: Study, chosen: Series, reason: str, options: ImportOptions, path: Path) -> ReadCT:
    notes = list(study.notes)
    if len(study.series) > 1:
        for number, item in enumerate(study.series, 1):
            notes.append(f"series {number}{' (chosen)' if item is chosen else ''}: {item.summary()}")
    notes.append(f"chose {chosen.summary()}: {reason}")
    stack = read_stack(chosen, options.accept_gaps, options.assume_hu, options.acquisition)
    notes += stack.notes
    assumptions = [*study.assumptions, *choice_assumptions(study, chosen, reason), *stack.assumptions]
    facts = {
        "source": "DICOM",
        "kernel": chosen.kernel,
        "kvp": chosen.kvp,
        "slice_thickness_mm": round(float(np.median([item.thickness_mm for item in chosen.slices])), 3),
    }
    case = case_id(study.patient or hashlib.sha256(stack.hu.data).digest())
    return _finished(stack.hu, stack.affine_lps_mm, case, facts, assumptions, notes, options, path)


def _from_image(path: Path, options: ImportOptions) -> ReadCT:
    for name in ("series", "acquisition"):
        if getattr(options, name) is not None:
            raise CTImportError(
                f"{path} is a {_image_kind(path)} file, but --{name} chooses within a DICOM folder: omit it."
            )
    image = read_image(path, options.orientation)
    case = case_id(b"".join(bytes.fromhex(file_hash(item)) for item in image.files))
    facts = {"source": _image_kind(path)}
    return _finished(image.values, image.affine_lps_mm, case, facts, image.assumptions, image.notes, options, path)


def _image_kind(path: Path) -> str:
    if ".nii" in path.name.lower():
        return "NIfTI"
    return "NRRD" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImage"


def _finished(
    hu: NDArray[np.float32],
    affine_lps_mm: NDArray[np.float64],
    case: str,
    facts: Mapping[str, Any],
    assumptions: list[str],
    notes: list[str],
    options: ImportOptions,
    path: Path,
) -> ReadCT:
    voxel_mm = [round(float(x), 4) for x in np.linalg.norm(affine_lps_mm[:3, :3], axis=0)]
    facts = {**facts, "source_voxel_mm": voxel_mm, "source_shape": list(hu.shape)}
    if options.hu_offset:
        hu = hu + np.float32(options.hu_offset)
        assumptions.append(f"values: {options.hu_offset:g} HU added to every value, as requested")
    judged = judge_values(hu, path, assume_hu=options.assume_hu)
    assumptions += judged.assumptions
    try:
        volume = to_isotropic(judged.hu, affine_lps_mm, options.spacing_mm)
    except CTImportError as error:
        raise type(error)(f"{path}: {error}") from error
    if options.remove_table:
        volume, share = without_table(volume)
        notes.append(f"removed the table: {100 * share:.1f} % of the voxels above -300 HU")
    voxels = " x ".join(map(str, volume.hu.shape))
    size_mm = (np.array(volume.hu.shape) * options.spacing_mm).round(0).tolist()
    notes.append(f"resampled to {voxels} voxels of {options.spacing_mm:g} mm ({size_mm} mm)")
    return ReadCT(volume, case, facts, assumptions, notes)


def load_ct(path: str | Path, options: ImportOptions | None = None) -> Patient:
    """Loads a CT as a patient without landmarks, without saving it; raises as `read_ct` does."""
    read = read_ct(path, options)
    return Patient(f"ct:{read.case[:8]}", read.volume, {}, _card(read))


def read_with_landmarks(
    path: str | Path,
    landmarks: str | Path | None = None,
    options: ImportOptions | None = None,
    *,
    coordinate_system: str | None = None,
) -> tuple[ReadCT, dict[int, NDArray[np.float64]]]:
    """Reads a CT as `read_ct` does, and its landmarks; saves nothing. The arguments are those of `import_ct`.

    Returns:
        The CT, with the assumptions and notes about the landmarks, and the landmarks from id to ``(3,)`` LPS mm.

    Raises:
        CTImportError: the CT or the landmarks cannot be used as they are.
    """
    options = options or ImportOptions()
    read = read_ct(path, options)
    if landmarks is None:
        return read, {}
    points, read = _with_landmarks(read, Path(landmarks), coordinate_system, options.orientation)
    report = check_landmarks(points, read.volume)
    read.notes.extend(str(finding) for finding in report.findings)
    if report.errors and not options.accept_implausible:
        faults = " ".join(str(finding) for finding in report.errors)
        raise LandmarkFileError(
            f"{landmarks}: {faults} Correct the file, or keep the landmarks as they are (--accept-implausible)."
        )
    if report.errors:
        read.assumptions.append("landmarks: kept as requested, although the plausibility check rejects them")
    return read, points


@dataclass(frozen=True, eq=False)
class Imported:
    """An imported patient.

    Attributes:
        patient: the patient.
        folder: folder where it is saved.
        assumptions: as in `ReadCT`.
        notes: findings, one line each.
    """

    patient: Patient
    folder: Path
    assumptions: list[str]
    notes: list[str]


def import_ct(
    path: str | Path,
    name: str | None = None,
    landmarks: str | Path | None = None,
    options: ImportOptions | None = None,
    *,
    coordinate_system: str | None = None,
    replace: bool = False,
) -> Imported:
    """Reads a CT and saves it as the patient ``imported:NAME``, atomically.

    Args:
        path: as for `read_ct`.
        name: letters, digits, dots, hyphens, underscores; None gives ``ct-`` and eight digits of the case id.
        landmarks: file that `carm_env.ct.landmark_files.read_landmarks` reads, or a TotalSegmentator label map.
        options: options for reading the CT.
        coordinate_system: ``"LPS"`` or ``"RAS"``, for a landmark file that does not state it.
        replace: replace an imported patient of the same name.

    Raises:
        CTImportError: the CT or the landmarks cannot be used as they are.
        FileExistsError: there is an imported patient of this name and `replace` is false.
    """
    prepare_import(name, replace=replace)
    read, points = read_with_landmarks(path, landmarks, options, coordinate_system=coordinate_system)
    return save_read(read, name or f"ct-{read.case[:8]}", points, replace=replace)


def prepare_import(name: str | None, *, replace: bool = False) -> None:
    """Checks, before a CT is read, that a patient of this name can be saved; creates the key of the case ids.

    Raises:
        ValueError: no imported patient may have this name.
        FileExistsError: there is an imported patient of this name and `replace` is false.
        FolderError: the data folder cannot be written.
    """
    if name is not None and imported_folder(check_imported_name(name)).exists() and not replace:
        raise FileExistsError(
            f"an imported patient {name!r} exists already: choose another name, or replace it (--replace)."
        )
    create_key()


def save_read(read: ReadCT, name: str, points: Mapping[int, NDArray[np.float64]], *, replace: bool = False) -> Imported:
    """Saves a CT that has been read as the patient ``imported:NAME``, atomically.

    Args:
        read: the CT; its facts and assumptions go to the card.
        name: name of the patient.
        points: landmarks, from id to ``(3,)`` LPS mm.
        replace: replace an imported patient of the same name.

    Raises:
        FileExistsError: there is an imported patient of this name and `replace` is false.
    """
    patient = Patient(f"{IMPORTED}:{name}", read.volume, points, _card(read))
    return Imported(patient, save_imported(patient, replace=replace), read.assumptions, read.notes)


def _with_landmarks(
    read: ReadCT, path: Path, coordinate_system: str | None, orientation: str | None
) -> tuple[dict[int, NDArray[np.float64]], ReadCT]:
    """Returns landmarks, and the CT with the facts, assumptions and notes about them."""
    from carm_env.ct.label_maps import is_label_map, landmarks_from_labels

    if not is_label_map(path):
        points = read_landmarks(path, volume=read.volume, coordinate_system=coordinate_system)
        stated = (
            [] if coordinate_system is None else [f"landmarks: coordinate system {coordinate_system}, as requested"]
        )
        return points, replace(read, assumptions=[*read.assumptions, *stated])
    derived = landmarks_from_labels(path, read.volume, orientation)
    certainty = {landmark(key).name: std for key, std in derived.std_mm.items()}
    notes = [
        *(
            f"{landmark(key).name}: {basis}; standard deviation {derived.std_mm[key]:g} mm"
            for key, basis in derived.basis.items()
        ),
        *(f"no landmark {name}: {reason}" for name, reason in derived.absent.items()),
    ]
    facts = {**read.facts, "landmarks": "from a label map, by rule", "landmark_std_mm": certainty}
    return dict(derived.points_lps_mm), replace(
        read,
        facts=facts,
        assumptions=[*read.assumptions, *derived.assumptions],
        notes=[*read.notes, *notes],
    )


def _card(read: ReadCT) -> dict[str, Any]:
    body = read.volume.hu[::4, ::4, ::4] > AIR_HU + 600
    return {
        "kind": "imported CT",
        "case": read.case,
        **read.facts,
        "assumptions": list(read.assumptions),
        "voxel_mm": float(read.volume.spacing_mm[0]),
        "extent_mm": [round(float(x), 1) for x in read.volume.spacing_mm * (np.array(read.volume.hu.shape) - 1)],
        "body_share": round(float(body.mean()), 4),
        "volume_digest": hashlib.sha256(np.ascontiguousarray(read.volume.hu).data).hexdigest()[:16],
        "notice": "Research use only, not a medical device. Do not try to identify the person.",
    }
