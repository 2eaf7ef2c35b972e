import json

import pytest

from benchmarks import env_speed


def test_a_tiny_run_gives_every_figure(tmp_path, capsys):
    out = tmp_path / "e.json"
    assert env_speed.main(["--rounds", "1", "--steps", "3", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["steps_per_s_256"] > 0 and figures["steps_per_s_128"] > 0
    assert 0 <= figures["share_outside_rendering"] <= 1
    step_ms = 1e3 / figures["steps_per_s_256"]
    assert figures["ms_outside_rendering"] == pytest.approx(figures["share_outside_rendering"] * step_ms)
    assert figures["run"]["date"] and figures["run"]["processor"]
    assert "steps_vs_rtk_frames" in figures
    assert "| steps_per_s_256" in capsys.readouterr().out


def test_an_absent_peer_is_named_with_its_pip_line(monkeypatch, capsys):
    def absent(scene):
        raise ImportError

    monkeypatch.setattr(env_speed, "rtk_joseph", absent)
    assert env_speed.main(["--rounds", "1", "--steps", "2"]) == 0
    assert "pip install itk-rtk" in capsys.readouterr().out


def test_bad_numbers_are_refused():
    with pytest.raises(SystemExit):
        env_speed.main(["--rounds", "0"])
