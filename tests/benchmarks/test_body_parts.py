"""The paper's task on real X-rays, end to end on drawings in the layout of the data."""

import json

import numpy as np
import pytest

from carm_env.body_parts import N_BODY_PARTS
from carm_env.system.command_line import run_script
from carm_env.xray_datasets.load import read_dataset, split_by_patient
from tests.xray_dataset_files import uid_of, write_mura, write_table, write_unifesp

torch = pytest.importorskip("torch")
pytest.importorskip("pydicom")

from benchmarks import body_parts  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unifesp")
    write_unifesp(folder)
    return folder


@pytest.fixture
def checkpoint(data, tmp_path):
    """A network that takes every image for chest or abdomen."""
    from policies.checkpoint import save_checkpoint
    from policies.networks import PooledClassifier

    network = PooledClassifier("tiny", N_BODY_PARTS)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
        network.head.bias[3], network.head.bias[0] = 2.0, 1.0
    split = split_by_patient(read_dataset(data).images)
    config = {"kind": "body_parts", "architecture": "tiny", "image_size": 32, "data": "unifesp",
              "test_split": split.fingerprint}  # fmt: skip
    save_checkpoint(tmp_path / "c", config, network.state_dict(), "#")
    return tmp_path / "c"


def run(*words):
    return run_script(body_parts.run, body_parts.Arguments, given=[str(word) for word in words])


def test_a_network_is_scored_over_both_denominators(data, checkpoint, tmp_path, capsys):
    assert run("--data", data, "--policy", checkpoint, "--json", tmp_path / "b.json") == 0
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    labels = [set(image.labels) for image in split_by_patient(read_dataset(data).images).test]
    hits = [len(label & {0, 3}) for label in labels]
    assert found["valid"] == found["images"] == len(labels)
    for part in ("over_valid", "over_all"):
        scores = found[part]
        assert scores["h_at_2"]["value"] == pytest.approx(np.mean([hit > 0 for hit in hits]))
        assert scores["r_at_2"]["value"] == pytest.approx(
            np.mean([hit / len(label) for hit, label in zip(hits, labels, strict=True)])
        )
        assert scores["p_at_2"]["value"] == pytest.approx(np.mean(hits) / 2)
        assert scores["f1_at_2"]["low"] <= scores["f1_at_2"]["value"] <= scores["f1_at_2"]["high"]
    assert found["patients"] == 7 and found["run"]["packages"]["torch"] and found["data"] == "unifesp"
    assert all(0 <= one["recall"] <= 1 and one["images"] > 0 for one in found["by_label"].values())
    printed = capsys.readouterr().out
    assert "over 14 valid" in printed and "over all 14" in printed and "0.95" in printed
    assert str(data) not in json.dumps(found)


def test_a_policy_that_may_know_the_images_is_refused(data, checkpoint, script_error):
    words = ["--data", data, "--policy", checkpoint]
    assert "with another division of unifesp" in script_error(body_parts, *words, "--split-seed", 1)
    assert "expected --part test" in script_error(body_parts, *words, "--part", "all")
    assert "unknown part 'tests'" in script_error(body_parts, *words, "--part", "tests")
    assert "no checkpoint at" in script_error(body_parts, "--data", data, "--policy", "nowhere")
    assert "unknown policy 'ppo:x'" in script_error(body_parts, "--data", data, "--policy", "ppo:x")
    assert "unknown model" in script_error(body_parts, "--data", data, "--policy", "mllm:")


def test_another_data_set_is_evaluated_as_a_whole(checkpoint, tmp_path, capsys):
    write_mura(tmp_path / "m")
    words = ["--data", tmp_path / "m", "--policy", f"body_parts:{checkpoint}", "--part", "all"]
    assert run(*words, "--json", tmp_path / "b.json") == 0
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert found["images"] == 16 and found["patients"] == 4 and found["over_all"]["h_at_2"]["value"] == 0
    printed = capsys.readouterr().out
    assert "humerus were left out" in printed and "0.95" not in printed, "the paper's figures are of other images"


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    pytest.importorskip("peft")
    pytest.importorskip("trl")
    from tests.training.tiny_models import tiny_gemma3

    return tiny_gemma3(tmp_path_factory.mktemp("gemma"))


def few(data, tmp_path):
    """A split with two test images, of patients who are in the other images, too."""
    test = {uid_of(0, 0), uid_of(9, 1)}
    rows = [(image.name, "test" if image.name in test else "train") for image in read_dataset(data).images]
    return write_table(tmp_path, rows, ("SOPInstanceUID", "mode"), "few.csv")


@pytest.mark.parametrize(("setting", "valid"), [("max_tokens=4", 0), ("max_tokens=16&constrained=1", 2)])
def test_a_language_model_is_asked(gemma, data, setting, valid, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("policies.body_parts._MODEL_IMAGE_SIZE", 56)
    words = ["--data", data, "--policy", f"mllm:{gemma}?{setting}", "--split", few(data, tmp_path)]
    assert run(*words, "--json", tmp_path / "b.json") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert found["images"] == 2 and found["valid"] == valid and found["reading"] == "lenient"
    assert bool(found["over_valid"]) == bool(valid) and found["over_all"]["h_at_2"]["views"] == 2
    assert found["patients_in_both"] == 2 and len(found["prompts"]) == 12
    printed = capsys.readouterr().out
    assert "2 patients of the test images" in printed and "0.83-0.93" in printed
    assert ("no valid answer" in printed) == (not valid)
