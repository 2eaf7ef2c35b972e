import numpy as np
import pytest

from carm_env.envs.scene import load_scene
from carm_env.evaluation.localization import RankedLocalizer, centred_views, evaluate_localizer
from carm_env.views.sample import ViewOptions, render_views


@pytest.fixture
def true_answers(small_patients):
    """The true ids of the views of two patients, in the order in which they are asked for."""
    answers = []
    for name in small_patients[:2]:
        answers += [view.labels.closest_landmarks for view in render_views(name, ViewOptions(8, 256, seed=1))]
        answers += [(key, 1 + key % 14, 1 + (key + 1) % 14) for key in centred_views(name, 1).targets]
    return answers


def test_true_answers_get_the_best_scores(small_patients, true_answers):
    queue = iter(true_answers)
    localizer = RankedLocalizer(lambda images: np.array([next(queue) for _ in images]))
    found = evaluate_localizer(localizer, small_patients[:2], 8, 1)
    assert {key: value.value for key, value in found.estimates.items() if "R@" not in key} == {
        "P@1": 1.0, "P@2": 1.0, "P@3": 1.0, "H@1": 1.0, "H@2": 1.0, "H@3": 1.0, "mAP": 1.0, "exact": 1.0,
        "ranked exact": 1.0,
        "H@1 centred": 1.0, "H@2 centred": 1.0,
    }  # fmt: skip
    assert found.confusion.trace() == found.confusion.sum() == 16


class Reasoning:
    """Answers nothing on centred views; every other move is readable, and the reasons of every fourth are true.

    On a grey image no reason is true, and on another image none is relevant.
    """

    def __init__(self, answers):
        self.queue = iter(answers)
        self.targets = []
        self.shown = []

    def closest(self, images):
        return np.array([next(self.queue) for _ in images])

    def centred(self, images):
        for _ in images:
            next(self.queue)
        return np.zeros((len(images), 2), int)

    def steps(self, images, targets, situations):
        assert len(images) == len(targets) == len(situations)
        self.targets += targets
        self.shown.append(images)
        numbers = np.arange(len(images))
        true = (numbers % 4 == 0) & bool(np.ptp(images))
        relevant = true & (len(self.shown) <= 2)
        return {"readable": numbers % 2 == 0, "reasons_true": true, "reasons_relevant": relevant, "best_move": relevant}


def test_a_language_model_is_also_scored_by_readable_answers_and_true_reasons(small_patients, true_answers):
    found = []
    for _ in range(2):
        localizer = Reasoning(true_answers)
        estimates = evaluate_localizer(localizer, small_patients[:2], 8, 1).estimates
        found.append(localizer.targets)
    assert estimates["H@1 centred"].value == 0
    # Of 16 views, 112 centred views and 16 moves, the centred views and half of the moves are invalid.
    assert estimates["invalid"].value == pytest.approx((112 + 8) / (16 + 112 + 16))
    assert estimates["reasons true"].value == 0.5 and estimates["reasons true"].views == 8
    assert found[0] == found[1] and len(set(found[0])) > 3
    values = {name: estimate.value for name, estimate in estimates.items()}
    assert values["reasons relevant"] == values["reasons true on another image"] == 0.5
    assert values["reasons relevant on another image"] == values["reasons true without an image"] == 0
    assert values["best move"] == 0.25 and values["best move on another image"] == 0
    first, second, other, _, blank, _ = localizer.shown
    assert np.array_equal(other, second) and not np.array_equal(first, second) and np.ptp(blank) == 0


def test_localisers_are_compared_on_the_same_views(small_patients, true_answers):
    patients = small_patients[:2]
    full = evaluate_localizer(Reasoning(true_answers), patients, 8, 1)
    wrong = iter(true_answers)
    # The first landmark is wrong in every second view.
    half = RankedLocalizer(
        lambda images: np.array([ids if n % 2 else ids[::-1] for n, ids in enumerate(next(wrong) for _ in images)])
    )
    other = evaluate_localizer(half, patients, 8, 1)
    found = full.differences(other)
    assert set(found) == set(other.values)
    assert found["exact"].value == 0.5 and found["exact"].low <= 0.5 <= found["exact"].high
    assert found["P@1"].value == 0 and found["H@1 centred"].value == -1 + 0.5
    same = full.differences(full)
    assert all(one[:3] == (0, 0, 0) for one in same.values())
    # Of 16 moves, 8 can be read.
    assert same["reasons true"].views == 8
    with pytest.raises(ValueError, match="not those of the baseline"):
        full.differences(evaluate_localizer(Reasoning(true_answers), patients[:1], 8, 1))


def test_centred_views_show_every_landmark(small_patients):
    images, targets, situations = centred_views(small_patients[0], 0)
    assert [situation.closest()[0] for situation in situations] == targets.tolist()
    patient = load_scene(small_patients[0]).patient
    assert images.shape == (4 * 14, 256, 256) and sorted(set(targets.tolist())) == list(patient.landmarks_lps_mm)
