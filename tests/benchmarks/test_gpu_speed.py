import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import gpu_speed  # noqa: E402
from benchmarks.gpu_peers import NANODRR_ARM, nanodrr  # noqa: E402
from benchmarks.roofline import copy_bytes_per_s, count_samples, matrix_flops_per_s  # noqa: E402
from carm_env.geometry import CArmPlace  # noqa: E402
from carm_env.volume import Volume  # noqa: E402
from carm_env.xray.gpu import TorchProjector, Views  # noqa: E402
from carm_env.xray.gpu.rays import plan_rays  # noqa: E402

TINY = ["--size", "32", "--samples", "80", "--rounds", "1", "--repeats", "1", "--env-size", "16"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_tiny_run_gives_every_figure(tmp_path, capsys):
    out = tmp_path / "g.json"
    assert (
        gpu_speed.main(["--device", "cpu", "--batches", "1", "2", "--envs", "1", "2", *TINY, "--json", str(out)]) == 0
    )
    result = json.loads(out.read_text())
    assert set(result["frames_per_s"]) == {"1", "2"}
    for figures in result["frames_per_s"].values():
        assert figures["ours, grid_sample"] > 0 and figures["ours, whole frame"] > 0
    assert set(result["environments"]) == {"1", "2"}
    assert all(figures["steps_per_s"] > 0 for figures in result["environments"].values())
    assert result["error_vs_cpu"]["grid_sample"]["oblique_max"] < 2e-3
    assert result["roofline"]["2"]["share_of_matrix_flops"] > 0
    assert result["missing"]["ours, triton"] == "needs a CUDA device"
    assert result["run"]["date"] and result["run"]["packages"]["torch"]
    printed = capsys.readouterr().out
    assert "| ours, grid_sample" in printed and "steps/s" in printed


def test_absent_peers_are_named_with_their_pip_line(monkeypatch):
    def absent(*arguments):
        raise ImportError("No module named 'nanodrr'")

    monkeypatch.setattr(gpu_speed, "nanodrr", absent)
    hu = np.full((12, 12, 12), 40, np.int16)
    view = gpu_speed.BatchView(
        Volume.from_origin(hu, 10.0, (0, 0, 0)), (CArmPlace((60, 60, 60)),), 16, torch.device("cpu")
    )
    jobs, missing = gpu_speed.renderers(view, 50)
    assert "ours, grid_sample" in jobs
    assert missing["nanodrr, torch, 50 samples"] == "pip install nanodrr"

    def broken(*arguments):
        raise RuntimeError("no nvcc")

    monkeypatch.setattr(gpu_speed, "nanodrr", broken)
    jobs, missing = gpu_speed.renderers(view, 50)
    assert "ours, grid_sample" in jobs
    assert missing["nanodrr, torch, 50 samples"] == "fails: RuntimeError: no nvcc"


def test_nanodrr_is_given_our_views():
    pytest.importorskip("nanodrr")
    hu = np.full((40, 30, 50), -1000, np.int16)
    hu[5:30, 8:20, 10:45] = 40
    hu[10:14, 10:14, 30:40] = 900
    volume = Volume.from_origin(hu, 5.0, (0, 0, 0))
    view = gpu_speed.BatchView(volume, (CArmPlace((100, 70, 120)), CArmPlace((80, 70, 90))), 40, torch.device("cpu"))
    correlations = gpu_speed.check_peers(view, {"nanodrr, torch": nanodrr(view, "torch", 200)})
    assert correlations["nanodrr, torch"] > 0.999
    shifted = gpu_speed.BatchView(volume, (CArmPlace((100, 70, 130)), CArmPlace((80, 70, 90))), 40, view.device)
    with pytest.raises(gpu_speed.DisagreementError):
        gpu_speed.check_peers(view, {"nanodrr, torch": nanodrr(shifted, "torch", 200)})


def test_samples_are_counted_where_rays_meet_the_volume():
    # A slab that fills the view: every ray meets every slice.
    volume = Volume.from_origin(np.full((80, 9, 80), 40, np.int16), 10.0, (0, 0, 0))
    projector = TorchProjector("cpu")
    for place, expected in ((CArmPlace((395, 40, 395)), 9 * 16 * 16), (CArmPlace((395, 40, 5000)), 0)):
        views = Views.from_places([place], NANODRR_ARM, 16)
        packed = projector.volumes.of([volume], views.slicing_axes())
        assert count_samples(plan_rays(packed, views)) == expected


def test_limits_are_measured():
    assert copy_bytes_per_s(torch.device("cpu"), 1 << 20) > 1e8
    assert matrix_flops_per_s(torch.device("cpu"), 128) > 1e8


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--envs", "0"], ["--batches", "-1"]])
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(SystemExit):
        gpu_speed.main(["--device", "cpu", *arguments])


def test_without_a_gpu_the_default_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_speed.main([])
    assert "--device cpu checks the script" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_run_on_a_gpu_gives_every_backend(tmp_path):
    out = tmp_path / "g.json"
    assert gpu_speed.main(["--batches", "1", "--envs", "2", *TINY, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["frames_per_s"]["1"]["ours, triton"] > 0
    assert result["error_vs_cpu"]["triton"]["oblique_mean"] < 2e-4
