import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carm_env.cli import COMMANDS, main
from carm_env.cli.render import Arguments
from carm_env.envs.scene import load_scene
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.system.errors import BackendError
from carm_env.xray.settings import XRaySettings


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"carm-env {version('carm-env')}"


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["--help"], 0, "render-dataset"),
        (["patients", "--help"], 0, "patients verify"),
        ([], 2, "render-dataset"),
        (["rendr"], 2, "Did you mean 'render'?"),
        (["patients", "bild"], 2, "Did you mean 'patients build'?"),
    ],
)
def test_commands_are_listed_and_an_unknown_one_is_refused(arguments, status, shown, capsys):
    assert main(arguments) == status
    printed = capsys.readouterr()
    assert shown in printed.out + printed.err


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.summary])
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    assert f"usage: carm-env {name}" in capsys.readouterr().out


def test_doctor_reports_what_works(capsys):
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for subject in ("Python", "numba", "CPUs", "cache", "backend cpu", "backend deepdrr", "backend torch"):
        assert subject in report
    assert "works (numba, SIMD mode" in report


_IMAGES = """
from numba.core.dispatcher import Dispatcher
import gc
import numpy as np
from carm_env.geometry import CArmPose
from carm_env.volume import Volume
from carm_env.xray import XRayCamera, XRaySettings

hu = np.full((20, 30, 40), -1000, np.int16)
hu[5:15, 5:15, 5:35] = 500
volume = Volume.from_origin(hu, 4.0, (0, 0, 0))
for fidelity in ("fast", "reference"):
    camera = XRayCamera(volume, settings=XRaySettings(fidelity=fidelity))
    for angles in ((0, 0), (90, 0), (30, 20)):
        assert camera.image(CArmPose((40, 40, 80), *angles), 128, noise_seed=3).max() == 255
kernels = [thing for thing in gc.get_objects() if isinstance(thing, Dispatcher)]
print(sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels))
print(*[kernel.py_func.__name__ for kernel in kernels if kernel.stats.cache_misses])
"""


def test_after_warming_rendering_compiles_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout

    kernels = [line for line in run("-m", "carm_env.cli", "doctor", "--warm").splitlines() if "kernels" in line]
    assert len(kernels) == 1
    assert "ready for SIMD mode" in kernels[0] and str(tmp_path) in kernels[0]
    hits, *compiled = run("-c", _IMAGES).splitlines()
    assert int(hits) > 5
    assert compiled == [""]


def test_doctor_names_a_cache_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    assert "set CARM_ENV_CACHE" in capsys.readouterr().out


def test_render_writes_an_image(tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(["render", "--patient", "virtual:0", "--landmark", "carina", "--size", "100", "--out", str(out)]) == 0
    image = np.asarray(Image.open(out))
    assert image.shape == (100, 100) and image.std() > 20
    assert "isocentre x" in capsys.readouterr().out


def test_a_landmark_is_in_the_middle_from_every_angle(tmp_path, capsys):
    point = load_scene("virtual:0").patient.landmarks_lps_mm[1]
    out = str(tmp_path / "x.png")
    assert main(["render", "--landmark", "skull", "--alpha", "90", "--size", "64", "--out", out]) == 0
    # The isocentre lies in front of the landmark, towards the source: on the left of the patient.
    in_front = point + [DEFAULT_ISOCENTER_DEPTH_MM, 0, 0]
    assert "x {:.1f}, y {:.1f}, z {:.1f} mm".format(*in_front) in capsys.readouterr().out


def test_render_takes_millimetres_and_angles(tmp_path):
    images = []
    for number, arguments in enumerate(([], ["--alpha", "30"], ["--beta", "-20"], ["--projection", "PA"])):
        out = tmp_path / f"{number}.png"
        assert main(["render", "--at", "0", "1400", "--size", "64", "--out", str(out), *arguments]) == 0
        images.append(np.asarray(Image.open(out)).astype(float))
    for other in images[1:]:
        assert np.abs(images[0] - other).mean() > 2


def test_the_exposure_options_have_the_settings_defaults():
    shown = {name: value for name, value in vars(Arguments(Path("x.png"))).items() if hasattr(XRaySettings, name)}
    settings = vars(XRaySettings())
    assert {name for name, value in shown.items() if value != settings[name]} == {"mas"} and shown["mas"] is None
    assert len(shown) == 12


def test_a_backend_that_cannot_run_here_gives_one_line(tmp_path, capsys, monkeypatch):
    def refuse(volume, settings, existing):
        raise BackendError("DeepDRR cannot run here: no CUDA device: run on a machine with an NVIDIA GPU")

    monkeypatch.setattr("carm_env.envs.scene.make_renderer", refuse)
    out = tmp_path / "x.png"
    # A photon count that no other test uses, because scenes are cached.
    assert main(["render", "--backend", "deepdrr", "--photons", "123456", "--out", str(out)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not out.exists()


def test_render_applies_the_exposure_options(tmp_path, capsys):
    def render(*arguments):
        out = tmp_path / "x.png"
        assert main(["render", "--landmark", "carina", "--size", "128", "--out", str(out), *arguments]) == 0
        return np.asarray(Image.open(out)).astype(int), capsys.readouterr().out

    plain, report = render()
    assert "90 kV, 0.5 mAs, no noise" in report and "view: ok" in report
    faint, report = render("--kvp", "80", "--photons", "2000", "--alpha", "30", "--beta", "15")
    assert "80 kV" in report and "2e+03 photons" in report
    assert np.abs(np.diff(faint, axis=1)).mean() > 3 * np.abs(np.diff(plain, axis=1)).mean()
    dark, _ = render("--polarity", "bone_dark")
    np.testing.assert_array_equal(dark, 255 - plain)
    narrow, _ = render("--collimation", "0.5")
    assert not narrow[:32].any() and narrow[64, 64] > 0
    stated, report = render("--mas", "0.5")
    assert "0.5 mAs" in report and 0 < np.abs(stated - plain).mean() < 3
    _, report = render("--exposure-control", "--copper-mm", "0.2", "--scatter", "0.2", "--display", "neglog")
    assert "0.5 mAs" not in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kvp", "500"], "kvp is 500"),
        (["--photons", "-3"], "photons"),
        (["--photons", "100", "--exposure-control"], "only one of them sets the exposure"),
        (["--photons", "100", "--mas", "1"], "only one of them sets the exposure"),
        (["--display", "neg"], "Did you mean 'neglog'"),
        (["--backend", "gpu"], "unknown backend"),
        (["--alpha", "200"], "expected -180 to 180 degrees"),
        (["--landmark", "karina"], "Did you mean 'Carina'"),
        (["--patient", "virtual"], "expected a whole number"),
        (["--patient", "none.nii.gz"], "no such file"),
        (["--at", "1"], "start is"),
        (["--at", "0", "1400", "--landmark", "skull"], "expected one of them"),
        (["--at", "0", "99999"], "outside the workspace"),
        (["--at", "nan", "0"], "finite"),
        (["--alpha", "nan"], "alpha_deg"),
        (["--size", "15"], "from 16 to 2048"),
        (["--projection", "XX"], "Did you mean"),
        (["--landmark", ""], "unknown landmark"),
        (["--out", "x.xyz"], "expected an image file"),
        (["--out", "x.psd"], "expected an image file"),
        (["--out", "n" * 300 + ".png"], "too long"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["render", "--out", "x.png", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
