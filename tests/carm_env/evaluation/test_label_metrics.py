"""Metrics of images with several labels, against plain counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_env.evaluation import metrics
from carm_env.evaluation.intervals import estimate
from carm_env.evaluation.label_metrics import (
    NAMES,
    is_valid,
    label_values,
    likeliest,
    recall_by_label,
    summarise,
)

N = 5
answer_rows = st.lists(st.integers(-1, N - 1), min_size=2, max_size=3).map(lambda row: (row + [-1])[:3])
label_rows = st.lists(st.booleans(), min_size=N, max_size=N)
images = st.lists(st.tuples(answer_rows, label_rows, st.sampled_from("abc")), min_size=1, max_size=12)


def plain(answer, labels):
    """The definitions, for one image with labels."""
    named = {number for number in answer[:2] if number >= 0}
    true = {number for number in range(N) if labels[number]}
    hits = len(named & true)
    precision, recall = hits / 2, hits / len(true)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"h_at_2": float(hits > 0), "r_at_2": recall, "p_at_2": precision, "f1_at_2": f1}


def columns(rows):
    return tuple([row[column] for row in rows] for column in range(3))


@given(images)
def test_values_match_the_definitions_and_are_nan_without_labels(rows):
    answers, labels, _ = columns(rows)
    values = label_values(answers, np.array(labels))
    for number, (answer, true) in enumerate(zip(answers, labels, strict=True)):
        if not any(true):
            assert all(np.isnan(values[name][number]) for name in NAMES)
            continue
        for name, expected in plain(answer, true).items():
            assert values[name][number] == pytest.approx(expected)


@given(images)
def test_both_denominators_match_plain_means(rows):
    answers, labels, patients = columns(rows)
    counted = [row for row in rows if any(row[1])]
    if not counted:
        with pytest.raises(ValueError, match="no metric is defined"):
            summarise(answers, np.array(labels), patients)
        return
    scores = summarise(answers, np.array(labels), patients)
    valid = [row for row in counted if min(row[0][:2]) >= 0]
    assert (scores.images, scores.valid) == (len(counted), len(valid))
    assert scores.without_labels == len(rows) - len(counted)
    assert set(scores.over_valid) == (set(NAMES) if valid else set())
    for name in NAMES:
        one = [plain(answer, true)[name] for answer, true, _ in valid]
        everything = sum(one) / len(counted)
        assert scores.over_all[name].value == pytest.approx(everything)
        assert 0 <= scores.over_all[name].low <= everything + 1e-9 <= scores.over_all[name].high + 2e-9 <= 1 + 3e-9
        if valid:
            found = scores.over_valid[name]
            whole = estimate(one, [owner for *_, owner in valid])
            assert found.value == pytest.approx(np.mean(one)) and found.views == len(valid)
            assert (found.low, found.high) == pytest.approx((max(whole.low, 0), min(whole.high, 1)))
            # An invalid answer never helps.
            assert scores.over_all[name].value <= found.value + 1e-9


@given(images)
def test_recall_by_label_matches_a_plain_count(rows):
    answers, labels, _ = columns(rows)
    count, share = recall_by_label(answers, np.array(labels))
    for label in range(N):
        having = [answer for answer, true in zip(answers, labels, strict=True) if true[label]]
        assert count[label] == len(having)
        found = sum(label in answer[:2] and min(answer[:2]) >= 0 for answer in having)
        assert np.isnan(share[label]) if not having else share[label] == pytest.approx(found / len(having))


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=4, max_size=4), min_size=1, max_size=6))
def test_the_lower_number_wins_a_tie(rows):
    expected = [sorted(range(4), key=lambda number: (-row[number], number))[:2] for row in rows]
    assert likeliest(rows).tolist() == expected


def test_more_labels_bound_the_metrics():
    one, three = np.eye(N, dtype=bool)[:1], np.array([[True, True, True, False, False]])
    best = label_values([[0, 1]], one)
    assert [best[name][0] for name in NAMES] == pytest.approx([1, 1, 0.5, 2 / 3])
    best = label_values([[0, 1]], three)
    assert [best[name][0] for name in NAMES] == pytest.approx([1, 2 / 3, 1, 4 / 5])


def test_the_metrics_agree_with_those_of_the_papers_tables():
    rng = np.random.default_rng(0)
    answers, truth = rng.integers(1, 23, (40, 2)), rng.permuted(np.tile(np.arange(1, 23), (40, 1)), axis=1)[:, :3]
    labels = np.zeros((40, 22), bool)
    np.put_along_axis(labels, truth - 1, True, axis=1)
    values = label_values(answers - 1, labels)
    np.testing.assert_allclose(values["h_at_2"], metrics.hit_at(answers, truth, 2))
    np.testing.assert_allclose(values["r_at_2"], metrics.recall_at(answers, truth, 2))


def test_half_an_answer_is_not_valid():
    labels = np.eye(N, dtype=bool)[[0, 0]]
    assert is_valid([[0, -1], [0, 1]]).tolist() == [False, True]
    scores = summarise([[0, -1], [0, 1]], labels, ["a", "b"])
    assert scores.valid == 1 and scores.over_all["h_at_2"].value == 0.5 and scores.over_valid["h_at_2"].value == 1
    assert scores.as_json()["over_all"]["h_at_2"]["views"] == 2


LABELS = np.eye(N, dtype=bool)[:2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_values([[0, 1]], LABELS), "1 answers and the labels of 2 images"),
        (lambda: label_values([[0, 1]] * 2, LABELS.astype(int)), "expected bool"),
        (lambda: label_values([[0], [1]], LABELS), "at least 2"),
        (lambda: label_values([[0.0, 1.0]] * 2, LABELS), "expected integers"),
        (lambda: label_values([[0, N]] * 2, LABELS), "expected 0 to 4"),
        (lambda: label_values([[0, -2]] * 2, LABELS), "-1 for none"),
        (lambda: summarise([[0, 1]] * 2, LABELS, ["a"]), "1 patients for 2 images"),
        (lambda: likeliest([[0.5, np.nan]]), "no NaN"),
        (lambda: likeliest([[0.5]]), "at least 2 labels"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
