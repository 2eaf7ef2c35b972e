"""The annotation of one CT by one person, as a page works on it: `carm_env.annotation` behind messages."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.annotation.files import AnnotationConflictError
from carm_env.annotation.projections import FlatProjection, Projection
from carm_env.annotation.session import AnnotationSession, View
from carm_env.cockpit import annotation_messages as messages
from carm_env.cockpit.connection import Outgoing
from carm_env.cockpit.frames import encode_frame
from carm_env.cockpit.offers import patient_ref
from carm_env.cockpit.refusals import TURN
from carm_env.envs.scene import load_scene
from carm_env.landmarks import LANDMARKS
from carm_env.system.person_names import check_person_name

SIZE = 512
"""Height and width of the X-rays, pixels."""
_OVERVIEWS: dict[str, tuple[View, View]] = {"mip": ("frontal", "lateral"), "xray": ("frontal_xray", "lateral_xray")}
_CLOSE: tuple[View, View] = ("frontal_close", "lateral_close")


class AnnotationDesk:
    """The annotation of one CT by one person.

    Args:
        opening: the message that opens it.
        folder: folder of annotations; None for the default one.

    Raises:
        ValueError: there is no such patient, or the annotator's name has other characters than a pseudonym.
        AnnotationError: the annotation is of another version of the CT.
    """

    def __init__(self, opening: messages.Open, folder: Path | None = None) -> None:
        self._annotator, self._folder = check_person_name("annotator", opening.annotator), folder
        # All pages share the renderer of a CT, which is larger than the CT.
        self._scene = load_scene(patient_ref(opening.patient))
        self._images, self._asked = opening.images, opening.patient
        self._session = self._begin()

    def show(self) -> list[Outgoing]:
        """Returns all images and the state."""
        return [*map(self._frame, _OVERVIEWS[self._images]), *self._current()]

    def answer(self, message: Any) -> list[Outgoing]:
        """Carries out a message; every change is on the disk when it returns.

        Raises:
            AnnotationError: the click is outside the image or the CT, or landmarks are open.
            UnknownNameError: an unknown view, plane or landmark.
        """
        if isinstance(message, messages.Show):
            self._images = message.images
            return self.show()
        if isinstance(message, messages.Change) and not self._is_meant(message):
            text = "That was for another CT and changed nothing: look at the new image, and click again."
            return [_refused(text), *self.show()]
        if isinstance(message, messages.Change) and message.revision != self._session.record.revision:
            # A second click before the first one was answered: it was meant for the image that was shown then.
            text = "That was for an older image and changed nothing: look at the new one, and click again."
            return [_refused(text), *self._current()]
        try:
            self._carry_out(message)
        except AnnotationConflictError:
            self._session = self._begin()
            text = (
                "Another program has changed this annotation in the meantime. Its newer state is shown now, and your "
                "last click changed nothing: click again."
            )
            return [_refused(text), *self.show()]
        return self._current()

    def close(self) -> None:
        """Does nothing: the annotation is on the disk."""

    def _is_meant(self, change: messages.Change) -> bool:
        return change.asked in ("", self._asked) and change.annotator in ("", self._annotator)

    def _begin(self) -> AnnotationSession:
        return AnnotationSession(self._scene.patient, self._annotator, self._folder, SIZE, self._scene.camera)

    def _carry_out(self, message: Any) -> None:
        session = self._session
        if isinstance(message, messages.Click):
            session.click(message.view, (message.u, message.v), message.revision)  # type: ignore[arg-type]
        elif isinstance(message, messages.Nudge):
            session.nudge(message.plane, message.right_mm, message.up_mm)  # type: ignore[arg-type]
        elif isinstance(message, messages.GoTo):
            session.go_to(message.landmark)
        elif isinstance(message, messages.Next):
            session.next()
        elif isinstance(message, messages.Back):
            session.back()
        elif isinstance(message, messages.Absent):
            session.mark_absent()
        elif isinstance(message, messages.Clear):
            session.clear()
        elif isinstance(message, messages.Finish):
            session.finish()

    def _current(self) -> list[Outgoing]:
        """Returns the X-rays that are centred on the current landmark, if it is placed, and the state."""
        close = self._close()
        overviews: dict[View, Projection] = {name: self._session.view(name) for name in _OVERVIEWS[self._images]}
        marks = {name: self._marks(projection) for name, projection in (overviews | close).items()}
        return [*(self._encoded(name, projection) for name, projection in close.items()), self._state(marks)]

    def _close(self) -> dict[View, Projection]:
        found = {}
        for name in _CLOSE if self._session.annotation.state == "placed" else ():
            # None where the source would stand in the patient, as for a point far outside of the body.
            with contextlib.suppress(ValueError):
                found[name] = self._session.view(name)
        return found

    def _frame(self, name: View) -> bytes:
        return self._encoded(name, self._session.view(name))

    def _encoded(self, name: View, projection: Projection) -> bytes:
        pixel_mm = projection.pixel_mm if isinstance(projection, FlatProjection) else (1.0, 1.0)
        return encode_frame({"type": "frame", "view": name, "pixel": list(pixel_mm)}, projection.image)

    def _marks(self, projection: Projection) -> list[list[float]]:
        """Returns id, column and row of each placed landmark in an image."""
        height, width = projection.image.shape
        found = []
        for key, point in self._session.record.points_lps_mm.items():
            u, v = projection.project(point).tolist()
            if -0.5 <= u <= width - 0.5 and -0.5 <= v <= height - 0.5:
                found.append([key, round(u, 2), round(v, 2)])
        return found

    def _state(self, marks: Mapping[View, list[list[float]]]) -> dict[str, Any]:
        record = self._session.record
        return {
            "type": "annotation",
            "patient": record.patient,
            "asked": self._asked,
            "annotator": record.annotator,
            "revision": record.revision,
            "saved": record.saved,
            "finished": record.finished,
            "current": record.current,
            "images": self._images,
            "landmarks": [
                {"id": item.id, "name": item.name, "state": one.state, "depth": one.depth,
                 "at_mm": None if one.point_lps_mm is None else np.round(one.point_lps_mm, 1).tolist()}
                for item, one in ((item, record.annotations[item.id]) for item in LANDMARKS)
            ],
            "marks": marks,
            "warnings": self._session.warnings(),
        }  # fmt: skip


def _refused(text: str) -> dict[str, Any]:
    return {"type": "refused", "reason": TURN, "text": text}
