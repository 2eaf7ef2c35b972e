"""Boxes as text, as LoFi reads and writes them: ``[102,60,340,512]``, coordinates from 0 to 1000."""

from __future__ import annotations

import re
from collections.abc import Sequence

from carm_env.language.answers import BOX_SCALE, AnswerError, Fault, quoted
from carm_env.xray_datasets.grounded import Box

MAX_BOXES = 16
_BOX = r"\[(\d{1,4}),(\d{1,4}),(\d{1,4}),(\d{1,4})\]"
_ANSWER = re.compile(rf"(?:{_BOX})+", re.ASCII)
_ONE = re.compile(_BOX, re.ASCII)


def render_boxes(boxes: Sequence[Box], step: int = 1) -> str:
    """Returns boxes as text; their coordinates are rounded, and no box becomes empty.

    Args:
        boxes: the boxes.
        step: coordinates are multiples of this divisor of 1000.

    Raises:
        ValueError: there is no box, or there are more than `MAX_BOXES`.

    >>> render_boxes([(0.1, 0.25, 0.5, 1.0)])
    '[100,250,500,1000]'
    >>> render_boxes([(0.104, 0.25, 0.5, 1.0)], step=20)
    '[100,240,500,1000]'
    """
    if not 1 <= len(boxes) <= MAX_BOXES:
        raise ValueError(f"got {len(boxes)} boxes, expected 1 to {MAX_BOXES}.")
    texts = []
    scale = BOX_SCALE // step
    for left, top, right, bottom in boxes:
        low = [min(step * round(scale * value), BOX_SCALE - step) for value in (left, top)]
        high = [
            max(step * round(scale * value), start + step) for value, start in zip((right, bottom), low, strict=True)
        ]
        texts.append(f"[{low[0]},{low[1]},{high[0]},{high[1]}]")
    return "".join(texts)


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Reads the boxes of `render_boxes`.

    Raises:
        AnswerError: the text is anything else, a coordinate is above 1000, a box is inverted, or there are too many.

    >>> parse_boxes("[100,250,500,1000]")
    ((0.1, 0.25, 0.5, 1.0),)
    """
    if not isinstance(text, str) or len(text) > 24 * MAX_BOXES or not _ANSWER.fullmatch(text):
        raise AnswerError(Fault.FORM, f"got {quoted(text)}, expected boxes such as [100,250,500,1000].")
    boxes = []
    for match in _ONE.finditer(text):
        left, top, right, bottom = map(int, match.groups())
        if not (left < right <= BOX_SCALE and top < bottom <= BOX_SCALE):
            raise AnswerError(
                Fault.REGION, f"a box is {match[0]}, expected left < right and top < bottom from 0 to {BOX_SCALE}."
            )
        boxes.append((left / BOX_SCALE, top / BOX_SCALE, right / BOX_SCALE, bottom / BOX_SCALE))
    if len(boxes) > MAX_BOXES:
        raise AnswerError(Fault.COUNT, f"got {len(boxes)} boxes, expected at most {MAX_BOXES}.")
    return tuple(boxes)
