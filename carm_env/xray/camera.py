"""The X-ray camera: from the pose of the C-arm to the image that an agent sees."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import DEFAULT_GEOMETRY, CArmGeometry, CArmPose, ProjectionGeometry
from carm_env.volume import Volume
from carm_env.xray.physics.exposure import Exposure, Technique
from carm_env.xray.physics.quality import ViewQuality, view_quality
from carm_env.xray.protocols import Renderer
from carm_env.xray.renderers import make_renderer
from carm_env.xray.settings import DEFAULT_SETTINGS, XRaySettings
from carm_env.xray.sources import check_sources


@dataclass(frozen=True, eq=False)
class XRay:
    """One exposure.

    Attributes:
        image: ``(H, W)`` uint8, a fresh array.
        exposure: technique and dose.
        quality: whether the view shows the patient; the image is valid in any case.
    """

    image: NDArray[np.uint8]
    exposure: Exposure
    quality: ViewQuality


class XRayCamera:
    """Takes X-ray images of one patient; several threads may share a camera.

    The renderer holds most of the memory. With the default settings that is 4 bytes per voxel of the body's
    bounding box and slicing axis in use: about 100 MB for the default patient in frontal views.

    Args:
        volume: the CT.
        geometry: the C-arm.
        settings: beam, noise, window and backend.
        renderer: a renderer of the same volume, instead of a new one for the settings.

    Raises:
        MissingExtraError: the backend needs a package that is not installed.
        BackendError: the backend cannot run on this machine.
    """

    def __init__(
        self,
        volume: Volume,
        geometry: CArmGeometry = DEFAULT_GEOMETRY,
        settings: XRaySettings = DEFAULT_SETTINGS,
        renderer: Renderer | None = None,
    ) -> None:
        self.volume = volume
        self._box_mm = [corner.tolist() for corner in volume.corners_lps_mm]
        self.geometry = geometry
        self.settings = settings
        self.renderer = make_renderer(volume, settings) if renderer is None else renderer
        self.technique = Technique(settings.beam, geometry, settings.collimation)
        self.detector = settings.detector
        self._window = settings.window

    def with_settings(self, settings: XRaySettings) -> XRayCamera:
        """Returns a camera with other settings for the same patient and C-arm; it shares memory where possible."""
        renderer = make_renderer(self.volume, settings, [self.renderer])
        return XRayCamera(self.volume, self.geometry, settings, renderer)

    def projection(self, pose: CArmPose, size: int) -> ProjectionGeometry:
        """Returns the projection of points in the patient onto the pixels of an image."""
        return ProjectionGeometry.from_pose(pose, self.geometry, size)

    def path_masses(self, pose: CArmPose, size: int = 256) -> NDArray[np.float32]:
        """Returns areal densities ``(2, size, size)`` of soft tissue and bone along each ray, g/cm^2.

        Raises:
            TypeError: the renderer integrates no path masses.
        """
        return self.renderer.path_masses(self.projection(pose, size))

    def log_image(self, pose: CArmPose, size: int = 256) -> NDArray[np.float32]:
        """Returns ``-ln I``, ``(size, size)`` float32, of the primary beam at the detector; 0 is the open field."""
        return self.log_image_of(self.projection(pose, size))

    def log_image_of(self, geometry: ProjectionGeometry) -> NDArray[np.float32]:
        """Returns `log_image` of any projection, also of one that this C-arm cannot take.

        Raises:
            ValueError: the source stands in the patient.
        """
        source, (low, high) = geometry.source_lps_mm.tolist(), self._box_mm
        # Almost every source is outside the volume's box, where no voxel needs to be looked up.
        if all(low[n] <= source[n] <= high[n] for n in range(3)):
            check_sources(self.volume, geometry.source_lps_mm)
        return self.renderer.log_image(geometry)

    def image(self, pose: CArmPose, size: int = 256, noise_seed: int | None = None) -> NDArray[np.uint8]:
        """Returns the image, ``(size, size)`` uint8, a fresh array: air is black, bone is white; see `expose`."""
        return self.expose(pose, size, noise_seed).image

    def expose(self, pose: CArmPose, size: int = 256, noise_seed: int | None = None) -> XRay:
        """Takes an image.

        Args:
            pose: pose of the C-arm.
            size: pixels along each side, 16 to 2048.
            noise_seed: seed of the noise, an integer; None for an image without noise.

        Raises:
            ValueError: `size` is out of range, the source stands in the patient, or the seed is not an integer.
        """
        settings = self.settings
        if noise_seed is not None and not isinstance(noise_seed, Integral):
            raise ValueError(f"noise_seed is {noise_seed!r}, expected an integer, or None for no noise.")
        log_image = self.log_image(pose, size)
        pixel_mm = self.pixel_mm(size)
        exposure = self._exposure(log_image, pixel_mm)
        photons = 0.0 if settings.photons == 0 else exposure.photons
        margin = round((1 - settings.collimation) / 2 * size)
        inside = (slice(margin, size - margin),) * 2
        read = self.detector.read(log_image, pixel_mm, photons, noise_seed, margin)[inside]
        black, white = self._window.limits(read)
        noise_photons = photons if noise_seed is not None else 0.0
        quality = view_quality(log_image[inside], white - black, settings.min_range, noise_photons)
        image = self._window.apply(read, (black, white))
        if margin:
            image = np.pad(image, margin)
        return XRay(image, exposure, quality)

    def pixel_mm(self, size: int) -> float:
        """Returns the side of a pixel on the detector, mm."""
        return self.geometry.detector_mm / size

    def covered(self, pixels: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
        """Returns which pixels ``(..., 2)`` as ``(u, v)`` show nothing because of the shutters of an X-ray system.

        None for this camera: the field of `XRaySettings.collimation` does not count. See
        `carm_env.randomization.chain.ChainCamera`.
        """
        return np.zeros(np.shape(pixels)[:-1], bool)

    def _exposure(self, log_image: NDArray[np.float32], pixel_mm: float) -> Exposure:
        settings = self.settings
        if settings.exposure_control:
            mas = self.technique.automatic_mas(log_image, settings.detector_photons_mm2)
        elif settings.photons:
            mas = self.technique.mas_for(settings.photons, pixel_mm)
        else:
            mas = settings.mas
        return self.technique.exposure(mas, pixel_mm)
