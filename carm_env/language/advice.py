"""Advice of a clinician: what it means, and sentences that say it.

`reword` writes a meaning as a sentence, `carm_env.language.advice_reader` reads the meanings of any text.

Left and right are the patient's. In frontal X-rays the patient's left is on the right of the image, so "right of the
image" means left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from carm_env.landmarks import landmark
from carm_env.language.reasons import with_article
from carm_env.system.errors import UnknownNameError

KINDS = (
    "verdict", "confirmation", "direction", "distance", "side", "landmark", "stop", "target", "again",
)  # fmt: skip
"""Kinds of advice, in order: the answer or the view is wrong; it is right; a direction; a distance; the other side of
the body; the landmark that is shown; a stop; another target; a request to look again, without a verdict."""
_NAMED = ("verdict", "confirmation", "landmark", "target")
NEEDS_NAME = ("landmark", "target")
"""Kinds that always name a landmark."""
_SLIGHT_MM, _FAR_MM = 45.0, 75.0
"""Distances below are slight, above are far; between them they are moderate (SMALL, MODERATE and LARGE moves)."""


@dataclass(frozen=True)
class Advice:
    """One meaning.

    Attributes:
        kind: one of `KINDS`.
        landmark: id of the landmark that is named; 0 for none.
        x: 1 for the patient's left, -1 for the right, 0 for neither.
        y: 1 for the head, -1 for the feet, 0 for neither.
        distance_mm: the distance that is stated; None for none.

    Raises:
        UnknownNameError: an unknown kind or landmark.
        ValueError: a value that the kind does not have, or one that it lacks.
    """

    kind: str
    landmark: int = 0
    x: int = 0
    y: int = 0
    distance_mm: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("kind of advice", self.kind, KINDS)
        if self.landmark:
            landmark(self.landmark)
        if self.x not in (-1, 0, 1) or self.y not in (-1, 0, 1):
            raise ValueError(f"x and y are {self.x} and {self.y}, expected -1, 0 or 1.")
        is_direction = self.kind == "direction"
        if is_direction != bool(self.x or self.y):
            raise ValueError(f"advice of kind {self.kind} has x {self.x} and y {self.y}.")
        if self.landmark and self.kind not in _NAMED or not self.landmark and self.kind in NEEDS_NAME:
            raise ValueError(f"advice of kind {self.kind} has landmark {self.landmark}.")
        if self.kind == "distance" and self.distance_mm is None:
            raise ValueError("advice of kind distance has no distance.")
        if self.distance_mm is not None and not (
            self.kind in ("direction", "distance") and 0 < self.distance_mm <= MAX_DISTANCE_MM
        ):
            raise ValueError(f"advice of kind {self.kind} has the distance {self.distance_mm} mm.")


MAX_DISTANCE_MM = 2000.0
"""No distance in a patient is longer."""

_SIDE_NAMES, _ALONG_NAMES = {1: "left", -1: "right"}, {1: "up", -1: "down"}


def meaning(found: Sequence[Advice]) -> str:
    """Returns meanings in a few fixed words, for prompts.

    >>> meaning([Advice("verdict", 7), Advice("direction", y=1, distance_mm=30)])
    'not Left elbow, up slightly'
    >>> meaning(())
    'unclear'
    """
    return ", ".join(_in_fixed_words(advice) for advice in found) or "unclear"


def _in_fixed_words(advice: Advice) -> str:
    name = landmark(advice.landmark).name if advice.landmark else ""
    if advice.kind in ("direction", "distance"):
        sides = [_ALONG_NAMES[advice.y]] if advice.y else []
        sides += [_SIDE_NAMES[advice.x]] if advice.x else []
        words = [" and ".join(sides) or "farther"]
        if advice.distance_mm is not None:
            far = advice.distance_mm
            words.append("slightly" if far < _SLIGHT_MM else "far" if far > _FAR_MM else "moderately")
        return " ".join(words)
    return {
        "verdict": f"not {name}" if name else "wrong",
        "confirmation": f"yes {name}" if name else "yes",
        "side": "other side",
        "landmark": f"here {name}",
        "stop": "stop",
        "target": f"target {name}",
        "again": "again",
    }[advice.kind]


# Sentences for meanings. {name} is a name with its article, {Name} the same at the beginning of a sentence.
_SENTENCES: dict[str, tuple[str, ...]] = {
    "verdict": (
        "That is not right.", "No, that is wrong.", "That is incorrect.", "I disagree.", "No.", "That is not correct.",
        "You have got it wrong.", "I am afraid that is wrong.", "Wrong.", "That response is incorrect.",
    ),
    "verdict name": (
        "That is not {name}.", "No, this is not {name}.", "You are not at {name}.", "That cannot be {name}.",
        "This isn't {name}.", "No, it is not {name}.", "I do not see {name} here.", "{Name} is not what we see here.",
        "That is wrong, it is not {name}.",
    ),
    "confirmation": (
        "Yes, that is right.", "Correct.", "Exactly.", "Good, go on.", "You are on the right track.", "I agree.",
        "Yes.", "That's right, carry on.", "Well done, go on.", "That is correct.",
    ),
    "confirmation name": (
        "Yes, that is {name}.", "I agree, this is {name}.", "Correct, it is {name}.", "Yes, {name}.",
        "Right, we see {name}.", "Exactly, {name}.",
    ),
    "landmark": (
        "This is {name}.", "What you see is {name}.", "We are at {name}.", "I see {name} in the middle.",
        "It is {name}.", "That is {name}.", "This looks like {name}.", "You are looking at {name}.", 
        "Here we have {name}.",
    ),
    "target": (
        "Show me {name} instead.", "I would rather see {name}.", "Take me to {name} instead.",
        "Let us go to {name} instead.", "Please find {name} instead.", "I want to see {name} now.",
        "Change of plan: go to {name}.", "Could you show {name} instead?", "The new target is {name}.",
    ),
    "side": (
        "You are on the wrong side.", "Wrong side.", "It is on the other side.",
        "Look at the opposite side of the body.", 
        "You have mixed up left and right.", "That is the other side of the patient.", "Go to the other side.",
    ),
    "stop": (
        "Stop.", "Stop there.", "Hold it.", "That is enough, stop.", "Do not move any further.", "I will take over.",
        "Please stop now.", "Halt.", "Stop here, I take over.",
    ),
    "again": (
        "Look at the picture once more.", "Look again.", "Please check again.", "Take another look.",
        "Have another look at the image.", "Look at it once more.",
    ),
    "distance": (
        "About {distance} more.", "{Distance} more.", "It is about {distance} away.", "Roughly {distance} further.",
        "Another {distance}.", "You are still {distance} away.",
    ),
    "direction": (
        "Look {more}.", "Go {more}.", "It is {more}.", "Move {towards}.", "Go {towards}.", "You need to go {towards}.",
        "Look further {towards}.", "Try {more}.", "It lies {more}.", "You are too {opposite}.",
        "Move the arm {towards}.",
    ),
    "direction slightly": (
        "Go a bit {more}.", "A little {more}.", "Slightly {more}.", "Move slightly {towards}.", "Just a touch {more}.",
        "You are a little too {opposite}.", "Go {towards}, about {distance}.",
    ),
    "direction moderately": (
        "Go about {distance} {towards}.", "Somewhat {more}.", "Move {distance} {towards}.", "It is {distance} {more}.",
        "Quite a bit {more}.", "About {distance} {more}.",
    ),
    "direction far": (
        "Go much {more}.", "A lot {more}.", "It is far {more}.", "You are much too {opposite}.", "Move far {towards}.",
        "Go a long way {towards}.", "It lies at least {distance} {more}.",
    ),
}  # fmt: skip
_ByStep = dict[str, dict[int, tuple[str, ...]]]
_MORE: _ByStep = {
    "y": {1: ("higher", "further up", "more cranial", "further towards the head", "closer to the head"),
          -1: ("lower", "further down", "more caudal", "further towards the feet", "closer to the feet")},
    "x": {1: ("further to the patient's left", "more to the left", "further left", "more to the patient's left"),
          -1: ("further to the patient's right", "more to the right", "further right", "more to the patient's right")},
}  # fmt: skip
_TOWARDS: _ByStep = {
    "y": {1: ("up", "towards the head", "cranially", "upwards"),
          -1: ("down", "towards the feet", "caudally", "downwards")},
    "x": {1: ("to the patient's left", "to the left", "towards the patient's left"),
          -1: ("to the patient's right", "to the right", "towards the patient's right")},
}  # fmt: skip
_OPPOSITE: _ByStep = {
    "y": {1: ("low", "far down", "caudal"), -1: ("high", "far up", "cranial")},
    "x": {1: ("far to the right", "far right"), -1: ("far to the left", "far left")},
}
_DISTANCES = (
    ("a finger's breadth", 20.0),
    ("two fingers' breadth", 40.0),
    ("a hand's breadth", 85.0),
    ("the width of a hand", 85.0),
)


def reword(advice: Advice, rng: Generator) -> str:
    """Writes a meaning as a sentence, whose wording is drawn."""
    if advice.kind == "direction":
        return _reworded_direction(advice, rng)
    if advice.kind == "distance" and advice.distance_mm is not None:
        distance = _distance(advice.distance_mm, rng)
        return _draw(_SENTENCES["distance"], rng).format(distance=distance, Distance=_capital(distance))
    if not advice.landmark:
        return _draw(_SENTENCES[advice.kind], rng)
    item = landmark(advice.landmark)
    name = with_article(_draw((item.name, item.name, *item.synonyms), rng))
    key = advice.kind if advice.kind in NEEDS_NAME else f"{advice.kind} name"
    return _draw(_SENTENCES[key], rng).format(name=name, Name=_capital(name))


def _reworded_direction(advice: Advice, rng: Generator) -> str:
    key, distance_mm = "direction", advice.distance_mm
    if distance_mm is not None:
        degree = _in_fixed_words(Advice("distance", distance_mm=distance_mm)).removeprefix("farther ")
        key = f"direction {degree}"
    sides = [(name, step) for name, step in (("y", advice.y), ("x", advice.x)) if step]
    sentence = _draw(_SENTENCES[key], rng)
    distance = _distance(distance_mm, rng) if distance_mm is not None else ""

    def both(table: _ByStep) -> str:
        return " and ".join(_draw(table[name][step], rng) for name, step in sides)

    return sentence.format(more=both(_MORE), towards=both(_TOWARDS), opposite=both(_OPPOSITE), distance=distance)


def _distance(distance_mm: float, rng: Generator) -> str:
    """Returns words for a distance, within its degree."""
    degree = _in_fixed_words(Advice("distance", distance_mm=distance_mm))
    fitting = [
        words for words, mm in _DISTANCES
        if abs(mm - distance_mm) < 0.25 * distance_mm and _in_fixed_words(Advice("distance", distance_mm=mm)) == degree
    ]  # fmt: skip
    rounded = max(10, 10 * round(distance_mm / 10))
    if _in_fixed_words(Advice("distance", distance_mm=float(rounded))) != degree:
        rounded = round(distance_mm)
    return _draw((f"{rounded / 10:g} cm", f"{rounded} mm", *fitting), rng)


def _draw(choices: Sequence[str], rng: Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
