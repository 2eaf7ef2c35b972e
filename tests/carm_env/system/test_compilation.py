import errno
import os
import subprocess
import sys

import numba
import pytest

from carm_env.system import compilation as compiled
from carm_env.system.errors import BackendError


def double(x):
    return 2 * x


@pytest.mark.parametrize("decorator", [compiled.compiled, compiled.compiled_fast])
def test_compiled_function_gives_the_same_result(decorator):
    assert decorator(double)(21.0) == 42.0


def test_functions_are_compiled_without_a_writable_cache(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(double)(21.0) == 42.0


def test_functions_are_compiled_without_numbas_stamp(monkeypatch):
    class Dispatcher:
        _cache = None

    def njit(cache=False, **options):
        return (lambda function: Dispatcher()) if cache else numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled(double)(21.0) == 42.0


@pytest.fixture
def kernel_folder(monkeypatch, tmp_path):
    """The folder for machine code in this test; returns a function that lists its files with a suffix."""
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(compiled, "_announce_once", compiled.announce)
    return lambda suffix: sorted((tmp_path / "kernels").rglob(f"*{suffix}"))


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"cut"])
def test_damaged_machine_code_is_compiled_again_and_replaced(kernel_folder, suffix, content):
    assert compiled.compiled(double)(21.0) == 42.0
    (path,) = kernel_folder(suffix)
    path.write_bytes(path.read_bytes()[:-40] if content == b"cut" else content)
    again, later = compiled.compiled(double), compiled.compiled(double)
    assert again(21.0) == 42.0 and sum(again.stats.cache_hits.values()) == 0
    assert later(21.0) == 42.0 and sum(later.stats.cache_hits.values()) == 1


def test_a_full_disk_does_not_stop_a_kernel(kernel_folder, monkeypatch, capsys):
    def no_space(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", no_space)
    assert compiled.compiled(double)(21.0) == 42.0
    assert "No space left on device" in (printed := capsys.readouterr().err) and "NUMBA_CACHE_DIR" in printed


def test_a_kernel_without_a_cache_names_the_variable_to_set(kernel_folder, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_SILENT_S", -1)
    monkeypatch.setattr(compiled, "cache_folder", lambda kernel: None)
    assert compiled.compiled(double)(21.0) == 42.0
    assert "set CARM_ENV_CACHE or NUMBA_CACHE_DIR" in capsys.readouterr().err


def test_machine_code_is_kept_beside_the_patients_if_numbas_folders_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("CARM_ENV_CACHE", str(tmp_path))
    locators = numba.core.caching.CompileResultCacheImpl._locator_classes
    monkeypatch.setattr(
        numba.core.caching.CompileResultCacheImpl,
        "_locator_classes",
        [locator for locator in locators if "UserProvided" in locator.__name__],
    )
    kernel, later = compiled.compiled(double), compiled.compiled(double)
    assert kernel(21.0) == later(21.0) == 42.0 and sum(later.stats.cache_hits.values()) == 1
    assert compiled.cache_folder(kernel).startswith(str(tmp_path / "kernels"))


def test_kernels_refuse_to_run_uncompiled(monkeypatch):
    monkeypatch.setattr(numba.core.config, "DISABLE_JIT", 1)
    kernel = compiled.compiled(double)
    with pytest.raises(BackendError, match="Unset NUMBA_DISABLE_JIT"):
        kernel(21.0)


@pytest.mark.parametrize("text", ["0", "-3"])
def test_a_number_of_threads_that_numba_refuses_is_named(text):
    command = [sys.executable, "-c", "import carm_env.xray.cpu.simd"]
    ran = subprocess.run(
        command, env={**os.environ, "NUMBA_NUM_THREADS": text}, capture_output=True, text=True, encoding="utf-8"
    )
    assert (
        ran.returncode == 1
        and f"BackendError: numba refuses the environment variable NUMBA_NUM_THREADS='{text}'"
        in (ran.stderr.splitlines()[-1])
    )


@pytest.fixture
def run(tmp_path):
    """Call, in a process of its own, a kernel that adds a constant of another module; result and cache hits."""
    package = tmp_path / "steps"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "kernels.py").write_text(
        "from carm_env.system.compilation import compiled\n"
        "from steps.between import STEP\n\n\n"
        "@compiled\n"
        "def add_step(x):\n"
        "    return x + STEP\n",
        encoding="utf-8",
    )
    (package / "between.py").write_text("from steps.constants import STEP\n", encoding="utf-8")
    command = "from steps.kernels import add_step as f; print(f(1), sum(f.stats.cache_hits.values()))"

    def call(step, **variables):
        (package / "constants.py").write_text(f"STEP = {step}\n", encoding="utf-8")
        path = os.pathsep.join([str(tmp_path), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables}
        ran = subprocess.run(
            [sys.executable, "-c", command],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        )
        return tuple(map(int, ran.stdout.split()))

    return call


def test_machine_code_is_reused_until_a_source_changes(run):
    assert run(10) == (11, 0)
    assert run(10) == (11, 1)
    # Two modules away from the kernel, of the same size, within the same second.
    assert run(20) == (21, 0)
    assert run(20) == (21, 1)


def test_machine_code_is_not_shared_between_cpus(run):
    other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert run(10) == (11, 0)
    assert run(10, **other) == (11, 0)
    assert run(10) == (11, 1)
    assert run(10, **other) == (11, 1)


def test_sources_of_a_kernel_include_its_intrinsics():
    within = compiled.modules_within("carm_env.xray.cpu._separable_kernels")
    for module in (
        "xray.cpu._separable_kernels",
        "xray.cpu._row_vectors",
        "xray.cpu._vectors",
        "xray.cpu.simd",
        "system.compilation",
    ):
        assert f"carm_env.{module}" in within
    assert "carm_env.system.compilation" in within
    assert "carm_env.xray.camera" not in within
