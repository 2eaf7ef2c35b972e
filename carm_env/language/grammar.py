"""Parser of the paper's answer formats, for training data, rewards, the environment and evaluation.

| kind | answer |
|---|---|
| ``ranking`` | ``[11: Carina, 13: Left hemidiaphragm, 5: Left shoulder blade tip]``, closest first |
| ``pair`` | ``[10,11]``, the two closest landmarks |
| ``box`` | ``[412,80,655,301]``, left, top, right and bottom of a region in thousandths of the image |
| ``correction`` | ``<response>`` with ``<visual_reasoning>`` and ``<landmarks>[14,12]</landmarks>`` |
| ``navigation`` | ``<output>`` with the closest landmark, and direction, extent and reason for each axis |
| ``question`` | ``<question>`` to the operator, with ``<about>`` (a landmark) and ``<text>``; ours, instead of a move |
| ``body_parts`` | ``[3,14]``, the two likeliest body parts, counted from 0 (`carm_env.body_parts`) |
| ``class`` | ``[3]``, the class of an image, counted from 0 in the list of the prompt |

The strict reading accepts a text that is exactly one answer; otherwise an `AnswerError` names the fault. White space
around an answer and between its tags is allowed. Nothing is unescaped and no answer nests, so length and depth are
bounded. The lenient reading (`carm_env.language.lenient`) also accepts what models write that were not trained on these
formats. Both readings agree on every text that is strictly valid. The messages of `AnswerError` are part of prompts: a
change of their wording increases `PROMPT_VERSIONS`.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", sections 2.1, 2.3 and 3.3, and the
answers that its authors published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from carm_env.actions import X_DIRECTIONS, Y_DIRECTIONS, Extent, Move
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.language.answers import (
    AnswerError,
    BodyParts,
    Box,
    Correction,
    Fault,
    ImageClass,
    Navigation,
    Pair,
    Question,
    Ranking,
    is_plain,
    quoted,
)
from carm_env.language.lenient import LENIENT_READERS, without_reasoning
from carm_env.system.errors import UnknownNameError

MAX_ANSWER_CHARACTERS = 4000
READINGS = ("strict", "lenient")


def _stripped(text: str) -> str:
    """Strips white space and raises the faults that are common to all kinds."""
    if not isinstance(text, str):
        raise AnswerError(Fault.FORM, f"the answer is a {type(text).__name__}, expected text.")
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(
            Fault.TOO_LONG, f"the answer has {len(text)} characters, expected at most {MAX_ANSWER_CHARACTERS}."
        )
    bare = text.strip(" \t\r\n")
    if not bare:
        raise AnswerError(Fault.EMPTY, "the answer is empty.")
    for character in bare:
        if character not in "\t\r\n" and not is_plain(character):
            raise AnswerError(
                Fault.CHARACTERS,
                f"the answer holds U+{ord(character):04X}, expected no control characters or right-to-left letters.",
            )
    if "`" in bare:
        raise AnswerError(Fault.FENCE, f"the answer is {quoted(bare)}, expected it without a code fence.")
    if "&" in bare or "<!" in bare or "<?" in bare:
        raise AnswerError(Fault.CHARACTERS, f"the answer is {quoted(bare)}, expected no entities and no declarations.")
    return bare


_LISTED = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = "(?:0|[1-9][0-9]{0,3})"
_RANKED = re.compile(rf"({_NUMBER}): ([A-Za-z0-9][A-Za-z0-9 ]*)")
_NUMBERS = re.compile(rf"{_NUMBER}(?:,{_NUMBER})*")


def _one_list(text: str, expected: str) -> str:
    found = _LISTED.findall(text)
    if len(found) > 1:
        raise AnswerError(Fault.SEVERAL, f"the answer is {quoted(text)}, expected one list, got {len(found)}.")
    if not found or not _LISTED.fullmatch(text):
        raise AnswerError(Fault.FORM, f"the answer is {quoted(text)}, expected {expected} and nothing else.")
    inside: str = found[0]
    return inside


def _parse_ranking(text: str) -> Ranking:
    inside = _one_list(text, "[id: name, id: name, id: name]")
    parts = [_RANKED.fullmatch(part) for part in inside.split(", ")]
    if not all(parts):
        raise AnswerError(Fault.FORM, f"the answer is {quoted(text)}, expected [id: name, id: name, id: name].")
    pairs = [part.groups() for part in parts if part]
    return Ranking(tuple(int(key) for key, _ in pairs), tuple(name for _, name in pairs))


def _id_list(text: str, count: int, expected: str) -> tuple[int, ...]:
    inside = _one_list(text, expected)
    if not _NUMBERS.fullmatch(inside):
        raise AnswerError(Fault.FORM, f"the answer is {quoted(text)}, expected {expected}.")
    found = tuple(int(part) for part in inside.split(","))
    if len(found) != count:
        raise AnswerError(Fault.COUNT, f"got {len(found)} numbers, expected {count}: {expected}.")
    return found


def _parse_pair(text: str) -> Pair:
    return Pair(_id_list(text, 2, "[id,id]"))  # type: ignore[arg-type]


def _parse_body_parts(text: str) -> BodyParts:
    return BodyParts(_id_list(text, 2, "[number,number]"))  # type: ignore[arg-type]


def _parse_class(text: str) -> ImageClass:
    return ImageClass(*_id_list(text, 1, "[number]"))


def _parse_box(text: str) -> Box:
    return Box(_id_list(text, 4, "[left,top,right,bottom]"))  # type: ignore[arg-type]


def _document(*fields: str) -> re.Pattern[str]:
    """Returns a pattern of tags separated by optional white space; a field without brackets is an element with text."""
    parts = (name if name[0] == "<" else f"<{name}>(?P<{name}>[^<>]*)</{name}>" for name in fields)
    return re.compile(r"\s*".join(parts))


_NAVIGATION = _document(
    "<output>", "<step1>", "context", "</step1>", "<step2>", "x", "extent_x", "reason_x", "y", "extent_y", "reason_y",
    "</step2>", "</output>",
)  # fmt: skip
_CORRECTION = _document("<response>", "visual_reasoning", "landmarks", "</response>")
_QUESTION = _document("<question>", "about", "text", "</question>")


_ASKS = re.compile(r"<question\s*>", re.IGNORECASE)


def _fields(text: str, pattern: re.Pattern[str], root: str) -> dict[str, str]:
    opened = text.count(f"<{root}>")
    if opened > 1:
        raise AnswerError(Fault.SEVERAL, f"the answer holds {opened} <{root}> documents, expected one.")
    found = pattern.fullmatch(text)
    if found:
        return {name: " ".join(value.split()) for name, value in found.groupdict().items()}
    if pattern.search(text):
        raise AnswerError(
            Fault.FORM, f"the answer is {quoted(text)}, expected nothing before or after <{root}>..</{root}>."
        )
    wanted = [name for name in pattern.groupindex if f"<{name}>" not in text or f"</{name}>" not in text]
    what = f"<{wanted[0]}> is missing" if wanted else "its tags are not in the expected order"
    raise AnswerError(Fault.FORM, f"the answer is {quoted(text)}, expected one <{root}> document; {what}.")


def _parse_correction(text: str) -> Correction:
    fields = _fields(text, _CORRECTION, "response")
    return Correction(fields["visual_reasoning"], _parse_pair(fields["landmarks"]).landmarks)


def _parse_navigation(text: str) -> Navigation:
    fields = _fields(text, _NAVIGATION, "output")
    context = _named_landmark(fields, "context")
    extents = tuple(item.value for item in Extent)
    allowed = {"x": X_DIRECTIONS, "extent_x": extents, "y": Y_DIRECTIONS, "extent_y": extents}
    words = [fields[tag] for tag in allowed]
    for tag, choices in allowed.items():
        if fields[tag] not in choices:
            raise AnswerError(Fault.MOVE, f"<{tag}> is {quoted(fields[tag])}, expected one of: {', '.join(choices)}.")
    try:
        move = Move.from_words(*words)
    except ValueError as error:
        raise AnswerError(Fault.MOVE, str(error)) from error
    return Navigation(context, move, fields["reason_x"], fields["reason_y"], fields["context"])


def _named_landmark(fields: Mapping[str, str], tag: str) -> int:
    name = fields[tag]
    try:
        # landmark() reads hyphens as spaces; "-1" must not be read as 1.
        if not name.isascii() or name.startswith("-"):
            raise UnknownNameError("landmark", name, [item.name for item in LANDMARKS])
        return landmark(name).id
    except UnknownNameError as error:
        raise AnswerError(
            Fault.LANDMARK, f"<{tag}> is {quoted(name)}, expected the name of a landmark in the list."
        ) from error


def _parse_question(text: str) -> Question:
    fields = _fields(text, _QUESTION, "question")
    return Question(_named_landmark(fields, "about"), fields["text"])


_PARSERS: dict[str, Callable[[str], Any]] = {
    "ranking": _parse_ranking,
    "pair": _parse_pair,
    "box": _parse_box,
    "correction": _parse_correction,
    "navigation": _parse_navigation,
    "question": _parse_question,
    "body_parts": _parse_body_parts,
    "class": _parse_class,
}
ANSWER_KINDS = tuple(_PARSERS)


def parse(kind: str, text: str, reading: str = "strict") -> Any:
    """Parses an answer.

    Args:
        kind: one of `ANSWER_KINDS`.
        text: the whole output of the model.
        reading: ``strict``, or ``lenient`` to score the outputs of third-party models.

    Returns:
        `Ranking`, `Pair`, `Box`, `Correction`, `Navigation`, `Question`, `BodyParts` or `ImageClass`.

    Raises:
        AnswerError: the text is not a valid answer. No text causes any other error.
        UnknownNameError: unknown kind or reading.

    >>> parse("pair", "[10,11]")
    Pair(landmarks=(10, 11))
    >>> parse("pair", "Probably [10, 11].", reading="lenient").landmarks
    (10, 11)
    """
    if kind not in _PARSERS:
        raise UnknownNameError("kind of answer", kind, ANSWER_KINDS)
    if reading not in READINGS:
        raise UnknownNameError("reading", reading, READINGS)
    try:
        return _PARSERS[kind](_stripped(text))
    except AnswerError:
        if reading == "strict":
            raise
    return LENIENT_READERS[kind](without_reasoning(text))


def parse_step(text: str, reading: str = "strict") -> Navigation | Question:
    """Parses an answer to the question of the next step: a move, or a question to the operator.

    Args:
        text: the whole output of the model.
        reading: ``strict`` or ``lenient``.

    Raises:
        AnswerError: the text is neither, or both.
    """
    answer = text
    if reading == "lenient":
        try:
            # A question in the model's reasoning is not asked.
            answer = without_reasoning(text)
        except AnswerError:
            answer = text
    step: Navigation | Question = parse("question" if _ASKS.search(str(answer)) else "navigation", text, reading)
    return step


def is_valid(kind: str, text: str) -> bool:
    """Returns whether a text is an answer in the strict reading.

    >>> is_valid("pair", "[10,11]"), is_valid("pair", "[10, 11]")
    (True, False)
    """
    try:
        parse(kind, text)
    except AnswerError:
        return False
    return True
