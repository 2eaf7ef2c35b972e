"""Lenient reading of answers, for models that were not trained on the paper's formats.

Accepted beside the strict form: reasoning in ``<think>`` before the answer, a code fence, prose before and after, tags
and words in any case, fields in any order, entities and unescaped ampersands, missing reasons, and one JSON object with
the same fields. A reply is never guessed at: if it holds two different answers, a field twice with different values, or
a word that is not in the format, it is not readable. The format itself, repeated by the model, is no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from carm_env.actions import X_DIRECTIONS, Y_DIRECTIONS, Extent, Move
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.language.answers import (
    MAX_REASON_CHARACTERS,
    MAX_REASONING_CHARACTERS,
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
from carm_env.system.errors import UnknownNameError

MAX_REPLY_CHARACTERS = 100_000
"""Limit of a reply with its reasoning."""
MAX_ANSWER_CHARACTERS = 20_000
"""Limit of a reply without its reasoning."""
NO_REASON = "none given"
_MOST_JSON_STARTS = 16
_DEEPEST_JSON = 5

_REASONING_TAG = re.compile(r"<(/?)(?:think|thinking|reasoning)>", re.IGNORECASE)
_NAVIGATION_FIELDS = ("context", "x", "extent_x", "reason_x", "y", "extent_y", "reason_y")
_CORRECTION_FIELDS = ("visual_reasoning", "landmarks")
_QUESTION_FIELDS = ("about", "text")
_OPTIONAL = ("reason_x", "reason_y", "visual_reasoning")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#39;": "'", "&amp;": "&"}
_EXTENTS = tuple(extent.value for extent in Extent)
_EXTENT_IN_MM = re.compile(r"(.*?)\s*\(\s*[0-9.]+\s*mm\s*\)", re.IGNORECASE)
_NUMBERED_NAME = re.compile(r"([0-9]{1,4})\s*[:.)-]?\s+(\S.*)|(\S.*?)\s*\(\s*([0-9]{1,4})\s*\)")

Parsed = TypeVar("Parsed")
Fields = Mapping[str, str]


def without_reasoning(text: str) -> str:
    """Returns a reply without the reasoning before the answer.

    Raises:
        AnswerError: the reply is too long, or its reasoning does not end.

    >>> without_reasoning("<think>It is left of [11].</think> [10,11]")
    '[10,11]'
    """
    if not isinstance(text, str):
        raise AnswerError(Fault.FORM, f"the answer is a {type(text).__name__}, expected text.")
    if len(text) > MAX_REPLY_CHARACTERS:
        raise AnswerError(
            Fault.TOO_LONG, f"the reply has {len(text)} characters, expected at most {MAX_REPLY_CHARACTERS}."
        )
    kept: list[str] = []
    start, is_reasoning = 0, False
    for tag in _REASONING_TAG.finditer(text):
        if tag[1]:
            # A chat template may have opened the reasoning.
            kept = kept if is_reasoning else []
            start, is_reasoning = tag.end(), False
        elif not is_reasoning:
            kept.append(text[start : tag.start()])
            is_reasoning = True
    if is_reasoning:
        raise AnswerError(Fault.FORM, "the reasoning does not end, expected an answer after it.")
    rest = " ".join([*kept, text[start:]]).strip()
    if not rest:
        raise AnswerError(Fault.EMPTY, "the answer is empty.")
    if len(rest) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(
            Fault.TOO_LONG, f"the answer has {len(rest)} characters, expected at most {MAX_ANSWER_CHARACTERS}."
        )
    return rest


def read_navigation(text: str) -> Navigation:
    """Reads a move; raises AnswerError if there is none, or more than one."""
    found = _documents(text, "output", _NAVIGATION_FIELDS, _is_navigation_format)
    return _single([_navigation(fields) for fields in found], lambda answer: (answer.context, answer.move))


def read_correction(text: str) -> Correction:
    """Reads a correction; raises AnswerError if there is none, or more than one."""
    found = _documents(text, "response", _CORRECTION_FIELDS, lambda fields: not _digits(fields["landmarks"]))
    return _single([_correction(fields) for fields in found], lambda answer: answer.landmarks)


def read_question(text: str) -> Question:
    """Reads a question to the operator; raises AnswerError if there is none, or more than one."""
    found = _documents(text, "question", _QUESTION_FIELDS, lambda fields: not fields["text"])
    questions = [
        Question(_landmark("about", fields["about"]), prose(fields["text"], MAX_REASON_CHARACTERS)) for fields in found
    ]
    return _single(questions, lambda answer: answer.about)


def read_ranking(text: str) -> Ranking:
    """Reads the closest landmarks; names are ignored."""
    return _single([Ranking(_ids(inside)) for inside in _lists(text)], lambda answer: answer.landmarks)


def read_pair(text: str) -> Pair:
    """Reads two landmarks."""
    return _single([_pair(inside) for inside in _lists(text)], lambda answer: answer.landmarks)


def read_body_parts(text: str) -> BodyParts:
    """Reads two body parts; names are ignored."""
    return _single([BodyParts(_ids(inside)) for inside in _lists(text)], lambda answer: answer.numbers)  # type: ignore[arg-type]


def read_class(text: str) -> ImageClass:
    """Reads the class of an image; a name after the number is ignored."""
    found = [_ids(inside) for inside in _lists(text)]
    if any(len(numbers) != 1 for numbers in found):
        raise AnswerError(Fault.COUNT, f"the answer is {quoted(text)}, expected one number in square brackets.")
    return _single([ImageClass(*numbers) for numbers in found], lambda answer: answer.number)


def read_box(text: str) -> Box:
    """Reads a region."""
    return _single([Box(_counted(inside, 4)) for inside in _lists(text)], lambda answer: answer.corners)  # type: ignore[arg-type]


LENIENT_READERS: dict[str, Callable[[str], Any]] = {
    "ranking": read_ranking,
    "pair": read_pair,
    "box": read_box,
    "correction": read_correction,
    "navigation": read_navigation,
    "question": read_question,
    "body_parts": read_body_parts,
    "class": read_class,
}
"""From a kind of answer to its reader; the text is `without_reasoning`."""


def _single(answers: Iterable[Parsed], essence: Callable[[Parsed], object]) -> Parsed:
    """Returns the only answer; equal ones count once."""
    different = {essence(answer): answer for answer in answers}
    if len(different) > 1:
        raise AnswerError(Fault.SEVERAL, f"the reply holds {len(different)} different answers, expected one.")
    return next(iter(different.values()))


def _digits(text: str) -> bool:
    return any(character.isdigit() for character in text)


def _lists(text: str) -> list[str]:
    """Returns the contents of all lists that hold a digit."""
    found = [inside for inside in re.findall(r"\[([^\[\]]*)\]", text) if _digits(inside)]
    if not found:
        raise AnswerError(Fault.FORM, f"the answer is {quoted(text)}, expected a list in square brackets.")
    return found


def _ids(inside: str) -> tuple[int, ...]:
    parts = [re.match(r"\s*[\"']?([0-9]{1,4})[\"']?\s*(?::|$)", part) for part in inside.split(",")]
    if not all(parts):
        raise AnswerError(Fault.FORM, f"the list is {quoted(inside)}, expected id: name, id: name, id: name.")
    return tuple(int(part[1]) for part in parts if part)


def _counted(inside: str, count: int) -> tuple[int, ...]:
    parts = [part.strip(" \t\r\n\"'") for part in inside.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", part, re.ASCII) for part in parts):
        raise AnswerError(Fault.FORM, f"the list is {quoted(inside)}, expected {count} numbers.")
    if len(parts) != count:
        raise AnswerError(Fault.COUNT, f"got {len(parts)} numbers, expected {count}.")
    return tuple(int(part) for part in parts)


def _pair(inside: str) -> Pair:
    return Pair(_counted(inside, 2))  # type: ignore[arg-type]


def _documents(
    text: str, root: str, names: tuple[str, ...], is_format: Callable[[Fields], bool]
) -> list[dict[str, str]]:
    """Returns the fields of each tagged document and JSON object that is an answer."""
    found = list(_tagged(text, root, names)) + list(_objects(text, names))
    answers = [fields for fields in found if not is_format(fields)]
    if not answers:
        raise AnswerError(
            Fault.FORM,
            f"the answer is {quoted(text)}, expected one <{root}> document with the tags {', '.join(names)}.",
        )
    return answers


def _tagged(text: str, root: str, names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yields the fields of each tagged document; without a root element the whole text is one document."""
    opened = [found.start() for found in re.finditer(rf"<{root}\s*>", text, re.IGNORECASE)]
    for start, stop in zip(opened or [0], [*opened[1:], len(text)], strict=True):
        values: dict[str, str] = {}
        for name in names:
            elements = re.findall(rf"<{name}\s*>([^<>]*)</{name}\s*>", text[start:stop], re.IGNORECASE)
            for element in elements:
                _add(values, name, _unescaped(element))
        yield from _complete(values, names, bool(opened))


def _add(values: dict[str, str], name: str, value: str) -> None:
    if values.setdefault(name, value) != value:
        raise AnswerError(Fault.SEVERAL, f"<{name}> has different values in one answer, expected one.")


def _complete(values: dict[str, str], names: tuple[str, ...], is_document: bool) -> Iterator[dict[str, str]]:
    """Yields the fields if none is missing; raises AnswerError if only some are missing."""
    missing = [name for name in names if name not in values and name not in _OPTIONAL]
    for name in tuple(missing):
        # An extent says nothing more about an axis that does not move.
        axis = name.removeprefix("extent_")
        if axis != name and _word(values.get(axis, "")) == "CENTER":
            values[name] = "NONE"
            missing.remove(name)
    if not missing:
        yield {name: values.get(name, "") for name in names}
    elif values or is_document:
        raise AnswerError(Fault.FORM, f"<{missing[0]}> is missing from the answer, expected all of {', '.join(names)}.")


def _unescaped(text: str) -> str:
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return " ".join(text.split())


def _objects(text: str, names: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yields the fields of each JSON object that has some of the fields."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    position, starts = 0, 0
    while (opening := text.find("{", position)) >= 0 and starts < _MOST_JSON_STARTS:
        starts += 1
        try:
            value, position = decoder.raw_decode(text, opening)
        except (ValueError, RecursionError):
            position = opening + 1
            continue
        values: dict[str, str] = {}
        _collect(value, names, values, _DEEPEST_JSON)
        if values:
            yield from _complete(values, names, True)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, including repeated ones."""


def _collect(value: Any, names: tuple[str, ...], values: dict[str, str], depth: int) -> None:
    for key, inner in value if isinstance(value, _Pairs) and depth else ():
        name = key.lower()
        if name in names:
            _add(values, name, _as_text(name, inner))
        else:
            _collect(inner, names, values, depth - 1)


def _as_text(name: str, value: Any) -> str:
    if name == "landmarks" and isinstance(value, list) and not isinstance(value, _Pairs):
        return str(value)
    if value is None and name.startswith("extent_"):
        return "NONE"
    if name == "context" and type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise AnswerError(Fault.FORM, f"{name} is {quoted(value)}, expected a string.")
    return " ".join(value.split())


def _word(text: str) -> str:
    """Returns a word of the format in upper case, without quotation marks, emphasis and full stop."""
    word = text.strip(" \"'*_`.").upper()
    return "CENTER" if word == "CENTRE" else word


def _is_navigation_format(fields: Fields) -> bool:
    """Returns whether the fields repeat the format instead of filling it."""
    return all(len(re.findall(r"[A-Za-z]+", fields[axis])) > 2 for axis in ("x", "y"))


def _navigation(fields: Fields) -> Navigation:
    words = []
    for name, choices in (("x", X_DIRECTIONS), ("extent_x", _EXTENTS), ("y", Y_DIRECTIONS), ("extent_y", _EXTENTS)):
        text = fields[name]
        in_mm = _EXTENT_IN_MM.fullmatch(text) if choices is _EXTENTS else None
        word = _word(in_mm[1] if in_mm else text)
        if word not in choices:
            raise AnswerError(Fault.MOVE, f"<{name}> is {quoted(text)}, expected {' or '.join(choices)}.")
        words.append(word)
    try:
        move = Move.from_words(*words)
    except ValueError as error:
        raise AnswerError(Fault.MOVE, str(error)) from error
    reasons = (prose(fields[name], MAX_REASON_CHARACTERS) for name in ("reason_x", "reason_y"))
    return Navigation(_landmark("context", fields["context"]), move, *reasons)


def _landmark(tag: str, text: str) -> int:
    """Returns the id of a landmark that is named, numbered, or both."""
    name = text.strip(" \"'*_`.")
    name = name[4:] if name.lower().startswith("the ") else name
    numbered = _NUMBERED_NAME.fullmatch(name)
    try:
        if not name.isascii() or name.startswith("-"):
            raise UnknownNameError("landmark", name, [item.name for item in LANDMARKS])
        if numbered is None:
            return landmark(name).id
        number, label = (numbered[1], numbered[2]) if numbered[1] else (numbered[4], numbered[3])
        key = landmark(label).id
        if landmark(number).id == key:
            return key
    except UnknownNameError:
        pass
    raise AnswerError(Fault.LANDMARK, f"<{tag}> is {quoted(text)}, expected the name of a landmark in the list.")


def _correction(fields: Fields) -> Correction:
    (inside, *others) = _lists(fields["landmarks"] if "[" in fields["landmarks"] else f"[{fields['landmarks']}]")
    if others:
        raise AnswerError(Fault.SEVERAL, "<landmarks> holds several lists, expected one.")
    return Correction(prose(fields["visual_reasoning"], MAX_REASONING_CHARACTERS), _pair(inside).landmarks)


def prose(text: str, limit: int) -> str:
    """Returns a text without the characters that answers may not hold, cut to `limit` characters."""
    kept = "".join(character for character in text if character not in "<>&`" and is_plain(character))
    return " ".join(kept.split())[:limit].rstrip() or NO_REASON
