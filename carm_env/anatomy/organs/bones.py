"""Bone tissue: cortex that thins towards the joints, trabecular bone with gradient and texture.

Thick cortex lies around the middle of a shaft only. Towards the joints it thins to a subchondral plate of half a
millimetre, and trabecular bone, densest below that plate, fills the end. Flat and short bones have a thin cortex
around trabecular bone throughout. Thicknesses and HU were chosen by hand, beside published DRRs of real patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.bone_samples import BoneSamples, BoneStyle, add_bone, sample_bone
from carm_env.anatomy.organs.modelled_vertebrae import paint_vertebra
from carm_env.anatomy.organs.scapular_borders import border_shapes
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import TILE, Canvas
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.painting.shapes import Ellipsoid, Field
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.fracture import Fracture
from carm_env.anatomy.skeleton.model import CERVICAL_SPINE, MANDIBLE, PELVIS, SACRUM, SIDES, SKULL, THORACOLUMBAR
from carm_env.anatomy.skeleton.vertebrae import cervical_meshes, modelled_vertebrae


@dataclass(frozen=True)
class GradedStyle(BoneStyle):
    """Tissue parameters of a kind of bone.

    Attributes:
        ends_mm: thickness of the cortex at the proximal and at the distal joint; `cortex_mm` is the thickness in the
            middle of a shaft. None for a cortex of one thickness.
        ends_hu: HU of the cortex at both joints.
        distal_core_hu: mean HU of trabecular bone at the distal joint; `core_hu` is the mean at the proximal joint.
        subchondral_hu: HU that trabecular bone has in excess below its surface.
        gradient_mm: depth at which that excess has fallen to 37 %.
        canal_hu: HU of the medullary canal in the middle of a shaft; None for a bone without one.
        taper: ends over which the cortex thins and the canal closes, as fractions of the length.
    """

    ends_mm: tuple[float, float] | None = None
    ends_hu: tuple[float, float] = (850.0, 850.0)
    distal_core_hu: float | None = None
    subchondral_hu: float = 180.0
    gradient_mm: float = 3.0
    canal_hu: float | None = None
    taper: tuple[float, float] = (0.08, 0.32)

    def with_cortex(self, factor: float) -> GradedStyle:
        """Returns the style with a cortex of another thickness."""
        ends = None if self.ends_mm is None else (factor * self.ends_mm[0], factor * self.ends_mm[1])
        return replace(self, cortex_mm=factor * self.cortex_mm, ends_mm=ends)


_MARROW = tissue.hu("marrow")
HUMERUS = GradedStyle(
    4.3, 1400.0, 200.0, 95.0, smoothing_mm=1.1, depth_mm=2.4, subchondral_hu=200.0, gradient_mm=4.0, canal_hu=_MARROW,
    ends_mm=(0.4, 1.0), ends_hu=(850.0, 1150.0), distal_core_hu=260.0,
)  # fmt: skip
FEMUR = replace(HUMERUS, cortex_mm=6.0, core_hu=230.0, ends_mm=(0.8, 0.8), ends_hu=(900.0, 900.0), distal_core_hu=None)
ULNA = GradedStyle(
    3.0, 1400.0, 340.0, 95.0, smoothing_mm=0.6, depth_mm=1.8, subchondral_hu=260.0, gradient_mm=2.0, canal_hu=_MARROW,
    ends_mm=(1.6, 1.1), ends_hu=(1350.0, 1250.0), distal_core_hu=280.0,
)  # fmt: skip
RADIUS = replace(ULNA, core_hu=300.0, ends_mm=(1.1, 1.3), ends_hu=(1250.0, 1300.0), distal_core_hu=300.0)
CLAVICLE = replace(
    HUMERUS, cortex_mm=2.1, cortex_hu=1150.0, core_hu=300.0, smoothing_mm=0.8, depth_mm=1.8, gradient_mm=3.0,
    canal_hu=190.0, ends_mm=(0.7, 0.7), ends_hu=(850.0, 850.0), distal_core_hu=None, taper=(0.05, 0.4),
)  # fmt: skip
SCAPULA = GradedStyle(0.8, 900.0, 330.0, 80.0, smoothing_mm=0.6)
HIP = GradedStyle(1.3, 1050.0, 170.0, 80.0, smoothing_mm=2.0)
SACRAL = GradedStyle(0.9, 850.0, 140.0, 80.0, smoothing_mm=1.8)
RIB = GradedStyle(0.9, 1050.0, 260.0, 70.0, threshold=0.38, subchondral_hu=0.0)
STERNAL = GradedStyle(0.8, 750.0, 130.0, 60.0, smoothing_mm=0.9)
CERVICAL = GradedStyle(1.0, 1050.0, 300.0, 80.0, smoothing_mm=0.7)
HAND = GradedStyle(
    1.4, 1350.0, 330.0, 90.0, smoothing_mm=0.4, subchondral_hu=160.0, gradient_mm=1.5, canal_hu=80.0,
    ends_mm=(0.9, 0.9), ends_hu=(1200.0, 1200.0),
)  # fmt: skip
CARPAL = GradedStyle(1.1, 1400.0, 360.0, 90.0, smoothing_mm=0.4, subchondral_hu=200.0, gradient_mm=1.5)

_SHAFTS = {
    "humerus": HUMERUS, "ulna": ULNA, "radius": RADIUS, "r_femur": FEMUR, "l_femur": FEMUR, "clavicle": CLAVICLE,
}  # fmt: skip
_PROXIMAL_JOINTS = {"humerus": 2, "ulna": 3, "radius": 3}
"""Row of `Body.joints_mm` of the joint at the proximal end of a bone whose ends differ."""
_CARPALS = ("lunate", "scaphoid", "pisiform", "triquetrum", "capitate", "trapezium", "trapezoid", "hamate")
_Part = Callable[[NDArray[np.floating]], NDArray[np.bool_]]
"""Maps points ``(n, 3)`` to a mask ``(n,)`` of those that belong to a part of a bone."""

_COARSE_GRAIN = 0.6
"""Share of the texture's standard deviation with grains of several millimetres, which remain visible in views."""
_CARTILAGE_HALF_MM, _MANUBRIUM_MM = 17.0, 16.0
_MAX_CALCIFICATION = 0.9


def bone_style(name: str) -> GradedStyle:
    """Returns the style of a bone by its mesh name."""
    for stem, style in _SHAFTS.items():
        if name.startswith(stem):
            return style
    if name.startswith("scapula"):
        return SCAPULA
    if name in PELVIS:
        return HIP
    if name == SACRUM:
        return SACRAL
    return CARPAL if name.startswith(_CARPALS) else HAND


def _middle(fraction: NDArray[np.floating], style: GradedStyle) -> NDArray[np.floating]:
    low, high = style.taper
    t = np.clip((np.minimum(fraction, 1 - fraction) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def graded_hu(
    samples: BoneSamples, style: GradedStyle, density: float, fraction: NDArray[np.floating], grain: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Returns the HU ``(n,)`` of the samples of a bone.

    Args:
        samples: the samples.
        style: tissue parameters.
        density: factor of the HU.
        fraction: ``(n,)`` position along the bone, 0 at its proximal and 1 at its distal end.
        grain: ``(n,)`` texture of unit variance.
    """
    ends_mm, ends_hu = (style.cortex_mm, style.cortex_mm), (style.cortex_hu, style.cortex_hu)
    if style.ends_mm is not None:
        ends_mm, ends_hu = style.ends_mm, style.ends_hu
    middle = _middle(fraction, style)
    thickness, cortex_hu = (
        (1 - middle) * ((1 - fraction) * ends[0] + fraction * ends[1]) + middle * shaft
        for ends, shaft in ((ends_mm, style.cortex_mm), (ends_hu, style.cortex_hu))
    )
    wall = np.clip(thickness - samples.depth_mm + 0.5, 0, 1)
    distal_hu = style.core_hu if style.distal_core_hu is None else style.distal_core_hu
    core = style.core_hu + fraction * (distal_hu - style.core_hu)
    core = core + style.subchondral_hu * np.exp(-samples.depth_mm / style.gradient_mm)
    core = core + style.core_texture_hu * grain
    if style.canal_hu is not None:
        # Trabeculae reach farther into the shaft than the thin cortex.
        core = core + middle**2 * (style.canal_hu - core)
    return np.asarray(density * (core + wall * (cortex_hu - core)), np.float32)


def _grain(canvas: Canvas, samples: BoneSamples) -> NDArray[np.float32]:
    coarse = canvas.coarse_texture[tuple((number >> 1) % TILE for number in samples.index)]
    return np.asarray(np.sqrt(1 - _COARSE_GRAIN**2) * samples.texture + _COARSE_GRAIN * coarse, np.float32)


def _fraction(samples: BoneSamples, mesh: Mesh, body: Body) -> NDArray[np.float32]:
    centre, direction, begin, end = mesh.long_axis()
    fraction = np.clip(((samples.points_mm() - centre) @ direction - begin) / (end - begin), 0, 1)
    joint = _PROXIMAL_JOINTS.get(mesh.name[:-2])
    if joint is not None and (body.joints_mm(mesh.name[-1])[joint] - centre) @ direction > 0:
        fraction = 1 - fraction
    return np.asarray(fraction, np.float32)


def _sternum(
    samples: BoneSamples, grain: NDArray[np.float32], body: Body, density: float, degeneration: float
) -> NDArray[np.float32]:
    scale, top_mm = body.scale, body.frame.height(1440.0, 110.0)
    wider = np.clip((samples.axis(2) - top_mm) / (25 * scale), 0, 1)
    half_width = (_CARTILAGE_HALF_MM + _MANUBRIUM_MM * wider) * scale
    cartilage = np.clip((np.abs(samples.axis(0)) - half_width) / 3, 0, 1)
    wall = np.clip(STERNAL.cortex_mm - samples.depth_mm + 0.5, 0, 1)
    bone = graded_hu(samples, STERNAL, density, np.zeros(len(grain), np.float32), grain)
    soft = tissue.hu("cartilage") + 40 * wall + tissue.texture("cartilage") * samples.texture
    calcified = _MAX_CALCIFICATION * degeneration * wall * np.clip(0.5 + samples.texture, 0, 1)
    soft = soft + calcified * (tissue.hu("calcified_cartilage") - soft)
    return np.asarray((1 - cartilage) * bone + cartilage * soft, np.float32)


def paint_bones(
    canvas: Canvas,
    body: Body,
    parameters: PatientParameters,
    rng: np.random.Generator,
    fractures: Sequence[Fracture] = (),
) -> None:
    """Builds all bones but skull and mandible, and paints the discs between the vertebrae."""
    density, degeneration = parameters.bone_density, parameters.degeneration

    def build(mesh: Mesh, style: GradedStyle, kept: _Part | None = None) -> None:
        thick = style.with_cortex(body.shapes.cortex)
        samples = sample_bone(canvas, mesh, thick, rng)
        if samples is None:
            return
        if kept is not None:
            samples = samples.only(kept(samples.points_mm()))
        hu = graded_hu(samples, thick, density, _fraction(samples, mesh, body), _grain(canvas, samples))
        add_bone(canvas, samples, hu)

    broken = {fracture.rib: fracture for fracture in fractures}
    for number, rib in enumerate(body.ribs):
        if number not in broken:
            build(rib, RIB)
            continue
        fracture, state = broken[number], rng.bit_generator.state
        build(fracture.displaced(rib), RIB, fracture.in_displaced_part)
        # Both parts draw the same numbers, so that the texture of later bones does not change.
        rng.bit_generator.state = state
        build(rib, RIB, fracture.in_fixed_part)
    sternum = sample_bone(canvas, body.sternum, STERNAL, rng)
    if sternum is not None:
        add_bone(canvas, sternum, _sternum(sternum, _grain(canvas, sternum), body, density, degeneration))
    for name, mesh in body.meshes.items():
        if name not in (SKULL, MANDIBLE, CERVICAL_SPINE, *THORACOLUMBAR):
            build(mesh, bone_style(name))
    for side in SIDES:
        for shape, hu in border_shapes(body, side):
            canvas.add_bone_shape(shape, hu * density)
    for mesh in cervical_meshes(body)[:2]:
        build(mesh, CERVICAL)
    _paint_spine(canvas, body, density, degeneration, rng)


def _paint_spine(canvas: Canvas, body: Body, density: float, degeneration: float, rng: np.random.Generator) -> None:
    vertebrae = list(modelled_vertebrae(body).values())
    for below, above in zip(vertebrae[:-1], vertebrae[1:], strict=True):
        shape = below.shape
        gap = float(np.linalg.norm(above.centre_mm - below.centre_mm))
        height = max(gap - shape.upper + above.shape.lower, 2.0) / 2 + shape.concavity
        middle = below.centre_mm + below.axes[:, 2] * (shape.upper + height - shape.concavity)
        disc = Ellipsoid(middle, [shape.half_width, shape.half_depth, 1.2 * height], below.axes)
        canvas.paint_box(*Field.around(canvas.fine, [disc]), tissue.hu("disc"))
    for vertebra in vertebrae:
        paint_vertebra(canvas, vertebra, density, degeneration, rng)
