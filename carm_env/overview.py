"""One picture of the whole patient, to draw trips and landmarks on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.geometry import CRANIAL, LEFT, POSTERIOR, ProjectionGeometry
from carm_env.scene import Scene
from carm_env.xray.window import Window

SOURCE_DISTANCE_MM = 5000.0
MARGIN_MM = 20.0


@dataclass(frozen=True, eq=False)
class Overview:
    """A frontal picture taken from far away, so that distances in it are nearly true.

    Attributes:
        image: ``(H, W)`` uint8, the patient's right on the left, cranial up.
        geometry: the projection that made it.
    """

    image: NDArray[np.uint8]
    geometry: ProjectionGeometry

    def pixels(self, points_lps_mm: ArrayLike) -> NDArray[np.float64]:
        """``(..., 2)`` pixels ``(u, v)`` of points ``(..., 3)`` in LPS mm."""
        return self.geometry.project(points_lps_mm)


def take_overview(scene: Scene, pixel_mm: float = 1.5) -> Overview:
    """Take the overview of a scene's patient.

    Args:
        scene: the patient and its camera.
        pixel_mm: pixel size at mid-depth of the body.
    """
    patient = scene.patient
    first, last = patient.volume.corners_lps_mm
    low, high = first - MARGIN_MM, last + MARGIN_MM
    width, height = (int(np.ceil((high[axis] - low[axis]) / pixel_mm)) for axis in (0, 2))
    centre = np.array([(low[0] + high[0]) / 2, patient.mid_depth_mm, (low[2] + high[2]) / 2])
    # The detector plane stands behind the body, so that every ray crosses the whole of it.
    behind_mm = last[1] - centre[1] + 1.0
    step = pixel_mm * (1 + behind_mm / SOURCE_DISTANCE_MM)
    corner = centre + behind_mm * POSTERIOR + step * ((height - 1) / 2 * CRANIAL - (width - 1) / 2 * LEFT)
    geometry = ProjectionGeometry(
        centre - SOURCE_DISTANCE_MM * POSTERIOR, corner, step * LEFT, -step * CRANIAL, height, width
    )
    return Overview(Window().apply(scene.camera.log_image_of(geometry)), geometry)
