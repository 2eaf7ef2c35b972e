"""The messages of the annotation page."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from carm_env.cockpit.offers import patient_ref
from carm_env.cockpit.parsing import check_range
from carm_env.cockpit.refusals import MESSAGE, RefusedError
from carm_env.system.errors import shortened

IMAGES = ("mip", "xray")
MAX_NUDGE_MM = 50.0


@dataclass(frozen=True)
class Open:
    """Opens the annotation of a patient by a person.

    Attributes:
        patient: name of a virtual or imported patient.
        annotator: the person's pseudonym.
        images: ``mip`` for maximum-intensity projections of the whole CT, ``xray`` for X-rays.
    """

    patient: str
    annotator: str
    images: str = "mip"

    def __post_init__(self) -> None:
        _check_images(self.images)

    @property
    def key(self) -> Hashable:
        """What only one page at a time works on; all names of one patient are the same."""
        return str(patient_ref(self.patient)), self.annotator


@dataclass(frozen=True)
class Show:
    """Chooses the images of the whole CT; see `Open`."""

    images: str

    def __post_init__(self) -> None:
        _check_images(self.images)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the annotation that the page shows; a change of another one is refused.

    Attributes:
        revision: revision of the annotation that the page shows.
        asked: patient of the message that opened it; empty if the program opens only one.
        annotator: the person's pseudonym; empty if the program opens only one.
    """

    revision: int
    asked: str = ""
    annotator: str = ""


@dataclass(frozen=True)
class Click(Change):
    """Places the current landmark (`carm_env.annotation.session.AnnotationSession.click`).

    Attributes:
        view: name of the image.
        u: column; 0 is the centre of the first one.
        v: row.
    """

    view: str
    u: float
    v: float


@dataclass(frozen=True)
class Nudge(Change):
    """Moves the placed landmark a little.

    Attributes:
        plane: ``frontal`` or ``lateral``.
        right_mm: to the right in the image.
        up_mm: cranially.
    """

    plane: str
    right_mm: float
    up_mm: float

    def __post_init__(self) -> None:
        for name in ("right_mm", "up_mm"):
            check_range(name, getattr(self, name), -MAX_NUDGE_MM, MAX_NUDGE_MM)


@dataclass(frozen=True)
class GoTo:
    """Goes to a landmark.

    Attributes:
        landmark: its id.
    """

    landmark: int


@dataclass(frozen=True)
class Next:
    """Goes to the next landmark."""


@dataclass(frozen=True)
class Back:
    """Goes to the landmark before."""


@dataclass(frozen=True)
class Absent(Change):
    """Marks the current landmark as NA."""


@dataclass(frozen=True)
class Clear(Change):
    """Forgets the position of the current landmark."""


@dataclass(frozen=True)
class Finish:
    """Declares the CT finished."""


KINDS: dict[str, type[Any]] = {
    "open": Open, "show": Show, "click": Click, "nudge": Nudge, "go_to": GoTo, "next": Next, "back": Back,
    "absent": Absent, "clear": Clear, "finish": Finish,
}  # fmt: skip
"""The value of ``type`` to the class of the message."""


def _check_images(images: str) -> None:
    if images not in IMAGES:
        raise RefusedError(MESSAGE, f"images is {shortened(images)}, expected {' or '.join(IMAGES)}.")
