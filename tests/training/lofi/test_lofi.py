import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence  # noqa: E402
from policies.checkpoint import SHIPPED, CheckpointError, load_checkpoint, save_checkpoint  # noqa: E402
from policies.conformal import member_tensors  # noqa: E402
from policies.lofi.checkpoint import load_lofi  # noqa: E402
from policies.lofi.encoder import LofiEncoder  # noqa: E402
from policies.lofi.model import as_pixels  # noqa: E402
from policies.networks import DisplacementNetwork, as_input  # noqa: E402
from policies.resnet import beside_contrast, standardized  # noqa: E402
from tests.grounded_dataset_files import padchest  # noqa: E402
from training import lofi  # noqa: E402
from training._support.lofi.arguments import LofiArguments  # noqa: E402
from training._support.lofi.build import build_lofi, initial_backbone  # noqa: E402
from training._support.training_loop import TrainingLoop  # noqa: E402

REPORT = GroundedReport("image", "patient", (GroundedSentence("The carina is seen in the upper right zone."),) * 20)
CONFIG = Path(lofi.__file__).with_name("configs") / "lofi_paper.yaml"


def weights(folder):
    return load_lofi(folder / "checkpoint").model.state_dict()


def test_a_small_model_is_trained_and_evaluated(words, tmp_path, capsys):
    assert lofi.main([*words, "--json", str(tmp_path / "r.json")]) == 0
    output = capsys.readouterr().out
    assert "epoch 1/1" in output and "image_to_text_r_at_1" in output and "f_at_50" in output
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert {"image_to_text_r_at_1", "text_to_image_r_at_1", "f_at_50", "run"} <= found.keys()
    assert "Research use only" in (tmp_path / "o" / "checkpoint" / "README.md").read_text(encoding="utf-8")
    encoder = LofiEncoder(tmp_path / "o" / "checkpoint")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert np.allclose(np.linalg.norm(encoder.embed_images(images), axis=1), 1, atol=1e-5)
    assert np.allclose(encoder.embed_images(images)[1], encoder.embed_images(images[1:2])[0], atol=1e-5)
    assert len(encoder.ground(images, ["The carina.", "T1 is seen.", "Nothing."])) == 3


def test_the_image_encoder_begins_with_the_shipped_network(words, tmp_path, capsys):
    shipped = member_tensors(load_checkpoint(SHIPPED / "conformal", "conformal")[1], 0)
    resnet = "encoders.vision_model.embeddings.patch_embedding.resnet."
    weight = "embedder.embedder.convolution.weight"

    def trained(*given):
        assert lofi.main([*words, "--max_steps", "1", "--no-evaluate", *given]) == 0, capsys.readouterr().err
        found = weights(tmp_path / "o")
        return {name.removeprefix(resnet): value for name, value in found.items() if name.startswith(resnet)}

    frozen = trained()
    assert len(frozen) > 50
    for name, value in frozen.items():
        assert torch.equal(value, shipped[f"resnet.{name}"]), name
    tuned = trained("--no-freeze_backbone")[weight] - shipped[f"resnet.{weight}"]
    assert 0 < tuned.abs().max() < 0.1
    assert (trained("--backbone", "random")[weight] - shipped[f"resnet.{weight}"]).abs().max() > 0.1
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128), dtype=np.uint8)
    network = DisplacementNetwork("medium_contrast").eval()
    network.load_state_dict(shipped)
    given = LofiArguments(workers=1)
    stem = (
        build_lofi(given, [REPORT], initial_backbone(given))
        .model.eval()
        .encoders.vision_model.embeddings.patch_embedding
    )
    with torch.no_grad():
        seen = stem.resnet(beside_contrast(standardized(as_pixels(images, 128)[:, :1] * 127.5 + 127.5)))
        expected = network.feature_map(as_input(images, 128))
        assert torch.allclose(seen.last_hidden_state, expected, atol=1e-4)
        assert torch.allclose(stem(as_pixels(images, 128)), stem.projection(expected), atol=1e-4)


def test_a_backbone_of_another_architecture_is_named(tmp_path):
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("small").state_dict().items()}
    save_checkpoint(tmp_path / "c", {"kind": "conformal", "isocenter_depth_mm": 140.0}, tensors, "#")
    given = LofiArguments(backbone=str(tmp_path / "c"))
    with pytest.raises(CheckpointError, match="another architecture"):
        build_lofi(given, [REPORT], initial_backbone(given))


def test_the_language_model_has_its_own_learning_rate(words, tmp_path, monkeypatch):
    groups = []
    adamw = torch.optim.AdamW

    def recorded(given, **settings):
        groups.append([(len(group["params"]), group["lr"]) for group in given])
        return adamw(given, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", recorded)
    words = [*words, "--max_steps", "1", "--no-evaluate"]
    assert lofi.main([*words, "--learning_rate", "0.001", "--language_learning_rate", "0.002"]) == 0
    assert lofi.main([*words, "--learning_rate", "0.001", "--language_learning_rate", "0"]) == 0
    assert {rate for _, rate in groups[0]} == {0.001, 0.002} and {rate for _, rate in groups[1]} == {0.001}
    assert sum(count for count, _ in groups[0]) == sum(count for count, _ in groups[1])


def test_an_interrupted_training_resumes_to_the_same_weights(words, tmp_path, monkeypatch, capsys):
    words = [*words, "--epochs", "2", "--no-evaluate"]
    assert lofi.main(words) == 0
    expected = weights(tmp_path / "o")
    other = [str(tmp_path / "p") if word == str(tmp_path / "o") else word for word in words]
    run_epoch = TrainingLoop.run_epoch

    def interrupted(self):
        if self.state.epoch == 1:
            raise KeyboardInterrupt
        run_epoch(self)

    monkeypatch.setattr(TrainingLoop, "run_epoch", interrupted)
    assert lofi.main(other) == 130
    monkeypatch.setattr(TrainingLoop, "run_epoch", run_epoch)
    assert lofi.main([*other, "--resume"]) == 0
    assert "resuming after epoch 1" in capsys.readouterr().out
    found = weights(tmp_path / "p")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert lofi.main([*other, "--resume", "--losses", "c"]) == 2
    assert "trained with other losses" in capsys.readouterr().err


def test_the_recipe_of_the_paper_runs_on_the_real_classes(words, real_models, tmp_path, capsys):
    kept = words[words.index("--views_per_patient") :]
    models = ["--image_text_model", str(real_models[0]), "--language_model", str(real_models[1])]
    given = ["--config", str(CONFIG), *models, "--max_steps", "2", "--mixed_precision", "bf16", "--batch_size", "4",
             "--evaluated_images", "4", *kept]  # fmt: skip
    assert lofi.main(given) == 0, capsys.readouterr().err
    checkpoint = tmp_path / "o" / "checkpoint"
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert (config["encoder_rank"], config["language_rank"]) == (16, 4)
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "image_text_model siglip" in card and str(tmp_path) not in card
    trained = load_lofi(checkpoint).model
    names = {name for name, value in trained.named_parameters() if value.requires_grad}
    layers = {
        name.split(".lora_")[0].rpartition(".")[2] for name in names if name.startswith("encoders") and "lora" in name
    }
    assert layers == {"q_proj", "k_proj", "v_proj", "out_proj"}
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in names if name.startswith("language")}
    assert layers == {"q_proj", "v_proj"}
    plain = {name for name in names if "lora" not in name}
    assert {name.partition(".")[0] for name in plain} == {"encoders", "pooling", "projection"}
    assert {name for name in plain if name.startswith("encoders")} == {"encoders.logit_scale", "encoders.logit_bias"}
    assert any(value.abs().max() > 0 for name, value in trained.named_parameters() if "lora_B" in name)


def test_a_data_set_of_people_is_trained_on(words, tmp_path, capsys):
    pytest.importorskip("ensemble_boxes")
    padchest(tmp_path / "d")
    given = ["--data", str(tmp_path / "d"), "--batch_size", "2", *words[words.index("--image_size") :]]
    assert lofi.main(given) == 0, capsys.readouterr().err
    card = (tmp_path / "o" / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "X-rays of people" in card and str(tmp_path) not in card and "license: other" in card


def test_two_processes_train_together(words, tmp_path):
    environment = {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(lofi.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", lofi.__file__, *words,
         "--max_steps", "2", "--mixed_precision", "bf16"],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 1/1") == 1 and done.stdout.count("on patients never trained on") == 1
    load_lofi(tmp_path / "o" / "checkpoint")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch_size", "1"], "expected at least 2"),
        (["--losses", "g,d"], "expected c among them"),
        (["--image_size", "100"], "expected a multiple of 16 for a small model"),
        (["--losses", "c,x"], "loss"),
        (["--language_model", "x"], "give both"),
        (["--max_sentences", "2"], "expected at least min_sentences"),
        (["--domain_randomization", "0.5"], "rotated and cropped"),
        (["--batch_size", "900"], "fewer than one batch"),
        (["--language_learning_rate", "1"], "expected from 0 to below 1"),
        (["--backbone", "absent"], "no checkpoint at absent"),
        (["--isocenter_depth_mm", "0"], "the backbone that ships are for 140"),
        (["--least_quality", "4"], "views are trained on, which have no such rating"),
    ],
)
def test_bad_arguments_are_one_line(words, given, message, capsys):
    assert lofi.main([*words, *given]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_model_of_another_class_is_named(words, real_models, capsys):
    models = ["--image_text_model", str(real_models[1]), "--language_model", str(real_models[0])]
    assert lofi.main([*words, *models, "--backbone", "random"]) == 2
    assert "backbone is for a small model" in capsys.readouterr().err
    assert lofi.main([*words, *models]) == 2
    assert "a model of type 'gemma3_text', expected 'siglip'" in capsys.readouterr().err
