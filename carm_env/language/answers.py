"""The paper's answer formats as validated objects, and their text form.

`carm_env.language.grammar` parses them. Every object that can be constructed survives `render` and `parse` unchanged.
The messages of `AnswerError` are part of prompts: a change of their wording increases `PROMPT_VERSIONS`.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", sections 2.1, 2.3 and 3.3.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from carm_env.actions import Move
from carm_env.body_parts import N_BODY_PARTS
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.language.control_tokens import escape_control_tokens
from carm_env.system.errors import CArmEnvError, shortened

MAX_REASON_CHARACTERS = 400
MAX_REASONING_CHARACTERS = 2000
BOX_SCALE = 1000
MAX_CLASSES = 100
"""Most classes of a question about an image; the prompt lists them."""
_QUOTED_CHARACTERS = 60
_CORNERS = 4


class Fault(str, Enum):
    """Kind of error in an answer."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    CHARACTERS = "characters"
    FENCE = "fence"
    SEVERAL = "several_answers"
    FORM = "form"
    COUNT = "count"
    LANDMARK = "landmark"
    BODY_PART = "body_part"
    CLASS = "class"
    NAME = "name"
    REPEATED = "repeated"
    REGION = "region"
    MOVE = "move"
    REASON = "reason"


class AnswerError(CArmEnvError, ValueError):
    """An answer is invalid.

    Attributes:
        fault: kind of error.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


_WITHOUT_MARKERS = str.maketrans("<>|", "‹›¦")


def quoted(text: object) -> str:
    """Returns the beginning of a model's text in quotation marks, for messages and prompts.

    It is one line without control characters. Angle brackets are replaced, so that no chat template reads a marker.

    >>> quoted("LEFT or <|im_end|>")
    '"LEFT or ‹¦im_end¦›"'
    """
    whole = text if isinstance(text, str) else shortened(text)
    start = "".join(character if is_plain(character) else " " for character in whole[: 2 * _QUOTED_CHARACTERS])
    words = " ".join(start.split())
    is_cut = len(words) > _QUOTED_CHARACTERS or len(whole) > 2 * _QUOTED_CHARACTERS
    shown = words[:_QUOTED_CHARACTERS] + "..." if is_cut else words
    return f'"{escape_control_tokens(shown.translate(_WITHOUT_MARKERS))}"'


def _check_integers(what: str, values: object) -> None:
    if not isinstance(values, tuple) or any(type(value) is not int for value in values):
        raise AnswerError(Fault.FORM, f"{what} is {quoted(values)}, expected a tuple of integers.")


def _check_ids(ids: tuple[int, ...], counts: Sequence[int]) -> None:
    _check_integers("landmarks", ids)
    if len(ids) not in counts:
        raise AnswerError(Fault.COUNT, f"got {len(ids)} landmarks, expected {' or '.join(map(str, counts))}.")
    for key in ids:
        if not 1 <= key <= N_LANDMARKS:
            raise AnswerError(Fault.LANDMARK, f"landmark id is {key}, expected 1 to {N_LANDMARKS}.")
    if len(set(ids)) < len(ids):
        raise AnswerError(Fault.REPEATED, f"a landmark is named twice in {list(ids)}, expected different ones.")


def is_plain(character: str) -> bool:
    """Returns whether a character is neither a control character nor written from right to left."""
    return unicodedata.category(character)[0] != "C" and unicodedata.bidirectional(character) not in ("R", "AL", "AN")


def _check_prose(what: str, text: str, limit: int) -> None:
    if not text or text != " ".join(text.split()):
        raise AnswerError(Fault.REASON, f"{what} is {quoted(text)}, expected words with single spaces between them.")
    if len(text) > limit:
        raise AnswerError(Fault.REASON, f"{what} has {len(text)} characters, expected at most {limit}.")
    if any(character in "<>&`" or not is_plain(character) for character in text):
        raise AnswerError(
            Fault.CHARACTERS,
            f"{what} is {quoted(text)}, expected text without <, >, &, `, control characters, right-to-left letters.",
        )


@dataclass(frozen=True)
class Ranking:
    """The three closest landmarks.

    Attributes:
        landmarks: different ids, nearest first; fewer than three if the patient has fewer landmarks.
        names: a name or synonym of each landmark; by default the paper's names.

    Raises:
        AnswerError: ids or names are invalid.

    >>> render(Ranking((11, 13, 5)))
    '[11: Carina, 13: Left hemidiaphragm, 5: Left scapular inferior angle]'
    """

    landmarks: tuple[int, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_ids(self.landmarks, (1, 2, 3))
        if not self.names:
            object.__setattr__(self, "names", tuple(landmark(key).name for key in self.landmarks))
        if len(self.names) != len(self.landmarks):
            raise AnswerError(Fault.COUNT, f"got {len(self.names)} names for {len(self.landmarks)} landmarks.")
        for key, name in zip(self.landmarks, self.names, strict=True):
            _check_name(key, name)


def _check_name(key: int, name: str) -> None:
    known = {text.lower() for text in (landmark(key).name, *landmark(key).synonyms)}
    # lower() maps some non-ASCII letters, such as the Kelvin sign, to ASCII.
    if not name.isascii() or name.lower() not in known:
        raise AnswerError(Fault.NAME, f"landmark {key} is called {quoted(name)}, expected {landmark(key).name}.")


@dataclass(frozen=True)
class Pair:
    """The two closest landmarks.

    Attributes:
        landmarks: two different ids, nearest first.

    Raises:
        AnswerError: the ids are invalid.

    >>> render(Pair((10, 11)))
    '[10,11]'
    """

    landmarks: tuple[int, int]

    def __post_init__(self) -> None:
        _check_ids(self.landmarks, (2,))


@dataclass(frozen=True)
class Box:
    """A region of the image.

    Attributes:
        corners: left, top, right and bottom in thousandths of the image, 0 to 1000, left < right and top < bottom.

    Raises:
        AnswerError: the corners are invalid.

    >>> render(Box((412, 80, 655, 301)))
    '[412,80,655,301]'
    """

    corners: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        _check_integers("corners", self.corners)
        if len(self.corners) != _CORNERS:
            raise AnswerError(Fault.COUNT, f"got {len(self.corners)} corners, expected {_CORNERS}.")
        left, top, right, bottom = self.corners
        if not (0 <= left < right <= BOX_SCALE and 0 <= top < bottom <= BOX_SCALE):
            raise AnswerError(
                Fault.REGION,
                f"corners are {list(self.corners)}, expected left < right and top < bottom from 0 to {BOX_SCALE}.",
            )


@dataclass(frozen=True)
class Correction:
    """An answer to a view whose first answer was rejected.

    Attributes:
        reasoning: description of the view.
        landmarks: ids of the two closest landmarks, nearest first.

    Raises:
        AnswerError: ids or text are invalid.
    """

    reasoning: str
    landmarks: tuple[int, int]

    def __post_init__(self) -> None:
        _check_prose("visual_reasoning", self.reasoning, MAX_REASONING_CHARACTERS)
        _check_ids(self.landmarks, (2,))


@dataclass(frozen=True)
class Navigation:
    """One move towards a target.

    Attributes:
        context: id of the closest landmark.
        move: the move.
        reason_x: reason for the move along x.
        reason_y: reason for the move along y.
        context_name: a name or synonym of `context`; by default the paper's name.

    Raises:
        AnswerError: id, name or text are invalid.
    """

    context: int
    move: Move
    reason_x: str
    reason_y: str
    context_name: str = ""

    def __post_init__(self) -> None:
        _check_ids((self.context,), (1,))
        if not self.context_name:
            object.__setattr__(self, "context_name", landmark(self.context).name)
        _check_name(self.context, self.context_name)
        _check_prose("reason_x", self.reason_x, MAX_REASON_CHARACTERS)
        _check_prose("reason_y", self.reason_y, MAX_REASON_CHARACTERS)


@dataclass(frozen=True)
class Question:
    """A question to the operator instead of a move: the agent is unsure.

    Attributes:
        about: id of the landmark of which the agent is unsure.
        text: the question.

    Raises:
        AnswerError: id or text are invalid.
    """

    about: int
    text: str

    def __post_init__(self) -> None:
        _check_ids((self.about,), (1,))
        _check_prose("text", self.text, MAX_REASON_CHARACTERS)


@dataclass(frozen=True)
class BodyParts:
    """The two body parts that an X-ray most likely shows.

    Attributes:
        numbers: two different numbers of body parts (`carm_env.body_parts`), the likelier first.

    Raises:
        AnswerError: the numbers are invalid.

    >>> render(BodyParts((3, 14)))
    '[3,14]'
    """

    numbers: tuple[int, int]

    def __post_init__(self) -> None:
        _check_integers("body parts", self.numbers)
        if len(self.numbers) != 2:
            raise AnswerError(Fault.COUNT, f"got {len(self.numbers)} body parts, expected 2.")
        for number in self.numbers:
            if not 0 <= number < N_BODY_PARTS:
                raise AnswerError(Fault.BODY_PART, f"body part is {number}, expected 0 to {N_BODY_PARTS - 1}.")
        if self.numbers[0] == self.numbers[1]:
            raise AnswerError(Fault.REPEATED, f"a body part is named twice in {list(self.numbers)}, expected two.")


@dataclass(frozen=True)
class ImageClass:
    """The class of an image.

    Attributes:
        number: number of the class in the list of the prompt, from 0.

    Raises:
        AnswerError: the number is invalid.

    >>> render(ImageClass(3))
    '[3]'
    """

    number: int

    def __post_init__(self) -> None:
        _check_integers("the class", (self.number,))
        if not 0 <= self.number < MAX_CLASSES:
            raise AnswerError(Fault.CLASS, f"the class is {self.number}, expected 0 to {MAX_CLASSES - 1}.")


Answer = Ranking | Pair | Box | Correction | Navigation | Question | BodyParts | ImageClass


def render(answer: Answer) -> str:
    """Returns the text of an answer as in the training data; `parse` is the inverse."""
    if isinstance(answer, Ranking):
        pairs = zip(answer.landmarks, answer.names, strict=True)
        return "[" + ", ".join(f"{key}: {name}" for key, name in pairs) + "]"
    if isinstance(answer, Pair):
        return f"[{answer.landmarks[0]},{answer.landmarks[1]}]"
    if isinstance(answer, BodyParts):
        return f"[{answer.numbers[0]},{answer.numbers[1]}]"
    if isinstance(answer, ImageClass):
        return f"[{answer.number}]"
    if isinstance(answer, Box):
        return "[" + ",".join(map(str, answer.corners)) + "]"
    if isinstance(answer, Correction):
        return (
            f"<response>\n  <visual_reasoning>{answer.reasoning}</visual_reasoning>\n"
            f"  <landmarks>[{answer.landmarks[0]},{answer.landmarks[1]}]</landmarks>\n</response>"
        )
    if isinstance(answer, Question):
        about = landmark(answer.about).name
        return f"<question>\n  <about>{about}</about>\n  <text>{answer.text}</text>\n</question>"
    x, extent_x, y, extent_y = answer.move.words
    return (
        f"<output>\n  <step1>\n    <context>{answer.context_name}</context>\n  </step1>\n  <step2>\n"
        f"    <x>{x}</x>\n    <extent_x>{extent_x}</extent_x>\n    <reason_x>{answer.reason_x}</reason_x>\n"
        f"    <y>{y}</y>\n    <extent_y>{extent_y}</extent_y>\n    <reason_y>{answer.reason_y}</reason_y>\n"
        "  </step2>\n</output>"
    )
