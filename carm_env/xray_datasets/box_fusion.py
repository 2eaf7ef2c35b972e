"""Weighted box fusion of duplicate boxes.

Source: Solovyev, Wang, Gabruseva, "Weighted boxes fusion: Ensembling boxes from different object detection models",
Image and Vision Computing 107 (2021), in the package ensemble-boxes. LoFi merges the boxes of MIMIC-Ext with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from carm_env.system.extras import require
from carm_env.xray_datasets.grounded import Box

IOU_THRESHOLD = 0.55
"""Boxes that overlap more are one; the default of ensemble-boxes."""


def fuse_boxes(boxes: Sequence[Box], iou_threshold: float = IOU_THRESHOLD) -> tuple[Box, ...]:
    """Merges boxes that overlap, each with the same weight, to their mean.

    Args:
        boxes: boxes of one sentence.
        iou_threshold: intersection over union above which two boxes are one, 0 to 1.

    Returns:
        The merged boxes, ordered.

    Raises:
        MissingExtraError: ensemble-boxes is not installed.
    """
    if len(boxes) < 2:
        return tuple(boxes)
    fusion = require("ensemble_boxes", "lofi", "Merging duplicate boxes")
    merged, _, _ = fusion.weighted_boxes_fusion(
        [[list(box) for box in boxes]], [[1.0] * len(boxes)], [[0] * len(boxes)], iou_thr=iou_threshold
    )
    # The package computes in single precision.
    found = ((min(max(float(value), 0.0), 1.0) for value in box) for box in merged)
    return tuple(sorted((left, top, right, bottom) for left, top, right, bottom in found))
