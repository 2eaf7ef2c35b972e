"""Names of landmarks after a clinician's words."""

import numpy as np
import pytest

from carm_env.landmarks import landmark
from carm_env.language.advice import Advice
from carm_env.language.advice_reader import read_advice
from policies.advised_names import advised_probabilities, locates

LEFT, RIGHT, T1, T12 = (landmark(name).id for name in ("Left wrist", "Right wrist", "T1", "T12"))


def belief(**shares):
    found = np.full(14, 0.001)
    for name, share in shares.items():
        found[landmark(name.replace("_", " ")).index] = share
    return found


def best(probabilities, named, *advice):
    return int(advised_probabilities(probabilities, named, advice).argmax()) + 1


UNSURE = belief(Left_wrist=0.6, Right_wrist=0.3)
SURE = belief(Left_wrist=0.9999, Right_wrist=1e-6)


@pytest.mark.parametrize(
    "advice",
    [Advice("verdict"), Advice("verdict", LEFT), Advice("side"), Advice("landmark", RIGHT),
     Advice("confirmation", RIGHT), Advice("direction", x=-1)],
    ids=str,
)  # fmt: skip
def test_advice_against_an_unsure_answer_changes_it(advice):
    assert best(UNSURE, LEFT, advice) == RIGHT
    assert best(SURE, LEFT, advice) == LEFT, "what the image says beyond doubt outweighs it"


@pytest.mark.parametrize("advice", [Advice("confirmation"), Advice("landmark", LEFT), Advice("verdict", T1)], ids=str)
def test_advice_that_agrees_makes_an_answer_more_certain(advice):
    after = advised_probabilities(UNSURE, LEFT, [advice])
    assert after.argmax() + 1 == LEFT and after[LEFT - 1] > 0.6 and after.sum() == pytest.approx(1)


def test_a_direction_prefers_what_lies_there():
    several = belief(Left_wrist=0.4, Right_wrist=0.2, T1=0.2, T12=0.2)
    assert best(several, LEFT, Advice("direction", x=1)) == RIGHT, "the arms are crossed in the mean patient"
    assert best(several, LEFT, Advice("direction", y=1)) == T1
    assert best(belief(T1=0.4, T12=0.2, Skull=0.2), T1, Advice("direction", y=-1)) == T12


def test_several_pieces_of_advice_are_combined():
    several = belief(Left_wrist=0.5, Right_wrist=0.3, T12=0.2)
    assert best(several, LEFT, *read_advice("No. Look further towards the head.")) != LEFT
    assert best(several, LEFT, Advice("verdict"), Advice("verdict", RIGHT)) == T12


def test_words_about_something_else_say_nothing_about_names():
    others = [Advice("again"), Advice("stop"), Advice("target", RIGHT), Advice("distance", distance_mm=40)]
    assert not locates(others) and locates([*others, Advice("verdict")])
    np.testing.assert_allclose(advised_probabilities(UNSURE, LEFT, others), UNSURE / UNSURE.sum())


@pytest.mark.parametrize("wrong", [np.ones(13), np.zeros(14), np.full(14, -1.0), np.full(14, np.nan)])
def test_wrong_probabilities_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected \(14,\) numbers"):
        advised_probabilities(wrong, LEFT, [])
