"""Annotations in memory: the state of each landmark, and the record of one annotator on one CT."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import finite_point
from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark
from carm_env.system.errors import CArmEnvError, UnknownNameError, check_keys, shortened
from carm_env.system.person_names import check_person_name
from carm_env.volume import Volume

FORMAT = 1
State = Literal["open", "placed", "na"]
STATES: tuple[State, ...] = ("open", "placed", "na")
DepthSource = Literal["lateral", "bone", "assumed"]
DEPTH_SOURCES: tuple[DepthSource, ...] = ("lateral", "bone", "assumed")
FRONTAL_BEAM = (0.0, 1.0, 0.0)
"""Direction of the line of a pixel in a frontal parallel projection, LPS."""

_KEYS = ("format", "patient", "volume_digest", "annotator", "revision", "saved", "finished", "current", "landmarks")


class AnnotationError(CArmEnvError, ValueError):
    """An annotation cannot be made, read or saved; the message says what to do."""


@dataclass(frozen=True)
class Annotation:
    """One landmark.

    Attributes:
        state: ``"open"`` (not yet seen to), ``"placed"``, or ``"na"`` (not in the CT or not recognisable).
        point_lps_mm: ``(x, y, z)`` of a placed landmark, LPS mm; otherwise None.
        depth: where the depth (LPS y) comes from: a lateral click, the strongest bone along the line of the frontal
            click, or the middle of the CT, assumed because the line meets no bone. None unless placed.
        beam: direction of the line of the frontal click, a unit vector in LPS: a change of the depth keeps the point
            on this line.
    """

    state: State = "open"
    point_lps_mm: tuple[float, float, float] | None = None
    depth: DepthSource | None = None
    beam: tuple[float, float, float] = FRONTAL_BEAM

    def to_json(self) -> dict[str, Any]:
        """Returns the inverse of `from_json`."""
        if self.point_lps_mm is None:
            return {"state": self.state}
        return {
            "state": self.state,
            "point_lps_mm": list(self.point_lps_mm),
            "depth": self.depth,
            "beam": list(self.beam),
        }

    @classmethod
    def from_json(cls, value: Any) -> Annotation:
        """Parses a landmark of a file.

        Raises:
            ValueError: a wrong key or value.
        """
        if not isinstance(value, dict):
            raise ValueError(f"it is {shortened(value)}, expected a mapping")
        check_keys("key", value, ("state", "point_lps_mm", "depth", "beam"))
        state = value.get("state")
        if state not in STATES:
            raise UnknownNameError("state", state, STATES)
        if state != "placed":
            return cls(state)
        if value.get("depth") not in DEPTH_SOURCES:
            raise UnknownNameError("depth", value.get("depth"), DEPTH_SOURCES)
        point = finite_point("point_lps_mm", value.get("point_lps_mm"))  # type: ignore[arg-type]
        beam = finite_point("beam", value.get("beam", FRONTAL_BEAM))
        if beam[1] <= 0:
            raise ValueError(f"beam is {beam.tolist()}, expected a direction from front to back")
        return placed(point, value["depth"], beam)


def placed(
    point_lps_mm: NDArray[np.float64], depth: DepthSource, beam: NDArray[np.float64] | tuple[float, ...] = FRONTAL_BEAM
) -> Annotation:
    """Returns a placed landmark."""
    x, y, z = (float(value) for value in point_lps_mm)
    bx, by, bz = (float(value) for value in beam)
    return Annotation("placed", (x, y, z), depth, (bx, by, bz))


@dataclass(frozen=True)
class AnnotationRecord:
    """The annotation of one CT by one person.

    Attributes:
        patient: full name of the patient.
        volume_digest: `volume_digest` of the CT.
        annotator: name of the person.
        annotations: from landmark id to its annotation, for all 14.
        current: id of the landmark that the person is at.
        finished: whether the person declared the CT finished.
        revision: number of times that the record was saved.
        saved: date and time (UTC, ISO 8601) of the last change; empty before the first.
    """

    patient: str
    volume_digest: str
    annotator: str
    annotations: Mapping[int, Annotation] = field(default_factory=lambda: {item.id: Annotation() for item in LANDMARKS})
    current: int = 1
    finished: bool = False
    revision: int = 0
    saved: str = ""

    @property
    def points_lps_mm(self) -> dict[int, NDArray[np.float64]]:
        """The placed landmarks, from id to ``(3,)``, LPS mm."""
        return {
            key: np.array(one.point_lps_mm)
            for key, one in sorted(self.annotations.items())
            if one.point_lps_mm is not None
        }

    def ids(self, state: State) -> list[int]:
        """Returns the ids of the landmarks in a state, in order."""
        return [key for key in range(1, N_LANDMARKS + 1) if self.annotations[key].state == state]

    def to_json(self) -> dict[str, Any]:
        """Returns the contents of the record's file; the inverse of `from_json`."""
        return {
            "format": FORMAT,
            "patient": self.patient,
            "volume_digest": self.volume_digest,
            "annotator": self.annotator,
            "revision": self.revision,
            "saved": self.saved,
            "finished": self.finished,
            "current": self.current,
            "landmarks": {landmark(key).name: one.to_json() for key, one in sorted(self.annotations.items())},
        }

    @classmethod
    def from_json(cls, value: Any, source: str) -> AnnotationRecord:
        """Parses the contents of a file.

        Args:
            value: the contents.
            source: name of the file in error messages.

        Raises:
            AnnotationError: a missing or unknown key, or a wrong value.
        """
        try:
            return _parse(value)
        except (TypeError, ValueError, KeyError) as error:
            raise AnnotationError(f"{source} is not an annotation of carm-env: {error}.") from error


def _parse(value: Any) -> AnnotationRecord:
    if not isinstance(value, dict):
        raise ValueError(f"it holds {shortened(value)}, expected a mapping")
    check_keys("key", value, _KEYS)
    if missing := [key for key in _KEYS if key not in value]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if value["format"] != FORMAT:
        raise ValueError(f"format is {shortened(value['format'])}, expected {FORMAT}")
    for key, kind in (("patient", str), ("volume_digest", str), ("saved", str), ("finished", bool), ("revision", int),
                      ("landmarks", dict)):  # fmt: skip
        if type(value[key]) is not kind:
            raise TypeError(f"{key} is {shortened(value[key])}, expected {kind.__name__}")
    found = {landmark(name).id: Annotation.from_json(one) for name, one in value["landmarks"].items()}
    if len(found) != N_LANDMARKS:
        raise ValueError(f"it has {len(found)} landmarks, expected {N_LANDMARKS}")
    return AnnotationRecord(
        value["patient"],
        value["volume_digest"],
        check_person_name("annotator", value["annotator"]),
        found,
        landmark(value["current"]).id,
        value["finished"],
        value["revision"],
        value["saved"],
    )


def volume_digest(volume: Volume) -> str:
    """Returns 16 hex digits of a SHA-256 over voxels and affine: the same for a CT with other landmarks."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.hu).data)
    digest.update(volume.affine_lps_mm.tobytes())
    return digest.hexdigest()[:16]
