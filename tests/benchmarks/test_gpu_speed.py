import contextlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import gpu_speed  # noqa: E402
from benchmarks._support import gpu_baselines  # noqa: E402
from benchmarks._support.gpu_baselines import NANODRR_ARM, flashdrr, nanodrr  # noqa: E402
from benchmarks._support.roofline import copy_bytes_per_s, count_samples, matrix_flops_per_s  # noqa: E402
from carm_env.geometry import CArmPose  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402
from carm_env.volume import Volume  # noqa: E402
from carm_env.xray.camera import XRayCamera  # noqa: E402
from carm_env.xray.gpu import TorchProjector, Views  # noqa: E402
from carm_env.xray.gpu._rays import plan_rays  # noqa: E402

TINY = ["--size", "32", "--samples", "80", "--rounds", "1", "--repeats", "1", "--env-size", "16"]


def script(*words):
    return run_script(gpu_speed.run, gpu_speed.Arguments, given=[str(word) for word in words])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_tiny_run_gives_every_figure(tmp_path, capsys):
    out = tmp_path / "g.json"
    assert script("--device", "cpu", "--batches", 1, 2, "--envs", 1, 2, *TINY, "--json", out) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["frames_per_s"]) == {"1", "2"}
    for figures in result["frames_per_s"].values():
        assert figures["ours, grid_sample"] > 0 and figures["ours, whole frame"] > 0
    assert set(result["environments"]) == {"1", "2"}
    assert all(figures["steps_per_s"] > 0 for figures in result["environments"].values())
    assert result["error_vs_cpu"]["grid_sample"]["oblique_max"] < 2e-3
    assert result["roofline"]["2"]["share_of_matrix_flops"] > 0
    assert result["missing"]["1"]["ours, triton"] == "needs a CUDA device"
    assert result["run"]["date"] and result["run"]["packages"]["torch"]
    printed = capsys.readouterr().out
    assert "| ours, grid_sample" in printed and "steps/s" in printed


def test_missing_baselines_are_listed_with_their_install_command(monkeypatch):
    def absent(*arguments):
        raise ImportError("No module named 'nanodrr'")

    monkeypatch.setattr(gpu_speed, "nanodrr", absent)
    hu = np.full((12, 12, 12), 40, np.int16)
    view = gpu_speed.BatchView(
        Volume.from_origin(hu, 10.0, (0, 0, 0)), (CArmPose((60, 60, 60)),), 16, torch.device("cpu")
    )
    jobs, missing = gpu_speed.renderers(view, 50, contextlib.ExitStack())
    assert "ours, grid_sample" in jobs
    assert missing["nanodrr, torch, 50 samples"] == "pip install nanodrr"

    def broken(*arguments):
        raise RuntimeError("no nvcc")

    monkeypatch.setattr(gpu_speed, "nanodrr", broken)
    jobs, missing = gpu_speed.renderers(view, 50, contextlib.ExitStack())
    assert "ours, grid_sample" in jobs
    assert missing["nanodrr, torch, 50 samples"] == "fails: RuntimeError: no nvcc"


@pytest.mark.parametrize("baseline", [nanodrr, flashdrr])
def test_an_installed_baseline_makes_our_image(baseline):
    pytest.importorskip(baseline.__name__)
    hu = np.full((40, 30, 50), -1000, np.int16)
    hu[5:30, 8:20, 10:45] = 40
    hu[10:14, 10:14, 30:40] = 900
    volume = Volume.from_origin(hu, 5.0, (0, 0, 0))
    view = gpu_speed.BatchView(volume, (CArmPose((100, 70, 120)), CArmPose((80, 70, 90))), 40, torch.device("cpu"))
    name, missing = f"{baseline.__name__}, torch", {}
    correlations = gpu_speed.check_baselines(view, {name: baseline(view, "torch", 200)}, missing)
    assert correlations[name] > 0.999 and not missing
    shifted = gpu_speed.BatchView(volume, (CArmPose((100, 70, 130)), CArmPose((80, 70, 90))), 40, view.device)
    jobs = {name: baseline(shifted, "torch", 200)}
    assert gpu_speed.check_baselines(view, jobs, missing) == jobs == {}
    assert "differ: correlation" in missing[name]


class StandIn:
    """Replaces DeepDRRRenderer: our image with `share` of the intensity removed."""

    opened, closed, share = 0, 0, 0.0

    def __init__(self, volume, beam):
        self.camera = XRayCamera(volume, NANODRR_ARM)
        StandIn.opened += 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        StandIn.closed += 1

    def log_image(self, geometry):
        return self.camera.log_image_of(geometry) - np.float32(np.log1p(-self.share))


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces DeepDRR on the CPU, and reduces `gpu_speed.renderers` to it and one of ours."""
    renderer = type("Renderer", (StandIn,), {})
    monkeypatch.setattr(StandIn, "opened", 0)
    monkeypatch.setattr(StandIn, "closed", 0)
    monkeypatch.setattr("carm_env.xray.deepdrr.DeepDRRRenderer", renderer)
    monkeypatch.setattr(gpu_baselines.importlib.util, "find_spec", lambda name: object())

    def only_ours_and_deepdrr(view, samples, closing):
        views = Views.from_poses(view.poses, NANODRR_ARM, view.size)
        jobs = {"ours, grid_sample": gpu_speed._ours(view, views, "grid_sample")}
        missing = {}
        if renderer.fails_at == len(view.poses):
            missing[gpu_speed.DEEPDRR] = "fails"
        else:
            jobs[gpu_speed.DEEPDRR] = gpu_baselines.deepdrr(view, closing)
        return jobs, missing

    renderer.fails_at = None
    monkeypatch.setattr(gpu_speed, "renderers", only_ours_and_deepdrr)
    return renderer


def test_deepdrrs_image_is_checked_before_it_is_timed(stand_in, tmp_path, capsys):
    out = tmp_path / "g.json"
    arguments = ["--device", "cpu", "--batches", 1, 2, "--envs", 1, *TINY, "--json", out]

    def run():
        assert script(*arguments) == 0
        assert StandIn.opened == StandIn.closed > 0
        return json.loads(out.read_text(encoding="utf-8"))

    result = run()
    for batch in ("1", "2"):
        assert result["frames_per_s"][batch][gpu_speed.DEEPDRR] > 0
        figures = result["deepdrr_agreement"][batch]
        assert figures["mean"] < 1e-6 and figures["p99"] < 1e-6 and figures["ncc"] > 0.999999
    assert "DeepDRR against the CPU camera, 2 per call: mean" in capsys.readouterr().out

    # A tenth of the intensity is missing: the figures are reported, but no time.
    stand_in.share = 0.1
    result = run()
    for batch in ("1", "2"):
        assert gpu_speed.DEEPDRR not in result["frames_per_s"][batch]
        assert result["deepdrr_agreement"][batch]["mean"] > 5e-3
        assert "differs from our image: mean" in result["missing"][batch][gpu_speed.DEEPDRR]
        assert result["frames_per_s"][batch]["ours, grid_sample"] > 0


def test_a_failure_in_one_batch_does_not_affect_the_others(stand_in, tmp_path):
    stand_in.fails_at = 1
    out = tmp_path / "g.json"
    assert script("--device", "cpu", "--batches", 1, 2, "--envs", 1, *TINY, "--json", out) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["missing"] == {"1": {gpu_speed.DEEPDRR: "fails"}, "2": {}}
    assert set(result["deepdrr_agreement"]) == {"2"}
    assert set(result["correlation_with_ours"]) == {"1", "2"}


def test_samples_are_counted_where_rays_meet_the_volume():
    # A slab that fills the view: every ray meets every slice.
    volume = Volume.from_origin(np.full((80, 9, 80), 40, np.int16), 10.0, (0, 0, 0))
    projector = TorchProjector("cpu")
    for pose, expected in ((CArmPose((395, 40, 395)), 9 * 16 * 16), (CArmPose((395, 40, 5000)), 0)):
        views = Views.from_poses([pose], NANODRR_ARM, 16)
        packed = projector.volumes.of([volume], views.slicing_axes())
        assert count_samples(plan_rays(packed, views)) == expected


def test_limits_are_measured():
    assert copy_bytes_per_s(torch.device("cpu"), 1 << 20) > 1e8
    assert matrix_flops_per_s(torch.device("cpu"), 128) > 1e8


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--envs", "0"], ["--batches", "-1"]])
def test_bad_numbers_are_reported(arguments, script_error):
    assert f"{arguments[0]} is" in script_error(gpu_speed, "--device", "cpu", *arguments)


def test_a_missing_gpu_is_reported(script_error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "Use --device cpu to check the script" in script_error(gpu_speed)


@pytest.mark.gpu
def test_a_run_on_a_gpu_gives_every_backend(tmp_path):
    out = tmp_path / "g.json"
    assert script("--batches", 1, "--envs", 2, *TINY, "--json", out) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["frames_per_s"]["1"]["ours, triton"] > 0
    assert result["error_vs_cpu"]["triton"]["oblique_mean"] < 2e-4
