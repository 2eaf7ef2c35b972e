"""An X-ray image with the landmarks that a localiser finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carm_env.envs.display import CAPTION_COLOUR, MARK_COLOUR, NOTICE

LONGER_SIDE = 768
"""Pixels of the longer side of the image in the drawing."""
WARNING_COLOUR = (255, 110, 90)
_OTHER_COLOUR = (110, 200, 220)
_LINE, _MARGIN, _ARM, _DOT = 22, 8, 9, 4
_MIN_WIDTH = 560
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Mark:
    """A landmark in an image.

    Attributes:
        label: text beside it.
        pixel: ``(u, v)`` its position.
        region: semi-axes of its region along u and v, pixels; None for no ellipse.
        is_main: it is one of the landmarks closest to the centre.
    """

    label: str
    pixel: tuple[float, float]
    region: tuple[float, float] | None = None
    is_main: bool = False


def draw_annotated(
    image: NDArray[np.uint8], marks: Sequence[Mark], captions: Sequence[str], is_warning: bool = False
) -> Image.Image:
    """Draws an image with marks and a circle at its centre, below a title and above further captions.

    Args:
        image: ``(H, W)`` uint8.
        marks: the landmarks; ellipses are cut at the border.
        captions: the title, then one text for each line below the image.
        is_warning: the first line below the image is a warning.
    """
    height, width = image.shape
    zoom = LONGER_SIDE / max(height, width)
    shown = Image.fromarray(image).resize((round(width * zoom), round(height * zoom)), Image.Resampling.LANCZOS)
    panel = shown.convert("RGB")
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(size=15)
    if marks:
        # The point that "closest" refers to.
        x, y = panel.width / 2, panel.height / 2
        draw.ellipse([x - _DOT, y - _DOT, x + _DOT, y + _DOT], outline=CAPTION_COLOUR, width=1)
    for mark in sorted(marks, key=lambda mark: mark.is_main):
        _draw_mark(draw, mark, zoom, panel.size, font)
    canvas = Image.new("RGB", (max(panel.width, _MIN_WIDTH), panel.height + (len(captions) + 1) * _LINE))
    canvas.paste(panel, ((canvas.width - panel.width) // 2, _LINE))
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, 3), _fitting(captions[0], canvas.width - 150, font), fill=CAPTION_COLOUR, font=font)
    draw.text((canvas.width - _MARGIN, 3), NOTICE, fill=(140, 140, 140), font=font, anchor="ra")
    for number, text in enumerate(captions[1:]):
        colour = WARNING_COLOUR if is_warning and number == 0 else CAPTION_COLOUR
        top = _LINE + panel.height + number * _LINE + 3
        draw.text((_MARGIN, top), _fitting(text, canvas.width - 2 * _MARGIN, font), fill=colour, font=font)
    return canvas


def _draw_mark(draw: ImageDraw.ImageDraw, mark: Mark, zoom: float, size: tuple[int, int], font: _Font) -> None:
    colour = MARK_COLOUR if mark.is_main else _OTHER_COLOUR
    u, v = ((value + 0.5) * zoom for value in mark.pixel)
    for arm in ((_ARM, 0), (0, _ARM)):
        draw.line([(u - arm[0], v - arm[1]), (u + arm[0], v + arm[1])], fill=colour, width=2)
    if mark.region is not None:
        a, b = (value * zoom for value in mark.region)
        draw.ellipse([u - a, v - b, u + a, v + b], outline=colour, width=1)
    length = draw.textlength(mark.label, font=font)
    left = u + _ARM + 3 if u + _ARM + 3 + length < size[0] else u - _ARM - 3 - length
    top = min(max(v - 20, 2), size[1] - 20)
    draw.text((max(left, 2), top), mark.label, fill=colour, font=font, stroke_width=2, stroke_fill=(0, 0, 0))


def _fitting(text: str, width: float, font: _Font) -> str:
    while len(text) > 2 and font.getlength(text) > width:
        text = f"{text[:-2]}…"
    return text
