import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import carm_env

HEAVY = (
    "PIL", "SimpleITK", "benchmarks", "mujoco", "numba", "policies", "pygame", "scipy", "spekpy", "stable_baselines3",
    "torch", "training", "transformers", "xraydb",
)  # fmt: skip


def run(code):
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8")
    return result.stdout.split()


def test_import_loads_no_heavy_package():
    assert run(f"import sys, carm_env; print(*set({HEAVY}) & set(sys.modules))") == []


def test_import_takes_less_than_300_ms_of_processor_time():
    code = "import time; started = time.process_time(); import carm_env; print(time.process_time() - started)"
    assert min(float(run(code)[0]) for _ in range(3)) < 0.3


@pytest.mark.parametrize("name", [name for name in carm_env.__all__ if name != "__version__"])
def test_exports_are_the_objects_of_their_modules(name):
    value = getattr(carm_env, name)
    assert value is getattr(importlib.import_module(carm_env._MODULES[name]), name)
    assert name in dir(carm_env)


def test_every_export_has_a_module():
    assert {*carm_env._MODULES, "__version__"} == set(carm_env.__all__)


def test_unknown_attributes_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'carm_env' has no attribute 'CArmEnv'"):
        carm_env.CArmEnv  # noqa: B018
    assert not hasattr(carm_env, "LANDMARK")


def test_importing_the_package_registers_the_environment():
    assert run("import carm_env, gymnasium; print('CArmNav-v0' in gymnasium.registry)") == ["True"]


def test_version_matches_the_distribution():
    assert importlib.metadata.version("carm-env") == carm_env.__version__
