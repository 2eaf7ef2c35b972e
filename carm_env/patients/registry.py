"""The registry of real CTs that are installed by name: ``real_cts.yaml``.

The project holds no voxel of them. An entry says where the CT comes from, under which licence, which files it consists
of and, where somebody has read them, where its landmarks are.
"""

from __future__ import annotations

import math
import re
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
_READING_KEYS = ("reader", "date", "method", "points_lps_mm", "repeat_mm")
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
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
    """Landmarks that one reader read in a CT.

    Attributes:
        reader: who read them.
        date: when, ``YYYY-MM-DD``.
        method: how.
        points_lps_mm: from landmark id to ``(x, y, z)`` in the frame of the file.
        repeat_mm: from landmark id to the distance from a repetition whose points were not kept; empty if none.
    """

    reader: str
    date: str
    method: str
    points_lps_mm: Mapping[int, tuple[float, float, float]]
    repeat_mm: Mapping[int, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"read on {self.date} by {self.reader}. {self.method}"


@dataclass(frozen=True)
class ReadLandmarks:
    """Landmarks that were read in a CT, once or several times.

    Attributes:
        readings: the readings; the first one is used.
    """

    readings: tuple[Reading, ...]

    @property
    def points_lps_mm(self) -> Mapping[int, tuple[float, float, float]]:
        """The points of the reading that is used, from landmark id to ``(x, y, z)`` in the frame of the file."""
        return self.readings[0].points_lps_mm

    @property
    def between_readings_mm(self) -> Mapping[int, float]:
        """From landmark id to the largest distance of another reading from the one that is used.

        A landmark that was read only once is absent.
        """
        distances: dict[int, float] = {}
        for key, used in self.points_lps_mm.items():
            others = [reading.points_lps_mm[key] for reading in self.readings[1:] if key in reading.points_lps_mm]
            if others:
                distances[key] = max(math.dist(used, other) for other in others)
        return distances


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
    landmarks: ReadLandmarks | None = field(default=None, repr=False)

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
            used, *others = self.landmarks.readings
            card["landmarks"] = str(used)
            if others:
                card["landmark_other_readings"] = "; ".join(map(str, others))
                card["landmark_between_readings_mm"] = _by_name(self.landmarks.between_readings_mm)
            if used.repeat_mm:
                card["landmark_repeat_mm"] = _by_name(used.repeat_mm)
        return card


def _by_name(distances_mm: Mapping[int, float]) -> dict[str, float]:
    return {landmark(key).name: round(value, 1) for key, value in distances_mm.items()}


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
    landmarks = _read_landmarks(row["landmarks"]) if "landmarks" in row else None
    if landmarks is not None and ct is None:
        raise ValueError("it has landmarks but no file 'ct' with a hash, which they hold for: add it.")
    package = Package(**row["package"]) if "package" in row else None
    if package is not None and ct is None:
        raise ValueError("it has a package but no file 'ct' in it: add it.")
    citation = tuple(str(text) for text in row["citation"])
    return RealCT(**texts, citation=citation, package=package, ct=ct, labels=labels, landmarks=landmarks)


def _read_landmarks(row: Mapping[str, Any]) -> ReadLandmarks:
    check_keys("key of landmarks", row, ("readings",))
    rows = row.get("readings")
    if not isinstance(rows, list) or not rows or not all(isinstance(reading, dict) for reading in rows):
        raise ValueError("the readings are not a list of mappings, expected one for each reading, the used one first.")
    readings = []
    for number, reading in enumerate(rows, 1):
        try:
            readings.append(_reading(reading))
        except (TypeError, ValueError) as error:
            raise ValueError(f"reading {number}: {error}") from error
    landmarks = ReadLandmarks(tuple(readings))
    for number, other in enumerate(landmarks.readings[1:], 2):
        if unused := set(other.points_lps_mm) - set(landmarks.points_lps_mm):
            names = ", ".join(landmark(key).name for key in sorted(unused))
            raise ValueError(f"reading {number} has {names}, which the first one, which is used, lacks: add it there.")
    return landmarks


def _reading(row: Mapping[str, Any]) -> Reading:
    check_keys("key of a reading", row, _READING_KEYS)
    missing = [key for key in _READING_KEYS if key != "repeat_mm" and not row.get(key)]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing or empty: add it.")
    reader, date, method = row["reader"], row["date"], row["method"]
    if not all(isinstance(text, str) for text in (reader, date, method)):
        raise ValueError("'reader', 'date' or 'method' is not a text.")
    if _DATE.fullmatch(date) is None:
        raise ValueError(f"the date is {shortened(date)}, expected YYYY-MM-DD.")
    for key in ("points_lps_mm", "repeat_mm"):
        if not isinstance(row.get(key, {}), dict):
            raise ValueError(f"{key} is not a mapping from landmarks.")
    points = {landmark(name).id: finite_point(name, point) for name, point in row["points_lps_mm"].items()}
    repeat = {landmark(name).id: _distance_mm(name, value) for name, value in row.get("repeat_mm", {}).items()}
    if set(repeat) - set(points):
        raise ValueError("repeat_mm names landmarks that points_lps_mm lacks: name the same ones.")
    return Reading(reader, date, method, {key: (p[0], p[1], p[2]) for key, p in points.items()}, repeat)


def _distance_mm(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"the distance of {name} is {shortened(value)}, expected millimetres, 0 or more.")
    return float(value)
