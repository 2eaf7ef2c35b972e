"""Training on a GPU; run with ``pytest -m gpu`` where there is one."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("script", ["cnn", "conformal"])
def test_networks_learn_in_mixed_precision(script, small_patients, tmp_path):
    from training import cnn, conformal

    arguments = [
        "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test", small_patients[3],
        "--views_per_patient", "96", "--workers", "1", "--architecture", "tiny", "--batch_size", "32", "--epochs", "12",
        "--mixed_precision", "bf16", "--output_dir", str(tmp_path / "o"), "--json", str(tmp_path / "f.json"),
    ]  # fmt: skip
    if script == "conformal":
        arguments += ["--members", "1"]
    assert {"cnn": cnn, "conformal": conformal}[script].main(arguments) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert figures["closest_exact"] > 0.3 if script == "cnn" else figures["coverage_90"] > 0.5


def test_the_embedded_language_model_is_fine_tuned_and_reinforced(small_patients, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    from training import conformal, grpo, sft
    from training._support.grpo_arguments import DEFAULT_CONFIG

    patients = ["--train", ",".join(small_patients[:2]), "--test", small_patients[3], "--views_per_patient", "64",
                "--workers", "1"]  # fmt: skip
    backbone = tmp_path / "backbone"
    small = ["--calibration", small_patients[2], "--architecture", "tiny", "--batch_size", "32", "--epochs", "1",
             "--members", "1", "--output_dir", str(backbone)]  # fmt: skip
    assert conformal.main([*patients, *small]) == 0
    arguments = [*patients, "--config", str(sft.DEFAULT_CONFIG), "--backbone", str(backbone / "checkpoint"),
                 "--image_size", "32", "--hidden", "64", "--layers", "1", "--max_steps", "5", "--bf16", "true",
                 "--test_views", "8", "--output_dir", str(tmp_path / "o"), "--json",
                 str(tmp_path / "s.json")]  # fmt: skip
    assert sft.main(arguments) == 0
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["samples_per_s"] > 0

    def by_length(texts, states, weights):
        """A reward that differs between random answers."""
        return {"total": np.array([float(len(text) % 7) for text in texts]), "regret": np.zeros(len(texts))}

    monkeypatch.setattr(grpo, "step_rewards", by_length)
    arguments = [*patients[:4], "--config", str(DEFAULT_CONFIG), "--calibration", small_patients[2],
                 "--model_name_or_path", str(tmp_path / "o"),
                 "--image_size", "32", "--max_steps", "2", "--per_device_train_batch_size", "8",
                 "--num_generations", "4", "--refresh_steps", "1", "--max_completion_length", "64",
                 "--start_share", "1", "--eval_every", "0", "--perception_every", "0", "--test_episodes", "0",
                 "--save_strategy", "no", "--output_dir", str(tmp_path / "g"), "--json",
                 str(tmp_path / "g.json")]  # fmt: skip
    assert grpo.main(arguments) == 0
    figures = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    assert figures["steps_per_s"] > 0
    assert sum(figures[f"share of {name}"] for name in ("rendering", "generation", "reward", "update")) == (
        pytest.approx(1)
    )


def test_the_large_network_takes_a_step(small_patients, tmp_path):
    from training import cnn

    arguments = [
        "--train", small_patients[0], "--calibration", small_patients[1], "--test", small_patients[2],
        "--views_per_patient", "64", "--workers", "1", "--architecture", "resnet34", "--batch_size", "32",
        "--epochs", "1", "--mixed_precision", "bf16", "--output_dir", str(tmp_path / "o"),
    ]  # fmt: skip
    assert cnn.main(arguments) == 0
