"""Bone tissue: a cortical shell around trabecular bone, from the mesh of each bone.

Each mesh is filled on samples, two per voxel along each axis, and averaged to voxels, so that a cortex of one
millimetre keeps its mass. Only samples inside the bone are stored: the bounding box of a rib is nearly empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.blur import blur_mask
from carm_env.anatomy.painting.canvas import SAMPLES_PER_VOXEL, TILE, Canvas
from carm_env.anatomy.painting.lattice import Box, Lattice
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.painting.shapes import Ellipsoid, Field
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.fracture import Fracture
from carm_env.anatomy.skeleton.model import CERVICAL_SPINE, MANDIBLE, PELVIS, SACRUM, SKULL, THORACOLUMBAR
from carm_env.anatomy.skeleton.vertebrae import VertebralBody, vertebral_bodies
from carm_env.system.compilation import compiled

_MARGIN_MM = 4.0
_SMALLEST_SHELL_FACES = 100
_EPIPHYSIS_CORTEX_MM = 1.3


@dataclass(frozen=True)
class BoneStyle:
    """Tissue parameters of a kind of bone.

    Attributes:
        cortex_mm: thickness of the cortical shell.
        cortex_hu: HU of the cortical shell.
        core_hu: mean HU inside the shell.
        core_texture_hu: standard deviation of the trabecular texture, HU.
        smoothing_mm: standard deviation of the blur that rounds the facets of the mesh.
        threshold: threshold of the blurred mask; below 0.5 it inflates bones with thin meshes.
        depth_mm: standard deviation of the blur that measures depth; depths are exact to about three times as much.
    """

    cortex_mm: float
    cortex_hu: float
    core_hu: float
    core_texture_hu: float = 60.0
    smoothing_mm: float = 0.8
    threshold: float = 0.5
    depth_mm: float = 1.3

    def with_cortex(self, factor: float) -> BoneStyle:
        """Returns the style with a cortex of another thickness."""
        return self if factor == 1 else replace(self, cortex_mm=factor * self.cortex_mm)


RIB = BoneStyle(1.3, tissue.hu("cortical_bone"), 120.0, 40.0, threshold=0.36)
SHAFT = BoneStyle(3.0, tissue.hu("cortical_bone"), tissue.hu("trabecular_bone"), smoothing_mm=1.0, depth_mm=2.0)
HUMERUS = BoneStyle(4.4, tissue.hu("cortical_bone"), tissue.hu("trabecular_bone"), smoothing_mm=1.2, depth_mm=2.4)
FEMUR = BoneStyle(6.0, tissue.hu("cortical_bone"), 230.0, smoothing_mm=1.0, depth_mm=2.4)
CLAVICLE = BoneStyle(2.1, tissue.hu("cortical_bone"), tissue.hu("trabecular_bone"), smoothing_mm=0.9)
SCAPULA = BoneStyle(1.2, 1100.0, 190.0, smoothing_mm=0.6)
HIP = BoneStyle(1.5, 1150.0, 170.0, smoothing_mm=2.2)
SACRAL = BoneStyle(1.1, 900.0, 120.0, smoothing_mm=2.0)
VERTEBRAL_BODY = BoneStyle(1.0, 490.0, 150.0, 80.0, smoothing_mm=0.8, threshold=0.44)
VERTEBRAL_ARCH = BoneStyle(1.4, 1050.0, 250.0, 80.0, smoothing_mm=0.8, threshold=0.44)
_PEDICLES_MM = 15.0
"""Distance of the pedicles from the centre of a vertebral body; the cortex dorsal to it is thick."""
_END_PLATE_MM = 1.0
_MAX_CALCIFICATION = 0.9
"""Fraction of the surface of the costal cartilage that is calcified at degeneration 1."""
CERVICAL = BoneStyle(1.1, 1000.0, 260.0, smoothing_mm=0.7)
JAW = BoneStyle(2.3, 1350.0, 330.0, 90.0, smoothing_mm=0.6)
HAND = BoneStyle(1.3, 1150.0, 320.0, smoothing_mm=0.4)

_SHAFTS = {"humerus": HUMERUS, "ulna": SHAFT, "radius": SHAFT, "r_femur": FEMUR, "l_femur": FEMUR, "clavicle": CLAVICLE}


@dataclass(frozen=True, eq=False)
class BoneSamples:
    """The samples inside a bone, two per voxel along each axis.

    Attributes:
        lattice: lattice of the samples over the bone's bounding box.
        box: slices of the volume that the lattice covers.
        index: three arrays ``(n,)``, indices of the samples inside the bone.
        depth_mm: ``(n,)`` depth below the surface, exact to about three times `BoneStyle.depth_mm`.
        texture: ``(n,)`` noise of unit variance.
    """

    lattice: Lattice
    box: Box
    index: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    depth_mm: NDArray[np.float32]
    texture: NDArray[np.float32]

    def axis(self, number: int) -> NDArray[np.float32]:
        """Returns the coordinates ``(n,)`` of the samples along one axis, LPS mm."""
        return self.lattice.axis(number)[self.index[number]]

    def points_mm(self) -> NDArray[np.float32]:
        """Returns the positions ``(n, 3)`` of the samples, LPS mm."""
        return np.stack([self.axis(0), self.axis(1), self.axis(2)], axis=1)

    def only(self, chosen: NDArray[np.bool_]) -> BoneSamples:
        """Returns the samples that a mask ``(n,)`` selects."""
        i, j, k = self.index
        index = (i[chosen], j[chosen], k[chosen])
        return replace(self, index=index, depth_mm=self.depth_mm[chosen], texture=self.texture[chosen])

    def mask(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Returns a mask ``(n,)`` of the samples as a mask on the whole lattice."""
        mask = np.zeros(self.lattice.shape, bool)
        mask[self.index] = chosen
        return mask

    def fraction(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Returns the volume fraction, in each voxel of the box, of the samples that a mask ``(n,)`` selects."""
        fraction = np.zeros([size // SAMPLES_PER_VOXEL for size in self.lattice.shape], np.float32)
        i, j, k = self.index
        _scatter(fraction, np.zeros(3, np.int64), i, j, k, chosen.astype(np.float32))
        return fraction


@compiled
def _scatter(
    voxels: NDArray[np.float32], first: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64],
    k: NDArray[np.int64], values: NDArray[np.float32],
) -> None:  # fmt: skip
    for n in range(len(i)):
        voxels[first[0] + (i[n] >> 1), first[1] + (j[n] >> 1), first[2] + (k[n] >> 1)] += np.float32(0.125) * values[n]


def depth_below_surface(
    mask: NDArray[np.bool_], index: tuple[NDArray[np.int64], ...], width: float
) -> NDArray[np.float32]:
    """Returns the depth ``(n,)`` below the surface of a mask, in samples, exact to three times `width`."""
    from scipy.special import ndtri

    return (width * ndtri(np.clip(blur_mask(mask, width)[index], 0.5, 0.9999))).astype(np.float32)


def sample_bone(canvas: Canvas, mesh: Mesh, style: BoneStyle, rng: np.random.Generator) -> BoneSamples | None:
    """Fills a mesh with samples; returns None if it lies outside the volume."""
    from carm_env.anatomy.painting.voxelise import fill

    low, high = mesh.bounds_mm
    box = canvas.fine.box(low - _MARGIN_MM, high + _MARGIN_MM)
    if any(part.stop - part.start < 2 for part in box):
        return None
    coarse = canvas.fine.within(box)
    sample = coarse.spacing_mm / SAMPLES_PER_VOXEL
    count = tuple(SAMPLES_PER_VOXEL * n for n in coarse.shape)
    # The samples of a voxel are symmetric about its centre.
    lattice = Lattice(coarse.origin_mm - sample / 2, sample, (count[0], count[1], count[2]))
    inside = blur_mask(fill(mesh.vertices_mm, mesh.faces, lattice), style.smoothing_mm / sample) > style.threshold
    # As `np.nonzero` does, in a third of the time.
    row, k = np.divmod(np.flatnonzero(inside), lattice.shape[2])
    i, j = np.divmod(row, lattice.shape[1])
    depth = np.float32(sample) * depth_below_surface(inside, (i, j, k), style.depth_mm / sample)
    start = rng.integers(TILE, size=3)
    tile = tuple((indices + offset) % TILE for indices, offset in zip((i, j, k), start, strict=True))
    return BoneSamples(lattice, box, (i, j, k), depth, canvas.sample_texture[tile])


def add_bone(canvas: Canvas, samples: BoneSamples, hu: NDArray[np.float32]) -> None:
    """Adds bone to the canvas, given the HU ``(n,)`` of its samples."""
    i, j, k = samples.index
    first = np.array([part.start for part in samples.box])
    _scatter(canvas.bone_fraction, first, i, j, k, np.ones(len(hu), np.float32))
    _scatter(canvas.bone_hu, first, i, j, k, hu.astype(np.float32))


def shell_hu(samples: BoneSamples, style: BoneStyle, density: float) -> NDArray[np.float32]:
    """Returns the HU ``(n,)`` of a cortical shell around a trabecular core."""
    cortex = np.clip(style.cortex_mm - samples.depth_mm + 1, 0, 1)
    core = style.core_hu + style.core_texture_hu * samples.texture
    return cortex * np.float32(style.cortex_hu * density) + (1 - cortex) * core * np.float32(density)


def _shaft(samples: BoneSamples, mesh: Mesh, style: BoneStyle, density: float) -> NDArray[np.float32]:
    # Long bone: thick cortex and marrow in the middle, thin cortex and trabeculae at the ends.
    centre, direction, begin, end = mesh.long_axis()
    along = (samples.points_mm() - centre) @ direction
    fraction = ((along - begin) / (end - begin)).astype(np.float32)
    middle = np.clip(np.minimum(fraction, 1 - fraction) / 0.22 - 0.35, 0, 1)
    thickness = _EPIPHYSIS_CORTEX_MM + middle * (style.cortex_mm - _EPIPHYSIS_CORTEX_MM)
    wall = np.clip(thickness - samples.depth_mm + 0.8, 0, 1)
    cortex = 1050 + (style.cortex_hu + 150 - 1050) * middle
    core = (style.core_hu + 80 + style.core_texture_hu * samples.texture) * (1 - middle) + tissue.hu("marrow") * middle
    return ((wall * cortex + (1 - wall) * core) * density).astype(np.float32)


def _sternum(
    samples: BoneSamples, scale: float, top_mm: float, density: float, degeneration: float
) -> NDArray[np.float32]:
    # Bone in the middle, costal cartilage on both sides, which calcifies from its surface, in patches.
    half_width = 17 * scale + 16 * scale * np.clip((samples.axis(2) - top_mm) / (25 * scale), 0, 1)
    cartilage = np.clip((np.abs(samples.axis(0)) - half_width) / 3, 0, 1)
    wall = np.clip(1.2 - samples.depth_mm + 0.8, 0, 1)
    bone = (wall * 850 + (1 - wall) * (110 + 50 * samples.texture)) * density
    soft = tissue.hu("cartilage") + 40 * wall + tissue.texture("cartilage") * samples.texture
    calcified = _MAX_CALCIFICATION * degeneration * wall * np.clip(0.5 + samples.texture, 0, 1)
    soft = soft + calcified * (tissue.hu("calcified_cartilage") - soft)
    return ((1 - cartilage) * bone + cartilage * soft).astype(np.float32)


def _vertebra(
    samples: BoneSamples, vertebra: VertebralBody, density: float, degeneration: float
) -> NDArray[np.float32]:
    # The body has a thin cortex, which is faint in frontal views. The arch has a thick one. The end plates are parallel
    # to the beam, and degeneration thickens them.
    dorsal = samples.axis(1) - vertebra.centre_mm[1]
    arch = np.clip((dorsal - _PEDICLES_MM) / 4 + 0.5, 0, 1).astype(np.float32)
    along = vertebra.height_mm(samples.points_mm())
    at_end = np.clip((np.maximum(along - vertebra.upper_mm, vertebra.lower_mm - along) + 3.0) / 1.5, 0, 1)
    plate = np.clip(_END_PLATE_MM + degeneration - samples.depth_mm + 0.6, 0, 1) * at_end
    body = shell_hu(samples, VERTEBRAL_BODY, density)
    body += (plate * (tissue.hu("end_plate") * density - body)).astype(np.float32)
    return (1 - arch) * body + arch * shell_hu(samples, VERTEBRAL_ARCH, density)


def bone_style(name: str) -> BoneStyle:
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
    if name in THORACOLUMBAR:
        return VERTEBRAL_BODY
    if name == CERVICAL_SPINE:
        return CERVICAL
    return JAW if name == MANDIBLE else HAND


def paint_bones(
    canvas: Canvas,
    body: Body,
    parameters: PatientParameters,
    rng: np.random.Generator,
    fractures: Sequence[Fracture] = (),
) -> None:
    """Builds all bones but skull and mandible, and paints the discs between the vertebrae."""
    _paint_discs(canvas, body)
    density, degeneration = parameters.bone_density, parameters.degeneration
    cortex = 1.0 if body.shapes is None else body.shapes.cortex
    vertebrae = vertebral_bodies(body)

    def build(mesh: Mesh, style: BoneStyle, hu: Callable[[BoneSamples], NDArray[np.float32]]) -> None:
        samples = sample_bone(canvas, mesh, style, rng)
        if samples is not None:
            add_bone(canvas, samples, hu(samples))

    broken = {fracture.rib: fracture for fracture in fractures}
    for number, rib in enumerate(body.ribs):
        if number in broken:
            _add_broken_rib(canvas, rib, broken[number], density, rng, RIB.with_cortex(cortex))
        else:
            build(rib, RIB, lambda samples: shell_hu(samples, RIB.with_cortex(cortex), density))
    top_mm = body.frame.height(1440.0, 110.0)
    build(body.sternum, CLAVICLE, lambda samples: _sternum(samples, body.scale, top_mm, density, degeneration))
    for name, mesh in body.meshes.items():
        if name in (SKULL, MANDIBLE):
            continue
        style = bone_style(name)
        if style in _SHAFTS.values():
            thick = style.with_cortex(cortex)
            build(mesh, style, lambda samples, m=mesh, s=thick: _shaft(samples, m, s, density))  # type: ignore[misc]
            continue
        if style is VERTEBRAL_BODY:
            build(mesh, style, lambda samples, v=vertebrae[name]: _vertebra(samples, v, density, degeneration))  # type: ignore[misc]
            continue
        pieces = mesh.shells() if name == CERVICAL_SPINE else [mesh]
        thick = style.with_cortex(cortex)
        for piece in pieces:
            if len(piece.faces) > _SMALLEST_SHELL_FACES or len(pieces) == 1:
                build(piece, style, lambda samples, s=thick: shell_hu(samples, s, density))  # type: ignore[misc]


def _add_broken_rib(
    canvas: Canvas, rib: Mesh, fracture: Fracture, density: float, rng: np.random.Generator, style: BoneStyle
) -> None:
    state = rng.bit_generator.state
    for mesh, part in ((fracture.displaced(rib), fracture.in_displaced_part), (rib, fracture.in_fixed_part)):
        # Both parts draw the same numbers, so that the texture of later bones does not change.
        rng.bit_generator.state = state
        samples = sample_bone(canvas, mesh, RIB, rng)
        if samples is not None:
            kept = samples.only(part(samples.points_mm()))
            add_bone(canvas, kept, shell_hu(kept, style, density))


def _paint_discs(canvas: Canvas, body: Body) -> None:
    spine = body.spine_mm()
    for below, above in zip(spine[:-1], spine[1:], strict=True):
        gap = float(np.linalg.norm(above - below))
        radii = np.array([20.0, 15.0, 0.22 * gap + 2.0]) * body.scale
        canvas.paint_box(*Field.around(canvas.fine, [Ellipsoid((below + above) / 2, radii)]), tissue.hu("disc"))
