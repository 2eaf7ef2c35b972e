"""A patient: a CT volume, its landmarks and a card; saving and loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from carm_env.body_depth import front_and_back_mm, front_and_back_without_couch_mm
from carm_env.geometry import finite_point
from carm_env.landmarks import landmark
from carm_env.patient_outline import PatientOutline, Silhouette
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import atomic_folder, content_hash, file_hash, write_json
from carm_env.system.leftovers import restore
from carm_env.system.structured_files import read_json_mapping
from carm_env.volume import Volume

Result = TypeVar("Result")
FORMAT_VERSION = 1
WORKSPACE_MARGIN_MM = 60.0
LEAST_WORKSPACE_MM = 300.0
"""Smallest side of a workspace: a patient with few landmarks needs room for start positions."""


class CorruptPatientError(CArmEnvError, ValueError):
    """A saved patient is damaged, incomplete, or of another format."""


@dataclass(frozen=True, eq=False)
class Patient:
    """One patient.

    Attributes:
        id: name of the patient in results, e.g. ``virtual:0``; never personal data.
        volume: the CT.
        landmarks_lps_mm: from landmark id (1-14) to a point ``(3,)``, LPS mm. A landmark that is absent is never a
            target.
        card: origin, parameters and licence, as JSON values.
    """

    id: str
    volume: Volume
    landmarks_lps_mm: Mapping[int, NDArray[np.float64]]
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        points = {}
        for key in sorted(self.landmarks_lps_mm):
            item = landmark(key)
            point = finite_point(f"{self.id}: {item.name}", self.landmarks_lps_mm[key])
            point.setflags(write=False)
            points[item.id] = point
        object.__setattr__(self, "landmarks_lps_mm", MappingProxyType(points))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over volume and landmarks; it differs between builds of the same patient."""
        digest = hashlib.sha256(np.ascontiguousarray(self.volume.hu).data)
        digest.update(self.volume.affine_lps_mm.tobytes())
        for key, point in self.landmarks_lps_mm.items():
            digest.update(f"{key}:{point.tolist()}".encode())
        return digest.hexdigest()[:16]

    @cached_property
    def mid_depth_mm(self) -> float:
        """LPS y half way between the front and the back of the body: the default depth of the isocentre.

        A couch does not count. It is looked for unless the card says that the patient has none.
        """
        search = front_and_back_without_couch_mm if _may_lie_on_a_couch(self.card) else front_and_back_mm
        return sum(search(self.volume)) / 2

    @property
    def corners_lps_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of the first and the last voxel of the volume, each ``(3,)``, LPS mm."""
        return self.volume.corners_lps_mm

    @cached_property
    def _silhouette(self) -> Silhouette:
        return Silhouette.of(self.volume)

    def covers(self, x_mm: float, z_mm: float) -> bool:
        """Returns whether the line through ``(x, z)`` (LPS mm) from front to back meets the body."""
        return self._silhouette.covers(x_mm, z_mm)

    @cached_property
    def workspace_mm(self) -> NDArray[np.float64]:
        """``(2, 2)``: lowest and highest isocentre, each ``(x, z)`` in LPS mm.

        The box around the landmarks with a margin of 60 mm, at least 300 mm along each axis, clipped to the volume;
        the whole volume if no landmark is known.
        """
        first, last = self.volume.corners_lps_mm
        box = np.stack([first[[0, 2]], last[[0, 2]]])
        if not self.landmarks_lps_mm:
            return box
        points = np.stack(list(self.landmarks_lps_mm.values()))[:, [0, 2]]
        middle = (points.min(0) + points.max(0)) / 2
        reach = np.maximum(np.ptp(points, axis=0) / 2 + WORKSPACE_MARGIN_MM, LEAST_WORKSPACE_MM / 2)
        low = np.maximum(middle - reach, box[0])
        high = np.minimum(middle + reach, box[1])
        return np.stack([low, high])

    def outline(self) -> PatientOutline:
        """Returns the landmarks and extents of the patient, without the volume."""
        return PatientOutline(
            self.id, self.landmarks_lps_mm, self.corners_lps_mm, self.mid_depth_mm, self.workspace_mm,
            self._silhouette, self.fingerprint,
        )  # fmt: skip


def _may_lie_on_a_couch(card: Mapping[str, Any]) -> bool:
    parameters, scan = card.get("parameters"), card.get("scan")
    has_none = isinstance(parameters, Mapping) and parameters.get("table") is False
    return not has_none or (isinstance(scan, Mapping) and bool(scan.get("couch")))


def save_patient(patient: Patient, folder: Path, *, replace: bool = True) -> None:
    """Saves a patient to a folder (``volume.npy``, ``patient.json`` with hashes), atomically.

    Raises:
        FileExistsError: the folder exists and `replace` is false.
        DiskFullError: the disk is full.
    """
    with atomic_folder(folder, replace=replace) as temporary:
        np.save(temporary / "volume.npy", patient.volume.hu, allow_pickle=False)
        description = {
            "format": FORMAT_VERSION,
            "id": patient.id,
            "affine_lps_mm": patient.volume.affine_lps_mm.tolist(),
            "landmarks_lps_mm": {str(key): point.tolist() for key, point in patient.landmarks_lps_mm.items()},
            "card": dict(patient.card),
            "volume_sha256": file_hash(temporary / "volume.npy"),
        }
        write_json(temporary / "patient.json", {**description, "description_sha256": content_hash(description)})


@dataclass(frozen=True)
class PatientDescription:
    """Description of a saved patient, without its volume.

    Attributes:
        id: the patient's id.
        shape: ``(nx, ny, nz)`` voxels.
        spacing_mm: voxel size ``(x, y, z)``.
        origin_lps_mm: centre of the first voxel.
        landmarks_lps_mm: from landmark id to ``(x, y, z)``.
        card: the patient's card.
        volume_sha256: SHA-256 of ``volume.npy``.
        nbytes: size of the folder on disk.
    """

    id: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_lps_mm: tuple[float, ...]
    landmarks_lps_mm: Mapping[int, tuple[float, ...]]
    card: Mapping[str, Any]
    volume_sha256: str
    nbytes: int


def read_description(folder: Path) -> PatientDescription:
    """Reads the description of a saved patient; fast, because the volume is neither read nor checked.

    Raises:
        FileNotFoundError: the folder does not exist.
        CorruptPatientError: a file is missing, or the description is damaged or of another format.
    """

    def read() -> PatientDescription:
        description = _read_json(folder)
        patient = _as_patient(folder, description)
        return PatientDescription(
            id=patient.id,
            shape=patient.volume.hu.shape,
            spacing_mm=tuple(patient.volume.spacing_mm.tolist()),
            origin_lps_mm=tuple(patient.volume.origin_lps_mm.tolist()),
            landmarks_lps_mm={key: tuple(point.tolist()) for key, point in patient.landmarks_lps_mm.items()},
            card=patient.card,
            volume_sha256=str(description["volume_sha256"]),
            nbytes=sum(path.stat().st_size for path in folder.iterdir()),
        )

    return _read_saved(folder, read)


def load_saved_patient(folder: Path) -> Patient:
    """Loads a patient that `save_patient` saved; its volume is memory-mapped.

    Raises:
        FileNotFoundError: the folder does not exist.
        CorruptPatientError: a file is missing, truncated, altered or of another format.
    """

    def read() -> Patient:
        description = _read_json(folder)
        if file_hash(folder / "volume.npy") != description["volume_sha256"]:
            raise ValueError("volume.npy does not match its hash")
        return _as_patient(folder, description)

    return _read_saved(folder, read)


def _read_saved(folder: Path, read: Callable[[], Result]) -> Result:
    """Returns the result of `read`; its errors mean that the patient is damaged."""
    while True:
        if not restore(folder):
            raise FileNotFoundError(f"no saved patient at {folder}")
        before = _identity(folder)
        try:
            return read()
        except Exception as error:  # numpy raises many kinds for a damaged file
            # Its files may also be those of two patients, one of which has just replaced the other.
            if before == _identity(folder):
                raise CorruptPatientError(f"{folder}: {error or type(error).__name__}") from error


def _identity(folder: Path) -> tuple[int, ...] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _read_json(folder: Path) -> dict[str, Any]:
    description = read_json_mapping(folder / "patient.json")
    expected_hash = description.pop("description_sha256")
    if content_hash(description) != expected_hash:
        raise ValueError("patient.json does not match its hash")
    if description["format"] != FORMAT_VERSION:
        raise ValueError(f"format is {description['format']}, expected {FORMAT_VERSION}")
    for name, kind in (("id", str), ("card", dict), ("landmarks_lps_mm", dict)):
        if not isinstance(description[name], kind):
            raise TypeError(f"{name} is of type {type(description[name]).__name__}, expected {kind.__name__}")
    return description


def _as_patient(folder: Path, description: Mapping[str, Any]) -> Patient:
    hu = np.load(folder / "volume.npy", mmap_mode="r", allow_pickle=False)
    landmarks = {int(key): np.array(point) for key, point in description["landmarks_lps_mm"].items()}
    volume = Volume(hu, np.array(description["affine_lps_mm"]))
    return Patient(description["id"], volume, landmarks, description["card"])
