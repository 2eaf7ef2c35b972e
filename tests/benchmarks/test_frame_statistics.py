import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks import frame_statistics
from benchmarks.frame_statistics import Arguments, box_contrasts, box_regions, describe, run, summarise
from carm_env.system.command_line import run_script


@pytest.fixture(scope="module")
def edges():
    rng = np.random.default_rng(0)
    return gaussian_filter((rng.random((16, 16)) > 0.5).repeat(16, 0).repeat(16, 1) * 180.0 + 30, 1)


def grey(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def test_greys_are_counted():
    frame = np.zeros((64, 64), np.uint8)
    frame[:, 32:] = 255
    figures = describe(frame)
    assert figures["mean"] == 127.5 and figures["std"] == 127.5
    assert figures["black"] == figures["white"] == 0.5
    assert figures["histogram"] == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]
    assert sum(figures["histogram"]) == pytest.approx(1)


def test_blurring_lowers_every_measure_of_sharpness(edges):
    sharp, blurred = describe(grey(edges)), describe(grey(gaussian_filter(edges, 3)))
    assert blurred["slope"] < sharp["slope"] - 0.5
    assert blurred["above_1_8"] < sharp["above_1_8"]
    assert blurred["gradient_99"] < 0.7 * sharp["gradient_99"]


def test_noise_is_measured_in_greys(edges):
    noise = np.random.default_rng(1).normal(0, 4, edges.shape)
    assert describe(grey(gaussian_filter(edges, 6) + noise))["noise"] == pytest.approx(4, rel=0.1)
    assert describe(grey(gaussian_filter(edges, 6)))["noise"] < 0.5


def test_white_noise_has_a_flat_spectrum():
    frame = grey(np.random.default_rng(2).normal(128, 30, (256, 256)))
    figures = describe(frame)
    assert figures["slope"] == pytest.approx(0, abs=0.15)
    assert figures["above_1_4"] == pytest.approx(1 - np.pi / 16, abs=0.02)


def test_a_uniform_frame_has_statistics():
    figures = describe(np.full((64, 64), 7, np.uint8))
    assert figures["std"] == figures["noise"] == figures["above_1_4"] == 0


def test_contrast_is_a_share_of_the_full_scale():
    frame = np.full((384, 384), 50, np.uint8)
    frame[:100, :100] = 101
    regions = box_regions({"bone": [0, 0, 200, 200], "soft": [400, 400, 500, 500]}, 384)
    assert regions["bone"].sum() == 100 * 100
    assert box_contrasts(frame, regions) == {"bone_soft": pytest.approx(0.2)}
    assert box_contrasts(frame, {"bone": regions["bone"]}) == {}


def test_means_are_taken_over_the_frames_that_have_a_figure():
    frames = {"a": {"mean": 1.0, "contrast": {"bone_soft": 0.2}}, "b": {"mean": 3.0, "contrast": {}}}
    assert summarise(frames) == {"frames": 2, "mean": 2.0, "contrast": {"bone_soft": 0.2}}


def test_frames_and_our_views_are_described(tmp_path, edges, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.fromarray(grey(edges)).save(folder / "a.png")
    (tmp_path / "boxes.json").write_text(
        '{"a.png": {"bone": [0, 0, 384, 384], "soft": [384, 384, 768, 768]}}', encoding="utf-8"
    )
    out = tmp_path / "f.json"
    arguments = ["--frames", str(folder), "--ours", "--side", "192", "--boxes", str(tmp_path / "boxes.json")]
    assert run_script(run, Arguments, given=[*arguments, "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert list(result["frames"]["frames"]) == ["a.png"] and "bone_soft" in result["frames"]["mean"]["contrast_boxes"]
    ours = result["ours"]["mean"]
    assert ours["frames"] == 16 and ours["std"] > 20
    assert result["ours_trips"]["mean"]["frames"] == 7
    assert ours["contrast_masses"]["bone_soft"] > 0.02 and ours["contrast_masses"]["lung_soft"] < -0.02
    assert result["run"]["date"]
    assert "contrast_masses lung_soft" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--ours", "--side", "8"], ["--frames", "no/such/folder"]])
def test_bad_arguments_are_reported(arguments, script_error):
    assert "expected" in script_error(frame_statistics, *arguments)
