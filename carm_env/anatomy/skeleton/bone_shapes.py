"""The shapes of single bones in another family of bones: ribs, vertebrae, scapulae, long bones and their cortex.

Each factor is drawn from the seed of the family, most of them separately for right and left. Their spread is of the
order that is reported for people:

| quantity | spread here | source |
|---|---|---|
| size of the humeral head | 9 % | radius 24 +- 2.1 mm: Iannotti et al., J Bone Joint Surg Am 74:491-500, 1992 |
| length of the scapula | 8 % | 155 +- 16 mm: von Schroeder et al., Clin Orthop 383:131-139, 2001 |
| all others | | chosen by hand |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.skeleton.arms import FittedArm, arm_segment
from carm_env.anatomy.skeleton.model import SIDES, THORACOLUMBAR, vertebral_body_centre

_PURPOSE = 0x626F6E65
_LIMIT = 1.8
"""Normal deviates are clipped to this number of standard deviations."""

_RIB_SLOPE, _RIB_BULGE, _RIB_TAPER = 0.09, 0.06, 0.05
_VERTEBRAL_HEIGHT, _VERTEBRAL_WIDTH, _SINGLE_VERTEBRA = 0.045, 0.06, 0.02
_SCAPULAR_LENGTH, _SCAPULAR_BREADTH = 0.08, 0.07
_HUMERAL_HEAD = 0.09
_SHAFT_WIDTH, _SHAFT_BOW_MM = 0.1, 3.0
_SIDE_FRACTION = 0.25
"""Standard deviation of the difference of either side from the mean of both, relative to the spread."""
_CORTEX = (0.65, 1.45)

_CHEST_MM = (1190.0, 1250.0, 1470.0, 1530.0)
"""Heights in the skeleton between which the rib cage is reshaped: from zero, full, to zero."""
_CHEST_DEPTH_MM, _CHEST_MIDDLE_MM, _CHEST_HALF_MM = 170.0, 1370.0, 130.0
_HEAD_MM = (27.0, 52.0)
"""Distances from the centre of the humeral head within which it is resized in full, and beyond which not at all."""
_SHAFTS = ("humerus", "ulna", "radius", "clavicle")
_END_FRACTION = 0.2
"""Ends of a long bone that keep their width, as a fraction of its length."""


@dataclass(frozen=True, eq=False)
class BoneShapes:
    """Factors of the shapes of bones.

    Attributes:
        rib_slope: caudal displacement of a rib per distance ventral to the spine.
        rib_bulge: lateral displacement in the middle of a rib's arc, relative to the distance from the midplane.
        rib_taper: widening of the rib cage towards the shoulders, relative to its width.
        vertebral_height, vertebral_width: ``(17,)`` factors of the vertebrae, from L5 up to T1.
        scapular_length, scapular_breadth: factor by side.
        humeral_head: factor of the size of the humeral head by side.
        shaft_width: factor of the thickness of the shafts of long bones by side; of the clavicle also of its curvature.
        bow_mm: lateral and dorsal bow of the shafts by side, mm.
        cortex: factor of the thickness of the cortex.
    """

    rib_slope: float = 0.0
    rib_bulge: float = 0.0
    rib_taper: float = 0.0
    vertebral_height: NDArray[np.float64] = field(default_factory=lambda: np.ones(len(THORACOLUMBAR)))
    vertebral_width: NDArray[np.float64] = field(default_factory=lambda: np.ones(len(THORACOLUMBAR)))
    scapular_length: Mapping[str, float] = field(default_factory=dict)
    scapular_breadth: Mapping[str, float] = field(default_factory=dict)
    humeral_head: Mapping[str, float] = field(default_factory=dict)
    shaft_width: Mapping[str, float] = field(default_factory=dict)
    bow_mm: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cortex: float = 1.0

    def chest(self, points_mm: NDArray[np.float64], spine_y_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reshapes the rib cage.

        Args:
            points_mm: ``(n, 3)`` points of ribs and sternum, in skeleton coordinates.
            spine_y_mm: ``(n,)`` y of the spine at their heights.
        """
        x, y, z = points_mm.T
        weight = np.interp(z, _CHEST_MM, (0.0, 1.0, 1.0, 0.0))
        ventral = np.clip(spine_y_mm - y, 0.0, None)
        arc = np.clip(ventral / _CHEST_DEPTH_MM, 0.0, 1.0)
        taper = self.rib_taper * np.clip((z - _CHEST_MIDDLE_MM) / _CHEST_HALF_MM, -1.0, 1.0)
        wider = 1 + weight * (self.rib_bulge * 4 * arc * (1 - arc) + taper)
        return np.column_stack([wider * x, y, z - weight * self.rib_slope * ventral])

    def vertebra(self, mesh: Mesh, up: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the vertices of a vertebra that is higher and wider about the centre of its body.

        Args:
            mesh: the vertebra in the patient.
            up: ``(3,)`` direction of the spine.
        """
        number = THORACOLUMBAR.index(mesh.name)
        centre = vertebral_body_centre(mesh)
        offsets = mesh.vertices_mm - centre
        along = np.outer(offsets @ up, up)
        return centre + self.vertebral_height[number] * along + self.vertebral_width[number] * (offsets - along)

    def arm_bone(self, mesh: Mesh, arm: FittedArm, scale: float) -> NDArray[np.float64]:
        """Returns the vertices of a bone of the arm in its own shape; joints stay where they are.

        Args:
            mesh: the bone in the patient.
            arm: the fitted arm.
            scale: scale of the patient.
        """
        found = arm_segment(mesh.body)
        assert found is not None
        side, points = found[0], mesh.vertices_mm
        if mesh.name.startswith("scapula"):
            return self._scapula(points, side, arm, scale)
        if mesh.name.startswith(_SHAFTS):
            points = self._shaft(mesh, side, scale)
        if mesh.name.startswith("humerus"):
            points = self._head(points, side, arm.landmarks_mm["head"] * scale, scale)
        return points

    def _scapula(self, points_mm: NDArray[np.float64], side: str, arm: FittedArm, scale: float) -> NDArray[np.float64]:
        glenoid = arm.joints_mm[2] * scale
        down = arm.landmarks_mm["scapula"] * scale - glenoid
        down = down / np.linalg.norm(down)
        offsets = points_mm - glenoid
        # The blade is the plane of greatest extent; its normal keeps its scale.
        normal = np.linalg.svd(offsets - offsets.mean(0), full_matrices=False)[2][2]
        across = np.cross(down, normal)
        across /= np.linalg.norm(across)
        longer, broader = self.scapular_length[side] - 1, self.scapular_breadth[side] - 1
        return points_mm + longer * np.outer(offsets @ down, down) + broader * np.outer(offsets @ across, across)

    def _shaft(self, mesh: Mesh, side: str, scale: float) -> NDArray[np.float64]:
        centre, direction, begin, end = mesh.long_axis()
        offsets = mesh.vertices_mm - centre
        along = offsets @ direction
        fraction = (along - begin) / (end - begin)
        # Joints keep their size and place.
        middle = np.clip(np.minimum(fraction, 1 - fraction) / _END_FRACTION - 0.5, 0, 1)
        radial = offsets - np.outer(along, direction)
        bow = np.array([self.bow_mm[side][0], self.bow_mm[side][1], 0.0]) * scale
        bow = bow - (bow @ direction) * direction
        wider = (self.shaft_width[side] - 1) * middle
        return mesh.vertices_mm + wider[:, None] * radial + np.outer(np.sin(np.pi * fraction) * middle, bow)

    def _head(
        self, points_mm: NDArray[np.float64], side: str, centre_mm: NDArray[np.float64], scale: float
    ) -> NDArray[np.float64]:
        offsets = points_mm - centre_mm
        inner, outer = _HEAD_MM[0] * scale, _HEAD_MM[1] * scale
        weight = np.clip((outer - np.linalg.norm(offsets, axis=1)) / (outer - inner), 0, 1)
        return points_mm + (self.humeral_head[side] - 1) * weight[:, None] * offsets


def make_bone_shapes(seed: int) -> BoneShapes | None:
    """Draws the shapes of a family; None for seed 0, whose bones `BoneVariation` shapes."""
    if not seed:
        return None
    rng = np.random.default_rng([seed, _PURPOSE])

    def normal(spread: float, size: int | None = None) -> NDArray[np.float64]:
        return (spread * np.clip(rng.normal(size=size), -_LIMIT, _LIMIT)).round(4)

    def factors(spread: float) -> dict[str, float]:
        mean = normal(spread)
        return {side: float(1 + mean + normal(_SIDE_FRACTION * spread)) for side in SIDES}

    slope, bulge, taper = (float(normal(spread)) for spread in (_RIB_SLOPE, _RIB_BULGE, _RIB_TAPER))
    count = len(THORACOLUMBAR)
    height, width = (
        1 + normal(spread) + normal(_SINGLE_VERTEBRA, count) for spread in (_VERTEBRAL_HEIGHT, _VERTEBRAL_WIDTH)
    )
    lateral, dorsal = float(normal(_SHAFT_BOW_MM)), float(normal(_SHAFT_BOW_MM))
    return BoneShapes(
        slope, bulge, taper, height, width, factors(_SCAPULAR_LENGTH), factors(_SCAPULAR_BREADTH),
        factors(_HUMERAL_HEAD), factors(_SHAFT_WIDTH), {"r": (-lateral, dorsal), "l": (lateral, dorsal)},
        round(float(rng.uniform(*_CORTEX)), 3),
    )  # fmt: skip
