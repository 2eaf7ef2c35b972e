import json

import pytest

from carm_env.system.command_line import run_script

cockpit_speed = pytest.importorskip("benchmarks.cockpit_speed", reason="the extra cockpit is not installed")


def script(*words):
    return run_script(cockpit_speed.run, cockpit_speed.Arguments, given=[str(word) for word in words])


def test_a_tiny_run_gives_every_figure(small_patients, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cockpit_speed, "LIMIT_MS", 60_000.0)
    out = tmp_path / "c.json"
    assert script("--pages", 2, "--moves", 3, "--size", 64, "--patient", "imported:one", "--json", out) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert 0 < figures["median_ms_1"] <= figures["p90_ms_1"] and 0 < figures["median_ms_2"] <= figures["p90_ms_2"]
    assert figures["pages"] == 2 and figures["run"]["packages"]["websockets"]
    assert "| 2  " in capsys.readouterr().out
    monkeypatch.setattr(cockpit_speed, "LIMIT_MS", 0.0)
    assert script("--pages", 1, "--moves", 1, "--size", 64, "--patient", "imported:one") == 1


def test_bad_numbers_are_reported(script_error):
    assert "--pages is 0, expected 1 to 100" in script_error(cockpit_speed, "--pages", 0)
