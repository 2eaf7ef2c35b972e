"""One person annotates one CT: clicks in projections, states, Next and Back; saved at every change.

    session = AnnotationSession(load_patient("imported:thorax"), "reader-1")
    session.click("frontal", (201, 93))      # depth from the strongest bone along the line of this pixel
    session.click("lateral", (88, 90))       # or from a lateral click
    session.click("frontal_close", (260, 251))
    session.next()

| view | image | a click sets |
|---|---|---|
| ``frontal`` | maximum-intensity projection | x and z; the depth as well, unless a lateral click gave it |
| ``frontal_xray`` | X-ray of the whole CT | the same |
| ``lateral``, ``lateral_xray`` | the same from the side | the depth, along the line of the frontal click |
| ``frontal_close`` | X-ray of a C-arm centred on the landmark | x and z, at the same depth |
| ``lateral_close`` | the same from the side | the depth and z |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.plausibility import check_landmarks
from carm_env.annotation.depth import bone_depth_mm
from carm_env.annotation.files import (
    AnnotationConflictError,
    annotations_folder,
    open_annotation,
    save_annotation,
)
from carm_env.annotation.projections import (
    DEPTH_AXIS,
    Plane,
    Projection,
    XRayProjection,
    centred_xray,
    check_plane,
    intensity_projection,
    overview_xray,
)
from carm_env.annotation.records import (
    FRONTAL_BEAM,
    Annotation,
    AnnotationError,
    AnnotationRecord,
    DepthSource,
    placed,
    volume_digest,
)
from carm_env.landmarks import N_LANDMARKS, Landmark, landmark
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError, shortened
from carm_env.xray.camera import XRayCamera

View = Literal["frontal", "lateral", "frontal_xray", "lateral_xray", "frontal_close", "lateral_close"]
VIEWS: tuple[View, ...] = ("frontal", "lateral", "frontal_xray", "lateral_xray", "frontal_close", "lateral_close")
_DEPTH_STEPS = 4
"""A lateral cone-beam line and a frontal one nearly meet; the point where they do is found in this many steps."""


class AnnotationSession:
    """The annotation of one CT by one person. Every change is on the disk when the method returns.

    Args:
        patient: the patient; its own landmarks are neither shown nor used.
        annotator: name of the person: letters, digits, hyphens and underscores.
        folder: folder of annotations; None for `carm_env.annotation.files.annotations_folder`.
        size: height and width of the X-rays, pixels.
        camera: camera of the patient; None for one with the default settings, made at the first X-ray.

    Raises:
        AnnotationError: there is an annotation by this person of another version of the CT.
        ValueError: the annotator's name has other characters.
    """

    def __init__(
        self,
        patient: Patient,
        annotator: str,
        folder: Path | None = None,
        size: int = 512,
        camera: XRayCamera | None = None,
    ) -> None:
        self.volume = patient.volume
        self.folder = annotations_folder() if folder is None else folder
        self._record = open_annotation(self.folder, patient.id, volume_digest(patient.volume), annotator)
        self._size, self._camera = size, camera
        self._overviews: dict[View, Projection] = {}

    @property
    def record(self) -> AnnotationRecord:
        """The annotation as it is on the disk."""
        return self._record

    @property
    def current(self) -> Landmark:
        """The landmark that the person is at."""
        return landmark(self._record.current)

    @property
    def annotation(self) -> Annotation:
        """The annotation of the current landmark."""
        return self._record.annotations[self._record.current]

    def view(self, name: View) -> Projection:
        """Returns an image with its conversion of pixels; see the module for the names.

        Raises:
            UnknownNameError: an unknown view.
            AnnotationError: a close view, and the current landmark is not placed.
        """
        if name not in VIEWS:
            raise UnknownNameError("view", name, VIEWS)
        plane = check_plane(name.partition("_")[0])
        if name.endswith("_close"):
            return centred_xray(self._xray_camera(), self._point(name), plane, self._size)
        if name not in self._overviews:
            self._overviews[name] = (
                overview_xray(self._xray_camera(), plane, self._size)
                if name.endswith("_xray")
                else intensity_projection(self.volume, plane)
            )
        return self._overviews[name]

    def click(self, name: View, pixel: Sequence[float], revision: int | None = None) -> Annotation:
        """Places the current landmark, or moves it, to a pixel of a view; see the module.

        Args:
            name: the view.
            pixel: column and row, which may be fractional.
            revision: revision of the record when the image was drawn; None if it cannot be another one. A second click
                on an old close view, which is centred on the old position, would move the landmark twice.

        Returns:
            The annotation of the current landmark.

        Raises:
            UnknownNameError: an unknown view.
            AnnotationError: the pixel is outside the image or its point outside the CT, or the landmark has no frontal
                position yet.
            AnnotationConflictError: the image was drawn for another revision.
        """
        if revision not in (None, self._record.revision):
            raise AnnotationConflictError(
                f"the image was drawn for revision {revision}, expected {self._record.revision}: click in the new one."
            )
        projection = self.view(name)
        uv = _checked_pixel(pixel, projection)
        if name in ("frontal", "frontal_xray"):
            return self._place(self._frontal(projection, uv))
        point = self._point(name)
        if name.endswith("_close"):
            moved = projection.unproject(uv, point[DEPTH_AXIS[projection.plane]])
            if projection.plane == "frontal":
                return self._place(replace(self._at(moved, _beam(projection, uv)), depth=self.annotation.depth))
            return self._place(self._at(moved, self.annotation.beam, "lateral"))
        for _ in range(_DEPTH_STEPS):
            point = self._along_beam(float(projection.unproject(uv, point[0])[1]))
        return self._place(self._at(point, self.annotation.beam, "lateral"))

    def nudge(self, plane: Plane, right_mm: float, up_mm: float) -> Annotation:
        """Moves the placed landmark within a plane, as by a key.

        Args:
            plane: ``"frontal"`` or ``"lateral"``.
            right_mm: to the right in the image: to the patient's left in a frontal image, backwards in a lateral one.
            up_mm: cranially.

        Raises:
            UnknownNameError: another plane.
            AnnotationError: the landmark is not placed, or would leave the CT.
        """
        point = self._point(check_plane(plane)).copy()
        point += (right_mm, 0.0, up_mm) if plane == "frontal" else (0.0, right_mm, up_mm)
        depth: DepthSource | None = "lateral" if plane == "lateral" else self.annotation.depth
        return self._place(self._at(point, self.annotation.beam, depth or "assumed"))

    def mark_absent(self) -> None:
        """Marks the current landmark as NA: it is not in the CT, or cannot be recognised."""
        self._set(Annotation("na"))

    def clear(self) -> None:
        """Opens the current landmark again and forgets its position."""
        self._set(Annotation())

    def next(self) -> Landmark:
        """Goes to the next landmark, if there is one, and returns it."""
        return self.go_to(min(self._record.current + 1, N_LANDMARKS))

    def back(self) -> Landmark:
        """Goes to the landmark before, if there is one, and returns it."""
        return self.go_to(max(self._record.current - 1, 1))

    def go_to(self, key: int | str) -> Landmark:
        """Goes to a landmark, by id or name, and returns it.

        Raises:
            UnknownNameError: an unknown landmark.
        """
        self._save(replace(self._record, current=landmark(key).id))
        return self.current

    def finish(self) -> None:
        """Declares the CT finished; a later change opens it again.

        Raises:
            AnnotationError: landmarks are open.
        """
        if still_open := self._record.ids("open"):
            names = ", ".join(landmark(key).name for key in still_open)
            count = "1 landmark is" if len(still_open) == 1 else f"{len(still_open)} landmarks are"
            raise AnnotationError(f"{count} open: {names}. Place them, or mark them as NA.")
        self._save(replace(self._record, finished=True))

    def warnings(self) -> list[str]:
        """Returns warnings about positions that are implausible in the population; they never stop the annotation."""
        assumed = [
            f"warning: the depth of {landmark(key).name} is assumed, because its line meets no bone. Click it in the "
            "lateral image."
            for key, one in self._record.annotations.items()
            if one.depth == "assumed"
        ]
        report = check_landmarks(self._record.points_lps_mm, self.volume)
        return [*(f"warning: {finding.text} {finding.remedy}" for finding in report.findings), *assumed]

    def _frontal(self, projection: Projection, pixel: NDArray[np.float64]) -> Annotation:
        """Returns the current landmark on the line of a frontal pixel."""
        beam, known = _beam(projection, pixel), self.annotation
        if known.point_lps_mm is not None and known.depth == "lateral":
            return self._at(projection.unproject(pixel, known.point_lps_mm[1]), beam, "lateral")
        depth = bone_depth_mm(self.volume, projection, pixel)
        if depth is not None:
            return self._at(projection.unproject(pixel, depth), beam, "bone")
        first, last = self.volume.corners_lps_mm
        return self._at(projection.unproject(pixel, (first[1] + last[1]) / 2), beam, "assumed")

    def _along_beam(self, y_mm: float) -> NDArray[np.float64]:
        """Returns the point at a depth on the line of the frontal click."""
        point, beam = np.array(self.annotation.point_lps_mm), np.array(self.annotation.beam)
        return point + beam * ((y_mm - point[1]) / beam[1])

    def _at(self, point_lps_mm: NDArray[np.float64], beam: ArrayLike, depth: DepthSource = "assumed") -> Annotation:
        """Returns a placed landmark; raises AnnotationError if the point is outside the CT."""
        low, high = self.volume.corners_lps_mm
        slack = self.volume.spacing_mm / 2
        if (point_lps_mm < low - slack).any() or (point_lps_mm > high + slack).any():
            raise AnnotationError(
                f"{self.current.name} would be at {np.round(point_lps_mm, 1).tolist()} (LPS mm), outside the CT, which "
                f"extends from {np.round(low, 1).tolist()} to {np.round(high, 1).tolist()}: click within the CT."
            )
        return placed(point_lps_mm, depth, np.asarray(beam, float))

    def _point(self, view: str) -> NDArray[np.float64]:
        point = self.annotation.point_lps_mm
        if point is None:
            raise AnnotationError(
                f"{self.current.name} has no position yet, which view {view} needs: click it in a frontal image first."
            )
        return np.array(point)

    def _xray_camera(self) -> XRayCamera:
        if self._camera is None:
            self._camera = XRayCamera(self.volume)
        return self._camera

    def _place(self, annotation: Annotation) -> Annotation:
        self._set(annotation)
        return annotation

    def _set(self, annotation: Annotation) -> None:
        changed = {**self._record.annotations, self._record.current: annotation}
        self._save(replace(self._record, annotations=changed, finished=False))

    def _save(self, record: AnnotationRecord) -> None:
        # The session keeps its state if the file cannot be written.
        self._record = save_annotation(self.folder, record)


def _beam(projection: Projection, pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the direction ``(3,)`` of the line of a pixel in a frontal image, from front to back."""
    if isinstance(projection, XRayProjection):
        return projection.geometry.ray(pixel)[1]
    return np.array(FRONTAL_BEAM)


def _checked_pixel(pixel: Sequence[float], projection: Projection) -> NDArray[np.float64]:
    height, width = projection.image.shape
    try:
        uv = np.asarray(pixel, float)
    except (TypeError, ValueError):
        uv = np.empty(0)
    inside = uv.shape == (2,) and (uv >= -0.5).all() and (uv <= (width - 0.5, height - 0.5)).all()
    if not inside:
        raise AnnotationError(
            f"pixel is {shortened(pixel)}, expected column and row within the image of {width} x {height} pixels."
        )
    return uv
