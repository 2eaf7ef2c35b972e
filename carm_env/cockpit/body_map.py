"""The outline of a patient, for the map of the body and the scene: no landmark and no inner structure is in it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from carm_env.body_depth import SKIN_HU
from carm_env.patient import Patient

_STEP_MM = 6.0
_RING_MM = 30.0
_LEAST_SHARE = 0.02
"""Of a slice with fewer voxels of the body no ring is drawn."""


def body_map(patient: Patient) -> dict[str, Any]:
    """Returns the frontal silhouette of a patient, and rings around the body, as JSON values in LPS mm.

    ``silhouette`` holds one bit for each point of a grid: rows from head to foot, columns from the patient's right to
    the left. ``rings`` holds ``[z, lowest x, highest x, lowest y, highest y]`` of the body at several heights.
    """
    volume = patient.volume
    stride = np.maximum(1, np.rint(_STEP_MM / volume.spacing_mm)).astype(int)
    body = volume.hu[:: stride[0], :: stride[1], :: stride[2]] > SKIN_HU
    step = stride * volume.spacing_mm
    first = volume.origin_lps_mm
    frontal = np.any(body, axis=1)
    rows = frontal[:, ::-1].T
    low, high = patient.workspace_mm
    return {
        "silhouette": base64.b64encode(np.packbits(rows, axis=1).tobytes()).decode(),
        "columns": rows.shape[1],
        "rows": rows.shape[0],
        "step_mm": [float(step[0]), float(step[2])],
        "top_left_mm": [float(first[0]), float(first[2] + (rows.shape[0] - 1) * step[2])],
        "workspace_mm": [[float(value) for value in corner] for corner in (low, high)],
        "mid_depth_mm": float(patient.mid_depth_mm),
        "rings": [
            [round(float(first[2] + k * step[2]), 1), *_extent(np.any(body[:, :, k], axis=1), first[0], step[0]),
             *_extent(np.any(body[:, :, k], axis=0), first[1], step[1])]
            for k in range(0, body.shape[2], max(1, int(_RING_MM / step[2])))
            if body[:, :, k].mean() > _LEAST_SHARE
        ],
    }  # fmt: skip


def _extent(occupied: np.ndarray, first_mm: float, step_mm: float) -> list[float]:
    where = np.flatnonzero(occupied)
    return [round(float(first_mm + step_mm * where[0]), 1), round(float(first_mm + step_mm * where[-1]), 1)]
