"""The posture of a person: shoulder girdle, direction of the arms and head, drawn from the seed.

The annotated layouts are those of decedents with crossed arms, which protract and elevate the shoulders. With the arms
at the sides the shoulders sink and spread; raised arms elevate them and turn the scapulae. A person keeps a part of the
difference between the own layout and the mean layout, and adds deviates of girdle and arms, most of which both sides
share.

Sources: the distance of the humeral heads with the arms at the sides follows the biacromial breadth of 397 mm (men)
and 363 mm (women) of Gordon et al. (1988 Anthropometric Survey of U.S. Army Personnel, Natick/TR-89/044), with the
centre of each head about 10 mm medial to the acromion. Height and depth of shoulders and skull were chosen by hand
beside four CTs of living people (``carm_env/patients/real_cts.yaml``), all spreads and the directions of scapula and
arms by hand alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.layout import landmark_layout, upright_mm
from carm_env.anatomy.skeleton.bone_variation import BoneVariation
from carm_env.landmarks import landmark

_MEAN_SCALE = 1.025
"""Scale of an average adult, to which all lengths refer."""
_KEPT = np.array([0.45, 0.6])
"""Share of a layout's difference from the mean layout (lateral, cranial) that remains in another pose of the arms."""
_BREADTH_EXPONENT = 1.3
"""Tall people are men more often than short ones, whose shoulders are broader at the same stature."""
_SIDE_STD = 0.5
"""Standard deviation of one side from the mean of both, relative to the spread of the mean."""

_BREADTH_MM = 4.5
"""Standard deviation of the distance of a humeral head from the midline."""
_PROTRACTION_MM = np.array([-3.5, -8.0])
"""Displacement of the humeral head (lateral, dorsal) per standard deviation of protraction."""
_ELEVATION_MM, _ANGLE_ELEVATION = 10.0, 0.7
"""Standard deviation of the height of the humeral head, and the share of it that the scapular angle follows."""
_ROTATION_MM = np.array([8.0, 5.0])
"""Displacement of the scapular angle (lateral, cranial) per standard deviation of upward rotation."""

_LIMIT = 2.0
"""Deviates are limited to this number of standard deviations."""


@dataclass(frozen=True)
class _Girdle:
    """Average position of one shoulder relative to T1, mm.

    Attributes:
        head_mm: humeral head: lateral, dorsal, cranial.
        angle_mm: scapular inferior angle: lateral, cranial.
    """

    head_mm: tuple[float, float, float]
    angle_mm: tuple[float, float]


_LOWERED = _Girdle((180.0, -6.0, -36.0), (105.0, -166.0))
_RAISED = _Girdle((143.0, -8.0, 25.0), (120.0, -140.0))


@dataclass(frozen=True)
class _Arm:
    """Lengths (mm) and directions (degrees) of an arm: mean, standard deviation, lowest and highest value.

    Attributes:
        upper_mm: distance of the olecranon from the humeral head.
        fore_mm: distance of the wrist from the olecranon.
        abduction: angle of the upper arm with the long axis in the frontal plane, from below or, if raised, from above.
        dorsal: angle of the upper arm with the frontal plane, positive dorsally.
        inward: angle by which the forearm turns from the direction of the upper arm towards the midline.
        ventral: angle of the forearm with the frontal plane, positive ventrally.
    """

    upper_mm: float
    fore_mm: float
    abduction: tuple[float, float, float, float]
    dorsal: tuple[float, float, float, float]
    inward: tuple[float, float, float, float]
    ventral: tuple[float, float, float, float]


_HANGING_ARM = _Arm(292.0, 238.0, (13, 7, 5, 35), (4, 4, -4, 12), (9, 9, -6, 27), (10, 8, 0, 28))
_RAISED_ARM = _Arm(288.0, 230.0, (22, 14, 4, 55), (-6, 7, -20, 8), (55, 20, 15, 100), (-2, 8, -16, 16))

_SKULL_DORSAL_MM, _SKULL_CRANIAL_MM = (18.0, 9.0), (20.0, 11.0)
"""Mean and standard deviation of the displacement of the skull in living people, whose arms are not crossed."""


@dataclass(frozen=True)
class Posture:
    """Draws the posture of a person. Seed 0, the average adult, has the average posture.

    Attributes:
        seed: seed of the patient.
    """

    seed: int

    def _deviate(self, name: str) -> float:
        return 0.0 if self.seed == 0 else float(BoneVariation(self.seed).normal(f"posture: {name}", 1)[0])

    def _of_side(self, name: str, side: str) -> float:
        """Returns a deviate that both sides share in part, with a standard deviation of one."""
        both, own = self._deviate(name), self._deviate(f"{name} {side}")
        return float(np.clip((both + _SIDE_STD * own) / np.hypot(1.0, _SIDE_STD), -_LIMIT, _LIMIT))

    def shoulder_mm(
        self, side: str, raised: bool, layout_mm: tuple[NDArray[np.float64], NDArray[np.float64]], scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns humeral head (lateral, dorsal, cranial) and scapular angle (lateral, cranial) relative to T1, mm.

        Args:
            side: ``"r"`` or ``"l"``.
            raised: whether the arm is raised; otherwise it is at the side.
            layout_mm: both landmarks ``(2,)`` in the layout with crossed arms: lateral and cranial of T1.
            scale: scale of the patient.
        """
        girdle, size = _RAISED if raised else _LOWERED, scale / _MEAN_SCALE
        breadth, protraction, elevation, rotation = (
            self._of_side(name, side) for name in ("breadth", "protraction", "elevation", "scapular rotation")
        )
        kept_head, kept_angle = (
            _KEPT * (own - size * mean) for own, mean in zip(layout_mm, _mean_shoulder_mm(), strict=True)
        )
        head = size * np.array(girdle.head_mm)
        head[0] = size**_BREADTH_EXPONENT * girdle.head_mm[0] + size * _BREADTH_MM * breadth
        head[:2] += size * _PROTRACTION_MM * protraction
        head[2] += size * _ELEVATION_MM * elevation
        head[[0, 2]] += kept_head
        angle = size * (np.array(girdle.angle_mm) + _ROTATION_MM * rotation) + kept_angle
        angle[0] += size * _PROTRACTION_MM[0] * -protraction
        angle[1] += size * _ANGLE_ELEVATION * _ELEVATION_MM * elevation
        return head, angle

    def arm_mm(self, side: str, raised: bool, scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the elbow relative to the humeral head and the wrist relative to the elbow, mm.

        Both are ``(3,)``: lateral, dorsal, cranial; arguments as in `shoulder_mm`.
        """
        arm, size, up = (_RAISED_ARM, scale / _MEAN_SCALE, 1.0) if raised else (_HANGING_ARM, scale / _MEAN_SCALE, -1.0)
        abduction, dorsal, inward, ventral = (
            self._angle_rad(name, side, getattr(arm, name)) for name in ("abduction", "dorsal", "inward", "ventral")
        )

        def direction(lateral: float, depth: float) -> NDArray[np.float64]:
            return np.array([np.sin(lateral) * np.cos(depth), np.sin(depth), up * np.cos(lateral) * np.cos(depth)])

        upper = arm.upper_mm * size * direction(abduction, dorsal)
        return upper, arm.fore_mm * size * direction(abduction - inward, -ventral)

    def _angle_rad(self, name: str, side: str, spread: tuple[float, float, float, float]) -> float:
        mean, std, low, high = spread
        return float(np.deg2rad(np.clip(mean + std * self._of_side(name, side), low, high)))

    def skull_mm(self, crossed: bool, scale: float) -> tuple[float, float]:
        """Returns the displacement of the skull, dorsal and cranial, mm.

        With crossed arms, the layout of the annotated patients gives its height.
        """
        size = scale / _MEAN_SCALE
        mean, std = _SKULL_DORSAL_MM
        dorsal = size * (std * self._deviate("forward head") + (0.0 if crossed else mean))
        mean, std = _SKULL_CRANIAL_MM
        return dorsal, 0.0 if crossed else size * (mean + std * self._deviate("height of the head"))


@cache
def _mean_shoulder_mm() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns humeral head and scapular angle ``(2,)`` of the mean layout: lateral and cranial of T1."""
    layout = upright_mm(landmark_layout().mean_mm)[0]

    def mean(part: str) -> NDArray[np.float64]:
        right, left = (layout[landmark(f"{side} {part}").index] for side in ("Right", "Left"))
        return (right * [-1, 1] + left) / 2

    return mean("humeral head"), mean("scapular inferior angle")
