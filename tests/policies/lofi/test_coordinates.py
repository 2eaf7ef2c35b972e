import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from policies.lofi.coordinates import MedianCoordinates, coordinate_ids  # noqa: E402
from policies.lofi.text import SMALL_STEP, small_tokenizer  # noqa: E402


def test_the_median_coordinate_is_written():
    # Tokens 0 and 5 are words, 1 to 4 the coordinates in their order.
    process = MedianCoordinates([1, 2, 3, 4])
    shares = torch.tensor([
        [0.01, 0.40, 0.05, 0.30, 0.23, 0.01],
        [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],
        [0.00, 0.00, 0.00, 0.00, 1.00, 0.00],
        [0.00, 0.26, 0.25, 0.24, 0.25, 0.00],
    ])  # fmt: skip
    found = process(torch.zeros(4, 0), shares.log())
    assert found.argmax(-1).tolist() == [3, 0, 4, 2]
    assert torch.equal(found[1], shares[1].log())


def test_coordinates_of_a_small_model_are_tokens_in_their_order():
    tokenizer = small_tokenizer(["The carina is seen in the upper right zone."] * 20)
    ids = coordinate_ids(tokenizer, SMALL_STEP)
    assert tokenizer.convert_ids_to_tokens(ids) == [str(number) for number in range(0, 1001, 10)]
    assert coordinate_ids(tokenizer, 1) is None
