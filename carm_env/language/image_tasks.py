"""Questions about any medical image: its class among several, and the region that a phrase is about.

One form of prompt serves all data sets, and one model all of them: a new task changes the question, the classes or the
phrase, and nothing else. The answers have the kinds ``class`` and ``box`` of `carm_env.language.grammar`.

Source: Vassef et al., "One VLM, Two Roles", section 4: task-specific user prompts for classification and boxes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.language.answers import MAX_CLASSES, AnswerError, Fault, quoted
from carm_env.language.chat import Message, check_text, image_part, text_part
from carm_env.language.grammar import parse
from carm_env.language.lenient import without_reasoning
from carm_env.language.prompts import prompt

FEWEST_CLASSES = 2


@dataclass(frozen=True)
class ClassQuestion:
    """A question about an image whose answer is one of several classes.

    Attributes:
        text: the question.
        classes: different names of the classes; their numbers count from 0.

    Raises:
        ValueError: there are fewer than 2 or more than 100 classes, two have the same name, or a text may not enter a
            prompt (`carm_env.language.chat.check_text`).
    """

    text: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", check_text("question", self.text))
        object.__setattr__(self, "classes", tuple(check_text("class", name) for name in self.classes))
        if not FEWEST_CLASSES <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(
                f"the question {self.text!r} has {len(self.classes)} classes, expected {FEWEST_CLASSES} to "
                f"{MAX_CLASSES}."
            )
        lower = [name.lower() for name in self.classes]
        for name in self.classes:
            if lower.count(name.lower()) > 1:
                raise ValueError(f"the question {self.text!r} has the class {name!r} twice, expected different names.")

    def table(self) -> str:
        """Returns the classes with their numbers, one per line."""
        return "\n".join(f"{number}: {name}" for number, name in enumerate(self.classes))


def ask_class(question: ClassQuestion, image: NDArray[np.uint8], style: str = "full") -> list[Message]:
    """Returns the messages that ask for the class of an image.

    Args:
        question: the question; the style ``compact`` does not list its classes, which the model was trained on.
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        style: style of the prompts.
    """
    system = prompt("classify.system", style).fill(classes=question.table())
    return _asked(system, prompt("classify.user", style).fill(question=question.text), image)


def ask_region(phrase: str, image: NDArray[np.uint8], style: str = "full") -> list[Message]:
    """Returns the messages that ask for the region of an image that a phrase is about.

    Args:
        phrase: what to mark, such as a sentence of a report.
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        style: style of the prompts.

    Raises:
        ValueError: the phrase may not enter a prompt (`carm_env.language.chat.check_text`).
    """
    text = prompt("ground.user", style).fill(phrase=check_text("phrase", phrase))
    return _asked(prompt("ground.system", style).fill(), text, image)


def _asked(system: str, text: str, image: NDArray[np.uint8]) -> list[Message]:
    return [
        {"role": "system", "content": [text_part(system)]},
        {"role": "user", "content": [_image_part(image), text_part(text)]},
    ]


def _image_part(image: NDArray[np.uint8]) -> Message:
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size:
        return {"type": "image", "image": Image.fromarray(image)}
    return image_part(image)


def read_class(text: str, question: ClassQuestion, reading: str = "strict") -> int:
    """Reads the number of a class from an answer.

    The lenient reading also takes the name of a class, if the answer holds that of one class only.

    Args:
        text: the whole output of the model.
        question: the question that was asked.
        reading: ``strict`` or ``lenient``.

    Raises:
        AnswerError: the text is not a valid answer, or the question has no class of this number.

    >>> question = ClassQuestion("What does the image show?", ("normal", "pneumonia"))
    >>> read_class("[1]", question), read_class("It shows pneumonia.", question, "lenient")
    (1, 1)
    """
    try:
        number = int(parse("class", text, reading).number)
    except AnswerError:
        named = _named(text, question) if reading == "lenient" else []
        if len(named) != 1:
            raise
        return named[0]
    if number >= len(question.classes):
        last = len(question.classes) - 1
        raise AnswerError(Fault.CLASS, f"the answer is {quoted(text)}, expected the number of a class, 0 to {last}.")
    return number


def _named(text: str, question: ClassQuestion) -> list[int]:
    """Returns the classes that a text names; a name within a longer one that is named does not count."""
    rest, found = without_reasoning(text), []
    for number, name in sorted(enumerate(question.classes), key=lambda item: -len(item[1])):
        pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
        if pattern.search(rest):
            found.append(number)
            rest = pattern.sub(" ", rest)
    return found
