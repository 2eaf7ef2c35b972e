"""The X-ray camera: from the C-arm's place to the picture an agent sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import CArmGeometry, CArmPlace, ProjectionGeometry
from carm_env.volume import Volume
from carm_env.xray.detector import add_quantum_noise
from carm_env.xray.polychromatic import AttenuationTable
from carm_env.xray.projector import Projector
from carm_env.xray.separable import SeparableProjector
from carm_env.xray.spectrum import MATERIALS, check_beam, load_beam
from carm_env.xray.window import Window

DEFAULT_GEOMETRY = CArmGeometry()


@dataclass(frozen=True)
class XRaySettings:
    """How a picture is taken and shown.

    Attributes:
        kvp: tube voltage, kV.
        aluminium_mm: filtration of the beam, mm of aluminium.
        photons: photons that a pixel meets in the open field; fewer make more noise, 0 none.
        mas: tube current times time of one exposure, mAs: the nominal technique that `XRayCamera.dose_mgy` counts.
        dark_percent: percentile of the image that becomes black; this and the next three are
            explained in `carm_env.xray.window.Window`.
        bright_percent: percentile that becomes white.
        gamma: exponent of the grey curve.
        min_range: least difference of -ln I between black and white.

    Raises:
        ValueError: a value is out of range.
    """

    kvp: float = 90.0
    aluminium_mm: float = 4.0
    photons: float = 1e6
    mas: float = 0.5
    dark_percent: float = Window.dark_percent
    bright_percent: float = Window.bright_percent
    gamma: float = Window.gamma
    min_range: float = Window.min_range

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{item.name} is {value!r}, expected a finite number.")
        check_beam(self.kvp, self.aluminium_mm)
        if self.photons < 0:
            raise ValueError(f"photons is {self.photons!r}, expected a positive number, or 0 for no noise.")
        if self.mas <= 0:
            raise ValueError(f"mas is {self.mas!r}, expected a positive number of mAs.")
        # The window refuses what is out of its range.
        _ = self.window

    @property
    def window(self) -> Window:
        """From the logarithmic image to grey."""
        return Window(self.dark_percent, self.bright_percent, self.gamma, self.min_range)


DEFAULT_SETTINGS = XRaySettings()


class XRayCamera:
    """Takes pictures of one patient; several threads may share a camera.

    Memory: what the projector holds. For `SeparableProjector` that is 4 bytes per voxel of the
    body's bounding box and slicing axis in use: about 100 MB for the default patient in frontal views.

    Args:
        volume: the CT.
        geometry: the C-arm.
        settings: beam, noise and window.
        projector: another backend for the same volume; its materials must be soft tissue and bone.

    Raises:
        ValueError: a projector with other materials.
    """

    def __init__(
        self,
        volume: Volume,
        geometry: CArmGeometry = DEFAULT_GEOMETRY,
        settings: XRaySettings = DEFAULT_SETTINGS,
        projector: Projector | None = None,
    ) -> None:
        self.volume = volume
        self.geometry = geometry
        self.settings = settings
        self.projector: Projector = SeparableProjector(volume) if projector is None else projector
        if self.projector.materials != MATERIALS:
            raise ValueError(f"the projector's materials are {self.projector.materials}, expected {MATERIALS}.")
        beam = load_beam(settings.kvp, settings.aluminium_mm)
        self._noise_factor = beam.noise_factor
        self._exposure_mgy = beam.air_kerma_mgy(settings.mas, geometry.source_isocenter_mm)
        self._window = settings.window
        self._table = AttenuationTable.of_beam(beam)

    def path_masses(self, place: CArmPlace, size: int = 256) -> NDArray[np.float32]:
        """Areal densities ``(2, size, size)`` of soft tissue and bone along each ray, g/cm^2."""
        return self.projector.path_masses(ProjectionGeometry.from_place(place, self.geometry, size))

    def log_image(self, place: CArmPlace, size: int = 256) -> NDArray[np.float32]:
        """``-ln I``, ``(size, size)`` float32, without noise or window; 0 is the open field."""
        return self._table.log_image(self.path_masses(place, size))

    def image(self, place: CArmPlace, size: int = 256, noise_seed: int | None = None) -> NDArray[np.uint8]:
        """The picture, ``(size, size)`` uint8, a fresh array: air black, bone white.

        Args:
            place: where the C-arm stands.
            size: pixels along each side, 16 to 2048.
            noise_seed: seed of the quantum noise; None for a picture without noise.

        Raises:
            ValueError: `size` is out of range.
        """
        return self.image_of(ProjectionGeometry.from_place(place, self.geometry, size), noise_seed)

    def image_of(self, geometry: ProjectionGeometry, noise_seed: int | None = None) -> NDArray[np.uint8]:
        """The picture of any projection, also one that this C-arm could not take; see `image`."""
        log_image = self._table.log_image(self.projector.path_masses(geometry))
        if noise_seed is not None and self.settings.photons > 0:
            log_image = add_quantum_noise(log_image, self.settings.photons, noise_seed, self._noise_factor)
        return self._window.apply(log_image)

    def dose_mgy(self, exposures: int) -> float:
        """Air kerma of `exposures` exposures of nominal technique: at the isocentre, without patient or backscatter."""
        return exposures * self._exposure_mgy
