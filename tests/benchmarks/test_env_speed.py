import json

import pytest

from benchmarks import env_speed
from carm_env.system.command_line import run_script


def script(*words):
    return run_script(env_speed.run, env_speed.Arguments, given=[str(word) for word in words])


def test_a_tiny_run_gives_every_figure(tmp_path, capsys):
    out = tmp_path / "e.json"
    assert script("--rounds", 1, "--steps", 3, "--json", out) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["steps_per_s_256"] > 0 and figures["steps_per_s_128"] > 0
    assert 0 <= figures["share_outside_rendering"] <= 1
    step_ms = 1e3 / figures["steps_per_s_256"]
    assert figures["ms_outside_rendering"] == pytest.approx(figures["share_outside_rendering"] * step_ms)
    assert figures["run"]["date"] and figures["run"]["processor"]
    assert "steps_vs_rtk_frames" in figures
    assert "| steps_per_s_256" in capsys.readouterr().out


def test_the_command_that_installs_rtk_is_printed(monkeypatch, capsys):
    def absent(view):
        raise ImportError

    monkeypatch.setattr(env_speed, "rtk_joseph", absent)
    assert script("--rounds", 1, "--steps", 2) == 0
    assert "pip install itk-rtk" in capsys.readouterr().out


def test_bad_numbers_are_reported(script_error):
    assert "--rounds is 0, expected at least 1" in script_error(env_speed, "--rounds", 0)
