import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from carm_env.cli import main


def test_doctor_says_what_works(capsys):
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for subject in ("Python", "numba", "CPUs", "cache", "backend cpu", "backend deepdrr", "backend torch"):
        assert subject in report
    assert "works (numba, SIMD mode" in report


_PICTURES = """
from numba.core.dispatcher import Dispatcher
import gc
import numpy as np
from carm_env.geometry import CArmPlace
from carm_env.volume import Volume
from carm_env.xray import XRayCamera
from carm_env.xray.fidelity import make_projector

hu = np.full((20, 30, 40), -1000, np.int16)
hu[5:15, 5:15, 5:35] = 500
volume = Volume.from_origin(hu, 4.0, (0, 0, 0))
for fidelity in ("fast", "reference"):
    camera = XRayCamera(volume, projector=make_projector(volume, fidelity))
    for angles in ((0, 0), (90, 0), (30, 20)):
        assert camera.image(CArmPlace((40, 40, 80), *angles), 128, noise_seed=3).max() == 255
kernels = [thing for thing in gc.get_objects() if isinstance(thing, Dispatcher)]
print(sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels))
print(*[kernel.py_func.__name__ for kernel in kernels if kernel.stats.cache_misses])
"""


def test_after_warming_pictures_compile_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
        ).stdout

    kernels = [line for line in run("-m", "carm_env.cli", "doctor", "--warm").splitlines() if "kernels" in line]
    assert len(kernels) == 1
    assert "ready for SIMD mode" in kernels[0] and str(tmp_path) in kernels[0]
    hits, *compiled = run("-c", _PICTURES).splitlines()
    assert int(hits) > 5
    assert compiled == [""]


def test_doctor_names_a_cache_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    assert "set CARM_ENV_CACHE" in capsys.readouterr().out


def test_render_writes_a_picture(tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(["render", "--patient", "virtual:0", "--landmark", "carina", "--size", "100", "--out", str(out)]) == 0
    image = np.asarray(Image.open(out))
    assert image.shape == (100, 100) and image.std() > 20
    assert "isocentre x" in capsys.readouterr().out


def test_render_takes_millimetres_and_angles(tmp_path):
    pictures = []
    for number, arguments in enumerate(([], ["--alpha", "30"], ["--beta", "-20"], ["--projection", "PA"])):
        out = tmp_path / f"{number}.png"
        assert main(["render", "--at", "0", "1400", "--size", "64", "--out", str(out), *arguments]) == 0
        pictures.append(np.asarray(Image.open(out)).astype(float))
    for other in pictures[1:]:
        assert np.abs(pictures[0] - other).mean() > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--landmark", "karina"], "Did you mean 'Carina'"),
        (["--patient", "virtual"], "expected a whole number"),
        (["--patient", "none.nii.gz"], "no such file"),
        (["--at", "1"], "start is"),
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
def test_bad_input_is_named_and_nothing_is_written(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["render", "--out", "x.png", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
