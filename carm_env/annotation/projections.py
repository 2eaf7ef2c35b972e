"""Frontal and lateral projections of a CT, with exact conversion between pixels and the patient frame (LPS, mm).

Pixel coordinates are ``(u, v)``, column and row; ``(0, 0)`` is the centre of the first pixel. In a frontal image the
patient's right is on the left, in a lateral image the front of the patient is on the left; cranial is up in both.

A pixel is a line in the patient. The coordinate along it that an image does not show is its depth: LPS y in a frontal
image, LPS x in a lateral one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.geometry import CArmPose, ProjectionGeometry, check_image_size
from carm_env.system.errors import UnknownNameError
from carm_env.volume import Volume
from carm_env.xray.camera import XRayCamera

Plane = Literal["frontal", "lateral"]
PLANES: tuple[Plane, ...] = ("frontal", "lateral")
DEPTH_AXIS: dict[Plane, int] = {"frontal": 1, "lateral": 0}
"""LPS axis that an image of the plane does not show."""
_COLUMN_AXIS: dict[Plane, int] = {"frontal": 0, "lateral": 1}

WINDOW_HU = (-200.0, 1200.0)
"""Black and white of maximum-intensity projections: soft tissue is dark grey and cortical bone is white."""
SOURCE_DISTANCE_MM = 2000.0
"""Distance of the source from the middle of the CT in an X-ray of the whole CT."""


class Projection(Protocol):
    """An image of a CT that a person clicks on.

    Attributes:
        plane: ``"frontal"`` or ``"lateral"``.
        image: ``(H, W)`` uint8.
    """

    @property
    def plane(self) -> Plane:
        """The plane of the image."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image ``(H, W)`` uint8."""

    def project(self, points_lps_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the pixels ``(..., 2)`` of points ``(..., 3)``, LPS mm."""

    def unproject(self, pixels: ArrayLike, depth_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the points ``(..., 3)``, LPS mm, of pixels ``(..., 2)`` at a depth ``(...)``.

        It is the inverse of `project`: ``unproject(project(p), p[DEPTH_AXIS[plane]]) == p``.
        """


def check_plane(plane: str) -> Plane:
    """Returns `plane`; raises UnknownNameError if it is neither ``"frontal"`` nor ``"lateral"``."""
    if plane not in PLANES:
        raise UnknownNameError("plane", plane, PLANES)
    return plane


@dataclass(frozen=True, eq=False)
class FlatProjection:
    """A parallel projection along an axis of the CT, one pixel a voxel.

    Attributes:
        plane: ``"frontal"`` or ``"lateral"``.
        image: ``(H, W)`` uint8.
        first_pixel_lps_mm: ``(3,)`` the centre of pixel ``(0, 0)``; its depth is that of the middle of the CT.
        pixel_mm: width and height of a pixel, mm.
    """

    plane: Plane
    image: NDArray[np.uint8]
    first_pixel_lps_mm: NDArray[np.float64]
    pixel_mm: tuple[float, float]

    def project(self, points_lps_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the pixels ``(..., 2)`` of points ``(..., 3)``, LPS mm."""
        offsets = np.asarray(points_lps_mm, float) - self.first_pixel_lps_mm
        return np.stack([offsets[..., _COLUMN_AXIS[self.plane]], -offsets[..., 2]], axis=-1) / self.pixel_mm

    def unproject(self, pixels: ArrayLike, depth_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the points ``(..., 3)``, LPS mm, of pixels ``(..., 2)`` at a depth ``(...)``."""
        steps = np.asarray(pixels, float) * self.pixel_mm
        depths = np.asarray(depth_mm, float)
        points = np.empty((*np.broadcast_shapes(steps.shape[:-1], depths.shape), 3))
        column = _COLUMN_AXIS[self.plane]
        points[..., column] = self.first_pixel_lps_mm[column] + steps[..., 0]
        points[..., 2] = self.first_pixel_lps_mm[2] - steps[..., 1]
        points[..., DEPTH_AXIS[self.plane]] = depths
        return points


@dataclass(frozen=True, eq=False)
class XRayProjection:
    """A cone-beam projection: an X-ray of the whole CT or of a C-arm.

    Attributes:
        plane: ``"frontal"`` or ``"lateral"``.
        image: ``(H, W)`` uint8, bone is bright.
        geometry: source and detector.
    """

    plane: Plane
    image: NDArray[np.uint8]
    geometry: ProjectionGeometry

    def project(self, points_lps_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the pixels ``(..., 2)`` of points ``(..., 3)``, LPS mm; NaN behind the source."""
        return self.geometry.project(points_lps_mm)

    def unproject(self, pixels: ArrayLike, depth_mm: ArrayLike) -> NDArray[np.float64]:
        """Returns the points ``(..., 3)``, LPS mm, where the rays of pixels ``(..., 2)`` have a depth ``(...)``."""
        source, directions = self.geometry.ray(pixels)
        axis = DEPTH_AXIS[self.plane]
        lengths = (np.asarray(depth_mm, float) - source[axis]) / directions[..., axis]
        points = source + lengths[..., None] * directions
        # Without the rounding error of the two steps: the depth is the given one.
        points[..., axis] = depth_mm
        return points


def intensity_projection(volume: Volume, plane: Plane) -> FlatProjection:
    """Returns the maximum-intensity projection of a CT: each pixel shows the densest voxel along its line.

    Raises:
        UnknownNameError: another plane.
    """
    axis = DEPTH_AXIS[check_plane(plane)]
    brightest = volume.hu.max(axis=axis).T[::-1]
    black, white = WINDOW_HU
    grey = np.clip((brightest.astype(np.float32) - black) / (white - black), 0, 1)
    first, last = volume.corners_lps_mm
    corner = first.copy()
    corner[2], corner[axis] = last[2], (first[axis] + last[axis]) / 2
    spacing = volume.spacing_mm
    return FlatProjection(
        plane, np.rint(255 * grey).astype(np.uint8), corner, (float(spacing[_COLUMN_AXIS[plane]]), float(spacing[2]))
    )


def overview_xray(camera: XRayCamera, plane: Plane, size: int = 512) -> XRayProjection:
    """Returns an X-ray of the whole CT, from a source far away.

    Args:
        camera: camera of the patient; its beam and window are used.
        plane: ``"frontal"`` (from the front) or ``"lateral"`` (from the left).
        size: height and width in pixels.

    Raises:
        UnknownNameError: another plane.
        ValueError: `size` is out of range.
    """
    geometry = _overview_geometry(camera.volume, check_plane(plane), check_image_size(size))
    log_image = camera.log_image_of(geometry)
    return XRayProjection(plane, camera.settings.window.apply(log_image), geometry)


def _overview_geometry(volume: Volume, plane: Plane, size: int) -> ProjectionGeometry:
    """Returns a projection in which the square detector stands behind the CT and shows all of it."""
    low, high = volume.corners_lps_mm
    middle, half = (low + high) / 2, (high - low) / 2 + volume.spacing_mm
    x, y, z = middle.tolist()
    pose = CArmPose((x, y, z), 90.0 if plane == "lateral" else 0.0)
    columns, rows, ray = pose.axes_lps()
    behind = float(half[DEPTH_AXIS[plane]])
    source = middle - SOURCE_DISTANCE_MM * ray
    # The near side of the CT is magnified most.
    magnification = (SOURCE_DISTANCE_MM + behind) / (SOURCE_DISTANCE_MM - behind)
    pixel = 2 * magnification * float(max(half[_COLUMN_AXIS[plane]], half[2])) / size
    first = middle + behind * ray - (size - 1) / 2 * pixel * (columns + rows)
    return ProjectionGeometry(source, first, pixel * columns, pixel * rows, size, size)


def centred_xray(camera: XRayCamera, point_lps_mm: ArrayLike, plane: Plane, size: int = 512) -> XRayProjection:
    """Returns the X-ray of a C-arm whose isocentre is a point: the point is in the middle of the image.

    Args:
        camera: camera of the patient.
        point_lps_mm: ``(3,)`` the point, LPS mm.
        plane: ``"frontal"`` or ``"lateral"``.
        size: height and width in pixels.

    Raises:
        UnknownNameError: another plane.
        ValueError: `size` is out of range, or the source would stand in the patient.
    """
    alpha_deg = 90.0 if check_plane(plane) == "lateral" else 0.0
    x, y, z = np.asarray(point_lps_mm, float).tolist()
    pose = CArmPose((x, y, z), alpha_deg)
    return XRayProjection(plane, camera.image(pose, size), camera.projection(pose, size))
