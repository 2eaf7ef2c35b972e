"""Trainings on labelled X-rays of people, end to end on drawings in the layout of the data."""

import json
from pathlib import Path

import numpy as np
import pytest

from carm_env.language import parse
from carm_env.xray_datasets.labelled import label_matrix, read_images
from carm_env.xray_datasets.load import read_dataset, split_by_patient
from tests.xray_dataset_files import uid_of, write_flexray, write_mura, write_table, write_unifesp

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("pydicom")

from policies.body_parts import BodyPartNetwork, make_body_part_classifier  # noqa: E402
from training import body_parts  # noqa: E402
from training._support.body_parts import BodyPartConversations, companions  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unifesp")
    write_unifesp(folder)
    return folder


def quick(data, out, *words):
    return body_parts.main(
        ["--data", str(data), "--architecture", "tiny", "--workers", "1", "--output-dir", str(out), *map(str, words)]
    )


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "model.safetensors")


def test_the_classifier_learns_and_is_exported(data, tmp_path, capsys):
    out = tmp_path / "o"
    words = ["--epochs", "30", "--learning-rate", "8e-3", "--patience", "30", "--json", tmp_path / "f.json"]
    assert quick(data, out, *words) == 0
    printed = capsys.readouterr().out
    assert "unifesp: 104 images to train on, 14 for calibration, 14 for tests" in printed
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    # Chance is 0.09.
    assert figures["r_at_2"] > 0.4 and figures["h_at_2"] >= figures["r_at_2"] >= figures["p_at_2"]
    card = (out / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "not a medical device" in card and "104 images of the UNIFESP X-ray body part data" in card
    assert "license: other" in card and str(tmp_path) not in card and str(data) not in card
    assert "virtual patients" not in card
    network = make_body_part_classifier(str(out / "checkpoint"))
    split = split_by_patient(read_dataset(data).images)
    assert network.trained_on == {"data": "unifesp", "test_split": split.fingerprint}
    images = read_images(split.test, network.image_size)
    probabilities = network.probabilities(images)
    assert probabilities.shape == (14, 22) and ((probabilities > 0) & (probabilities < 1)).all()
    found = label_matrix(split.test)[np.arange(14)[:, None], network.body_parts(images)].any(1).mean()
    # The checkpoint holds half-precision weights.
    assert found == pytest.approx(figures["h_at_2"], abs=0.08)


def test_an_interrupted_training_resumes_to_the_same_weights(data, tmp_path, monkeypatch, capsys):
    from training._support.training_state import TrainingState

    common = ["--epochs", "3", "--no-evaluate"]
    assert quick(data, tmp_path / "whole", *common) == 0
    save = TrainingState.save

    def interrupted(self, *arguments):
        save(self, *arguments)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", interrupted)
    assert quick(data, tmp_path / "part", *common) == 130
    assert "with --resume to continue" in capsys.readouterr().err
    monkeypatch.setattr(TrainingState, "save", save)
    assert quick(data, tmp_path / "part", *common, "--resume") == 0
    assert "resuming after epoch 2" in capsys.readouterr().out
    whole, part = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    # Another split has other images.
    assert quick(data, tmp_path / "part", *common, "--resume", "--split-seed", "1") == 2
    assert "was trained with other split_seed, views" in capsys.readouterr().err


def test_mura_and_a_short_run(tmp_path, capsys):
    write_mura(tmp_path / "m")
    assert quick(tmp_path / "m", tmp_path / "o", "--max-steps", "1", "--batch-size", "2", "--no-evaluate") == 0
    assert "8 images of the humerus were left out" in capsys.readouterr().out
    config = json.loads((tmp_path / "o" / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert config["data"] == "mura" and config["images"] == 2


def test_x_rays_with_masks_are_trained_on(tmp_path, capsys):
    write_flexray(tmp_path / "f", 12)
    words = ["--epochs", "1", "--batch-size", "4", "--json", tmp_path / "f.json"]
    assert quick(tmp_path / "f", tmp_path / "o", *words) == 0
    printed = capsys.readouterr().out
    assert "flexray:Drawings: 14 images to train on, 2 for calibration, 2 for tests" in printed
    assert "6 images were left out" in printed
    folder = tmp_path / "o" / "checkpoint"
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"] == "flexray:Drawings"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "14 images of a data set with masks" in card and str(tmp_path) not in card
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["h_at_2"] >= 0
    (tmp_path / "f" / "dataset.yml").write_text("schema_version: 2\n", encoding="utf-8")
    assert quick(tmp_path / "f", tmp_path / "o") == 2
    assert "has no 'dataset_name'" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["small_contrast", "resnet34"])
def test_other_architectures_have_an_output_for_each_body_part(architecture):
    from policies.networks import PooledClassifier

    network = PooledClassifier(architecture, 22)
    assert network(torch.zeros(2, 1, 64, 64))[0].shape == (2, 22)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", ""], "--data is missing"),
        (["--data", "nowhere"], "no such folder: nowhere"),
        (["--split-seed", "-1"], "split_seed is -1"),
        (["--split", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--architecture", "large"], "unknown architecture 'large'"),
        (["--batch-size", "1000"], "104 images are fewer than one batch of 1000"),
    ],
)
def test_bad_arguments_are_one_line(data, tmp_path, words, message, capsys):
    assert quick(data, tmp_path / "o", *words) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_kind_is_named(tmp_path):
    from policies.checkpoint import SHIPPED, CheckpointError

    with pytest.raises(CheckpointError, match="kind 'cnn'"):
        BodyPartNetwork(SHIPPED / "cnn")
    with pytest.raises(ValueError, match="unknown policy 'conformal:x'"):
        make_body_part_classifier("conformal:x")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        make_body_part_classifier(str(tmp_path / "absent"))


LABELS = [(3,), (9, 21), (3,), (0, 13, 20), (9,), (5,)]


@pytest.mark.parametrize("style", ["full", "compact"])
def test_conversations_ask_for_true_labels_once_an_epoch(style):
    images = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 40), np.uint8)
    source, again = (BodyPartConversations(images, LABELS, style, 3) for _ in range(2))
    seen, of_three = [], set()
    for number, example in enumerate(source.stream(0, 60)):
        assert str(again.example(number)["completion"]) == str(example["completion"])
        view, answer = example["view"], example["completion"][0]["content"][0]["text"]
        numbers = parse("body_parts", answer).numbers
        if len(LABELS[view]) == 1:
            assert numbers[0] == LABELS[view][0]
        else:
            assert set(numbers) <= set(LABELS[view])
        if view == 3:
            of_three.add(numbers)
        assert np.asarray(example["images"][0])[0, 0, 0] == view
        seen.append(view)
    assert all(sorted(seen[start : start + 6]) == list(range(6)) for start in range(0, 60, 6))
    assert seen[:6] != seen[6:12] and len(of_three) == 3
    # A new object that starts in the middle continues the same order.
    fresh = BodyPartConversations(images, LABELS, style, 3)
    assert [fresh.example(number)["view"] for number in (50, 8)] == [seen[50], seen[8]]


def test_the_second_answer_is_the_likeliest_guess():
    found = companions(LABELS)
    assert found[9] == 21 and found[13] == 0 and found[5] == 3 and found[3] == 9
    assert all(number != other for number, other in found.items()) and len(found) == 22


def sft(model, data, out, *words):
    from training.sft import main

    return main(
        ["--config", str(CONFIGS / "sft_gemma3_12b_real.yaml"), "--model_name_or_path", str(model), "--data", str(data),
         "--output_dir", str(out), "--gradient_accumulation_steps", "1", "--logging_steps", "1000",
         "--image_size", "64", "--disable_tqdm", "true", "--workers", "1", *map(str, words)]
    )  # fmt: skip


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    import tiny_models

    return tiny_models.tiny_gemma3(tmp_path_factory.mktemp("gemma"))


PLAIN = ["--load_in_4bit", "false", "--use_peft", "false"]


def test_the_recipe_for_real_x_rays_trains_adapters_on_the_mlp_layers(gemma, data, tmp_path, capsys):
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "o"
    words = ["--max_steps", "1", "--test_views", "3", "--save_strategy", "no", "--json", tmp_path / "f.json"]
    assert sft(gemma, data, out, *words) == 0, capsys.readouterr().err
    adapter = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert {"gate_proj", "up_proj", "down_proj", "fc1", "fc2"} <= set(adapter["target_modules"])
    from safetensors.torch import load_file

    tensors = load_file(out / "adapter_model.safetensors")
    assert any("mlp.gate_proj" in name for name in tensors) and any("mlp.fc1" in name for name in tensors)
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert figures["invalid_rate"] == 1 and figures["h_at_2"] == 0, "a random model writes no answers"
    settings = json.loads((out / "carm.json").read_text(encoding="utf-8"))
    assert settings["tasks"] == {"body_parts": 1.0} and settings["data"] == "unifesp"
    model = make_body_part_classifier(f"mllm:{out}?max_tokens=4")
    assert model.reading == "strict" and model.trained_on["test_split"] == figures["test_split"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "images of the UNIFESP" in card and str(data) not in card


def test_the_recipe_trains_five_epochs_and_resumes(gemma, tmp_path, monkeypatch, capsys):
    from safetensors.torch import load_file
    from transformers import Trainer

    write_unifesp(tmp_path / "d", 6, 1)
    words = [*PLAIN, "--test_views", "0", "--save_strategy", "steps", "--save_steps", "3"]
    assert sft(gemma, tmp_path / "d", tmp_path / "whole", *words) == 0, capsys.readouterr().err
    # Of six images, one is for calibration and one for tests; batches hold two.
    assert "25 conversations over 5 images" not in (printed := capsys.readouterr().out)
    assert "26 conversations over 5 images" in printed
    step = Trainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", interrupted)
    assert sft(gemma, tmp_path / "d", tmp_path / "part", *words) == 130
    monkeypatch.setattr(Trainer, "training_step", step)
    assert sft(gemma, tmp_path / "d", tmp_path / "part", *words, "--resume_from_checkpoint", "true") == 0
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "views"], "data and dataset are given, expected one of them"),
        (["--tasks", "pair=1"], "data and tasks are given"),
        (["--transcripts", "t"], "data and transcripts are given"),
        (["--split", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["--model_name_or_path", "embedded"], "the embedded model knows the views of the C-arm only"),
    ],
)
def test_contradicting_arguments_of_sft_are_named(gemma, data, tmp_path, words, message, capsys):
    assert sft(gemma, data, tmp_path / "o", *PLAIN, "--max_steps", "1", *words) == 2
    assert message in capsys.readouterr().err


def test_a_split_without_data_is_named(gemma, tmp_path, capsys):
    assert sft(gemma, "", tmp_path / "o", *PLAIN, "--split", "real.csv") == 2
    assert "split is given without data" in capsys.readouterr().err


def test_a_given_split_is_kept_by_both_trainings(data, tmp_path, capsys):
    listed = [image.name for image in read_dataset(data).images]
    test = {uid_of(0, 0), uid_of(30, 1)}
    table = write_table(tmp_path, [(f"{uid}-c.png", "test" if uid in test else "train") for uid in listed],
                        ("SOPInstanceUID", "mode"), "real.csv")  # fmt: skip
    assert quick(data, tmp_path / "o", "--split", table, "--max-steps", "1", "--batch-size", "8", "--no-evaluate") == 0
    assert "note: 2 patients of the test images are in the other images, too" in capsys.readouterr().out
    card = (tmp_path / "o" / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "2 patients of the test images are in them, too" in card and "real.csv" not in card
