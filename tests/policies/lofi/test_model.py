import copy
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from carm_env.xray_datasets.grounded import GroundedSentence  # noqa: E402
from policies.checkpoint import CheckpointError  # noqa: E402
from policies.lofi import text  # noqa: E402
from policies.lofi.checkpoint import load_lofi, save_lofi, small_lofi  # noqa: E402
from policies.lofi.encoder import LofiEncoder  # noqa: E402
from policies.lofi.model import LofiInputs, as_pixels, small_configs  # noqa: E402

SENTENCES = ["The carina projects over the upper right zone of the image.", "T1 is outside the field.",
             "The left humeral head lies 3 cm to the right of and 12 cm below the center."]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    tokenizer = text.small_tokenizer(SENTENCES * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    encoders, language = small_configs(len(tokenizer), ids, 32)
    for part in (encoders["vision_config"], encoders["text_config"]):
        part |= {"num_hidden_layers": 1}
    # The sixth layer attends to everything, the others to few tokens.
    language |= {"num_hidden_layers": 6, "sliding_window": 8}
    found = small_lofi(encoders, language, tokenizer, 4, 0)
    found.model.eval()
    return found


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def test_target_tokens_are_predicted_as_if_each_exchange_were_alone(model, images):
    sentence = GroundedSentence(SENTENCES[0], ((0.1, 0.2, 0.3, 0.4),))
    exchanges = [text.captioning(SENTENCES[1]), text.grounding(sentence), text.dense_captioning(sentence),
                 text.captioning(SENTENCES[2])]  # fmt: skip
    owners = [2, 0, 2, 2]
    texts = text.encode_texts(model.text_tokenizer, SENTENCES)
    packed = text.encode_exchanges(model.tokenizer, exchanges, owners, 3)
    with torch.no_grad():
        found = model.model(LofiInputs(as_pixels(images, 32), texts, packed))
        for number, (exchange, owner) in enumerate(zip(exchanges, owners, strict=True)):
            alone = text.encode_exchanges(model.tokenizer, [exchange], [0], 1)
            _, patches = model.model.image_features(as_pixels(images[owner : owner + 1], 32))
            words = model.model.language.get_input_embeddings()(alone.tokens)
            embeddings = torch.cat([model.model.image_tokens(patches), words], 1)
            logits = model.model.language(inputs_embeds=embeddings).logits[0]
            expected = logits[alone.is_target[0].nonzero()[:, 0] + 4 - 1]
            assert torch.allclose(found.logits[found.sequences == number], expected, atol=1e-4)
            assert found.targets[found.sequences == number].tolist() == alone.tokens[alone.is_target].tolist()
    assert packed.owners.tolist() == owners
    decoded = model.tokenizer.decode(found.targets[found.sequences == 1])
    assert decoded.removesuffix("<eos>") == "[100,200,300,400]"


def test_a_coordinate_is_one_token(model):
    boxes = [(0.0, number / 1000, 1.0, (number + 10) / 1000) for number in range(0, 1000, text.SMALL_STEP)]
    for box in boxes:
        exchange = text.grounding(GroundedSentence(SENTENCES[0], (box,)), model.box_step)
        tokens = model.tokenizer.tokenize(exchange.target)
        assert [token for token in tokens if token.isdigit()] == exchange.target.strip("[]").split(",")
        assert exchange.target in text.dense_captioning(GroundedSentence("T1.", (box,)), model.box_step).prompt


def test_a_frozen_resnet_keeps_its_statistics(model, images):
    stem = copy.deepcopy(model.model.encoders.vision_model.embeddings.patch_embedding)
    before = {name: value.clone() for name, value in stem.resnet.state_dict().items()}

    def same():
        return all(torch.equal(value, before[name]) for name, value in stem.resnet.state_dict().items())

    stem.resnet.requires_grad_(False)
    stem.train()(as_pixels(images, 32))
    assert same() and stem.training
    stem.resnet.requires_grad_(True)
    stem.train()(as_pixels(images, 32))
    assert not same()


def test_scores_are_finite_in_bf16(model, images):
    packed = text.encode_exchanges(model.tokenizer, [text.captioning(sentence) for sentence in SENTENCES], [0, 0, 2], 3)
    inputs = LofiInputs(as_pixels(images, 32), text.encode_texts(model.text_tokenizer, SENTENCES), packed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.model(inputs).logits.isfinite().all()


def test_images_without_exchanges_have_no_scores(model, images):
    packed = text.encode_exchanges(model.tokenizer, [], [], 3)
    with torch.no_grad():
        found = model.model(
            LofiInputs(as_pixels(images, 32), text.encode_texts(model.text_tokenizer, SENTENCES), packed)
        )
    assert found.logits.shape[0] == found.targets.shape[0] == 0


def test_temperature_and_bias_begin_as_in_siglip(model):
    assert float(model.model.encoders.logit_scale.detach().exp()) == pytest.approx(10)
    assert float(model.model.encoders.logit_bias.detach()) == -10


def test_answers_do_not_depend_on_the_other_prompts(model, images):
    encoder = LofiEncoder(model)
    prompts = ["Report this medical scan.", "Detect all instances of: " + SENTENCES[2], "T1"]
    together = encoder.answer(images, prompts)
    alone = [encoder.answer(images[row : row + 1], prompts[row : row + 1])[0] for row in range(3)]
    assert together == alone


def test_other_image_sizes_and_long_texts(model, images):
    encoder = LofiEncoder(model)
    assert encoder.embed_images(np.kron(images, np.ones((1, 2, 2), np.uint8))) == pytest.approx(
        encoder.embed_images(images), abs=1e-5
    )
    long = " ".join(SENTENCES * 10)
    with pytest.raises(text.TextTooLongError, match=r"has \d+ tokens, but the text encoder takes 64"):
        encoder.embed_texts([long], cut=False)
    assert encoder.embed_texts([long]).shape == (1, 128)
    with pytest.raises(ValueError, match="square greyscale"):
        encoder.embed_images(images[:, :20])


def test_a_checkpoint_keeps_the_model(model, images, tmp_path):
    save_lofi(tmp_path / "c", model, {"seed": 0}, "#")
    before, after = LofiEncoder(model), LofiEncoder(tmp_path / "c")
    assert after.fingerprint == before.fingerprint
    # Weights are stored in half precision.
    assert after.embed_images(images) == pytest.approx(before.embed_images(images), abs=5e-3)
    assert after.embed_texts(SENTENCES) == pytest.approx(before.embed_texts(SENTENCES), abs=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 9}, "another architecture"),
        ({"language": {"vocab_size": 10**9}}, "another architecture"),
        ({"encoders": 7}, "describes no model"),
        ({"box_step": 0}, "expected"),
        ({"kind": "cnn"}, "expected 'lofi'"),
    ],
)
def test_damaged_checkpoints_are_refused(model, tmp_path, change, message):
    save_lofi(tmp_path / "c", model, {}, "#")
    path = tmp_path / "c" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_lofi(tmp_path / "c")


def test_a_missing_tokenizer_is_refused(model, tmp_path):
    save_lofi(tmp_path / "c", model, {}, "#")
    (tmp_path / "c" / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        load_lofi(tmp_path / "c")
