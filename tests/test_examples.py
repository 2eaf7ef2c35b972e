"""Runs the example scripts as a user does, with few steps."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, encoding="utf-8")
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_random_agent_prints_each_episode(tmp_path):
    printed = run_example("random_agent.py", "--episodes", "2", folder=tmp_path)
    assert printed.count("success:") == 2


def test_ppo_is_trained_and_saved(tmp_path):
    pytest.importorskip("stable_baselines3")
    small = ("--timesteps", "16", "--envs", "2", "--steps", "8", "--episodes", "1", "--out", "agent.zip")
    assert "return" in run_example("sb3_ppo.py", *small, folder=tmp_path)
    assert (tmp_path / "agent.zip").is_file()


def test_own_policy_is_compared_with_oracle_and_random(tmp_path):
    printed = run_example("own_policy.py", "--episodes", "1", folder=tmp_path)
    for policy in ("oracle", "own_policy:SideToSide", "random"):
        assert policy in printed


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.name)
def test_examples_are_short(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
