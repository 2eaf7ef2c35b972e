"""LoFi's image encoder as the backbone of the networks and of the embedded language model."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from policies.checkpoint import CheckpointError, load_checkpoint, save_checkpoint  # noqa: E402
from policies.conformal import KIND as CONFORMAL  # noqa: E402
from policies.embedded_vlm import build_model, build_tokenizer  # noqa: E402
from policies.lofi.checkpoint import save_lofi, small_lofi  # noqa: E402
from policies.lofi.model import as_pixels, small_configs  # noqa: E402
from policies.lofi.text import small_tokenizer  # noqa: E402
from policies.lofi.vision import encoder_tensors, with_encoder  # noqa: E402
from policies.networks import ENCODER, DisplacementNetwork, PooledClassifier, as_input  # noqa: E402
from training import cnn, conformal  # noqa: E402


@pytest.fixture
def lofi(tmp_path):
    """A small model and the folder of its checkpoint."""
    tokenizer = small_tokenizer(["The carina is seen in the upper right zone."] * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    found = small_lofi(*small_configs(len(tokenizer), ids, 128), tokenizer, 4, 0)
    found.model.eval()
    save_lofi(tmp_path / "lofi", found, {"isocenter_depth_mm": 140.0}, "#")
    return found, tmp_path / "lofi"


@pytest.fixture
def words(small_patients, tmp_path):
    return ["--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test", small_patients[3],
            "--views_per_patient", "32", "--workers", "1", "--batch_size", "16", "--epochs", "1", "--no_evaluate",
            "--architecture", "lofi"]  # fmt: skip


def test_the_map_of_the_network_holds_the_tokens_of_lofi(lofi):
    model, folder = lofi
    network = DisplacementNetwork("lofi").eval()
    network.load_state_dict(with_encoder(network.state_dict(), folder, ENCODER))
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    with torch.no_grad():
        _, tokens = model.model.image_features(as_pixels(images, 128))
        found = network.feature_map(as_input(images, 128))
    assert found.shape == (2, 128, 8, 8)
    # Weights are stored in half precision.
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, atol=0.05, rtol=0.05)


def test_the_networks_start_from_lofi_and_the_language_model_sees_by_it(lofi, words, tmp_path, capsys):
    _, folder = lofi
    start = ["--warm_start", str(folder), "--learning_rate", "1e-9"]
    assert conformal.main([*words, *start, "--members", "1", "--output_dir", str(tmp_path / "c")]) == 0
    assert cnn.main([*words, *start, "--output_dir", str(tmp_path / "n")]) == 0
    expected = encoder_tensors(folder)
    config, tensors = load_checkpoint(tmp_path / "c" / "checkpoint", CONFORMAL)
    assert config["architecture"] == "lofi"
    name = "layers.embeddings.patch_embedding.projection.weight"
    torch.testing.assert_close(tensors[f"0.{ENCODER}{name}"], expected[name], atol=1e-4, rtol=1e-3)
    further = [*words, "--warm_start", str(tmp_path / "c" / "checkpoint"), "--output_dir", str(tmp_path / "m")]
    assert cnn.main(further) == 0, capsys.readouterr().err
    backbone = {key.removeprefix("0."): value for key, value in tensors.items()}
    model, _ = build_model(build_tokenizer(["Closest?"] * 20), backbone, config["architecture"], 32, 1)
    seen = model.model.vision_tower(torch.zeros(1, 3, 128, 128)).last_hidden_state
    assert seen.shape == (1, 16, 32)


def test_a_wrong_start_is_named(lofi, words, tmp_path, capsys):
    _, folder = lofi
    given = [*words[:-1], "small"]
    assert cnn.main([*given, "--warm_start", str(folder), "--output_dir", str(tmp_path / "n")]) == 2
    assert "give --architecture lofi" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a ResNet"):
        PooledClassifier("lofi")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _, tensors = load_checkpoint(folder, "lofi")
    save_checkpoint(tmp_path / "p", {**config, "image_text_model": "siglip"}, tensors, "#")
    with pytest.raises(CheckpointError, match="trained from pretrained encoders"):
        encoder_tensors(tmp_path / "p")
    config["encoders"]["vision_config"]["image_size"] = 64
    short = {key: value[:16] if "position_embedding" in key else value for key, value in tensors.items()}
    save_checkpoint(tmp_path / "q", config, short, "#")
    with pytest.raises(CheckpointError, match="an image encoder of another size"):
        with_encoder(DisplacementNetwork("lofi").state_dict(), tmp_path / "q", ENCODER)
