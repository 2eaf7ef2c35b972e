"""Reasons in words that follow from the geometry, and whether a reason is true to it.

A reason is made of claims, in wordings that vary: where a landmark lies from another one or from the middle of the
view, that it is in the picture, that one is farther away than another. The same tables of wordings write reasons and
read them, so a model's reasons can be held against the truth; a sentence in other words makes no claim that could be
checked, and counts as not true. Of the claims that lead to a step, the one that is safest is written: a clinician, too,
says of a landmark out of sight what anatomy leaves no doubt about.

Near a limit words are a matter of taste. What is written keeps a distance from it: "roughly in line" is written within
25 mm between landmarks (15 mm from the middle of the view, half a SMALL step) and read as true within 45 mm (30 mm).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.language.answers import Correction, Navigation

MIDDLE = 0
"""Stands for the middle of the view where an id is asked for."""
MIDDLE_NAME = "the middle of the view"
_LEVEL_MM = {"landmark": 25.0, "middle": 15.0}
_LEVEL_AT_MOST_MM = {"landmark": 45.0, "middle": 30.0}
_CLOSEST_NAMED = 2
_COMPARED_WITH = 5
"""A target is compared with the middle of the view and so many of the landmarks closest to it."""

_WORDINGS: dict[str, tuple[str, ...]] = {
    "left": ("{a} lies to the patient's left of {b}", "{a} is on the anatomical left of {b}"),
    "right": ("{a} lies to the patient's right of {b}", "{a} is on the anatomical right of {b}"),
    "in line": ("{a} is roughly in line with {b} from side to side", "{a} is hardly to one side of {b}"),
    "above": ("{a} is superior to {b}", "{a} lies above {b}"),
    "below": ("{a} is inferior to {b}", "{a} lies below {b}"),
    "level": ("{a} is about as high as {b}", "{a} is roughly level with {b}"),
    "steep": ("{a} lies more above or below than beside", "{a} is farther up or down than to one side"),
    "flat": ("{a} lies more beside than above or below", "{a} is farther to one side than up or down"),
    "seen": ("{a} is in the picture", "{a} can be seen"),
    "farther": ("{a} is farther from the middle than {b}", "{a} lies farther away than {b}"),
}
_SIDES = ({"left": 1, "right": -1, "in line": 0}, {"above": 1, "below": -1, "level": 0})
_OTHER_AXIS = ("steep", "flat")
"""Why there is no step along an axis: the way is along the other one."""
_AMOUNTS = ("", "a little", "moderately", "far")
_DIRECTIONS = ({1: "to the left", -1: "to the right"}, {1: "up", -1: "down"})
_STAYS = ("no sideways move is needed", "no move up or down is needed")


@dataclass(frozen=True, eq=False)
class Situation:
    """Where the landmarks lie in one view.

    Attributes:
        displacement_mm: ``(14, 2)`` from the middle of the view to the patient's left and cranially; NaN where absent.
        visible: ``(14,)`` whether the landmark lies in the picture.
    """

    displacement_mm: NDArray[np.float64]
    visible: NDArray[np.bool_]

    def place_mm(self, key: int) -> NDArray[np.float64]:
        """``(2,)`` of a landmark, or of the `MIDDLE`."""
        return np.zeros(2) if key == MIDDLE else np.asarray(self.displacement_mm[landmark(key).index], float)

    def closest(self) -> list[int]:
        """Ids, nearest first."""
        distances = np.hypot(self.displacement_mm[:, 0], self.displacement_mm[:, 1])
        order = np.argsort(distances, kind="stable")
        return [int(index) + 1 for index in order if np.isfinite(distances[index])]


@dataclass(frozen=True)
class Claim:
    """One thing that is said.

    Attributes:
        word: ``left``, ``right``, ``in line``, ``above``, ``below``, ``level``, ``steep``, ``flat``, ``seen`` or
            ``farther``.
        subject: id of the landmark it is said of.
        other: id of that it is compared with, or `MIDDLE`.
    """

    word: str
    subject: int
    other: int = MIDDLE


def _axis_of(word: str) -> int | None:
    return next((axis for axis, sides in enumerate(_SIDES) if word in sides), None)


def is_true(claim: Claim, situation: Situation) -> bool:
    """Whether a claim holds; never for a landmark that the patient lacks, or compared with itself."""
    subject, other = situation.place_mm(claim.subject), situation.place_mm(claim.other)
    if claim.subject == claim.other or not (np.isfinite(subject).all() and np.isfinite(other).all()):
        return False
    if claim.word == "seen":
        return bool(situation.visible[landmark(claim.subject).index])
    if claim.word == "farther":
        return bool(np.hypot(*subject) > np.hypot(*other))
    if claim.word in _OTHER_AXIS:
        across = _OTHER_AXIS.index(claim.word)
        return bool(abs(subject[1 - across]) > abs(subject[across]))
    axis = _axis_of(claim.word)
    if axis is None:
        return False
    off = float((subject - other)[axis])
    side = _SIDES[axis][claim.word]
    return abs(off) < _limit_mm(claim) if side == 0 else off * side > 0


def _limit_mm(claim: Claim) -> float:
    """Within which "roughly in line" and "roughly level" hold."""
    return _LEVEL_AT_MOST_MM["middle" if claim.other == MIDDLE else "landmark"]


def leads_to(claim: Claim, axis: int, step: int) -> bool:
    """Whether a claim about where to go speaks for a step of -3 to 3 along an axis."""
    if claim.word in _OTHER_AXIS:
        return step == 0 and claim.word == _OTHER_AXIS[axis]
    return _SIDES[axis].get(claim.word) == np.sign(step)


def relation(axis: int, subject: int, other: int, situation: Situation) -> Claim:
    """The true claim about two landmarks, or a landmark and the `MIDDLE`, along an axis (0 sideways, 1 upwards)."""
    off = float((situation.place_mm(subject) - situation.place_mm(other))[axis])
    level = abs(off) < _LEVEL_MM["middle" if other == MIDDLE else "landmark"]
    side = 0 if level else (1 if off > 0 else -1)
    word = next(word for word, value in _SIDES[axis].items() if value == side)
    return Claim(word, subject, other)


def _worded(claim: Claim, names: dict[int, str], rng: Generator) -> str:
    template = _WORDINGS[claim.word][int(rng.integers(len(_WORDINGS[claim.word])))]
    return template.format(a=_name(claim.subject, names), b=_name(claim.other, names))


def _name(key: int, names: dict[int, str]) -> str:
    return MIDDLE_NAME if key == MIDDLE else names.get(key, landmark(key).name)


def conclusion(axis: int, step: int) -> str:
    """What a reason leads to: the step of the move along an axis, -3 to 3, in words."""
    if step == 0:
        return _STAYS[axis]
    return f"the view moves {_AMOUNTS[abs(step)]} {_DIRECTIONS[axis][1 if step > 0 else -1]}"


def navigation_answer(
    situation: Situation, target: int, lattice: MoveLattice, rng: Generator, names: dict[int, str] | None = None
) -> Navigation:
    """The lattice move that comes closest to the target, with the closest landmark and true reasons.

    Args:
        situation: of the view.
        target: id; the patient must have it.
        lattice: what the extents mean.
        rng: draws the wordings.
        names: how landmarks are called, by id; the paper's names by default.
    """
    called = names or {}
    move = lattice.closest_move(situation.place_mm(target))
    context = situation.closest()[0]
    reason_x, reason_y = (
        _navigation_reason(axis, step, target, situation, called, rng)
        for axis, step in enumerate((move.x_step, move.y_step))
    )
    return Navigation(context, move, reason_x, reason_y, _name(context, called))


def _navigation_reason(
    axis: int, step: int, target: int, situation: Situation, names: dict[int, str], rng: Generator
) -> str:
    anchors = [key for key in situation.closest() if key != target][:_COMPARED_WITH]
    claims = [relation(axis, target, other, situation) for other in (MIDDLE, *anchors)]
    # Whatever the lattice calls a step: on which side of the middle the target lies, or that it is close to it.
    claims.append(Claim(next(word for word, side in _SIDES[axis].items() if side == np.sign(step)), target))
    claims.append(Claim(_OTHER_AXIS[axis], target))
    # Steps of more than 120 mm may leave nothing that leads to staying: then what is said is only true.
    leading = [claim for claim in claims if leads_to(claim, axis, step) and is_true(claim, situation)] or claims[:1]
    safest = max(leading, key=lambda claim: _margin_mm(axis, claim, situation))
    return _sentence(f"{_worded(safest, names, rng)}, so {conclusion(axis, step)}")


def _margin_mm(axis: int, claim: Claim, situation: Situation) -> float:
    """How far a claim about an axis is from being false."""
    subject, other = situation.place_mm(claim.subject), situation.place_mm(claim.other)
    if claim.word in _OTHER_AXIS:
        return float(abs(subject[1 - axis]) - abs(subject[axis]))
    off = float(abs((subject - other)[axis]))
    return off if _SIDES[axis][claim.word] else _limit_mm(claim) - off


def correction_answer(
    situation: Situation, wrong: Sequence[int], rng: Generator, names: dict[int, str] | None = None
) -> Correction:
    """The two closest landmarks, with what is seen of them, and why an answer given before was wrong.

    Args:
        situation: of the view; the patient must have two landmarks.
        wrong: ids that were answered.
        rng: draws the wordings.
        names: how landmarks are called, by id; the paper's names by default.
    """
    called = names or {}
    ranked = situation.closest()
    first, second = ranked[:_CLOSEST_NAMED]
    sentences = []
    for key in (first, second):
        sides = [relation(axis, key, MIDDLE, situation) for axis in (0, 1)]
        sentences.append(_sentence(", and ".join(_worded(claim, called, rng) for claim in sides)))
    seen = [key for key in ranked if situation.visible[landmark(key).index]]
    if seen:
        sentences.insert(0, _sentence(_worded(Claim("seen", seen[0]), called, rng)))
    worst = next((key for key in wrong if key not in (first, second) and key in ranked), None)
    if worst is not None:
        sentences.append(_sentence(_worded(Claim("farther", worst, first), called, rng)))
    return Correction(" ".join(sentences), (first, second))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


@cache
def _readers() -> tuple[tuple[str, re.Pattern[str]], ...]:
    names = sorted((name for item in LANDMARKS for name in (item.name, *item.synonyms)), key=len, reverse=True)
    known = "|".join(map(re.escape, [*names, MIDDLE_NAME]))
    return tuple(
        (word, re.compile(template.format(a=f"(?P<a>{known})", b=f"(?P<b>{known})"), re.IGNORECASE))
        for word, templates in _WORDINGS.items()
        for template in templates
    )


def _key(name: str) -> int:
    return MIDDLE if name.lower() == MIDDLE_NAME else landmark(name).id


def _claim(text: str) -> Claim | None:
    for word, pattern in _readers():
        found = pattern.fullmatch(text)
        if found:
            parts = found.groupdict()
            return Claim(word, _key(parts["a"]), _key(parts["b"]) if "b" in parts else MIDDLE)
    return None


def claims_of(text: str) -> list[Claim] | None:
    """The claims of sentences in the wordings of this module; None where a part is in other words."""
    claims = []
    for sentence in text.split(". "):
        for part in sentence.rstrip(".").split(", and "):
            claim = _claim(part.split(", so ")[0])
            if claim is None:
                return None
            claims.append(claim)
    return claims


def reasoning_is_true(text: str, situation: Situation) -> bool:
    """Whether all of a text is in the wordings of this module, and every claim of it holds."""
    claims = claims_of(text)
    return claims is not None and all(is_true(claim, situation) for claim in claims)


def reasons_are_true(answer: Navigation, situation: Situation, target: int) -> bool:
    """Whether both reasons of a step hold, say of the target what speaks for the step taken, and end with it."""
    for axis, (text, step) in enumerate(((answer.reason_x, answer.move.x_step), (answer.reason_y, answer.move.y_step))):
        if not text.endswith(f", so {conclusion(axis, step)}.") or not reasoning_is_true(text, situation):
            return False
        claims = claims_of(text) or ()
        if not any(claim.subject == target and leads_to(claim, axis, step) for claim in claims):
            return False
    return True
