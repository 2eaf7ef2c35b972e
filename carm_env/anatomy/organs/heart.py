"""Heart, great vessels, mediastinum and the parenchyma of the lungs.

Heights in the tables are relative to the carina; lengths are in skeleton size (mm). `Thorax.points` maps them to the
patient. The heart has an oblique axis from the base at the right, dorsal and above to the apex at the left, ventral and
below; fat, vessels and lymph nodes join it with the superior mediastinum, so that the silhouette of a frontal view is
one contour: superior vena cava and right atrium on the right; aortic arch, pulmonary trunk, left auricle and left
ventricle on the left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import ChestFields, Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Capsule, Ellipsoid, Field, Shape, rotation, tube
from carm_env.anatomy.parameters import PatientParameters

_AXIS = np.array([0.70, -0.46, -0.54])
"""Direction of the long axis of the heart, from base to apex."""
_AXIS_STD_DEG = 5.0
"""Standard deviation of the tilt of the axis in the frontal plane: from steep to horizontal hearts."""
_HEART_STD = 0.035
"""`PatientParameters.heart` varies the width already."""

_Path = tuple[tuple[float, float, float, float], ...]

_AORTA: _Path = (
    (-2, 162, -46, 15.0), (-16, 154, -14, 16.5), (-14, 160, 8, 15.5), (0, 174, 21, 14.5), (20, 195, 25, 14.0),
    (33, 214, 16, 13.5), (34, 231, -6, 13.0), (31, 237, -45, 12.5), (27, 235, -90, 12.0), (17, 224, -135, 11.5),
    (6, 202, -175, 10.5), (3, 180, -210, 10.0), (2, 164, -250, 9.5), (1, 158, -300, 9.0),
)  # fmt: skip
_AORTA_STD_MM = 1.8
_SUPERIOR_VENA_CAVA: _Path = ((-31, 186, 62, 8.0), (-31, 182, 40, 9.5), (-30, 178, 10, 10.5), (-26, 172, -30, 11.5))
_INFERIOR_VENA_CAVA: _Path = (
    (-22, 172, -80, 13.0), (-23, 182, -120, 12.5), (-20, 178, -180, 11.0), (-17, 168, -300, 10.0),
)  # fmt: skip
_LEFT_BRACHIOCEPHALIC_VEIN: _Path = ((-30, 178, 36, 7.5), (-4, 168, 42, 7.0), (24, 180, 58, 6.5), (40, 192, 66, 6.0))
_RIGHT_BRACHIOCEPHALIC_VEIN: _Path = ((-31, 184, 42, 8.5), (-33, 190, 62, 8.0), (-38, 196, 78, 7.0))
_AZYGOS: _Path = ((3, 240, -60, 4.0), (-5, 238, -14, 4.0), (-20, 226, 8, 4.5), (-30, 200, 12, 4.5), (-31, 184, 8, 4.5))
_BRACHIOCEPHALIC_ARTERY: _Path = ((-4, 172, 28, 7.0), (-14, 190, 58, 6.5), (-22, 202, 82, 6.0), (-20, 208, 108, 4.5))
_LEFT_CAROTID: _Path = ((6, 180, 30, 5.0), (12, 194, 58, 4.5), (19, 204, 90, 4.0), (20, 206, 120, 3.5))
_LEFT_SUBCLAVIAN: _Path = ((20, 204, 28, 6.0), (24, 214, 50, 6.0), (30, 216, 72, 5.5), (58, 206, 84, 5.0))
_PULMONARY_TRUNK: _Path = ((18, 142, -60, 15.0), (26, 154, -34, 15.5), (29, 174, -16, 14.5))
_LEFT_PULMONARY_ARTERY: _Path = ((28, 174, -15, 13.0), (36, 198, -10, 11.5), (44, 215, -18, 9.5), (49, 223, -38, 8.0))
_RIGHT_PULMONARY_ARTERY: _Path = (
    (22, 176, -12, 11.5), (-6, 190, -20, 11.0), (-34, 198, -22, 10.5), (-46, 208, -34, 8.5),
)  # fmt: skip
RIGHT_DESCENDING_ARTERY: _Path = ((-42, 204, -28, 8.5), (-52, 212, -50, 7.5), (-57, 220, -78, 5.5))
LEFT_DESCENDING_ARTERY: _Path = ((46, 222, -32, 7.5), (52, 226, -56, 6.5), (58, 230, -82, 5.0))
_PULMONARY_VEINS: tuple[_Path, ...] = (
    ((-12, 198, -46, 7.5), (-34, 194, -48, 6.5), (-52, 186, -40, 4.5)),
    ((-12, 200, -60, 7.5), (-34, 206, -72, 6.5), (-54, 216, -88, 4.5)),
    ((20, 198, -46, 7.5), (40, 190, -44, 6.5), (56, 180, -34, 4.5)),
    ((20, 200, -60, 7.5), (42, 206, -72, 6.5), (60, 216, -88, 4.5)),
)
OESOPHAGUS: _Path = (
    (0, 222, 100, 6.5), (2, 224, 40, 6.5), (6, 226, -20, 6.5), (8, 220, -80, 7.0), (18, 196, -130, 8.0),
)  # fmt: skip

_VESSELS = (
    _SUPERIOR_VENA_CAVA, _INFERIOR_VENA_CAVA, _BRACHIOCEPHALIC_ARTERY, _LEFT_CAROTID, _RIGHT_PULMONARY_ARTERY,
    RIGHT_DESCENDING_ARTERY, LEFT_DESCENDING_ARTERY, *_PULMONARY_VEINS, _PULMONARY_TRUNK, _LEFT_PULMONARY_ARTERY,
    _LEFT_BRACHIOCEPHALIC_VEIN, _RIGHT_BRACHIOCEPHALIC_VEIN, _AZYGOS, _LEFT_SUBCLAVIAN,
)  # fmt: skip

_CONNECTIVE: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((-1, 204, 62), (31, 40, 36)), ((-2, 194, 30), (34, 50, 42)), ((-3, 186, -2), (34, 54, 42)),
    ((0, 178, -36), (37, 56, 40)), ((8, 212, -84), (22, 36, 60)),
)  # fmt: skip
"""Centres and radii of the tissue that joins heart, vessels and airways."""
_HILA = (((-26, 212, -2, 20.0), (-37, 216, -44, 17.0)), ((26, 212, -10, 18.0), (41, 214, -44, 16.0)))
"""Fat, vessels and lymph nodes around both main bronchi, which are darker than both of their sides."""
_FAT_PADS = (((-27, 132, -104), (18, 22, 16)), ((62, 126, -106), (20, 20, 15)))
"""Fat in the cardiophrenic angles."""
_PARAVERTEBRAL_MM = ((60.0, 27.0), (-20.0, 26.0), (-80.0, 23.0))
"""Radius about the centres of the vertebral bodies by height above the carina."""
_CONNECTIVE_HU, _CONNECTIVE_TEXTURE_HU = -30.0, 38.0
"""Fat mixed with small vessels, nerves and lymph nodes."""
_TOP_MM = 1505.0
"""Upper end of the mediastinum, in skeleton coordinates."""
_DEPENDENT_HU = 55.0
"""Difference in HU between the dorsal and the ventral lung of a supine patient."""


def aorta_path(variation: OrganVariation) -> NDArray[np.float64]:
    """Returns rows ``(x, y, height above the carina, radius)`` from the aortic root to the abdominal aorta (mm)."""
    return variation.path("aorta", _AORTA, _AORTA_STD_MM, 0.06)


def heart_shapes(thorax: Thorax, variation: OrganVariation) -> list[tuple[Shape, float]]:
    """Returns the chambers of the heart, each with the width of the crease between it and the previous ones."""
    size = variation.size("heart", _HEART_STD)
    scale, width = thorax.scale * size, thorax.heart_size * size
    wide = np.array([thorax.heart_size, 1.0, 1.0]) * scale
    turn = rotation(1, float(variation.normal("heart axis", _AXIS_STD_DEG)))
    long_axis = _AXIS / np.linalg.norm(_AXIS)
    across = np.cross([0.0, 0.0, 1.0], long_axis)
    across /= np.linalg.norm(across)
    axes = turn @ np.stack([long_axis, across, np.cross(long_axis, across)], axis=1)

    def at(x: float, y: float, height: float) -> NDArray[np.float64]:
        return thorax.points([x * width, y, height])

    long = np.array([thorax.heart_size, 0.5 + 0.5 * thorax.heart_size, 1.0]) * scale
    return [
        (Ellipsoid(at(31, 158, -74), np.array([58, 37, 36]) * long, axes), 0.0),
        (Ellipsoid(at(11, 140, -80), np.array([48, 31, 34]) * long, axes), 22.0),
        (Ellipsoid(at(-16, 164, -64), np.array([25, 34, 46]) * wide), 26.0),
        (Ellipsoid(at(4, 196, -46), np.array([36, 21, 26]) * wide), 20.0),
        (Capsule(at(20, 144, -60), at(26, 154, -36), 15 * scale, 14 * scale), 18.0),
        (Ellipsoid(at(45, 172, -44), np.array([13, 17, 17]) * wide), 16.0),
    ]


def _grown(shape: Shape, by_mm: float) -> Shape:
    """Returns a shape with its radii increased."""
    if isinstance(shape, Capsule):
        first, last = shape.radii_mm
        return Capsule(shape.start_mm, shape.end_mm, first + by_mm, last + by_mm)
    return Ellipsoid(shape.centre_mm, np.asarray(shape.radii_mm, float) + by_mm, shape.axes)


def mediastinum_surface(thorax: Thorax, lattice: Lattice, variation: OrganVariation) -> NDArray[np.float32]:
    """Returns the signed distance from the surface of the mediastinum on the coarse lattice, mm."""
    scale = thorax.scale
    field = Field(lattice)
    for shape, blend in heart_shapes(thorax, variation):
        field.add(_grown(shape, 3.0), blend)
    for centre, radii in _CONNECTIVE:
        field.add(Ellipsoid(thorax.points(centre), np.array(radii) * scale), 14.0)
    for centre, radii in _FAT_PADS:
        field.add(Ellipsoid(thorax.points(centre), np.array(radii) * scale), 12.0)
    for table in _VESSELS:
        # The last part of a vessel is in the lung or in the neck.
        field.add(thorax.curved_tube(table[: max(len(table) - 1, 2)], 1.0), 6.0, margin_mm=24.0)
    field.add(thorax.curved_tube(aorta_path(variation), 1.2), 5.0, margin_mm=26.0)
    field.add(thorax.curved_tube(OESOPHAGUS, 1.0), 5.0, margin_mm=24.0)
    for hilum in _HILA:
        field.add(thorax.curved_tube(hilum), 10.0, margin_mm=26.0)
    variation.ripple("mediastinum", field, 1.2, 70.0)
    heights, radii_mm = np.array(_PARAVERTEBRAL_MM[::-1]).T
    above = (thorax.spine_mm[:, 2] - thorax.carina_mm[2]) / scale
    field.add(tube(thorax.spine_mm, np.interp(above, heights, radii_mm) * scale), 12.0, margin_mm=34.0)
    return field.values


def paint_heart(
    canvas: Canvas, thorax: Thorax, chest: ChestFields, parameters: PatientParameters, variation: OrganVariation
) -> None:
    """Fills the chest above the diaphragm: connective tissue, fat, heart, great vessels, oesophagus, then the lungs."""
    _, _, z = canvas.coarse.axes()
    top = (z - thorax.frame.height(_TOP_MM)).astype(np.float32)
    inside = np.maximum(np.maximum(chest.cavity + np.float32(3.0), -chest.below_diaphragm), top)
    mediastinum = np.maximum(inside, chest.mediastinum - np.float32(4.0))
    canvas.paint(mediastinum, _CONNECTIVE_HU, _CONNECTIVE_TEXTURE_HU)
    for centre, radii in _FAT_PADS:
        pad = Field(canvas.coarse).add(Ellipsoid(thorax.points(centre), np.array(radii) * thorax.scale), margin_mm=20.0)
        canvas.paint(np.maximum(pad.values, mediastinum), tissue.hu("mediastinal_fat"), 10.0)

    spine = Field(canvas.coarse).add(tube(thorax.spine_mm, 22.0 * thorax.scale), 10.0)
    canvas.paint(np.maximum(spine.values, inside), tissue.hu("muscle"), tissue.texture("muscle"))
    shapes = heart_shapes(thorax, variation)
    heart, box = Field.around(canvas.fine, [shape for shape, _ in shapes], 22.0, margin_mm=22.0)
    canvas.paint_box(heart, box, tissue.hu("heart_muscle"), tissue.texture("heart_muscle"))
    for tube_mm in (
        thorax.curved_tube(aorta_path(variation)),
        *map(thorax.curved_tube, (OESOPHAGUS, *_VESSELS)),
    ):
        field, box = Field.around(canvas.fine, tube_mm, margin_mm=6.0)
        canvas.paint_box(field, box, tissue.hu("blood"), tissue.texture("blood"))

    _, y, _ = canvas.fine.axes()
    front = thorax.points([0, 150, 0])[1]
    dorsal = np.clip((y.ravel() - front) / (130 * thorax.frame.depth), 0, 1)
    canvas.paint(chest.lungs, parameters.lung_hu + _DEPENDENT_HU * (dorsal - 0.5), tissue.texture("lung_parenchyma"))
