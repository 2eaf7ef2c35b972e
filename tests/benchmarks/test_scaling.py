import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import scaling
from benchmarks.scaling import QUICK, Arguments, torso_of
from carm_env.system.command_line import run_script
from carm_env.system.errors import MissingExtraError


def test_a_quick_run_gives_every_figure_and_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, file = tmp_path / "plots", tmp_path / "s.json"
    assert run_script(scaling.run, Arguments, given=["--quick", "--out", str(out), "--json", str(file)]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [row["side"] for row in figures["side"]] == list(QUICK.sides)
    assert all(row["frame_ms"] > 0 and row["lines_ms"] > 0 for row in figures["side"])
    assert all(row["memory_mib"] > row["volume_mib"] for row in figures["voxels"])
    assert [row["patients"] for row in figures["patients"]] == list(QUICK.patients)
    assert {(row["environments"], row["threads"]) for row in figures["environments"]} == {(1, 1), (2, 1), (2, 2)}
    assert all(row["steps_per_s"] > 0 for row in figures["environments"])
    assert 0 < figures["step"]["outside_rendering_ms"] < figures["step"]["step_ms"]
    assert figures["quick"] and figures["run"]["processor"]
    for name in ("side", "voxels", "patients", "environments"):
        path = out / f"scaling_{name}.png"
        assert path.stat().st_size < 150_000
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    assert "outside rendering" in capsys.readouterr().out


def test_a_torso_fills_the_field_with_the_requested_voxels():
    volume = torso_of(2e5).volume
    assert volume.hu.size == pytest.approx(2e5, rel=0.05)
    assert (volume.hu.shape * volume.spacing_mm) == pytest.approx(scaling.FIELD_MM, rel=0.02)


def test_memory_held_excludes_freed_memory():
    with scaling.memory_held() as held_mib:
        kept = np.ones(32 * 2**20, np.uint8)
        freed = np.ones(64 * 2**20, np.uint8)
        del freed
        assert held_mib() == pytest.approx(kept.nbytes / 2**20, abs=1)


def test_a_missing_matplotlib_is_reported_before_measuring(tmp_path, monkeypatch):
    def absent(*_):
        raise MissingExtraError("matplotlib", "bench", "Drawing plots")

    monkeypatch.setattr(scaling, "require", absent)
    monkeypatch.setattr(scaling, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(MissingExtraError, match="carm-env.bench"):
        scaling.run(Arguments(quick=True, out=tmp_path))
