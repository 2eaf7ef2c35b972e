import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from benchmarks import lofi_ablation  # noqa: E402
from benchmarks._support.lofi_ablation import Queries, difference  # noqa: E402
from carm_env.evaluation.intervals import mean_interval  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence  # noqa: E402

BOX = ((0.1, 0.1, 0.5, 0.5),)


def main(words):
    return run_script(lofi_ablation.run, lofi_ablation.Arguments, given=words)


@pytest.fixture
def words(small_patients, tmp_path):
    return ["--variants", "captioning", "sigmoid", "lambda:1", "--seeds", "0", "--epochs", "1", "--batch-size", "8",
            "--views-per-patient", "16", "--evaluated-images", "8", "--image-size", "32", "--queries", "4",
            "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2], "--test", small_patients[3],
            "--out", str(tmp_path / "o"), "--json", str(tmp_path / "r.json")]  # fmt: skip


def test_variants_are_trained_compared_drawn_and_kept(words, tmp_path, monkeypatch, capsys):
    assert main(words) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert found["budget"] == {"steps": 4, "images": 32, "training_images": 32}
    assert list(found["variants"]) == ["all", "captioning", "sigmoid", "lambda:1"]
    assert "own_f_at_50" in found["variants"]["all"] and "own_f_at_50" not in found["variants"]["captioning"]
    assert set(found["differences"]) == {"all - captioning", "all - sigmoid", "all - lambda:1", "captioning - sigmoid"}
    one, other = (found["variants"][name]["text_to_image_r_at_1"]["value"] for name in ("all", "sigmoid"))
    assert found["differences"]["all - sigmoid"]["text_to_image_r_at_1"]["value"] == pytest.approx(one - other)
    assert (tmp_path / "o" / "lofi_ablation.png").stat().st_size > 10_000
    monkeypatch.setattr(lofi_ablation, "fit_lofi", lambda *_: pytest.fail("trained again"))
    assert main(words) == 0
    again = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert again["variants"] == found["variants"]
    assert main([*words, "--epochs", "2"]) == 2
    assert "holds an ablation with epochs 1, expected 2" in capsys.readouterr().err


def test_differences_are_paired_by_query_and_clustered_by_patient():
    sentence = GroundedSentence("The carina is seen in the center.", BOX)
    reports = [GroundedReport(f"{number}", f"patient {number // 2}", (sentence,)) for number in range(6)]
    queries = Queries.of(np.zeros((6, 8, 8), np.uint8), reports, 0)
    metric = "image_to_text_r_at_1"
    better = {0: {metric: [1, 1, 1, 0, 1, 1]}, 1: {metric: [1, 1, 0, 0, 1, 1]}}
    other = {0: {metric: [0, 1, 0, 0, 1, 0]}, 1: {metric: [0, 0, 0, 0, 1, 1]}}
    found = difference(better, other, queries)[metric]
    values = np.array([1, 0.5, 0.5, 0, 0, 0.5])
    assert found["value"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx(mean_interval(values, [report.patient for report in reports]))
    assert found["seeds"] == pytest.approx({"0": 3 / 6, "1": 2 / 6}) and found["patients"] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--variants", "captionin"], "captioning"),
        (["--variants", "lambda:x"], "variant"),
        (["--seeds", "1", "1"], "different seeds"),
        (["--epochs", "0"], "epochs is 0"),
    ],
)
def test_bad_arguments_are_named(words, given, message, capsys):
    assert main([*words, *given]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
