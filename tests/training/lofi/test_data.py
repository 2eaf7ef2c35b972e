import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence  # noqa: E402
from policies.lofi.checkpoint import small_lofi  # noqa: E402
from policies.lofi.evaluation import draw_phrases, landmark_in  # noqa: E402
from policies.lofi.model import small_configs  # noqa: E402
from policies.lofi.text import TextTooLongError, small_tokenizer  # noqa: E402
from training._support.lofi.data import GroundedImages, LofiBatches  # noqa: E402

BOX = (0.1, 0.2, 0.4, 0.6)
CARINA = GroundedSentence("The carina is seen in the upper right zone.", (BOX,))
PLAIN = GroundedSentence("Frontal projection.")
LONG = GroundedSentence(" ".join(f"Word{number}" for number in range(80)) + ".")


@pytest.fixture
def lofi():
    tokenizer = small_tokenizer([CARINA.text, PLAIN.text] * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return small_lofi(*small_configs(len(tokenizer), ids, 32), tokenizer, 4, 0)


def batches(lofi, *sentences, located=1, cut=False):
    reports = [GroundedReport(f"image {number}", "patient", sentences) for number in range(3)]
    images = np.zeros((3, 32, 32), np.uint8)
    return LofiBatches(GroundedImages(images, reports), lofi, (4, 8), ("c", "g", "d"), 0, located, cut), reports


def test_captions_without_boxes_have_the_captioning_loss_alone(lofi):
    with_boxes, _ = batches(lofi, CARINA, PLAIN)
    without, reports = batches(lofi, PLAIN)
    assert with_boxes.batch(np.arange(3), 0).exchanges.owners.tolist() == [0, 1, 2, 0, 1, 2]
    assert without.batch(np.arange(3), 0).exchanges.owners.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="no report has boxes, expected at least one"):
        draw_phrases(reports, 0)
    crowded = GroundedSentence("Clips.", tuple((0.01 * number, 0.1, 0.01 * number + 0.1, 0.2) for number in range(17)))
    assert batches(lofi, crowded)[0].batch(np.arange(3), 0).exchanges.owners.tolist() == [0, 1, 2]


def test_several_sentences_with_boxes_are_sampled(lofi):
    other = GroundedSentence("The right lung is partially included.", (BOX,))
    packed = batches(lofi, CARINA, PLAIN, other, located=4)[0].batch(np.arange(3), 0).exchanges
    assert packed.owners.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert set(packed.numbers[1].tolist()) - {-1} == {1, 5, 6}


def test_a_sentence_that_is_too_long_is_refused_or_cut(lofi):
    with pytest.raises(TextTooLongError, match=r"has \d+ tokens, but the text encoder takes 64: .*--cut-texts"):
        batches(lofi, LONG)[0].batch(np.arange(3), 0)
    assert batches(lofi, LONG, cut=True)[0].batch(np.arange(3), 0).texts.shape == (3, 64)


def test_phrases_about_one_landmark_are_chosen():
    both = GroundedSentence("The thoracic spine is included from T1 to T12.", (BOX, BOX))
    lung = GroundedSentence("The left lung is partially included.", (BOX,))
    assert [landmark_in(sentence) for sentence in (CARINA, PLAIN, both, lung)] == [11, None, None, None]
    report = GroundedReport("image", "patient", (lung, both, CARINA))
    assert draw_phrases([report], 0, 0, only_landmarks=True).texts == [CARINA.text]
