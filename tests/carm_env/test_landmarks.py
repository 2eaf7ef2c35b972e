import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.landmarks import CRANIOCAUDAL_ORDER, HEAD_TO_FOOT, LANDMARKS, N_LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError


def test_ids_are_one_based_and_in_the_papers_order():
    assert [item.id for item in LANDMARKS] == list(range(1, N_LANDMARKS + 1))
    assert [landmark(i).name for i in (1, 4, 9, 10, 13, 14)] == [
        "Skull",
        "Right scapular inferior angle",
        "Left wrist",
        "T1",
        "Left hemidiaphragm",
        "T12",
    ]


def test_landmarks_are_found_by_name_slug_synonym_and_id():
    for item in LANDMARKS:
        keys = (item.id, str(item.id), f"{item.id:012}", item.name, item.slug, item.name.upper(), *item.synonyms)
        assert {landmark(key) for key in keys} == {item}


def test_no_two_landmarks_share_a_name():
    names = [text.lower() for item in LANDMARKS for text in (item.name, *item.synonyms)]
    assert len(names) == len(set(names))


def test_synonyms_of_paired_landmarks_name_the_side():
    for item in LANDMARKS:
        side = item.name.split()[0].lower()
        if side in ("right", "left"):
            assert all(side in text.lower() for text in item.synonyms)


@pytest.mark.parametrize("key", [0, 15, -1, 1.5, True, None, "0", "99", 10**30])
def test_invalid_ids_are_refused(key):
    with pytest.raises(UnknownNameError):
        landmark(key)


def test_errors_for_misspelt_names_suggest_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'Carina'"):
        landmark("karina")


@given(st.text(max_size=40))
def test_any_text_is_a_landmark_or_a_clear_error(text):
    try:
        assert landmark(text) in LANDMARKS
    except UnknownNameError as error:
        assert "unknown landmark" in str(error)


@pytest.mark.parametrize("order", [CRANIOCAUDAL_ORDER, HEAD_TO_FOOT])
def test_order_from_head_to_foot_follows_the_population(order):
    from carm_env.anatomy.layout import landmark_layout

    heights = [landmark_layout().mean_mm[landmark(key).index][1] for key in order if key not in (3, 5, 7, 9, 13)]
    assert heights == sorted(heights, reverse=True) and sorted(HEAD_TO_FOOT) == list(range(1, N_LANDMARKS + 1))
