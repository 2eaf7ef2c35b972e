import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import grounding, retrieval  # noqa: E402
from benchmarks._support.lofi import LofiEvaluationArguments  # noqa: E402
from policies.lofi.checkpoint import save_lofi, small_lofi  # noqa: E402
from policies.lofi.index import EmbeddingIndexError  # noqa: E402
from policies.lofi.model import small_configs  # noqa: E402
from policies.lofi.text import small_tokenizer  # noqa: E402
from training import lofi_index  # noqa: E402


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = small_tokenizer(["The carina is seen in the upper right zone.", "T1 is outside the field."] * 20)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    save_lofi(tmp_path / "c", small_lofi(*small_configs(len(tokenizer), ids, 32), tokenizer, 4, 0), {}, "#")
    return tmp_path / "c"


def test_the_scripts_write_the_figures_with_intervals(checkpoint, small_patients, tmp_path, capsys):
    pytest.importorskip("rodeo")
    given = {"model": checkpoint, "patients": small_patients[:3], "views": 4, "json": tmp_path / "r.json"}
    retrieval.run(LofiEvaluationArguments(**given))
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["image_to_text"].keys() == {"r_at_1", "r_at_5", "r_at_10", "r_at_20"}
    assert found["text_to_image"].keys() == {"r_at_1", "r_at_5", "r_at_10"}
    assert found["intervals"]["image_to_text"]["r_at_1"]["patients"] == 3 and found["images"] == 12
    grounding.run(grounding.Arguments(**given, phrases=1))
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    names = {"f_at_50", "p_at_50", "r_at_50", "rodeo_localization", "rodeo_shape"}
    assert names <= found.keys() and found["intervals"].keys() == names and found["run"]["seed"] == 1
    assert "f_at_50" in capsys.readouterr().out
    grounding.run(grounding.Arguments(**given, phrases=1, only_landmarks=True))
    landmarks = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert landmarks["only_landmarks"] and landmarks["intervals"]["f_at_50"]["views"] <= 12
    with pytest.raises(ValueError, match="phrases is -1"):
        grounding.run(grounding.Arguments(**given, phrases=-1))


def test_localizers_mark_the_landmarks_of_the_same_phrases(checkpoint, small_patients, tmp_path):
    pytest.importorskip("rodeo")
    lofi_index.run(lofi_index.Arguments(checkpoint, small_patients[:2], 40, 32, 0, 1, tmp_path / "pool"))
    given = {"patients": small_patients[2:3], "views": 4, "json": tmp_path / "r.json", "phrases": 1}
    figures = {}
    for policy in (f"knn:{tmp_path / 'pool' / 'index'}?k=2", "mllm", "conformal"):
        grounding.run(grounding.Arguments(**given, policy=policy))
        figures[policy] = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    one, other, conformal = figures.values()
    assert conformal["rodeo_localization"] > 0 and conformal["intervals"].keys() == one["intervals"].keys()
    assert one["policy"].startswith("knn:") and one["intervals"]["f_at_50"]["views"] > 0
    assert one["intervals"]["r_at_50"]["views"] == other["intervals"]["r_at_50"]["views"]
    with pytest.raises(ValueError, match="which marks no regions"):
        grounding.run(grounding.Arguments(**given, policy="cnn"))
    with pytest.raises(EmbeddingIndexError, match="leakage"):
        given["patients"] = small_patients[:1]
        grounding.run(grounding.Arguments(**given, policy=f"knn:{tmp_path / 'pool' / 'index'}?k=2"))
