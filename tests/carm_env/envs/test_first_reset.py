"""What a user sees on standard error before the first X-ray on a machine."""

import os
import subprocess
import sys

import pytest

from carm_env.anatomy import build
from carm_env.envs import scene
from carm_env.envs.navigation import CArmNavEnv

CODE = """
import gymnasium as gym
import carm_env

env = gym.make("CArmNav-v0", image_size=64)
env.reset(seed=0)
env.step(0)
"""


@pytest.fixture
def empty_cache(monkeypatch, tmp_path, small_patient):
    """An empty cache, and a virtual patient that takes no time to build."""
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "build_patient", lambda virtual: small_patient("virtual:0", 0))
    monkeypatch.setattr(scene, "_store", scene._SceneStore())


def test_the_first_reset_announces_the_build_and_later_ones_are_silent(empty_cache, monkeypatch, capsys):
    env = CArmNavEnv(image_size=16)
    assert capsys.readouterr() == ("", ""), "construction builds nothing"
    env.reset(seed=0)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "compiling" not in line.lower()]
    assert line.startswith("carm-env: ") and "virtual:0" in line and "once, about 30 s" in line
    env.reset(seed=1)
    env.step(0)
    monkeypatch.setattr(scene, "_store", scene._SceneStore())
    CArmNavEnv(image_size=16).reset(seed=0)
    assert capsys.readouterr() == ("", ""), "the patient comes from the cache"


@pytest.mark.slow
def test_a_fresh_machine_announces_build_and_compilation(tmp_path):
    environment = {**os.environ, "CARM_ENV_CACHE": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
        )
        assert done.stdout == ""
        lines.append(done.stderr.splitlines())
    first, second = lines
    assert len(first) == 2 and all(line.startswith("carm-env: ") for line in first)
    assert "virtual:0" in first[0] and "compiling" in first[1].lower()
    assert second == []
