"""What a page is told about an episode, as JSON values. None of it holds the true position of the target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from carm_env.cockpit.offers import names_of
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.driving import DriveView
from carm_env.evaluation.policy import Decision
from carm_env.landmarks import landmark
from carm_env.transcripts.records import writable

HIDDEN = "This policy reads the true state. What it says is hidden, because it would give the target away."


def drive_readouts(view: DriveView) -> dict[str, Any]:
    """Returns what a person who drives is told besides the X-ray."""
    return {
        "target": {"id": landmark(view.target).id, "name": view.target},
        "exposures": view.exposures,
        "dose_mgy": view.dose_mgy,
        "dap_mgy_cm2": view.dap_mgy_cm2,
        "quality": view.view_quality,
        "steps": view.steps,
        "max_steps": view.steps + view.steps_left,
        "mask": np.asarray(view.action_mask).tolist(),
        "clipped": view.move_clipped,
        "effective": view.move_effective,
        "field_of_view_mm": view.field_of_view_mm,
        "extents_mm": list(view.extents_mm),
        "tolerance_mm": view.tolerance_mm,
    }


def carm_readouts(env: CArmNavEnv) -> dict[str, Any]:
    """Returns where the C-arm is: isocentre, source and corners of the detector in LPS mm, and angles in degrees."""
    pose, view = env.pose, env.scene.camera.projection(env.pose, env.image_size)
    right, bottom = view.width - 0.5, view.height - 0.5
    corners = view.pixel_lps_mm([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    return {
        "pose": {
            "isocenter": list(pose.isocenter_lps_mm),
            "source": np.round(view.source_lps_mm, 1).tolist(),
            "detector": np.round(corners, 1).tolist(),
        },
        "angles": [pose.alpha_deg, pose.beta_deg, pose.projection],
        "aim_mm": list(pose.towards_source(-env.isocenter_depth_mm).isocenter_lps_mm),
    }


def decision_readouts(decision: Decision, seconds: float, is_hidden: bool) -> dict[str, Any]:
    """Returns a policy's decision.

    Args:
        decision: the decision.
        seconds: how long it took.
        is_hidden: leave out what a policy says that reads the true state.
    """
    said: dict[str, Any] = {
        "closest": names_of(decision.closest_landmarks),
        "rationale": writable(decision.rationale),
        "confidence": _share(decision.confidence),
    }
    if is_hidden:
        said = {"closest": [], "rationale": HIDDEN, "confidence": None}
    return {
        **said,
        "move": str(decision.move),
        "question": writable(decision.question),
        "abstain": decision.abstain,
        "invalid": decision.invalid,
        "latency_s": round(seconds, 3),
    }


def _share(value: Any) -> float | None:
    # The field is the policy's and may hold anything.
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
