"""Organs below the diaphragm: solid organs with fat around them, stomach with contents, bowel.

Positions are in skeleton coordinates (mm). Where noted, heights are relative to a dome of the diaphragm or to T12.
Sizes, positions, the course of the colon and the distribution of gas and stool vary with the seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.organs.visceral_cavity import AbdomenPainter
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.shapes import Ellipsoid, Field, Shape, rotation, smooth_intersection, smooth_path, tube
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body

_SMALL_BOWEL_LOOPS = 30
_SMALL_BOWEL_MM = np.array([(-84.0, 118.0, 930.0), (84.0, 178.0, 1120.0)])
"""Corners of the box that contains the middles of the loops of the small bowel."""
_SMALL_BOWEL_GAS_PROBABILITY = 0.3

_COLON = np.array(
    # x, y, z, radius: caecum, ascending, hepatic flexure, transverse, splenic flexure, descending, sigmoid, rectum
    [
        (-96, 172, 980, 27), (-110, 184, 1015, 26), (-115, 192, 1060, 24), (-112, 190, 1105, 23),
        (-98, 164, 1132, 21), (-62, 134, 1120, 20), (-15, 122, 1100, 20), (35, 126, 1108, 20), (80, 146, 1142, 21),
        (106, 188, 1176, 22), (117, 212, 1155, 19), (119, 216, 1105, 17), (117, 212, 1050, 16), (108, 198, 1000, 16),
        (80, 184, 968, 17), (40, 168, 962, 18), (20, 184, 938, 16), (4, 220, 910, 18),
    ],
    float,
)  # fmt: skip
_COLON_STD_MM = 7.0
_TRANSVERSE = slice(5, 8)
_PTOSIS_MM = 34.0
"""Standard deviation of the sag of the transverse colon."""
_HAUSTRUM_MM = 26.0
"""Mean distance of the folds between the haustra."""
_HAUSTRUM_DEPTH = 0.24
_STOOL_HU, _STOOL_TEXTURE_HU = -40.0, 160.0
"""Stool contains small bubbles of gas."""
_STOOL_TO = 0.45
"""Fraction of the colon, from the caecum, that always holds stool; the rest is filled by chance."""

_PSOAS = np.array(
    [(30, 222, 1205, 9), (38, 220, 1160, 17), (46, 210, 1110, 23), (58, 196, 1050, 27), (76, 174, 985, 25),
     (84, 146, 915, 19)],
    float,
)  # fmt: skip
_PSOAS_TWIN_MM = (6.0, 14.0)
"""Offset (lateral, dorsal) of a second belly, so that the lateral edge is tangential to a frontal beam."""
_QUADRATUS = np.array([(64, 248, 1215, 8), (72, 244, 1150, 13), (84, 236, 1085, 15)], float)
_MESENTERY_TEXTURE_HU = 30.0
"""Vessels and lymph nodes in the fat."""
_KIDNEY_RADII_MM = (29.0, 26.0, 56.0)
_PERIRENAL_MM = 9.0
_STOMACH = np.array(
    # x, y, height relative to the left dome, radius: fundus, body, antrum, pylorus
    [(66, 212, -28, 25), (74, 198, -56, 27), (68, 172, -88, 23), (46, 150, -112, 18), (16, 148, -118, 13)],
    float,
)
_STOMACH_STD_MM = 6.0
_STOMACH_GAS = (0.02, 0.11)
"""Range of the share of gas in the lumen; it rises to the ventral part of a supine patient's stomach."""
_STOMACH_TEXTURE_HU = (6.0, 70.0)
"""From fluid to a meal."""


class _Viscera:
    """Painter of the organs of one patient."""

    def __init__(
        self,
        painter: AbdomenPainter,
        body: Body,
        parameters: PatientParameters,
        variation: OrganVariation,
        rng: np.random.Generator,
    ) -> None:
        self.painter, self.body, self.parameters, self.variation, self.rng = painter, body, parameters, variation, rng
        self.canvas, self.scale = painter.canvas, body.scale

    def at(self, x: float, y: float, z: float) -> NDArray[np.float64]:
        """Maps x and y in the skeleton and a height in the patient to ``(3,)`` in the patient."""
        return self.body.frame.at_height(x, y, z)

    def organ(
        self, name: str, shapes: list[Shape], organ_tissue: str, blend_mm: float = 20.0, ripple_mm: float = 2.0
    ) -> None:
        """Paints a solid organ with a rippled surface."""
        field, box = Field.around(self.canvas.fine, shapes, blend_mm, margin_mm=max(10.0, blend_mm))
        if field.values.size:
            self.variation.ripple(name, field, ripple_mm)
            self.canvas.paint_box(
                self.painter.clip(field, 1.0), box, tissue.hu(organ_tissue), tissue.texture(organ_tissue)
            )

    def muscle(self, rows: NDArray[np.float64], blend_mm: float = 0.0) -> None:
        """Paints a muscle of the back wall of the abdomen, on both sides, given in skeleton coordinates."""
        for sign in (-1, 1):
            bellies = []
            for table in rows:
                points = table * [sign, 1, 1, self.scale * self.parameters.muscle]
                path = smooth_path(np.column_stack([self.body.frame.to_patient(points[:, :3]), points[:, 3]]), 4)
                bellies += tube(path[:, :3], path[:, 3])
            field, box = Field.around(self.canvas.fine, bellies, blend_mm, margin_mm=10.0)
            self.canvas.paint_box(field, box, tissue.hu("muscle"), tissue.texture("muscle"))

    def solid_organs(self, right: float, left: float, t12: float) -> None:
        """Paints psoas, quadratus lumborum, kidneys in their fat, spleen and liver.

        Args:
            right: height of the right dome of the diaphragm, mm.
            left: height of the left dome of the diaphragm, mm.
            t12: height of T12, mm.
        """
        lateral, dorsal = _PSOAS_TWIN_MM
        self.muscle(np.stack([_PSOAS, _PSOAS + [lateral, dorsal, 0.0, -5.0]]), 6.0)
        self.muscle(_QUADRATUS[None])
        for sign, drop in ((-1, 70.0), (1, 54.0)):
            name = f"kidney {sign}"
            size, shift = self.variation.size(name, 0.07), self.variation.normal(name, [4.0, 3.0, 9.0])
            centre = self.at(sign * 66, 228, t12 - drop * self.scale) + shift
            radii = np.array(_KIDNEY_RADII_MM) * self.scale * size
            axes = rotation(1, -sign * float(14 + self.variation.normal(f"{name} axis", 5.0)))
            fat, box = Field.around(self.canvas.fine, [Ellipsoid(centre, radii + _PERIRENAL_MM, axes)])
            if fat.values.size:
                self.canvas.paint_box(self.painter.clip(fat), box, tissue.hu("fat"), 6.0)
            self.organ(name, [Ellipsoid(centre, radii, axes)], "kidney", ripple_mm=1.2)
        size = self.variation.size("spleen", 0.11)
        spleen = Ellipsoid(
            self.at(98, 236, left - 56 * self.scale), np.array([27, 41, 50]) * self.scale * size, rotation(2, 25)
        )
        self.organ("spleen", [spleen], "spleen")
        size = self.variation.size("liver", 0.05)
        tongue = 1 + float(self.variation.normal("right lobe", 0.16))
        wide = 1 + float(self.variation.normal("left lobe", 0.16))
        liver: list[Shape] = [
            Ellipsoid(self.at(-62, 182, right - 62 * self.scale), np.array([84, 96, 78]) * self.scale * size),
            Ellipsoid(
                self.at(-84, 196, right - 106 * self.scale),
                np.array([46, 62, 62 * tongue]) * self.scale * size,
                rotation(1, 8),
            ),
            Ellipsoid(
                self.at(8, 150, right - 62 * self.scale), np.array([72 * wide, 56, 36]) * self.scale, rotation(1, 14)
            ),
        ]
        self.organ("liver", liver, "liver", 34.0, 3.0)

    def stomach(self, dome_z: float) -> None:
        """Paints a stomach with contents, and gas in the ventral part of its lumen."""
        table = self.variation.path("stomach", _STOMACH, _STOMACH_STD_MM, 0.14)
        points = [self.at(x, y, dome_z + z * self.scale) for x, y, z, _ in table]
        path = smooth_path(np.column_stack([points, table[:, 3] * self.scale]), 4)
        field, box = Field.around(self.canvas.fine, list(tube(path[:, :3], path[:, 3])), 10.0, margin_mm=10.0)
        if not field.values.size:
            return
        self.variation.ripple("stomach", field, 2.0, 45.0)
        self.painter.clip(field, 3.0)
        self.canvas.paint_box(field, box, tissue.hu("muscle"), 8.0)
        lumen = field.values + np.float32(4.0)
        content_hu = tissue.hu("stomach_content") + float(self.rng.uniform(-25, 10))
        texture = float(self.rng.uniform(*_STOMACH_TEXTURE_HU))
        self.canvas.paint_box(Field(field.lattice, lumen), box, content_hu, texture)
        y = np.broadcast_to(field.lattice.axes()[1], lumen.shape)
        inside = y[lumen < 0]
        if inside.size:
            level = np.float32(np.quantile(inside, self.rng.uniform(*_STOMACH_GAS)))
            gas = Field(field.lattice, smooth_intersection(lumen, y - level, 5.0))
            self.canvas.paint_box(gas, box, tissue.hu("bowel_gas"))

    def small_bowel(self) -> None:
        """Paints loops of fluid-filled small bowel, some with gas."""
        low, high = _SMALL_BOWEL_MM
        for _ in range(_SMALL_BOWEL_LOOPS):
            centre = self.rng.uniform(low, high)
            waypoints = centre + np.cumsum(self.rng.normal(0, [22, 9, 14], (7, 3)), axis=0)
            radius = self.rng.uniform(8.5, 13.0, 7) * self.scale
            path = smooth_path(np.column_stack([self.body.frame.to_patient(waypoints), radius]), 5)
            has_gas = self.rng.random() < _SMALL_BOWEL_GAS_PROBABILITY * self.parameters.bowel_gas
            filled = np.clip(self.rng.uniform(0.15, 0.7) - _smooth_noise(self.rng, len(path)) ** 2 * 0.4, 0, 0.8)
            self._segment(path, tissue.hu("bowel_content"), 45.0, filled if has_gas else np.zeros(len(path)))

    def colon(self) -> None:
        """Paints the colon with haustra, stool and gas."""
        table = self.variation.path("colon", _COLON, _COLON_STD_MM, 0.10)
        sag = float(self.variation.normal("transverse colon", _PTOSIS_MM))
        table[_TRANSVERSE, 2] += min(sag, 12.0) * np.array([0.7, 1.0, 0.8])
        path = smooth_path(np.column_stack([self.body.frame.to_patient(table[:, :3]), table[:, 3] * self.scale]), 10)
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path[:, :3], axis=0), axis=1))])
        period = _HAUSTRUM_MM * self.scale * (1 + 0.25 * np.cumsum(_smooth_noise(self.rng, len(path))) / len(path))
        phase = np.cumsum(np.gradient(length) / period) + self.rng.uniform(0, 1)
        # Sacculations between narrow folds.
        path[:, 3] *= 1 + _HAUSTRUM_DEPTH * (np.abs(np.sin(np.pi * phase)) - 0.75)
        along = np.linspace(0, 1, len(path))
        noise = _smooth_noise(self.rng, len(path), 21)
        gas = np.clip(0.25 * self.parameters.bowel_gas + 0.22 * noise, 0, 0.5)
        stool = (along < _STOOL_TO) | (noise < self.rng.uniform(-0.6, 0.4))
        for kind in (True, False):
            for part in _runs(stool == kind):
                hu, texture = (_STOOL_HU, _STOOL_TEXTURE_HU) if kind else (tissue.hu("bowel_content"), 12.0)
                self._segment(path[part], hu, texture, gas[part] * (0.55 if kind else 1.0))

    def _segment(self, path: NDArray[np.float64], hu: float, texture: float, filled: NDArray[np.float64]) -> None:
        """Paints a piece of bowel: wall, contents, and gas that fills a share of the lumen from the front."""
        shapes: list[Shape] = list(tube(path[:, :3], path[:, 3]))
        if not shapes:
            return
        self.painter.organ(shapes, tissue.hu("muscle"), 8.0, blend_mm=2.0)
        self.painter.organ(list(tube(path[:, :3], path[:, 3] - 2.0)), hu, texture, blend_mm=2.0, inset_mm=2.0)
        for part in _runs(filled > 0.1):
            run, share = path[part], filled[part]
            lumen = np.maximum(run[:, 3] - 2.5, 2.0)
            radius = lumen * np.sqrt(share)
            centre = run[:, :3].copy()
            centre[:, 1] -= (lumen - radius) * 0.9
            if len(run) > 1:
                gas: list[Shape] = list(tube(centre, radius))
                self.painter.organ(gas, tissue.hu("bowel_gas"), 0.0, blend_mm=2.0, inset_mm=3.0)


def _smooth_noise(rng: np.random.Generator, count: int, width: int = 11) -> NDArray[np.float64]:
    """Returns smooth noise ``(count,)`` with mean 0 and standard deviation 1."""
    window = np.hanning(width)
    noise = np.convolve(rng.normal(size=count + width - 1), window / window.sum(), "valid")[:count]
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def _runs(mask: NDArray[np.bool_]) -> list[slice]:
    """Returns the runs of True, each extended by the first point after it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [slice(int(first), int(last) + 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def paint_viscera(
    canvas: Canvas,
    body: Body,
    thorax: Thorax,
    cavity: NDArray[np.float32],
    parameters: PatientParameters,
    variation: OrganVariation,
    rng: np.random.Generator,
) -> None:
    """Fills the abdominal cavity with fat, bowel and organs.

    Args:
        canvas: the volume.
        body: the posed skeleton.
        thorax: gives the domes of the diaphragm.
        cavity: signed distance from the surface of the cavity on the coarse lattice, mm.
        parameters: parameters of the patient.
        variation: variation of the organs.
        rng: draws contents and gas.
    """
    canvas.paint(cavity, tissue.hu("visceral_fat"), _MESENTERY_TEXTURE_HU)
    viscera = _Viscera(AbdomenPainter(canvas, cavity), body, parameters, variation, rng)
    right, left = (thorax.diaphragm.apex_z_mm[side] for side in ("r", "l"))
    viscera.small_bowel()
    viscera.colon()
    viscera.stomach(left)
    viscera.solid_organs(right, left, float(body.landmarks_mm["T12"][2]))
