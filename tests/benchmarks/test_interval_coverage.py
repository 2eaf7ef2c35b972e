"""The simulated coverage of intervals."""

import json

import pytest

from benchmarks import interval_coverage
from carm_env.system.command_line import run_script


def main(*words):
    return run_script(interval_coverage.run, interval_coverage.Arguments, given=[str(word) for word in words])


def test_coverage_is_simulated(tmp_path, capsys):
    words = ["--patients", 10, "--rates", 0.8, "--correlations", 0, 0.3, "--trials", 60, "--resamples", 100,
             "--json", tmp_path / "i.json"]  # fmt: skip
    assert main(*words) == 0
    independent, alike = json.loads((tmp_path / "i.json").read_text(encoding="utf-8"))["rows"]
    for row in (independent, alike):
        for name in interval_coverage.INTERVALS:
            assert 0.8 < row[name]["coverage"] <= 1
    # Episodes that are alike say less.
    assert alike["effective size"]["width"] > 1.3 * independent["effective size"]["width"]
    assert "effective size: coverage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patients", 1], "--patients is 1, expected at least 2"),
        (["--rates", 1.0], "--rates is 1.0, expected between 0 and 1"),
        (["--correlations", 1.0], "--correlations is 1.0"),
        (["--trials", 0], "--trials is 0, expected at least 1"),
    ],
)
def test_wrong_arguments_are_named(words, message, script_error):
    assert message in script_error(interval_coverage, *words)
