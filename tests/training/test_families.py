"""Recipes of all model families of the paper, on tiny models of the real classes with the real chat templates."""

import json
from pathlib import Path

import numpy as np
import pytest

from carm_env.chat_models.specification import ModelSpecification
from carm_env.language.chat import question
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import tiny_models  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
FAMILIES = list(tiny_models.TINY)


@pytest.fixture
def dataset(small_patients, tmp_path):
    splits = {"train": small_patients[:2], "calibration": small_patients[2:3], "test": small_patients[3:4]}
    write_view_dataset(tmp_path / "d", splits, ViewOptions(48, 32), 1)
    return tmp_path / "d"


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    return request.param, tiny_models.TINY[request.param](tmp_path / "tiny")


def recipe(name, model, dataset, out, *words):
    from training.sft import main

    return main(
        ["--config", str(CONFIGS / f"sft_{name}.yaml"), "--model_name_or_path", str(model), "--dataset", str(dataset),
         "--output_dir", str(out), "--max_steps", "1", "--gradient_accumulation_steps", "1", "--test_views", "2",
         "--logging_steps", "1", "--disable_tqdm", "true", "--save_strategy", "no", *words]
    )  # fmt: skip


def test_one_step_of_full_fine_tuning(family, dataset, tmp_path, capsys):
    name, model = family
    out = tmp_path / "out"
    assert recipe(name, model, dataset, out, "--load_in_4bit", "false", "--use_peft", "false") == 0, (
        capsys.readouterr().err
    )
    assert (out / "model.safetensors").is_file()
    from policies.local_model import LocalModel

    answers = LocalModel(ModelSpecification(name=str(out), max_tokens=4)).generate(
        [question("pair", np.zeros((32, 32), np.uint8))] * 2, "pair"
    )
    assert len(answers) == 2 and answers[0].tokens <= 4


def test_one_qlora_step(family, dataset, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    name, model = family
    out = tmp_path / "out"
    assert recipe(name, model, dataset, out) == 0, capsys.readouterr().err
    adapter = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"]) == (16, 32)
    from safetensors.torch import load_file

    tensors = load_file(out / "adapter_model.safetensors")
    assert any("vision" in key or "visual" in key for key in tensors), "no adapter in the vision tower"
    assert any("language_model" in key or "layers" in key for key in tensors)
    from policies.local_model import LocalModel

    LocalModel(ModelSpecification(name=str(out), max_tokens=2)).generate(
        [question("pair", np.zeros((32, 32), np.uint8))], "pair"
    )


def test_constrained_decoding_gives_valid_answers(tmp_path):
    from carm_env.language import parse
    from policies.local_model import LocalModel

    model = LocalModel(
        ModelSpecification(name=str(tiny_models.tiny_gemma3(tmp_path / "g")), constrained=True, max_tokens=64)
    )
    image = np.zeros((32, 32), np.uint8)
    for task, kind in (("pair", "pair"), ("localize", "ranking")):
        parse(kind, model.generate([question(task, image)], kind)[0].text)
