import numpy as np
import pytest

from carm_env.evaluation.retrieval import CUTOFFS, ranks, retrieval_estimates


def test_recalls_equal_a_loop_over_sorted_candidates():
    rng = np.random.default_rng(0)
    owners = np.array(sorted([*range(60), *rng.integers(0, 60, 40).tolist()]))
    similarities = rng.normal(size=(60, 100)) + 2.0 * (owners == np.arange(60)[:, None])
    patients = [f"p{number // 6}" for number in range(60)]
    found = retrieval_estimates(similarities, owners, patients)
    for k in CUTOFFS:
        hits = [any(owners[text] == image for text in np.argsort(-similarities[image])[:k]) for image in range(60)]
        assert abs(found["image_to_text"][f"r_at_{k}"].value - np.mean(hits)) < 1e-12
        hits = [owners[text] in np.argsort(-similarities[:, text])[:k] for text in range(100)]
        assert abs(found["text_to_image"][f"r_at_{k}"].value - np.mean(hits)) < 1e-12
    assert found["text_to_image"]["r_at_5"].patients == 10 and found["text_to_image"]["r_at_5"].views == 100
    assert found["text_to_image"]["r_at_5"].low < found["text_to_image"]["r_at_5"].value


def test_constant_similarities_find_nothing_and_small_sets_have_fewer_cutoffs():
    found = retrieval_estimates(np.ones((3, 3)), np.arange(3), ["a", "b", "c"])
    assert list(found["image_to_text"]) == ["r_at_1"] and found["image_to_text"]["r_at_1"].value == 0
    assert found["text_to_image"]["r_at_1"].value == 0


@pytest.mark.parametrize(
    ("similarities", "owners", "message"),
    [
        (np.ones((2, 3)), np.array([0, 1]), "expected finite"),
        (np.full((2, 2), np.nan), np.array([0, 1]), "expected finite"),
        (np.ones((2, 2)), np.array([0, 0]), "a text for each image"),
    ],
)
def test_wrong_inputs_are_named(similarities, owners, message):
    with pytest.raises(ValueError, match=message):
        ranks(similarities, owners)
