import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import scaling, scaling_plots
from benchmarks.scaling import QUICK, main, torso_of
from carm_env.errors import MissingExtraError


def test_a_quick_run_gives_every_figure_and_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, file = tmp_path / "plots", tmp_path / "s.json"
    assert main(["--quick", "--out", str(out), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert [row["side"] for row in figures["side"]] == list(QUICK.sides)
    assert all(row["frame_ms"] >= row["lines_ms"] > 0 for row in figures["side"])
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


def test_a_torso_has_the_voxels_that_were_asked_for_in_the_same_field():
    volume = torso_of(2e5).volume
    assert volume.hu.size == pytest.approx(2e5, rel=0.05)
    assert (volume.hu.shape * volume.spacing_mm) == pytest.approx(scaling.FIELD_MM, rel=0.02)


def test_memory_grows_by_what_is_held():
    before = scaling.resident_mib()
    if before is None:
        pytest.skip("no /proc here")
    held = np.ones(64 * 2**20, np.uint8)
    assert scaling.resident_mib() - before == pytest.approx(held.nbytes / 2**20, abs=8)


def test_without_matplotlib_nothing_is_measured_in_vain(tmp_path, monkeypatch):
    def absent():
        raise MissingExtraError("matplotlib", "bench", "Drawing plots")

    monkeypatch.setattr(scaling, "import_pyplot", absent)
    monkeypatch.setattr(scaling, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(MissingExtraError, match="carm-env.bench"):
        main(["--quick", "--out", str(tmp_path)])


def test_a_plot_without_memory_figures_is_drawn_too(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [{"voxels": n, "frame_ms": 1.0, "memory_mib": None} for n in (1_000_000, 3_000_000)]
    path = scaling_plots.save_plot(tmp_path / "v.png", "voxels", rows)
    assert Image.open(path).size == (640, 400)
