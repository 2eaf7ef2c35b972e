"""The registry of real CTs that are installed by name: ``real_cts.yaml``.

The project holds no voxel of them. An entry says where the CT comes from, under which licence, which files it consists
of and, where somebody has read them, where its landmarks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from carm_env.geometry import finite_point
from carm_env.landmarks import landmark
from carm_env.patient_store import check_imported_name
from carm_env.system.errors import UnknownNameError, check_keys, shortened
from carm_env.system.structured_files import StructuredFileError, parse_yaml

_FILE = "real_cts.yaml"
_KEYS = (
    "name", "title", "origin", "coverage", "licence", "citation", "package", "ct", "labels", "get", "landmarks",
)  # fmt: skip
_REQUIRED = ("name", "title", "origin", "coverage", "licence", "citation", "get")


@dataclass(frozen=True)
class PinnedFile:
    """A file with its hash.

    Attributes:
        file: path within the package, or name of the file.
        sha256: SHA-256 of its bytes, hex.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Package:
    """A Python package whose wheel holds the files.

    Attributes:
        name: name for pip.
        version: version for pip.
        megabytes: size of the wheel.
    """

    name: str
    version: str
    megabytes: int


@dataclass(frozen=True)
class Reading:
    """Landmarks that were read in a CT.

    Attributes:
        reading: who read them, how and when.
        points_lps_mm: from landmark id to ``(x, y, z)`` in the frame of the file.
        between_readings_mm: from landmark id to the distance between two readings.
    """

    reading: str
    points_lps_mm: Mapping[int, tuple[float, float, float]]
    between_readings_mm: Mapping[int, float]


@dataclass(frozen=True)
class RealCT:
    """One entry of the registry.

    Attributes:
        name: name of the installed patient.
        title: what is seen.
        origin: collection.
        coverage: part of the body.
        licence: licence of the images.
        citation: what to cite.
        get: how to get the file, in sentences.
        package: the Python package that holds the files; None if the user brings a file.
        ct: the file of the CT; None if the entry stands for a whole collection.
        labels: the file of a label map of the CT, in the same package.
        landmarks: landmarks of the CT; None if none were read.
    """

    name: str
    title: str
    origin: str
    coverage: str
    licence: str
    citation: tuple[str, ...]
    get: str
    package: Package | None = None
    ct: PinnedFile | None = None
    labels: PinnedFile | None = None
    landmarks: Reading | None = field(default=None, repr=False)

    @property
    def card(self) -> dict[str, Any]:
        """What the card of the installed patient says of origin, licence and landmarks."""
        card: dict[str, Any] = {
            "title": self.title,
            "origin": self.origin,
            "coverage": self.coverage,
            "licence": self.licence,
            "citation": "; ".join(self.citation),
        }
        card["file_sha256"] = "none in the registry: brought by the user" if self.ct is None else self.ct.sha256
        if self.landmarks is not None:
            card["landmarks"] = self.landmarks.reading
            distances = self.landmarks.between_readings_mm.items()
            card["landmark_between_readings_mm"] = {landmark(key).name: value for key, value in distances}
        return card


@cache
def real_cts() -> Mapping[str, RealCT]:
    """Returns all entries by name, in the order of the file."""
    text = resources.files("carm_env.patients").joinpath(_FILE).read_text(encoding="utf-8")
    return read_registry(text, _FILE)


def find_real_ct(name: str) -> RealCT:
    """Returns the entry of a name; upper and lower case do not matter.

    Raises:
        UnknownNameError: there is no such entry; the message names the nearest one.
    """
    entries = real_cts()
    entry = entries.get(str(name).lower())
    if entry is None:
        raise UnknownNameError("real CT", name, entries)
    return entry


def read_registry(text: str, source: str) -> Mapping[str, RealCT]:
    """Reads a registry.

    Args:
        text: the YAML, a list of entries.
        source: name of the file in error messages.

    Raises:
        StructuredFileError: it is not such a list; the message names the entry and the key.
    """
    rows = parse_yaml(text, source)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise StructuredFileError(f"{source} is not a list of mappings, expected one for each CT.")
    entries: dict[str, RealCT] = {}
    for number, row in enumerate(rows, 1):
        where = f"{source}, entry {number} ({shortened(row.get('name'))})"
        try:
            entry = _entry(row)
        except (KeyError, TypeError, ValueError) as error:
            raise StructuredFileError(f"{where}: {error}") from error
        if entry.name in entries:
            raise StructuredFileError(f"{where}: the name occurs twice: rename one.")
        entries[entry.name] = entry
    return MappingProxyType(entries)


def _entry(row: Mapping[str, Any]) -> RealCT:
    check_keys("key", row, _KEYS)
    missing = [key for key in _REQUIRED if not row.get(key)]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing: add it.")
    texts = {key: row[key] for key in _REQUIRED if key != "citation"}
    if not all(isinstance(value, str) for value in texts.values()) or not isinstance(row["citation"], list):
        raise ValueError("a value has another type, expected texts, and a list of texts for 'citation'.")
    name = check_imported_name(row["name"])
    if name != name.lower():
        raise ValueError("the name has upper-case letters, expected lower case.")
    ct, labels = (PinnedFile(**row[key]) if key in row else None for key in ("ct", "labels"))
    for file in (ct, labels):
        if file is not None and (len(file.sha256) != 64 or set(file.sha256) - set("0123456789abcdef")):
            raise ValueError(f"the sha256 of {file.file} is {file.sha256!r}, expected 64 hex digits.")
    landmarks = _reading(row["landmarks"]) if "landmarks" in row else None
    if landmarks is not None and ct is None:
        raise ValueError("it has landmarks but no file 'ct' with a hash, which they hold for: add it.")
    package = Package(**row["package"]) if "package" in row else None
    if package is not None and ct is None:
        raise ValueError("it has a package but no file 'ct' in it: add it.")
    citation = tuple(str(text) for text in row["citation"])
    return RealCT(**texts, citation=citation, package=package, ct=ct, labels=labels, landmarks=landmarks)


def _reading(row: Mapping[str, Any]) -> Reading:
    check_keys("key of landmarks", row, ("reading", "points_lps_mm", "between_readings_mm"))
    points = {landmark(name).id: finite_point(name, point) for name, point in row["points_lps_mm"].items()}
    between = {landmark(name).id: float(value) for name, value in row["between_readings_mm"].items()}
    if set(between) != set(points):
        raise ValueError("points_lps_mm and between_readings_mm name other landmarks: name the same ones.")
    return Reading(str(row["reading"]), {key: (p[0], p[1], p[2]) for key, p in points.items()}, between)
