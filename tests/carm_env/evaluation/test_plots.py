import os
import subprocess
import sys

import pytest

from carm_env.evaluation.plots import drawing

SCRIPT = """
import os, sys
from pathlib import Path
from carm_env.evaluation.plots import new_figure, save_figure
figure, axes = new_figure(2, 2)
axes.plot([0, 1])
save_figure(figure, Path(sys.argv[1]))
print(os.environ.get("MPLBACKEND"), "matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "agg", None])
def test_any_backend_draws(backend, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    if backend:
        environment["MPLBACKEND"] = backend
    command = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 1000
    assert done.stdout.split() == [str(backend), "False"]


def test_an_error_while_drawing_is_reported(capsys):
    with drawing("plot.png"):
        raise ValueError("no data")
    assert capsys.readouterr().err == "warning: plot.png was not drawn: ValueError: no data\n"
