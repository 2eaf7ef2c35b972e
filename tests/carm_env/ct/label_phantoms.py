"""Label maps of virtual patients: the filled bones and organs stand for a segmentation by TotalSegmentator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.airways import bronchi_shapes, trachea_shapes
from carm_env.anatomy.organs.heart import heart_shapes, mediastinum_surface
from carm_env.anatomy.organs.modelled_vertebrae import vertebra_distance
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.thorax import chest_fields, landmark_points, make_thorax
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.shapes import Field
from carm_env.anatomy.painting.voxelise import fill
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body, pose_body
from carm_env.anatomy.skeleton.model import SKULL, thoracic
from carm_env.anatomy.skeleton.vertebrae import modelled_vertebrae
from carm_env.ct.label_maps import CLASSES

STEP_MM = 2.5
MESHES = {
    "skull": SKULL,
    "humerus_right": "humerus_r",
    "humerus_left": "humerus_l",
    "scapula_right": "scapula_r",
    "scapula_left": "scapula_l",
    **{f"vertebrae_T{number}": thoracic(number) for number in (1, 2, 3, 4, 7, 9, 11, 12)},
}
_UPPER_BRONCHUS = ((-30.0, 200.0, -18.0, 6.0), (-46.0, 198.0, 0.0, 5.0), (-54.0, 198.0, 34.0, 4.5))
"""A bronchus that rises beside the trachea: x, y, height above the carina, radius, skeleton mm."""

_VERTEBRA_REACH_MM = 75.0
"""Distance from the centre of a vertebral body within which the whole vertebra lies."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A label map with its landmarks.

    Attributes:
        labels: ``(nx, ny, nz)`` labels along LPS.
        first_mm, spacing_mm: centre of the first voxel and voxel size, LPS mm.
        exact_mm: landmarks by id, LPS mm.
    """

    labels: NDArray[np.int16]
    first_mm: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    exact_mm: dict[int, NDArray[np.float64]]

    def cut(self, low_mm=(-np.inf,) * 3, high_mm=(np.inf,) * 3) -> Labelled:
        """The part between two corners, as a smaller field of view."""
        last = np.array(self.labels.shape) - 1
        first = np.clip(np.ceil((np.array(low_mm) - self.first_mm) / self.spacing_mm), 0, last).astype(int)
        stop = np.clip(np.floor((np.array(high_mm) - self.first_mm) / self.spacing_mm), 0, last).astype(int) + 1
        box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
        return replace(self, labels=self.labels[box], first_mm=self.first_mm + first * self.spacing_mm)

    def thinned(self, every: tuple[int, int, int], begin: int = 0) -> Labelled:
        """Every n-th voxel along each axis, as with thick slices; `begin` shifts the grid."""
        step = np.array(every)
        return replace(
            self,
            labels=self.labels[tuple(slice(begin, None, number) for number in every)],
            first_mm=self.first_mm + begin * self.spacing_mm,
            spacing_mm=self.spacing_mm * step,
        )

    def without(self, *names: str) -> Labelled:
        """The map without some classes."""
        gone = np.isin(self.labels, [CLASSES[name] for name in names])
        return replace(self, labels=np.where(gone, 0, self.labels).astype(np.int16))

    def write(self, path: Path, labels: NDArray[np.int16] | None = None) -> Path:
        """Writes the map, or other labels on its grid, as an image."""
        import SimpleITK as sitk

        labels = self.labels if labels is None else labels
        image = sitk.GetImageFromArray(np.ascontiguousarray(labels.transpose(2, 1, 0)))
        image.SetSpacing([float(x) for x in self.spacing_mm])
        image.SetOrigin([float(x) for x in self.first_mm])
        sitk.WriteImage(image, str(path))
        return path


def make_labelled(parameters: PatientParameters, offset_mm: float = 0.0) -> Labelled:
    """The label map of a virtual patient from the vertex to below T12; `offset_mm` shifts the grid."""
    body = pose_body(parameters)
    chest = make_thorax(body, parameters)
    exact = landmark_points(body, chest)
    bones = np.concatenate([body.meshes[mesh].vertices_mm for mesh in MESHES.values()])
    front = min(mesh.vertices_mm[:, 1].min() for mesh in body.meshes.values())
    low = np.array([bones[:, 0].min(), front, exact[14][2] - 90.0]) - 10.0 + offset_mm
    high = bones.max(0) + 10.0
    count = np.ceil((high - low) / STEP_MM).astype(int)
    lattice = Lattice(low, STEP_MM, (int(count[0]), int(count[1]), int(count[2])))
    labels = np.zeros(lattice.shape, np.int16)
    variation = OrganVariation(parameters.seed)
    fields = chest_fields(body, chest, lattice, mediastinum_surface(chest, lattice, variation))
    x, _, z = lattice.axes()
    left = np.broadcast_to(x > chest.diaphragm.middle_mm[0], lattice.shape)
    inside = fields.cavity < -4.0
    below = fields.below_diaphragm < -4.0
    labels[inside & below & ~left] = CLASSES["liver"]
    labels[inside & below & left] = CLASSES["stomach"]
    upper = np.broadcast_to(z > chest.carina_mm[2], lattice.shape)
    for side, there in (("left", left), ("right", ~left)):
        lung = (fields.lungs < 0) & there
        labels[lung & upper] = CLASSES[f"lung_upper_lobe_{side}"]
        labels[lung & ~upper] = CLASSES[f"lung_lower_lobe_{side}"]
    chambers = Field(lattice)
    for shape, blend in heart_shapes(chest, variation):
        chambers.add(shape, blend)
    labels[(chambers.values < 0) & (fields.below_diaphragm > 0)] = CLASSES["heart"]
    airways = Field(lattice)
    lumen = [
        *trachea_shapes(body, chest, parameters, variation),
        *bronchi_shapes(chest, parameters, variation),
        *chest.curved_tube(_UPPER_BRONCHUS),
    ]
    labels[airways.add(lumen, 3.0, margin_mm=8.0).values < 0] = CLASSES["trachea"]
    for name, mesh in MESHES.items():
        if not name.startswith("vertebrae"):
            labels[fill(body.meshes[mesh].vertices_mm, body.meshes[mesh].faces, lattice)] = CLASSES[name]
    _label_vertebrae(labels, body, lattice)
    exact[1] = _vault_centre(body.meshes[SKULL].vertices_mm)
    return Labelled(labels, low, np.full(3, STEP_MM), exact)


def make_spine(parameters: PatientParameters, step_mm: float = STEP_MM) -> Labelled:
    """The label map of the vertebrae T1 to T12 that `MESHES` names, with voxels of `step_mm`."""
    body = pose_body(parameters)
    centres = {number: modelled_vertebrae(body)[thoracic(number)].centre_mm for number in (1, 12)}
    low = np.minimum(centres[1], centres[12]) - _VERTEBRA_REACH_MM
    high = np.maximum(centres[1], centres[12]) + _VERTEBRA_REACH_MM
    count = np.ceil((high - low) / step_mm).astype(int)
    lattice = Lattice(low, step_mm, (int(count[0]), int(count[1]), int(count[2])))
    labels = np.zeros(lattice.shape, np.int16)
    _label_vertebrae(labels, body, lattice)
    return Labelled(labels, low, np.full(3, step_mm), {10: centres[1], 14: centres[12]})


def _label_vertebrae(labels: NDArray[np.int16], body: Body, lattice: Lattice) -> None:
    vertebrae = modelled_vertebrae(body)
    for name, mesh in MESHES.items():
        if name.startswith("vertebrae"):
            centre = vertebrae[mesh].centre_mm
            box = lattice.box(centre - _VERTEBRA_REACH_MM, centre + _VERTEBRA_REACH_MM)
            labels[box][vertebra_distance(vertebrae[mesh], lattice.within(box)) < 0] = CLASSES[name]


def _vault_centre(skull_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of the vault as docs/reference/patients.md defines it, from the vertices of the skull."""
    vertex = skull_mm[:, 2].max()
    vault = skull_mm[skull_mm[:, 2] > vertex - 90.0]
    low, high = vault.min(0), vault.max(0)
    return np.array([*((low + high) / 2)[:2], vertex - (high[0] - low[0]) / 2])
