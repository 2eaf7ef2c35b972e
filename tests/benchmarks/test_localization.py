"""Scripts that evaluate localisers and uncertainty, on small patients and tiny networks."""

import json

import numpy as np
import pytest

from benchmarks import abstention, calibration, localization
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.system.command_line import run_script
from policies.checkpoint import save_checkpoint
from policies.networks import DisplacementNetwork, build_classifier

torch = pytest.importorskip("torch")
pytest.importorskip("pyarrow")


def run(script, words):
    return run_script(script.run, script.Arguments, given=words)


@pytest.fixture
def checkpoints(tmp_path):
    torch.manual_seed(0)
    common = {"architecture": "tiny", "image_size": 32, "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}
    save_checkpoint(tmp_path / "cnn", {"kind": "cnn", **common}, build_classifier("tiny").state_dict(), "#")
    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    radius = np.array([[1.0], [2.0], [1e5]]).repeat(14, 1).tolist()
    config = {"kind": "conformal", **common, "members": 1, "levels": [0.9, 0.95, 0.97], "radius": radius}
    save_checkpoint(tmp_path / "conformal", config, tensors, "#")
    return tmp_path


@pytest.mark.parametrize("name", ["cnn", "conformal"])
def test_the_script_writes_every_metric(small_patients, checkpoints, tmp_path, name, capsys):
    path = tmp_path / "l.json"
    arguments = ["--policy", f"{name}:{checkpoints / name}", "--patients", *small_patients[:2], "--views", "12"]
    assert run(localization, [*arguments, "--out", str(tmp_path / "o"), "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    for key in ("p_at_1", "p_at_2", "p_at_3", "r_at_1", "r_at_2", "r_at_3", "h_at_1", "closest_exact",
                "centred_h_at_1", "centred_h_at_2"):  # fmt: skip
        assert 0 <= figures[key]["low"] <= figures[key]["value"] <= figures[key]["high"] <= 1, key
    assert (tmp_path / "o" / "confusion.png").stat().st_size > 10_000
    assert "0.995" in capsys.readouterr().out


def test_a_localiser_is_compared_with_a_baseline(small_patients, checkpoints, tmp_path, capsys):
    path = tmp_path / "l.json"
    names = [f"{kind}:{checkpoints / kind}" for kind in ("cnn", "conformal")]
    words = ["--policy", names[0], "--patients", *small_patients[:2], "--views", "12", "--out", str(tmp_path / "o")]
    assert run(localization, [*words, "--baseline", names[1], "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert run(localization, ["--policy", names[1], *words[2:], "--json", str(path)]) == 0
    baseline = json.loads(path.read_text(encoding="utf-8"))
    difference = figures["differences"]["p_at_2"]
    assert difference["value"] == pytest.approx(figures["p_at_2"]["value"] - baseline["p_at_2"]["value"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert figures["baseline"] == names[1] and "differences" not in baseline
    assert "on the same views, percentage points" in capsys.readouterr().out


def test_calibration_reports_coverage_and_size(small_patients, checkpoints, tmp_path, capsys):
    path = tmp_path / "c.json"
    arguments = ["--policy", f"conformal:{checkpoints / 'conformal'}", "--patients", *small_patients[:2]]
    assert run(calibration, [*arguments, "--views", "12", "--out", str(tmp_path / "o"), "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    levels = figures["levels"]
    assert levels["0.9"]["coverage"]["value"] <= levels["0.95"]["coverage"]["value"]
    assert levels["0.97"]["coverage"]["value"] == 1.0
    assert levels["0.95"]["radius_mm"]["value"] == pytest.approx(2 * levels["0.9"]["radius_mm"]["value"])
    assert len(levels["0.9"]["landmarks"]) == 14
    assert figures["risk_coverage"][-1]["error_mm"] == pytest.approx(figures["closest_error_mm"]["value"])
    assert (tmp_path / "o" / "risk_coverage.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (localization, ["--policy", "cnnn"], "Did you mean 'cnn'"),
        (localization, ["--policy", "cnn:absent"], "no checkpoint at absent"),
        (localization, ["--views", "0", "--patients", "imported:one"], "views_per_patient is 0"),
        (localization, ["--policy", "cnn", "--constrained"], "only a language model takes --constrained"),
        (
            localization,
            ["--policy", "mllm:http://localhost:1/v1#m", "--constrained"],
            "constrained is True for a served model, expected a local one",
        ),
        (localization, ["--policy", "mllm", "--reading", "loose"], "unknown model setting reading 'loose'"),
        (calibration, ["--policy", "cnn"], "expected conformal"),
        (calibration, ["--policy", "conformal:absent"], "no checkpoint at absent"),
    ],
)
def test_bad_arguments_are_named(small_patients, checkpoints, script, arguments, message, capsys):
    if "--policy" not in arguments:
        arguments = [*arguments, "--policy", f"cnn:{checkpoints / 'cnn'}"]
    assert run(script, arguments) == 2
    assert message in capsys.readouterr().err


def test_abstention_keeps_the_most_certain_episodes():
    episodes = [("a", 0.9, True, False), ("a", 0.8, True, False), ("b", 0.6, False, True), ("b", 0.0, False, False)] * 5
    found = abstention.measure([abstention.DeclaredEpisode(*row) for row in episodes], max_wrong=0.1)
    kept = {row["kept"]: row["failed"]["value"] for row in found["kept"]}
    assert kept[0.5] == 0 and kept[1.0] == 0.5 and found["monotone"]
    assert found["without_abstention"]["wrong"]["value"] == pytest.approx(0.25)
    assert found["as_shipped"]["abstain_below"] == 0.5 and found["as_shipped"]["wrong"]["value"] == 0.25
    limited = found["at_max_wrong"]
    assert limited["abstain_below"] == 0.8 and limited["wrong"]["value"] == 0
    assert limited["success"]["value"] == 0.5 and limited["handed_back"]["value"] == 0.5
    text = abstention.report(found)
    assert "  50%             0.80    0.0%" in text and "abstain_below 0.80: success 50%" in text


def test_abstention_in_closed_loop(checkpoints, small_patients, tmp_path, capsys):
    from carm_env.evaluation.recipes import suite_on
    from carm_env.patients.catalogue import load_patient

    suite, _ = suite_on("smoke", {name: load_patient(name) for name in small_patients[:2]})
    (tmp_path / "s.yaml").write_text(suite.to_yaml(), encoding="utf-8")
    arguments = ["--policy", f"conformal:{checkpoints / 'conformal'}", "--suite", str(tmp_path / "s.yaml")]
    assert (
        run(abstention, [*arguments, "--episodes", "4", "--out", str(tmp_path), "--json", str(tmp_path / "a.json")])
        == 0
    )
    assert (tmp_path / "abstention.png").is_file()
    assert "hash" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert run(abstention, [*arguments, "--episodes", "0"]) == 2
    assert "--episodes is 0" in capsys.readouterr().err
    assert run(abstention, ["--policy", "cnn"]) == 2
