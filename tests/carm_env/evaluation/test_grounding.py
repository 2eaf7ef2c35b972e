import itertools

import numpy as np
import pytest

from carm_env.evaluation.grounding import grounding_estimates, matched_boxes, ratio_estimate, rodeo_sums


def drawn(rng, count):
    corners = np.sort(rng.random((count, 2, 2)), axis=1)
    return [(a[0], a[1], b[0] + 0.01, b[1] + 0.01) for a, b in corners.clip(0, 0.98).tolist()]


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union


def test_matches_equal_the_best_of_all_assignments():
    rng = np.random.default_rng(1)
    for _ in range(50):
        predicted, true = drawn(rng, 4), drawn(rng, int(rng.integers(1, 5)))
        best = max(
            sum(iou(predicted[row], box) >= 0.3 for row, box in zip(rows, true, strict=True))
            for rows in itertools.permutations(range(4), len(true))
        )
        assert matched_boxes(predicted, true, 0.3) == best


def test_scores_equal_those_over_all_phrases():
    rodeo = pytest.importorskip("rodeo")
    from rodeo.utils import hungarian_matching

    rng = np.random.default_rng(2)
    true = [drawn(rng, int(rng.integers(1, 4))) for _ in range(24)]
    predicted = [
        []
        if number % 7 == 3
        else [tuple(np.asarray(box) + [0, 0, 0.04, 0.02]) for box in boxes] + drawn(rng, number % 3)
        for number, boxes in enumerate(true)
    ]
    patients = [f"p{number // 3}" for number in range(24)]
    found = grounding_estimates(predicted, true, patients)
    hits = sum(matched_boxes(a, b) for a, b in zip(predicted, true, strict=True))
    n_found, n_true = sum(map(len, predicted)), sum(map(len, true))
    assert found["p_at_50"].value == pytest.approx(hits / n_found)
    assert found["r_at_50"].value == pytest.approx(hits / n_true)
    precision, recall = found["p_at_50"].value, found["r_at_50"].value
    assert found["f_at_50"].value == pytest.approx(2 * precision * recall / (precision + recall))
    metric = rodeo.RoDeO(class_names=["a", "b"])

    def rows(boxes):
        return np.array([[x, y, right - x, bottom - y, 0] for x, y, right, bottom in boxes]).reshape(-1, 5)

    pairs = [hungarian_matching(rows(a), rows(b)) for a, b in zip(predicted, true, strict=True)]
    parts = [np.concatenate(part) for part in zip(*pairs, strict=True)]
    assert found["rodeo_localization"].value == pytest.approx(metric._localization_score(*parts))
    assert found["rodeo_shape"].value == pytest.approx(metric._shape_matching_score(*parts))
    assert all(each.low <= each.value <= each.high and each.patients == 8 for each in found.values())


def test_intervals_of_ratios_agree_with_a_jackknife_over_patients():
    rng = np.random.default_rng(3)
    bottom = rng.integers(1, 5, 400).astype(float)
    top = rng.binomial(bottom.astype(int), 0.6).astype(float)
    patients = [f"p{number // 10}" for number in range(400)]
    found = ratio_estimate(top, bottom, patients)
    names = np.array(patients)
    left_out = [top[names != name].sum() / bottom[names != name].sum() for name in sorted(set(patients))]
    deviation = np.sqrt(39 / 40 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert (found.high - found.low) / 2 == pytest.approx(2.0227 * deviation, rel=0.03)


def test_no_answers_are_zero_and_wrong_inputs_are_named():
    true = [[(0.0, 0.0, 1.0, 1.0)]] * 2
    found = grounding_estimates([[], []], true, ["a", "b"])
    assert {each.value for each in found.values()} == {0.0}
    assert rodeo_sums([], true[0]) == (0.0, 0.0, 1)
    with pytest.raises(ValueError, match="no true box"):
        grounding_estimates([[]], [[]], ["a"])
    with pytest.raises(ValueError, match="at least one"):
        grounding_estimates([], [], [])
