"""The lenient reading: what it accepts, what it refuses, and that it never guesses."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from carm_env.actions import Move
from carm_env.language import Navigation, Pair, parse, render
from carm_env.language.answers import AnswerError, Fault
from carm_env.language.lenient import NO_REASON
from carm_env.language.prompts import prompt

MOVE = Move.from_words("LEFT", "SMALL", "CENTER", "NONE")
STEP = render(Navigation(11, MOVE, "The target is left of the carina.", "It is level with the carina."))
OTHER = render(Navigation(11, Move.from_words("RIGHT", "SMALL", "CENTER", "NONE"), "It is right.", "It is level."))
FIELDS = {
    "context": "Carina", "x": "LEFT", "extent_x": "SMALL", "reason_x": "left", "y": "CENTER", "extent_y": "NONE",
    "reason_y": "level",
}  # fmt: skip
FORMAT = prompt("navigate.system").text.partition("<output>")
NESTED = {"output": {"step1": {"context": "Carina"}, "step2": {key: FIELDS[key] for key in list(FIELDS)[1:]}}}


def changed(**values: object) -> str:
    return json.dumps({**FIELDS, **values})


READABLE = {
    "fence": f"```xml\n{STEP}\n```",
    "fence without end": f"```\n{STEP}",
    "prose": f"Sure, here is my answer:\n\n{STEP}\n\nLet me know how it looks [1].",
    "reasoning": f"<think>First I thought of {OTHER}</think>\n{STEP}",
    "reasoning opened by the template": f"I see {OTHER}\n</think>\n{STEP}",
    "two blocks of reasoning": f"<think>a</think><thinking>{OTHER}</thinking>{STEP}",
    "lower case": STEP.lower(),
    "upper-case tags": STEP.replace("context", "CONTEXT").replace("<x>", "<X>").replace("</x>", "</X>"),
    "ampersand": STEP.replace("left of the carina", "left & of the carina"),
    "entity": STEP.replace("left of the carina", "left &amp; of &lt;the carina&gt;"),
    "emphasis": STEP.replace(">LEFT<", "> **LEFT** <"),
    "full stop": STEP.replace(">SMALL<", ">Small.<"),
    "extent in mm": STEP.replace(">SMALL<", ">SMALL (20 mm)<"),
    "British centre": STEP.replace(">CENTER<", ">Centre<"),
    "landmark with its number": STEP.replace(">Carina<", ">11: Carina<"),
    "landmark with its number in brackets": STEP.replace(">Carina<", ">the carina (11)<"),
    "landmark number": STEP.replace(">Carina<", ">11<"),
    "same answer twice": f"{STEP}\nI repeat:\n{STEP}",
    "format before the answer": f"{FORMAT[1]}{FORMAT[2]}\n{STEP}",
    "no root": STEP.replace("<output>", "").replace("</output>", ""),
    "no steps": STEP.replace("<step1>", "").replace("</step1>", "").replace("<step2>", "").replace("</step2>", ""),
    "no reasons": "<output><context>Carina</context><x>LEFT</x><extent_x>SMALL</extent_x><y>CENTER</y>"
    "<extent_y>NONE</extent_y></output>",
    "extent of an axis that does not move": STEP.replace("    <extent_y>NONE</extent_y>\n", ""),
    "end of the root is missing": STEP.replace("</output>", ""),
    "json": json.dumps(FIELDS),
    "json in a fence with prose": f"My answer:\n```json\n{json.dumps(FIELDS, indent=2)}\n```\nDone.",
    "nested json": json.dumps(NESTED),
    "json with more keys": changed(confidence=0.9, thoughts={"seen": "ribs"}),
    "json with upper-case keys": json.dumps({key.upper(): value for key, value in FIELDS.items()}),
    "json without an extent": changed(extent_y=None),
    "json and document agree": f"{json.dumps(FIELDS)}\n{STEP}",
    "braces in prose": f"{{x}} {{y}} {STEP}",
}
UNREADABLE = {
    "nothing": ("  ", Fault.EMPTY),
    "prose only": ("Move LEFT by SMALL and keep y at the CENTER.", Fault.FORM),
    "two different answers": (f"{STEP}\nOr rather:\n{OTHER}", Fault.SEVERAL),
    "json and document differ": (f"{json.dumps(FIELDS)}\n{OTHER}", Fault.SEVERAL),
    "a field twice": (STEP.replace("<x>LEFT</x>", "<x>LEFT</x><x>RIGHT</x>"), Fault.SEVERAL),
    "a key twice": (json.dumps(FIELDS)[:-1] + ', "x": "RIGHT"}', Fault.SEVERAL),
    "reasoning without end": (f"<think>{STEP}", Fault.FORM),
    "reasoning only": ("<think>It is left.</think>", Fault.EMPTY),
    "answer inside the reasoning": (f"<think>{STEP}</think> Move to the left.", Fault.FORM),
    "the format itself": (FORMAT[1] + FORMAT[2], Fault.FORM),
    "two directions": (STEP.replace(">LEFT<", ">LEFT or RIGHT<"), Fault.MOVE),
    "unknown direction": (STEP.replace(">LEFT<", ">WEST<"), Fault.MOVE),
    "extent of no move": (STEP.replace(">CENTER<", ">UP<"), Fault.MOVE),
    "move without extent": (STEP.replace("    <extent_x>SMALL</extent_x>\n", ""), Fault.FORM),
    "unknown landmark": (STEP.replace(">Carina<", ">Xiphoid<"), Fault.LANDMARK),
    "number and name differ": (STEP.replace(">Carina<", ">12: Carina<"), Fault.LANDMARK),
    "no direction": (STEP.replace("<x>LEFT</x>", ""), Fault.FORM),
    "json with a number": (changed(x=1), Fault.FORM),
    "json with a list": (changed(x=["LEFT"]), Fault.FORM),
    "too long": ("a" * 100_001, Fault.TOO_LONG),
    "too long without reasoning": (f"<think>a</think>{'a' * 20_001}", Fault.TOO_LONG),
}


@pytest.mark.parametrize("text", READABLE.values(), ids=READABLE)
def test_readable_reply(text: str) -> None:
    answer = parse("navigation", text, "lenient")
    assert (answer.context, answer.move) == (11, MOVE)
    assert parse("navigation", render(answer)) == answer
    with pytest.raises(AnswerError):
        parse("navigation", text)


@pytest.mark.parametrize(("text", "fault"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_reply(text: str, fault: Fault) -> None:
    with pytest.raises(AnswerError) as caught:
        parse("navigation", text, "lenient")
    assert caught.value.fault == fault


def test_reasons_are_kept() -> None:
    answer = parse("navigation", f"```\n{STEP}\n```", "lenient")
    assert answer.reason_x == "The target is left of the carina."
    assert parse("navigation", READABLE["no reasons"], "lenient").reason_y == NO_REASON


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("ranking", "<think>[1, 2, 3]</think> [11, 13, 5]", (11, 13, 5)),
        ("ranking", "```json\n[\"11: Carina\", \"13: Left hemidiaphragm\"]\n```", (11, 13)),
        ("pair", "The closest are [10, 11]. So: [10,11]", (10, 11)),
        ("pair", "See [the list]: [10,11]", (10, 11)),
        ("correction", '{"visual_reasoning": "Ribs & spine.", "landmarks": [14, 12]}', (14, 12)),
        ("correction", "<response><landmarks>14, 12</landmarks></response>", (14, 12)),
    ],
)  # fmt: skip
def test_lists_of_landmarks(kind: str, text: str, expected: tuple[int, ...]) -> None:
    assert parse(kind, text, "lenient").landmarks == expected


@pytest.mark.parametrize("text", ["[10,11] or [11,10]", "[10]", "[10,11,12]", "[10,-1]", "[ten]", "10, 11"])
def test_unreadable_pairs(text: str) -> None:
    with pytest.raises(AnswerError):
        parse("pair", text, "lenient")


@pytest.mark.parametrize("text", ["The chest: [3, 0].", "[3: Chest, 0: Abdomen]", '{"body_parts": [3, 0]}'])
def test_body_parts_are_read_with_names_and_other_text(text: str) -> None:
    assert parse("body_parts", text, "lenient").numbers == (3, 0)


def test_both_readings_agree_on_a_strictly_valid_answer() -> None:
    assert parse("navigation", STEP, "lenient") == parse("navigation", STEP)
    assert parse("pair", "[10,11]", "lenient") == Pair((10, 11))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 15_000, "{" * 90_000, "[" * 90_000, "<output>" * 2_000, "<think>" * 12_000, "</think>" * 11_000,
        "<x>" * 6_000, '{"x": "LEFT",' * 1_500, "<output><x>LEFT</x>" * 1_000, "&amp;" * 18_000, "<x>" + " " * 19_000,
        "<think>a</think>" * 6_000, "<output" + " " * 19_000, "{\"x\": " + "9" * 19_000 + "}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["navigation", "pair", "ranking", "correction"])
def test_long_replies_are_refused_at_once(kind: str, text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(AnswerError):
        parse(kind, text, "lenient")
    assert time.perf_counter() - started < 0.5


def test_damaged_replies_give_an_answer_or_a_fault() -> None:
    rng = np.random.default_rng(0)
    replies = [*READABLE.values(), *(text for text, _ in UNREADABLE.values() if len(text) < 4000)]
    accepted = 0
    for _ in range(2000):
        first, second = (list(replies[int(rng.integers(len(replies)))]) for _ in range(2))
        start, stop = sorted(int(number) for number in rng.integers(0, len(first) + 1, 2))
        first[start:stop] = second[start:stop] if rng.random() < 0.5 else []
        text = "".join(first)
        try:
            answer = parse("navigation", text, "lenient")
        except AnswerError:
            continue
        accepted += 1
        assert parse("navigation", render(answer)) == answer
    assert accepted > 100
