"""C-arm geometry: poses of the C-arm, projections of points to pixels, and rays through pixels.

World is the patient frame, LPS in millimetres: +x to the patient's left, +y posterior, +z superior. Pixel
coordinates are ``(u, v)``, column and row; ``(0, 0)`` is the centre of the first pixel.

In a frontal view (both angles 0) the patient's right is on the left of the image and cranial is up, for both
projections: an image is shown as if one faced the patient.

Two angles are compound rotations, whose order matters. `CArmPose` follows DeepDRR: ``alpha`` rotates the C-arm about
the patient's long axis, then ``beta`` rotates the result about the patient's fixed left-right axis. DICOM's positioner
angles are a longitude and a latitude of the detector, which is the other order: `positioner_angles_deg` and
`angles_from_positioner` convert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.system.errors import UnknownNameError, finite_number

FloatArray = NDArray[np.float64]
Projection = Literal["AP", "PA"]
PROJECTIONS: tuple[Projection, ...] = ("AP", "PA")

MAX_ALPHA_DEG, MAX_BETA_DEG = 180.0, 90.0

LEFT = np.array([1.0, 0.0, 0.0])
POSTERIOR = np.array([0.0, 1.0, 0.0])
CRANIAL = np.array([0.0, 0.0, 1.0])


def finite_point(name: str, value: ArrayLike) -> FloatArray:
    """Returns `value` as a float array ``(3,)``.

    Raises:
        ValueError: `value` has another shape or a non-finite number; the message calls it `name`.
    """
    try:
        point = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise ValueError(f"{name} is {value!r}, expected three finite numbers (LPS, mm).")
    return point


@dataclass(frozen=True)
class CArmGeometry:
    """The rigid part of the C-arm; the defaults are DeepDRR's ``MobileCArm``, as in the paper.

    Attributes:
        source_detector_mm: distance from the X-ray source to the detector plane.
        source_isocenter_mm: distance from the source to the isocentre.
        detector_mm: side of the square detector, 1536 pixels of 0.194 mm.

    Raises:
        ValueError: a length is not finite and positive, or the isocentre is not between source and detector.
    """

    source_detector_mm: float = 1020.0
    source_isocenter_mm: float = 530.0
    detector_mm: float = 1536 * 0.194

    def __post_init__(self) -> None:
        for name in ("source_detector_mm", "source_isocenter_mm", "detector_mm"):
            value = finite_number(name, getattr(self, name))
            if value <= 0:
                raise ValueError(f"{name} is {value!r}, expected a positive length.")
            object.__setattr__(self, name, value)
        if self.source_isocenter_mm >= self.source_detector_mm:
            raise ValueError(
                f"source_isocenter_mm is {self.source_isocenter_mm}, expected less than "
                f"source_detector_mm ({self.source_detector_mm})."
            )

    @property
    def magnification(self) -> float:
        """Magnification of an object at the isocentre."""
        return self.source_detector_mm / self.source_isocenter_mm

    @property
    def field_of_view_mm(self) -> float:
        """Side of the square at the isocentre that the detector shows."""
        return self.detector_mm / self.magnification

    def field_of_view_at_mm(self, behind_mm: float) -> float:
        """Returns the side of the square that the detector shows in a plane across the beam, mm.

        Args:
            behind_mm: distance of the plane from the isocentre towards the detector; negative towards the source.

        >>> round(DEFAULT_GEOMETRY.field_of_view_at_mm(0.0)), round(DEFAULT_GEOMETRY.field_of_view_at_mm(140.0))
        (155, 196)
        """
        return self.field_of_view_mm * (1 + behind_mm / self.source_isocenter_mm)


DEFAULT_GEOMETRY = CArmGeometry()
"""The C-arm of the paper, DeepDRR's ``MobileCArm``."""

DEFAULT_ISOCENTER_DEPTH_MM = 140.0
"""Isocentre in front of the middle of the body, as in the paper's frames: the detector shows 196 mm of the body.

Measured by ``benchmarks/field_of_view.py``.
"""
MAX_ISOCENTER_DEPTH_MM = 250.0


def check_isocenter_depth(value: float) -> float:
    """Returns `value`, the depth of the isocentre in mm, as a float.

    The depth is the distance from the point where the central ray meets the plane at mid-depth of the body
    (`carm_env.patient.Patient.mid_depth_mm`) to the isocentre, along the central ray. Positive depths are towards the
    source: the C-arm is shifted so that its detector is nearer to the body and shows more of it. In a frontal ``"AP"``
    view the isocentre is then in front of the middle of the body, at ``y = mid_depth_mm - depth``; in ``"PA"`` behind.

    Raises:
        ValueError: `value` is not a number from -250 to 250: source and detector must stay outside the body.
    """
    depth = finite_number("isocenter_depth_mm", value)
    if abs(depth) > MAX_ISOCENTER_DEPTH_MM:
        raise ValueError(
            f"isocenter_depth_mm is {value!r}, expected -{MAX_ISOCENTER_DEPTH_MM:g} to {MAX_ISOCENTER_DEPTH_MM:g} mm: "
            "beyond that the source or the detector would be in the body."
        )
    return depth


@dataclass(frozen=True)
class CArmPose:
    """The pose of the C-arm: the point that it looks at, and the direction from which it looks.

    The C-arm is rotated about the patient's long axis by `alpha_deg` first, then about the patient's left-right axis
    by `beta_deg`.

    Attributes:
        isocenter_lps_mm: ``(3,)`` the isocentre in the patient frame, mm.
        alpha_deg: rotation about the patient's long axis. Positive moves the detector towards the patient's right
            (RAO), negative towards the left (LAO), as in DeepDRR.
        beta_deg: rotation about the patient's left-right axis. Positive moves the detector caudally (CAUD), negative
            cranially (CRAN), as in DeepDRR.
        projection: ``"AP"``, the source in front of the patient (as the paper's authors rendered), or ``"PA"``, the
            source behind.

    Raises:
        ValueError: the isocentre is not finite, `alpha_deg` is not within -180 and 180, or `beta_deg` not within -90
            and 90.
        UnknownNameError: another `projection`.
    """

    isocenter_lps_mm: tuple[float, float, float]
    alpha_deg: float = 0.0
    beta_deg: float = 0.0
    projection: Projection = "AP"

    def __post_init__(self) -> None:
        point = finite_point("isocenter_lps_mm", self.isocenter_lps_mm)
        object.__setattr__(self, "isocenter_lps_mm", tuple(point.tolist()))
        for name, limit in (("alpha_deg", MAX_ALPHA_DEG), ("beta_deg", MAX_BETA_DEG)):
            angle = finite_number(name, getattr(self, name))
            if abs(angle) > limit:
                raise ValueError(f"{name} is {angle!r}, expected -{limit:g} to {limit:g} degrees.")
            object.__setattr__(self, name, angle)
        if self.projection not in PROJECTIONS:
            raise UnknownNameError("projection", self.projection, PROJECTIONS)

    def axes_lps(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns the unit vectors of the image's columns, of its rows and of the central ray, each ``(3,)``, LPS.

        Columns are counted to the right, rows downwards; the central ray runs from the source to the detector.
        """
        return _axes_lps(self.alpha_deg, self.beta_deg, self.projection)

    def towards_source(self, distance_mm: float) -> CArmPose:
        """Returns the pose of the same C-arm, shifted along the central ray by `distance_mm` towards the source.

        The central ray stays the same line, and so do displacements across the beam; the detector comes nearer to the
        body and shows more of it.

        >>> CArmPose((5.0, 170.0, 1500.0)).towards_source(120.0).isocenter_lps_mm
        (5.0, 50.0, 1500.0)
        """
        if not distance_mm:
            return self
        ray = self.axes_lps()[2]
        return replace(self, isocenter_lps_mm=tuple(np.asarray(self.isocenter_lps_mm) - distance_mm * ray))


@lru_cache(maxsize=1024)
def _axes_lps(alpha_deg: float, beta_deg: float, projection: Projection) -> tuple[FloatArray, FloatArray, FloatArray]:
    alpha, beta = np.deg2rad(alpha_deg), np.deg2rad(beta_deg)
    # The detector is behind the patient in AP and in front in PA, so the same rotation moves it to opposite sides.
    sign = 1.0 if projection == "AP" else -1.0
    rotation = _rotation_x(-sign * beta) @ _rotation_z(sign * alpha)
    axes = rotation @ LEFT, rotation @ -CRANIAL, rotation @ (sign * POSTERIOR)
    for axis in axes:
        # The cache hands the same arrays to all callers.
        axis.setflags(write=False)
    return axes


def _rotation_z(angle: float) -> FloatArray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation_x(angle: float) -> FloatArray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def positioner_angles_deg(pose: CArmPose) -> tuple[float, float]:
    """Returns DICOM's positioner angles of `pose`, degrees: (primary, secondary).

    They are the direction from the isocentre to the detector. The primary angle is its longitude in the transaxial
    plane: 0 in front of the patient's chest, 90 at the patient's left (LAO), -90 at the right (RAO). The secondary
    angle is its latitude: 90 is cranial. At 0/0 the patient faces the detector, which is a ``"PA"`` projection; a
    frontal ``"AP"`` view has the primary angle 180. The rotation of the image about the beam is not part of them.

    Source: DICOM PS3.3, C.8.7.5.1.2, PositionerPrimaryAngle (0018,1510) and PositionerSecondaryAngle (0018,1511).

    >>> positioner_angles_deg(CArmPose((0, 0, 0), alpha_deg=-30, projection="PA"))
    (30.0, 0.0)
    """
    left, posterior, cranial = pose.axes_lps()[2].tolist()
    # -0.0 would make the primary angle of a frontal AP view -180 instead of 180.
    primary = np.arctan2(left + 0.0, -posterior)
    secondary = np.arctan2(cranial, np.hypot(left, posterior))
    return _rounded_deg(primary), _rounded_deg(secondary)


def angles_from_positioner(
    primary_deg: float, secondary_deg: float, projection: Projection = "PA"
) -> tuple[float, float]:
    """Returns ``(alpha_deg, beta_deg)`` of a pose by its positioner angles: the inverse of `positioner_angles_deg`.

    Args:
        primary_deg: PositionerPrimaryAngle, -180 to 180.
        secondary_deg: PositionerSecondaryAngle, -90 to 90.
        projection: of the pose. ``"PA"`` has small angles for detectors in front of the patient, ``"AP"`` for
            detectors behind.

    Raises:
        ValueError: an angle is not within its range.

    >>> angles_from_positioner(30.0, 0.0)
    (-30.0, 0.0)
    """
    for name, value, limit in (("primary_deg", primary_deg, 180.0), ("secondary_deg", secondary_deg, 90.0)):
        if abs(finite_number(name, value)) > limit:
            raise ValueError(f"{name} is {value!r}, expected -{limit:g} to {limit:g} degrees.")
    primary, secondary = np.deg2rad(primary_deg), np.deg2rad(secondary_deg)
    left = np.sin(primary) * np.cos(secondary)
    anterior = np.cos(primary) * np.cos(secondary)
    cranial = np.sin(secondary)
    outwards = anterior if projection == "PA" else -anterior
    alpha = np.arctan2(-left, np.hypot(outwards, cranial))
    beta = np.arctan2(-cranial, outwards)
    if abs(beta) > np.pi / 2:
        # The same direction with the other sign of cos(alpha), where beta is within its range.
        alpha = np.copysign(np.pi, alpha) - alpha
        beta = beta - np.copysign(np.pi, beta)
    return _rounded_deg(alpha), _rounded_deg(beta)


def _rounded_deg(angle: float) -> float:
    """Returns `angle` (radians) in degrees without the rounding errors of trigonometry: 30, not 30.000000000000004."""
    return round(float(np.rad2deg(angle)), 10) + 0.0


MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 16, 2048


def check_image_size(size: int) -> int:
    """Returns `size` as an int.

    Raises:
        ValueError: `size` is not an integer from 16 to 2048.
    """
    try:
        number = int(size)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number != size or not MIN_IMAGE_SIZE <= number <= MAX_IMAGE_SIZE:
        raise ValueError(f"image size is {size!r}, expected an integer from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}.")
    return number


@dataclass(frozen=True, eq=False)
class ProjectionGeometry:
    """A cone-beam projection onto a flat detector.

    Attributes:
        source_lps_mm: ``(3,)`` the X-ray source.
        first_pixel_lps_mm: ``(3,)`` the centre of pixel ``(0, 0)``.
        column_step_lps_mm: ``(3,)`` step from a column to the next one.
        row_step_lps_mm: ``(3,)`` step from a row to the next one.
        height: number of rows.
        width: number of columns.
    """

    source_lps_mm: FloatArray
    first_pixel_lps_mm: FloatArray
    column_step_lps_mm: FloatArray
    row_step_lps_mm: FloatArray
    height: int
    width: int

    @classmethod
    def from_pose(cls, pose: CArmPose, geometry: CArmGeometry, size: int) -> ProjectionGeometry:
        """Returns the projection of a C-arm at `pose` onto a detector binned to ``size x size`` pixels."""
        size = check_image_size(size)
        columns, rows, ray = pose.axes_lps()
        source = np.asarray(pose.isocenter_lps_mm) - geometry.source_isocenter_mm * ray
        pixel = geometry.detector_mm / size
        centre = source + geometry.source_detector_mm * ray
        first = centre - (size - 1) / 2 * pixel * (columns + rows)
        return cls(source, first, pixel * columns, pixel * rows, size, size)

    def detector_from_world(self) -> FloatArray:
        """Returns the homogeneous projection matrix ``(3, 4)`` from LPS mm to pixels ``(u, v)``."""
        to_first = self.first_pixel_lps_mm - self.source_lps_mm
        inverse = np.linalg.inv(np.column_stack([self.column_step_lps_mm, self.row_step_lps_mm, to_first]))
        return np.column_stack([inverse, -inverse @ self.source_lps_mm])

    def project(self, points_lps_mm: ArrayLike) -> FloatArray:
        """Returns the pixels ``(..., 2)`` as ``(u, v)`` of points ``(..., 3)`` in LPS mm; NaN behind the source."""
        points = np.asarray(points_lps_mm, dtype=float)
        matrix = self.detector_from_world()
        homogeneous = points @ matrix[:, :3].T + matrix[:, 3]
        depth = homogeneous[..., 2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(depth > 0, homogeneous[..., :2] / depth, np.nan)

    def ray(self, pixels: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns the rays through pixels ``(..., 2)``: the source ``(3,)`` and unit directions ``(..., 3)``.

        It is the inverse of `project`.
        """
        directions = self.pixel_lps_mm(pixels) - self.source_lps_mm
        return self.source_lps_mm.copy(), directions / np.linalg.norm(directions, axis=-1, keepdims=True)

    def pixel_lps_mm(self, pixels: ArrayLike) -> FloatArray:
        """Returns the points on the detector, ``(..., 3)`` LPS mm, of pixels ``(..., 2)`` as ``(u, v)``."""
        uv = np.asarray(pixels, dtype=float)
        return self.first_pixel_lps_mm + uv[..., :1] * self.column_step_lps_mm + uv[..., 1:2] * self.row_step_lps_mm


def planar_displacement_mm(pose: CArmPose, points_lps_mm: ArrayLike) -> FloatArray:
    """Returns the displacement ``(..., 2)`` from the isocentre to points ``(..., 3)`` in the plane across the beam, mm.

    The first component is to the right in the image (the patient's left in a frontal view), the second upwards
    (cranial in a frontal view).
    """
    offsets = np.asarray(points_lps_mm, dtype=float) - np.asarray(pose.isocenter_lps_mm)
    plane = _image_plane_lps(pose.alpha_deg, pose.beta_deg, pose.projection)
    # Not a matrix product: on some processors its last bit depends on the number of points.
    return offsets[..., :1] * plane[0] + offsets[..., 1:2] * plane[1] + offsets[..., 2:] * plane[2]


@lru_cache(maxsize=1024)
def _image_plane_lps(alpha_deg: float, beta_deg: float, projection: Projection) -> FloatArray:
    """Returns the unit vectors to the right and upwards in the image, ``(3, 2)``."""
    columns, rows, _ = _axes_lps(alpha_deg, beta_deg, projection)
    plane = np.column_stack([columns, -rows])
    plane.setflags(write=False)
    return plane
