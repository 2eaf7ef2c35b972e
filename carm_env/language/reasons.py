"""Reasons in words that follow from the geometry of a view, and the check whether a reason is true.

A reason consists of claims in varied wordings: how far and on which side of another landmark or of the center of the
image a landmark lies, whether it is in the image, or whether it is farther away than another. The same tables of
wordings generate and parse reasons, so that a model's reasons can be compared with the truth. A sentence in other words
makes no claim that can be checked, and counts as not true.

The reason of a step relates the target to the center of the image, or, if the target is outside the image, to a
landmark in it that is near the center along the axis. The distance is stated in the degrees of the moves: "slightly" is
the distance that a SMALL move covers best. So a reason implies both the direction and the extent of its step.

Near a threshold the choice of words is arbitrary, so a claim is accepted as true within half a SMALL move around the
distances for which it is generated.

The wordings are training data of the language models that ship: do not change them.
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
"""Stands for the center of the image in place of a landmark id."""
MIDDLE_NAME = "the center of the image"
_CLOSEST_NAMED = 2
_COMPARED_WITH = 3
"""Number of closest landmarks with which a target outside the image is compared."""

_DEGREES: dict[str, tuple[str, str]] = {
    "slightly": ("lies slightly", "is a little"),
    "moderately": ("lies moderately far", "is a moderate distance"),
    "far": ("lies far", "is a long way"),
}
_SIDES = (
    {"left": (1, "to the patient's left of"), "right": (-1, "to the patient's right of")},
    {"above": (1, "above"), "below": (-1, "below")},
)
_LEVEL = (("in line", ("is roughly in line with", "is at about the same lateral position as")),
          ("level", ("is roughly level with", "is at about the same height as")))  # fmt: skip
STEPS: dict[str, tuple[int, int]] = {
    **{
        f"{degree} {side}": (axis, sign * size)
        for axis, sides in enumerate(_SIDES)
        for side, (sign, _) in sides.items()
        for size, degree in enumerate(_DEGREES, 1)
    },
    **{relation: (axis, 0) for axis, (relation, _) in enumerate(_LEVEL)},
}
"""Axis (0 is x, 1 is y) and step from -3 to 3 of each relation that states a distance along an axis."""
_RELATIONS = {place: relation for relation, place in STEPS.items()}
_WORDINGS: dict[str, tuple[str, ...]] = {
    **{
        f"{degree} {side}": tuple(f"{{a}} {start} {words} {{b}}" for start in starts)
        for sides in _SIDES
        for side, (_, words) in sides.items()
        for degree, starts in _DEGREES.items()
    },
    **{relation: tuple(f"{{a}} {words} {{b}}" for words in wordings) for relation, wordings in _LEVEL},
    "seen": ("{a} is visible in the image", "{a} can be seen in the image"),
    "farther": ("{a} is farther from the center than {b}", "{a} lies farther away from the center than {b}"),
}
_EXTENTS = ("", "small", "moderate", "large")
_DIRECTIONS = ({1: "to the patient's left", -1: "to the patient's right"}, {1: "up", -1: "down"})
_STAYS = ("no sideways move is needed", "no move up or down is needed")


@dataclass(frozen=True, eq=False)
class Situation:
    """Positions of the landmarks in one view.

    Attributes:
        displacement_mm: ``(14, 2)`` from the center of the image to the patient's left and cranially; NaN for landmarks
            that the patient lacks.
        visible: ``(14,)`` whether the landmark is in the image.
    """

    displacement_mm: NDArray[np.float64]
    visible: NDArray[np.bool_]

    def position_mm(self, key: int) -> NDArray[np.float64]:
        """Returns the displacement ``(2,)`` of a landmark id, or of `MIDDLE`."""
        return np.zeros(2) if key == MIDDLE else np.asarray(self.displacement_mm[landmark(key).index], float)

    def closest(self) -> list[int]:
        """Returns the ids of the patient's landmarks, nearest first."""
        distances = np.hypot(self.displacement_mm[:, 0], self.displacement_mm[:, 1])
        order = np.argsort(distances, kind="stable")
        return [int(index) + 1 for index in order if np.isfinite(distances[index])]

    def is_visible(self, key: int) -> bool:
        """Returns whether a landmark is in the image; True for `MIDDLE`."""
        return key == MIDDLE or bool(self.visible[landmark(key).index])


@dataclass(frozen=True)
class Claim:
    """One statement about a landmark.

    Attributes:
        relation: a key of `STEPS` (``slightly left`` to ``far below``, ``in line`` and ``level``), ``seen`` or
            ``farther``.
        subject: id of the landmark.
        other: id of the landmark with which it is compared, or `MIDDLE`.
    """

    relation: str
    subject: int
    other: int = MIDDLE


def is_true(claim: Claim, situation: Situation, lattice: MoveLattice | None = None) -> bool:
    """Returns whether a claim is true; False for absent landmarks and comparisons of a landmark with itself.

    Args:
        claim: the statement.
        situation: positions of the landmarks in the view.
        lattice: the moves whose lengths define "slightly", "moderately" and "far".
    """
    subject, other = situation.position_mm(claim.subject), situation.position_mm(claim.other)
    if claim.subject == claim.other or not (np.isfinite(subject).all() and np.isfinite(other).all()):
        return False
    if claim.relation == "seen":
        return situation.is_visible(claim.subject)
    if claim.relation == "farther":
        return bool(np.hypot(*subject) > np.hypot(*other))
    if claim.relation not in STEPS:
        return False
    axis, step = STEPS[claim.relation]
    distance_mm = float((subject - other)[axis])
    return _accepts(distance_mm, step, lattice or MoveLattice())


def _accepts(distance_mm: float, step: int, lattice: MoveLattice) -> bool:
    """Returns whether a step covers the distance best, or one of the same sign within half a SMALL move of it."""
    slack_mm = lattice.extents_mm[0] / 2
    shortest, longest = (_step(max(0.0, abs(distance_mm) + change), lattice) for change in (-slack_mm, slack_mm))
    return shortest <= abs(step) <= longest and (step == 0 or distance_mm * step > 0)


def _step(distance_mm: float, lattice: MoveLattice) -> int:
    return lattice.closest_move((distance_mm, 0.0)).x_step


def true_claim(axis: int, subject: int, other: int, situation: Situation, lattice: MoveLattice | None = None) -> Claim:
    """Returns the claim about two landmarks, or a landmark and `MIDDLE`, along an axis (0 is x, 1 is y)."""
    distance_mm = float((situation.position_mm(subject) - situation.position_mm(other))[axis])
    return Claim(_RELATIONS[axis, _step(distance_mm, lattice or MoveLattice())], subject, other)


def _worded(claim: Claim, names: dict[int, str], rng: Generator) -> str:
    template = _WORDINGS[claim.relation][int(rng.integers(len(_WORDINGS[claim.relation])))]
    return template.format(a=_phrase(claim.subject, names), b=_phrase(claim.other, names))


def in_sentence(name: str) -> str:
    """Returns the name of a landmark as it stands within a sentence, without its article.

    >>> in_sentence("Left elbow"), in_sentence("T1 vertebral body")
    ('left elbow', 'T1 vertebral body')
    """
    return name if name[1:2].isdigit() else name[0].lower() + name[1:]


def with_article(name: str) -> str:
    """Returns the name of a landmark as it stands within a sentence, with its article if it has one.

    >>> with_article("Left elbow"), with_article("T1")
    ('the left elbow', 'T1')
    """
    name = in_sentence(name)
    return name if name in ("T1", "T12") else f"the {name}"


def _phrase(key: int, names: dict[int, str]) -> str:
    return MIDDLE_NAME if key == MIDDLE else with_article(names.get(key, landmark(key).name))


def conclusion(axis: int, step: int) -> str:
    """Returns the conclusion of a reason: a step of -3 to 3 along an axis, in words."""
    if step == 0:
        return _STAYS[axis]
    return f"a {_EXTENTS[abs(step)]} move {_DIRECTIONS[axis][1 if step > 0 else -1]} is needed"


def navigation_answer(
    situation: Situation, target: int, lattice: MoveLattice, rng: Generator, names: dict[int, str] | None = None
) -> Navigation:
    """Returns the move that ends closest to the target, with the closest landmark and true reasons.

    Args:
        situation: positions of the landmarks in the view.
        target: id of a landmark that the patient has.
        lattice: the possible moves.
        rng: draws the wordings.
        names: names of landmarks by id; by default the paper's.
    """
    names = names or {}
    move = lattice.closest_move(situation.position_mm(target))
    context = situation.closest()[0]
    reason_x, reason_y = (
        _navigation_reason(axis, step, target, situation, lattice, names, rng)
        for axis, step in enumerate((move.x_step, move.y_step))
    )
    name = names.get(context, landmark(context).name)
    return Navigation(context, move, reason_x, reason_y, name)


def _navigation_reason(
    axis: int, step: int, target: int, situation: Situation, lattice: MoveLattice, names: dict[int, str], rng: Generator
) -> str:
    anchor = None if situation.is_visible(target) else _anchor(axis, step, target, situation, lattice)
    claim = Claim(_RELATIONS[axis, step], target, MIDDLE if anchor is None else anchor)
    text = _worded(claim, names, rng)
    if anchor is not None:
        where = _worded(Claim(_RELATIONS[axis, 0], anchor), names, rng)
        text += ", which" + where.removeprefix(_phrase(anchor, names))
    return _sentence(f"{text}, so {conclusion(axis, step)}")


def _anchor(axis: int, step: int, target: int, situation: Situation, lattice: MoveLattice) -> int | None:
    """Returns a landmark in the image that is near the center along an axis, and from which a step follows."""
    for key in situation.closest()[:_COMPARED_WITH]:
        from_anchor, from_middle = (
            STEPS[true_claim(axis, *pair, situation, lattice).relation][1] for pair in ((target, key), (key, MIDDLE))
        )
        if situation.is_visible(key) and from_middle == 0 and from_anchor == step:
            return key
    return None


def correction_answer(
    situation: Situation, wrong: Sequence[int], rng: Generator, names: dict[int, str] | None = None
) -> Correction:
    """Returns the two closest landmarks, a description of the view, and why an earlier answer was wrong.

    Args:
        situation: positions of at least two landmarks in the view.
        wrong: ids of the earlier answer.
        rng: draws the wordings.
        names: names of landmarks by id; by default the paper's.
    """
    names = names or {}
    ranked = situation.closest()
    first, second = ranked[:_CLOSEST_NAMED]
    sentences = []
    for key in (first, second):
        sides = [true_claim(axis, key, MIDDLE, situation) for axis in (0, 1)]
        across, along = (_worded(claim, names, rng) for claim in sides)
        sentences.append(_sentence(f"{across}, and it{along.removeprefix(_phrase(key, names))}"))
    seen = [key for key in ranked if situation.is_visible(key)]
    if seen:
        sentences.insert(0, _sentence(_worded(Claim("seen", seen[0]), names, rng)))
    worst = next((key for key in wrong if key not in (first, second) and key in ranked), None)
    if worst is not None:
        sentences.append(_sentence(_worded(Claim("farther", worst, first), names, rng)))
    return Correction(" ".join(sentences), (first, second))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


@cache
def _ids_by_phrase() -> dict[str, int]:
    names = {name.lower(): item.id for item in LANDMARKS for name in (item.name, *item.synonyms)}
    return {MIDDLE_NAME: MIDDLE, **names, **{f"the {name}": key for name, key in names.items()}}


def _claim(text: str) -> Claim | None:
    ids, text = _ids_by_phrase(), text.lower()
    for relation, templates in _WORDINGS.items():
        for template in templates:
            before, words, after = text.partition(template.removeprefix("{a}").removesuffix("{b}"))
            compares = template.endswith("{b}")
            if words and before in ids and (after in ids if compares else not after):
                return Claim(relation, ids[before], ids[after] if compares else MIDDLE)
    return None


def claims_of(text: str) -> list[Claim] | None:
    """Parses the claims of a text; returns None if a part of it is not in the wordings of this module."""
    claims: list[Claim] = []
    for sentence in text.split(". "):
        for clause in re.split(", (?:and|(?=which ))", sentence.rstrip(".").split(", so ")[0]):
            pronoun, _, rest = clause.strip().partition(" ")
            if pronoun in ("it", "which") and claims:
                meant = claims[-1].subject if pronoun == "it" else claims[-1].other
                clause = f"{_phrase(meant, {})} {rest}"
            claim = _claim(clause.strip())
            if claim is None:
                return None
            claims.append(claim)
    return claims


def reasoning_is_true(text: str, situation: Situation, lattice: MoveLattice | None = None) -> bool:
    """Returns whether a text consists of claims in the wordings of this module that are all true."""
    claims = claims_of(text)
    return claims is not None and all(is_true(claim, situation, lattice) for claim in claims)


def reasons_are_true(answer: Navigation, situation: Situation, target: int, lattice: MoveLattice | None = None) -> bool:
    """Returns whether both reasons of a move are true, state it, and speak for its direction by the target's position.

    Args:
        answer: the move with its reasons.
        situation: positions of the landmarks in the view.
        target: id of the target.
        lattice: the moves whose lengths define "slightly", "moderately" and "far".
    """
    for axis, (text, step) in enumerate(_reasons(answer)):
        if not text.endswith(f", so {conclusion(axis, step)}.") or not reasoning_is_true(text, situation, lattice):
            return False
        stated = [_stated_step(claim, axis) for claim in claims_of(text) or () if claim.subject == target]
        if not any(value is not None and np.sign(value) == np.sign(step) for value in stated):
            return False
    return True


def _reasons(answer: Navigation) -> tuple[tuple[str, int], tuple[str, int]]:
    return (answer.reason_x, answer.move.x_step), (answer.reason_y, answer.move.y_step)


def _stated_step(claim: Claim, axis: int) -> int | None:
    """Returns the step that covers the stated distance best; None for a claim about something else than the axis."""
    stated_axis, step = STEPS.get(claim.relation, (None, 0))
    return step if stated_axis == axis else None


def reasons_are_relevant(
    answer: Navigation, situation: Situation, target: int, lattice: MoveLattice | None = None
) -> bool:
    """Returns whether both reasons of a move are true and imply its direction and extent in this view.

    A reason implies a step if it states that distance and side of the target from the center of the image, or from a
    landmark in the image that is near the center along the axis, and the step covers this distance best. A claim that
    is true in every view of the patient, such as one about two landmarks outside the image, implies nothing.

    Args:
        answer: the move with its reasons.
        situation: positions of the landmarks in the view.
        target: id of the target.
        lattice: the moves whose lengths define "slightly", "moderately" and "far".
    """
    if not reasons_are_true(answer, situation, target, lattice):
        return False
    return all(
        any(
            claim.subject == target
            and _stated_step(claim, axis) == step
            and _is_near_center(claim.other, axis, situation, lattice)
            for claim in claims_of(text) or ()
        )
        for axis, (text, step) in enumerate(_reasons(answer))
    )


def _is_near_center(key: int, axis: int, situation: Situation, lattice: MoveLattice | None) -> bool:
    """Returns whether a landmark is in the image and near its center along an axis; True for `MIDDLE`."""
    if key == MIDDLE:
        return True
    return situation.is_visible(key) and is_true(Claim(_RELATIONS[axis, 0], key), situation, lattice)
