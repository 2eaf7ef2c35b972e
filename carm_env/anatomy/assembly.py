"""Builds a virtual patient: creates and paints its parts in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.coverage import imaged_part
from carm_env.anatomy.findings.material import Site
from carm_env.anatomy.findings.paint import fractures, paint_foreign_bodies, paint_pleural_findings, resolve
from carm_env.anatomy.organs.airways import paint_airways
from carm_env.anatomy.organs.bones import paint_bones
from carm_env.anatomy.organs.degeneration import paint_degeneration
from carm_env.anatomy.organs.envelope import Envelope
from carm_env.anatomy.organs.face import paint_face
from carm_env.anatomy.organs.head import head_surface
from carm_env.anatomy.organs.heart import mediastinum_surface, paint_heart
from carm_env.anatomy.organs.jaw import paint_jaw
from carm_env.anatomy.organs.lung_vessels import paint_lung_vessels
from carm_env.anatomy.organs.organ_variation import OrganVariation
from carm_env.anatomy.organs.relief import build_relief, paint_relief
from carm_env.anatomy.organs.skull import paint_skull
from carm_env.anatomy.organs.thorax import ChestFields, Thorax, chest_fields, landmark_points, make_thorax
from carm_env.anatomy.organs.viscera import paint_viscera
from carm_env.anatomy.organs.visceral_cavity import visceral_cavity
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice, lattice_pair
from carm_env.anatomy.painting.meshes import joint_bounds
from carm_env.anatomy.painting.shapes import Field
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import Body, bottom_mm, pose_body
from carm_env.anatomy.table_pose import add_table, apply_table_pose, make_table_pose
from carm_env.anatomy.warp import body_warp, warp_to_table
from carm_env.system.memory import check_memory
from carm_env.volume import Volume

AIR_MARGIN_MM = 12.0
_FIELD_MARGIN_MM = 44.0
_MUSCLE_AND_FAT_MM = 30.0
"""Allowance for muscle, skin and fat that is thicker than over the chest."""
_BODY_HU = -900
_BYTES_PER_VOXEL = 30
"""Peak memory of a build per voxel, measured at 2 and 1 mm."""

_STREAMS = ("texture", "bones", "skull", "face", "bowel", "lungs", "noise", "degeneration")
"""Independent streams of random numbers, so that a change of one structure does not affect the others."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A built patient and its structures. All points are LPS mm; volume and landmarks are warped and on the table.

    Attributes:
        volume: the CT volume.
        landmarks_lps_mm: landmark positions ``(3,)`` by id.
        body: the posed skeleton.
        thorax: carina, spine and diaphragm.
        envelope: surfaces of wall, muscle, arms and skin on the coarse lattice.
        chest: surfaces of cavity, diaphragm, mediastinum and lungs on the coarse lattice.
        airways: signed distance from the lumen of the airways on a box of the fine lattice.
        brain: signed distance from the brain on a box of the fine lattice.
        coarse: the coarse lattice.
    """

    volume: Volume
    landmarks_lps_mm: Mapping[int, NDArray[np.float64]]
    body: Body
    thorax: Thorax
    envelope: Envelope
    chest: ChestFields
    airways: Field
    brain: Field
    coarse: Lattice


def build_anatomy(parameters: PatientParameters) -> Anatomy:
    """Builds a patient and returns it with its structures; takes about 30 s of CPU time at 2 mm."""
    seeds = np.random.SeedSequence(parameters.seed).spawn(len(_STREAMS))
    streams = {name: np.random.default_rng(seed) for name, seed in zip(_STREAMS, seeds, strict=True)}

    body = pose_body(parameters)
    coarse, fine = lattices(body, parameters)
    check_memory(
        f"building a patient at {parameters.voxel_mm:g} mm",
        int(np.prod(fine.shape, dtype=np.int64)) * _BYTES_PER_VOXEL,
        "Free some memory, or build it with larger voxels (voxel_mm).",
    )

    variation = OrganVariation(parameters.seed)
    envelope = build_relief(body, parameters, coarse, head_surface(body, parameters, coarse), variation)
    canvas = Canvas(coarse, fine, streams["texture"])
    paint_relief(canvas, envelope)

    thorax = make_thorax(body, parameters)
    chest = chest_fields(body, thorax, coarse, mediastinum_surface(thorax, coarse, variation))
    cavity = visceral_cavity(body, envelope, chest.below_diaphragm, canvas)
    paint_viscera(canvas, body, thorax, cavity, parameters, variation, streams["bowel"])
    paint_heart(canvas, thorax, chest, parameters, variation)
    paint_lung_vessels(canvas, thorax, chest.lungs, streams["lungs"])
    site = Site(canvas, body, thorax, envelope, chest)
    findings = resolve(parameters.findings)
    paint_pleural_findings(site, findings)
    airways = paint_airways(canvas, body, thorax, parameters, variation)

    brain = paint_skull(canvas, body, parameters.bone_density, streams["skull"])
    paint_face(canvas, body, parameters.bone_density, streams["face"])
    paint_jaw(canvas, body, parameters.bone_density, np.random.default_rng([parameters.seed, *b"jaw"]))
    paint_bones(canvas, body, parameters, streams["bones"], fractures(site, findings))
    paint_degeneration(canvas, body, thorax, parameters, variation, streams["degeneration"])
    canvas.merge_bone()
    paint_foreign_bodies(site, findings)

    table_pose = make_table_pose(body, parameters)
    warp = body_warp(body, parameters.warp)
    # The renderer interpolates, and so does a resampling.
    canvas.sharpen(1 if warp is None and not table_pose.rotates else 2)
    finished = canvas.finish(envelope.skin, streams["noise"])
    if warp is None:
        hu, lattice = apply_table_pose(*_cropped(finished, fine), table_pose)
        points = landmark_points(body, thorax)
    else:
        hu, lattice = _cropped(*warp_to_table(*_cropped(finished, fine), warp, table_pose))
        points = landmark_points(body, thorax, warp.apply)
    landmarks = {key: np.round(table_pose.apply(point), 3) for key, point in points.items()}
    hu, lattice, landmarks = imaged_part(hu, lattice, landmarks, parameters)
    if parameters.table:
        hu, lattice = add_table(hu, lattice)
    volume = Volume.from_origin(np.ascontiguousarray(hu), lattice.spacing_mm, lattice.origin_mm)
    return Anatomy(volume, landmarks, body, thorax, envelope, chest, airways, brain, coarse)


def lattices(body: Body, parameters: PatientParameters) -> tuple[Lattice, Lattice]:
    """Returns the coarse lattice and the fine lattice of the volume around the patient, with a margin of air."""
    fat, belly = parameters.fat_mm, parameters.belly_mm
    low, high = joint_bounds([mesh for name, mesh in body.meshes.items() if "femur" not in name])
    reach = _FIELD_MARGIN_MM + fat + np.array([0.0, 0.6 * belly, 0.0])
    wall = body.wall
    half_width = float(wall.radius_mm.max()) + _MUSCLE_AND_FAT_MM + 1.3 * fat
    front = float((wall.axis_y_mm - wall.radius_mm.max(axis=1)).min()) - _MUSCLE_AND_FAT_MM - 1.3 * fat
    back = float(body.frame.to_patient([0.0, 330.0, 1330.0])[1]) + 1.3 * fat
    low = np.minimum(low - reach, [-half_width, front, np.inf])
    high = np.maximum(high + reach, [half_width, back, -np.inf])
    low[2] = body.frame.height(bottom_mm(parameters))
    high[2] -= fat + 16.0
    return lattice_pair(low, high, parameters.voxel_mm)


def _cropped(hu: NDArray[np.int16], lattice: Lattice) -> tuple[NDArray[np.int16], Lattice]:
    body = hu > _BODY_HU
    margin = int(np.ceil(AIR_MARGIN_MM / lattice.spacing_mm))
    kept = []
    for axis in range(3):
        rows = np.flatnonzero(body.any(tuple(other for other in range(3) if other != axis)))
        first, last = max(rows[0] - margin, 0), min(rows[-1] + margin + 1, hu.shape[axis])
        kept.append(slice(int(first), int(last)))
    box = (kept[0], kept[1], kept[2])
    return np.ascontiguousarray(hu[box]), lattice.within(box)
