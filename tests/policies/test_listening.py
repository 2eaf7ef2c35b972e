import numpy as np
import pytest

from carm_env.language.advice import Advice
from policies.listening import AdvisedBelief

TOLERANCE_MM = 25.0
PREDICTED_MM = np.zeros((14, 2))
PREDICTED_MM[5], PREDICTED_MM[6], PREDICTED_MM[10] = (-200.0, -180.0), (200.0, -170.0), (5.0, 8.0)


def heard(*advice, target=7):
    belief = AdvisedBelief(TOLERANCE_MM)
    belief.hear(advice, target, PREDICTED_MM)
    return belief


def located(belief, mean_mm=(0.0, 0.0), std_mm=30.0):
    mean, confidence = belief.locate(mean_mm, (std_mm, std_mm))
    return mean.tolist(), confidence


def test_without_advice_the_target_is_where_it_is_predicted():
    belief = heard()
    assert not belief.says_where
    assert located(belief, (100, -70), 15) == ([100, -70], pytest.approx(0, abs=0.01))
    _, here = located(belief, (0, 0), 15)
    _, unsure = located(belief, (0, 0), 60)
    assert 0.05 < unsure < 0.5 < here < 0.8


def test_a_direction_outweighs_a_sure_prediction():
    (x, y), confidence = located(heard(Advice("direction", y=-1, distance_mm=60)), std_mm=15)
    assert x == 0 and -70 <= y <= -30 and confidence < 0.1


def test_a_direction_without_a_distance_leaves_it_to_the_prediction():
    belief = heard(Advice("direction", y=1))
    assert belief.says_where
    assert located(belief, (0, 90))[0] == [0, 80]
    (x, y), _ = located(belief, (0, -10))
    assert x == 0 and y >= 20


def test_a_direction_along_both_axes():
    (x, y), _ = located(heard(Advice("direction", x=1, y=-1, distance_mm=60)))
    assert x > 15 and y < -15


def test_a_far_target_can_be_much_farther_than_the_word_says():
    belief = heard(Advice("direction", x=-1, distance_mm=90))
    assert located(belief, (-200, 3))[0] == [-190, 0]
    assert -160 <= located(belief, (40, 3))[0][0] <= -60


def test_a_distance_is_believed_in_the_direction_of_the_prediction():
    (x, y), _ = located(heard(Advice("distance", distance_mm=100)), (0, -20))
    assert abs(x) <= 10 and -110 <= y <= -60


def test_advice_moves_with_the_c_arm():
    belief = heard(Advice("direction", y=1, distance_mm=60))
    before, far = located(belief)
    belief.move((0, 60))
    after, near = located(belief, (0, -60))
    assert after[1] == pytest.approx(before[1] - 60, abs=20)
    assert far < 0.1 < 0.4 < near


def test_a_named_landmark_tells_where_the_target_is_relative_to_it():
    (x, y), _ = located(heard(Advice("landmark", 11)))
    assert 150 <= x <= 200 and -180 <= y <= -140


def test_the_other_side_of_the_body():
    # The C-arm is at the right elbow, 400 mm from the left one; the network takes it for the left one.
    (x, _), _ = located(heard(Advice("side")))
    assert 250 <= x <= 400
    (x, _), _ = located(heard(Advice("side"), target=6))
    assert -400 <= x <= -250
    assert not heard(Advice("side"), target=11).says_where


def test_a_confirmation_says_that_the_target_is_here():
    assert located(heard(Advice("confirmation", 7)), (80, -90))[0] == [0, 0]
    assert not heard(Advice("confirmation", 11)).says_where


def test_a_verdict_says_only_that_the_target_is_not_here():
    belief = heard(Advice("verdict", 7))
    assert not belief.says_where
    assert located(belief, std_mm=15)[1] == pytest.approx(0, abs=0.01)
    assert located(heard(Advice("verdict", 11)), std_mm=15)[1] > 0.5


@pytest.mark.parametrize("words", [Advice("direction", x=1, distance_mm=60), Advice("landmark", 11)])
def test_later_words_correct_earlier_ones(words):
    belief = heard(Advice("direction", x=-1, distance_mm=60))
    belief.hear([words], 7, PREDICTED_MM)
    assert located(belief)[0][0] > 0


def test_what_was_said_is_forgotten():
    belief = heard(Advice("direction", x=-1, distance_mm=60))
    belief.reset()
    assert not belief.says_where and located(belief, (30, 0))[0] == [30, 0]
