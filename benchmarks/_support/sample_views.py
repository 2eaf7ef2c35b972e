"""Views of a patient that are compared with the frames of the paper."""

from __future__ import annotations

from dataclasses import dataclass

from carm_env.envs.episode import landmark_lps_mm
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose
from carm_env.patient import Patient


@dataclass(frozen=True)
class View:
    """A C-arm pose relative to a landmark, which is on the central ray of the unshifted view.

    Attributes:
        caption: name of the view.
        landmark: name of the landmark.
        left_mm: shift to the patient's left.
        cranial_mm: shift towards the head.
        alpha_deg: LAO/RAO angle.
        beta_deg: CRAN/CAUD angle.
    """

    caption: str
    landmark: str
    left_mm: float = 0.0
    cranial_mm: float = 0.0
    alpha_deg: float = 0.0
    beta_deg: float = 0.0

    def pose(self, patient: Patient, isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM) -> CArmPose:
        """Returns the pose of the C-arm for a patient.

        Args:
            patient: the patient.
            isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
        """
        x, _, z = landmark_lps_mm(patient, self.landmark)
        isocenter = (x + self.left_mm, patient.mid_depth_mm, z + self.cranial_mm)
        return CArmPose(isocenter, self.alpha_deg, self.beta_deg).towards_source(isocenter_depth_mm)


VIEWS = (
    View("skull", "skull"),
    View("from the skull to the right", "skull", -90, -120),
    View("right humeral head", "right humeral head"),
    View("right scapular angle", "right scapular inferior angle"),
    View("carina", "carina"),
    View("neck", "T1", 0, 70),
    View("left scapular angle", "left scapular inferior angle"),
    View("left elbow", "left elbow"),
    View("right hemidiaphragm", "right hemidiaphragm"),
    View("T12", "T12"),
    View("right wrist, over the left half", "right wrist"),
    View("left humeral head", "left humeral head"),
    View("carina, 30 deg LAO", "carina", alpha_deg=-30),
    View("skull, 90 deg", "skull", alpha_deg=90),
    View("T1, 90 deg", "T1", alpha_deg=90),
    View("T12, 25 deg RAO, 15 deg CRAN", "T12", alpha_deg=25, beta_deg=-15),
)
"""The views of the published episodes, and those in which anatomy is hardest to model."""
PUBLISHED_VIEWS = (
    "skull", "from the skull to the right", "right humeral head", "right scapular angle", "neck",
    "left scapular angle", "left humeral head",
)  # fmt: skip
"""Captions of the views of the published episodes, from the skull to the scapular angles and back."""
