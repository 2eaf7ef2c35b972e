import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carm_env.evaluation import metrics
from carm_env.evaluation.intervals import estimate
from carm_env.landmarks import N_LANDMARKS

# Few ids, so that hits, repeats and gaps are common.
ids = st.integers(0, 6)
answer_rows = st.lists(ids, min_size=3, max_size=3)
relevant_rows = st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True).map(
    lambda row: row + [0] * (3 - len(row))
)
views = st.lists(st.tuples(answer_rows, relevant_rows), min_size=1, max_size=12)
ranks = st.sampled_from((1, 2, 3))


def found(answer, relevant, k, repeats):
    first = [item for item in answer[:k] if item in relevant and item != 0]
    return len(first) if repeats else len(set(first))


@given(views, ranks, st.booleans())
def test_precision_recall_and_hits_match_a_plain_count(rows, k, repeats):
    answers, relevant = ([row[i] for row in rows] for i in (0, 1))
    hits = [found(answer, true, k, repeats) for answer, true in rows]
    np.testing.assert_allclose(metrics.precision_at(answers, relevant, k, repeats=repeats), [n / k for n in hits])
    present = [len([i for i in true if i]) for true in relevant]
    expected = [n / m for n, m in zip(hits, present, strict=True)]
    np.testing.assert_allclose(metrics.recall_at(answers, relevant, k, repeats=repeats), expected)
    np.testing.assert_array_equal(metrics.hit_at(answers, relevant, k), [float(n > 0) for n in hits])


@given(views)
def test_exact_closest_and_centred_hits_match_a_plain_count(rows):
    answers, relevant = ([row[i] for row in rows] for i in (0, 1))
    target = [true[0] for true in relevant]
    exact = metrics.exact_closest(answers, relevant)
    np.testing.assert_array_equal(exact, [float(a[0] == t) for a, t in zip(answers, target, strict=True)])
    np.testing.assert_array_equal(exact, metrics.centred_hit_at(answers, target, 1))
    expected = [float(t in a[:2]) for a, t in zip(answers, target, strict=True)]
    np.testing.assert_array_equal(metrics.centred_hit_at(answers, target, 2), expected)
    assert (exact <= metrics.precision_at(answers, relevant, 1)).all()


@given(views)
def test_average_precision_and_ranked_matches_match_a_plain_count(rows):
    answers, relevant = ([row[i] for row in rows] for i in (0, 1))
    expected, exact = [], []
    for answer, true in rows:
        wanted = [item for item in true if item]
        seen, total = set(), 0.0
        for rank, item in enumerate(answer, 1):
            if item in wanted and item not in seen:
                seen.add(item)
                total += len(seen) / rank
        expected.append(total / min(len(wanted), len(answer)))
        exact.append(float(answer[: len(wanted)] == wanted))
    np.testing.assert_allclose(metrics.average_precision(answers, relevant), expected)
    np.testing.assert_array_equal(metrics.ranked_exact(answers, relevant), exact)
    with pytest.raises(ValueError, match="expected as many"):
        metrics.ranked_exact([row[:2] for row in answers], relevant)


def test_a_repeated_answer_counts_once_unless_repeats_count():
    answers, relevant = [[11, 11, 11]], [[11, 4, 10]]
    assert metrics.precision_at(answers, relevant, 3) == pytest.approx(1 / 3)
    assert metrics.recall_at(answers, relevant, 3) == pytest.approx(1 / 3)
    assert metrics.precision_at(answers, relevant, 3, repeats=True) == 1


def test_a_missing_answer_is_a_miss_that_can_be_excluded():
    answers, relevant = np.array([[0, 0, 0], [1, 10, 0], [1, 10, 3]]), [[1, 10, 3]] * 3
    np.testing.assert_allclose(metrics.precision_at(answers, relevant, 3), [0, 2 / 3, 1])
    np.testing.assert_array_equal(metrics.complete(answers), [False, False, True])


def test_recall_ignores_absent_landmarks():
    answers, relevant = [[1, 10, 3]], [[1, 10, 0]]
    assert metrics.recall_at(answers, relevant, 2) == 1
    assert metrics.precision_at(answers, relevant, 3) == pytest.approx(2 / 3)
    assert metrics.recall_at([[0, 0, 0]], relevant, 3) == 0


@pytest.mark.parametrize(
    ("answers", "relevant", "k", "message"),
    [
        ([[1, 2, 3]], [[1, 2, 3]], 4, "expected 1 to 3"),
        ([[1, 2, 3]], [[1, 2, 3]], 0, "expected 1 to 3"),
        ([[1, 2, 3]], [[1, 2, 3], [1, 2, 3]], 1, "equal numbers"),
        ([[1, 2, 3]], [[0, 0, 0]], 1, "remove the view"),
        ([[1, 2, 3]], [[0, 2, 3]], 1, "move the 0"),
        ([[1, 2, 3]], [[2, 0, 3]], 1, "move the 0"),
        ([[1, 2, 3]], [[2, 2, 3]], 1, "twice"),
        ([[1, -2, 3]], [[1, 2, 3]], 1, "integers of 0 or more"),
        ([[1.0, 2.0, 3.0]], [[1, 2, 3]], 1, "integers of 0 or more"),
        (np.zeros((0, 3), int), np.zeros((0, 3), int), 1, "integers of 0 or more"),
    ],
)
def test_invalid_input_is_refused(answers, relevant, k, message):
    with pytest.raises(ValueError, match=message):
        metrics.precision_at(answers, relevant, k)


@given(views, st.data())
def test_estimates_contain_the_mean_and_stay_within_0_and_1(rows, data):
    answers, relevant = ([row[i] for row in rows] for i in (0, 1))
    patients = data.draw(st.lists(st.sampled_from("abc"), min_size=len(rows), max_size=len(rows)))
    values = metrics.retrieval_values(answers, relevant)
    found = {name: metrics.share_estimate(one, patients) for name, one in values.items()}
    assert set(found) == {f"{name}@{k}" for name in "PRH" for k in (1, 2, 3)} | {"mAP", "exact", "ranked exact"}
    assert found["R@2"].value == pytest.approx(metrics.recall_at(answers, relevant, 2).mean())
    centred = metrics.centred_values(answers, [row[0] for row in relevant])
    found |= {f"{name} centred": metrics.share_estimate(one, patients) for name, one in centred.items()}
    for value, low, high, n, _ in found.values():
        assert 0 <= low <= value + 1e-9 and value <= high + 1e-9 and high <= 1 and n == len(rows)


def test_variation_between_patients_widens_the_interval():
    values, patients = [0.5] * 20 + [1.0] * 20, [str(i // 10) for i in range(40)]
    clustered, mixed = (estimate(values, names) for names in (patients, [str(i % 4) for i in range(40)]))
    assert clustered.high - clustered.low > 3 * (mixed.high - mixed.low)


@given(st.lists(st.tuples(st.integers(0, N_LANDMARKS), st.integers(1, N_LANDMARKS)), max_size=40))
def test_the_confusion_matrix_counts_every_answered_view_once(pairs):
    answered, closest = (np.array([pair[i] for pair in pairs], dtype=int) for i in (0, 1))
    matrix = metrics.confusion_matrix(answered, closest)
    expected = [
        [sum(pair == (column, row) for pair in pairs) for column in range(1, N_LANDMARKS + 1)]
        for row in range(1, N_LANDMARKS + 1)
    ]
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(("answered", "closest"), [([15], [1]), ([1], [0]), ([1, 2], [1]), ([[1]], [[1]])])
def test_the_confusion_matrix_refuses_invalid_ids_and_shapes(answered, closest):
    with pytest.raises(ValueError, match="ids are|expected"):
        metrics.confusion_matrix(answered, closest)


def test_the_diagonal_of_a_drawn_confusion_matrix_is_dark(tmp_path):
    pytest.importorskip("matplotlib")
    path = metrics.save_confusion_matrix(tmp_path / "m.png", 50 * np.eye(N_LANDMARKS, dtype=int), "Nothing confused")
    again = metrics.save_confusion_matrix(tmp_path / "n.png", 50 * np.eye(N_LANDMARKS, dtype=int), "Nothing confused")
    assert path.read_bytes() == again.read_bytes()
    empty = metrics.save_confusion_matrix(tmp_path / "o.png", np.zeros((N_LANDMARKS, N_LANDMARKS)))
    dark, light = (np.asarray(Image.open(p).convert("RGB"), dtype=float)[..., 0].mean() for p in (path, empty))
    assert dark < light - 2
