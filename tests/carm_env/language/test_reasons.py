"""Reasons follow from the geometry, and false reasons are detected."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from carm_env.actions import Move, MoveLattice
from carm_env.landmarks import N_LANDMARKS
from carm_env.language import Navigation, parse, render
from carm_env.language.reasons import (
    STEPS,
    Claim,
    Situation,
    claims_of,
    correction_answer,
    is_true,
    navigation_answer,
    reasoning_is_true,
    reasons_are_relevant,
    reasons_are_true,
)

LATTICE = MoveLattice()
coordinates = st.floats(-600, 600)


@st.composite
def situations(draw):
    positions = np.array(draw(st.lists(st.tuples(coordinates, coordinates), min_size=14, max_size=14)))
    absent = draw(st.sets(st.integers(0, 13), max_size=10))
    positions[list(absent)] = np.nan
    with np.errstate(invalid="ignore"):
        visible = (np.abs(positions) < 75).all(1)
    return Situation(positions, visible)


extents = st.sampled_from([LATTICE.extents_mm, (10.0, 20.0, 30.0), (40.0, 80.0, 120.0), (5.0, 90.0, 91.0)])


@given(situations(), st.integers(0, 2**31), st.data(), extents)
def test_generated_reasons_are_true_and_imply_the_move(situation, seed, data, extents_mm):
    lattice = MoveLattice(extents_mm)
    target = data.draw(st.sampled_from(situation.closest()))
    answer = navigation_answer(situation, target, lattice, np.random.default_rng(seed))
    assert answer.context == situation.closest()[0]
    assert answer.move == lattice.closest_move(situation.position_mm(target))
    assert reasons_are_true(answer, situation, target, lattice)
    assert reasons_are_relevant(answer, situation, target, lattice)
    assert parse("navigation", render(answer)) == answer


def test_the_center_of_the_image_cannot_be_seen():
    assert not reasoning_is_true("The center of the image is visible in the image.", an_example())


NO_SIDE = "T1 is roughly in line with the carina, so no sideways move is needed."
UP = "T1 lies far above the carina, so a small move up is needed."


@pytest.mark.parametrize(
    ("reason_x", "reason_y", "move", "target", "true"),
    [
        (NO_SIDE, UP, Move(0, 1), 10, True),
        (NO_SIDE, UP.replace("move up", "move down"), Move(0, -1), 10, False),
        # The reason must be about the target, and state the move.
        (NO_SIDE, UP, Move(0, 1), 1, False),
        (NO_SIDE, UP, Move(0, 2), 10, False),
        (NO_SIDE, "T1 lies far above the carina", Move(0, 1), 10, False),
        # An empty claim.
        (NO_SIDE.replace("the carina", "T1"), UP, Move(0, 1), 10, False),
        # A part of the reason is false: the carina is 70 mm below the center.
        (NO_SIDE, UP.replace(",", ", which is roughly level with the center of the image,"), Move(0, 1), 10, False),
    ],
)  # fmt: skip
def test_a_reason_is_true_about_the_target_and_states_the_move(reason_x, reason_y, move, target, true):
    assert reasons_are_true(Navigation(11, move, reason_x, reason_y), an_example(), target) is true


@given(situations(), st.integers(0, 2**31), st.data())
def test_generated_corrections_are_true(situation, seed, data):
    wrong = data.draw(st.lists(st.integers(1, N_LANDMARKS), min_size=2, max_size=2, unique=True))
    # Two landmarks at one point cannot be told apart by words.
    known = situation.displacement_mm[~np.isnan(situation.displacement_mm).any(1)]
    assume(len(np.unique(known, axis=0)) == len(known))
    answer = correction_answer(situation, wrong, np.random.default_rng(seed))
    assert answer.landmarks == tuple(situation.closest()[:2])
    assert reasoning_is_true(answer.reasoning, situation)
    assert answer.reasoning.count(".") <= 4
    assert parse("correction", render(answer)) == answer


def an_example():
    positions = np.full((14, 2), np.nan)
    positions[[0, 9, 10]] = [[0, 200], [5, 20], [0, -70]]
    return Situation(positions, np.array([index in (9, 10) for index in range(14)]))


@pytest.mark.parametrize(
    ("claim", "true"),
    [
        (Claim("far above", 1, 10), True),
        (Claim("moderately above", 1, 10), False),
        (Claim("far below", 1, 10), False),
        (Claim("in line", 1, 11), True),
        (Claim("slightly left", 10, 11), True),
        (Claim("slightly right", 10, 11), False),
        (Claim("level", 10), True),
        (Claim("slightly above", 10), True),
        (Claim("moderately above", 10), False),
        (Claim("level", 11), False),
        (Claim("seen", 10), True),
        (Claim("seen", 1), False),
        (Claim("farther", 1, 10), True),
        (Claim("farther", 10, 1), False),
        (Claim("far above", 2, 10), False),
        (Claim("seen", 2), False),
        (Claim("beside", 10), False),
    ],
)
def test_claims_are_compared_with_the_geometry(claim, true):
    assert is_true(claim, an_example()) is true


@pytest.mark.parametrize(
    ("distance_mm", "accepted"),
    [
        (0.0, {0}), (10.0, {0, 1}), (29.0, {0, 1}), (31.0, {1, 2}), (45.0, {1, 2}), (61.0, {2, 3}), (-70.0, {-3, -2}),
        (300.0, {3}),
    ],
)  # fmt: skip
def test_a_distance_is_accepted_within_half_a_small_move(distance_mm, accepted):
    positions = np.full((14, 2), np.nan)
    positions[0] = (distance_mm, 0.0)
    claims = {step: Claim(relation, 1) for relation, (axis, step) in STEPS.items() if axis == 0}
    situation = Situation(positions, np.ones(14, bool))
    assert {step for step, claim in claims.items() if is_true(claim, situation)} == accepted


def test_other_wordings_are_not_true():
    assert claims_of("The lungs look fine.") is None
    assert not reasoning_is_true("T1 lies far above the carina. The lungs look fine.", an_example())
    assert not reasoning_is_true("T1 lies far above the carina, which looks fine.", an_example())
    assert claims_of("It lies far above the carina.") is None


def test_pronouns_stand_for_the_landmark_before_them():
    text = "T1 lies far above carina, which is roughly level with T12, and it can be seen in the image."
    assert claims_of(text) == [Claim("far above", 10, 11), Claim("level", 11, 14), Claim("seen", 11)]
    assert claims_of("T1 can be seen in the image, and it lies far above the Tracheal Bifurcation.") == [
        Claim("seen", 10), Claim("far above", 10, 11)
    ]  # fmt: skip


def test_names_of_landmarks_have_articles():
    names = {1: "Cranial vault", 10: "T1 vertebral body"}
    answer = navigation_answer(an_example(), 1, LATTICE, np.random.default_rng(0), names)
    assert answer.reason_y.startswith("The cranial vault ")
    assert answer.context_name == "T1 vertebral body"
    assert ", which is " in answer.reason_x
    assert "the T1 vertebral body, which" in answer.reason_x


def test_wordings_vary():
    texts = {navigation_answer(an_example(), 1, LATTICE, np.random.default_rng(seed)).reason_y for seed in range(20)}
    assert len(texts) > 1


def relevant(target_mm, move, reason_x, reason_y, other_mm=None, other_visible=True):
    """Whether reasons about the skull imply a move; T1 is the other landmark of the view."""
    positions, visible = np.full((14, 2), np.nan), np.zeros(14, bool)
    positions[0] = target_mm
    positions[9] = (0, 0) if other_mm is None else other_mm
    visible[9] = other_visible
    return reasons_are_relevant(Navigation(10, move, reason_x, reason_y), Situation(positions, visible), 1)


LEFT_OF_CENTER = (
    "The skull lies slightly to the patient's left of the center of the image, "
    "so a small move to the patient's left is needed."
)
LEFT_OF_T1 = LEFT_OF_CENTER.replace("the center of the image", "T1", 1)
LEVEL = "The skull is roughly level with the center of the image, so no move up or down is needed."
LEVEL_WITH_T1 = LEVEL.replace("the center of the image", "T1")
LEFT = Move(1, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (((30, 0), LEFT, LEFT_OF_CENTER, LEVEL), True),
        (((30, 0), LEFT, LEFT_OF_T1, LEVEL), True),
        # The claim is true, but the landmark is not in the image.
        (((30, 0), LEFT, LEFT_OF_T1, LEVEL, (0, 0), False), False),
        # The target is a little to the left of T1, which is far to the right: this says nothing about the center.
        (((-30, 0), LEFT, LEFT_OF_T1, LEVEL, (-60, 0)), False),
        (((30, 0), LEFT, LEFT_OF_T1, LEVEL, (20, 0)), True),
        (((30, 0), LEFT, LEFT_OF_CENTER, LEVEL_WITH_T1, (0, 10)), True),
        (((30, 0), LEFT, LEFT_OF_CENTER, LEVEL_WITH_T1, (0, 40)), False),
        # The direction follows, but the extent is another one.
        (((90, 0), LEFT, LEFT_OF_CENTER.replace("slightly", "far"), LEVEL), False),
        # The claim is false.
        (((90, 0), LEFT, LEFT_OF_CENTER, LEVEL), False),
        (((-30, 0), LEFT, LEFT_OF_CENTER, LEVEL), False),
    ],
)  # fmt: skip
def test_relevant_reasons_imply_the_move_in_this_view(arguments, expected):
    assert relevant(*arguments) is expected


@given(situations(), st.integers(0, 2**31), st.data())
def test_relevant_reasons_are_true(situation, seed, data):
    target = data.draw(st.sampled_from(situation.closest()))
    answer = navigation_answer(situation, target, LATTICE, np.random.default_rng(seed))
    other = data.draw(st.sampled_from(situation.closest()))
    assert not reasons_are_relevant(answer, situation, other) or reasons_are_true(answer, situation, other)
