import numpy as np
import pytest

from carm_env.language.advice import Advice
from policies.listening import AdvisedBounds

PREDICTED_MM = np.zeros((14, 2))
PREDICTED_MM[5], PREDICTED_MM[6], PREDICTED_MM[10] = (-200.0, -180.0), (200.0, -170.0), (5.0, 8.0)


def heard(*advice, target=7, believed=(10.0, -5.0)):
    bounds = AdvisedBounds()
    return bounds, bounds.hear(advice, target, PREDICTED_MM, believed)


def test_nothing_bounds_a_prediction_at_first():
    bounds = AdvisedBounds()
    assert bounds.clip((1e6, -1e6)).tolist() == [1e6, -1e6]


def test_a_direction_bounds_its_axis_alone():
    bounds, is_clear = heard(Advice("direction", y=1))
    assert is_clear
    assert bounds.clip((10, -5)).tolist() == [10, 15] and bounds.clip((10, 90)).tolist() == [10, 90]


def test_a_distance_bounds_both_ends():
    bounds, _ = heard(Advice("direction", x=-1, distance_mm=60))
    assert bounds.clip((10, 3)).tolist() == [-30, 3] and bounds.clip((-200, 3)).tolist() == [-90, 3]
    bounds, _ = heard(Advice("distance", distance_mm=100), believed=(0.0, -10.0))
    assert bounds.clip((0, -10)).tolist() == [0, -50]
    assert not heard(Advice("distance", distance_mm=100), believed=(0.0, 0.0))[1]


def test_bounds_move_with_the_c_arm():
    bounds, _ = heard(Advice("direction", y=1, distance_mm=30))
    bounds.move((0, 30))
    assert bounds.clip((0, 60)).tolist() == [0, 15] and bounds.clip((0, -60)).tolist() == [0, -15]


def test_a_named_landmark_tells_where_the_target_is_relative_to_it():
    bounds, _ = heard(Advice("landmark", 11))
    assert bounds.clip((0, 0)).tolist() == [145, -128]


def test_the_other_side_of_the_body():
    bounds, _ = heard(Advice("side"))
    assert bounds.clip((10, -5)).tolist() == [200, -5]
    bounds, _ = heard(Advice("side"), target=6)
    assert bounds.clip((10, -5)).tolist() == [-200, -5]
    assert not heard(Advice("side"), target=11)[1]


def test_a_confirmation_holds_the_position_and_a_verdict_says_nothing_about_it():
    bounds, _ = heard(Advice("confirmation", 7))
    assert bounds.clip((80, -90)).tolist() == [15, -15]
    assert not heard(Advice("confirmation", 11))[1]
    assert not heard(Advice("verdict", 7))[1] and not heard()[1]


@pytest.mark.parametrize("words", [Advice("direction", x=1), Advice("landmark", 11)])
def test_later_words_replace_earlier_ones(words):
    bounds, _ = heard(Advice("direction", x=-1, distance_mm=60))
    bounds.hear([words], 7, PREDICTED_MM, (0, 0))
    assert bounds.clip((-60, 0))[0] > 0
