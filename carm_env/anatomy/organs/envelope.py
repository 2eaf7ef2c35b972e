"""Surfaces of muscle and skin of trunk, neck and arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.head import HeadSurface
from carm_env.anatomy.organs.limbs import arm_field
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.painting.shapes import FAR_MM, Capsule, Field, smooth_intersection, smooth_union
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.arm_targets import MUSCLE_MM, SKIN_MM
from carm_env.anatomy.skeleton.arms import SEGMENTS, arm_segment
from carm_env.anatomy.skeleton.body import Body
from carm_env.anatomy.skeleton.model import MANDIBLE, SIDE_SIGN, SIDES, SKULL

_TRUNK_TOP_MM = 1490.0
_FAT_PROFILE = (
    # Height in skeleton coordinates (mm), thickness relative to that over the chest.
    np.array([880.0, 960.0, 1060.0, 1160.0, 1280.0, 1380.0, 1450.0, 1520.0, 1570.0, 1600.0]),
    np.array([1.25, 1.25, 1.25, 1.2, 1.05, 1.0, 0.9, 0.7, 0.4, 0.15]),
)
_ARM_FAT_FRACTION = 0.42
_COVER_MM = 2.5
"""Minimum thickness of soft tissue on bone."""
_BONE_FAT_FRACTION = 0.25
_HUMERUS = SEGMENTS.index("humerus")
"""The soft tissue of the arm covers the bones from this segment on, the trunk covers clavicle and scapula."""
_CROTCH_MM = 848.0
"""Height in skeleton coordinates at which the trunk ends between the thighs."""
_THIGH_MM = ((90.0, 168.0, 880.0), (84.0, 160.0, 560.0))
"""Axis of a thigh from the hip to above the knee: |x|, y, z in skeleton coordinates."""
_THIGH_RADII_MM = (74.0, 56.0)
"""Radius of the muscle of a thigh at both ends."""
_FOLD_TOP_MM, _FOLD_FADE_MM = 50.0, 40.0
"""Height above the armpit at which a cleft between arm and trunk ends, and over which it becomes shallow."""
_TABLE_MM = 316.0
"""y in skeleton coordinates at which the table flattens the back of a supine patient."""
_ARMPIT_BELOW_HEAD_MM = 89.0
"""Height of a humeral head above its armpit where the shoulder is low; otherwise the armpit is at a fixed height."""
_CREASE_MM, _ARMPIT_BLEND_MM = 5.0, 9.0
"""Width over which the crease between arm and trunk is rounded, and the additional width above the armpit: the skin
folds in front of and behind the axilla."""
_CLEFT_HALF_MM, _CLEFT_MM = 3.4, 22.0
"""Half the width, and the depth, of the cleft between arm and trunk."""


@dataclass(frozen=True, eq=False)
class Envelope:
    """Signed distances on the coarse lattice, mm.

    Attributes:
        wall: wall of the trunk, through ribs and abdominal muscles.
        muscle: surface of the muscle of trunk, neck and head.
        arms: surface of the muscle of the arms.
        skin: skin of the whole patient.
    """

    wall: NDArray[np.float32]
    muscle: NDArray[np.float32]
    arms: NDArray[np.float32]
    skin: NDArray[np.float32]


def _trunk_muscle(body: Body, parameters: PatientParameters, lattice: Lattice, wall: NDArray[np.float32]) -> Field:
    muscle = parameters.muscle
    _, _, z = lattice.axes()
    top = (z - body.frame.height(_TRUNK_TOP_MM)).astype(np.float32)
    field = Field(lattice, smooth_intersection(wall - np.float32(MUSCLE_MM * muscle), top, 40.0))
    scale = body.scale
    if parameters.covers == "thighs":
        crotch = (body.frame.height(_CROTCH_MM) - z).astype(np.float32)
        field = Field(lattice, smooth_intersection(field.values, np.broadcast_to(crotch, lattice.shape), 40.0))
        hip, knee = (_THIGH_RADII_MM[end] * muscle * scale for end in (0, 1))
        for side in SIDES:
            upper, lower = (body.at(SIDE_SIGN[side] * x, y, level) for x, y, level in _THIGH_MM)
            field.add(Capsule(upper, lower, hip, knee), 30.0)
    field.add(
        Capsule(body.at(0, 226, 1496), body.at(0, 228, 1590), 47 * scale * (0.9 + 0.1 * muscle), 46 * scale), 40.0
    )
    for side in SIDES:
        for shape, blend in _shoulder_and_back(body, side, muscle):
            field.add(shape, blend)
    return field


def _shoulder_and_back(body: Body, side: str, muscle: float) -> list[tuple[Capsule, float]]:
    # Each muscle with the width of the crease between it and the previous ones.
    sign, scale = SIDE_SIGN[side], body.scale
    mirror = np.array([sign, 1.0, 1.0])
    head = body.joints_mm(side)[2]
    angle = body.landmarks_mm[f"{'Right' if side == 'r' else 'Left'} scapular inferior angle"]
    sternal_border = body.frame.at_height(sign * 62, 128, body.landmarks_mm["T1"][2] - 107 * scale)
    loin = body.frame.at_height(sign * 95, 252, body.landmarks_mm["T12"][2] - 20 * scale)

    def offset(point: NDArray[np.float64], lateral: float, dorsal: float, cranial: float) -> NDArray[np.float64]:
        return point + scale * mirror * [lateral, dorsal, cranial]

    thick = muscle * scale
    trapezius = Capsule(body.at(sign * 16, 252, 1556), offset(head, -28, 14, 4), 24 * scale, 19 * scale)
    supraspinatus = Capsule(offset(head, -72, 52, -4), offset(head, -12, 22, 10), 15 * thick, 17 * thick)
    pectoral = Capsule(offset(head, -18, -6, -6), sternal_border, 25 * thick, 15 * thick)
    infraspinatus = Capsule(offset(angle, -5, -6, 10), offset(head, -30, 25, -10), 22 * thick)
    latissimus = Capsule(offset(angle, 8, -6, 0), loin, 20 * thick, 8 * scale)
    erector_spinae = Capsule(body.at(sign * 34, 272, 1470), body.at(sign * 34, 258, 930), 24 * thick)
    gluteus = Capsule(body.at(sign * 70, 262, 960), body.at(sign * 75, 255, 850), 40 * thick)
    return [
        (supraspinatus, 40.0), (trapezius, 40.0), (pectoral, 45.0), (infraspinatus, 40.0), (latissimus, 45.0),
        (erector_spinae, 40.0), (gluteus, 50.0),
    ]  # fmt: skip


def _fat_thickness(body: Body, lattice: Lattice, parameters: PatientParameters) -> NDArray[np.float32]:
    heights, relative = _FAT_PROFILE
    fat = np.interp(body.frame.level(lattice.axis(2)), heights, relative * parameters.fat_mm)
    return fat.astype(np.float32)[None, None, :]


def _bone_distance(lattice: Lattice, bones: Sequence[Mesh]) -> NDArray[np.float32]:
    """Returns the distance from the surfaces of bones, mm, with an error of one or two millimetres."""
    from scipy import ndimage

    points = np.concatenate([bone.surface_points() for bone in bones])
    node = np.rint((points - lattice.origin_mm) / lattice.spacing_mm).astype(int)
    inside = ((node >= 0) & (node < lattice.shape)).all(axis=1)
    node, points = node[inside], points[inside]
    empty = np.ones(lattice.shape, bool)
    empty[tuple(node.T)] = False
    # One of the surface points nearest to each node represents all of them.
    number = np.zeros(lattice.shape, np.int32)
    number[tuple(node.T)] = np.arange(len(node))
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    chosen = number[tuple(nearest)]
    squares = np.zeros(lattice.shape, np.float32)
    for axis, coordinates in enumerate(lattice.axes()):
        squares += (coordinates.astype(np.float32) - points[:, axis].astype(np.float32)[chosen]) ** 2
    return np.sqrt(squares)


def _cover_bones(
    surface: NDArray[np.float32], bone_distance: NDArray[np.float32], cover_mm: float, crease_mm: float
) -> NDArray[np.float32]:
    """Extends a surface so that it covers every bone by about `cover_mm`."""
    return smooth_union(surface, bone_distance - np.float32(cover_mm), crease_mm)


def _armpit_mm(body: Body, lattice: Lattice) -> NDArray[np.float64]:
    """Returns the height of the nearer armpit, broadcastable to the lattice, mm."""
    highest = body.landmarks_mm["T1"][2] - 82.0 * body.scale
    below = _ARMPIT_BELOW_HEAD_MM * body.scale
    right, left = (min(highest, float(body.joints_mm(side)[2, 2]) - below) for side in SIDES)
    return np.where(lattice.axes()[0] < 0, right, left)


def back_y_mm(body: Body, parameters: PatientParameters) -> float:
    """Returns the LPS y at which the table flattens the back of the supine patient."""
    return float(body.frame.to_patient([0.0, _TABLE_MM, 1330.0])[1]) + 0.8 * parameters.fat_mm


def build_envelope(body: Body, parameters: PatientParameters, lattice: Lattice, head: HeadSurface) -> Envelope:
    """Returns the surfaces of muscle and skin of the whole patient.

    Smooth unions join trunk, neck, shoulders and head; the arms are joined with a narrow crease and, up to the axillary
    folds, a cleft, so that they rest on the trunk and do not merge with it.

    Args:
        body: the posed skeleton.
        parameters: parameters of the patient.
        lattice: the coarse lattice.
        head: surfaces of the head.
    """
    scale = body.scale
    wall = body.wall.distance(lattice)
    trunk = _trunk_muscle(body, parameters, lattice, wall)
    in_arms: dict[str, list[Mesh]] = {side: [] for side in SIDES}
    in_trunk = [*body.ribs, body.sternum]
    for name, mesh in body.meshes.items():
        segment = arm_segment(mesh.body)
        if segment is not None and segment[1] >= _HUMERUS:
            in_arms[segment[0]].append(mesh)
        elif name not in (SKULL, MANDIBLE):
            in_trunk.append(mesh)
    muscle = _cover_bones(trunk.values, _bone_distance(lattice, in_trunk), _COVER_MM, 16.0)
    muscle = smooth_union(muscle, head.muscle, 22.0)
    skin = muscle - np.float32(SKIN_MM) - _fat_thickness(body, lattice, parameters)
    skin = smooth_union(skin, head.skin, 14.0)
    _, y, z = lattice.axes()
    table = y - np.float32(back_y_mm(body, parameters))
    below_neck = np.clip((body.frame.height(1500.0) - z) / 40.0, 0, 1)
    skin = smooth_intersection(skin, (table * below_neck - 50.0 * (1 - below_neck)).astype(np.float32), 20.0)

    arms = np.full(lattice.shape, np.float32(FAR_MM))
    arm_skin = arms.copy()
    for side in SIDES:
        bone = _bone_distance(lattice, in_arms[side])
        arm_muscle = arm_field(body, lattice, side, parameters.muscle, 0.0).values
        arms = np.minimum(arms, _cover_bones(arm_muscle, bone, _COVER_MM, 5.0))
        cover = SKIN_MM + _ARM_FAT_FRACTION * parameters.fat_mm
        covered = arm_field(body, lattice, side, parameters.muscle, cover).values
        on_bone = _COVER_MM + SKIN_MM + _BONE_FAT_FRACTION * parameters.fat_mm
        arm_skin = smooth_union(arm_skin, _cover_bones(covered, bone, on_bone, 5.0), 5.0)
    armpit = _armpit_mm(body, lattice)
    blend = _CREASE_MM + _ARMPIT_BLEND_MM * np.clip((z - armpit) / (60.0 * scale), 0, 1).astype(np.float32)
    difference = np.abs(skin - arm_skin)
    overlap = np.maximum(blend - difference, 0) / blend
    nearer = np.minimum(skin, arm_skin)
    skin = nearer - overlap * overlap * (blend / 4)
    # Where skin touches skin; the folds end between armpit and shoulder.
    depth = _CLEFT_MM * np.clip((armpit + _FOLD_TOP_MM * scale - z) / (_FOLD_FADE_MM * scale), 0, 1)
    cleft = np.maximum(difference - np.float32(_CLEFT_HALF_MM), -nearer - depth.astype(np.float32))
    skin = smooth_intersection(skin, -cleft, 2.0)
    return Envelope(wall, muscle, arms, skin)
