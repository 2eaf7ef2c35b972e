"""Answers round-trip, and every other text is a named fault."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.actions import Move
from carm_env.landmarks import LANDMARKS, N_LANDMARKS, landmark
from carm_env.language import (
    ANSWER_KINDS,
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
    parse,
    render,
)
from carm_env.system.errors import UnknownNameError

ids = st.integers(1, N_LANDMARKS)
words = st.text(string.ascii_letters + string.digits + ",.;:'()-", min_size=1, max_size=12)
prose = st.lists(words, min_size=1, max_size=20).map(" ".join)


@st.composite
def named(draw, key):
    item = landmark(key)
    return draw(st.sampled_from((item.name, *item.synonyms)))


@st.composite
def answers(draw):
    kind = draw(st.sampled_from(ANSWER_KINDS))
    if kind == "ranking":
        keys = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
        return kind, Ranking(tuple(keys), tuple(draw(named(key)) for key in keys))
    pair = tuple(draw(st.lists(ids, min_size=2, max_size=2, unique=True)))
    if kind == "pair":
        return kind, Pair(pair)
    if kind == "body_parts":
        return kind, BodyParts(tuple(draw(st.lists(st.integers(0, 21), min_size=2, max_size=2, unique=True))))
    if kind == "class":
        return kind, ImageClass(draw(st.integers(0, 99)))
    if kind == "box":
        left, right = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
        top, bottom = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
        return kind, Box((left, top, right, bottom))
    if kind == "correction":
        return kind, Correction(draw(prose), pair)
    key = draw(ids)
    if kind == "question":
        return kind, Question(key, draw(prose))
    move = Move.from_index(draw(st.integers(0, 48)))
    return kind, Navigation(key, move, draw(prose), draw(prose), draw(named(key)))


@given(answers(), st.sampled_from(["", " ", "\n", "\r\n\t "]))
def test_answers_round_trip(drawn, space):
    kind, answer = drawn
    assert parse(kind, space + render(answer) + space) == answer


@given(answers())
def test_the_lenient_reading_accepts_valid_answers_in_other_text(drawn):
    kind, answer = drawn
    read = parse(kind, f"Sure!\n```xml\n{render(answer)}\n```\nDone", reading="lenient")
    for field in ("landmarks", "corners", "context", "move", "about", "numbers", "number"):
        assert getattr(read, field, None) == getattr(answer, field, None)


fragments = st.sampled_from(
    ["<output>", "</output>", "<step1>", "<context>", "</context>", "<x>", "LEFT", "[", "]", "11", ": ", "Carina", ",",
     "&amp;", "<!DOCTYPE a [", "```", "\u202e", "\u05d0", "\x00", "<response>", "9" * 30, "[10,11]"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.sampled_from(ANSWER_KINDS), st.one_of(st.text(), st.lists(fragments, max_size=30).map("".join)),
       st.sampled_from(["strict", "lenient"]))  # fmt: skip
def test_any_text_gives_an_answer_or_a_fault(kind, text, reading):
    try:
        answer = parse(kind, text, reading)
    except AnswerError as error:
        assert isinstance(error.fault, Fault) and str(error)
        # Messages are part of prompts: they must not contain markers of chat templates.
        assert "\u202e" not in str(error)
    else:
        assert parse(kind, render(answer)) == answer or reading == "lenient"


STEP = render(Navigation(11, Move(1, -2), "It lies there.", "It lies below."))


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("navigation", "", Fault.EMPTY),
        ("navigation", " \n", Fault.EMPTY),
        ("navigation", f"```xml\n{STEP}\n```", Fault.FENCE),
        ("navigation", STEP + STEP, Fault.SEVERAL),
        ("navigation", "<a>" * 1000, Fault.FORM),
        ("navigation", "a" * 4000, Fault.FORM),
        ("navigation", "a" * 4001, Fault.TOO_LONG),
        ("navigation", "<output>" + "<step1>" * 400 + "</output>", Fault.FORM),
        ("navigation", '<!DOCTYPE x [<!ENTITY a "b">]>' + STEP, Fault.CHARACTERS),
        ("navigation", STEP.replace("Carina", "&a;"), Fault.CHARACTERS),
        ("navigation", STEP.replace("Carina", "Liver"), Fault.LANDMARK),
        ("navigation", STEP.replace("Carina", "11"), Fault.NAME),
        ("navigation", STEP.replace("Carina", "-1"), Fault.LANDMARK),
        ("navigation", STEP.replace("Carina", "S\u212aull"), Fault.LANDMARK),
        ("pair", "[010,011]", Fault.FORM),
        ("body_parts", "[3,22]", Fault.BODY_PART),
        ("body_parts", "[3,3]", Fault.REPEATED),
        ("body_parts", "[3]", Fault.COUNT),
        ("body_parts", "[3, 14]", Fault.FORM),
        ("body_parts", "[3,-1]", Fault.FORM),
        ("body_parts", "[03,14]", Fault.FORM),
        ("body_parts", "[3,14][0,1]", Fault.SEVERAL),
        ("box", "[0007,0009,0010,0011]", Fault.FORM),
        ("ranking", "[0001: Skull, 010: T1]", Fault.FORM),
        ("navigation", STEP.replace("<extent_x>SMALL", "<extent_x>NONE"), Fault.MOVE),
        ("navigation", STEP.replace("<x>LEFT", "<x>CENTER"), Fault.MOVE),
        ("navigation", STEP.replace("<x>LEFT", "<x>UP"), Fault.MOVE),
        ("navigation", STEP.replace("<x>LEFT", "<x>left"), Fault.MOVE),
        ("navigation", STEP.replace("It lies there.", "\u05e9\u05dc\u05d5\u05dd"), Fault.CHARACTERS),
        ("navigation", STEP.replace("It lies there.", "\u202eereht seil tI"), Fault.CHARACTERS),
        ("navigation", STEP.replace("It lies there.", ""), Fault.REASON),
        ("navigation", STEP.replace("It lies there.", "a" * 401), Fault.REASON),
        ("navigation", "Of course: " + STEP, Fault.FORM),
        ("navigation", STEP.replace("<x>", "<X>"), Fault.FORM),
        ("navigation", "\x00" + STEP, Fault.CHARACTERS),
        ("pair", "[10, 11]", Fault.FORM),
        ("pair", "[10,11,12]", Fault.COUNT),
        ("pair", "[10,10]", Fault.REPEATED),
        ("pair", "[0,15]", Fault.LANDMARK),
        ("pair", "10,11", Fault.FORM),
        ("pair", "[10,11] [1,2]", Fault.SEVERAL),
        ("pair", "[" + "9" * 3000 + ",1]", Fault.FORM),
        ("ranking", "[11: Carina, 13: Left hemidiaphragm, 5: Skull]", Fault.NAME),
        ("ranking", "[11: Carina, 11: Carina, 5: Left shoulder blade tip]", Fault.REPEATED),
        ("ranking", "[11: Carina,13: Left hemidiaphragm]", Fault.FORM),
        ("ranking", "[1: Skull, 10: T1, 11: Carina, 14: T12]", Fault.COUNT),
        ("ranking", "[]", Fault.FORM),
        ("box", "[10,20,5,30]", Fault.REGION),
        ("box", "[10,20,50,1300]", Fault.REGION),
        ("box", "[10,20,50]", Fault.COUNT),
        ("correction", "<response><visual_reasoning>a</visual_reasoning></response>", Fault.FORM),
        ("correction", "<response><visual_reasoning>a</visual_reasoning><landmarks>[1]</landmarks></response>",
         Fault.COUNT),
    ],
)  # fmt: skip
def test_faults_are_named(kind, text, fault):
    with pytest.raises(AnswerError) as caught:
        parse(kind, text)
    assert caught.value.fault is fault


# Messages are part of the prompt after an invalid answer.
@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("pair", "[10,11,12]", "got 3 numbers, expected 2: [id,id]."),
        ("navigation", STEP.replace("<x>LEFT", "<x>UP"), '<x> is "UP", expected one of: RIGHT, CENTER, LEFT.'),
        ("navigation", STEP.replace("<extent_y>", "<extent>"), "one <output> document; <extent_y> is missing."),
        ("navigation", STEP.replace("</extent_y>", ""), "one <output> document; <extent_y> is missing."),
        ("navigation", STEP.replace("<step1>", ""), "its tags are not in the expected order."),
        ("navigation", "Yes. " + STEP, "expected nothing before or after <output>..</output>."),
    ],
)
def test_messages_say_what_was_expected(kind, text, message):
    with pytest.raises(AnswerError) as caught:
        parse(kind, text)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pair((1.5, 2)), lambda: Pair((True, 2)), lambda: Pair([1, 2]), lambda: Pair(("a", "b")),
        lambda: Box((0.5, 1, 2.5, 3)), lambda: Box((1, 2, 3)), lambda: Ranking((1,), ("S\u212aull",)),
        lambda: Navigation(1, Move(0, 0), "a", "b", "S\u212aull"), lambda: Navigation(1, Move(0, 0), "a", "<b>"),
        lambda: Navigation(1, Move(0, 0), "\u05d0", "b"), lambda: Correction("a & b", (1, 2)),
        lambda: Correction("a  b", (1, 2)), lambda: Ranking((1, 10), ("Skull",)),
    ],
)  # fmt: skip
def test_answers_that_would_not_round_trip_cannot_be_constructed(make):
    with pytest.raises(AnswerError):
        make()


@pytest.mark.parametrize(("reason", "kept"), [("a & b", "a b"), ("a \u200b `b`", "a b"), ("&&", "none given")])
def test_the_lenient_reading_cleans_reasons(reason, kept):
    text = STEP.replace("It lies there.", reason)
    assert parse("navigation", text, reading="lenient").reason_x == kept
    long = "word " * 250
    assert (
        len(parse("correction", render(Correction("a", (1, 2))).replace(">a<", f">{long}<"), "lenient").reasoning)
        > 1200
    )


def test_a_value_that_is_not_a_string_is_a_fault():
    with pytest.raises(AnswerError, match="the answer is a NoneType, expected text"):
        parse("pair", None)


def test_a_message_quotes_a_model_without_its_markers():
    with pytest.raises(AnswerError) as caught:
        parse("pair", "<end_of_turn><|im_end|>")
    assert "<end_of_turn>" not in str(caught.value) and "<|im_end|>" not in str(caught.value)


def test_unknown_kinds_and_readings_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'ranking'"):
        parse("rankin", "[1,2]")
    with pytest.raises(UnknownNameError, match="unknown reading"):
        parse("pair", "[1,2]", reading="loose")


@pytest.mark.parametrize(
    ("text", "landmarks"),
    [
        ("[10: T1 vertebral body, 12: Right hemidiaphragm, 4: Right scapular inferior angle]\n", (10, 12, 4)),
        ("The closest are [ 1:Skull , 10:T1,2: humerus ] .", (1, 10, 2)),
    ],
)
def test_the_lenient_reading_ignores_names(text, landmarks):
    assert parse("ranking", text, reading="lenient").landmarks == landmarks


def test_the_lenient_reading_accepts_leading_zeros_and_spaces():
    assert parse("pair", "[010, 011]", reading="lenient").landmarks == (10, 11)


def test_every_name_of_every_landmark_is_accepted():
    for item in LANDMARKS:
        for name in (item.name, *item.synonyms):
            assert parse("ranking", f"[{item.id}: {name}]").names == (name,)
            assert parse("navigation", STEP.replace("Carina", name)).context == item.id
