import numpy as np
import pytest
import tiny_models
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from carm_env.chat_models.interface import ModelError
from carm_env.chat_models.specification import ModelSpecification
from policies.local_model import LocalModel
from policies.routing.cards import read_repository
from policies.routing.embedded import build_router_model, build_router_tokenizer, standardise
from policies.routing.local_top_two import LocalTopTwo, make_top_two_model
from policies.routing.prompts import modality_messages
from policies.routing.router import Router
from training._support.router_dialogues import STYLE, DialogueEncoder, card_dialogue, dialogues, statistics_of

IMAGE = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).convert("RGB")
MODALITIES = ("brain CT scan", "chest CT scan")


@pytest.fixture(scope="module")
def small():
    repository = read_repository()
    rng = np.random.default_rng(0)
    texts = [part["text"] for _ in range(30) for message in card_dialogue(repository, rng).messages
             for part in message["content"]]  # fmt: skip
    return build_router_model(build_router_tokenizer([*texts, "None", "Other", "modality"]))


@pytest.mark.parametrize("make", [tiny_models.tiny_gemma3, tiny_models.tiny_qwen2_5_vl])
def test_models_of_real_classes_give_their_two_likeliest_answers(tmp_path, make):
    model = LocalModel(str(make(tmp_path / "model")))
    messages = modality_messages(IMAGE, MODALITIES, "full")
    found = LocalTopTwo(model, 5).top_two(messages)
    inputs = model._inputs([messages])
    with torch.inference_mode():
        first = model._model(**inputs).logits[0, -1].float().softmax(-1).topk(2)
    assert [one.probability for one in found.candidates] == pytest.approx(first.values.tolist(), rel=1e-3)
    tokenizer = model._processor.tokenizer
    for token, candidate in zip(first.indices.tolist(), found.candidates, strict=True):
        start = tokenizer.decode([token], skip_special_tokens=True).strip()
        assert candidate.answer.startswith(start)
    assert found.requests == 1 and 0 < found.tokens <= 10 and found.prompt_tokens > 20


def test_a_router_runs_on_a_model_of_a_real_class(tmp_path):
    folder = tiny_models.tiny_gemma3(tmp_path / "model")
    route = Router(make_top_two_model(f"{folder}?max_tokens=4"), read_repository()).route(IMAGE)
    assert route.card_id == "None" and route.stages[0].reading.fault == "unknown_modality"


def test_a_local_model_is_not_asked_for_two_answers_in_words(tmp_path):
    with pytest.raises(ModelError, match="--ask-for-two is for served models"):
        make_top_two_model(tmp_path, ask_for_two=True)


def test_training_sees_what_the_model_sees_in_use(small):
    model, processor = small
    asked = LocalModel.of_loaded(model.eval(), processor, ModelSpecification(name="m"), STYLE)
    messages = modality_messages(IMAGE, MODALITIES, STYLE)
    given = asked._inputs([messages])
    statistics = model.model.vision_tower.statistics(given["pixel_values"])
    encoder = DialogueEncoder(processor, statistics)
    dialogue = type(card_dialogue(read_repository(), np.random.default_rng(0)))(messages, "None", 0)
    batch = encoder.batch([dialogue])
    length = given["input_ids"].shape[1]
    assert batch["input_ids"][0, :length].tolist() == given["input_ids"][0].tolist()
    with torch.inference_mode():
        in_use, in_training = model(**given).logits[0, -1], model(**batch).logits[0, length - 1]
    torch.testing.assert_close(in_use, in_training, rtol=1e-4, atol=1e-4)
    kept = batch["labels"][0][batch["labels"][0] >= 0].tolist()
    assert processor.tokenizer.decode(kept) == "None<end_of_turn>"


def test_statistics_are_standardised(small):
    model, processor = small
    values = torch.randn(50, model.model.vision_tower.n_statistics) * 3 + 2
    standardise(model, values)
    tower = model.model.vision_tower
    scaled = (values - tower.statistics_mean) / tower.statistics_std
    assert scaled.mean().abs() < 1e-3 and abs(float(scaled.std()) - 1) < 0.02
    from policies.routing.made_images import drawings

    found = statistics_of(tower, processor, list(drawings(1, 0, held_out=True)))
    assert found.shape == (6, tower.n_statistics) and torch.isfinite(found).all()


def test_statistics_of_an_image_do_not_depend_on_its_batch():
    from policies.routing.made_images import drawings

    model, processor = build_router_model(build_router_tokenizer(["modality"]))
    images = list(drawings(1, 0, held_out=True))
    together = statistics_of(model.model.vision_tower, processor, images)
    alone = statistics_of(model.model.vision_tower, processor, images[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


def test_dialogues_have_right_answers():
    from policies.routing.made_images import BODY_PART, FRONTAL, HAND, MadeImage

    repository, blank = read_repository(), np.zeros((256, 256), np.uint8)
    images = [
        MadeImage(blank, FRONTAL, "Head", "a", "p"),
        MadeImage(blank, BODY_PART, HAND, "b", "p"),
        MadeImage(blank, "None", "Normal", "maze", "maze"),
        MadeImage(blank, "Other", "Normal", "ct axial", "p"),
    ]
    drawn = dialogues(images, repository, np.random.default_rng(0))
    seen = set()
    for dialogue in (next(drawn) for _ in range(400)):
        text = dialogue.messages[-1]["content"][-1]["text"]
        if text.startswith("modality"):
            truth = images[dialogue.image].modality
            offered = text.split(" : ")[1].split(" , ")
            assert dialogue.answer == (truth if truth in offered else "Other")
        elif text.startswith("finding"):
            assert dialogue.answer == images[dialogue.image].finding and dialogue.image in (0, 1)
        else:
            offered = text.split(" : ")[1].split(" , ")
            card_id = dialogue.answer.split(":")[0]
            assert card_id in offered
            if card_id != "None":
                assert repository.card(card_id).findings and repository.card(card_id).modality in text
        seen.add(text.split(" ")[0])
    assert seen == {"modality", "finding", "card"}
