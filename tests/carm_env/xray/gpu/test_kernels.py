"""The Triton kernels without a GPU: interpreted against the CPU projector, and compiled for GPUs."""

import importlib.util
import inspect
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

VALUES = {"height": "i32", "width": "i32", "pixels": "i32", "seeds_ptr": "*i32"}


def detector_kernels():
    """The kernels of the image, each with its arguments' types and its constants."""
    from carm_env.xray.gpu import _detector_kernels as detector_kernels
    from carm_env.xray.gpu import _fused_detector as fused_detector
    from carm_env.xray.physics.noise import FEW_QUANTA, MAX_QUANTA, SUM_MEAN, SUM_TO_UNIT

    noise = {"SUM_MEAN": SUM_MEAN, "SUM_TO_UNIT": SUM_TO_UNIT, "B": fused_detector.BLOCK}
    for kernel, constants in (
        (detector_kernels.look_up_kernel, {"NODES": 128, "B": fused_detector.BLOCK}),
        (detector_kernels.quanta_kernel, {**noise, "FEW": FEW_QUANTA, "MAX_QUANTA": MAX_QUANTA}),
        (detector_kernels.read_out_kernel, {**noise, "REACH": 1, "NOISY": True}),
    ):
        names = [name for name in inspect.signature(kernel.fn).parameters if name not in constants]
        default = {name: "*fp32" if name.endswith("_ptr") else "fp32" for name in names}
        yield kernel, {name: VALUES.get(name, kind) for name, kind in default.items()}, constants


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
    run = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=600, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(("case", "count"), [("alone", 1), ("together", 6), ("split", 2)])
def test_the_interpreted_kernels_agree_with_the_cpu(interpreted, case, count):
    assert len(interpreted[case]) == count
    for largest, mean in interpreted[case]:
        assert largest < 2e-3
        assert mean < 2e-4


def test_interpreted_image_agrees_with_the_cpu(interpreted):
    (clean, _), *noisy = interpreted["greys"]
    assert clean <= 2
    assert len(noisy) == 4
    for _, share in noisy:
        assert share < 2e-3


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("small", [False, True])
def test_the_kernels_compile_for_gpus(capability, small):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from carm_env.xray.gpu import _fused as fused
    from carm_env.xray.gpu import _kernels as kernels

    tile = {"TILE_H": fused.TILE_HEIGHT, "TILE_W": fused.TILE_WIDTH}
    # Triton makes a constant of an argument that is 1, as a batch of one view in one tile has them.
    ones = ("views", "tiles_across", "tiles") if small else ()
    for kernel, signature, constants in (
        *detector_kernels(),
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
