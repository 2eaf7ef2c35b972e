"""Frontal views of CTs and of virtual patients that show the same part of the body on the same voxels.

Positions are relative to two landmarks of the spine or the head, no view shows an end of its volume, and all volumes
pass through the voxels of the CT that they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_env.body_depth import SKIN_HU
from carm_env.ct.grid import to_isotropic, without_table
from carm_env.geometry import DEFAULT_GEOMETRY, CArmPose, planar_displacement_mm
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.randomization.scan import Scan, acquire
from carm_env.volume import Volume
from carm_env.xray.camera import XRayCamera

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
AXES = (("T1", "Skull"), ("T12", "T1"))
"""Lower and upper landmark of the line that positions refer to; a CT has the first pair of which it has both."""
ACROSS_MM = 40.0
"""Largest distance of the isocentre from that line, to the right and left."""
FINEST_MM = 2.0
"""Voxels of virtual patients; finer ones of a CT are averaged to this size."""
_SURROUNDINGS_PX = (16.0, 2.0)
"""Standard deviations of the surroundings that order equal pixels; the last one first."""
_MARGIN_MM = 6.0
_TRIES = 200


@dataclass(frozen=True)
class Positions:
    """Isocentres relative to two landmarks.

    Attributes:
        axis: lower and upper landmark.
        shares: ``(n,)`` height above the lower landmark as a share of the distance to the upper one.
        across_mm: ``(n,)`` distance from the line through both, to the left.
        closest: ids of the landmarks that may be closest to the isocentre.
    """

    axis: tuple[str, str]
    shares: Floats
    across_mm: Floats
    closest: frozenset[int]

    def __len__(self) -> int:
        return len(self.shares)

    def only(self, numbers: NDArray[np.intp]) -> Positions:
        """Returns some of the positions."""
        return replace(self, shares=self.shares[numbers], across_mm=self.across_mm[numbers])


@dataclass(frozen=True, eq=False)
class Subject:
    """A patient without a table, and where its C-arm may stand.

    Attributes:
        patient: the patient.
        reach_mm: half the side of a view at the back of the body, where the detector shows most.
        isocenter_y_mm: LPS y of the isocentre.
        limits_mm: ``(2, 2)`` lowest and highest isocentre, ``(x, z)``, that shows no end of a body that is cut there.
    """

    patient: Patient
    reach_mm: float
    isocenter_y_mm: float
    limits_mm: Floats

    @classmethod
    def of(cls, patient: Patient, isocenter_depth_mm: float) -> Subject:
        """Removes the table of a patient and finds the limits of its isocentres."""
        volume, _ = without_table(patient.volume)
        bare = Patient(patient.id, volume, patient.landmarks_lps_mm, patient.card)
        body = volume.hu > SKIN_HU
        rows = np.flatnonzero(body.any(axis=(0, 2)))
        back_mm = float(volume.lps_from_index([0, rows[-1], 0])[1])
        y = bare.mid_depth_mm - isocenter_depth_mm
        reach = DEFAULT_GEOMETRY.field_of_view_at_mm(back_mm - y) / 2
        first, last = volume.corners_lps_mm
        limits = np.array([[-np.inf, -np.inf], [np.inf, np.inf]])
        for column, axis in enumerate((0, 2)):
            if body.take(0, axis).any():
                limits[0, column] = first[axis] + reach
            if body.take(-1, axis).any():
                limits[1, column] = last[axis] - reach
        return cls(bare, reach, y, limits)

    def isocenters(self, positions: Positions) -> Floats:
        """Returns the isocentres ``(n, 3)`` at relative positions, LPS mm."""
        lower, upper = (self.patient.landmarks_lps_mm[landmark(name).id] for name in positions.axis)
        points = lower + positions.shares[:, None] * (upper - lower)
        points[:, 0] += positions.across_mm
        points[:, 1] = self.isocenter_y_mm
        return points

    def shown(self, positions: Positions) -> NDArray[np.bool_]:
        """Returns at which positions ``(n,)`` a view shows no end of the volume and has an allowed closest landmark."""
        points = self.isocenters(positions)
        low, high = self.limits_mm
        inside = ((points[:, [0, 2]] >= low) & (points[:, [0, 2]] <= high)).all(axis=1)
        return inside & [self._closest(point) in positions.closest for point in points]

    def _closest(self, point: Floats) -> int:
        pose, aims = CArmPose(tuple(point.tolist())), self.patient.landmarks_lps_mm
        return min(aims, key=lambda key: float(np.hypot(*planar_displacement_mm(pose, aims[key]))))


def axis_of(patient: Patient) -> tuple[str, str]:
    """Returns the first pair of `AXES` of which a patient has both landmarks.

    Raises:
        ValueError: it has no such pair.
    """
    for pair in AXES:
        if all(landmark(name).id in patient.landmarks_lps_mm for name in pair):
            return pair
    pairs = " or ".join(" and ".join(pair) for pair in AXES)
    raise ValueError(f"{patient.id} lacks landmarks, expected {pairs}.")


def draw_positions(subject: Subject, count: int, rng: np.random.Generator) -> Positions:
    """Draws positions between two landmarks of a CT whose views show no end of its volume.

    Raises:
        ValueError: hardly any view shows no end.
    """
    axis, aims = axis_of(subject.patient), frozenset(subject.patient.landmarks_lps_mm)
    # Every number is drawn, so that the first positions do not depend on their count.
    draws = rng.uniform([0.0, -ACROSS_MM], [1.0, ACROSS_MM], (_TRIES, count, 2)).reshape(-1, 2)
    drawn = Positions(axis, draws[:, 0], draws[:, 1], aims)
    low, high = subject.limits_mm
    points = subject.isocenters(drawn)[:, [0, 2]]
    kept = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))[:count]
    if len(kept) < count:
        raise ValueError(
            f"{subject.patient.id} shows an end of its volume in nearly all views between {' and '.join(axis)}: use a "
            "CT that covers more."
        )
    return drawn.only(kept)


@dataclass(frozen=True)
class Voxels:
    """The voxels of an imported CT.

    Attributes:
        source_mm: side of the pixels and thickness of the slices in which it was stored.
        spacing_mm: side of the cubes to which the import resampled them.
    """

    source_mm: tuple[float, float]
    spacing_mm: float

    @classmethod
    def of(cls, patient: Patient) -> Voxels:
        """Returns the voxels of a patient; those of one that was not imported were always its own."""
        x, y, z = patient.card.get("source_voxel_mm", patient.volume.spacing_mm.tolist())
        return cls((max(float(x), float(y)), float(z)), float(patient.volume.spacing_mm[0]))

    @property
    def of_others_mm(self) -> tuple[float, float]:
        """Pixels and slices to which a virtual patient is averaged: the larger ones of this CT and of its own."""
        return max(self.source_mm[0], FINEST_MM), max(self.source_mm[1], FINEST_MM)

    @property
    def own_mm(self) -> tuple[float, float]:
        """Pixels and slices to which the CT itself is averaged; 0 along an axis where it is coarse already."""
        pixel, thickness = (FINEST_MM if mm < FINEST_MM else 0.0 for mm in self.source_mm)
        return pixel, thickness


def rescanned(volume: Volume, source_mm: tuple[float, float], spacing_mm: float) -> Volume:
    """Averages a volume to voxels that a CT was stored in, and resamples them as the import of that CT does.

    Args:
        volume: a volume; axes along which its voxels were as large before stay as they are.
        source_mm: side of the pixels and thickness of the slices.
        spacing_mm: side of the cubes of the imported CT.
    """
    scan = Scan(pixel_mm=source_mm[0], slice_mm=source_mm[1])
    averaged = acquire(Patient("rescanned", volume, {}), scan, "rescanned").volume
    if np.allclose(averaged.spacing_mm, spacing_mm):
        return averaged
    return to_isotropic(averaged.hu.astype(np.float32), averaged.affine_lps_mm, spacing_mm)


def _cropped(volume: Volume, low: Floats, high: Floats) -> Volume:
    """Returns the part between two points ``(x, z)``; its depth is whole."""
    first, last = (volume.index_from_lps([x, 0.0, z])[[0, 2]] for x, z in (low, high))
    start = np.maximum(np.floor(first).astype(int), 0)
    stop = np.minimum(np.ceil(last).astype(int) + 1, np.array(volume.hu.shape)[[0, 2]])
    hu = np.ascontiguousarray(volume.hu[start[0] : stop[0], :, start[1] : stop[1]])
    return Volume.from_origin(hu, volume.spacing_mm, volume.lps_from_index([start[0], 0, start[1]]))


def render_matched(
    subject: Subject, positions: Positions, source_mm: tuple[float, float], spacing_mm: float, size: int
) -> Images:
    """Renders a patient at relative positions, on the voxels of a CT, without noise.

    Args:
        subject: the patient.
        positions: where to look, at least one.
        source_mm: pixels and slices to average to; 0 for those of the patient.
        spacing_mm: side of the cubes to resample to.
        size: side of the images in pixels.

    Returns:
        Images ``(n, size, size)``; open air is black.
    """
    points = subject.isocenters(positions)
    margin = subject.reach_mm + _MARGIN_MM
    part = _cropped(subject.patient.volume, points.min(0)[[0, 2]] - margin, points.max(0)[[0, 2]] + margin)
    camera = XRayCamera(rescanned(part, source_mm, spacing_mm))
    return np.stack([camera.image(CArmPose(tuple(point.tolist())), size) for point in points])


def match_histograms(images: Images, air: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Gives the bodies in all images the same histogram, the mean of theirs; air becomes black.

    The pixels of a body keep their order; equal ones are ordered by the means of their surroundings (Coltuc et al.,
    Exact histogram specification, IEEE Transactions on Image Processing 15, 2006). Air is left out: in it, any order
    would become a pattern that tells one kind of images from another.

    Args:
        images: ``(n, s, s)``.
        air: ``(n, s, s)`` pixels without a body.
    """
    from scipy.ndimage import gaussian_filter

    values = np.asarray(images, np.float32)
    shares = (np.arange(values[0].size) + 0.5) / values[0].size
    bodies = [np.quantile(image[~outside], shares) for image, outside in zip(values, air, strict=True)]
    reference = np.mean(bodies, axis=0)
    matched = np.zeros_like(values)
    for image, outside, out in zip(values, air, matched, strict=True):
        body = ~outside
        surroundings = [gaussian_filter(image, sigma)[body] for sigma in _SURROUNDINGS_PX]
        order = np.lexsort((*surroundings, image[body]))
        ranked = np.empty(len(order), np.float32)
        ranked[order] = np.interp((np.arange(len(order)) + 0.5) / len(order), shares, reference)
        out[body] = ranked
    return matched
