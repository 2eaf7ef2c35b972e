"""The mediastinum and the parenchyma of the lungs."""

from __future__ import annotations

import numpy as np

from carm_env.anatomy.organs.thorax import GREAT_VESSELS, OESOPHAGUS, ChestFields, Thorax, heart_shapes
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Field, tube
from carm_env.anatomy.parameters import PatientParameters

MEDIASTINUM_TOP_MM = 1505.0
DEPENDENT_HU = 55.0
"""Difference in HU between the dorsal and the ventral lung of a supine patient."""


def paint_mediastinum(canvas: Canvas, thorax: Thorax, chest: ChestFields, parameters: PatientParameters) -> None:
    """Fills the chest above the diaphragm: fat, heart, great vessels, oesophagus, then the lungs."""
    _, _, z = canvas.coarse.axes()
    top = (z - thorax.frame.height(MEDIASTINUM_TOP_MM)).astype(np.float32)
    inside = np.maximum(np.maximum(chest.cavity + np.float32(3.0), -chest.below_diaphragm), top)
    mediastinum = np.maximum(inside, chest.mediastinum - np.float32(4.0))
    canvas.paint(mediastinum, tissue.hu("mediastinal_fat"), tissue.texture("mediastinal_fat"))

    spine = Field(canvas.coarse).add(tube(thorax.spine_mm, 21.0 * thorax.scale), 10.0)
    canvas.paint(np.maximum(spine.values, inside), tissue.hu("muscle"), tissue.texture("muscle"))
    shapes = heart_shapes(thorax)
    heart, box = Field.around(canvas.fine, [shape for shape, _ in shapes], 18.0, margin_mm=20.0)
    canvas.paint_box(heart, box, tissue.hu("heart_muscle"), tissue.texture("heart_muscle"))
    for table in (OESOPHAGUS, *GREAT_VESSELS):
        field, box = Field.around(canvas.fine, list(thorax.curved_tube(table)), margin_mm=6.0)
        canvas.paint_box(field, box, tissue.hu("blood"), tissue.texture("blood"))

    _, y, _ = canvas.fine.axes()
    front = thorax.points([0, 150, 0])[1]
    dorsal = np.clip((y.ravel() - front) / (130 * thorax.frame.depth), 0, 1)
    canvas.paint(chest.lungs, parameters.lung_hu + DEPENDENT_HU * (dorsal - 0.5), tissue.texture("lung_parenchyma"))
