"""The skull and its contents: brain, sinuses, orbits, petrous bone.

The mesh of the skull is a single outer surface; this module creates everything inside. Positions are in skeleton
coordinates of the head (mm); `Body.head_point` maps them to the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.bone_samples import BoneSamples, BoneStyle, add_bone, sample_bone
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.blur import blur_mask, interpolate_every
from carm_env.anatomy.painting.canvas import TILE, Canvas
from carm_env.anatomy.painting.shapes import Field
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import SKULL

_Ellipsoids = tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]

_SKULL = BoneStyle(2.0, tissue.hu("skull_table"), tissue.hu("diploe"), smoothing_mm=0.7)
_VAULT_MM = 5.8
_TABLE_MM = 1.7
_FACE_WALL_MM = 1.3
_SEPTUM_MM = 1.1

_FLOOR_Y_MM = np.array([128.0, 154.0, 168.0, 180.0, 190.0, 200.0, 212.0, 230.0, 262.0, 290.0])
_FLOOR_MIDDLE_MM = np.array([1672.0, 1667.0, 1664.0, 1658.0, 1654.0, 1660.0, 1642.0, 1616.0, 1618.0, 1630.0])
"""Floor of the cranial cavity in the midline: cribriform plate, sella, clivus, posterior fossa."""
_FLOOR_SIDE_MM = np.array([1679.0, 1679.0, 1666.0, 1648.0, 1644.0, 1643.0, 1648.0, 1634.0, 1622.0, 1632.0])
"""Floor 32 mm lateral to the midline: orbital roofs, middle fossa, petrous ridge, posterior fossa."""

# Ellipsoids: centre (|x|, y, z) and radii, mirrored about the midline.
_MAXILLARY: _Ellipsoids = (((28, 152, 1631), (11, 15, 14)), ((31, 149, 1622), (8, 11, 9)))
_FRONTAL: _Ellipsoids = (((9, 130, 1676), (8, 4.5, 7)), ((18, 131, 1678), (7, 4, 5)))
_SPHENOID: _Ellipsoids = (((8.5, 183, 1647), (8.2, 12, 9)),)
_ETHMOID: _Ellipsoids = (((9.8, 157, 1654), (8.8, 23, 12)),)
_ETHMOID_SEPTA = 0.35
"""Threshold of the texture that divides the ethmoid cells; a higher value gives thicker walls."""
_TURBINATES: _Ellipsoids = (((9, 152, 1620), (2.6, 20, 3)), ((9, 154, 1632), (2, 16, 2.6)))
_ORBIT_AXIS = ((31.0, 150.0, 1658.0), (15.0, 181.0, 1659.0))
_ORBIT_RADII_MM = (15.0, 3.0)
_PETROUS_AXIS = ((57.0, 208.0, 1634.0), (17.0, 190.0, 1643.0))
_PETROUS_RADIUS_MM = 7.5
_VAULT_BEGINS_MM = 1676.0
_PLATE_MM = 1.5
"""Thickness of bone between the brain and a sinus or an orbit."""
_BREGMA_MM = (186.0, 1749.0)
_LAMBDA_MM = (272.0, 1714.0)
"""y and z of the ends of the sagittal suture."""
_LAMBDOID_Y_MM = 225.0
_SUTURES_ABOVE_MM = 1655.0
_SUTURE_MM, _SUTURE_GAP = 2.0, 0.9
"""Width of a suture, and the fraction of bone that is missing in it."""
_SUTURE_WAVE_MM, _SUTURE_MEANDER_MM = 7.0, 1.3
_DISTANCE_STEP_MM = 2.0
_FACE_THINNER_THAN_MM = 15.0
"""Half the width of the widest solid part of the face; the cranial cavity is wider."""
_NASAL: _Ellipsoids = (((7, 152, 1627), (5, 28, 13)), ((6, 176, 1628), (6, 16, 11)))
_MASTOID: _Ellipsoids = (((56, 224, 1624), (8, 10, 14)),)
_EAR_CANAL: _Ellipsoids = (((59, 207, 1634), (12, 3.5, 3.5)),)


def _ellipsoid_level(
    x: NDArray[np.floating], y: NDArray[np.floating], z: NDArray[np.floating], ellipsoids: _Ellipsoids
) -> NDArray[np.floating]:
    level = None
    for centre, radii in ellipsoids:
        one = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
        level = one if level is None else np.minimum(level, one)
    assert level is not None
    return level


def _brain(
    samples: BoneSamples, x: NDArray[np.floating], y: NDArray[np.floating], z: NDArray[np.floating]
) -> NDArray[np.bool_]:
    from scipy import ndimage

    sample = samples.lattice.spacing_mm
    step = max(round(_DISTANCE_STEP_MM / sample), 1)
    spacing = step * sample
    thinned = samples.mask(np.ones(len(x), bool))[::step, ::step, ::step]
    depth = (ndimage.distance_transform_edt(thinned) * spacing).astype(np.float32)
    # A morphological opening by a ball removes the face, which is thinner than the ball.
    ball = _FACE_THINNER_THAN_MM
    core = ndimage.gaussian_filter((depth > ball).astype(np.float32), _DISTANCE_STEP_MM / spacing) > 0.5
    label, _ = ndimage.label(core)
    core = label == 1 + int(np.argmax(np.bincount(label.ravel())[1:]))
    distance = interpolate_every(ndimage.distance_transform_edt(~core) * spacing, step, samples.index)
    lateral = np.clip((np.abs(x) - 7) / 22, 0, 1)
    lateral = lateral * lateral * (3 - 2 * lateral)
    middle, side = (np.interp(y, _FLOOR_Y_MM, heights) for heights in (_FLOOR_MIDDLE_MM, _FLOOR_SIDE_MM))
    floor = middle * (1 - lateral) + side * lateral
    thickness = _VAULT_MM + 0.33 * samples.texture
    deep = interpolate_every(depth, step, samples.index) > thickness
    brain = (distance < ball - 4.0) & deep & (z > floor + 0.5 * samples.texture)
    return blur_mask(samples.mask(brain), 1.2 / sample)[samples.index] > 0.5


def _outside_depth(samples: BoneSamples, chosen: NDArray[np.bool_], width_mm: float) -> NDArray[np.float32]:
    from scipy.special import ndtri

    blurred = blur_mask(samples.mask(chosen), width_mm / samples.lattice.spacing_mm)[samples.index]
    return np.where(chosen, 0, -width_mm * ndtri(np.clip(blurred, 1e-4, 0.5))).astype(np.float32)


def _capsule_level(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    z: NDArray[np.floating],
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
) -> NDArray[np.floating]:
    d = np.subtract(end, start)
    t = np.clip(((x - start[0]) * d[0] + (y - start[1]) * d[1] + (z - start[2]) * d[2]) / float(d @ d), 0, 1)
    gap = (x - start[0] - t * d[0]) ** 2 + (y - start[1] - t * d[1]) ** 2 + (z - start[2] - t * d[2]) ** 2
    return np.sqrt(gap) - radius


@dataclass(frozen=True, eq=False)
class _SkullSamples:
    """Samples ``(n,)`` of the skull with their skeleton coordinates (mm).

    Attributes:
        samples: the samples.
        x, y, z: skeleton coordinates of the head.
        brain: mask of the brain.
        outside_brain_mm: distance from the brain; 0 inside it.
    """

    samples: BoneSamples
    x: NDArray[np.floating]
    y: NDArray[np.floating]
    z: NDArray[np.floating]
    brain: NDArray[np.bool_]
    outside_brain_mm: NDArray[np.float32]

    @property
    def lateral_mm(self) -> NDArray[np.floating]:
        """Distance from the midline, mm."""
        return np.abs(self.x)

    def only(self, chosen: NDArray[np.bool_]) -> _SkullSamples:
        """Returns the samples that a mask ``(n,)`` selects."""
        x, y, z = self.x[chosen], self.y[chosen], self.z[chosen]
        return _SkullSamples(self.samples.only(chosen), x, y, z, self.brain[chosen], self.outside_brain_mm[chosen])

    def within(self, ellipsoids: _Ellipsoids, roughness: float = 0.0) -> NDArray[np.bool_]:
        """Returns a mask ``(n,)`` of the samples inside mirrored ellipsoids, with edges roughened by the texture."""
        level = _ellipsoid_level(self.lateral_mm, self.y, self.z, ellipsoids)
        return level + roughness * self.samples.texture < 1


def _air_spaces(inside: _SkullSamples, cells: NDArray[np.float32]) -> NDArray[np.bool_]:
    samples = inside.samples
    air = inside.within(_MAXILLARY, 0.12) | inside.within(_FRONTAL, 0.2) | inside.within(_SPHENOID, 0.1)
    air |= inside.within(_NASAL, 0.05) | inside.within(_EAR_CANAL)
    air |= inside.within(_ETHMOID) & (np.abs(cells) > _ETHMOID_SEPTA)
    air |= inside.within(_MASTOID) & (samples.texture > 0.1)
    septum = inside.lateral_mm < _SEPTUM_MM / 2
    wall = (samples.depth_mm <= _FACE_WALL_MM) | (inside.outside_brain_mm <= _PLATE_MM)
    return air & ~wall & ~septum & ~inside.within(_TURBINATES) & ~inside.brain


def _orbital_cones(inside: _SkullSamples) -> NDArray[np.bool_]:
    front, apex = _ORBIT_AXIS
    from_axis = _capsule_level(inside.lateral_mm, inside.y, inside.z, front, apex, 0.0)
    share = np.clip((inside.y - front[1]) / (apex[1] - front[1]), 0, 1)
    radius = _ORBIT_RADII_MM[0] + (_ORBIT_RADII_MM[1] - _ORBIT_RADII_MM[0]) * share
    has_wall = (inside.samples.depth_mm > 1.0) & (inside.outside_brain_mm > _PLATE_MM)
    return (from_axis < radius) & (inside.y > front[1] - 4) & has_wall & ~inside.brain


def _suture_distance(inside: _SkullSamples, phases: NDArray[np.float64]) -> NDArray[np.floating]:
    # Distance from the nearest of the coronal, sagittal and lambdoid sutures, which meander through the vault.
    x, y, z = inside.x, inside.y, inside.z

    def meander(along: NDArray[np.floating], number: int) -> NDArray[np.floating]:
        first, second = phases[number]
        waves = np.sin(2 * np.pi * along / _SUTURE_WAVE_MM + first) + 0.6 * np.sin(
            2 * np.pi * along / (0.43 * _SUTURE_WAVE_MM) + second
        )
        return _SUTURE_MEANDER_MM * waves

    bregma_y, bregma_z = _BREGMA_MM
    _, lambda_z = _LAMBDA_MM
    forwards, downwards = 25.0 / 73.0, 57.0 / 55.0
    coronal = (y - bregma_y + forwards * (bregma_z - z) + meander(x, 0)) / np.hypot(1, forwards)
    sagittal = np.where((z > lambda_z) & (y > bregma_y), x + meander(y, 1), np.inf)
    lambdoid = (z - lambda_z + downwards * inside.lateral_mm + meander(x, 2)) / np.hypot(1, downwards)
    lambdoid = np.where(y > _LAMBDOID_Y_MM, lambdoid, np.inf)
    nearest = np.minimum(np.abs(coronal), np.minimum(np.abs(sagittal), np.abs(lambdoid)))
    return np.where(z > _SUTURES_ABOVE_MM, nearest, np.inf)


def _bone_hu(
    inside: _SkullSamples, from_hollow: NDArray[np.float32], density: float, phases: NDArray[np.float64]
) -> NDArray[np.float32]:
    depth, texture = inside.samples.depth_mm, inside.samples.texture
    vault = np.clip((inside.z - _VAULT_BEGINS_MM) / 10, 0, 1)
    outer = np.clip(_TABLE_MM - depth + 0.8, 0, 1) * (0.55 + 0.45 * vault)
    # Caudal to the brain the inner table is thin: a full one would show as a bright band.
    from_brain = inside.outside_brain_mm
    inner = np.clip(0.5 + 1.2 * vault - from_brain + 0.5, 0, 1) * (from_brain > 0)
    lining = 0.55 * np.clip(1.2 - from_hollow, 0, 1) * (from_hollow > 0)
    table = np.maximum(np.maximum(outer, inner), lining)
    spongy = tissue.hu("diploe") + tissue.texture("diploe") * texture
    facial = tissue.hu("facial_bone") + tissue.texture("facial_bone") * texture
    diploe = vault * spongy + (1 - vault) * facial
    hu = (table * tissue.hu("skull_table") + (1 - table) * diploe) * density
    open_suture = np.clip(_SUTURE_MM / 2 + 0.5 - _suture_distance(inside, phases), 0, 1)
    hu = hu * (1 - _SUTURE_GAP * open_suture * vault)
    petrous = _capsule_level(inside.lateral_mm, inside.y, inside.z, *_PETROUS_AXIS, _PETROUS_RADIUS_MM) < 0
    petrous_hu = tissue.hu("petrous_bone") * density + tissue.texture("petrous_bone") * texture
    hu = np.where(petrous & (depth > 1.0), petrous_hu, hu)
    hu = np.where((inside.lateral_mm < _SEPTUM_MM / 2) & inside.within(_NASAL), tissue.hu("nasal_septum"), hu)
    return np.where(inside.within(_TURBINATES), tissue.hu("turbinate"), hu).astype(np.float32)


def paint_skull(canvas: Canvas, body: Body, density: float, rng: np.random.Generator) -> Field:
    """Builds the skull and paints brain, sinuses and orbits.

    Returns:
        Signed distance from the surface of the brain on a box of the fine lattice, valid near the surface.
    """
    samples = sample_bone(canvas, body.meshes[SKULL], _SKULL, rng)
    assert samples is not None, "the skull is outside the volume"
    x, y, z = body.frame.head_from_patient((samples.axis(0), samples.axis(1), samples.axis(2)))
    brain = _brain(samples, x, y, z)
    inside = _SkullSamples(samples, x, y, z, brain, _outside_depth(samples, brain, 1.3))
    cells = canvas.coarse_texture[tuple(number % TILE for number in samples.index)]
    air = _air_spaces(inside, cells)
    orbit = _orbital_cones(inside) & ~air
    phases = rng.uniform(0, 2 * np.pi, (3, 2))

    brain_fraction = samples.fraction(brain)
    canvas.paint_fraction(samples.box, brain_fraction, tissue.hu("brain"))
    canvas.paint_fraction(samples.box, samples.fraction(air), tissue.hu("sinus_air"))
    canvas.paint_fraction(samples.box, samples.fraction(orbit), tissue.hu("orbital_fat"))
    bone = ~brain & ~air & ~orbit
    from_hollow = _outside_depth(samples, air | orbit, 0.8)[bone]
    wall = inside.only(bone)
    add_bone(canvas, wall.samples, _bone_hu(wall, from_hollow, density, phases))
    return Field(canvas.fine.within(samples.box), (0.5 - brain_fraction) * np.float32(canvas.fine.spacing_mm))
