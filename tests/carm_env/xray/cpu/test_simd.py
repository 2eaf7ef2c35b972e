"""Which mode a CPU gets, and what the modes become in machine code."""

import os
import subprocess
import sys

import pytest

from carm_env.xray.cpu import simd
from carm_env.xray.cpu.simd import Avx2, Avx512, Generic, available_modes

X86 = os.uname().machine == "x86_64" if hasattr(os, "uname") else False


@pytest.mark.parametrize(
    ("features", "modes"),
    [
        ("+avx,+avx2,+avx512f,+avx512bw", [Avx512, Avx2, Generic]),
        ("+avx,+avx2,+avx512f,-avx512bw", [Avx2, Generic]),
        ("+avx,-avx2", [Generic]),
        ("", [Generic]),
    ],
)
def test_the_fastest_mode_that_the_cpu_can_run_comes_first(monkeypatch, features, modes):
    # As numba does: features that are set count, whether or not a CPU is named.
    monkeypatch.setattr(simd.config, "CPU_FEATURES", features)
    assert [type(mode) for mode in available_modes()] == modes


_COMPILE = """
import sys
from numba import float32, int16, int32, typeof
from carm_env.xray.cpu import simd
from carm_env.xray.cpu._separable_kernels import project_slices
from carm_env.xray.cpu._product_kernels import project_products

mode = typeof(getattr(simd, sys.argv[1])())
assert sys.argv[1] in [type(mode).__name__ for mode in simd.available_modes()]
arguments, out = (mode, int16[:, :, :, ::1], int32[:, :, :, ::1], float32[::1]), float32[:, :, ::1]
for kernel, more in ((project_slices, (out,)), (project_products, (*[float32] * 3, out))):
    kernel.compile((*arguments, *more))
    print("".join(kernel.inspect_asm().values()))
"""


@pytest.mark.skipif(not X86, reason="needs LLVM's x86 target as the host's")
@pytest.mark.parametrize(
    ("mode", "cpu", "features", "register"),
    [
        ("Avx512", "skylake-avx512", "+avx,+avx2,+fma,+avx512f,+avx512bw,+avx512vl,+avx512dq", "%zmm"),
        ("Avx2", "haswell", "+avx,+avx2,+fma", "%ymm"),
    ],
)
def test_mode_compiles_to_its_instructions_on_any_cpu(tmp_path, mode, cpu, features, register):
    variables = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _COMPILE, mode]
    ran = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    lines = [line.split("#")[0] for line in ran.stdout.splitlines()]
    for instruction in ("vpshufb", "vpmaddwd", "vcvtdq2ps", "vfmadd"):
        assert any(instruction in line and register in line for line in lines), instruction
