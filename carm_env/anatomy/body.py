"""The posed skeleton: every bone, the joints and the bony landmarks in the patient's own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy import wall as walls
from carm_env.anatomy.arms import AT_SIDES, CROSSED, ArmFitter, ArmTargets, FittedArm, arm_segment
from carm_env.anatomy.layout import landmark_layout
from carm_env.anatomy.meshes import Mesh
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton import (
    RIB_CAGE,
    SIDE_SIGN,
    SIDES,
    THORACOLUMBAR,
    Skeleton,
    rib_cage_shells,
    thoracic,
    vertebral_body_centre,
)
from carm_env.landmarks import landmark

MEAN_SCALE = 1.025
"""Scale at which the skeleton is as tall, from T1 to T12, as the annotated patients are on average."""

HEAD_SCALE = 1.06
_HEAD_PIVOT_MM = np.array([0.0, 209.0, 1601.0])
_HEAD_SHIFT_MM = np.array([0.0, 0.0, -6.0])
_NECK_ROOT_MM, _NECK_SCALE = 1504.0, 0.955
"""The cervical spine is shortened upon its root as much as the head is lowered."""
_CRANIUM_CENTRE_MM = np.array([0.0, 205.0, 1664.0])
"""The middle of the cranium between its base and its vault, in the skeleton's own head."""

BOTTOM_MM = 884.0
"""Where the patient ends, at the height of the hip joints, in the skeleton's own size."""

LAYOUT_MIDLINE_MM = -2.0
"""Where the midline x = 0 of the body lies in the mean layout: between spine and shoulders."""

SKIN_MM, MUSCLE_MM = 2.5, 9.0
"""Thickness of the skin, and of the muscle on the ribs."""

_CAVITY_ANGLE_WIDTH, _CAVITY_HEIGHT_WIDTH_MM = 0.14, 10.0
_BODY_ANGLE_WIDTH, _BODY_HEIGHT_WIDTH_MM = 0.16, 22.0

_HEAD_DEPTH_MM, _SCAPULA_DEPTH_MM = 197.0, 283.0
_ELBOW_DEPTH_MM = {"r": 110.0, "l": 118.0}
_WRIST_ABOVE_SKIN_MM = {"r": 60.0, "l": 18.0}
"""How far the wrist's centre lies in front of the skin: the right forearm rests on the left one."""
_CROSSING_OFFSET_MM = {"r": {"elbow": -8.5, "wrist": -14.5}, "l": {"elbow": 11.0, "wrist": 3.0}}
"""The forearms cross one above the other: the mean layout, a mean over people, has them in one place."""
_HAND_DRAPE_MM = {"r": 70.0, "l": 10.0}

_HANGING_ELBOW_MM = np.array([53.0, 26.0, -302.0])
_HANGING_WRIST_MM = np.array([77.0, -4.0, -548.0])
"""Elbow and wrist relative to the humeral head with the arms at the sides (outwards, backwards, up)."""
_HUMERAL_HEAD_REACH_MM = 31.2
"""How far around the shoulder joint the humerus is its head, skeleton's own size."""
_USUAL_FAT_MM = 14.0
"""With more fat than this the arms hang further out."""


@dataclass(frozen=True, eq=False)
class Body:
    """The posed skeleton in the patient's size; all points LPS mm.

    Attributes:
        scale: size relative to the skeleton's own.
        meshes: every bone but the rib cage, by name.
        ribs: the ribs.
        sternum: the sternum with the costal cartilages.
        wall: the trunk's muscular wall, ribs and abdomen.
        cavity_wall: the inner surface of the ribs' middle line.
        arms: each fitted arm by side (``r``, ``l``), in the skeleton's own size.
        landmarks_mm: bony landmarks by name.
    """

    scale: float
    meshes: dict[str, Mesh]
    ribs: list[Mesh]
    sternum: Mesh
    wall: walls.Wall
    cavity_wall: walls.Wall
    arms: dict[str, FittedArm]
    landmarks_mm: dict[str, NDArray[np.float64]]

    def at(self, x: float, y: float, z: float) -> NDArray[np.float64]:
        """``(3,)`` a point given in the skeleton's own size."""
        return np.array([x, y, z]) * self.scale

    def joints_mm(self, side: str) -> NDArray[np.float64]:
        """``(5, 3)`` sternoclavicular, acromioclavicular and shoulder joint, elbow and wrist."""
        return self.arms[side].joints_mm * self.scale

    def hand_mm(self, side: str) -> dict[str, NDArray[np.float64]]:
        """Knuckles and finger joints by body name."""
        return {name: point * self.scale for name, point in self.arms[side].hand_mm.items()}

    def spine_mm(self) -> NDArray[np.float64]:
        """``(17, 3)`` centres of the vertebral bodies from L5 up to T1."""
        return np.array([vertebral_body_centre(self.meshes[name]) for name in THORACOLUMBAR])

    def head_point(self, x: float, y: float, z: float) -> NDArray[np.float64]:
        """``(3,)`` a point of the head given in the coordinates of the skeleton's own head."""
        return _scale_head(np.array([[x, y, z]]))[0] * self.scale


def _scale_head(vertices_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return _HEAD_PIVOT_MM + (vertices_mm - _HEAD_PIVOT_MM) * HEAD_SCALE + _HEAD_SHIFT_MM


def head_native(body: Body, axis: int, values_mm: NDArray[np.floating]) -> NDArray[np.floating]:
    """Coordinates along one axis in the skeleton's own head of patient coordinates: undoes `Body.head_point`."""
    own = values_mm / body.scale - _HEAD_SHIFT_MM[axis]
    return (own - _HEAD_PIVOT_MM[axis]) / HEAD_SCALE + _HEAD_PIVOT_MM[axis]


def layout_point(name: str, t1_mm: NDArray[np.float64]) -> tuple[float, float]:
    """``(x, z)`` of a landmark in the mean layout, T1 being where it is in the skeleton; its own size, mm."""
    layout = landmark_layout()
    left = float(layout.mean_mm[landmark(name).index, 0]) - LAYOUT_MIDLINE_MM
    cranial = layout.relative_mm(name, "T1")[1]
    return left / MEAN_SCALE, float(t1_mm[2]) + cranial / MEAN_SCALE


def _crossed_targets(side: str, t1: NDArray[np.float64], skin_front_y: float) -> ArmTargets:
    name = {"r": "Right", "l": "Left"}[side]
    depth = {
        "head": ("humeral head", _HEAD_DEPTH_MM),
        "scapula": ("scapular inferior angle", _SCAPULA_DEPTH_MM),
        "elbow": ("elbow", _ELBOW_DEPTH_MM[side]),
        "wrist": ("wrist", skin_front_y - _WRIST_ABOVE_SKIN_MM[side]),
    }
    points = {}
    for key, (title, y) in depth.items():
        x, z = layout_point(f"{name} {title}", t1)
        shift = _CROSSING_OFFSET_MM[side].get(key, 0.0)
        points[key] = np.array([x, y, z + shift])
    weights = {"head": 0.3, "scapula": 0.3, "elbow": 0.5, "wrist": 1.4}
    return ArmTargets(points, weights, points["wrist"][1] + _HAND_DRAPE_MM[side])


def _side_targets(side: str, t1: NDArray[np.float64], clearance_mm: float) -> ArmTargets:
    name = {"r": "Right", "l": "Left"}[side]
    head_x, head_z = layout_point(f"{name} humeral head", t1)
    scapula_x, scapula_z = layout_point(f"{name} scapular inferior angle", t1)
    head = np.array([head_x, _HEAD_DEPTH_MM, head_z])
    outwards = np.array([SIDE_SIGN[side], 1.0, 1.0])
    aside = np.array([SIDE_SIGN[side] * clearance_mm, 0.0, 0.0])
    points = {
        "head": head,
        "scapula": np.array([scapula_x, _SCAPULA_DEPTH_MM, scapula_z]),
        "elbow": head + outwards * _HANGING_ELBOW_MM + aside,
        "wrist": head + outwards * _HANGING_WRIST_MM + aside,
    }
    weights = {"head": 0.3, "scapula": 0.3, "elbow": 1.0, "wrist": 1.0}
    return ArmTargets(points, weights, points["wrist"][1] - 10.0)


def _fit_arms(
    skeleton: Skeleton, parameters: PatientParameters, t1: NDArray[np.float64], wall: walls.Wall
) -> dict[str, FittedArm]:
    fitter = ArmFitter(skeleton)
    scale = parameters.scale
    fitted = {}
    for side in SIDES:
        if parameters.arms == "sides":
            clearance = (max(0.0, parameters.fat_mm - _USUAL_FAT_MM) + 0.3 * parameters.belly_mm) / scale
            fitted[side] = fitter.fit(side, _side_targets(side, t1, clearance), AT_SIDES)
            continue
        x, z = layout_point("Right wrist" if side == "r" else "Left wrist", t1)
        cover = MUSCLE_MM * parameters.muscle + SKIN_MM + parameters.fat_mm
        skin_front = (wall.front_y_mm(x * scale, z * scale) - cover) / scale
        fitted[side] = fitter.fit(side, _crossed_targets(side, t1, skin_front), CROSSED)
    return fitted


def pose_body(parameters: PatientParameters) -> Body:
    """Load the skeleton, pose it and scale it to the patient's size."""
    skeleton = Skeleton()
    scale = parameters.scale
    rest = {mesh.name: mesh for mesh in skeleton.meshes()}
    t1 = vertebral_body_centre(rest[thoracic(1)])

    ribs, sternum = rib_cage_shells(rest[RIB_CAGE])
    ribs = [rib.moved(rib.vertices_mm * scale) for rib in ribs]
    sternum = sternum.moved(sternum.vertices_mm * scale)
    rib_points = np.concatenate([shell.surface_points() for shell in [*ribs, sternum]])
    heights = walls.ring_heights(BOTTOM_MM * scale, scale)
    abdomen = walls.abdomen_points(scale, parameters.belly_mm)
    on_wall = rib_points[rib_points[:, 2] > walls.LOWEST_RIB_ON_WALL_MM * scale]
    wall = walls.fit_wall(np.concatenate([on_wall, abdomen]), heights, scale, _BODY_ANGLE_WIDTH, _BODY_HEIGHT_WIDTH_MM)
    cavity = walls.fit_wall(rib_points, heights, scale, _CAVITY_ANGLE_WIDTH, _CAVITY_HEIGHT_WIDTH_MM)

    arms = _fit_arms(skeleton, parameters, t1, wall)
    meshes = {}
    for mesh in skeleton.meshes():
        if mesh.name == RIB_CAGE:
            continue
        vertices = mesh.vertices_mm
        segment = arm_segment(mesh.body)
        if segment is not None:
            vertices = arms[segment[0]].place(segment[1], vertices)
        if mesh.body == "head":
            vertices = _scale_head(vertices)
        if mesh.body == "neck":
            vertices = vertices * [1, 1, _NECK_SCALE] + [0, 0, _NECK_ROOT_MM * (1 - _NECK_SCALE)]
        meshes[mesh.name] = mesh.moved(vertices * scale)

    landmarks = {"Skull": _scale_head(_CRANIUM_CENTRE_MM) * scale}
    for side, title in (("r", "Right"), ("l", "Left")):
        marks = arms[side].landmarks_mm
        landmarks[f"{title} humeral head"] = _humeral_head_centre(
            meshes[f"humerus_{side}"], marks["head"] * scale, scale
        )
        landmarks[f"{title} scapular inferior angle"] = _lowest_point(meshes[f"scapula_{side}"])
        landmarks[f"{title} elbow"] = marks["elbow"] * scale
        landmarks[f"{title} wrist"] = _wrist_joint(meshes, side)
    landmarks["T1"] = vertebral_body_centre(meshes[thoracic(1)])
    landmarks["T12"] = vertebral_body_centre(meshes[thoracic(12)])
    return Body(scale, meshes, ribs, sternum, wall, cavity, arms, landmarks)


def _lowest_point(mesh: Mesh) -> NDArray[np.float64]:
    return mesh.vertices_mm[mesh.vertices_mm[:, 2].argmin()].copy()


def _humeral_head_centre(humerus: Mesh, joint_mm: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    near = humerus.vertices_mm[np.linalg.norm(humerus.vertices_mm - joint_mm, axis=1) < _HUMERAL_HEAD_REACH_MM * scale]
    return joint_mm if len(near) < 8 else 0.5 * joint_mm + 0.5 * (near.min(0) + near.max(0)) / 2


def _wrist_joint(meshes: dict[str, Mesh], side: str) -> NDArray[np.float64]:
    # Between the distal end of the radius and the proximal carpal row.
    _, direction, begin, end = meshes[f"radius_{side}"].long_axis()
    radius = meshes[f"radius_{side}"].vertices_mm
    carpals = np.array([meshes[f"{name}_{side}"].centre_mm for name in ("scaphoid", "lunate")]).mean(0)
    along = (radius - radius.mean(0)) @ direction
    towards = np.sign((carpals - radius.mean(0)) @ direction)
    distal = radius[towards * along > max(towards * begin, towards * end) - 12.0].mean(0)
    return (distal + carpals) / 2
