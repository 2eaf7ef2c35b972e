"""What a clinician's words mean.

`read_advice` knows the sentences of `carm_env.language.advice`, and what people type in similar words. No reader knows
all sentences, so a chat contains the words themselves in any case, with their meaning beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from carm_env.actions import DEFAULT_EXTENTS_MM
from carm_env.landmarks import LANDMARKS
from carm_env.language.advice import MAX_DISTANCE_MM, NEEDS_NAME, Advice

_CLAUSE_ENDS = re.compile(
    r"([.!?](?!\d)|[,;:()]|\b(?:but|rather than)\b|"
    r"(?:^|(?<=[.!?,;:] ))(?:no|nope|yes|yep|yeah)\b(?! (?:more|further|need)\b))"
)
_INTERJECTION = re.compile(r"no|nope|yes|yep|yeah")
_QUESTION = re.compile(r"^(?:is|are|do|does|did|where|what|which|why|how|when|who)\b")
_NOT = re.compile(r"\b(?:not|never|cannot|neither|nor)\b|n't\b")
_STOP = re.compile(r"\b(?:stop|halt|freeze|hold it|hold still|take over|enough)\b")
_NO_FURTHER = re.compile(r"\b(?:do not|don't) (?:move|go)\b.*\b(?:further|more|anywhere)\b|\b(?:do not|don't) move$")
_SIDE = re.compile(
    r"\b(?:wrong|other|opposite|contralateral) (?:side|arm|elbow|wrist|shoulder|hand)\b|\bmirrored\b|"
    r"\b(?:mixed|mixing|swapped|confused|confusing)\b.*\bleft and right\b|"
    r"\bleft and right\b.*\b(?:mixed|swapped|confused)\b"
)
_TARGET = re.compile(
    r"\b(?:instead|rather (?:see|have)|show (?:me|us)|(?:take|bring|drive) (?:me|us)? ?to|"
    r"(?:go|move|drive|steer|switch|change|navigate) to|find|look for|aim for|want|target)\b|"
    r"^(?:now|next|please) @$|^@ (?:please|now|next)$"
)
_IS = re.compile(r"\b(?:is|are|see|seeing|at|show|shows|looks? like|looking at|have|here)\b|'s\b|'re\b")
_WRONG = re.compile(r"\b(?:wrong|incorrect|disagree|mistaken|mistake|false)\b|^(?:no|nope|nah)\b|\bno$")
_TRUE = re.compile(
    r"\b(?:yes|yep|yeah|correct|exactly|agree|good|perfect|well done|true|fine|carry on|go on|keep going|right)\b"
)
_AGAIN = re.compile(r"\b(?:again|once more|another look|second look|recheck)\b")
_NEAR = r"\b(?:towards?|to|near|nearer|closer to|in the direction of) (?:the |his |her |their )?(?:patient's )?"
_UP = re.compile(
    r"\b(?:up|upwards?|higher|cranial|cranially|cranialwards?|cephalad|superior|superiorly|headwards?)\b|"
    rf"{_NEAR}head\b"
)
_DOWN = re.compile(
    r"\b(?:down|downwards?|lower|caudal|caudally|caudalwards?|caudad|inferior|inferiorly|footwards?)\b|"
    rf"{_NEAR}(?:feet|foot|legs)\b"
)
_TOO = re.compile(r"\btoo\b")
_TOO_HIGH, _TOO_LOW = re.compile(r"\btoo high\b"), re.compile(r"\btoo low\b")
_BODY_PART = r"(?! (?:arm|shoulder|hand|elbow|wrist|lung|ribs?|chest|humerus|scapula|clavicle|one)\b)"
_LEFT = re.compile(rf"\bleft(?:wards?)?\b{_BODY_PART}")
_RIGHT = re.compile(
    r"\brightwards?\b|"
    r"\b(?:to|towards?|of) (?:the|his|her|their|your|my)(?: patient's)? right\b|"
    r"\b(?:patient's|patients|further|more|go|move|steer|shift|pan|far|slightly|bit|little|lot|too|touch|image|screen|"
    rf"and|mm|cm|inch|inches|breadth|hand|fingers?) right\b(?! track){_BODY_PART}|"
    r"\bright side\b|^right and (?:up|down|higher|lower)\b"
)
_ON_THE_SCREEN = re.compile(r"\b(?:image|picture|screen|monitor|display|my|your)\b")
_SLIGHTLY = re.compile(r"\b(?:slightly|(?<!quite )a (?:bit|little|touch|tad)|just a (?:bit|little|touch))\b")
_MODERATELY = re.compile(r"\b(?:somewhat|quite a bit|moderately|some way)\b")
_FAR = re.compile(r"\b(?:much|a lot|lots|far|long way)\b")
_FAR_TOO = re.compile(r"\b(?:much|a lot|far) too\b")
_SLIGHTLY_MM, _MODERATELY_MM, _FAR_MM = DEFAULT_EXTENTS_MM
_NUMBER = re.compile(
    r"(\d{1,4}(?:\.\d{1,2})?|an?|one|half an?) ?(mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?|inch(?:es)?)\b"
)
_UNITS_MM = {"m": 1.0, "c": 10.0, "i": 25.4}
_BREADTHS = {"finger": 20.0, "two fingers": 40.0, "thumb": 25.0, "hand": 85.0, "fist": 100.0, "palm": 85.0}
"""Breadths in mm that people measure by, rounded: an adult's hand is about 75 to 95 mm across, a finger 16 to 22 mm."""
_BREADTH = re.compile(
    r"\b(?:the )?(?:breadth|width) of (?:a |an |your |(?P<two_of>two) )?(?P<of>hand|finger|thumb|fist|palm)s?\b|"
    r"\b(?P<two>two) fingers\b|"
    r"\b(?:a |one |your )?(?P<by>finger|thumb|hand|fist|palm)(?:'s|s)? ?(?:breadths?|widths?)\b"
)


class _ContradictionError(ValueError):
    """A text contradicts itself."""


def read_advice(text: str) -> tuple[Advice, ...]:
    """Returns the meanings of a text, each once; none if no meaning is found, or if the text contradicts itself.

    Directions in several sentences are one advice. Words like "a little" are read as the distance of the move they fit.

    >>> [advice.kind for advice in read_advice("Wrong. This is the carina, the left elbow is further down.")]
    ['verdict', 'landmark', 'direction']
    >>> read_advice("Go up. No, go down.")
    ()
    """
    plain = " ".join(text.lower().replace("\u2019", "'").replace("-", " ").split())
    found: list[Advice] = []
    try:
        for clause in _clauses(plain):
            found += _read_clause(clause, found)
        return _combined(found)
    except _ContradictionError:
        return ()


def _clauses(plain: str) -> Iterator[str]:
    """Yields the parts of a text that have a meaning of their own; questions about the image have none."""
    parts = [*_CLAUSE_ENDS.split(plain), ""]
    for clause, end in zip(parts[::2], parts[1::2], strict=True):
        if clause.strip() and not (end == "?" and _QUESTION.search(clause.strip())):
            yield clause.strip()
        if _INTERJECTION.fullmatch(end):
            yield end


def _read_clause(clause: str, before: Sequence[Advice]) -> list[Advice]:
    ids: list[int] = []

    def take(match: re.Match[str]) -> str:
        ids.append(_ids()[match.group("name")])
        return "@"

    clause = _names().sub(take, clause)
    if "instead of @" in clause:
        clause = clause.replace("instead of @", "instead")
        ids = ids[:1] if len(ids) > 1 else []
    is_negated = bool(_NOT.search(clause))
    if (_STOP.search(clause) and not is_negated) or _NO_FURTHER.search(clause):
        return [Advice("stop")]
    if _SIDE.search(clause):
        return [] if is_negated else [Advice("side")]
    if len(set(ids)) > 1:
        raise _ContradictionError
    direction = _read_direction(clause)
    if direction is not None:
        return [] if is_negated else [direction]
    if ids:
        return _read_named(clause, ids[0], is_negated, before)
    return _read_unnamed(clause, is_negated)


def _read_named(clause: str, key: int, is_negated: bool, before: Sequence[Advice]) -> list[Advice]:
    if is_negated or _WRONG.search(clause):
        return [Advice("verdict", key)]
    if _TARGET.search(clause):
        return [Advice("target", key)]
    is_confirmed = bool(_TRUE.search(clause)) or any(advice.kind == "confirmation" for advice in before)
    if is_confirmed and (_IS.search(clause) or _TRUE.search(clause) or clause == "@"):
        return [Advice("confirmation", key)]
    return [Advice("landmark", key)] if _IS.search(clause) else []


def _read_unnamed(clause: str, is_negated: bool) -> list[Advice]:
    distance_mm = _read_distance(clause)
    if _WRONG.search(clause):
        return [] if is_negated else [Advice("verdict")]
    if _TRUE.search(clause):
        return [Advice("verdict" if is_negated else "confirmation")]
    if is_negated:
        return []
    if distance_mm is not None:
        return [Advice("distance", distance_mm=distance_mm)]
    return [Advice("again")] if _AGAIN.search(clause) else []


def _read_direction(clause: str) -> Advice | None:
    y = _sign(bool(_UP.search(clause)), bool(_DOWN.search(clause)))
    x = _sign(bool(_LEFT.search(clause)), bool(_RIGHT.search(clause)))
    if x and _ON_THE_SCREEN.search(clause):
        x = -x
    if _TOO.search(clause):
        x, y = -x, -y
    high, low = _TOO_HIGH.search(clause), _TOO_LOW.search(clause)
    if high or low:
        y = _sign(bool(low) or y > 0, bool(high) or y < 0)
    return Advice("direction", x=x, y=y, distance_mm=_read_distance(clause)) if x or y else None


def _sign(positive: bool, negative: bool) -> int:
    if positive and negative:
        raise _ContradictionError
    return int(positive) - int(negative)


def _read_distance(clause: str) -> float | None:
    if match := _NUMBER.search(clause):
        number = match.group(1)
        count = float(number) if number[0].isdigit() else 0.5 if number.startswith("half") else 1.0
        value = count * _UNITS_MM[match.group(2)[0]]
        return value if 0 < value <= MAX_DISTANCE_MM else None
    if match := _BREADTH.search(clause):
        is_double = match.group("two") or match.group("two_of")
        return _BREADTHS["two fingers" if is_double else match.group("of") or match.group("by")]
    if _SLIGHTLY.search(clause):
        return _SLIGHTLY_MM
    if _MODERATELY.search(clause):
        return _MODERATELY_MM
    # "Too far left" states no distance.
    return _FAR_MM if (_FAR_TOO if _TOO.search(clause) else _FAR).search(clause) else None


def _combined(found: Iterable[Advice]) -> tuple[Advice, ...]:
    """Joins directions with distances, and drops what a more exact meaning contains."""
    meanings = list(dict.fromkeys(found))
    if any(advice.kind == "stop" for advice in meanings):
        return (Advice("stop"),)
    joined = [advice for advice in meanings if advice.kind not in ("direction", "distance")]
    parts = [advice for advice in meanings if advice.kind in ("direction", "distance")]
    if parts:
        x, y = (_agreed([getattr(advice, axis) for advice in parts]) for axis in ("x", "y"))
        far = next((advice.distance_mm for advice in parts if advice.distance_mm is not None), None)
        joined.append(Advice("direction" if x or y else "distance", x=x, y=y, distance_mm=far))
    for kind in ("verdict", "confirmation"):
        if any(advice.kind == kind and advice.landmark for advice in joined):
            joined = [advice for advice in joined if advice != Advice(kind)]
    for kind in NEEDS_NAME:
        if sum(advice.kind == kind for advice in joined) > 1:
            raise _ContradictionError
    verdicts, confirmed = (
        {advice.landmark for advice in joined if advice.kind == kind} for kind in ("verdict", "confirmation")
    )
    shown = {advice.landmark for advice in joined if advice.kind == "landmark"}
    if (verdicts and confirmed and (verdicts & confirmed or 0 in verdicts | confirmed)) or verdicts & shown:
        raise _ContradictionError
    if len(joined) > 1:
        joined = [advice for advice in joined if advice.kind != "again"]
    return tuple(joined)


def _agreed(steps: Sequence[int]) -> int:
    signs = {step for step in steps if step}
    if len(signs) > 1:
        raise _ContradictionError
    return signs.pop() if signs else 0


@cache
def _ids() -> dict[str, int]:
    return {name.lower(): item.id for item in LANDMARKS for name in (item.name, *item.synonyms)}


@cache
def _names() -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(_ids(), key=lambda name: (-len(name), name))))
    return re.compile(rf"\b(?:the )?(?P<name>{names})\b")
