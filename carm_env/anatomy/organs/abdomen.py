"""Organs below the diaphragm: liver, spleen, kidneys, stomach, psoas and bowel with gas.

Positions are in skeleton coordinates (mm). Where noted, heights are relative to a dome of the diaphragm or to T12.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.organs.visceral_cavity import AbdomenPainter
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Ellipsoid, Field, Shape, rotation, smooth_intersection, smooth_path, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body

_COLON = np.array(
    # x, y, z, radius: caecum, ascending, hepatic flexure, transverse, splenic flexure, descending, sigmoid
    [
        (-92, 176, 975, 24), (-104, 186, 1015, 23), (-108, 192, 1060, 21), (-106, 188, 1100, 20),
        (-92, 164, 1128, 19), (-60, 138, 1118, 18), (-15, 128, 1098, 18), (35, 130, 1104, 18), (78, 146, 1134, 18),
        (104, 184, 1166, 19), (113, 208, 1150, 17), (114, 212, 1100, 15), (112, 208, 1045, 14), (104, 198, 1000, 14),
        (80, 184, 968, 15), (44, 176, 952, 15), (20, 190, 930, 14), (4, 222, 910, 15),
    ],
    float,
)  # fmt: skip
_SMALL_BOWEL_LOOPS = 16


def paint_abdomen(
    canvas: Canvas,
    body: Body,
    thorax: Thorax,
    cavity: NDArray[np.float32],
    parameters: PatientParameters,
    rng: np.random.Generator,
) -> None:
    """Fills the abdominal cavity with fat, organs and bowel.

    Args:
        canvas: the volume.
        body: the posed skeleton.
        thorax: gives the domes of the diaphragm.
        cavity: result of `visceral_cavity`.
        parameters: parameters of the patient.
        rng: draws the bowel.
    """
    scale = body.scale
    canvas.paint(cavity, tissue.hu("visceral_fat"), tissue.texture("visceral_fat"))
    abdomen = AbdomenPainter(canvas, cavity)
    right, left = (thorax.diaphragm.apex_z_mm[side] for side in ("r", "l"))
    t12 = float(body.landmarks_mm["T12"][2])

    def at(x: float, y: float, z: float) -> NDArray[np.float64]:
        return body.frame.at_height(x, y, z)

    _paint_bowel(abdomen, body, parameters.bowel_gas, rng)
    psoas = np.array(
        [(32, 228, 1195, 9), (42, 226, 1150, 20), (56, 214, 1080, 26), (78, 176, 990, 24), (82, 148, 920, 18)]
    )
    for sign in (-1, 1):
        rows = psoas * [sign, 1, 1, scale * parameters.muscle]
        path = smooth_path(np.column_stack([body.frame.to_patient(rows[:, :3]), rows[:, 3]]), 4)
        field, box = Field.around(canvas.fine, list(tube(path[:, :3], path[:, 3])), 6.0)
        canvas.paint_box(field, box, tissue.hu("muscle"), tissue.texture("muscle"))
    for sign, drop in ((-1, 66.0), (1, 50.0)):
        centre = at(sign * 62, 230, t12 - drop * scale)
        kidney = Ellipsoid(centre, np.array([27, 24, 52]) * scale, rotation(1, -sign * 12))
        abdomen.organ([kidney], tissue.hu("kidney"), tissue.texture("kidney"))
    spleen = Ellipsoid(at(96, 236, left - 58 * scale), np.array([29, 42, 50]) * scale, rotation(2, 25))
    abdomen.organ([spleen], tissue.hu("spleen"), tissue.texture("spleen"))
    liver: list[Shape] = [
        Ellipsoid(at(-62, 182, right - 62 * scale), np.array([84, 96, 78]) * scale),
        Ellipsoid(at(-84, 196, right - 106 * scale), np.array([46, 62, 62]) * scale, rotation(1, 8)),
        Ellipsoid(at(8, 150, right - 62 * scale), np.array([72, 56, 36]) * scale, rotation(1, 14)),
    ]
    abdomen.organ(liver, tissue.hu("liver"), tissue.texture("liver"), blend_mm=34.0, inset_mm=1.0)
    _paint_stomach(abdomen, body, left, rng)


def _paint_stomach(abdomen: AbdomenPainter, body: Body, dome_z: float, rng: np.random.Generator) -> None:
    table = np.array(
        [(70, 200, -30, 29), (74, 188, -60, 33), (62, 164, -96, 27), (38, 146, -118, 21), (6, 150, -122, 16)], float
    )
    scale = body.scale
    points = [body.frame.at_height(x, y, dome_z + z * scale) for x, y, z, _ in table]
    path = smooth_path(np.column_stack([points, table[:, 3] * scale]), 4)
    shapes = list(tube(path[:, :3], path[:, 3]))
    abdomen.organ(
        list(shapes), tissue.hu("stomach_content"), tissue.texture("stomach_content"), blend_mm=10.0, inset_mm=5.0
    )
    # In a supine patient the gas rises to the ventral stomach.
    field, box = Field.around(abdomen.canvas.fine, shapes, 10.0)
    abdomen.clip(field, 5.0)
    _, y, _ = field.lattice.axes()
    level = np.float32(body.frame.at_height(0.0, 140.0 + rng.uniform(-8, 10), dome_z)[1])
    above = np.broadcast_to(y - level, field.values.shape)
    field.values = smooth_intersection(field.values + np.float32(4.0), above, 5.0)
    abdomen.canvas.paint_box(field, box, tissue.hu("bowel_gas"))


def _paint_bowel(abdomen: AbdomenPainter, body: Body, gas: float, rng: np.random.Generator) -> None:
    for _ in range(_SMALL_BOWEL_LOOPS):
        centre = rng.uniform([-66, 128, 945], [66, 190, 1110])
        waypoints = centre + np.cumsum(rng.normal(0, [24, 12, 16], (7, 3)), axis=0)
        loop = smooth_path(np.column_stack([body.frame.to_patient(waypoints), rng.uniform(9, 14, 7) * body.scale]), 5)
        amount = max(0.0, rng.normal(0.24, 0.22)) * gas
        _paint_bowel_segment(abdomen, loop, rng, amount)
    colon = _COLON.copy()
    colon[:, :3] += np.cumsum(rng.normal(0, 2.0, (len(colon), 3)), axis=0) * 0.6
    path = smooth_path(np.column_stack([body.frame.to_patient(colon[:, :3]), colon[:, 3] * body.scale]), 7)
    path[:, 3] *= 1 + 0.13 * np.sin(np.arange(len(path)) * 2 * np.pi / rng.uniform(3.6, 4.4) + rng.uniform(0, 6))
    _paint_bowel_segment(abdomen, path, rng, 0.62 * gas)


def _paint_bowel_segment(
    abdomen: AbdomenPainter, path: NDArray[np.float64], rng: np.random.Generator, gas: float
) -> None:
    shapes: list[Shape] = list(tube(path[:, :3], path[:, 3]))
    abdomen.organ(shapes, tissue.hu("bowel_content"), tissue.texture("bowel_content"), blend_mm=2.0)
    # Gas fills the ventral lumen in segments of random length.
    noise = np.convolve(rng.normal(0, 1, len(path) + 10), np.hanning(11) / np.hanning(11).sum(), "valid")[: len(path)]
    noise = (noise - noise.mean()) / max(float(noise.std()), 1e-6)
    filled = np.clip(0.5 * noise + gas - 0.25, 0, 0.95)
    run: list[int] = []
    for number in range(len(path) + 1):
        if number < len(path) and filled[number] > 0.12:
            run.append(number)
            continue
        if len(run) > 1:
            _paint_gas(abdomen, path[run], filled[run])
        run = []


def _paint_gas(abdomen: AbdomenPainter, path: NDArray[np.float64], filled: ArrayLike) -> None:
    radius = np.maximum(path[:, 3] - 2.5, 2.0) * np.sqrt(np.asarray(filled, float))
    centre = path[:, :3].copy()
    centre[:, 1] -= (path[:, 3] - 2.5 - radius) * 0.9
    shapes: list[Shape] = list(tube(centre, radius))
    abdomen.organ(shapes, tissue.hu("bowel_gas"), 0.0, blend_mm=3.0, inset_mm=3.0)
