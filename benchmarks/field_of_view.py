"""Determines how deep the isocentre of the paper's published frames lies, by the size of bones in them.

    python benchmarks/field_of_view.py REFERENCE --json fov.json --sheet fov.png

``REFERENCE`` is the folder of what the paper's authors released (``frames/``, ``data/classification.csv``); nothing of
it is copied. Two widths were read by eye in the frames (``--readings``, `DEFAULT_READINGS`: frame and end points in
pixels): the breadth of the skull, and the width of the proximal humerus across its shaft. The same widths of virtual
patients are projected for any depth of the isocentre (`carm_env.geometry.check_isocenter_depth`). The best depth brings
the mean shares of the image's side over both groups of people closest together (least squares of their logarithms). A
reading with the key ``excluded`` is reported and not compared, for the reason that it states.

People differ, so a second measurement needs no anatomy: the authors' CTs have slices of 3 mm, whose edges are visible
as steps along bones. Their distance in the frames gives the field of view at the depth of each bone. The lengths in
``classification.csv`` are whole numbers of such slices.

``--sheet`` draws the frames beside views of `--shown`, before and after, with the measured widths. It contains
published frames: do not redistribute it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import minimize_scalar
from tyro.conf import Positional

from carm_env.anatomy.painting.blur import blur_mask
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.painting.voxelise import fill
from carm_env.anatomy.skeleton.body import pose_body
from carm_env.anatomy.skeleton.model import Skeleton
from carm_env.anatomy.table_pose import TablePose, make_table_pose
from carm_env.envs.scene import load_scene
from carm_env.evaluation.provenance import save_measurement
from carm_env.evaluation.report import markdown_table
from carm_env.geometry import (
    DEFAULT_GEOMETRY,
    DEFAULT_ISOCENTER_DEPTH_MM,
    MAX_ISOCENTER_DEPTH_MM,
    CArmPose,
    ProjectionGeometry,
)
from carm_env.landmarks import landmark
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.reference import PatientRef
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write
from carm_env.system.structured_files import read_json

DEFAULT_READINGS = Path(__file__).parent / "field_of_view.json"
SKULL, HUMERUS = "skull breadth", "proximal humeral width"
SLICE_MM = 3.0
"""Distance of the slices of the authors' CTs."""
SIDE = 768
"""Side of the views, and of the published frames, in pixels."""
_VOXEL_MM, _SMOOTHING_MM, _VISIBLE_MM = 1.0, 1.2, 10.0
"""Bones are filled with voxels, rounded as when they are painted, and seen where they are this thick along the beam."""
_HEAD_REACH_MM, _HEAD_HALF_HEIGHT_MM = 60.0, 15.0
"""The humeral head: within this distance of its centre, and within this distance across the shaft through it."""
_SHAFT_MM = (80.0, 140.0)
"""Distances of the upper shaft from the centre of the head."""

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bone:
    """A bone of a virtual patient whose width is measured.

    Attributes:
        structure: `SKULL` or `HUMERUS`.
        aim_lps_mm: ``(3,)`` landmark in the middle of the view.
        mid_depth_mm: LPS y of the middle of the body.
        outline_lps_mm: ``(n, 3)`` points of the measured part, which hold its visible outline.
        axis_lps_mm: ``(2, 3)`` the ends of its long axis; the width is measured across it.
    """

    structure: str
    aim_lps_mm: Points
    mid_depth_mm: float
    outline_lps_mm: Points
    axis_lps_mm: Points

    def projection(self, depth_mm: float) -> ProjectionGeometry:
        """Returns the frontal view over the landmark with the isocentre at a depth."""
        x, _, z = self.aim_lps_mm.tolist()
        pose = CArmPose((x, self.mid_depth_mm, z)).towards_source(depth_mm)
        return ProjectionGeometry.from_pose(pose, DEFAULT_GEOMETRY, SIDE)

    def ends(self, depth_mm: float) -> Points:
        """Returns the outermost points across the axis, ``(2, 2)`` pixels."""
        projection = self.projection(depth_mm)
        pixels = projection.project(self.outline_lps_mm)
        across = pixels @ _across(projection.project(self.axis_lps_mm))
        return pixels[[across.argmin(), across.argmax()]]

    def share(self, depth_mm: float) -> float:
        """Returns the width as a share of the image's side."""
        return width(self.ends(depth_mm), self.projection(depth_mm).project(self.axis_lps_mm)) / SIDE


def _across(axis: Points) -> Points:
    direction = (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])
    return np.array([-direction[1], direction[0]])


def width(ends: Points, axis: Points) -> float:
    """Returns the distance of two points ``(2, 2)`` across an axis through two others ``(2, 2)``.

    >>> width(np.array([[1.0, 0.0], [4.0, 7.0]]), np.array([[0.0, 0.0], [0.0, 2.0]]))
    3.0
    """
    return float(abs((ends[1] - ends[0]) @ _across(axis)))


def visible_points_mm(mesh: Mesh) -> Points:
    """Returns the corners ``(n, 3)`` LPS mm of the voxel columns where a bone is seen, at the middle of its depth."""
    low, high = (np.floor(corner / _VOXEL_MM) * _VOXEL_MM for corner in mesh.bounds_mm)
    low, high = low - 5 * _VOXEL_MM, high + 6 * _VOXEL_MM
    nx, ny, nz = np.rint((high - low) / _VOXEL_MM).astype(int).tolist()
    lattice = Lattice(low, _VOXEL_MM, (nx, ny, nz))
    solid = blur_mask(fill(mesh.vertices_mm, mesh.faces, lattice), _SMOOTHING_MM / _VOXEL_MM) > 0.5
    i, k = np.nonzero(solid.sum(axis=1) * _VOXEL_MM >= _VISIBLE_MM)
    columns = solid[i, :, k]
    y = (columns * lattice.axis(1)).sum(axis=1) / columns.sum(axis=1)
    middle = np.column_stack([lattice.axis(0)[i], y, lattice.axis(2)[k]]).astype(float)
    corners = np.array([[x, 0.0, z] for x in (-0.5, 0.5) for z in (-0.5, 0.5)]) * _VOXEL_MM
    return (middle[:, None] + corners).reshape(-1, 3)


def bones_of(ref: PatientRef, skeleton: Skeleton) -> list[Bone]:
    """Returns the skull and both humeri of a virtual patient.

    Raises:
        ValueError: the patient is not a virtual one.
    """
    if ref.virtual is None:
        raise ValueError(f"--patients has {ref}, expected virtual patients: the bones of others are not separated.")
    parameters = ref.virtual.parameters
    body = pose_body(parameters, skeleton)
    pose = make_table_pose(body, parameters)
    patient = ref.load()
    aims = patient.landmarks_lps_mm
    skull = visible_points_mm(_posed(body.meshes["hat_skull"], pose))
    centre = aims[landmark("Skull").id]
    upright = np.stack([centre, centre - [0.0, 0.0, 100.0]])
    bones = [Bone(SKULL, centre, patient.mid_depth_mm, skull, upright)]
    for side, name in (("r", "Right humeral head"), ("l", "Left humeral head")):
        humerus, centre = visible_points_mm(_posed(body.meshes[f"humerus_{side}"], pose)), aims[landmark(name).id]
        distance = np.linalg.norm(humerus - centre, axis=1)
        shaft = humerus[(distance > _SHAFT_MM[0]) & (distance < _SHAFT_MM[1])].mean(axis=0)
        # Along the shaft as it is seen from the front.
        direction = (shaft - centre)[[0, 2]] / np.linalg.norm((shaft - centre)[[0, 2]])
        along = np.abs((humerus - centre)[:, [0, 2]] @ direction)
        head = humerus[(distance < _HEAD_REACH_MM) & (along < _HEAD_HALF_HEIGHT_MM)]
        bones.append(Bone(HUMERUS, centre, patient.mid_depth_mm, head, np.stack([centre, shaft])))
    return bones


def _posed(mesh: Mesh, pose: TablePose) -> Mesh:
    return mesh.moved(pose.apply(mesh.vertices_mm))


def read_shares(readings: Mapping[str, Any], *, excluded: bool = False) -> dict[str, dict[str, float]]:
    """Returns the widths in the frames as shares of their side, by structure and person; frames of one are averaged.

    Args:
        readings: contents of the file of readings.
        excluded: return the readings that are not compared instead of the others.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for reading in readings["widths"]:
        if ("excluded" in reading) != excluded:
            continue
        ends = np.array([reading["from"], reading["to"]], float)
        share = width(ends, np.array(reading["axis"], float)) / readings["side"]
        found.setdefault(reading["structure"], {}).setdefault(reading["person"], []).append(share)
    return {
        structure: {person: float(np.mean(shares)) for person, shares in people.items()}
        for structure, people in found.items()
    }


def slice_fields_mm(readings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the field of view at the depth of each structure, and its distance from the source, by the slices."""
    rows = []
    for reading in readings["slices"]:
        first, last = reading["rows"]
        field = SLICE_MM * reading["count"] * readings["side"] / abs(last - first)
        distance = field * DEFAULT_GEOMETRY.source_detector_mm / DEFAULT_GEOMETRY.detector_mm
        where = {key: reading[key] for key in ("structure", "trunk", "frame")}
        rows.append({**where, "field_of_view_mm": field, "from_source_mm": distance})
    return rows


def mean_shares(bones: Sequence[Bone], depth_mm: float) -> dict[str, float]:
    """Returns the mean share of each structure's width over the bones."""
    return {
        name: float(np.mean([bone.share(depth_mm) for bone in bones if bone.structure == name]))
        for name in (SKULL, HUMERUS)
    }


def best_depth_mm(bones: Sequence[Bone], shares: Mapping[str, float]) -> float:
    """Returns the depth of the isocentre at which the mean shares of the bones are closest to `shares`, mm."""

    def error(depth_mm: float) -> float:
        ours = mean_shares(bones, depth_mm)
        return float(sum(np.log(ours[name] / share) ** 2 for name, share in shares.items()))

    limits = (-MAX_ISOCENTER_DEPTH_MM, MAX_ISOCENTER_DEPTH_MM)
    return float(minimize_scalar(error, bounds=limits, method="bounded", options={"xatol": 0.01}).x)


def released_depths(path: Path) -> dict[str, float]:
    """Summarises ``classification.csv``: the depths ``z_ct`` of its patients, and how CT lengths fit slices of 3 mm."""
    with path.open(newline="", encoding="utf-8") as file:
        patients = {row["case_number"]: row for row in csv.DictReader(file)}
    depth = np.array([float(row["z_ct"]) for row in patients.values()])
    half_width = np.array([float(row["z_modified"]) for row in patients.values()])
    length = np.array([2 * (float(row["x_modified"]) - float(row["x_ct"])) for row in patients.values()])
    slices = length / SLICE_MM
    return {
        "patients": len(patients),
        "z_ct_min_mm": float(depth.min()),
        "z_ct_mean_mm": float(depth.mean()),
        "z_ct_max_mm": float(depth.max()),
        "z_ct_per_half_width_min": float((depth / half_width).min()),
        "z_ct_per_half_width_max": float((depth / half_width).max()),
        "largest_fraction_of_a_slice": float(np.abs(slices - slices.round()).max()),
    }


def draw_sheet(folder: Path, readings: Mapping[str, Any], ref: PatientRef, depths_mm: Sequence[float]) -> Image.Image:
    """Draws one row per structure: a published frame, and the view of a patient at each depth, with the widths."""
    scene, bones = load_scene(ref), bones_of(ref, Skeleton())
    sheet = Image.new("RGB", ((1 + len(depths_mm)) * SIDE, 2 * SIDE))
    for row, name in enumerate((SKULL, HUMERUS)):
        reading = next(item for item in readings["widths"] if item["structure"] == name)
        with Image.open(folder / "frames" / reading["frame"]) as frame:
            tile = frame.convert("RGB").resize((SIDE, SIDE))
        ends = np.array([reading["from"], reading["to"]], float) * SIDE / readings["side"]
        axis = np.array(reading["axis"], float)
        share = width(ends, axis * SIDE / readings["side"]) / SIDE
        _draw_width(tile, ends, f"published, {reading['frame']}: {share:.1%}")
        sheet.paste(tile, (0, row * SIDE))
        bone = next(bone for bone in bones if bone.structure == name)
        for column, depth in enumerate(depths_mm, 1):
            x, _, z = bone.aim_lps_mm.tolist()
            pose = CArmPose((x, bone.mid_depth_mm, z)).towards_source(depth)
            tile = Image.fromarray(scene.camera.image(pose, SIDE, noise_seed=0)).convert("RGB")
            _draw_width(tile, bone.ends(depth), f"{ref}, isocenter_depth_mm={depth:g}: {bone.share(depth):.1%}")
            sheet.paste(tile, (column * SIDE, row * SIDE))
    return sheet


def _draw_width(tile: Image.Image, ends: Points, caption: str) -> None:
    draw = ImageDraw.Draw(tile)
    draw.line([tuple(point) for point in ends.tolist()], fill=(255, 200, 0), width=2)
    for u, v in ends.tolist():
        draw.line([(u, v - 12), (u, v + 12)], fill=(255, 200, 0), width=3)
    draw.text((8, 8), caption, fill=(255, 255, 0), font_size=20, stroke_width=2, stroke_fill=(0, 0, 0))


@dataclass(frozen=True)
class Arguments:
    """Arguments of the script.

    Attributes:
        reference: folder of the authors' released files, with frames/ and data/classification.csv.
        patients: virtual patients to compare with, or COHORT/SPLIT.
        readings: JSON file of what was read in the frames.
        shown: virtual patient on the sheet.
        sheet: PNG file for the published frames beside our views.
        json: file for the result.
    """

    reference: Positional[Path]
    patients: tuple[str, ...] = ("standard/test",)
    readings: Path = DEFAULT_READINGS
    shown: str = "virtual:0"
    sheet: Path | None = None
    json: Path | None = None


def check_reference(folder: Path, readings: Mapping[str, Any]) -> None:
    """Raises FileNotFoundError if a file of the reference folder is missing."""
    names = [f"frames/{item['frame']}" for item in (*readings["widths"], *readings["slices"])]
    missing = [name for name in dict.fromkeys([*names, "data/classification.csv"]) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing[:3])}, expected the folder of the files that the paper's authors "
            "released, with frames/ and data/."
        )


def run(arguments: Arguments) -> None:
    """Measures, prints and saves."""
    readings = read_json(arguments.readings)
    check_reference(arguments.reference, readings)
    refs = PatientRef.expand(arguments.patients)
    prepare_patients(refs, default_workers())
    skeleton = Skeleton()
    bones = [bone for ref in refs for bone in bones_of(ref, skeleton)]
    people = read_shares(readings)
    frames = {name: float(np.mean(list(shares.values()))) for name, shares in people.items()}
    best = best_depth_mm(bones, frames)
    depths = {"middle": 0.0, "best": best, "default": DEFAULT_ISOCENTER_DEPTH_MM}
    ours = {name: mean_shares(bones, depth) for name, depth in depths.items()}
    difference = {
        name: {structure: share / frames[structure] - 1 for structure, share in shares.items()}
        for name, shares in ours.items()
    }
    fields = {name: DEFAULT_GEOMETRY.field_of_view_at_mm(depth) for name, depth in depths.items()}
    columns = [f"{name}, {depth:.0f} mm" for name, depth in depths.items()]
    rows = [
        (name, f"{frames[name]:.1%}", *(f"{ours[key][name]:.1%} ({difference[key][name]:+.1%})" for key in depths))
        for name in frames
    ]
    print(f"Best depth of the isocentre: {best:.0f} mm in front of the middle of the body.\n")
    print(markdown_table(("share of the image's side", "frames", *columns), rows))
    print(markdown_table(("field of view at mid-depth", *depths), [("mm", *(f"{fields[key]:.0f}" for key in depths))]))
    slices = slice_fields_mm(readings)
    print(
        markdown_table(
            ("by slices of 3 mm", "frame", "field of view, mm", "from the source, mm"),
            [
                (item["structure"], item["frame"], f"{item['field_of_view_mm']:.0f}", f"{item['from_source_mm']:.0f}")
                for item in slices
            ],
        )
    )
    trunk = float(np.mean([item["field_of_view_mm"] for item in slices if item["trunk"]]))
    heads = [bone for bone in bones if bone.structure == HUMERUS]
    behind = float(np.mean([bone.aim_lps_mm[1] - bone.mid_depth_mm for bone in heads]))
    shoulder = {name: DEFAULT_GEOMETRY.field_of_view_at_mm(depth + behind) for name, depth in depths.items()}
    print(
        f"Field of view at ribs and shoulders in the frames: {trunk:.0f} mm. Ours at the humeral heads: "
        + ", ".join(f"{value:.0f} mm ({name})" for name, value in shoulder.items())
        + "."
    )
    for structure, shares in read_shares(readings, excluded=True).items():
        print(f"Not compared: {structure} " + ", ".join(f"{share:.1%} ({who})" for who, share in shares.items()) + ".")
    released = released_depths(arguments.reference / "data" / "classification.csv")
    print(
        f"Released depths z_ct of {released['patients']} patients: {released['z_ct_min_mm']:.0f} to "
        f"{released['z_ct_max_mm']:.0f} mm, mean {released['z_ct_mean_mm']:.0f} mm, always "
        f"{released['z_ct_per_half_width_max']:.3f} of half the CT's width; lengths of the CTs differ from whole "
        f"slices by at most {released['largest_fraction_of_a_slice']:.0e} of a slice."
    )
    result = {
        "best_depth_mm": best, "depths_mm": depths, "field_of_view_mm": fields, "frames": frames, "people": people,
        "excluded": read_shares(readings, excluded=True), "ours": ours, "difference": difference, "slices": slices,
        "field_of_view_at_trunk_mm": trunk, "field_of_view_at_humeral_heads_mm": shoulder, "released": released,
        "patients": [str(ref) for ref in refs],
    }  # fmt: skip
    save_measurement(arguments.json, result, 0)
    if arguments.sheet is not None:
        shown = PatientRef.parse(arguments.shown)
        sheet = draw_sheet(arguments.reference, readings, shown, (depths["middle"], depths["default"]))
        with atomic_write(arguments.sheet) as temporary:
            sheet.save(temporary)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
