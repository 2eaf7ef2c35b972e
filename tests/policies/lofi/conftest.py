"""A tiny encoder and an index of it."""

import pytest


@pytest.fixture
def encoder(tmp_path):
    """Folder of an untrained encoder."""
    pytest.importorskip("transformers")
    from policies.lofi.checkpoint import save_lofi, small_lofi
    from policies.lofi.model import small_configs
    from policies.lofi.text import small_tokenizer

    tokenizer = small_tokenizer(["The carina is seen in the upper right zone."] * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    encoders, language = small_configs(len(tokenizer), ids, 32)
    about = {"isocenter_depth_mm": 140.0}
    save_lofi(tmp_path / "encoder", small_lofi(encoders, language, tokenizer, 4, 0), about, "#")
    return tmp_path / "encoder"


@pytest.fixture
def index_folder(encoder, small_patients, tmp_path):
    """Folder of an index of 12 views of each of two patients."""
    from training import lofi_index

    lofi_index.run(lofi_index.Arguments(encoder, small_patients[:2], 12, 32, 0, 1, tmp_path / "pool"))
    return tmp_path / "pool" / "index"
