"""Images of episodes: trajectories on the anatomy (PNG) and an episode as an animation (GIF)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carm_env.actions import Move
from carm_env.envs.display import CAPTION_HEIGHT, VIEW_SIZE, draw_view
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.scene import load_scene
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import landmark
from carm_env.language.reasons import with_article
from carm_env.sheets.overview import Overview, take_overview
from carm_env.system.files import atomic_write

SUCCESS_COLOUR = (80, 220, 120)
FAILURE_COLOUR = (255, 110, 90)
TARGET_COLOUR = (255, 196, 0)
VIEW_COLOUR = (90, 190, 255)
TEXT_COLOUR = (235, 235, 235)
PANELS_PER_ROW = 4
FRAME_MS = 900
LAST_FRAME_MS = 2500


def save_trajectories(path: Path, results: Sequence[EpisodeResult]) -> None:
    """Draws the trajectories of episodes on an overview of the patient, with one panel per policy and patient.

    A ring marks each target and a dot each start. The trajectory of a success is green, of a failure red.

    Raises:
        ValueError: `results` is empty.
    """
    if not results:
        raise ValueError("results is empty, expected at least one episode to draw.")
    panels = []
    for policy in dict.fromkeys(result.policy for result in results):
        for patient in sorted({result.patient for result in results if result.policy == policy}):
            shown = [result for result in results if (result.policy, result.patient) == (policy, patient)]
            panels.append(_panel(policy, patient, shown))
    with atomic_write(path) as temporary:
        tile_panels(panels, PANELS_PER_ROW).save(temporary)


def tile_panels(panels: Sequence[Image.Image], per_row: int, top: int = 0) -> Image.Image:
    """Places panels in rows on a black sheet.

    Args:
        panels: the panels.
        per_row: maximum number of panels in a row.
        top: free pixels above the first row.
    """
    columns = min(per_row, len(panels))
    width, height = max(panel.width for panel in panels), max(panel.height for panel in panels)
    sheet = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height + top))
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number % columns * width, top + number // columns * height))
    return sheet


def _panel(policy: str, patient: str, results: Sequence[EpisodeResult]) -> Image.Image:
    scene = load_scene(patient)
    overview = take_overview(scene, pixel_mm=2.0)
    image = Image.fromarray(overview.image).convert("RGB")
    draw = ImageDraw.Draw(image)
    for result in results:
        colour = SUCCESS_COLOUR if result.success else FAILURE_COLOUR
        path_mm = np.array(result.trajectory_lps_mm)
        # The isocentre may lie far in front of the body, where the perspective of the overview would move it.
        path_mm[:, 1] = scene.patient.mid_depth_mm
        _draw_path(draw, overview.pixels(path_mm), colour)
        target = scene.patient.landmarks_lps_mm[result.target]
        _draw_ring(draw, overview.pixels(target), 6, TARGET_COLOUR)
    successes = sum(result.success for result in results)
    canvas = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT))
    canvas.paste(image, (0, CAPTION_HEIGHT))
    caption = f"{policy}   {patient}   {successes} of {len(results)}"
    ImageDraw.Draw(canvas).text((6, 6), caption, fill=TEXT_COLOUR, font=ImageFont.load_default(size=14))
    return canvas


def _draw_path(draw: ImageDraw.ImageDraw, path: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    points = [tuple(point) for point in path.tolist()]
    draw.line(points, fill=colour, width=2)
    x, y = points[0]
    draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)


def _draw_ring(
    draw: ImageDraw.ImageDraw, centre: NDArray[np.float64], radius: float, colour: tuple[int, int, int]
) -> None:
    x, y = centre
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=colour, width=2)


def save_episode_gif(path: Path, suite: Suite, result: EpisodeResult) -> None:
    """Replays the moves of an episode and saves a GIF with the X-ray on the left and the path on the right."""
    env = CArmNavEnv(**{"patients": result.patient, **suite.environment})
    spec = suite.episodes[result.episode]
    options = {"patient": spec.patient, "target": spec.target, "start": spec.start}
    _, info = env.reset(seed=result.seed, options=options)
    overview = take_overview(env.scene)
    target = landmark(result.target).name
    path_mm = [_aim_lps_mm(env)]
    caption = f"{result.policy}: target {target}"
    frames = [_frame(env, overview, path_mm, caption, info["distance_mm"])]
    for index in result.moves:
        move = Move.from_index(index)
        _, _, _, _, info = env.step(index)
        path_mm.append(_aim_lps_mm(env))
        caption = f"{result.policy}: {describe_move(move)}"
        if move.is_aligned:
            caption = f"{result.policy}: aligned, {'on' if info['is_success'] else 'but not on'} {with_article(target)}"
        frames.append(_frame(env, overview, path_mm, caption, info["distance_mm"]))
    save_gif(path, frames)


def save_gif(path: Path, frames: Sequence[Image.Image]) -> None:
    """Saves the frames of an episode as an animation that repeats, atomically; the last frame stays longer."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    palette = _palette()
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_write(path) as temporary:
        indexed[0].save(temporary, save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False)


def _palette() -> Image.Image:
    """Returns greys and the drawing colours; one palette for all frames avoids flicker."""
    colours = [SUCCESS_COLOUR, FAILURE_COLOUR, TARGET_COLOUR, VIEW_COLOUR]
    greys = np.linspace(0, 255, 256 - len(colours)).round().astype(int)
    entries = [value for grey in greys.tolist() for value in (grey, grey, grey)]
    entries += [value for colour in colours for value in colour]
    palette = Image.new("P", (1, 1))
    palette.putpalette(entries)
    return palette


def describe_move(move: Move) -> str:
    """Returns a move in words.

    >>> describe_move(Move(1, -3))
    'left small, down large'
    """
    x, extent_x, y, extent_y = move.words
    parts = [f"{a.lower()} {b.lower()}" for a, b in ((x, extent_x), (y, extent_y)) if b != "NONE"]
    return ", ".join(parts) or "aligned"


def _aim_lps_mm(env: CArmNavEnv) -> tuple[float, float, float]:
    """Returns the point where the central ray meets the plane at mid-depth of the body."""
    return env.pose.towards_source(-env.isocenter_depth_mm).isocenter_lps_mm


def _frame(
    env: CArmNavEnv,
    overview: Overview,
    path_mm: Sequence[tuple[float, float, float]],
    caption: str,
    distance_mm: float,
) -> Image.Image:
    image = env.scene.camera.image(env.pose, VIEW_SIZE)
    step = f"step {len(path_mm) - 1}   {distance_mm:.0f} mm from the target"
    left = Image.fromarray(draw_view(image, caption, step))
    right = Image.fromarray(overview.image).convert("RGB")
    draw = ImageDraw.Draw(right)
    _draw_ring(draw, overview.pixels(env.scene.patient.landmarks_lps_mm[env.episode.target]), 8, TARGET_COLOUR)
    if len(path_mm) > 1:
        _draw_path(draw, overview.pixels(np.array(path_mm)), SUCCESS_COLOUR)
    draw.polygon(_field_of_view(env, overview), outline=VIEW_COLOUR, width=2)
    right = right.resize((round(right.width * left.height / right.height), left.height), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (left.width + right.width, left.height))
    frame.paste(left, (0, 0))
    frame.paste(right, (left.width, 0))
    return frame


def _field_of_view(env: CArmNavEnv, overview: Overview) -> list[tuple[float, float]]:
    """Returns the corners of the field of view at mid-depth of the body, in pixels of the overview."""
    camera = env.scene.camera
    view = camera.projection(env.pose, VIEW_SIZE)
    edge = VIEW_SIZE - 0.5
    corners = view.pixel_lps_mm([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]])
    body_mm = camera.geometry.source_isocenter_mm + env.isocenter_depth_mm
    in_body = view.source_lps_mm + body_mm / camera.geometry.source_detector_mm * (corners - view.source_lps_mm)
    return [tuple(point) for point in overview.pixels(in_body).tolist()]
