"""The ablation of domain randomisations."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import ablation  # noqa: E402
from carm_env.randomization.draw import GROUPS  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402


def main(*words):
    return run_script(ablation.run, ablation.Arguments, given=[str(word) for word in words])


def test_variants_differ_in_one_thing_from_all():
    arguments = ablation.Arguments(severity=0.7)
    assert len(ablation.VARIANTS) == len(GROUPS) + 3

    def options(variant):
        words = [word for word in arguments.training(variant)[1:] if word != "--no-evaluate"]
        found = dict(zip(words[::2], words[1::2], strict=True))
        assert found.pop("--output-dir") == str(arguments.folder(variant).resolve())
        return found

    whole = options("all")
    assert whole["--domain-groups"] == ",".join(GROUPS) and whole["--domain-randomization"] == "0.7"
    assert whole["--consistency"] == "0" and "--domain-randomization" not in options("none")
    assert options("layout") == {name: value for name, value in whole.items() if name != "--consistency"}
    for group in GROUPS:
        other = options(f"without:{group}")
        assert set(GROUPS) - set(other.pop("--domain-groups").split(",")) == {group}
        assert other == {name: value for name, value in whole.items() if name != "--domain-groups"}
    assert len({arguments.folder(name) for name in ablation.VARIANTS}) == len(ablation.VARIANTS)


def test_variants_are_trained_and_measured(small_patients, tmp_path, capsys):
    words = ["--variants", "none", "without:window", "--groups", small_patients[2], "--train", small_patients[0],
             "--calibration", small_patients[1], "--architecture", "tiny", "--views-per-patient", 70, "--views", 4,
             "--max-steps", 1, "--out", tmp_path / "a", "--json", tmp_path / "a.json"]  # fmt: skip
    assert main(*words) == 0
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["variants"]
    assert set(found) == {"none", "without:window"}
    score = found["none"][small_patients[2]]
    assert score["error_mm"]["value"] > 0 and 0 <= score["coverage_90"]["value"] <= 1
    assert "| without:window" in capsys.readouterr().out
    before = (tmp_path / "a" / "none" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert main(*words, "--resume") == 0
    assert (tmp_path / "a" / "none" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "without:windows"], "unknown variant 'without:windows'"),
        (["--views", 0], "--views is 0, expected at least 1"),
        (["--architecture", "large"], "unknown architecture"),
    ],
)
def test_wrong_arguments_are_named(words, message, script_error):
    assert message in script_error(ablation, *words)


def test_the_status_of_a_failed_training_is_returned(small_patients, tmp_path):
    words = ["--variants", "none", "--groups", small_patients[2], "--train", "poses/test", "--out", tmp_path / "a"]
    assert main(*words, "--calibration", small_patients[1], "--architecture", "tiny", "--max-steps", 1) == 2
