"""A sheet of one patient: overviews from the front and from the side, and X-rays, with landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carm_env.envs.display import CAPTION_COLOUR, MARK_COLOUR, NOTICE
from carm_env.envs.scene import Scene
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, ProjectionGeometry
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.patient import Patient
from carm_env.sheets.overview import MARGIN_MM, OverviewSide, take_overview

OVERVIEW_HEIGHT, OVERVIEW_WIDTH = 720, 560
XRAY_SIZE = 350
_GAP = 10
_LINE = 20
_N_XRAYS = 4
_N_COLUMNS = 3
_ABSENT_COLOUR = (120, 120, 120)
_PREFERRED = (1, 11, 4, 14, 10, 2, 3, 12, 6, 8)
"""Landmarks for the X-rays, in order of preference: skull, carina, a scapula, T12, then others."""
_HEIGHTS_WITHOUT_LANDMARKS = (0.8, 0.6, 0.4, 0.2)


def draw_sheet(scene: Scene) -> Image.Image:
    """Draws the sheet of a scene's patient.

    Landmarks are crosses with their ids; a list below gives names and positions. A patient without landmarks gets
    X-rays at four heights.
    """
    patient = scene.patient
    panels = [_overview(scene, "frontal"), _overview(scene, "lateral")]
    xrays = [_xray(scene, pose, title) for pose, title in _poses(patient)]
    left = sum(panel.width + _GAP for panel in panels) + _GAP
    width = left + 2 * (XRAY_SIZE + _GAP)
    top = 2 * _LINE + _GAP
    rows = -(-len(LANDMARKS) // _N_COLUMNS)
    sheet = Image.new("RGB", (width, top + OVERVIEW_HEIGHT + _GAP + (rows + 1) * _LINE))
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    voxels = " x ".join(map(str, patient.volume.hu.shape))
    spacing = " x ".join(f"{value:g}" for value in np.round(patient.volume.spacing_mm, 3))
    draw.text((_GAP, 6), patient.id, fill=MARK_COLOUR, font=font)
    draw.text((_GAP, 8 + _LINE), f"{voxels} voxels of {spacing} mm", fill=CAPTION_COLOUR, font=small)
    draw.text((width - _GAP, 8), NOTICE, fill=CAPTION_COLOUR, font=small, anchor="ra")
    x = _GAP
    for panel in panels:
        sheet.paste(panel, (x, top))
        x += panel.width + _GAP
    for number, xray in enumerate(xrays):
        sheet.paste(xray, (x + number % 2 * (XRAY_SIZE + _GAP), top + number // 2 * (XRAY_SIZE + 2 * _GAP)))
    column = (width - 2 * _GAP) // _N_COLUMNS
    for number, item in enumerate(LANDMARKS):
        point = patient.landmarks_lps_mm.get(item.id)
        position = "absent" if point is None else "{:.0f}, {:.0f}, {:.0f} mm".format(*(np.rint(point) + 0.0))
        corner = (_GAP + number // rows * column, top + OVERVIEW_HEIGHT + _GAP + number % rows * _LINE)
        colour = _ABSENT_COLOUR if point is None else CAPTION_COLOUR
        draw.text(corner, f"{item.id:2} {item.name}: {position}", fill=colour, font=small)
    return sheet


def _overview(scene: Scene, side: OverviewSide) -> Image.Image:
    extent = np.ptp(scene.patient.volume.corners_lps_mm, axis=0) + 2 * MARGIN_MM
    across = extent[0 if side == "frontal" else 1]
    pixel_mm = max(1.0, extent[2] / OVERVIEW_HEIGHT, across / OVERVIEW_WIDTH)
    overview = take_overview(scene, pixel_mm, side)
    rows, columns = overview.image.shape
    zoom = min(OVERVIEW_HEIGHT / rows, OVERVIEW_WIDTH / columns)
    panel = _marked(overview.image, round(zoom * rows), _pixels(scene.patient, overview.geometry, zoom))
    ends = ("R", "L") if side == "frontal" else ("A", "P")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=15)
    draw.text((5, 4), ends[0], fill=MARK_COLOUR, font=font)
    draw.text((panel.width - 5, 4), ends[1], fill=MARK_COLOUR, font=font, anchor="ra")
    return panel


def _pixels(patient: Patient, view: ProjectionGeometry, zoom: float = 1.0) -> dict[int, tuple[float, ...]]:
    return {key: tuple((view.project(point) + 0.5) * zoom) for key, point in patient.landmarks_lps_mm.items()}


def _xray(scene: Scene, pose: CArmPose, title: str) -> Image.Image:
    geometry = ProjectionGeometry.from_pose(pose, scene.camera.geometry, XRAY_SIZE)
    panel = _marked(scene.camera.image(pose, XRAY_SIZE), XRAY_SIZE, _pixels(scene.patient, geometry))
    ImageDraw.Draw(panel).text((5, 4), title, fill=CAPTION_COLOUR, font=ImageFont.load_default(size=13))
    return panel


def _marked(image: NDArray[np.uint8], height: int, marks: dict[int, tuple[float, ...]]) -> Image.Image:
    """Scales an image to `height` and draws a cross and the id at each mark inside it."""
    width = round(image.shape[1] * height / image.shape[0])
    panel = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=13)
    for key, (u, v) in marks.items():
        if not (0 <= u < width and 0 <= v < height):
            continue
        draw.line([(u - 6, v), (u + 6, v)], fill=MARK_COLOUR, width=2)
        draw.line([(u, v - 6), (u, v + 6)], fill=MARK_COLOUR, width=2)
        # Left half: text on the left, so that the numbers of a pair of landmarks do not overlap.
        anchor, dx = ("ra", -8) if u < width / 2 else ("la", 8)
        draw.text((u + dx, v - 15), str(key), fill=MARK_COLOUR, font=font, anchor=anchor, stroke_width=2, stroke_fill=0)
    return panel


def _poses(patient: Patient) -> list[tuple[CArmPose, str]]:
    """Returns four poses with titles: over landmarks, then at heights of the volume if there are too few."""
    y = patient.mid_depth_mm
    chosen = [key for key in _PREFERRED if key in patient.landmarks_lps_mm][:_N_XRAYS]
    poses = []
    for key in chosen:
        x, _, z = patient.landmarks_lps_mm[key].tolist()
        poses.append((_pose(x, y, z), f"over {landmark(key).name}"))
    first, last = patient.volume.corners_lps_mm
    for share in _HEIGHTS_WITHOUT_LANDMARKS[: _N_XRAYS - len(poses)]:
        x, _, z = first + np.array([0.5, 0.5, share]) * (last - first)
        poses.append((_pose(float(x), y, float(z)), f"x {x:.0f}, z {z:.0f} mm"))
    return poses


def _pose(x: float, y: float, z: float) -> CArmPose:
    return CArmPose((x, y, z)).towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
