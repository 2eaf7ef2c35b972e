"""Target positions of the joints of the arms: from the layout of the landmarks, the pose of the arms and the skin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton import wall as walls
from carm_env.anatomy.skeleton.arms import AT_SIDES, CROSSED, RAISED, ArmPose, ArmTargets
from carm_env.anatomy.skeleton.frame import Frame
from carm_env.anatomy.skeleton.model import SIDE_SIGN
from carm_env.anatomy.skeleton.posture import Posture
from carm_env.landmarks import landmark

SKIN_MM, MUSCLE_MM = 2.5, 9.0
"""Thickness of the skin and of the muscle on the ribs."""

_HEAD_DEPTH_MM, _SCAPULA_DEPTH_MM = 197.0, 283.0
_SCAPULA_BEHIND_WALL_MM = 9.0
_MEDIAL_BORDER_MM = (72.0, 279.0)
"""Preferred distance from the midplane and y of the medial border of the scapula."""
_SCAPULA_LEVEL_MM = 1400.0
_ELBOW_DEPTH_MM = 114.0
_UPPER_WRIST_ABOVE_SKIN_MM, _LOWER_WRIST_ABOVE_SKIN_MM = 60.0, 18.0
"""Distance of the wrist from the ventral skin: one forearm rests on the other."""
_WRIST_JOINT_ABOVE_LANDMARK_MM = -6.0
"""Offset of the fitted joint, in the lunate bone, from the landmark between radius and carpals."""
_UPPER_HAND_DRAPE_MM, _LOWER_HAND_DRAPE_MM = 70.0, 55.0
_ELBOW_ABOVE_SKIN_MM = 34.0
_ELBOW_RADIUS_MM, _WRIST_RADIUS_MM, _FINGER_RADIUS_MM = 26.0, 24.0, 32.0
"""Distance of the joints of a hanging arm from the skin of the flank."""
_HAND_TO_FOREARM = 0.75
"""Length of the hand relative to the forearm."""
_VERTEX_ABOVE_SKULL_MM, _BESIDE_HEAD_MM, _HANDS_APART_MM = 98.0, 125.0, 35.0
"""Vertex above the skull landmark; least distance of a raised wrist from the midline beside the head and above it."""

TITLES = {"r": "Right", "l": "Left"}


def _raised(parameters: PatientParameters, side: str) -> bool:
    if parameters.arms == "one_up":
        return parameters.side.startswith(side)
    return parameters.arms == "raised"


def pose_of(parameters: PatientParameters, side: str) -> ArmPose:
    """Returns initial and preferred values of the fit of one arm."""
    if parameters.arms == "crossed":
        return CROSSED
    return RAISED if _raised(parameters, side) else AT_SIDES


@dataclass(frozen=True, eq=False)
class ArmTargetBuilder:
    """Derives the targets of the arms.

    Those of crossed arms come from the layout and the skin; otherwise the shoulder girdle follows the pose of the arms.
    """

    parameters: PatientParameters
    frame: Frame
    layout_mm: NDArray[np.float64]
    t1_mm: NDArray[np.float64]
    wall: walls.Wall
    chest_to_patient: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    posture: Posture

    def in_plane(self, name: str) -> tuple[float, float]:
        """Returns the target ``(x, z)`` of a landmark in the patient, mm."""
        left, cranial = self.layout_mm[landmark(name).index]
        return float(self.t1_mm[0] + left), float(self.t1_mm[2] + cranial)

    def skin_front_mm(self, x: float, z: float) -> float:
        """Returns the LPS y of the ventral skin."""
        cover = MUSCLE_MM * self.parameters.muscle + SKIN_MM + self.parameters.fat_mm
        return self.wall.front_y_mm(x, z) - cover

    def depth(self, y: float, level: float) -> float:
        """Maps a depth in the skeleton at a height in the skeleton to LPS y in the patient."""
        return float(self.frame.to_patient([0.0, y, level])[1])

    def on_back(self, x: float, z: float) -> float:
        """Returns the LPS y of the scapular angle, which slides over the ribs, ventrally where they curve."""
        dorsal = self.wall.back_y_mm(x, z) + _SCAPULA_BEHIND_WALL_MM
        return min(dorsal, self.depth(_SCAPULA_DEPTH_MM, 1340.0) + 12.0)

    def shoulder(self, side: str) -> dict[str, NDArray[np.float64]]:
        """Returns the targets of humeral head and scapular angle."""
        if self.parameters.arms == "crossed":
            return self._crossed_shoulder(side)
        title, sign = TITLES[side], SIDE_SIGN[side]
        mirror = np.array([sign, 1.0])
        layout = (
            mirror * self.layout_mm[landmark(f"{title} humeral head").index],
            mirror * self.layout_mm[landmark(f"{title} scapular inferior angle").index],
        )
        raised = _raised(self.parameters, side)
        head, (lateral, cranial) = self.posture.shoulder_mm(side, raised, layout, self.frame.size)
        x, z = self.t1_mm[0] + sign * lateral, self.t1_mm[2] + cranial
        return {
            "head": self.t1_mm + [sign * head[0], head[1], head[2]],
            "scapula": np.array([x, self.on_back(x, z), z]),
        }

    def _crossed_shoulder(self, side: str) -> dict[str, NDArray[np.float64]]:
        title = TITLES[side]
        (head_x, head_z), (tip_x, tip_z) = (
            self.in_plane(f"{title} {part}") for part in ("humeral head", "scapular inferior angle")
        )
        return {
            "head": np.array([head_x, self.depth(_HEAD_DEPTH_MM, 1470.0), head_z]),
            "scapula": np.array([tip_x, self.on_back(tip_x, tip_z), tip_z]),
        }

    def targets(self, side: str, root_mm: NDArray[np.float64]) -> ArmTargets:
        """Returns the targets of one arm, in skeleton size."""
        size = self.frame.size
        points = self.shoulder(side)
        if self.parameters.arms == "crossed":
            weights, tip = self._cross(side, points)
        elif _raised(self.parameters, side):
            weights, tip = self._raise(side, points)
        else:
            weights, tip = self._hang(side, points)
        border = self.frame.to_patient([*_MEDIAL_BORDER_MM, _SCAPULA_LEVEL_MM]) / size
        root = self.chest_to_patient(root_mm[None])[0] / size
        scaled = {name: point / size for name, point in points.items()}
        return ArmTargets(scaled, weights, tip / size, root, (float(border[0]), float(border[1])))

    def _cross(self, side: str, points: dict[str, NDArray[np.float64]]) -> tuple[dict[str, float], float]:
        title, upper = TITLES[side], self.parameters.side.startswith(side)
        x, z = self.in_plane(f"{title} elbow")
        half_width = self.wall.half_width_mm(z) - _ELBOW_ABOVE_SKIN_MM
        # An elbow over the trunk lies ventral to the skin, an elbow lateral to the trunk at a fixed depth.
        over_trunk = float(np.clip((half_width - abs(x)) / 30.0, 0, 1))
        ventral = self.skin_front_mm(x, z) - _ELBOW_ABOVE_SKIN_MM if over_trunk else 0.0
        lateral = self.depth(_ELBOW_DEPTH_MM, 1230.0)
        points["elbow"] = np.array([x, (1 - over_trunk) * lateral + over_trunk * min(ventral, lateral), z])
        x, z = self.in_plane(f"{title} wrist")
        z += _WRIST_JOINT_ABOVE_LANDMARK_MM
        above = _UPPER_WRIST_ABOVE_SKIN_MM if upper else _LOWER_WRIST_ABOVE_SKIN_MM
        points["wrist"] = np.array([x, self.skin_front_mm(x, z) - above, z])
        drape = _UPPER_HAND_DRAPE_MM if upper else _LOWER_HAND_DRAPE_MM
        return {"head": 0.3, "scapula": 0.3, "elbow": 0.4, "wrist": 1.4}, float(points["wrist"][1]) + drape

    def _hang(self, side: str, points: dict[str, NDArray[np.float64]]) -> tuple[dict[str, float], float]:
        size = self.frame.size
        upper, fore = self.posture.arm_mm(side, False, size)
        elbow = self._beside_trunk(side, points["head"] + self._mirrored(side, upper), _ELBOW_RADIUS_MM)
        wrist = self._beside_trunk(side, elbow + self._mirrored(side, fore), _WRIST_RADIUS_MM)
        fingertip = wrist + _HAND_TO_FOREARM * (wrist - elbow)
        wrist[0] += self._beside_trunk(side, fingertip, _FINGER_RADIUS_MM)[0] - fingertip[0]
        points["elbow"], points["wrist"] = elbow, wrist
        return {"head": 0.3, "scapula": 0.3, "elbow": 1.0, "wrist": 1.0}, float(points["wrist"][1]) - 10.0 * size

    def _raise(self, side: str, points: dict[str, NDArray[np.float64]]) -> tuple[dict[str, float], float]:
        size = self.frame.size
        upper, fore = self.posture.arm_mm(side, True, size)
        points["elbow"] = points["head"] + self._mirrored(side, upper)
        wrist = points["elbow"] + self._mirrored(side, fore)
        # The forearm passes beside the head, the hand beside or above it.
        vertex = self.t1_mm[2] + self.layout_mm[landmark("Skull").index, 1] + _VERTEX_ABOVE_SKULL_MM * size
        beside = float(np.clip((vertex + 60.0 * size - wrist[2]) / (60.0 * size), 0, 1))
        nearest = size * (_HANDS_APART_MM + beside * (_BESIDE_HEAD_MM - _HANDS_APART_MM))
        sign = SIDE_SIGN[side]
        wrist[0] = self.t1_mm[0] + sign * max(sign * (wrist[0] - self.t1_mm[0]), nearest)
        points["wrist"] = wrist
        return {"head": 0.3, "scapula": 0.2, "elbow": 0.7, "wrist": 0.7}, float(wrist[1])

    def _mirrored(self, side: str, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return vector * [SIDE_SIGN[side], 1.0, 1.0]

    def _beside_trunk(self, side: str, point: NDArray[np.float64], radius_mm: float) -> NDArray[np.float64]:
        """Moves a joint of a hanging arm out of the trunk: laterally."""
        cover = MUSCLE_MM * self.parameters.muscle + SKIN_MM + self.parameters.fat_mm
        nearest = self.wall.half_width_mm(float(point[2])) + cover + radius_mm * self.frame.size
        sign = SIDE_SIGN[side]
        return np.array([sign * max(sign * point[0], nearest), point[1], point[2]])
