"""Landmarks of bones from their masks: cranium, humeral heads, scapular angles, vertebral bodies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.ct._label_masks import AbsentError, LabelMasks, Structure

_VAULT_MM = 90.0
"""Height of the part of the skull that is cranium only, without face and mandible."""
_CENTRE_BELOW_VERTEX = 0.5
"""Depth of the centre of the vault below the vertex, in breadths of the cranium."""
_BREADTHS_MM = (100.0, 190.0)
_MOST_MISSING_MM = 30.0
_HEAD_RADII_MM = (12.0, 34.0)
"""Radii of the largest ball in a humerus that holds its head; the shaft holds balls of some 11 mm."""
_HEAD_MM = 46.0
"""Diameter of the humeral head."""
_CORE = 0.85
_BODY_CORE = 0.7
"""Depth of the core of a vertebral body, in radii of the largest ball in it. Above 0.75 the core of T1 in slices of
5 mm falls into a left and a right part; below 0.7 it often reaches into the pedicles. The centre is weighted by the
depth above this limit, so that a narrow bridge to a pedicle, as in voxels of 1 mm, counts little."""
_VENTRAL_SHARE = 0.5
"""Ventral share of a vertebra's depth. It holds the whole body and no lamina, transverse or spinous process."""
_BODY_GRID_MM = 1.25
"""Largest voxel edge with which the depth inside a vertebra is measured."""
_LEAST_BODY = 0.75
"""Least share of a vertebral body, compared with its neighbour, from which its centre is derived."""
_BODY_STD_MM, _COARSE_BODY_STD_MM, _UNRESOLVED_BODY_STD_MM = 4.0, 6.0, 15.0
"""Standard deviation of the rule of a vertebral body; where the radius of its largest ball is at most two voxel edges,
as that of T1 in slices of 5 mm; and where the radius is at most one voxel edge in the axial plane, so that body and
pedicles cannot be told apart."""
_TIP_MM = 40.0


@dataclass(frozen=True, eq=False)
class Estimate:
    """A landmark that was derived from a mask.

    Attributes:
        point_lps_mm: ``(3,)``.
        std_mm: standard deviation of its error, three-dimensional, mm.
        basis: what it rests on, in a few words.
    """

    point_lps_mm: NDArray[np.float64]
    std_mm: float
    basis: str


def estimate(point: NDArray[np.float64], base_mm: float, structure: Structure, basis: str) -> Estimate:
    """Returns an estimate whose standard deviation is that of the rule and half of the coarsest voxel edge, added."""
    return Estimate(point, float(np.hypot(base_mm, structure.spacing_mm.max() / 2)), basis)


def cranium(masks: LabelMasks) -> Estimate:
    """Returns the centre of the cranial vault.

    It lies half of the cranium's breadth below the vertex, in the middle of its breadth and length. A vertex of which
    up to 30 mm are cut off is completed as a ball.
    """
    skull = masks.structure("skull")
    missing = _missing_vault_mm(skull) if skull.cut[1, 2] else 0.0
    slices = max(1, round((_VAULT_MM - missing) / skull.spacing_mm[2]))
    vault = skull.mask[:, :, -slices:]
    spans = [np.flatnonzero(vault.any(tuple(other for other in range(3) if other != axis))) for axis in (0, 1)]
    width = float((spans[0][-1] - spans[0][0] + 1) * skull.spacing_mm[0])
    height = skull.mask.shape[2] * skull.spacing_mm[2] + missing
    if not _BREADTHS_MM[0] <= width <= _BREADTHS_MM[1] or height < 0.6 * width:
        raise AbsentError(f"the skull is cut by the border of the volume: {width:.0f} mm wide, {height:.0f} mm high")
    if skull.cut[:, 0].any():
        raise AbsentError("the skull is cut by the left or right border of the volume")
    x, y = (skull.lps(np.full(3, (span[0] + span[-1]) / 2))[axis] for axis, span in enumerate(spans))
    vertex = skull.lps(np.array(skull.mask.shape) - 1)[2] + skull.spacing_mm[2] / 2 + missing
    point = np.array([x, y, vertex - _CENTRE_BELOW_VERTEX * width])
    basis = "half of the cranium's breadth below the vertex"
    if missing:
        basis += f", of which about {missing:.0f} mm are cut off"
    return estimate(point, 5.0 + missing / 3, skull, basis)


def _missing_vault_mm(skull: Structure) -> float:
    """Returns the height of the vault above the volume, from the area of the highest slice of a ball."""
    from scipy import ndimage

    area = float(skull.spacing_mm[0] * skull.spacing_mm[1])
    filled = [ndimage.binary_fill_holes(skull.mask[:, :, k]) for k in range(skull.mask.shape[2])]
    areas = np.array([np.count_nonzero(part) * area for part in filled])
    largest = areas.max()
    radius = np.sqrt(largest / np.pi)
    missing = radius - np.sqrt(max(radius**2 - areas[-1] / np.pi, 0.0))
    if areas[-1] > 0.6 * largest or missing > _MOST_MISSING_MM:
        raise AbsentError("the vault of the skull is cut by the border of the volume")
    return float(missing)


def humeral_head(masks: LabelMasks, side: str) -> Estimate:
    """Returns the centre of the humeral head: of the largest ball in the humerus."""
    humerus = masks.structure(f"humerus_{side}")
    depth = humerus.padded_depth()
    radius = float(depth.max())
    if not _HEAD_RADII_MM[0] <= radius <= _HEAD_RADII_MM[1]:
        raise AbsentError(f"humerus_{side} holds no head: its largest ball has a radius of {radius:.0f} mm")
    core = np.argwhere(depth > _CORE * radius)
    best = np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    near = np.linalg.norm((core - best) * humerus.spacing_mm, axis=1) < radius
    centre = core[near].mean(0)
    room = _to_border_mm(humerus, centre)
    if room < max(radius, _HEAD_MM / 2):
        raise AbsentError(f"humerus_{side} is cut by the border of the volume {room:.0f} mm from its head's centre")
    return estimate(humerus.lps(centre), 5.0, humerus, "centre of the largest ball in the humerus")


def _to_border_mm(structure: Structure, index: NDArray[np.float64]) -> float:
    """Returns the distance from an index to the nearest border of the volume that cuts the structure."""
    last = np.array(structure.mask.shape) - 1
    distances = np.array([index + 0.5, last - index + 0.5]) * structure.spacing_mm
    return float(np.where(structure.cut, distances, np.inf).min())


def scapular_angle(masks: LabelMasks, side: str) -> Estimate:
    """Returns the inferior angle of a scapula: its lowest point."""
    scapula = masks.structure(f"scapula_{side}")
    if scapula.cut[0, 2]:
        raise AbsentError(f"scapula_{side} is cut by the lower border of the volume")
    tip = scapula.mask[:, :, : max(1, round(_TIP_MM / scapula.spacing_mm[2]))]
    for axis in (0, 1):
        touched = np.asarray(tip.any(tuple(other for other in range(3) if other != axis)))
        if (scapula.cut[0, axis] and touched[0]) or (scapula.cut[1, axis] and touched[-1]):
            raise AbsentError(f"scapula_{side} is cut by the border of the volume near its tip")
    return estimate(lowest_point(scapula), 3.5, scapula, "lowest point of the scapula")


def lowest_point(structure: Structure) -> NDArray[np.float64]:
    """Returns the lowest point ``(3,)`` of a structure, LPS mm."""
    x, y = np.argwhere(structure.mask[:, :, 0]).mean(0)
    point = structure.lps(np.array([x, y, 0.0]))
    point[2] -= structure.spacing_mm[2] / 2
    return point


@dataclass(frozen=True, eq=False)
class _Body:
    """A vertebral body.

    Attributes:
        centre_lps_mm: ``(3,)``.
        radius_mm: radius of the largest ball in it.
        volume_mm3: volume of its part in the volume.
        cut: whether the lower or the upper border of the volume cuts it.
    """

    centre_lps_mm: NDArray[np.float64]
    radius_mm: float
    volume_mm3: float
    cut: bool


def vertebral_body(masks: LabelMasks, name: str, neighbours: tuple[str, ...]) -> Estimate:
    """Returns the centre of a vertebral body: of the core of the vertebra, the thickest part of its ventral half."""
    vertebra = masks.structure(name)
    body = _find_body(vertebra)
    basis = "centre of the vertebral body"
    missing = 0.0
    if body.cut:
        volumes = []
        for neighbour in neighbours:
            try:
                other = masks.structure(neighbour)
            except AbsentError:
                continue
            # A neighbour that is cut itself says nothing.
            if not other.cut[:, 2].any():
                volumes.append(_find_body(other).volume_mm3)
        share = min(body.volume_mm3 / float(np.mean(volumes)), 1.0) if volumes else 0.0
        if share < _LEAST_BODY:
            raise AbsentError(f"the body of {name} is cut by the border of the volume")
        missing = 1.0 - share
        basis += f", of which {100 * share:.0f} % are in the volume"
    return estimate(body.centre_lps_mm, _body_std_mm(vertebra, body) + missing * body.radius_mm, vertebra, basis)


def _body_std_mm(vertebra: Structure, body: _Body) -> float:
    """Returns the standard deviation of the rule of a vertebral body, which depends on how many voxels resolve it."""
    if body.radius_mm <= vertebra.spacing_mm[:2].max():
        return _UNRESOLVED_BODY_STD_MM
    return _BODY_STD_MM if body.radius_mm > 2 * vertebra.spacing_mm.max() else _COARSE_BODY_STD_MM


def _find_body(vertebra: Structure) -> _Body:
    """Finds the body of a vertebra: the ventral component of the vertebra's core with what is near to it."""
    from scipy import ndimage

    fine = vertebra.refined(_BODY_GRID_MM)
    depth = fine.padded_depth()
    ventral = slice(0, int(np.ceil(_VENTRAL_SHARE * depth.shape[1])))
    radius = float(depth[:, ventral].max())
    labels, _ = ndimage.label(depth > _BODY_CORE * radius)
    sizes = np.bincount(labels[:, ventral].ravel())
    sizes[0] = 0
    core = labels == sizes.argmax()
    reach = ndimage.distance_transform_edt(~core, sampling=fine.spacing_mm)
    body = fine.mask & (reach <= _BODY_CORE * radius + fine.spacing_mm.max())
    cut = (body[:, :, 0].any() and fine.cut[0, 2]) or (body[:, :, -1].any() and fine.cut[1, 2])
    volume_mm3 = float(np.count_nonzero(body) * fine.spacing_mm.prod())
    centre = np.average(np.argwhere(core), axis=0, weights=depth[core] - _BODY_CORE * radius)
    return _Body(fine.lps(centre), radius, volume_mm3, bool(cut))
