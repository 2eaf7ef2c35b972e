"""The picture on the screen: the X-ray through window and level, with marks, a status and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carm_env.actions import Move
from carm_env.evaluation.driving import DriveView
from carm_env.play.keys import LEGEND, Command

IMAGE_SIZE, PANEL_WIDTH, LINE_HEIGHT = 720, 260, 20
ZOOMS = (1, 2, 4)
_TEXT, _FAINT, _MARK, _ALERT = (235, 235, 235), (150, 150, 150), (255, 196, 0), (255, 120, 90)
_QUALITY = {
    "misses_patient": "The view misses the patient.",
    "saturated": "The view is saturated.",
    "empty": "The view is empty.",
}


@dataclass(frozen=True)
class Display:
    """How the X-ray is shown; none of it takes radiation.

    Attributes:
        window: grey levels between black and white, 1 to 512.
        level: grey level that is shown in the middle, -128 to 384.
        inverted: whether bone is dark.
        cross: whether the cross-hair is shown.
        markers: whether the side markers R and L are shown.
        legend: whether the keys are listed.
        zoom: magnification about the centre.
    """

    window: int = 256
    level: int = 128
    inverted: bool = False
    cross: bool = True
    markers: bool = True
    legend: bool = True
    zoom: int = 1

    def after(self, command: Command) -> Display:
        """Returns the display after a command; the same if the command is about something else."""
        if command.kind == "window":
            return replace(self, window=min(max(self.window + command.change, 1), 512))
        if command.kind == "level":
            return replace(self, level=min(max(self.level + command.change, -128), 384))
        if command.kind == "zoom":
            return replace(self, zoom=ZOOMS[(ZOOMS.index(self.zoom) + 1) % len(ZOOMS)])
        if command.kind == "reset":
            return Display()
        switches = {"polarity": "inverted", "cross": "cross", "markers": "markers", "legend": "legend"}
        if command.kind in switches:
            name = switches[command.kind]
            changed: dict[str, Any] = {name: not getattr(self, name)}
            return replace(self, **changed)
        return self


def windowed(image: NDArray[np.uint8], display: Display) -> NDArray[np.uint8]:
    """Returns an image ``(H, W)`` uint8 through window, level and polarity; unchanged by the default display."""
    black = display.level - display.window / 2
    grey = np.clip((image.astype(np.float32) - black) * (256 / display.window), 0, 255).astype(np.uint8)
    return 255 - grey if display.inverted else grey


def draw_frame(view: DriveView, display: Display, pending: Move | None = None) -> NDArray[np.uint8]:
    """Draws what the window shows.

    Args:
        view: what the person sees.
        display: how the X-ray is shown.
        pending: the move that is being combined; None if none is.

    Returns:
        ``(720, 980, 3)`` uint8.
    """
    canvas = Image.new("RGB", (IMAGE_SIZE + PANEL_WIDTH, IMAGE_SIZE))
    canvas.paste(_shown(view.image, display), (0, 0))
    draw = ImageDraw.Draw(canvas)
    if display.cross:
        _draw_cross(draw)
    if display.markers:
        _draw_mark(draw, (10, 8), "R", 22)
        _draw_mark(draw, (IMAGE_SIZE - 26, 8), "L", 22)
    _draw_mark(draw, (10, IMAGE_SIZE - 24), "research only", 15)
    y = _draw_lines(draw, _status(view, display), 12, _TEXT)
    alerts = [text for text in (_QUALITY.get(view.view_quality, ""), view.message) if text]
    if view.move_clipped:
        alerts.insert(0, "The C-arm is at the end of its reach.")
    if pending is not None:
        alerts.insert(0, f"Both axes: {pending}. Space takes the X-ray.")
    y = _draw_lines(draw, [line for text in alerts for line in _wrapped(text)], y + 8, _ALERT)
    if display.legend:
        _draw_lines(draw, LEGEND, max(y + 8, IMAGE_SIZE - LINE_HEIGHT * len(LEGEND) - 10), _FAINT)
    return np.asarray(canvas)


def _shown(image: NDArray[np.uint8], display: Display) -> Image.Image:
    height, width = image.shape
    margins = [round(side * (1 - 1 / display.zoom) / 2) for side in (height, width)]
    part = image[margins[0] : height - margins[0], margins[1] : width - margins[1]]
    grey = Image.fromarray(windowed(part, display))
    return grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB")


def _draw_mark(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int) -> None:
    """Draws a text on the X-ray; its dark edge keeps it legible on bone."""
    draw.text(at, text, fill=_MARK, font=ImageFont.load_default(size=size), stroke_width=2, stroke_fill=(0, 0, 0))


def _draw_cross(draw: ImageDraw.ImageDraw) -> None:
    middle = IMAGE_SIZE / 2
    for fill, width in (((0, 0, 0), 4), (_MARK, 2)):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = [(middle + reach * dx, middle + reach * dy) for reach in (12, 36)]
            draw.line(ends, fill=fill, width=width)


def _status(view: DriveView, display: Display) -> list[str]:
    return [
        *_wrapped(f"Find: {view.target}"),
        *_wrapped(view.title),
        "",
        f"X-rays: {view.exposures}",
        f"dose: {view.dose_mgy:.2f} mGy",
        f"DAP: {view.dap_mgy_cm2:.1f} mGy cm2",
        f"time: {view.seconds:.0f} s",
        f"decisions left: {view.steps_left}",
        f"aligned within {view.tolerance_mm:g} mm",
        f"steps: {'/'.join(f'{length:g}' for length in view.extents_mm)} mm",
        f"window {display.window}, level {display.level}",
        "last-image hold",
    ]


def _wrapped(text: str, characters: int = 32) -> list[str]:
    """Returns a text in lines.

    >>> _wrapped("the end of the line", 10)
    ['the end of', 'the line']
    """
    lines: list[str] = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) <= characters or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def _draw_lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], y: int, colour: tuple[int, int, int]) -> int:
    """Draws lines in the panel and returns the height below them."""
    font = ImageFont.load_default(size=15)
    for line in lines:
        draw.text((IMAGE_SIZE + 12, y), line, fill=colour, font=font)
        y += LINE_HEIGHT
    return y
