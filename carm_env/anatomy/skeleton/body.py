"""The posed skeleton of a patient: bones, joints and bony landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.layout import landmark_layout, upright_mm
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton import wall as walls
from carm_env.anatomy.skeleton.arm_targets import TITLES, ArmTargetBuilder, pose_of
from carm_env.anatomy.skeleton.arms import SEGMENTS, ArmFitter, FittedArm, arm_segment
from carm_env.anatomy.skeleton.bone_shapes import BoneShapes, make_bone_shapes
from carm_env.anatomy.skeleton.bone_variation import BoneVariation
from carm_env.anatomy.skeleton.frame import Frame, Spine, make_frame, with_head
from carm_env.anatomy.skeleton.model import (
    CERVICAL_SPINE,
    RIB_CAGE,
    SIDES,
    THORACOLUMBAR,
    Skeleton,
    rib_cage_shells,
    thoracic,
    vertebral_body_centre,
)
from carm_env.anatomy.skeleton.posture import Posture
from carm_env.landmarks import landmark

MEAN_SCALE = 1.025
"""Scale at which the distance from T1 to T12 equals the mean of the annotated patients."""

HEAD_SCALE = 1.06
"""Scale of an average head relative to the skeleton."""
_CRANIUM_CENTRE_MM = np.array([0.0, 205.0, 1664.0])
"""Centre of the cranium between base and vault, in skeleton coordinates."""
_HEAD_TILT_FRACTION = 0.6
"""Tilt of the head as a fraction of the angle of the line from T1 to the skull."""

BOTTOM_MM = 884.0
"""Lower end of the patient, at the height of the hip joints, in skeleton coordinates."""
THIGHS_BOTTOM_MM = 690.0
"""Lower end of a patient that is imaged to the middle of the thighs, in skeleton coordinates."""

_CAVITY_ANGLE_WIDTH, _CAVITY_HEIGHT_WIDTH_MM = 0.14, 10.0
_BODY_ANGLE_WIDTH, _BODY_HEIGHT_WIDTH_MM = 0.16, 22.0

_FOREARM = SEGMENTS.index("forearm")
_FOREARMS_CLEAR_MM, _RIBS_CLEAR_MM, _EXTRA_LIFT_MM, _MAX_LIFTS = 5.0, 7.0, 2.0, 3
"""Minimum distances of the bones of crossed forearms from each other and from the ribs; how they are reached."""

_CROSSING_OFFSET_MM = {"Right elbow": -9.0, "Right wrist": -10.0, "Left elbow": 9.0, "Left wrist": 9.0}
"""Cranial offset of the average patient's elbows and wrists from the mean layout."""

_HUMERAL_HEAD_REACH_MM = 31.2
"""Radius around the shoulder joint that contains the head of the humerus, in skeleton size."""


Vectors = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Body:
    """The posed skeleton of a patient; all points LPS mm.

    Attributes:
        frame: map from skeleton coordinates to patient coordinates.
        meshes: all bones but the rib cage by name.
        ribs: the ribs.
        sternum: the sternum with the costal cartilages.
        wall: wall of the trunk, through ribs and abdominal muscles.
        cavity_wall: wall of the chest, through the middle of the ribs.
        arms: fitted arms by side (``r``, ``l``), in skeleton size.
        landmarks_mm: bony landmarks by name.
        layout_mm: ``(14, 2)`` target positions of the landmarks, left and cranial.
        shapes: shapes of the bones of the person or of another family.
        variation: draws the person's own bones.
    """

    frame: Frame
    meshes: dict[str, Mesh]
    ribs: list[Mesh]
    sternum: Mesh
    wall: walls.Wall
    cavity_wall: walls.Wall
    arms: dict[str, FittedArm]
    landmarks_mm: dict[str, NDArray[np.float64]]
    layout_mm: NDArray[np.float64]
    shapes: BoneShapes
    variation: BoneVariation

    @property
    def scale(self) -> float:
        """Scale of radii and short distances relative to the skeleton."""
        return self.frame.size

    def at(self, x: float, y: float, z: float) -> NDArray[np.float64]:
        """Maps a point of the trunk from skeleton coordinates to ``(3,)`` in the patient."""
        return self.frame.to_patient([x, y, z])

    def target_mm(self, name: str) -> NDArray[np.float64]:
        """Returns the target position ``(2,)`` of a landmark, left and cranial."""
        return self.layout_mm[landmark(name).index]

    def joints_mm(self, side: str) -> NDArray[np.float64]:
        """Returns sternoclavicular, acromioclavicular and shoulder joint, elbow and wrist ``(5, 3)``."""
        return self.arms[side].joints_mm * self.scale

    def hand_mm(self, side: str) -> dict[str, NDArray[np.float64]]:
        """Returns knuckles and finger joints by body name."""
        return {name: point * self.scale for name, point in self.arms[side].hand_mm.items()}

    def spine_mm(self) -> NDArray[np.float64]:
        """Returns the centres of the vertebral bodies from L5 up to T1 ``(17, 3)``."""
        return np.array([vertebral_body_centre(self.meshes[name]) for name in THORACOLUMBAR])

    def moved_landmarks_mm(self, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Vectors:
        """Returns the bony landmarks after a deformation, found by the same rules on the deformed bones.

        Args:
            move: maps points ``(..., 3)`` of the body.
        """
        meshes = {name: mesh.moved(move(mesh.vertices_mm)) for name, mesh in self.meshes.items()}
        fixed = {name: move(point) for name, point in _fixed_points(self.frame, self.arms, self.scale).items()}
        return _bony_landmarks(meshes, fixed, self.scale)

    def head_point(self, x: float, y: float, z: float) -> NDArray[np.float64]:
        """Maps a point of the head from skeleton coordinates to ``(3,)`` in the patient."""
        return self.frame.head_to_patient([x, y, z])


def mean_layout_mm(scale: float) -> NDArray[np.float64]:
    """Returns the mean layout ``(14, 2)`` at a scale, with T1 at the origin and T12 below it, mm.

    The forearms are separated: the mean over patients has both in the same position.
    """
    layout = upright_mm(landmark_layout().mean_mm)[0]
    for name, cranial in _CROSSING_OFFSET_MM.items():
        layout[landmark(name).index, 1] += cranial
    return layout * scale / MEAN_SCALE


def bottom_mm(parameters: PatientParameters) -> float:
    """Returns the lower end of a patient, in skeleton coordinates."""
    return THIGHS_BOTTOM_MM if parameters.covers == "thighs" else BOTTOM_MM


def _fitted_arms(
    fitter: ArmFitter, skeleton: Skeleton, builder: ArmTargetBuilder, rib_points_mm: NDArray[np.float64]
) -> dict[str, FittedArm]:
    """Fits both arms; crossed forearms are lifted until their bones are clear of the ribs and of each other."""
    from scipy.spatial import cKDTree

    parameters, scale = builder.parameters, builder.parameters.scale
    roots = {side: fitter.root_mm(side) for side in SIDES}
    targets = {side: builder.targets(side, roots[side]) for side in SIDES}
    arms = {side: fitter.fit(side, targets[side], pose_of(parameters, side)) for side in SIDES}
    if parameters.arms != "crossed":
        return arms
    upper = parameters.side[0]
    lower = "l" if upper == "r" else "r"
    ribs = cKDTree(rib_points_mm[::3])
    forearms = {side: _forearm_meshes(skeleton, side) for side in SIDES}
    for _ in range(_MAX_LIFTS):
        bones = {side: _scaled_vertices(forearms[side], arms[side]) * scale for side in SIDES}
        lift = {side: _RIBS_CLEAR_MM - float(ribs.query(bones[side])[0].min()) for side in SIDES}
        distance = float(cKDTree(bones[lower]).query(bones[upper])[0].min())
        lift[upper] = max(lift[upper], _FOREARMS_CLEAR_MM - distance, lift[lower])
        lifted = [side for side in SIDES if lift[side] > 0]
        if not lifted:
            break
        for side in lifted:
            targets[side] = targets[side].lifted((lift[side] + _EXTRA_LIFT_MM) / scale)
            arms[side] = fitter.fit(side, targets[side], pose_of(parameters, side), begin=arms[side])
            forearms[side] = _forearm_meshes(skeleton, side)
    return arms


def _forearm_meshes(skeleton: Skeleton, side: str) -> list[Mesh]:
    # Without the hand: fingers give way.
    return [mesh for mesh in skeleton.meshes() if arm_segment(mesh.body) == (side, _FOREARM)]


def _scaled_vertices(forearm: list[Mesh], arm: FittedArm) -> NDArray[np.float64]:
    return np.concatenate([arm.scaled(_FOREARM, mesh.vertices_mm) for mesh in forearm])


def _frame(parameters: PatientParameters, spine: Spine, layout_mm: NDArray[np.float64], head_dorsal_mm: float) -> Frame:
    scale = parameters.scale
    frame = make_frame(
        spine, size=scale, width=scale * parameters.thorax_width, depth=scale * parameters.thorax_depth,
        t1_above_t12_mm=-float(layout_mm[landmark("T12").index, 1]), kyphosis_deg=parameters.kyphosis_deg,
        scoliosis_mm=parameters.scoliosis_mm,
    )  # fmt: skip
    t1 = frame.to_patient(spine.points_mm[-1])
    left, cranial = layout_mm[landmark("Skull").index]
    dorsal = scale * (_CRANIUM_CENTRE_MM[1] - spine.points_mm[-1, 1]) + head_dorsal_mm
    return with_head(
        frame, scale=HEAD_SCALE * MEAN_SCALE * parameters.head_size, centre_mm=_CRANIUM_CENTRE_MM,
        target_mm=np.array([t1[0] + left, t1[1] + dorsal, t1[2] + cranial]), turn_deg=parameters.head_turn_deg,
        nod_deg=parameters.head_nod_deg, tilt_deg=_HEAD_TILT_FRACTION * float(np.rad2deg(np.arctan2(left, cranial))),
    )  # fmt: skip


def pose_body(parameters: PatientParameters, skeleton: Skeleton | None = None) -> Body:
    """Poses, scales and bends the skeleton.

    Args:
        parameters: parameters of the patient.
        skeleton: skeleton to reuse; its joint angles change. By default a new one is loaded.
    """
    skeleton = skeleton or Skeleton()
    skeleton.rest()
    scale = parameters.scale
    fitter = ArmFitter(skeleton)
    rest = {mesh.name: mesh for mesh in skeleton.meshes()}
    spine = Spine(np.array([vertebral_body_centre(rest[name]) for name in THORACOLUMBAR]))
    layout = np.array(parameters.layout_mm).reshape(-1, 2) if parameters.layout_mm else mean_layout_mm(scale)
    posture = Posture(parameters.seed)
    head_dorsal, head_cranial = posture.skull_mm(parameters.arms == "crossed", scale)
    layout[landmark("Skull").index, 1] += head_cranial
    frame = _frame(parameters, spine, layout, head_dorsal)

    variation = BoneVariation(parameters.seed)
    shapes = make_bone_shapes(parameters.warp) or variation.arm_and_chest_shapes()

    def chest_to_patient(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        return frame.to_patient(shapes.chest(points_mm, spine.depth_mm(points_mm[:, 2])))

    ribs, sternum = rib_cage_shells(rest[RIB_CAGE])
    ribs = [rib.moved(chest_to_patient(rib.vertices_mm)) for rib in ribs]
    ribs = [variation.shaped(rib, f"rib {number}") for number, rib in enumerate(ribs)]
    sternum = variation.shaped(sternum.moved(chest_to_patient(sternum.vertices_mm)), "sternum")
    rib_points = np.concatenate([shell.surface_points() for shell in [*ribs, sternum]])
    heights = walls.ring_heights(frame.height(bottom_mm(parameters)), frame.height(walls.TOP_MM))
    abdomen = frame.to_patient(walls.abdomen_points(parameters.belly_mm / scale))
    on_wall = rib_points[frame.level(rib_points[:, 2]) > walls.LOWEST_RIB_ON_WALL_MM]
    axis = frame.to_patient(walls.AXIS_MM)
    wall = walls.fit_wall(np.concatenate([on_wall, abdomen]), heights, axis, _BODY_ANGLE_WIDTH, _BODY_HEIGHT_WIDTH_MM)
    cavity = walls.fit_wall(rib_points, heights, axis, _CAVITY_ANGLE_WIDTH, _CAVITY_HEIGHT_WIDTH_MM)

    t1 = frame.to_patient(spine.points_mm[-1])
    builder = ArmTargetBuilder(parameters, frame, layout, t1, wall, chest_to_patient, posture)
    meshes: dict[str, Mesh] = {}
    arms = _fitted_arms(fitter, skeleton, builder, rib_points)
    for mesh in skeleton.meshes():
        if mesh.name == RIB_CAGE:
            continue
        segment = arm_segment(mesh.body)
        if segment is not None:
            vertices = arms[segment[0]].scaled(segment[1], mesh.vertices_mm) * scale
        elif mesh.body == "head":
            vertices = frame.head_to_patient(mesh.vertices_mm)
        elif mesh.name == CERVICAL_SPINE or mesh.body == "neck":
            vertices = frame.neck_to_patient(mesh.vertices_mm)
        else:
            vertices = frame.to_patient(mesh.vertices_mm)
        meshes[mesh.name] = mesh.moved(vertices)
    meshes = _reshaped(meshes, shapes, arms, scale)
    # The vertebrae are modelled by `carm_env.anatomy.skeleton.vertebral_shapes`, each with its own shape.
    axial = (*THORACOLUMBAR, CERVICAL_SPINE)
    meshes = {name: mesh if name in axial else variation.shaped(mesh) for name, mesh in meshes.items()}

    landmarks = _bony_landmarks(meshes, _fixed_points(frame, arms, scale), scale)
    return Body(frame, meshes, ribs, sternum, wall, cavity, arms, landmarks, layout + t1[[0, 2]], shapes, variation)


def _reshaped(meshes: dict[str, Mesh], shapes: BoneShapes, arms: dict[str, FittedArm], scale: float) -> dict[str, Mesh]:
    """Returns the posed bones in their shapes."""
    centres = np.array([vertebral_body_centre(meshes[name]) for name in THORACOLUMBAR])
    tangents = np.gradient(centres, axis=0)
    found = dict(meshes)
    for name, tangent in zip(THORACOLUMBAR, tangents, strict=True):
        found[name] = meshes[name].moved(shapes.vertebra(meshes[name], tangent / np.linalg.norm(tangent)))
    for name, mesh in meshes.items():
        segment = arm_segment(mesh.body)
        if segment is not None:
            found[name] = mesh.moved(shapes.arm_bone(mesh, arms[segment[0]], scale))
    return found


def _fixed_points(frame: Frame, arms: dict[str, FittedArm], scale: float) -> Vectors:
    """Returns the reference points of landmarks that are not vertices of a mesh."""
    points = {"Skull": frame.head_to_patient(_CRANIUM_CENTRE_MM)}
    for side in TITLES:
        for name in ("head", "elbow"):
            points[f"{name}_{side}"] = arms[side].landmarks_mm[name] * scale
    return points


def _bony_landmarks(meshes: dict[str, Mesh], fixed: Vectors, scale: float) -> Vectors:
    landmarks = {"Skull": fixed["Skull"]}
    for side, title in TITLES.items():
        humerus, joint = meshes[f"humerus_{side}"], fixed[f"head_{side}"]
        landmarks[f"{title} humeral head"] = _humeral_head_centre(humerus, joint, scale)
        landmarks[f"{title} scapular inferior angle"] = _lowest_point(meshes[f"scapula_{side}"])
        landmarks[f"{title} elbow"] = fixed[f"elbow_{side}"]
        landmarks[f"{title} wrist"] = _wrist_joint(meshes, side)
    landmarks["T1"] = vertebral_body_centre(meshes[thoracic(1)])
    landmarks["T12"] = vertebral_body_centre(meshes[thoracic(12)])
    return landmarks


def _lowest_point(mesh: Mesh) -> NDArray[np.float64]:
    return mesh.vertices_mm[mesh.vertices_mm[:, 2].argmin()].copy()


def _humeral_head_centre(humerus: Mesh, joint_mm: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    head = humerus.vertices_mm[np.linalg.norm(humerus.vertices_mm - joint_mm, axis=1) < _HUMERAL_HEAD_REACH_MM * scale]
    return joint_mm if len(head) < 8 else 0.5 * joint_mm + 0.5 * (head.min(0) + head.max(0)) / 2


def _wrist_joint(meshes: dict[str, Mesh], side: str) -> NDArray[np.float64]:
    # Midpoint of the distal end of the radius and the proximal carpal row.
    _, direction, begin, end = meshes[f"radius_{side}"].long_axis()
    radius = meshes[f"radius_{side}"].vertices_mm
    carpals = np.array([meshes[f"{name}_{side}"].centre_mm for name in ("scaphoid", "lunate")]).mean(0)
    along = (radius - radius.mean(0)) @ direction
    distal_sign = np.sign((carpals - radius.mean(0)) @ direction)
    distal = radius[distal_sign * along > max(distal_sign * begin, distal_sign * end) - 12.0].mean(0)
    return (distal + carpals) / 2
