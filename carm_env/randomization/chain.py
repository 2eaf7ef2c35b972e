"""An X-ray system's properties: exposure, detector, display, shutters, and how the image lies on the screen.

Rotation and crop are part of the projection: the rays run through the rotated pixels, so an image is rendered and not
resampled, no corner is empty, and the same projection gives the pixels of the landmarks. The crop is central and
nothing is mirrored, so the isocentre stays in the middle and the patient's right on the left. Displacements in mm do
not change: they are what the C-arm has to move.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import CArmPose, ProjectionGeometry
from carm_env.system.errors import check_keys, finite_number
from carm_env.xray.camera import XRay, XRayCamera
from carm_env.xray.physics.window import POLARITIES
from carm_env.xray.settings import XRaySettings

XRAY_FIELDS = (
    "kvp", "mas", "scatter", "scintillator_mm", "electronic_noise", "dark_percent", "bright_percent", "gamma",
)  # fmt: skip
"""Fields of `XRaySettings` that a chain may set."""
LIMITS: dict[str, tuple[float, float]] = {"curve": (-0.5, 1.0), "rotation_deg": (-45.0, 45.0), "crop": (0.5, 1.0)}
"""Lowest and highest valid value of each number."""
MAX_SHUTTER = 0.4
_SIDES = 4


@dataclass(frozen=True)
class ImageChain:
    """An X-ray system as differences from a camera. The defaults change nothing.

    Attributes:
        xray: values for `XRAY_FIELDS`. `mas` is ignored where the camera sets the exposure otherwise.
        curve: strength of an S-shaped density curve, -0.5 (flat) to 1 (steep); 0 for none.
        inverted: the other polarity than the camera's.
        shutters: how far the shutters on the left, on the right, at the top and at the bottom are closed, as shares of
            the image's side, 0 to 0.4.
        border_grey: grey level of what the shutters cover, 0 (black) to 255.
        rotation_deg: the anatomy appears rotated by this angle in the image, clockwise, -45 to 45.
        crop: share of the detector's side that the image shows, around its middle, 0.5 to 1.

    Raises:
        ValueError: a value is out of range.
        UnknownNameError: a key of `xray` that a chain cannot set.
    """

    xray: Mapping[str, float] = field(default_factory=dict)
    curve: float = 0.0
    inverted: bool = False
    shutters: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    border_grey: int = 0
    rotation_deg: float = 0.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        check_keys("setting of an image chain", self.xray, XRAY_FIELDS)
        for name, (low, high) in LIMITS.items():
            if not low <= finite_number(name, getattr(self, name)) <= high:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {low:g} to {high:g}.")
        shutters = tuple(finite_number("shutters", value) for value in self.shutters)
        if len(shutters) != _SIDES or min(shutters) < 0 or max(shutters) > MAX_SHUTTER:
            raise ValueError(f"shutters are {self.shutters!r}, expected {_SIDES} numbers from 0 to {MAX_SHUTTER}.")
        if not isinstance(self.border_grey, int) or not 0 <= self.border_grey <= 255:
            raise ValueError(f"border_grey is {self.border_grey!r}, expected an integer from 0 to 255.")
        object.__setattr__(self, "shutters", shutters)
        object.__setattr__(self, "xray", MappingProxyType(dict(self.xray)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only mapping cannot be pickled.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return _rebuilt, ({**values, "xray": dict(self.xray)},)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageChain:
        """Returns the chain of `to_json`; raises UnknownNameError for an unknown key."""
        check_keys("field of an image chain", values, [item.name for item in fields(cls)])
        shutters = tuple(values.get("shutters", cls.shutters))
        return cls(**{**values, "shutters": shutters})

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults, as JSON values."""
        default = ImageChain()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {name: value for name, value in given.items() if value != getattr(default, name)}
        plain = {"xray": dict, "shutters": list}
        return {name: plain.get(name, lambda value: value)(value) for name, value in changed.items()}

    def to_text(self) -> str:
        """Returns `to_json` as text."""
        return json.dumps(self.to_json(), sort_keys=True)

    def settings(self, settings: XRaySettings) -> XRaySettings:
        """Returns the settings of a camera behind this chain."""
        changes: dict[str, Any] = dict(self.xray)
        if settings.photons is not None or settings.exposure_control:
            changes.pop("mas", None)
        if self.inverted:
            changes["polarity"] = POLARITIES[1 - POLARITIES.index(settings.polarity)]
        # The display adapts to the field, as far as the shutters are closed on all sides.
        closed = 2 * min(self.shutters)
        if closed:
            changes["collimation"] = settings.collimation * (1 - closed)
        return replace(settings, **changes)

    def open_field(self, size: int) -> tuple[slice, slice]:
        """Returns the rows and columns of an image of `size` pixels that the shutters leave open."""
        left, right, top, bottom = (round(share * size) for share in self.shutters)
        return slice(top, size - bottom), slice(left, size - right)

    @cached_property
    def grey_levels(self) -> NDArray[np.uint8]:
        """``(256,)`` uint8, from grey level to grey level: the density curve."""
        grey = np.linspace(0, 1, 256)
        return np.rint(255 * (grey + self.curve * (grey**2 * (3 - 2 * grey) - grey))).astype(np.uint8)

    def project(self, projection: ProjectionGeometry) -> ProjectionGeometry:
        """Returns a projection with rotated and cropped pixels; the middle of the image stays where it is."""
        if not self.rotation_deg and self.crop == 1:
            return projection
        angle = math.radians(self.rotation_deg)
        cos, sin = self.crop * math.cos(angle), self.crop * math.sin(angle)
        columns, rows = projection.column_step_lps_mm, projection.row_step_lps_mm
        # The anatomy turns clockwise as the axes of the image turn the other way. Rows are counted downwards.
        column, row = cos * columns - sin * rows, sin * columns + cos * rows
        half = np.array([projection.width - 1, projection.height - 1]) / 2
        centre = projection.first_pixel_lps_mm + half[0] * columns + half[1] * rows
        first = centre - half[0] * column - half[1] * row
        return replace(projection, first_pixel_lps_mm=first, column_step_lps_mm=column, row_step_lps_mm=row)


def _rebuilt(values: Mapping[str, Any]) -> ImageChain:
    return ImageChain(**values)


class ChainCamera(XRayCamera):
    """A camera whose images pass through an `ImageChain`; it shares the memory of the given camera.

    Args:
        camera: the camera.
        chain: the X-ray system.

    Attributes:
        chain: the X-ray system.
    """

    def __init__(self, camera: XRayCamera, chain: ImageChain) -> None:
        plain = camera.with_settings(chain.settings(camera.settings))
        super().__init__(plain.volume, plain.geometry, plain.settings, plain.renderer)
        self._plain, self.chain = camera, chain

    def with_settings(self, settings: XRaySettings) -> ChainCamera:
        """Returns a camera with the same chain behind other settings."""
        return ChainCamera(self._plain.with_settings(settings), self.chain)

    def projection(self, pose: CArmPose, size: int) -> ProjectionGeometry:
        """Returns the projection of points in the patient onto the pixels of an image, with rotation and crop."""
        return self.chain.project(super().projection(pose, size))

    def pixel_mm(self, size: int) -> float:
        """Returns the side of a pixel on the detector, mm."""
        return self.chain.crop * super().pixel_mm(size)

    def covered(self, pixels: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
        """Returns which pixels ``(..., 2)`` as ``(u, v)`` are behind the shutters of the chain; False for NaN."""
        rows, columns = self.chain.open_field(size)
        with np.errstate(invalid="ignore"):
            low, high = pixels + 0.5 < [columns.start, rows.start], pixels + 0.5 > [columns.stop, rows.stop]
        return np.asarray((low | high).any(axis=-1))

    def expose(self, pose: CArmPose, size: int = 256, noise_seed: int | None = None) -> XRay:
        """Takes an image; see `XRayCamera.expose`."""
        xray = super().expose(pose, size, noise_seed)
        image = xray.image
        if self.chain.curve:
            image = self.chain.grey_levels[image]
        if any(self.chain.shutters):
            margin = round((1 - self.settings.collimation) / 2 * size)
            covered = np.ones(image.shape, bool)
            rows, columns = self.chain.open_field(size)
            inside = slice(margin, size - margin)
            covered[inside, inside] = False
            open_field = np.zeros(image.shape, bool)
            open_field[rows, columns] = True
            image[covered | ~open_field] = self.chain.border_grey
        return replace(xray, image=image)
