"""What is true of a view: where landmarks, lungs and findings project, and what the field shows.

Boxes are shares of the image's width and height. A landmark is a point; its box is that of a region of fixed size
around it, in the plane of the landmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import CArmPose, ProjectionGeometry
from carm_env.landmarks import LANDMARKS
from carm_env.patient import Patient
from carm_env.reports.structures import Points, finding_points, known_findings, lungs
from carm_env.views.sample import ViewLabels, label_view
from carm_env.xray_datasets.grounded import Box, bounding_box

REGION_HALF_MM: dict[str, tuple[float, float]] = {
    "Skull": (60.0, 60.0),
    "humeral head": (30.0, 30.0),
    "scapular inferior angle": (25.0, 25.0),
    "elbow": (35.0, 35.0),
    "wrist": (30.0, 25.0),
    "T1": (25.0, 20.0),
    "Carina": (25.0, 20.0),
    "hemidiaphragm": (50.0, 25.0),
    "T12": (25.0, 20.0),
}
"""Half the width (left to right) and half the height (head to foot) of a landmark's region, mm."""
_GRID = 9
"""Places along each side of the image where it is looked up whether the field shows the body."""


@dataclass(frozen=True, eq=False)
class KnownStructures:
    """The structures of one patient; found once, as it takes seconds.

    Attributes:
        patient: the patient.
        organs: points of ``right lung`` and ``left lung``, where they are in the CT.
        findings: points of each finding.
        findings_are_known: whether `findings` holds all findings that the patient has.
    """

    patient: Patient
    organs: Mapping[str, Points]
    findings: Mapping[str, Points]
    findings_are_known: bool

    @classmethod
    def of(cls, patient: Patient) -> KnownStructures:
        """Finds the structures of a patient."""
        return cls(patient, lungs(patient), finding_points(patient), known_findings(patient) is not None)


@dataclass(frozen=True)
class Extent:
    """How a structure projects onto an image.

    Attributes:
        box: its box within the image.
        share: share of it that lies within the image, 0 to 1.
        cut: margins of the image that cut it off, of ``right``, ``left``, ``superior`` and ``inferior``: the
            patient's right and left.
    """

    box: Box
    share: float
    cut: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ViewFacts:
    """What is true of one view.

    Attributes:
        labels: positions of the landmarks.
        positions: ``(14, 2)`` the same as shares of the image's width and height.
        regions: extent of the region of each visible landmark by id.
        organs: extents of the lungs that the image shows.
        findings: extents of the findings that the image shows.
        no_findings: the patient is known to have no findings.
        alpha_deg: angle of the beam to the patient's right or left (`carm_env.geometry.CArmPose`).
        beta_deg: angle of the beam to head or feet.
        body_share: share of the field that shows the body.
    """

    labels: ViewLabels
    positions: NDArray[np.float64]
    regions: Mapping[int, Extent]
    organs: Mapping[str, Extent]
    findings: Mapping[str, Extent]
    no_findings: bool
    alpha_deg: float
    beta_deg: float
    body_share: float


def region_half_mm(name: str) -> tuple[float, float]:
    """Returns half the width and half the height of a landmark's region, mm.

    >>> region_half_mm("Left wrist")
    (30.0, 25.0)
    """
    return REGION_HALF_MM[name.removeprefix("Right ").removeprefix("Left ")]


def shares(projection: ProjectionGeometry, points_lps_mm: Points) -> NDArray[np.float64]:
    """Returns where points ``(n, 3)`` project, ``(n, 2)``, as shares of the image's width and height."""
    size = np.array([projection.width, projection.height])
    return (projection.project(points_lps_mm) + 0.5) / size


def extent(projected: NDArray[np.float64]) -> Extent | None:
    """Returns the extent of points ``(n, 2)``, shares of the image; None if none of them is in it."""
    inside = ((projected >= 0) & (projected <= 1)).all(1)
    if not inside.any():
        return None
    box = bounding_box(projected[inside])
    if not (box[0] < box[2] and box[1] < box[3]):
        return None
    low, high = projected.min(0), projected.max(0)
    # The patient's right is on the left of the image.
    cut = {"right": low[0] < 0, "left": high[0] > 1, "superior": low[1] < 0, "inferior": high[1] > 1}
    return Extent(box, float(inside.mean()), tuple(name for name, is_cut in cut.items() if is_cut))


def region_extent(projection: ProjectionGeometry, point_lps_mm: Points, half_mm: tuple[float, float]) -> Extent | None:
    """Returns the extent of a landmark's region; None unless the image shows the landmark.

    Args:
        projection: projection onto the image.
        point_lps_mm: ``(3,)`` the landmark.
        half_mm: see `region_half_mm`.
    """
    centre = shares(projection, point_lps_mm[None])[0]
    if not ((centre > 0) & (centre < 1)).all():
        return None
    corners = np.array([[x, 0.0, z] for x in (-half_mm[0], half_mm[0]) for z in (-half_mm[1], half_mm[1])])
    projected = shares(projection, point_lps_mm + corners)
    box, (low, high) = bounding_box(projected), (projected.min(0), projected.max(0))
    share = (box[2] - box[0]) * (box[3] - box[1]) / float(np.prod(high - low))
    cut = {"right": low[0] < 0, "left": high[0] > 1, "superior": low[1] < 0, "inferior": high[1] > 1}
    return Extent(box, share, tuple(name for name, is_cut in cut.items() if is_cut))


def landmark_regions(patient: Patient, labels: ViewLabels, projection: ProjectionGeometry) -> dict[int, Extent]:
    """Returns the extent of the region of each landmark that the image shows, by id.

    Args:
        patient: the patient.
        labels: labels of the view.
        projection: projection of the view's pose onto the image.
    """
    return {
        item.id: found
        for item in LANDMARKS
        if item.id in patient.landmarks_lps_mm and labels.visible[item.index]
        and (found := region_extent(projection, patient.landmarks_lps_mm[item.id], region_half_mm(item.name)))
    }  # fmt: skip


def view_facts(known: KnownStructures, pose: CArmPose, projection: ProjectionGeometry) -> ViewFacts:
    """Returns what is true of a view.

    Args:
        known: the patient's structures.
        pose: pose of the C-arm.
        projection: projection of this pose onto the image.
    """
    patient = known.patient
    labels = label_view(patient, pose, projection)
    regions = landmark_regions(patient, labels, projection)
    organs, findings = (
        {name: found for name, points in group.items() if (found := extent(shares(projection, points)))}
        for group in (known.organs, known.findings)
    )
    size = np.array([projection.width, projection.height])
    no_findings = known.findings_are_known and not known.findings
    return ViewFacts(
        labels,
        (labels.pixels + 0.5) / size,
        regions,
        organs,
        findings,
        no_findings,
        pose.alpha_deg,
        pose.beta_deg,
        _body_share(patient, projection),
    )


def _body_share(patient: Patient, projection: ProjectionGeometry) -> float:
    steps = (np.arange(_GRID) + 0.5) / _GRID
    pixels = np.stack(np.meshgrid(steps * projection.width, steps * projection.height), -1).reshape(-1, 2) - 0.5
    source, directions = projection.ray(pixels)
    lengths = (patient.mid_depth_mm - source[1]) / directions[:, 1]
    points = source + lengths[:, None] * directions
    return float(np.mean([patient.covers(x, z) for x, _, z in points]))
