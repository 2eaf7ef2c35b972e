"""Reinforcement learning with the recipes of large models, on tiny models of the real classes."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import tiny_models  # noqa: E402

from policies.local_model import LocalModel  # noqa: E402
from policies.vision_cache import can_be_cached, freeze_vision, vision_tower  # noqa: E402
from training import grpo  # noqa: E402
from training._support import grpo_checks  # noqa: E402

CONFIGS = Path(grpo.__file__).parent / "configs"
RECIPES = {
    "gemma3_4b": tiny_models.tiny_gemma3, "gemma4_e4b": tiny_models.tiny_gemma4,
    "qwen2_5_vl_7b": tiny_models.tiny_qwen2_5_vl, "qwen3_vl_8b": tiny_models.tiny_qwen3_vl,
}  # fmt: skip


def by_length(texts, states, weights=None):
    """A reward that differs between random answers."""
    return {"total": np.array([float(len(text) % 7) for text in texts]), "regret": np.zeros(len(texts))}


@pytest.fixture(params=RECIPES)
def recipe(request, tmp_path):
    """Configuration of a recipe, and the folder of a tiny model of its class."""
    return CONFIGS / f"grpo_{request.param}.yaml", RECIPES[request.param](tmp_path / "tiny")


@pytest.fixture
def run(small_patients, tmp_path, monkeypatch):
    """Runs a recipe with small batches and small images, and returns the exit status and the output folder."""
    monkeypatch.setattr(grpo, "step_rewards", by_length)
    monkeypatch.setattr(grpo, "check_answer_length", lambda *given: None)

    def call(config, model, *words):
        out = tmp_path / "out"
        return grpo.main(
            ["--config", str(config), "--model_name_or_path", str(model), "--output_dir", str(out), "--max_steps", "1",
             "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test", small_patients[3],
             "--image_size", "56", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1",
             "--num_generations", "2", "--max_completion_length", "8", "--refresh_steps", "4", "--start_share", "1",
             "--eval_every", "0", "--perception_every", "0", "--test_episodes", "0", "--save_strategy", "no",
             "--warmup_steps", "0", "--style", "compact", *words]
        ), out  # fmt: skip

    return call


def adapter_names(folder):
    from safetensors.torch import load_file

    return set(load_file(folder / "adapter_model.safetensors"))


def test_a_recipe_takes_a_step_and_its_adapter_loads(recipe, run, capsys):
    status, out = run(*recipe)
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert "step 1/1" in shown.out
    names = adapter_names(out)
    assert names and not any("vision" in name or "visual" in name or "audio" in name for name in names)
    settings = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == str(recipe[1])
    LocalModel(out)


@pytest.mark.parametrize("name", ["gemma3_4b", "gemma4_e4b"])
def test_an_adapter_covers_a_vision_tower_that_is_trained(name, run, tmp_path, capsys):
    model = RECIPES[name](tmp_path / "tiny")
    status, out = run(CONFIGS / f"grpo_{name}.yaml", model, "--freeze_vision", "false")
    assert status == 0, capsys.readouterr().err
    names = adapter_names(out)
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    assert not any("audio" in name for name in names)
    LocalModel(out)


def test_the_limit_of_an_answer_is_measured_with_the_tokenizer(run, tmp_path, monkeypatch, capsys):
    check, limits = grpo_checks.check_answer_length, []

    def then_stop(processor, views, limit):
        check(processor, views, limit)
        limits.append(limit)
        raise ValueError("the limit fits")

    monkeypatch.setattr(grpo, "check_answer_length", then_stop)
    model = RECIPES["qwen2_5_vl_7b"](tmp_path / "tiny")
    assert run(CONFIGS / "grpo_qwen2_5_vl_7b.yaml", model, "--max_completion_length", "0")[0] == 2
    assert "the limit fits" in capsys.readouterr().err
    # This tokenizer has few words.
    assert 500 < limits[0] < 1000


@pytest.mark.parametrize("name", ["gemma3_4b", "qwen2_5_vl_7b"])
def test_a_recipe_of_whole_episodes_takes_a_step(name, run, tmp_path, capsys):
    status, out = run(
        CONFIGS / f"grpo_{name}_multi_turn.yaml", RECIPES[name](tmp_path / "tiny"), "--max_answers", "2",
        "--max_answer_tokens", "8", "--max_completion_length", "0", "--per_device_train_batch_size", "2",
    )  # fmt: skip
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert "step 1/1" in shown.out and adapter_names(out)


def test_the_tower_of_gemma_4_is_not_cached(tmp_path):
    # It returns the patches of all images in one row, by their positions.
    from policies.model_loading import load_model

    model = load_model(tiny_models.tiny_gemma4(tmp_path / "tiny"), dtype="float32")
    freeze_vision(model)
    assert not can_be_cached(vision_tower(model))
