import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks import peers, render_speed
from benchmarks.render_speed import DisagreementError
from carm_env.patients import Patient, save_patient
from carm_env.volume import Volume


@pytest.fixture(scope="module")
def patient():
    x, y, z = np.meshgrid(np.linspace(-1, 1, 50), np.linspace(-1, 1, 36), np.linspace(-1, 1, 60), indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[x**2 + y**2 + z**2 < 0.7] = 40
    hu[(x - 0.3) ** 2 + (y + 0.2) ** 2 + (z - 0.4) ** 2 < 0.04] = 900
    smooth = np.rint(gaussian_filter(hu, 1)).astype(np.int16)
    return Patient("sphere", Volume.from_origin(smooth, (3.0, 4.0, 3.0), (-80, 10, 500)), {})


@pytest.fixture
def folder(patient, tmp_path):
    save_patient(patient, tmp_path / "patient")
    return tmp_path / "patient"


def absent(scene):
    raise ImportError("not here")


def test_without_peers_the_error_is_still_measured(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(render_speed, "rtk_joseph", absent)
    monkeypatch.setattr(render_speed, "nanodrr_trilinear", absent)
    target = tmp_path / "out" / "r.json"
    render_speed.main(["--volume", str(folder), "--size", "64", "--rounds", "1", "--json", str(target)])
    result = json.loads(target.read_text())
    assert result["ratio_vs_rtk"] is None
    assert result["ratio_vs_nanodrr"] is None
    assert result["correlation_with_rtk"] is None
    assert result["missing"] == peers.PIP_LINES
    assert 0 < result["line_error_mean"] <= result["line_error_max"] < 5e-3
    assert result["times_ms"]["ours"] > 0
    assert {"seed", "packages", "processor", "date"} <= result["run"].keys()
    printed = capsys.readouterr().out
    assert "pip install itk-rtk" in printed
    assert "pip install nanodrr" in printed


def test_a_stand_in_peer_is_timed(patient, monkeypatch):
    monkeypatch.setattr(render_speed, "nanodrr_trilinear", absent)

    def copy_of_ours(scene):
        projector = render_speed.SeparableProjector(scene.volume, scene.table)
        return lambda: projector.path_masses(scene.geometry)[0]

    monkeypatch.setattr(render_speed, "rtk_joseph", copy_of_ours)
    result = render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))
    assert result["correlation_with_rtk"] == pytest.approx(1)
    assert result["ratio_vs_rtk"] > 0
    assert "correlation with itk-rtk 1.000000" in render_speed.table(result)


def test_no_time_is_given_for_another_picture(patient, monkeypatch, capsys):
    monkeypatch.setattr(render_speed, "nanodrr_trilinear", absent)
    monkeypatch.setattr(render_speed, "rtk_joseph", lambda scene: lambda: np.eye(scene.size, dtype=np.float32))
    with pytest.raises(DisagreementError, match="itk-rtk"):
        render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))
    assert " ms" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "make"), [("itk", peers.rtk_joseph), ("nanodrr", peers.nanodrr_trilinear)])
def test_an_installed_peer_makes_our_picture(patient, name, make):
    pytest.importorskip(name)
    scene = peers.PeerView.frontal(patient.volume, patient.mid_depth_mm, 64)
    try:
        project = make(scene)
    except ImportError as error:
        pytest.skip(str(error))
    ours = render_speed.SeparableProjector(scene.volume, scene.table).path_masses(scene.geometry)[0]
    picture = project()
    assert picture.shape == ours.shape
    assert np.corrcoef(picture.ravel(), ours.ravel())[0, 1] > 0.999
    assert picture.sum() == pytest.approx(ours.sum(), rel=5e-3)


def test_rounds_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        render_speed.parse_arguments(["--rounds", "0"])
    assert "--rounds" in capsys.readouterr().err
