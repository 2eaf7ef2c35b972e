import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.language.answers import AnswerError
from carm_env.reports.box_text import parse_boxes, render_boxes

numbers = st.floats(0, 1)
boxes = st.tuples(numbers, numbers, numbers, numbers).map(
    lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
)


@given(st.lists(boxes, min_size=1, max_size=16))
def test_boxes_survive_to_a_thousandth(given_boxes):
    found = parse_boxes(render_boxes(given_boxes))
    assert parse_boxes(render_boxes(found)) == found
    for box, other in zip(given_boxes, found, strict=True):
        assert max(abs(a - b) for a, b in zip(box, other, strict=True)) <= 0.0015


@given(st.lists(boxes, min_size=1, max_size=4))
def test_coarse_coordinates_are_multiples_and_no_box_is_empty(given_boxes):
    for box, other in zip(given_boxes, parse_boxes(render_boxes(given_boxes, 10)), strict=True):
        assert all(round(1000 * value) % 10 == 0 for value in other)
        assert max(abs(a - b) for a, b in zip(box, other, strict=True)) <= 0.0151


@given(st.text() | st.text("[]0123456789,", max_size=60))
def test_other_texts_raise_answer_errors_only(text):
    try:
        found = parse_boxes(text)
    except AnswerError:
        return
    assert parse_boxes(render_boxes(found)) == found


@pytest.mark.parametrize("text", ["", "[1,2,3]", "[5,1,2,9]", "[0,0,1001,5]", "[0,0,5,5] ", "[0,0,5,5]" * 17])
def test_bad_boxes_are_refused(text):
    with pytest.raises(AnswerError, match="expected"):
        parse_boxes(text)


def test_no_box_is_no_text():
    with pytest.raises(ValueError, match="got 0 boxes"):
        render_boxes([])
