"""Fitting of the out-of-distribution score, end to end on small patients, and the benchmark that measures it."""

import json

import numpy as np
import pytest

from benchmarks import out_of_distribution as benchmark
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.system.command_line import run_script
from policies.checkpoint import save_checkpoint
from training import out_of_distribution

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")


@pytest.fixture
def backbone(tmp_path):
    from policies.networks import DisplacementNetwork

    torch.manual_seed(0)
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    config = {"kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 1, "levels": [0.9],
              "radius": [[1.0] * 14], "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}  # fmt: skip
    save_checkpoint(tmp_path / "backbone", config, tensors, "#")
    return tmp_path / "backbone"


def test_scores_are_fitted_calibrated_and_measured(small_patients, backbone, tmp_path, monkeypatch, capsys):
    from policies.out_of_distribution import OutOfDistributionDetector

    monkeypatch.chdir(tmp_path)
    words = ["--train", ",".join(small_patients[:3]), "--test", small_patients[3], "--views_per_patient", "32",
             "--workers", "1", "--backbone", str(backbone), "--json", "f.json"]  # fmt: skip
    assert out_of_distribution.main(words) == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert 0 <= figures["false_alarms_1%"] <= figures["false_alarms_5%"] <= 1 and figures["run"]["packages"]["torch"]
    checkpoint = tmp_path / "runs" / "out_of_distribution" / "checkpoint"
    card, config = (
        (checkpoint / "README.md").read_text(encoding="utf-8"),
        json.loads((checkpoint / "config.json").read_text(encoding="utf-8")),
    )
    assert "python training/out_of_distribution.py" in card and str(tmp_path) not in card
    assert config["views"] == 96 and config["views_seed"] == 0
    detector = OutOfDistributionDetector(checkpoint, backbone)
    assert detector.p_value([0.0])[0] == 1.0 and detector.p_value([1e6])[0] == pytest.approx(1 / 97)
    arguments = ["--patients", small_patients[3], "--raised", small_patients[2], "--views", "8", "--detector",
                 str(checkpoint), "--backbone", str(backbone), "--json", "b.json"]  # fmt: skip
    monkeypatch.setattr(benchmark, "RATES", (0.05, 0.02))
    assert run_script(benchmark.run, benchmark.Arguments, given=arguments) == 0
    measured = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["images"]
    assert measured["frontal views"]["auroc"] == 0.5 and measured["frontal views"]["n"] == 8
    assert {"lateral views", "hands", "inverted polarity", "uniform noise"} <= measured.keys()
    assert all(0 <= group["flagged_1"] <= group["flagged_5"] <= 1 for group in measured.values())


def test_views_of_another_depth_than_the_backbone_knows_are_refused(backbone, tmp_path, capsys):
    words = ["--backbone", str(backbone), "--isocenter-depth-mm", "0", "--output-dir", str(tmp_path / "o")]
    assert out_of_distribution.main(words) == 2
    assert "isocenter_depth_mm is 0, but the weights of the backbone are for 140" in capsys.readouterr().err


def test_the_area_under_the_curve_counts_pairs():
    rng = np.random.default_rng(0)
    familiar, other = rng.integers(0, 6, 40), rng.integers(2, 9, 30)
    wins = (other[:, None] > familiar) + 0.5 * (other[:, None] == familiar)
    assert benchmark.area_under_curve(familiar, other) == pytest.approx(wins.mean())


def test_the_views_of_a_patient_do_not_calibrate_themselves():
    rng = np.random.default_rng(0)
    features, patients = rng.normal(size=(60, 4)), np.repeat([0, 1, 2], 20)
    features[patients == 2] += 8
    scores = out_of_distribution.cross_conformal_scores(features, patients)
    assert scores[patients == 2].min() > scores[patients == 0].max()
    with pytest.raises(ValueError, match="at least 2 patients"):
        out_of_distribution.cross_conformal_scores(features, np.zeros(60, int))


@pytest.mark.parametrize("scan", ["", "?scan=1"])
def test_one_person_in_two_splits_is_an_error(small_patients, backbone, tmp_path, capsys, scan):
    person = small_patients[0]
    words = ["--train", person, "--test", f"{person}{scan}", "--backbone", str(backbone), "--output-dir",
             str(tmp_path / "o")]  # fmt: skip
    assert out_of_distribution.main(words) == 2
    assert "two splits" in capsys.readouterr().err
