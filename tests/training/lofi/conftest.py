"""Tiny models of the real classes, and a tiny training."""

import pytest

WORDS = ["--epochs", "1", "--batch_size", "8", "--evaluated_images", "8", "--views_per_patient", "16", "--workers", "1",
         "--image_size", "32", "--queries", "4"]  # fmt: skip


@pytest.fixture
def words(small_patients, tmp_path):
    """Words of the command line of a training of seconds, on tiny patients."""
    return [*WORDS, "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test",
            small_patients[3], "--output_dir", str(tmp_path / "o")]  # fmt: skip


@pytest.fixture
def real_models(tmp_path):
    """Folders of encoders and a language model of the real classes, two layers each, as on the hub."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, SiglipConfig, SiglipModel

    from policies.lofi.text import small_tokenizer

    tokenizer = small_tokenizer(["The carina projects over the upper right zone of the image."] * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    encoders = SiglipModel(
        SiglipConfig(
            text_config={**tower, "vocab_size": len(tokenizer), "projection_size": 16, **ids},
            vision_config={**tower, "image_size": 32, "patch_size": 8},
        )
    )
    language = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, max_position_embeddings=512, **ids,
        )
    )  # fmt: skip
    folders = tmp_path / "siglip", tmp_path / "gemma"
    for folder, model in zip(folders, (encoders, language), strict=True):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders
