"""Questions about classes and regions of any image."""

import numpy as np
import pytest

from carm_env.language import AnswerError, Box, Fault, ImageClass, parse, render
from carm_env.language.image_tasks import ClassQuestion, ask_class, ask_region, read_class
from carm_env.language.prompts import IMAGE_PROMPTS, STYLES, image_prompt_hash, prompt

LUNGS = ClassQuestion("What does this chest X-ray show?", ("normal", "pneumonia", "viral pneumonia"))


@pytest.mark.parametrize("style", STYLES)
def test_prompts_name_the_task(style):
    image = np.zeros((28, 28), np.uint8)
    system, user = ask_class(LUNGS, image, style)
    assert "2: viral pneumonia" in system["content"][0]["text"] or style == "compact"
    assert user["content"][1]["text"] == LUNGS.text
    system, user = ask_region("Left pneumothorax.", image, style)
    assert user["content"][1]["text"].endswith("Left pneumothorax.")
    assert "$" not in system["content"][0]["text"]
    assert all(prompt(name, style).text for name in IMAGE_PROMPTS)
    assert len(set(map(image_prompt_hash, STYLES))) == len(STYLES)


def test_colours_are_kept():
    colours = np.zeros((9, 8, 3), np.uint8)
    colours[..., 0] = 200
    image = ask_class(LUNGS, colours)[1]["content"][0]["image"]
    assert image.mode == "RGB" and image.size == (8, 9) and image.getpixel((0, 0)) == (200, 0, 0)
    with pytest.raises(ValueError, match="expected uint8"):
        ask_region("Here.", np.zeros((9, 8, 4), np.uint8))


@pytest.mark.parametrize(
    ("text", "number"),
    [("[1]", 1), ("[2: viral pneumonia]", 2), ("Answer: [0].", 0), ("It shows viral pneumonia.", 2),
     ('{"class": [1]}', 1), ("<think>[0]?</think> Pneumonia", 1)],
)  # fmt: skip
def test_lenient_answers(text, number):
    assert read_class(text, LUNGS, "lenient") == number
    if text != "[1]":
        with pytest.raises(AnswerError):
            read_class(text, LUNGS)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("[3]", Fault.CLASS), ("[1,2]", Fault.COUNT), ("[01]", Fault.FORM), ("[100]", Fault.CLASS), ("", Fault.EMPTY)],
)  # fmt: skip
@pytest.mark.parametrize("reading", ["strict", "lenient"])
def test_faults_are_named(text, fault, reading):
    if (text, reading) == ("[01]", "lenient"):
        assert read_class(text, LUNGS, reading) == 1
        return
    with pytest.raises(AnswerError) as caught:
        read_class(text, LUNGS, reading)
    assert caught.value.fault is fault


def test_ambiguous_names_are_no_answer():
    with pytest.raises(AnswerError):
        read_class("normal or pneumonia", LUNGS, "lenient")
    with pytest.raises(AnswerError):
        read_class("abnormal", LUNGS, "lenient")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("one",), "has 1 classes, expected 2 to 100"),
        (tuple(map(str, range(101))), "has 101 classes"),
        (("a", "A"), "has the class 'a' twice"),
        (("a", "<b>"), "expected printable text without"),
    ],
)
def test_bad_questions_are_named(classes, message):
    with pytest.raises(ValueError, match=message):
        ClassQuestion("Which?", classes)


def test_answers_have_the_forms_of_the_grammar():
    assert parse("class", render(ImageClass(42))) == ImageClass(42)
    assert parse("box", "[1,2,3,4]") == Box((1, 2, 3, 4))
    with pytest.raises(AnswerError, match="expected 0 to 99"):
        ImageClass(100)
