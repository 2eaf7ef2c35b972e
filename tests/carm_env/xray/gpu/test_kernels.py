"""The Triton kernels without a GPU: interpreted against the CPU projector, and compiled for GPUs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import carm_env

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

SCRIPT = Path(__file__).with_name("interpreted.py")
SAMPLE = {
    "volumes_ptr": "*i64",
    "lines_ptr": "*fp32",
    "bounds_ptr": "*i32",
    "out_ptr": "*fp32",
    **dict.fromkeys(("views", "out_height", "out_width", "tiles_across", "tiles"), "i32"),
}
WARP = {
    "sums_ptr": "*fp32",
    "lines_ptr": "*fp32",
    "bounds_ptr": "*i32",
    "detector_ptr": "*fp32",
    "numbers_ptr": "*i64",
    "out_ptr": "*fp32",
    **dict.fromkeys(("plane_height", "plane_width", "height", "width", "tiles_across", "tiles"), "i32"),
}


@pytest.fixture(scope="module")
def interpreted(cache_folder):
    """Errors by case; the interpreter must be chosen before Triton is imported, hence a process of its own."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "CARM_ENV_CACHE": str(cache_folder),
        # The package under test, wherever another copy may be installed.
        "PYTHONPATH": str(Path(carm_env.__file__).parents[1]),
    }
    run = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=600)
    if "interpret" in run.stderr.lower() and "NotImplementedError" in run.stderr:
        pytest.skip(f"this Triton cannot interpret the kernels: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(("case", "count"), [("alone", 1), ("together", 6), ("split", 2)])
def test_the_interpreted_kernels_agree_with_the_cpu(interpreted, case, count):
    assert len(interpreted[case]) == count
    for largest, mean in interpreted[case]:
        assert largest < 2e-3
        assert mean < 2e-4


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("small", [False, True])
def test_the_kernels_compile_for_gpus(capability, small):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from carm_env.xray.gpu import fused, kernels

    tile = {"TILE_H": fused.TILE_HEIGHT, "TILE_W": fused.TILE_WIDTH}
    # Triton makes a constant of an argument that is 1, as a batch of one view in one tile has them.
    ones = ("views", "tiles_across", "tiles") if small else ()
    for kernel, signature, constants in (
        (kernels.sample_kernel, SAMPLE, {**tile, "WITH_LENGTH": True, "SPLIT": 1}),
        (kernels.sample_kernel, SAMPLE, {**tile, "WITH_LENGTH": False, "SPLIT": 4}),
        (kernels.warp_kernel, WARP, tile),
    ):
        constants = {**constants, **{name: 1 for name in ones if name in signature}}
        types = {**signature, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        options = {"num_warps": 4, "enable_fp_fusion": True}
        built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        # Four loads of a 16-bit voxel a slice, and none of them in slow local memory.
        assert built.asm["ptx"].count("ld.global.b16") == (4 if kernel is kernels.sample_kernel else 0)
        assert "ld.local" not in built.asm["ptx"]
