"""Fine-tuning on data sets with classes and boxes, on tiny models and files in the layouts of the data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import tiny_models  # noqa: E402

from carm_env.chat_models.interface import Generation  # noqa: E402
from carm_env.language import parse, render  # noqa: E402
from carm_env.medical_images.load import read_asked_images  # noqa: E402
from tests.medical_image_files import write_deep_lesion, write_medmnist, write_polyp_set  # noqa: E402
from training._support.image_conversations import ImageConversations, image_figures, of_split, read_all  # noqa: E402

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "sft_medgemma_4b_specialty.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("lesions", "polyps"):
        (folder / name).mkdir()
    return (write_medmnist(folder / "breastmnist.npz"), write_deep_lesion(folder / "lesions"),
            write_polyp_set(folder / "polyps"))  # fmt: skip


@pytest.fixture(scope="module")
def medgemma(tmp_path_factory):
    return tiny_models.tiny_gemma3(tmp_path_factory.mktemp("medgemma"))


def sft(model, data, out, *words):
    from training.sft import main

    return main(
        ["--config", str(CONFIG), "--model_name_or_path", str(model), "--data", ",".join(map(str, data)),
         "--output_dir", str(out), "--max_steps", "1", "--gradient_accumulation_steps", "1", "--logging_steps", "1000",
         "--disable_tqdm", "true", "--save_strategy", "no", *map(str, words)]
    )  # fmt: skip


def test_the_recipe_trains_adapters_on_all_layers(medgemma, data, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    assert sft(medgemma, data, tmp_path / "o", "--test_views", "0") == 0, capsys.readouterr().err
    adapter = json.loads((tmp_path / "o" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (64, 16, 0.1)
    assert {"gate_proj", "fc1", "q_proj", "out_proj"} <= set(adapter["target_modules"])
    settings = json.loads((tmp_path / "o" / "carm.json").read_text(encoding="utf-8"))
    assert set(settings["tasks"]) == {"breastmnist", "deeplesion_box", "deeplesion_region", "polypset_box",
                                      "polypset_kind"}  # fmt: skip
    card = (tmp_path / "o" / "README.md").read_text(encoding="utf-8")
    assert "18 images with questions" in card and str(data[1]) not in card and "license: other" in card


def test_the_recipe_trains_the_tasks_about_views(medgemma, dataset, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    from training.sft import main

    words = ["--config", str(CONFIG), "--model_name_or_path", str(medgemma), "--dataset", str(dataset), "--tasks",
             "closest_three", "box", "grounding", "--output_dir", str(tmp_path / "o"), "--max_steps", "1",
             "--gradient_accumulation_steps", "1", "--test_views", "0", "--save_strategy", "no"]  # fmt: skip
    assert main(words) == 0, capsys.readouterr().err
    settings = json.loads((tmp_path / "o" / "carm.json").read_text(encoding="utf-8"))
    assert settings["tasks"] == {"localize": 1.0, "box": 1.0, "grounding": 1.0}
    assert main([*words, "--tasks", "findings"]) == 2
    assert "take patients with and without findings" in capsys.readouterr().err


def test_a_trained_model_is_evaluated_on_the_test_images(medgemma, data, tmp_path, capsys, monkeypatch):
    words = ["--load_in_4bit", "false", "--use_peft", "false", "--test_views", "6", "--json", tmp_path / "f.json"]
    assert sft(medgemma, data[:1], tmp_path / "o", *words) == 0, capsys.readouterr().err
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert figures["invalid_rate"] == 1 and figures["breastmnist_accuracy"] == 0, "a random model writes no answers"


def test_a_missing_bitsandbytes_is_named_with_its_extra(medgemma, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert sft(medgemma, data, tmp_path / "o") == 2
    assert "carm-env[qlora]" in capsys.readouterr().err


def test_wrong_data_are_named(medgemma, data, tmp_path, capsys):
    assert sft("embedded", data, tmp_path / "o") == 2
    assert "the embedded model knows the views of the C-arm only" in capsys.readouterr().err
    assert sft(medgemma, [*data, tmp_path / "mura"], tmp_path / "o") == 2
    assert "mura, which is none of MedMNIST, DeepLesion and PolypSet" in capsys.readouterr().err
    assert sft(medgemma, data, tmp_path / "o", "--tasks", "pair") == 2
    assert "data and tasks are given" in capsys.readouterr().err
    path = write_medmnist(tmp_path / "octmnist.npz", test_images=None)
    assert sft(medgemma, [path], tmp_path / "o") == 2
    assert "no image of the split 'test'" in capsys.readouterr().err


def test_every_epoch_holds_each_question_once(data):
    images = read_all(data)
    source, again = (ImageConversations(images, "full", 3) for _ in range(2))
    count, seen = len(images), []
    for number, example in enumerate(source.stream(0, 2 * count)):
        assert str(again.example(number)["completion"]) == str(example["completion"])
        image, answer = images[example["view"]], example["completion"][0]["content"][0]["text"]
        assert parse("class" if image.question else "box", answer) == image.answer and len(example["images"]) == 1
        seen.append(example["view"])
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count)) and seen[:count] != seen[count:]


class Answering:
    """Answers every question as a function of the image says."""

    style = "full"

    def __init__(self, answers):
        self.answers = answers

    def generate(self, conversations, kind):
        return [Generation(next(self.answers[kind]), 1, 0.0) for _ in conversations]


def test_figures_count_right_classes_and_boxes(data):
    images = [image for image in of_split(read_all(data), "test") if image.task != "deeplesion_region"]
    answers = {kind: [render(image.answer) for image in images if (image.box is not None) == (kind == "box")]
               for kind in ("class", "box")}  # fmt: skip
    figures = image_figures(Answering({kind: iter(texts) for kind, texts in answers.items()}), images)
    assert all(value == pytest.approx(1, abs=0.01) for name, value in figures.items() if name != "invalid_rate")
    assert figures["invalid_rate"] == 0 and "polypset_box_mean_iou" in figures and "breastmnist_macro_f1" in figures
    wrong = image_figures(Answering({"class": iter(["[7]"] * 99), "box": iter(["no"] * 99)}), images)
    assert not any(value for name, value in wrong.items() if name != "invalid_rate") and wrong["invalid_rate"] == 1


def test_patients_in_two_splits_are_refused(tmp_path):
    from dataclasses import replace

    images = read_asked_images(write_medmnist(tmp_path / "breastmnist.npz"))
    shared = [replace(image, patient="p") for image in images]
    with pytest.raises(ValueError, match="1 patients of the split 'test' are in other splits"):
        of_split(shared, "test")
    assert np.array_equal(of_split(images, "test")[0].load(), images[-4].load())
    # Tasks of one data set are about the same patients; other data sets number their patients as they like.
    split = [replace(image, task=f"t_{image.split}") for image in shared]
    with pytest.raises(ValueError, match="1 patients of the split 'test'"):
        of_split(split, "test")
    assert of_split([replace(image, data_set=image.split) for image in shared], "test")
