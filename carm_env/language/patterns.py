"""Regular expressions of the answer formats, for constrained decoding.

They match the output of `render`. `parse` also accepts other white space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from carm_env.actions import X_DIRECTIONS, Y_DIRECTIONS
from carm_env.body_parts import N_BODY_PARTS
from carm_env.landmarks import LANDMARKS
from carm_env.language.grammar import ANSWER_KINDS
from carm_env.system.errors import UnknownNameError

_WORD = r"[A-Za-z0-9,.;:?'()/-]+"
_NUMBERS = {item.id: str(item.id) for item in LANDMARKS}
_BODY_PARTS = {number: str(number) for number in range(N_BODY_PARTS)}
_NAMES = {item.id: "|".join(map(re.escape, (item.name, *item.synonyms))) for item in LANDMARKS}
_ENTRIES = {key: f"{key}: (?:{names})" for key, names in _NAMES.items()}


def _different(items: Mapping[int, str], separator: str, most: int, least: int) -> str:
    """Matches `least` to `most` different items; the pattern is a tree, so that every valid prefix can be completed."""
    branches = []
    for key, item in items.items():
        rest = ""
        if most > 1:
            others = {other: text for other, text in items.items() if other != key}
            rest = f"(?:{separator}{_different(others, separator, most - 1, least - 1)})" + ("" if least > 1 else "?")
        branches.append(item + rest)
    return f"(?:{'|'.join(branches)})"


def _axis(axis: str, directions: tuple[str, ...]) -> str:
    moving = "|".join(word for word in directions if word != "CENTER")
    extent = f"    <extent_{axis}>"
    return (
        rf"    <{axis}>(?:CENTER</{axis}>\n{extent}NONE|(?:{moving})</{axis}>\n{extent}(?:SMALL|MODERATE|LARGE))"
        rf"</extent_{axis}>\n    <reason_{axis}>{_WORD}(?: {_WORD})*</reason_{axis}>\n"
    )


@cache
def answer_pattern(kind: str) -> str:
    """Returns the regular expression of a kind of answer as written by `render`.

    It does not restrict the length of reasons or the order of a box's corners.

    Args:
        kind: one of `carm_env.language.ANSWER_KINDS`.

    Raises:
        UnknownNameError: unknown kind.

    >>> import re
    >>> bool(re.fullmatch(answer_pattern("pair"), "[10,11]")), bool(re.fullmatch(answer_pattern("pair"), "[10,15]"))
    (True, False)
    """
    if kind == "ranking":
        return rf"\[{_different(_ENTRIES, ', ', 3, 1)}\]"
    if kind == "pair":
        return rf"\[{_different(_NUMBERS, ',', 2, 2)}\]"
    if kind == "body_parts":
        return rf"\[{_different(_BODY_PARTS, ',', 2, 2)}\]"
    if kind == "class":
        return r"\[(?:0|[1-9][0-9]?)\]"
    if kind == "box":
        number = "(?:1000|0|[1-9][0-9]{0,2})"
        return rf"\[{number}(?:,{number}){{3}}\]"
    if kind == "correction":
        return (
            rf"<response>\n  <visual_reasoning>{_WORD}(?: {_WORD})*</visual_reasoning>\n"
            rf"  <landmarks>\[{_different(_NUMBERS, ',', 2, 2)}\]</landmarks>\n</response>"
        )
    if kind == "navigation":
        return (
            rf"<output>\n  <step1>\n    <context>(?:{'|'.join(_NAMES.values())})</context>\n  </step1>\n  <step2>\n"
            rf"{_axis('x', X_DIRECTIONS)}{_axis('y', Y_DIRECTIONS)}  </step2>\n</output>"
        )
    if kind == "question":
        names = "|".join(re.escape(item.name) for item in LANDMARKS)
        return rf"<question>\n  <about>(?:{names})</about>\n  <text>{_WORD}(?: {_WORD})*</text>\n</question>"
    raise UnknownNameError("kind of answer", kind, ANSWER_KINDS)
